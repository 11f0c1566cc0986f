"""How does an assignment get from stage to stage, and what does that take?"""

from __future__ import annotations

from actors.work import Assignment
from orchestrator.books import Event, Kind
from orchestrator.engine.context import Context
from orchestrator.engine.correcting import Correcting
from orchestrator.plan import Flight
from orchestrator.runtime import Finished, Job, Place
from orchestrator.stages import Ask, Compute, Download, Upload, replied
from policies.types import RunError


class Travelling:
    """Brings assignments from stage to stage, until they arrive or their client is lost."""

    def __init__(self, context: Context, correcting: Correcting) -> None:
        self._state = context.state
        self._correcting = correcting
        self._faults = context.plan.faults
        self._fleet = context.fleet
        self._runtime = context.runtime
        self._clock = context.clock
        self._turns = context.turns
        self._timetable = context.timetable

    def begin(self, flight: Flight) -> None:
        """Send a client on its way."""
        if self._is_known(flight):
            self._submit(flight)
        self._enter(flight)

    def restart(self, flight: Flight) -> None:
        """Start again the work that was under way when a checkpoint was taken."""
        if flight.talk is not None and flight.talk.waits:
            return  # the encoder's
        if self._is_known(flight):
            self._submit(flight)

    def _is_known(self, flight: Flight) -> bool:
        """Say whether all that a flight's work needs is known, and that it is not in vain.

        On the wall it begins after the download. What corrects an update at its client is not
        known before its training ends.
        """
        if flight.doomed:
            return False
        if self._clock.kind == "wall":
            return not isinstance(flight.stages[flight.at], Download)
        return flight.trained or not self._correcting.at_client

    def _submit(self, flight: Flight) -> None:
        """Hand a flight's work to the runtime."""
        versions, teacher = self._state.versions, flight.teacher
        fault, talk = self._faults.get(flight.address, ""), flight.talk
        assignment = Assignment(
            flight.address, flight.base, fault, flight.strength, portion=flight.portion
        )
        if talk is not None:
            assignment = assignment._replace(
                part=talk.part,
                cut=talk.process.ends.blocks,
                known=talk.process.known,
                asks=talk.part < len(talk.process.exchanges),
            )
        flight.job = self._runtime.submit(
            Job(
                assignment,
                versions.handle(flight.base),
                flight.state,
                flight.legs[-1].end_s,
                None if teacher is None else versions.handle(teacher),
                None if talk is None else talk.carry,
                None if talk is None else talk.reply,
            )
        )

    def _enter(self, flight: Flight) -> None:
        """Begin the flight's present stage.

        What lies between a reply and the next question is one event, where its times are known.
        """
        while self._is_passed_over(flight):
            self.charge(flight)
            flight.trained_s = flight.legs[flight.at].end_s
            flight.at += 1
        stage = flight.stages[flight.at]
        if self._clock.kind == "wall":  # now is when it really begins
            leg = self._timetable.leg(flight.address, stage, self._clock.now_s(), flight.density)
            flight.legs = (*flight.legs[: flight.at], leg)
        leg = flight.legs[flight.at]
        if leg.lost:
            self._turns.push(Event(leg.end_s, Kind.LEAVE, *flight.address))
        elif isinstance(stage, Upload | Ask):
            end = leg.end_s if self._clock.kind == "virtual" else leg.begin_s
            self._turns.push(Event(end, Kind.RESOLVE, *flight.address))
        else:
            if isinstance(stage, Compute) and self._clock.kind == "wall":
                self._submit(flight)
            self._turns.push(Event(leg.end_s, Kind.STAGE, *flight.address))

    def _is_passed_over(self, flight: Flight) -> bool:
        """Say whether nothing can happen before the next stage."""
        if flight.talk is None or not flight.talk.part or self._clock.kind == "wall":
            return False
        stage, leg = flight.stages[flight.at], flight.legs[flight.at]
        return isinstance(stage, Download | Compute) and not leg.lost

    def on_stage(self, event: Event) -> None:
        """End one stage and enter the next."""
        flight, offer = self._state.flights[event.address], None
        computing = isinstance(flight.stages[flight.at], Compute)
        decides = computing and self._correcting.at_client and not flight.trained
        if decides:
            try:
                offer = self._correcting.offer(flight)
            except BaseException:  # nothing has changed yet: a checkpoint has this event still
                self._turns.push(event)
                raise
        self.charge(flight)
        if computing:
            flight.trained_s = self._clock.now_s()
            self._keep_features(flight)
        flight.at += 1
        if offer is not None:
            self._correcting.begin(flight, offer)
        if decides and self._is_known(flight):
            self._submit(flight)
        self._enter(flight)

    def _keep_features(self, flight: Flight) -> None:
        """Note that a client has computed features of its own that never change."""
        talk, encoder = flight.talk, self._state.encoder
        if talk is not None and encoder is not None and talk.process.embeds:
            encoder.embedded.add(flight.address.client)

    def charge(self, flight: Flight) -> None:
        """Count what the present leg took of the device or its link."""
        leg, client = flight.legs[flight.at], flight.address.client
        flight.device_s += leg.busy_s
        computing = isinstance(flight.stages[flight.at], Compute)
        joules = self._fleet.compute_j if computing else self._fleet.transfer_j
        flight.energy_j += joules(client, leg.busy_s)

    def on_resolve(self, event: Event) -> None:
        """Learn what a payload or a question really is, and so when it arrives."""
        flight = self._state.flights[event.address]
        now = self._clock.now_s()
        finished = self.finished(flight)
        asking = isinstance(flight.stages[flight.at], Ask)
        if finished.payload is None if asking else finished.admission is None:
            self._turns.push(Event(now, Kind.ARRIVE, *flight.address))
            return
        flight.payload_bytes = finished.bytes
        leg = self._timetable.upload(flight.address, flight.trained_s, flight.payload_bytes)
        flight.legs = (*flight.legs[: flight.at], leg)
        comes = Kind.ASK if asking else Kind.ARRIVE
        kind = Kind.LEAVE if leg.lost else comes
        self._turns.push(Event(max(leg.end_s, now), kind, *flight.address))

    def finished(self, flight: Flight) -> Finished:
        """Return what came of a flight's job."""
        if flight.finished is None:
            if flight.job is None:
                raise RunError(f"update {flight.address} was never started")
            flight.finished, flight.job = flight.job.result(), None
        return flight.finished

    # ------------------------------------------------------------ questions to an encoder

    def asked(self, flight: Flight) -> Place:
        """Take a question that has come; return where it lies."""
        finished, talk = self.finished(flight), flight.talk
        if talk is None or finished.payload is None:
            raise RunError(f"update {flight.address} has asked nothing")
        self.charge(flight)
        flight.uplink_bytes += finished.bytes
        self._state.ledger.uplink_bytes += finished.bytes
        self._state.ledger.activation_uplink_bytes += finished.bytes
        talk.carry, flight.finished, flight.payload_bytes = finished.state, None, None
        return finished.payload

    def go_on(self, flight: Flight, reply: Place | None, entropy_bytes: float) -> None:
        """Begin the next part of an assignment: with a reply, or without waiting for one.

        Args:
            flight: Stands where it asked.
            reply: Is on its way to the client from now on.
            entropy_bytes: The least that its numbers could take.
        """
        talk, state = flight.talk, self._state
        if talk is None:
            raise RunError(f"update {flight.address} has asked nothing")
        flight.at += 1
        talk.part, talk.waits = talk.part + 1, False
        talk.reply = reply
        if reply is not None:
            size = reply.stop - reply.start
            flight.stages = replied(flight.stages, flight.at, size)
            state.ledger.downlink_bytes += size
            state.ledger.activation_downlink_bytes += size
            state.ledger.downlink_entropy_bytes += entropy_bytes
        legs = self._timetable.legs(
            flight.address, flight.stages[flight.at :], self._clock.now_s(), flight.density
        )
        flight.legs = (*flight.legs[: flight.at], *legs)
        if self._is_known(flight):
            self._submit(flight)
        self._enter(flight)
