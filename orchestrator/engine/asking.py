"""Who is asked to train, when, and on what?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from actors.publisher import Shipment
from orchestrator.books import Asked, Event, Kind, Present
from orchestrator.cuts import Job, shortest
from orchestrator.engine.context import Context
from orchestrator.engine.sending import Sending
from orchestrator.engine.travelling import Travelling
from orchestrator.plan import Flight, Round, Talk
from orchestrator.portions import Portions
from orchestrator.stages import Download, plain_training, split_training
from policies.selection import Idle
from policies.training import Portion
from policies.types import Address, Arrays, Version, stream


class Asking:
    """Chooses clients and sends them off with the newest published version."""

    def __init__(self, context: Context, sending: Sending, travelling: Travelling) -> None:
        self._state = context.state
        self._sending = sending
        self._travelling = travelling
        self._plan = context.plan
        self._pacing = context.pacing
        self._least_bytes = context.plan.method.least_bytes(context.schema)
        self._fleet = context.fleet
        self._clock = context.clock
        self._turns = context.turns
        self._timetable = context.timetable
        self._journal = context.journal
        self._portions = Portions.asked_by(context.plan)

    def ask(self) -> None:
        """Ask for clients once everything else of this moment is done."""
        self._turns.push(Event(self._clock.now_s(), Kind.SELECT, 0, self._state.selections))

    def on_select(self, event: Event) -> None:
        """Choose clients and send them off; the only wait comes before any change."""
        state = self._state
        if event.number != state.selections or not state.may_commit(self._plan.stop):
            return  # the same moment asked twice, or nobody's update could count any more
        if state.versions.newest.lineage != state.head.lineage:
            return  # a rollback is about to be published, and would supersede the work
        chosen, short, memory = self._choose(event.number)
        try:
            shipments = self._sending.quotes(chosen)
        except BaseException:  # nothing has changed yet: a checkpoint has this event still
            self._turns.push(event)
            raise
        state.selections += 1
        state.selection = memory
        for client, shipment in zip(chosen, shipments, strict=True):
            self._dispatch(client, shipment)
        if self._pacing.cohort is not None and chosen:
            self._open_round(len(chosen))
        if short:
            state.in_vain += not state.flying
            self._look_again()

    def _choose(self, number: int) -> tuple[Sequence[int], bool, Arrays]:
        """Return whom to ask, whether more would be if they were there, and what to remember."""
        count, memory = self._wanted(), self._state.selection
        if count <= 0:
            return (), False, memory
        roster = self._state.roster
        clients: Idle = roster
        if not self._fleet.always_there:
            now = self._clock.now_s()
            clients = Present(roster, self._fleet.present(now))
            if self._pacing.cohort is not None:  # a round begins when all that it asks are there
                coming = roster.in_run() & self._fleet.returning(now)
                count = min(count, int(np.count_nonzero(coming)))
                if clients.idle < count:
                    return (), True, memory
        rng = stream(self._plan.seed, "select", 0, number)
        policy = self._plan.method.selection
        asked = Asked(clients, number, memory, self._state.past)
        chosen = policy.choose(asked, count, rng)
        short = len(chosen) < count and not self._fleet.always_there
        return chosen, short, policy.remember(asked, chosen)

    def _wanted(self) -> int:
        state = self._state
        if self._pacing.cohort is None:
            return self._plan.method.concurrency - state.flying
        return 0 if state.round.open or state.receipts else self._pacing.cohort

    def _dispatch(self, client: int, shipment: Shipment) -> None:
        state = self._state
        address = state.roster.dispatch(client)
        if state.past is not None:
            state.past.was_asked(client, state.selections - 1)
        base, held = self._sending.send(client, shipment)
        flight = self._flight(address, base, held, shipment)
        state.flights[address] = flight
        state.flying += 1
        state.ledger.dispatched += 1
        self._journal.dispatched(address, base, held, shipment, flight.portion)
        self._equip(flight)
        self._travelling.begin(flight)

    def _flight(
        self, address: Address, base: Version, held: Version | None, shipment: Shipment
    ) -> Flight:
        """Return an assignment that begins now."""
        state, plan = self._state, self._plan
        examples = int(plan.examples[address.client])
        cut = self._cut(address.client, examples)
        portion = self._portions.of(self._fleet, address.client, examples, cut)
        talk = self._talk(address.client, examples, cut, portion)
        if talk is None:
            flops = self._portions.flops(examples, portion)
            stages = plain_training(shipment.bytes, flops, self._least_bytes)
        else:
            missing = self._missing(address.client, talk)
            stages = split_training(shipment.bytes, missing, talk.process, self._least_bytes)
        density = self._sending.density(base)
        legs = self._timetable.legs(address, stages, self._clock.now_s(), density)
        trained = state.client_states.current(address.client)
        return Flight(
            address, base, trained, held, density, stages, legs, talk=talk, portion=portion
        )

    def _cut(self, client: int, examples: int) -> int:
        """Return how many of the encoder's blocks a client computes; 0 without an encoder."""
        split = self._plan.split
        if split is None:
            return 0
        now = self._clock.now_s()
        return shortest(split, self._portions, self._fleet, Job(client, examples, now))

    def _talk(self, client: int, examples: int, cut: int, portion: Portion) -> Talk | None:
        """Return the exchanges that an assignment begins; None without an encoder."""
        split, encoder = self._plan.split, self._state.encoder
        if split is None or encoder is None:
            return None
        reply = encoder.features.get(client)
        known = reply is not None or client in encoder.embedded
        process = split.process(examples, cut, known=known, portion=portion)
        return Talk(process, reply=reply, held=encoder.equipped.get(client))

    def _missing(self, client: int, talk: Talk) -> int:
        """Return the bytes of what a client must compute of the encoder and has not got yet."""
        split, encoder = self._plan.split, self._state.encoder
        if split is None or encoder is None or talk.process.known:
            return 0
        blocks, had = talk.process.ends.blocks, talk.held
        if had is not None and had >= blocks:
            return 0
        encoder.equipped[client] = blocks
        before = 0 if had is None else split.ends[had].equipment_bytes
        return talk.process.ends.equipment_bytes - before

    def _equip(self, flight: Flight) -> None:
        """Note what a client is sent of the encoder."""
        first, second, *_ = flight.stages
        if flight.talk is not None and isinstance(first, Download) and isinstance(second, Download):
            self._state.ledger.downlink_bytes += first.bytes
            self._state.ledger.downlink_entropy_bytes += first.bytes
            self._journal.equipped(flight, flight.talk.process.ends, first.bytes)

    def _open_round(self, members: int) -> None:
        number = self._state.round.number + 1
        self._state.round = Round(number, open=True, members=members)
        if self._pacing.deadline_s is not None:
            close = self._clock.now_s() + self._pacing.deadline_s
            self._turns.push(Event(close, Kind.CLOSE_ROUND, 0, number))

    def _look_again(self) -> None:
        """Ask again when the next client comes that can be asked."""
        comes_s = self._fleet.next_arrival(self._clock.now_s(), self._state.roster.in_run())
        if comes_s < math.inf:
            self._turns.push(Event(comes_s, Kind.SELECT, 0, self._state.selections))
