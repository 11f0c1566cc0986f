"""What becomes of an assignment that comes to its end?"""

from __future__ import annotations

from actors.intake import Admission
from orchestrator.books import Event
from orchestrator.engine.asking import Asking
from orchestrator.engine.context import Context
from orchestrator.engine.making import Making
from orchestrator.engine.striking import Striking
from orchestrator.engine.travelling import Travelling
from orchestrator.plan import Flight
from orchestrator.runtime import Finished
from orchestrator.stages import Ask, Download, Upload
from policies.guards import Look
from policies.types import ACCEPTED, Outcome, Reason, Verdict, Version, rejected


class Taking:
    """Judges updates that arrive, and gives up those that never will."""

    def __init__(
        self,
        context: Context,
        travelling: Travelling,
        asking: Asking,
        making: Making,
        striking: Striking,
    ) -> None:
        self._state = context.state
        self._travelling = travelling
        self._making = making
        self._asking = asking
        self._striking = striking
        self._plan = context.plan
        self._has_cells = bool(context.fleet.cells)
        self._pacing = context.pacing
        self._runtime = context.runtime
        self._clock = context.clock
        self._journal = context.journal

    # ------------------------------------------------------------ arrivals

    def on_arrive(self, event: Event) -> None:
        """Take an update, or say why not."""
        state = self._state
        flight = state.flights[event.address]
        finished = self._travelling.finished(flight)
        if flight.payload_bytes is not None:
            self._travelling.charge(flight)
        state.in_vain = 0
        flight.corrected = finished.figures
        self._land(flight)
        verdict = self._verdict(flight, finished)
        self._note_arrival(flight, finished, verdict)
        if verdict.accepted:
            flight.accepted = True
            state.client_states.accept(flight.address, finished.state)
            state.buffer.append(flight.address)
            self._serve(flight)
            if state.past is not None and finished.admission is not None:
                took_s = self._clock.now_s() - flight.legs[0].begin_s
                state.past.has_come(event.client, finished.admission.loss, took_s)
        else:
            self._give_up(flight, verdict)
        self._striking.judged(event.client, verdict)
        self._making.commit_if_due()
        self._asking.ask()

    def _verdict(self, flight: Flight, finished: Finished) -> Verdict:
        """Judge an update: what the server found by itself, then its place in the run."""
        admission = finished.admission
        if admission is None:
            return Verdict(Outcome.LOST, Reason.NO_RESULT)
        if flight.base.lineage != self._state.head.lineage:
            return Verdict(Outcome.SUPERSEDED, Reason.OLD_LINEAGE)
        if not admission.verdict.accepted:
            return admission.verdict
        examples = int(self._plan.examples[flight.address.client])
        if admission.examples > examples:
            detail = f"it claims {admission.examples} examples of {examples}"
            return rejected(Reason.WRONG_EXAMPLES, detail)
        timely = self._timely(self._state.staleness(flight))
        return self._usual(admission) if timely.accepted else timely

    def _usual(self, admission: Admission) -> Verdict:
        """Judge whether an update is like the others, and remember what it looks like if it is."""
        guard, looks = self._plan.anomaly, self._state.looks
        if not guard.judges:
            return ACCEPTED
        look = Look(admission.length, admission.loss)
        finding = guard.finding(look, looks)
        if finding:
            return rejected(Reason.ANOMALOUS, finding)
        looks.append(look)
        del looks[: -guard.window]
        return ACCEPTED

    def _timely(self, staleness: int) -> Verdict:
        """Judge how late an update is."""
        if self._pacing.cohort is not None and (staleness or not self._state.round.open):
            return rejected(Reason.ROUND_CLOSED)
        if not self._plan.method.staleness.accepts(staleness):
            return rejected(Reason.TOO_STALE, f"{staleness} versions late")
        return ACCEPTED

    def _note_arrival(self, flight: Flight, finished: Finished, verdict: Verdict) -> None:
        admission, ledger = finished.admission, self._state.ledger
        if admission is not None:
            flight.uplink_bytes += admission.uplink_bytes
            ledger.uplink_bytes += admission.uplink_bytes
        if admission is not None and verdict.outcome is not Outcome.SUPERSEDED:
            # Of an older lineage the server may have forgotten the masks: its bytes alone count.
            ledger.uplink_entropy_bytes += admission.entropy_bytes
        staleness = self._state.staleness(flight)
        self._journal.arrived(flight, admission, verdict, staleness=staleness)

    def _serve(self, flight: Flight) -> None:
        """Let the modelled server take an update; it serves in the order of arrival.

        Where there are cells it takes their sums instead.
        """
        admission = flight.finished.admission if flight.finished else None
        if self._has_cells or self._clock.kind == "wall" or admission is None:
            return
        method = self._plan.method
        flops = method.aggregation.flops(admission.nonzeros)
        flops += method.correction.flops(self._state.staleness(flight), self._plan.forward_flops)
        service_s = self._plan.server.service_s(flops)
        self._state.resources.serve("server", self._clock.now_s(), service_s)

    # ------------------------------------------------------------ losses

    def on_leave(self, event: Event) -> None:
        """Count an update as lost whose client went away or gave up."""
        flight = self._state.flights[event.address]
        stage, leg = flight.stages[flight.at], flight.legs[flight.at]
        self._travelling.charge(flight)
        moved = 0
        asked = flight.talk is not None and flight.talk.part > 0
        if isinstance(stage, Download) and not asked:
            self._had_before(flight)
        elif isinstance(stage, Upload | Ask):
            size = flight.payload_bytes
            moved = int(leg.done * (stage.least_bytes if size is None else size))
        self.lose(flight, leg.lost, moved)

    def lose(self, flight: Flight, reason: Reason, moved_bytes: int = 0) -> None:
        """Count an update as lost.

        Args:
            flight: Its assignment.
            reason: Why.
            moved_bytes: Of its last message that were sent.
        """
        state = self._state
        flight.uplink_bytes += moved_bytes
        state.ledger.uplink_bytes += moved_bytes
        if isinstance(flight.stages[flight.at], Ask):
            state.ledger.activation_uplink_bytes += moved_bytes
        state.in_vain += 1
        self._land(flight)
        self._journal.lost(flight, reason, moved_bytes)
        self._give_up(flight, Verdict(Outcome.LOST, reason))
        self._making.commit_if_due()
        self._asking.ask()

    def turn_away(self, flight: Flight, verdict: Verdict) -> None:
        """End an assignment whose question cannot be answered."""
        self._land(flight)
        staleness = self._state.staleness(flight)
        self._journal.arrived(flight, None, verdict, staleness=staleness)
        self._give_up(flight, verdict)
        self._striking.judged(flight.address.client, verdict)
        self._making.commit_if_due()
        self._asking.ask()

    def _had_before(self, flight: Flight) -> None:
        """Note that a client has only what it had before its assignment."""
        client, encoder, talk = flight.address.client, self._state.encoder, flight.talk
        self._holds(client, flight.held)
        if encoder is None or talk is None:
            return
        if talk.held is None:
            encoder.equipped.pop(client, None)
        else:
            encoder.equipped[client] = talk.held

    def _holds(self, client: int, version: Version | None) -> None:
        """Note what a client has; None is nothing."""
        if version is None:
            self._state.held.pop(client, None)
        else:
            self._state.held[client] = version

    # ------------------------------------------------------------ both

    def _land(self, flight: Flight) -> None:
        """Make a flight's client free again, and count what it has spent."""
        state = self._state
        state.flying -= 1
        if state.round.open and flight.base == state.head:
            state.round.members -= 1
        state.roster.release(flight.address.client)
        state.versions.release(flight.base)
        if flight.teacher is not None:
            state.versions.release(flight.teacher)
        state.ledger.device_s += flight.device_s
        state.ledger.energy_j += flight.energy_j

    def _give_up(self, flight: Flight, verdict: Verdict) -> None:
        """Forget an update that comes to nothing, and count what it has cost."""
        self._state.ledger.settle(verdict, flight.device_s, flight.bytes)
        del self._state.flights[flight.address]
        if flight.finished is not None or flight.job is not None:
            self._runtime.discard([flight.address])
