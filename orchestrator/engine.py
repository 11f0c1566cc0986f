"""Which event comes next, and what follows from it?

The engine keeps the order of a run. It lives in the driver, moves handles and never tensors, and
is the same for both clocks and both runtimes. Every wait comes before the first change that an
event makes, so that an interrupted run stands between two events and can be checkpointed there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import xxhash

from actors.learning.evaluation_torch import Evaluation, Score
from actors.publisher import Shipment
from actors.server import Receipt, whole_model
from actors.stopwatch import Stopwatch
from actors.work import Assignment
from orchestrator.books import (
    Event,
    Kind,
    Ledger,
    Present,
    Published,
    Resources,
    Roster,
    VersionStore,
    accuracy_swing,
    tail_accuracy,
)
from orchestrator.client_states import ClientStates
from orchestrator.clock import Clock
from orchestrator.examiner import Examiner, Test
from orchestrator.fleet import Fleet
from orchestrator.journal import Journal
from orchestrator.log import Log
from orchestrator.observe import Observer, Point
from orchestrator.plan import Flight, Plan, Round
from orchestrator.runtime import Finished, Job, Pending, Runtime
from orchestrator.stages import Compute, Download, Upload, plain_training
from orchestrator.timetable import Timetable
from orchestrator.turns import Turns
from policies.guards import Figures, StopReason
from policies.passes import nonzeros
from policies.selection import IdleClients
from policies.types import (
    ACCEPTED,
    Address,
    Outcome,
    Reason,
    RunError,
    Verdict,
    Version,
    rejected,
    stream,
)
from policies.wire import least_bytes


class Control(Protocol):
    """Tells the engine what people want, and people what the engine does."""

    def poll(self, status: Callable[[], dict[str, Any]]) -> list[str]:
        """Return new commands: pause, resume, stop, rollback."""

    def wait(self) -> None:
        """Let a little time pass while the run is paused."""


class Interrupted(Exception):  # noqa: N818  # no error: somebody asked
    """Somebody asked the run to end now; it stands between two events."""


class Engine:
    """Runs an experiment from event to event.

    Attributes:
        in_vain: Times in a row that nothing came of asking, or nobody could be asked.
        ended_s: When the run had done enough, in its own time; None before. Tests of the last
            version may be known later.
    """

    def __init__(
        self,
        plan: Plan,
        fleet: Fleet,
        runtime: Runtime,
        clock: Clock,
        events: Log,
        *,
        control: Control | None = None,
        observers: tuple[Observer, ...] = (),
        between_events: Callable[[Engine], None] = lambda _: None,
        note: Callable[..., None] = lambda *_, **__: None,
    ) -> None:
        self.plan = plan
        self.fleet = fleet
        self.runtime = runtime
        self.clock = clock
        self.events = events
        self._journal = Journal(events, clock)
        self._timetable = Timetable(fleet, delays=plan.delays)
        self._control = control
        self._observers = observers
        self._between_events = between_events
        self._note = note
        self._pacing = plan.method.aggregation.pacing()
        first = runtime.initial()
        self.schema, self._first_whole = first.schema, first.whole
        masked = plan.method.pruning.masks()  # then nobody knows how few values will live
        least_bits = 0.0 if masked else plan.method.uplink.least_bits(self.schema)
        self._least_bytes = least_bytes(least_bits, self.schema)
        self.turns = Turns(clock, self)
        self.resources = Resources()
        self.roster = Roster(len(fleet))
        self.states = ClientStates()
        self.versions = VersionStore()
        self.ledger = Ledger()
        self.round = Round()
        self.flights: dict[Address, Flight] = {}
        self.flying = 0  # assignments that have not arrived
        self.buffer: list[Address] = []
        self.head = Version(0, 0)  # the newest version committed, published or not
        self.receipts: dict[Version, Pending[Receipt]] = {}
        self.examiner = Examiner(plan.examination, fleet, self._timetable, runtime)
        self.held: dict[int, Version] = {}  # the newest version that each client was sent
        self.measures: dict[Version, dict[str, float]] = {}  # of versions that are being tested
        self.last_evaluation: tuple[Version, Evaluation] | None = None
        self.best: tuple[float, Version] | None = None
        self.selections = 0
        self.points = 0
        self.in_vain = 0
        self.ended_s: float | None = None
        self.stopped: StopReason | None = None
        self.paused = False
        self.versions.add(self.head, first.handle)
        self._handlers: dict[Kind, Callable[[Event], None]] = {
            Kind.STAGE: self._on_stage,
            Kind.RESOLVE: self._on_resolve,
            Kind.LEAVE: self._on_leave,
            Kind.ARRIVE: self._on_arrive,
            Kind.CLOSE_ROUND: self._on_close_round,
            Kind.PUBLISH: self._on_publish,
            Kind.EVALUATE: self._on_evaluate,
            Kind.GUARD: self._on_guard,
            Kind.SELECT: self._on_select,
        }

    # ------------------------------------------------------------ the loop

    def time(self, watch: Stopwatch) -> None:
        """Have it timed what each kind of event takes."""
        for kind, handle in self._handlers.items():
            self._handlers[kind] = _timed(watch, kind, handle)

    def begin(self) -> None:
        """Publish and evaluate version 0, and ask the first clients."""
        message = self.runtime.fetch(self.versions.handle(self.head))
        parameters = whole_model(message, self.schema)[: self.schema.parameters]
        left = nonzeros(parameters)
        self.versions.publish(self.head, Published(self._first_whole, left))
        self._journal.published(self.head, left, xxhash.xxh3_128_hexdigest(message.data))
        self._evaluate(self.head, duration_s=0.0)
        limit = self.plan.stop.virtual_seconds
        if limit is not None:
            self.turns.push(Event(limit, Kind.GUARD, 0, 0))
        self._select()

    def run(self) -> None:
        """Handle events until the run has done enough.

        Raises:
            RunError: If nobody is left to ask before the run has reached its end, or asking
                leads nowhere.
            Interrupted: If somebody asked for it; the run stands between two events.
        """
        while True:
            self._between_events(self)
            self._listen()
            self.states.compact(self.runtime)
            event = self.turns.next()
            if event is None:
                break
            if self.in_vain > max(MOST_IN_VAIN, 10 * len(self.fleet)):
                raise RunError(self._nowhere())
            self.clock.reach(event.time_s)
            self._handlers[event.kind](event)
        if self.stopped is None:
            raise RunError(self._nobody())

    def _nobody(self) -> str:
        """Say why nobody can be asked any more."""
        gone = np.count_nonzero(~self.fleet.returning(self.clock.now_s()))
        return (
            f"nobody is left to ask at version {self.head.number}: of {self.roster.size} clients "
            f"{len(self.roster.quarantined)} are in quarantine, {len(self.roster.left)} were taken "
            f"out, and {gone} have left for good; {len(self.buffer)} updates wait for a version "
            f"that takes {self._pacing.size}. Reasons so far: {self.ledger.reasons or 'none'}. "
            "A smaller learning rate helps against not_finite, a fleet with more clients or "
            "fleet.availability against absences."
        )

    def _nowhere(self) -> str:
        """Say that the run goes on and comes to nothing."""
        return (
            f"nothing has come of {self.in_vain} tries in a row to get an update, at version "
            f"{self.head.number} and {self.clock.now_s():.6g} s: clients go away before their work "
            f"is done, or are never there together. Reasons so far: {self.ledger.reasons or 'none'}"
            ". `latecomer fleet` shows how long clients stay and what an update takes them. Choose "
            "a smaller model, fewer epochs, on_leave: paused, fewer clients a round, or another "
            "fleet.availability."
        )

    def needed(self, event: Event) -> Pending[Any] | None:
        """Return what must be here before an event can be handled."""
        if event.kind in {Kind.STAGE, Kind.RESOLVE, Kind.ARRIVE}:
            flight = self.flights[Address(event.client, event.number)]
            if event.kind is not Kind.STAGE:
                return flight.job
            computing = isinstance(flight.stages[flight.at], Compute)
            return flight.job if computing and self.clock.kind == "wall" else None
        if event.kind is Kind.PUBLISH:
            return self.receipts[self._named(event)]
        if event.kind is Kind.EVALUATE:
            return self.examiner.pending(self._named(event))
        return None

    def in_order(self, event: Event) -> bool:
        """Say whether an event's turn has come; versions are published and known in order."""
        if event.kind is Kind.PUBLISH:
            return self._named(event) == next(iter(self.receipts))
        return event.kind is not Kind.EVALUATE or self._named(event) == self.examiner.next

    def look_round(self, wait_s: float) -> None:
        """Let time pass on the wall, and see what has come meanwhile."""
        self.runtime.pump(wait_s)
        self._between_events(self)
        self._listen()

    def _named(self, event: Event) -> Version:
        """Return the version that an event names: its lineage stands in `client`."""
        return Version(event.number, event.client)

    def _listen(self) -> None:
        """Carry out what people asked for; while paused, do nothing else."""
        if self._control is None:
            return
        while True:
            for command in self._control.poll(self.status):
                trouble = self._obey(command)
                text = f"{command}: {trouble}" if trouble else command
                self._note("control", detail=f"{text}, at {self.clock.now_s():.6g} s")
            if not self.paused:
                return
            self._control.wait()
            self._between_events(self)

    def _obey(self, command: str) -> str:
        """Carry out a command; return why there was nothing to do, or ""."""
        word, _, client = command.partition(" ")
        if word == "rollback":
            return "" if self.rollback() else "there is nothing to go back to"
        if word in {"leave", "join"}:
            return self._member(int(client), leaves=word == "leave")
        if word == "stop":
            self.paused = False
            self._stop(StopReason("control", "somebody asked for it"))
        else:
            self.paused = word == "pause"
        return ""

    def _member(self, client: int, *, leaves: bool) -> str:
        """Stop or begin to ask a client; what it has under way goes on."""
        if not 0 <= client < self.roster.size:
            return f"clients are numbered from 0 to {self.roster.size - 1}"
        if not self.roster.admit(client, out=leaves):
            return "so it is already"
        self._journal.member(client, leaves=leaves)
        if not leaves and self.stopped is None:
            self._select()
        return ""

    # ------------------------------------------------------------ asking clients

    def _select(self) -> None:
        """Ask for clients once everything else of this moment is done."""
        self.turns.push(Event(self.clock.now_s(), Kind.SELECT, 0, self.selections))

    def _on_select(self, event: Event) -> None:
        if event.number != self.selections or not self._may_commit():
            return  # the same moment asked twice, or nobody's update could count any more
        if self.versions.newest.lineage != self.head.lineage:
            return  # a rollback is about to be published, and would supersede the work
        chosen, short = self._choose(event.number)
        try:
            shipments = self._quotes(chosen)
        except BaseException:  # nothing has changed yet: a checkpoint has this event still
            self.turns.push(event)
            raise
        self.selections += 1
        for client, shipment in zip(chosen, shipments, strict=True):
            self._dispatch(client, shipment)
        if self._pacing.cohort is not None and chosen:
            self.round = Round(self.round.number + 1, open=True, members=len(chosen))
            if self._pacing.deadline_s is not None:
                close = self.clock.now_s() + self._pacing.deadline_s
                self.turns.push(Event(close, Kind.CLOSE_ROUND, 0, self.round.number))
        if short:
            self.in_vain += not self.flying
            self._look_again()

    def _choose(self, number: int) -> tuple[Sequence[int], bool]:
        """Return whom to ask, and whether more would be asked if they were there."""
        count = self._wanted()
        if count <= 0:
            return (), False
        clients: IdleClients = self.roster
        if not self.fleet.always_there:
            now = self.clock.now_s()
            clients = Present(self.roster, self.fleet.present(now))
            if self._pacing.cohort is not None:  # a round begins when all that it asks are there
                coming = self.roster.in_run() & self.fleet.returning(now)
                count = min(count, int(np.count_nonzero(coming)))
                if clients.idle < count:
                    return (), True
        rng = stream(self.plan.seed, "select", 0, number)
        chosen = self.plan.method.selection.choose(clients, count, rng)
        return chosen, len(chosen) < count and not self.fleet.always_there

    def _look_again(self) -> None:
        """Ask again when the next client comes that can be asked."""
        comes_s = self.fleet.next_arrival(self.clock.now_s(), self.roster.in_run())
        if comes_s < math.inf:
            self.turns.push(Event(comes_s, Kind.SELECT, 0, self.selections))

    def _wanted(self) -> int:
        if self._pacing.cohort is None:
            return self.plan.method.concurrency - self.flying
        return 0 if self.round.open or self.receipts else self._pacing.cohort

    def _quotes(self, clients: Sequence[int]) -> list[Shipment]:
        """Return what it takes to bring clients to the newest version from what they hold."""
        newest = self.versions.newest
        if not (clients and self.plan.method.downlink.ring_bytes()):  # the same for everyone
            return [self.versions.published(newest).whole] * len(clients)
        return self.runtime.quote([self.held.get(client) for client in clients], newest)

    def _dispatch(self, client: int, shipment: Shipment) -> None:
        address = self.roster.dispatch(client)
        base = self.versions.newest
        self.versions.hold(base)
        held = self.held.get(client)
        self.held[client] = base
        flops = self.plan.method.training.flops(
            int(self.plan.examples[client]), self.plan.forward_flops
        )
        stages = plain_training(shipment.bytes, flops, self._least_bytes)
        density = self.versions.published(base).nonzeros / max(self.schema.parameters, 1)
        legs = self._timetable.legs(address, stages, self.clock.now_s(), density)
        flight = Flight(address, base, self.states.current(client), held, density, stages, legs)
        self.flights[address] = flight
        self.flying += 1
        self.ledger.dispatched += 1
        self.ledger.downlink_bytes += shipment.bytes
        self.ledger.downlink_entropy_bytes += shipment.entropy_bytes
        self._journal.dispatched(address, base, held, shipment)
        if self.clock.kind == "virtual" and not flight.doomed:
            self.submit(flight)
        self._enter(flight)

    def submit(self, flight: Flight) -> None:
        """Hand a flight's work to the runtime."""
        due = flight.trained_s or flight.legs[-1].end_s
        fault = self.plan.faults.get(flight.address, "")
        assignment = Assignment(flight.address, flight.base, fault)
        flight.job = self.runtime.submit(
            Job(assignment, self.versions.handle(flight.base), flight.state, due)
        )

    # ------------------------------------------------------------ stages

    def _enter(self, flight: Flight) -> None:
        """Begin the flight's present stage."""
        stage = flight.stages[flight.at]
        if self.clock.kind == "wall":  # now is when it really begins
            leg = self._timetable.leg(flight.address, stage, self.clock.now_s(), flight.density)
            flight.legs = (*flight.legs[: flight.at], leg)
        leg = flight.legs[flight.at]
        if leg.lost:
            self.turns.push(Event(leg.end_s, Kind.LEAVE, *flight.address))
        elif isinstance(stage, Upload):
            end = leg.end_s if self.clock.kind == "virtual" else leg.begin_s
            self.turns.push(Event(end, Kind.RESOLVE, *flight.address))
        else:
            if isinstance(stage, Compute) and flight.job is None:
                self.submit(flight)
            self.turns.push(Event(leg.end_s, Kind.STAGE, *flight.address))

    def _on_stage(self, event: Event) -> None:
        """End one stage and enter the next."""
        flight = self.flights[Address(event.client, event.number)]
        self._charge(flight)
        if isinstance(flight.stages[flight.at], Compute):
            flight.trained_s = self.clock.now_s()
        flight.at += 1
        self._enter(flight)

    def _charge(self, flight: Flight) -> None:
        """Count what the present leg took of the device or its link."""
        leg, client = flight.legs[flight.at], flight.address.client
        flight.device_s += leg.busy_s
        computing = isinstance(flight.stages[flight.at], Compute)
        joules = self.fleet.compute_j if computing else self.fleet.transfer_j
        flight.energy_j += joules(client, leg.busy_s)

    def _on_resolve(self, event: Event) -> None:
        """Learn what the payload really is, and so when it arrives."""
        flight = self.flights[Address(event.client, event.number)]
        now = self.clock.now_s()
        admission = self._finished(flight).admission
        if admission is None:
            self.turns.push(Event(now, Kind.ARRIVE, *flight.address))
            return
        flight.payload_bytes = admission.uplink_bytes
        leg = self._timetable.upload(flight.address, flight.trained_s, flight.payload_bytes)
        flight.legs = (*flight.legs[: flight.at], leg)
        kind = Kind.LEAVE if leg.lost else Kind.ARRIVE
        self.turns.push(Event(max(leg.end_s, now), kind, *flight.address))

    def _on_leave(self, event: Event) -> None:
        """Count an update as lost whose client went away or gave up."""
        flight = self.flights[Address(event.client, event.number)]
        stage, leg = flight.stages[flight.at], flight.legs[flight.at]
        self._charge(flight)
        if isinstance(stage, Download):
            self._holds(event.client, flight.held)
        elif isinstance(stage, Upload):
            size = flight.payload_bytes
            flight.uplink_bytes = int(leg.done * (stage.least_bytes if size is None else size))
            self.ledger.uplink_bytes += flight.uplink_bytes
        self.in_vain += 1
        self._land(flight)
        self._journal.lost(flight, leg.lost)
        self._give_up(flight, Verdict(Outcome.LOST, leg.lost))
        self._commit_if_due()
        self._select()

    def _holds(self, client: int, version: Version | None) -> None:
        """Note what a client has; None is nothing."""
        if version is None:
            self.held.pop(client, None)
        else:
            self.held[client] = version

    def _finished(self, flight: Flight) -> Finished:
        """Return what came of a flight's job."""
        if flight.finished is None:
            if flight.job is None:
                raise RunError(f"update {flight.address} was never started")
            flight.finished, flight.job = flight.job.result(), None
        return flight.finished

    # ------------------------------------------------------------ taking updates

    def _on_arrive(self, event: Event) -> None:
        flight = self.flights[Address(event.client, event.number)]
        finished = self._finished(flight)
        if flight.payload_bytes is not None:
            self._charge(flight)
        self.in_vain = 0
        self._land(flight)
        verdict = self._verdict(flight, finished)
        self._note_arrival(flight, finished, verdict)
        if verdict.accepted:
            flight.accepted = True
            self.states.accept(flight.address, finished.state)
            self.buffer.append(flight.address)
            self._serve(flight)
        else:
            self._give_up(flight, verdict)
        self._strike(event.client, verdict)
        self._commit_if_due()
        self._select()

    def _land(self, flight: Flight) -> None:
        """Make a flight's client free again, and count what it has spent."""
        self.flying -= 1
        if self.round.open and flight.base == self.head:
            self.round.members -= 1
        self.roster.release(flight.address.client)
        self.versions.release(flight.base)
        self.ledger.device_s += flight.device_s
        self.ledger.energy_j += flight.energy_j

    def _verdict(self, flight: Flight, finished: Finished) -> Verdict:
        """Judge an update: what the server found by itself, then its place in the run."""
        admission = finished.admission
        if admission is None:
            return Verdict(Outcome.LOST, Reason.NO_RESULT)
        if flight.base.lineage != self.head.lineage:
            return Verdict(Outcome.SUPERSEDED, Reason.OLD_LINEAGE)
        if not admission.verdict.accepted:
            return admission.verdict
        examples = int(self.plan.examples[flight.address.client])
        if admission.examples > examples:
            detail = f"it claims {admission.examples} examples of {examples}"
            return rejected(Reason.WRONG_EXAMPLES, detail)
        return self._timely(self.head.number - flight.base.number)

    def _timely(self, staleness: int) -> Verdict:
        """Judge how late an update is."""
        if self._pacing.cohort is not None and (staleness or not self.round.open):
            return rejected(Reason.ROUND_CLOSED)
        if not self.plan.method.staleness.accepts(staleness):
            return rejected(Reason.TOO_STALE, f"{staleness} versions late")
        return ACCEPTED

    def _note_arrival(self, flight: Flight, finished: Finished, verdict: Verdict) -> None:
        admission = finished.admission
        if admission is not None:
            flight.uplink_bytes = admission.uplink_bytes
            self.ledger.uplink_bytes += admission.uplink_bytes
        if admission is not None and verdict.outcome is not Outcome.SUPERSEDED:
            # Of an older lineage the server may have forgotten the masks: its bytes alone count.
            self.ledger.uplink_entropy_bytes += admission.entropy_bytes
        staleness = self.head.number - flight.base.number
        self._journal.arrived(flight, admission, verdict, staleness=staleness)

    def _give_up(self, flight: Flight, verdict: Verdict) -> None:
        """Forget an update that comes to nothing, and count what it has cost."""
        self.ledger.settle(verdict, flight.device_s, flight.bytes)
        del self.flights[flight.address]
        if flight.finished is not None or flight.job is not None:
            self.runtime.discard([flight.address])

    def _strike(self, client: int, verdict: Verdict) -> None:
        """Count what speaks against a client; quarantine it when that is enough."""
        before = self.roster.strikes.get(client, 0)
        strikes = self.plan.quarantine.strikes(before, verdict)
        if strikes != before:
            self.roster.strikes[client] = strikes
        if strikes != before and self.plan.quarantine.applies(strikes):
            self.roster.quarantine(client)
            self._journal.quarantined(client, verdict.reason.value, strikes)

    def _serve(self, flight: Flight) -> None:
        """Let the modelled server take an update; it serves in the order of arrival."""
        if self.clock.kind == "wall" or flight.finished is None or not flight.finished.admission:
            return
        method = self.plan.method
        staleness = self.head.number - flight.base.number
        flops = method.aggregation.flops(flight.finished.admission.nonzeros)
        flops += method.correction.flops(staleness)
        self.resources.serve("server", self.clock.now_s(), self.plan.server.service_s(flops))

    # ------------------------------------------------------------ making versions

    def _commit_if_due(self) -> None:
        if not self._may_commit():
            return
        if self._complete():
            self._commit()
        elif self.round.open and not self.buffer and not self.round.members:
            self.round.open = False  # every client of the round has failed: ask others

    def _complete(self) -> bool:
        """Say whether the buffer makes a version: full, or all that a round can still give."""
        if len(self.buffer) >= self._pacing.size:
            return True
        closing = self.round.open and (self.round.overdue or not self.round.members)
        return bool(self.buffer) and closing

    def _may_commit(self) -> bool:
        limit = self.plan.stop.versions
        return self.stopped is None and (limit is None or self.head.number < limit)

    def _commit(self) -> None:
        """Turn the buffer into the next version; it appears when the server is done with it."""
        batch, self.buffer = self.buffer, []
        receipt, handle = self.runtime.commit(batch, self.head)
        self.head = Version(self.head.number + 1, self.head.lineage)
        self._await_version(receipt, handle)
        self.round.open = False

    def _await_version(self, receipt: Pending[Receipt], handle: Any) -> None:
        now = self.clock.now_s()
        self.receipts[self.head] = receipt
        self.versions.add(self.head, handle)
        end = now
        if self.clock.kind == "virtual":
            publishing = self.plan.server.service_s(2.0 * self.schema.size)
            end = self.resources.serve("server", now, publishing)
        self.turns.push(Event(end, Kind.PUBLISH, self.head.lineage, self.head.number))

    def _on_close_round(self, event: Event) -> None:
        """At the deadline, take what has come; if nothing has, the next update closes it."""
        if self.round.open and self.round.number == event.number and not self.stopped:
            self.round.overdue = True
            self._commit_if_due()

    def rollback(self) -> bool:
        """Publish the best version's weights again under a new lineage.

        What waits in the buffer is superseded now, what is under way when it arrives.

        Returns:
            Whether there was a version to go back to, and the run had not made its last one.
        """
        if self.best is None or not self._may_commit():
            return False
        target = self.best[1]
        for address in self.buffer:
            flight = self.flights[address]
            self.states.supersede(address)
            verdict = Verdict(Outcome.SUPERSEDED, Reason.OLD_LINEAGE)
            self.ledger.settle(verdict, flight.device_s, flight.bytes)
            self._journal.superseded(flight)
            del self.flights[address]
        self.runtime.discard(self.buffer)
        self.buffer = []
        receipt, handle = self.runtime.rollback(self.head, self.versions.handle(target))
        self.head = Version(self.head.number + 1, self.head.lineage + 1)
        self._journal.rolled_back(self.head, target)
        self._await_version(receipt, handle)
        self.round.open = False
        return True

    def _on_publish(self, event: Event) -> None:
        version = self._named(event)
        receipt = self.receipts[version].result()
        del self.receipts[version]
        for entry in receipt.committed:
            flight = self.flights.pop(entry.address)
            self.states.commit(entry.address)
            self.ledger.committed += 1
            self.ledger.staleness_sum += entry.staleness
            self._journal.committed(entry, version, flight.base)
        self.versions.publish(version, Published(receipt.whole, receipt.nonzeros))
        self._journal.published(version, receipt.nonzeros, receipt.hash)
        for name, value in receipt.measures:
            self._journal.measured(version, name, value)
        if version.number % self.plan.examination.settings.every_versions == 0:
            self._evaluate(version)
        if self.stopped is None:
            self._stop_if(self.plan.stop.after_publish(self._figures()))
        elif not self.receipts:
            self._evaluate(version)
        if version in self.examiner:
            self.measures[version] = dict(receipt.measures)
        self._select()

    # ------------------------------------------------------------ looking at versions

    def _evaluate(self, version: Version, duration_s: float | None = None) -> None:
        """Have a version tested; the result is known when the modelled evaluator is done."""
        last = self.last_evaluation
        if version in self.examiner or (last is not None and version <= last[0]):
            return
        now = self.clock.now_s()
        if duration_s is None:
            duration_s = self.plan.server.service_s(self.plan.evaluation_flops)
        end, vain = self.examiner.begin(
            version,
            self.versions.hold(version),
            self.versions.published(version).whole,
            askable=self.roster.in_run(),
            now_s=now,
            resources=self.resources,
            service_s=duration_s,
        )
        if end is None:
            self._untested(version, vain)
            return
        if self.clock.kind == "wall":
            end = now
        self.turns.push(Event(end, Kind.EVALUATE, version.lineage, version.number))

    def _untested(self, version: Version, vain: Sequence[Test]) -> None:
        """Go on without knowing how good a version is; of the first one that must be known."""
        self._count_tests(version, [(test, None) for test in vain])
        text = (
            f"no client can test version {version.number}: of those with test examples none is "
            "there again for long enough. Change fleet.availability, or raise evaluate.share."
        )
        if version.number == 0:
            raise RunError(text)
        self.versions.release(version)
        self._note("untested", detail=text)

    def _count_tests(self, version: Version, tests: Sequence[tuple[Test, Score | None]]) -> None:
        for test, score in tests:
            self.ledger.tested(test)
            self._journal.tested(version, test, score)

    def _on_evaluate(self, event: Event) -> None:
        version = self._named(event)
        result, tests = self.examiner.finish(version)
        self._count_tests(version, tests)
        self.last_evaluation = (version, result)
        self.ledger.accuracies.append(result.accuracy)
        self._journal.evaluated(version, result)
        if self.best is None or result.accuracy > self.best[0]:
            if self.best is not None:
                self.versions.release(self.best[1])
            self.best = (result.accuracy, version)
        else:
            self.versions.release(version)
        self._tell(version, result)
        accuracies = tuple(self.ledger.accuracies)
        self._stop_if(self.plan.stop.after_evaluation(self._figures(accuracies, result.loss)))

    def _tell(self, version: Version, result: Evaluation) -> None:
        status = self.status()
        metrics = {name: float(status[name]) for name in METRICS}
        metrics |= {"accuracy": result.accuracy, "loss": result.loss}
        measures = self.measures.pop(version, {})
        point = Point(version.number, self.clock.now_s(), measures | metrics)
        self.points += 1
        for observer in self._observers:
            observer.point(point)

    def status(self) -> dict[str, Any]:
        """Return the run's figures at this moment."""
        ledger = self.ledger
        last = self.last_evaluation
        return {
            "state": "paused" if self.paused else "stopping" if self.stopped else "running",
            "version": self.head.number,
            "lineage": self.head.lineage,
            "time_s": self.clock.now_s() if self.ended_s is None else self.ended_s,
            "accuracy": last[1].accuracy if last else None,
            "tail_accuracy": tail_accuracy(ledger.accuracies),
            "best_accuracy": max(ledger.accuracies, default=math.nan),
            "accuracy_swing": accuracy_swing(ledger.accuracies),
            "updates": ledger.committed,
            "rejected_updates": ledger.rejected,
            "superseded_updates": ledger.superseded,
            "lost_updates": ledger.lost,
            "in_flight": ledger.in_flight,
            "uplink_bytes": ledger.uplink_bytes,
            "downlink_bytes": ledger.downlink_bytes,
            "uplink_entropy_bytes": ledger.uplink_entropy_bytes,
            "downlink_entropy_bytes": ledger.downlink_entropy_bytes,
            "mean_staleness": ledger.mean_staleness,
            "energy_joules": ledger.energy_j,
            "device_seconds": ledger.device_s,
            "wasted_device_seconds": ledger.wasted_device_s,
            "wasted_bytes": ledger.wasted_bytes,
        }

    def _figures(self, accuracies: tuple[float, ...] = (), loss: float = 0.0) -> Figures:
        version, time_s = self.versions.newest.number, self.clock.now_s()
        return Figures(version, time_s, self.ledger.bytes, accuracies, loss)

    # ------------------------------------------------------------ ending

    def _on_guard(self, event: Event) -> None:
        del event
        self._stop_if(self.plan.stop.after_publish(self._figures()))

    def _stop_if(self, reason: StopReason | None) -> None:
        if reason is not None:
            self._stop(reason)

    def _stop(self, reason: StopReason) -> None:
        """End the run: no more clients; what is committed is still published and evaluated."""
        if self.stopped is not None:
            return
        self.stopped = reason
        self.ended_s = self.clock.now_s()
        self._journal.guard(reason)
        self.turns.keep(frozenset({Kind.PUBLISH, Kind.EVALUATE}))
        if not self.receipts:
            self._evaluate(self.versions.newest)


def _timed(
    watch: Stopwatch, kind: Kind, handle: Callable[[Event], None]
) -> Callable[[Event], None]:
    stage = f"events: {kind.name.lower().replace('_', ' ')}"

    def timed(event: Event) -> None:
        with watch(stage):
            handle(event)

    return timed


MOST_IN_VAIN = 5_000
"""Tries in a row that come to nothing before a run is given up; ten for each client if more."""
METRICS = (
    "tail_accuracy",
    "best_accuracy",
    "accuracy_swing",
    "updates",
    "rejected_updates",
    "superseded_updates",
    "lost_updates",
    "in_flight",
    "uplink_bytes",
    "downlink_bytes",
    "uplink_entropy_bytes",
    "downlink_entropy_bytes",
    "mean_staleness",
    "energy_joules",
    "device_seconds",
    "wasted_device_seconds",
    "wasted_bytes",
)
"""Figures of `Engine.status` that are tracked at every evaluation."""
