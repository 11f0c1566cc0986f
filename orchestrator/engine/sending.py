"""Who is sent the newest version, and what does it take?"""

from __future__ import annotations

from collections.abc import Sequence

from actors.publisher import Shipment
from orchestrator.engine.context import Context
from policies.types import Version


class Sending:
    """Sends clients the newest version, given what they hold."""

    def __init__(self, context: Context) -> None:
        self._state = context.state
        self._runtime = context.runtime
        self._schema = context.schema
        self._all_alike = not context.plan.method.downlink.ring_bytes()

    def quotes(self, clients: Sequence[int]) -> list[Shipment]:
        """Return what it takes to bring clients to the newest version from what they hold."""
        versions, held = self._state.versions, self._state.held
        newest = versions.newest
        if self._all_alike or not clients:
            return [versions.published(newest).whole] * len(clients)
        return self._runtime.quote([held.get(client) for client in clients], newest)

    def send(self, client: int, shipment: Shipment) -> tuple[Version, Version | None]:
        """Send a client the newest version: it holds that from now on, and uses it.

        Returns:
            The version, which has to be released again, and what the client held before.
        """
        state = self._state
        newest = state.versions.newest
        state.versions.hold(newest)
        held = state.held.get(client)
        state.held[client] = newest
        state.ledger.downlink_bytes += shipment.bytes
        state.ledger.downlink_entropy_bytes += shipment.entropy_bytes
        return newest, held

    def density(self, version: Version) -> float:
        """Return the share of a published version's parameters that are not zero."""
        return self._state.versions.published(version).nonzeros / max(self._schema.parameters, 1)
