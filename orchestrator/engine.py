"""Which event comes next, and what follows from it?

The engine keeps the order of a run. It lives in the driver, moves handles and never tensors, and
is the same for both clocks and both runtimes. Every wait comes before the first change that an
event makes, so that an interrupted run stands between two events and can be checkpointed there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import xxhash

from actors.learning.evaluation_torch import Evaluation
from actors.publisher import Shipment
from actors.server import Receipt, whole_model
from actors.work import Assignment
from orchestrator.books import (
    ClientStates,
    Event,
    EventQueue,
    Kind,
    Ledger,
    Resources,
    Roster,
    VersionStore,
)
from orchestrator.clock import Clock, WallClock
from orchestrator.fleet import Fleet
from orchestrator.log import Log
from orchestrator.observe import Observer, Point
from orchestrator.plan import Flight, Plan, Round
from orchestrator.runtime import Finished, Job, Pending, Runtime
from orchestrator.stages import Compute, Download, Stage, Upload, plain_training
from policies.guards import Figures, StopReason
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

POLL_S = 0.05
"""Longest wait on the wall before the engine looks round."""


class Control(Protocol):
    """Tells the engine what people want, and people what the engine does."""

    def poll(self, status: Callable[[], dict[str, Any]]) -> list[str]:
        """Return new commands: pause, resume, stop, rollback."""

    def wait(self) -> None:
        """Let a little time pass while the run is paused."""


class Interrupted(Exception):  # noqa: N818  # no error: somebody asked
    """Somebody asked the run to end now; it stands between two events."""


class Engine:
    """Runs an experiment from event to event."""

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
        self._control = control
        self._observers = observers
        self._between_events = between_events
        self._note = note
        self._pacing = plan.method.aggregation.pacing()
        self.schema, initial = runtime.initial()
        masked = plan.method.pruning.masks()  # then nobody knows how few values will live
        least_bits = 0.0 if masked else plan.method.uplink.least_bits(self.schema)
        self._least_bytes = least_bytes(least_bits, self.schema)
        self.queue = EventQueue()
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
        self.evaluations: dict[Version, Pending[Evaluation]] = {}
        self.held: dict[int, Version] = {}  # the newest version that each client was sent
        self.measures: dict[Version, dict[str, float]] = {}  # of versions that are being tested
        self.last_evaluation: tuple[Version, Evaluation] | None = None
        self.best: tuple[float, Version] | None = None
        self.selections = 0
        self.points = 0
        self.stopped: StopReason | None = None
        self.paused = False
        self.blocked: list[Event] = []
        self.versions.add(self.head, initial)
        self._handlers: dict[Kind, Callable[[Event], None]] = {
            Kind.STAGE: self._on_stage,
            Kind.RESOLVE: self._on_resolve,
            Kind.ARRIVE: self._on_arrive,
            Kind.CLOSE_ROUND: self._on_close_round,
            Kind.PUBLISH: self._on_publish,
            Kind.EVALUATE: self._on_evaluate,
            Kind.GUARD: self._on_guard,
            Kind.SELECT: self._on_select,
        }

    # ------------------------------------------------------------ the loop

    def begin(self) -> None:
        """Publish and evaluate version 0, and ask the first clients."""
        message = self.runtime.fetch(self.versions.handle(self.head))
        whole = self.runtime.quote([None], self.head)[0]
        self.versions.publish(self.head, None if self.plan.method.downlink.ring_bytes() else whole)
        parameters = whole_model(message, self.schema)[: self.schema.parameters]
        self.events.append(
            "published",
            time_s=0.0,
            version=0,
            lineage=0,
            nonzeros=int(np.count_nonzero(parameters)),
            hash=xxhash.xxh3_128_hexdigest(message.data),
        )
        self._evaluate(self.head, duration_s=0.0)
        limit = self.plan.stop.virtual_seconds
        if limit is not None:
            self.queue.push(Event(limit, Kind.GUARD, 0, 0))
        self._select()

    def run(self) -> None:
        """Handle events until the run has done enough.

        Raises:
            RunError: If nobody is left to ask before the run has reached its end.
            Interrupted: If somebody asked for it; the run stands between two events.
        """
        while True:
            self._between_events(self)
            self._listen()
            event = self._next()
            if event is None:
                break
            self.clock.reach(event.time_s)
            self._handlers[event.kind](event)
        if self.stopped is None:
            gone = self.roster.quarantined
            raise RunError(
                f"nobody is left to ask at version {self.head.number}: {len(gone)} of "
                f"{self.roster.size} clients are in quarantine and {len(self.buffer)} updates "
                f"wait for a version that takes {self._pacing.size}. Reasons so far: "
                f"{self.ledger.reasons or 'none'}. A smaller learning rate helps against "
                "not_finite."
            )

    def _next(self) -> Event | None:
        """Return the next event once all that it needs is here; None if there is none."""
        if isinstance(self.clock, WallClock):
            return self._next_on_the_wall(self.clock)
        top = self.queue.peek()
        if top is None:
            return None
        needed = self._needed(top)
        if needed is not None:
            needed.result()
        return self.queue.pop()

    def _next_on_the_wall(self, clock: WallClock) -> Event | None:
        while True:
            still: list[Event] = []
            for event in self.blocked:
                if self._is_ready(event):
                    self.queue.push(event._replace(time_s=clock.read_s()))
                else:
                    still.append(event)
            self.blocked = still
            top = self.queue.peek()
            if top is None and not still:
                return None
            now = clock.read_s()
            if top is not None and top.time_s <= now:
                event = self.queue.pop()
                if self._is_ready(event):
                    return event
                self.blocked.append(event)
                continue
            wait = POLL_S if top is None else min(POLL_S, clock.wall_s(top.time_s - now))
            self.runtime.pump(wait)
            self._between_events(self)
            self._listen()

    def _is_ready(self, event: Event) -> bool:
        """Say whether an event can be handled; versions are published in their order."""
        if event.kind is Kind.PUBLISH and self._named(event) != next(iter(self.receipts)):
            return False
        needed = self._needed(event)
        return needed is None or needed.done()

    def _needed(self, event: Event) -> Pending[Any] | None:
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
            return self.evaluations[self._named(event)]
        return None

    def _named(self, event: Event) -> Version:
        """Return the version that an event names: its lineage stands in `client`."""
        return Version(event.number, event.client)

    def _listen(self) -> None:
        """Carry out what people asked for; while paused, do nothing else."""
        if self._control is None:
            return
        while True:
            for command in self._control.poll(self.status):
                done = self._obey(command)
                text = command if done else f"{command}: there is nothing to go back to"
                self._note("control", detail=f"{text}, at {self.clock.now_s():.6g} s")
            if not self.paused:
                return
            self._control.wait()
            self._between_events(self)

    def _obey(self, command: str) -> bool:
        """Carry out a command; return whether there was anything to do."""
        if command == "rollback":
            return self.rollback()
        if command == "stop":
            self.paused = False
            self._stop(StopReason("control", "somebody asked for it"))
        else:
            self.paused = command == "pause"
        return True

    # ------------------------------------------------------------ asking clients

    def _select(self) -> None:
        """Ask for clients once everything else of this moment is done."""
        self.queue.push(Event(self.clock.now_s(), Kind.SELECT, 0, self.selections))

    def _on_select(self, event: Event) -> None:
        if event.number != self.selections or not self._may_commit():
            return  # the same moment asked twice, or nobody's update could count any more
        if self.versions.newest.lineage != self.head.lineage:
            return  # a rollback is about to be published, and would supersede the work
        count = self._wanted()
        chosen: Sequence[int] = ()
        if count > 0:
            rng = stream(self.plan.seed, "select", 0, event.number)
            chosen = self.plan.method.selection.choose(self.roster, count, rng)
        try:
            shipments = self._quotes(chosen)
        except BaseException:  # nothing has changed yet: a checkpoint has this event still
            self.queue.push(event)
            raise
        self.selections += 1
        for client, shipment in zip(chosen, shipments, strict=True):
            self._dispatch(client, shipment)
        if self._pacing.cohort is not None and chosen:
            self.round = Round(self.round.number + 1, open=True, members=len(chosen))
            if self._pacing.deadline_s is not None:
                close = self.clock.now_s() + self._pacing.deadline_s
                self.queue.push(Event(close, Kind.CLOSE_ROUND, 0, self.round.number))

    def _wanted(self) -> int:
        if self._pacing.cohort is None:
            return self.plan.method.concurrency - self.flying
        return 0 if self.round.open or self.receipts else self._pacing.cohort

    def _quotes(self, clients: Sequence[int]) -> list[Shipment]:
        """Return what it takes to bring clients to the newest version from what they hold."""
        newest = self.versions.newest
        whole = self.versions.whole(newest)
        if whole is not None or not clients:
            return [] if whole is None else [whole] * len(clients)
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
        seconds = tuple(self._duration(address, stage) for stage in stages)
        flight = Flight(address, base, self.states.current(client), stages, seconds)
        self.flights[address] = flight
        self.flying += 1
        self.ledger.dispatched += 1
        self.ledger.downlink_bytes += shipment.bytes
        self.ledger.downlink_entropy_bytes += shipment.entropy_bytes
        self.events.append(
            "dispatched",
            time_s=self.clock.now_s(),
            client=client,
            number=address.number,
            base_version=base.number,
            lineage=base.lineage,
            held_version=None if held is None else held.number,
            downlink_bytes=shipment.bytes,
            downlink_entropy_bytes=shipment.entropy_bytes,
        )
        if self.clock.kind == "virtual":
            self.submit(flight)
        self._enter(flight)

    def submit(self, flight: Flight) -> None:
        """Hand a flight's work to the runtime."""
        due = flight.trained_s or self.clock.now_s() + sum(flight.seconds[flight.at :])
        fault = self.plan.faults.get(flight.address, "")
        assignment = Assignment(flight.address, flight.base, fault)
        flight.job = self.runtime.submit(
            Job(assignment, self.versions.handle(flight.base), flight.state, due)
        )

    # ------------------------------------------------------------ stages

    def _duration(self, address: Address, stage: Stage) -> float:
        """Return what a stage takes by itself, in seconds; of an upload, the least."""
        if not self.plan.delays:
            return 0.0
        client, number = address
        if isinstance(stage, Download):
            return self.fleet.download_s(client, stage.bytes)
        if isinstance(stage, Compute):
            return self.fleet.compute_s(client, number, stage.flops)
        return self.fleet.upload_s(client, stage.least_bytes)

    def _enter(self, flight: Flight) -> None:
        """Queue for the resource of the flight's present stage."""
        stage = flight.stages[flight.at]
        client = flight.address.client
        now = self.clock.now_s()
        duration = flight.seconds[flight.at]
        if isinstance(stage, Upload):
            least = duration if self.clock.kind == "virtual" else 0.0
            self.queue.push(Event(now + least, Kind.RESOLVE, *flight.address))
            return
        if isinstance(stage, Download):
            end = self.resources.serve(f"downlink/{client}", now, duration)
            flight.energy_j += self.fleet.transfer_j(client, duration)
        else:
            if flight.job is None:
                self.submit(flight)
            end = self.resources.serve(f"device/{client}", now, duration)
            flight.energy_j += self.fleet.compute_j(client, duration)
        flight.device_s += duration
        self.queue.push(Event(end, Kind.STAGE, *flight.address))

    def _on_stage(self, event: Event) -> None:
        """End one stage and enter the next."""
        flight = self.flights[Address(event.client, event.number)]
        if isinstance(flight.stages[flight.at], Compute):
            flight.trained_s = self.clock.now_s()
        flight.at += 1
        self._enter(flight)

    def _on_resolve(self, event: Event) -> None:
        """Learn what the payload really is, and so when it arrives."""
        flight = self.flights[Address(event.client, event.number)]
        client, now = event.client, self.clock.now_s()
        admission = self._finished(flight).admission
        if admission is None:
            self.queue.push(Event(now, Kind.ARRIVE, *flight.address))
            return
        duration = self.fleet.upload_s(client, admission.uplink_bytes) if self.plan.delays else 0.0
        end = self.resources.serve(f"uplink/{client}", flight.trained_s, duration)
        flight.device_s += duration
        flight.energy_j += self.fleet.transfer_j(client, duration)
        self.queue.push(Event(max(end, now), Kind.ARRIVE, *flight.address))

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
        self.flying -= 1
        if self.round.open and flight.base == self.head:
            self.round.members -= 1
        self.roster.release(event.client)
        self.versions.release(flight.base)
        self.ledger.device_s += flight.device_s
        self.ledger.energy_j += flight.energy_j
        verdict = self._verdict(flight, finished)
        self._note_arrival(flight, finished, verdict)
        if verdict.accepted:
            flight.accepted = True
            self.states.accept(flight.address, finished.state)
            self.buffer.append(flight.address)
            self._serve(flight)
        else:
            self.ledger.settle(verdict.outcome, verdict.reason, flight.device_s)
            self._drop(flight)
        self._strike(event.client, verdict)
        self._commit_if_due()
        self._select()

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
        found: dict[str, Any] = {}
        admission = finished.admission
        if admission is not None:
            self.ledger.uplink_bytes += admission.uplink_bytes
            found = {"uplink_bytes": admission.uplink_bytes, "hash": admission.hash}
        if admission is not None and verdict.outcome is not Outcome.SUPERSEDED:
            # Of an older lineage the server may have forgotten the masks: its bytes alone count.
            self.ledger.uplink_entropy_bytes += admission.entropy_bytes
            found |= {
                "uplink_entropy_bytes": admission.entropy_bytes,
                "nonzeros": admission.nonzeros,
                "examples": admission.examples,
                "loss": admission.loss,
            }
        self.events.append(
            "arrived",
            time_s=self.clock.now_s(),
            client=flight.address.client,
            number=flight.address.number,
            base_version=flight.base.number,
            lineage=flight.base.lineage,
            staleness=self.head.number - flight.base.number,
            outcome=verdict.outcome.value,
            reason=verdict.reason.value,
            device_s=flight.device_s,
            energy_j=flight.energy_j,
            detail=verdict.detail,
            **found,
        )

    def _drop(self, flight: Flight) -> None:
        """Forget an update that comes to nothing."""
        del self.flights[flight.address]
        self.runtime.discard([flight.address])

    def _strike(self, client: int, verdict: Verdict) -> None:
        """Count what speaks against a client; quarantine it when that is enough."""
        before = self.roster.strikes.get(client, 0)
        strikes = self.plan.quarantine.strikes(before, verdict)
        if strikes != before:
            self.roster.strikes[client] = strikes
        if strikes != before and self.plan.quarantine.applies(strikes):
            self.roster.quarantine(client)
            self.events.append(
                "quarantined",
                time_s=self.clock.now_s(),
                client=client,
                reason=verdict.reason.value,
                detail=f"{strikes} in a row",
            )

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
        self.queue.push(Event(end, Kind.PUBLISH, self.head.lineage, self.head.number))

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
            self.ledger.settle(Outcome.SUPERSEDED, Reason.OLD_LINEAGE, flight.device_s)
            self.events.append(
                "superseded",
                time_s=self.clock.now_s(),
                client=address.client,
                number=address.number,
                lineage=flight.base.lineage,
                outcome=Outcome.SUPERSEDED.value,
                reason=Reason.OLD_LINEAGE.value,
            )
            del self.flights[address]
        self.runtime.discard(self.buffer)
        self.buffer = []
        receipt, handle = self.runtime.rollback(self.head, self.versions.handle(target))
        self.head = Version(self.head.number + 1, self.head.lineage + 1)
        self.events.append(
            "rolled_back",
            time_s=self.clock.now_s(),
            version=self.head.number,
            lineage=self.head.lineage,
            base_version=target.number,
        )
        self._await_version(receipt, handle)
        self.round.open = False
        return True

    def _on_publish(self, event: Event) -> None:
        version = self._named(event)
        receipt = self.receipts[version].result()
        del self.receipts[version]
        now = self.clock.now_s()
        for entry in receipt.committed:
            flight = self.flights.pop(entry.address)
            self.states.commit(entry.address)
            self.ledger.committed += 1
            self.ledger.staleness_sum += entry.staleness
            self.events.append(
                "committed",
                time_s=now,
                client=entry.address.client,
                number=entry.address.number,
                version=version.number,
                lineage=version.lineage,
                base_version=flight.base.number,
                staleness=entry.staleness,
                weight=entry.weight,
            )
        self.versions.publish(version, receipt.whole)
        self.events.append(
            "published",
            time_s=now,
            version=version.number,
            lineage=version.lineage,
            nonzeros=receipt.nonzeros,
            hash=receipt.hash,
        )
        for name, value in receipt.measures:
            self.events.append(
                "measured",
                time_s=now,
                version=version.number,
                lineage=version.lineage,
                measure=name,
                value=value,
            )
        if version.number % self.plan.every_versions == 0:
            self._evaluate(version)
        if self.stopped is None:
            self._stop_if(self.plan.stop.after_publish(self._figures()))
        elif not self.receipts:
            self._evaluate(version)
        if version in self.evaluations:
            self.measures[version] = dict(receipt.measures)
        self._select()

    # ------------------------------------------------------------ looking at versions

    def _evaluate(self, version: Version, duration_s: float | None = None) -> None:
        """Have a version tested; the result is known when the modelled evaluator is done."""
        last = self.last_evaluation
        if version in self.evaluations or (last is not None and version <= last[0]):
            return
        self.evaluations[version] = self.runtime.evaluate(self.versions.hold(version))
        now = self.clock.now_s()
        end = now
        if self.clock.kind == "virtual":
            if duration_s is None:
                flops = self.plan.forward_flops * self.plan.test_examples
                duration_s = self.plan.server.service_s(flops)
            end = self.resources.serve("evaluator", now, duration_s)
        self.queue.push(Event(end, Kind.EVALUATE, version.lineage, version.number))

    def _on_evaluate(self, event: Event) -> None:
        version = self._named(event)
        result = self.evaluations[version].result()
        del self.evaluations[version]
        if self.last_evaluation is None or version > self.last_evaluation[0]:
            self.last_evaluation = (version, result)
        self.ledger.accuracies.append(result.accuracy)
        self.events.append(
            "evaluated",
            time_s=self.clock.now_s(),
            version=version.number,
            lineage=version.lineage,
            accuracy=result.accuracy,
            loss=result.loss,
        )
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
            "time_s": self.clock.now_s(),
            "accuracy": last[1].accuracy if last else None,
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
        self.events.append(
            "guard", time_s=self.clock.now_s(), reason=reason.guard, detail=reason.text
        )
        self.queue.keep(frozenset({Kind.PUBLISH, Kind.EVALUATE}))
        self.blocked = [e for e in self.blocked if e.kind in {Kind.PUBLISH, Kind.EVALUATE}]
        if not self.receipts:
            self._evaluate(self.versions.newest)


METRICS = (
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
)
"""Figures of `Engine.status` that are tracked at every evaluation."""
