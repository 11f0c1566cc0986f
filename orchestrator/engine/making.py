"""When is a version due, how is it made, and what follows from its publication?"""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from actors.publisher import Shipment
from actors.server import Receipt, whole_model
from orchestrator.books import Event, Kind, Published
from orchestrator.engine.asking import Asking
from orchestrator.engine.context import Context
from orchestrator.engine.gathering import Gatherer
from orchestrator.engine.looking import Looking
from orchestrator.engine.striking import Striking
from orchestrator.runtime import Handle, Pending, Weights
from policies.correction import means
from policies.passes import nonzeros
from policies.types import Address, Outcome, Reason, Verdict, Version


class Making:
    """Turns what waits in the buffer into versions, and publishes them."""

    def __init__(
        self,
        context: Context,
        asking: Asking,
        looking: Looking,
        gatherer: Gatherer | None,
        striking: Striking,
    ) -> None:
        self._state = context.state
        self._asking = asking
        self._looking = looking
        self._gatherer = gatherer
        self._striking = striking
        self._plan = context.plan
        self._pacing = context.pacing
        self._schema = context.schema
        self._runtime = context.runtime
        self._clock = context.clock
        self._turns = context.turns
        self._journal = context.journal

    # ------------------------------------------------------------ commits

    def commit_if_due(self) -> None:
        """Make a version if the buffer makes one."""
        state = self._state
        if not state.may_commit(self._plan.stop):
            return
        if self._complete():
            self._commit()
        elif state.round.open and not state.buffer and not state.round.members:
            state.round.open = False  # every client of the round has failed: ask others

    def _complete(self) -> bool:
        """Say whether the buffer makes a version: full, or all that a round can still give."""
        buffer, round_ = self._state.buffer, self._state.round
        if len(buffer) >= self._pacing.size:
            return True
        closing = round_.open and (round_.overdue or not round_.members)
        return bool(buffer) and closing

    def _commit(self) -> None:
        """Turn the buffer into the next version; it appears when the server is done with it."""
        state = self._state
        batch, state.buffer = state.buffer, []
        receipt, handle = self._runtime.commit(batch, state.head)
        made = Version(state.head.number + 1, state.head.lineage)
        self._await(made, receipt, handle, batch)

    def _await(
        self,
        version: Version,
        receipt: Pending[Receipt],
        handle: Handle,
        batch: Sequence[Address] = (),
    ) -> None:
        """Take a version that the server is making; it closes the round."""
        state, end = self._state, self._clock.now_s()
        state.head = version
        state.receipts[version] = receipt
        state.versions.add(version, handle)
        state.round.open = False
        if self._gatherer is not None:
            self._gatherer.begin(version, batch)
            return
        if self._clock.kind == "virtual":
            publishing = self._plan.server.service_s(self._plan.publishing_flops(self._schema.size))
            end = state.resources.serve("server", end, publishing)
        self._turns.push(Event(end, Kind.PUBLISH, version.lineage, version.number))

    def on_close_round(self, event: Event) -> None:
        """At the deadline, take what has come; if nothing has, the next update closes it."""
        state = self._state
        if state.round.open and state.round.number == event.number and not state.stopped:
            state.round.overdue = True
            self.commit_if_due()

    # ------------------------------------------------------------ rollbacks

    def rollback(self) -> bool:
        """Publish the best version's weights again under a new lineage.

        What waits in the buffer is superseded now, what is under way when it arrives.

        Returns:
            Whether there was a version to go back to, and the run had not made its last one.
        """
        state = self._state
        if state.best is None or not state.may_commit(self._plan.stop):
            return False
        target = state.best[1]
        self._supersede_buffer()
        receipt, handle = self._runtime.rollback(state.head, state.versions.handle(target))
        found = state.versions.published(target).encoder
        if state.encoder is not None and found is not None:
            later = state.encoder.weights.version + 1
            state.encoder.weights = Weights(later, found.handle)
        version = Version(state.head.number + 1, state.head.lineage + 1)
        self._journal.rolled_back(version, target)
        self._await(version, receipt, handle)
        return True

    def _supersede_buffer(self) -> None:
        """Take back the updates that wait, and their clients' states."""
        state = self._state
        verdict = Verdict(Outcome.SUPERSEDED, Reason.OLD_LINEAGE)
        for address in state.buffer:
            flight = state.flights.pop(address)
            state.client_states.supersede(address)
            state.ledger.settle(verdict, flight.device_s, flight.bytes)
            self._journal.superseded(flight)
        self._runtime.discard(state.buffer)
        state.buffer = []

    # ------------------------------------------------------------ publications

    def publish_first(self, whole: Shipment) -> None:
        """Publish version 0, which nobody has trained.

        Args:
            whole: What sending it takes.
        """
        state = self._state
        message = self._runtime.fetch(state.versions.handle(state.head))
        parameters = whole_model(message, self._schema)[: self._schema.parameters]
        left = nonzeros(parameters)
        state.versions.publish(state.head, self._published(whole, left))
        self._journal.published(state.head, left, xxhash.xxh3_128_hexdigest(message.data))

    def _published(self, whole: Shipment, nonzeros: int) -> Published:
        """Return what is known of a version that is published now."""
        encoder = self._state.encoder
        return Published(whole, nonzeros, None if encoder is None else encoder.weights)

    def on_publish(self, event: Event) -> None:
        """Hand out a version from now on; its updates are committed."""
        state, version = self._state, event.version
        receipt = state.receipts[version].result()
        del state.receipts[version]
        by_clients = []  # figures of what these have corrected themselves
        for entry in receipt.committed:
            flight = state.flights.pop(entry.address)
            by_clients += [dict(flight.corrected)] * bool(flight.corrected)
            state.client_states.commit(entry.address)
            state.ledger.committed += 1
            state.ledger.staleness_sum += entry.staleness
            if state.past is not None:
                state.past.is_in(entry.address.client, entry.staleness)
            self._journal.committed(entry, version, flight.base)
            self._journal.corrected(entry, version, entry.corrected or flight.corrected)
            self._striking.committed(entry, version)
        state.versions.publish(version, self._published(receipt.whole, receipt.nonzeros))
        self._journal.published(version, receipt.nonzeros, receipt.hash)
        of_corrections = means(by_clients, len(receipt.committed))
        measures = tuple(sorted({**dict(receipt.measures), **of_corrections}.items()))
        for name, value in measures:
            self._journal.measured(version, name, value)
        self._looking.published(version, measures)
        self._asking.ask()
