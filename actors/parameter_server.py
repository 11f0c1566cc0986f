"""How does the server stay free while threads compute?

The remote shell of `Server`: an event loop that takes calls as they come. They may finish out of
order; commits take their turn by the version that they expect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from actors.identity import Identity, identify, join_paths
from actors.publisher import Shipment
from actors.server import Admission, Delivery, Server, Snapshot
from actors.work import Assignment, GroupReceipt, Work
from policies.types import Address, Buffer, RunError, Version
from policies.update import ModelSchema

T = TypeVar("T")


class ParameterServer:
    """The remote shell of `Server`."""

    def __init__(
        self,
        work: dict[str, Any],
        paths: Sequence[str],
        schema: ModelSchema,
        initial: Buffer,
        deadline_s: float,
    ) -> None:
        join_paths(paths)
        self._server = Server(Work.model_validate(work), schema, initial)
        self._turn = asyncio.Condition()
        self._deadline_s = deadline_s
        self._readers = ThreadPoolExecutor(1, "admit")
        self._writer = ThreadPoolExecutor(1, "commit")

    async def identity(self) -> Identity:
        """Say who and where this process is."""
        return identify()

    async def admit(
        self, group: Sequence[Assignment], receipt: GroupReceipt, payloads: Buffer
    ) -> tuple[list[Admission], GroupReceipt]:
        """Admit a group as its actor returned it; see `Server.admit_group`."""
        places = zip(group, receipt.places, strict=True)
        deliveries = [Delivery(a.address, a.base, start, stop) for a, (start, stop) in places]
        return await self.deliver(deliveries, payloads), receipt

    async def deliver(self, deliveries: Sequence[Delivery], payloads: Buffer) -> list[Admission]:
        """Admit payloads by their places; see `Server.admit_group`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._readers, self._server.admit_group, deliveries, payloads
        )

    async def discard(self, addresses: Sequence[Address]) -> None:
        """Forget updates; see `Server.discard`."""
        self._server.discard(addresses)

    async def commit(self, addresses: Sequence[Address], expected: Version) -> tuple[Any, Any]:
        """Make the next version when its turn has come; see `Server.commit`."""
        return await self._in_turn(expected, lambda: self._server.commit(addresses, expected))

    async def rollback(self, expected: Version, target: Buffer) -> tuple[Any, Any]:
        """Go back when its turn has come; see `Server.rollback`."""
        return await self._in_turn(expected, lambda: self._server.rollback(target, expected))

    async def snapshot(self, expected: Version) -> Snapshot:
        """Return the state at a version; see `Server.snapshot`."""
        return await self._in_turn(expected, self._server.snapshot)

    async def quote(self, held: Sequence[Version | None], to: Version) -> list[Shipment]:
        """Say what clients' messages take; see `Server.quote`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writer, self._server.quote, held, to)

    async def restore(self, snapshot: Snapshot, *versions: Buffer) -> None:
        """Go on from a snapshot; see `Server.restore`."""
        async with self._turn:
            self._server.restore(snapshot, versions)
            self._turn.notify_all()

    async def _in_turn(self, expected: Version, act: Callable[[], T]) -> T:
        async with self._turn:
            try:
                await asyncio.wait_for(
                    self._turn.wait_for(lambda: self._server.version.number >= expected.number),
                    self._deadline_s,
                )
            except TimeoutError:
                raise RunError(
                    f"a commit waited {self._deadline_s:g} s for version {expected.number}; the "
                    f"server is at {self._server.version.number}"
                ) from None
            result = await asyncio.get_running_loop().run_in_executor(self._writer, act)
            self._turn.notify_all()
            return result
