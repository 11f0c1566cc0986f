"""Which event comes next, and what follows from it?

The engine keeps the order of a run. It lives in the driver, moves handles and never tensors, and
is the same for both clocks and both runtimes. Every wait comes before the first change that an
event makes, so that an interrupted run stands between two events and can be checkpointed there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from actors.stopwatch import Stopwatch
from orchestrator.books import Event, Kind, Roster
from orchestrator.clock import Clock
from orchestrator.engine.asking import Asking
from orchestrator.engine.commands import Commands, Control
from orchestrator.engine.context import Context
from orchestrator.engine.correcting import Correcting
from orchestrator.engine.figures import status
from orchestrator.engine.gathering import Gatherer
from orchestrator.engine.looking import Looking
from orchestrator.engine.making import Making
from orchestrator.engine.sending import Sending
from orchestrator.engine.serving import Serving
from orchestrator.engine.state import EncoderState, State
from orchestrator.engine.striking import Striking
from orchestrator.engine.taking import Taking
from orchestrator.engine.travelling import Travelling
from orchestrator.examiner import Examiner
from orchestrator.fleet import Fleet
from orchestrator.journal import Journal
from orchestrator.log import Log
from orchestrator.observe import Observer
from orchestrator.plan import Flight, Plan
from orchestrator.runtime import Pending, Runtime, Weights
from orchestrator.stages import Compute
from orchestrator.timetable import Timetable
from orchestrator.turns import Turns
from policies.selection import Past
from policies.types import RunError

_OF_FLIGHTS: Final = frozenset({Kind.STAGE, Kind.RESOLVE, Kind.LEAVE, Kind.ASK, Kind.ARRIVE})
"""Events that lead an assignment on."""
MOST_IN_VAIN: Final = 5_000
"""Tries in a row that come to nothing before a run is given up; ten for each client if more."""


class Interrupted(Exception):  # noqa: N818  # no error: somebody asked
    """Somebody asked the run to end now; it stands between two events."""


class Engine:
    """Runs an experiment from event to event.

    Attributes:
        plan: What was asked for.
        fleet: Devices, links and absences.
        runtime: Where the work is done.
        clock: The run's own time.
        events: The log of what happened.
        schema: The model's tensors.
        serving: Leads questions through the encoder.
        turns: Events that are to come.
        examiner: Has versions tested.
        state: What the run has come to.
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
        self._control = control
        self._between_events = between_events
        self._note = note
        first = runtime.initial()
        self.schema, self._first_whole = first.schema, first.whole
        self.state = State(Roster(len(fleet)))
        self.state.versions.add(self.state.head, first.handle)
        selection = plan.method.selection
        self.state.selection = selection.start()
        self.state.past = Past.start(plan.examples) if selection.looks_back() else None
        self.turns = Turns(clock, self)
        context = Context(
            plan=plan,
            pacing=plan.method.aggregation.pacing(),
            schema=first.schema,
            fleet=fleet,
            runtime=runtime,
            clock=clock,
            turns=self.turns,
            timetable=Timetable(fleet, delays=plan.delays),
            journal=Journal(events, clock),
            note=note,
            state=self.state,
        )
        self.examiner = Examiner(plan.examination, fleet, context.timetable, runtime)
        sending = Sending(context)
        self._travelling = Travelling(context, Correcting(context, sending))
        self._asking = Asking(context, sending, self._travelling)
        self._looking = Looking(context, self.examiner, observers)
        numbers = fleet.cell_numbers
        gatherer = None if numbers is None else Gatherer(context, numbers)
        striking = Striking(context)
        self._making = Making(context, self._asking, self._looking, gatherer, striking)
        self._taking = Taking(context, self._travelling, self._asking, self._making, striking)
        serving = Serving(context, self._travelling, self._taking)
        if plan.split is not None:
            self.state.encoder = EncoderState(Weights(0, runtime.encoder_weights()))
        self.serving = serving
        self._commands = Commands(context, self._asking, self._making, self._looking)
        self._handlers: dict[Kind, Callable[[Event], None]] = {
            Kind.STAGE: self._travelling.on_stage,
            Kind.RESOLVE: self._travelling.on_resolve,
            Kind.LEAVE: self._taking.on_leave,
            Kind.ASK: serving.on_ask,
            Kind.SERVE: serving.on_serve,
            Kind.SERVED: serving.on_served,
            Kind.EXPIRE: serving.on_expire,
            Kind.ARRIVE: self._taking.on_arrive,
            Kind.CLOSE_ROUND: self._making.on_close_round,
            **({Kind.GATHER: gatherer.on_gather} if gatherer else {}),
            Kind.PUBLISH: self._making.on_publish,
            Kind.EVALUATE: self._looking.on_evaluate,
            Kind.GUARD: self._looking.on_guard,
            Kind.SELECT: self._asking.on_select,
        }

    # ------------------------------------------------------------ the loop

    def time(self, watch: Stopwatch) -> None:
        """Have it timed what each kind of event takes."""
        for kind, handle in self._handlers.items():
            self._handlers[kind] = _timed(watch, kind, handle)

    def begin(self) -> None:
        """Publish and evaluate version 0, and ask the first clients."""
        self._making.publish_first(self._first_whole)
        self._looking.evaluate(self.state.head, duration_s=0.0)
        limit = self.plan.stop.virtual_seconds
        if limit is not None:
            self.turns.push(Event(limit, Kind.GUARD, 0, 0))
        self._asking.ask()

    def restart(self, flight: Flight) -> None:
        """Start again the work that was under way when a checkpoint was taken."""
        self._travelling.restart(flight)

    def run(self) -> None:
        """Handle events until the run has done enough.

        Raises:
            RunError: If nobody is left to ask before the run has reached its end, or asking
                leads nowhere.
            Interrupted: If somebody asked for it; the run stands between two events.
        """
        state, most_in_vain = self.state, max(MOST_IN_VAIN, 10 * len(self.fleet))
        while True:
            self._between_events(self)
            self._listen()
            state.client_states.compact(self.runtime)
            event = self.turns.next()
            if event is None:
                break
            if state.in_vain > most_in_vain:
                raise RunError(self._nowhere())
            self.clock.reach(event.time_s)
            self._handlers[event.kind](event)
        if state.stopped is None:
            raise RunError(self._nobody())

    def look_round(self, wait_s: float) -> None:
        """Let time pass on the wall, and see what has come meanwhile."""
        self.runtime.pump(wait_s)
        self._between_events(self)
        self._listen()

    # ------------------------------------------------------------ what events wait for

    def needed(self, event: Event) -> Pending[Any] | None:
        """Return what must be here before an event can be handled."""
        if event.kind in _OF_FLIGHTS:
            return self._needed_of(event)
        receipts, encoder = self.state.receipts, self.state.encoder
        if event.kind is Kind.SERVED and encoder is not None:
            return encoder.passes[event.number].pending
        if event.kind is Kind.GATHER:
            return receipts[self.state.gathering[event.number].version]
        if event.kind is Kind.PUBLISH:
            return receipts[event.version]
        if event.kind is Kind.EVALUATE:
            return self.examiner.pending(event.version)
        return None

    def _needed_of(self, event: Event) -> Pending[Any] | None:
        """Return what an event of an assignment's needs."""
        flight = self.state.flights[event.address]
        if event.kind is Kind.LEAVE:
            return None
        if event.kind is not Kind.STAGE:
            return flight.job
        computing = isinstance(flight.stages[flight.at], Compute)
        return flight.job if computing and self.clock.kind == "wall" else None

    def in_order(self, event: Event) -> bool:
        """Say whether an event's turn has come; versions are published and known in order."""
        if event.kind is Kind.PUBLISH:
            return event.version == next(iter(self.state.receipts))
        return event.kind is not Kind.EVALUATE or event.version == self.examiner.next

    # ------------------------------------------------------------ people

    def _listen(self) -> None:
        """Carry out what people asked for; while paused, do nothing else."""
        if self._control is None:
            return
        while True:
            for command in self._control.poll(self.status):
                trouble = self._commands.obey(command)
                text = f"{command}: {trouble}" if trouble else command
                self._note("control", detail=f"{text}, at {self.clock.now_s():.6g} s")
            if not self.state.paused:
                return
            self._control.wait()
            self._between_events(self)

    def rollback(self) -> bool:
        """Publish the best version again under a new lineage; see `Making.rollback`."""
        return self._making.rollback()

    def status(self) -> dict[str, Any]:
        """Return the run's figures at this moment."""
        return status(self.state, self.clock.now_s())

    # ------------------------------------------------------------ dead ends

    def _nobody(self) -> str:
        """Say why nobody can be asked any more."""
        state, pacing = self.state, self.plan.method.aggregation.pacing()
        roster = state.roster
        gone = np.count_nonzero(~self.fleet.returning(self.clock.now_s()))
        return (
            f"nobody is left to ask at version {state.head.number}: of {roster.size} clients "
            f"{len(roster.quarantined)} are in quarantine, {len(roster.left)} were taken "
            f"out, and {gone} have left for good; {len(state.buffer)} updates wait for a version "
            f"that takes {pacing.size}. Reasons so far: {state.ledger.reasons or 'none'}. "
            "A smaller learning rate helps against not_finite, a fleet with more clients or "
            "fleet.availability against absences."
        )

    def _nowhere(self) -> str:
        """Say that the run goes on and comes to nothing."""
        state, now = self.state, self.clock.now_s()
        return (
            f"nothing has come of {state.in_vain} tries in a row to get an update, at version "
            f"{state.head.number} and {now:.6g} s: clients go away before their work is done, or "
            f"are never there together. Reasons so far: {state.ledger.reasons or 'none'}. "
            "`latecomer fleet` shows how long clients stay and what an update takes them. Choose "
            "a smaller model, fewer epochs, on_leave: paused, fewer clients a round, or another "
            "fleet.availability."
        )


def _timed(
    watch: Stopwatch, kind: Kind, handle: Callable[[Event], None]
) -> Callable[[Event], None]:
    stage = f"events: {kind.name.lower().replace('_', ' ')}"

    def timed(event: Event) -> None:
        with watch(stage):
            handle(event)

    return timed
