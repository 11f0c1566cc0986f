"""What does the encoder compute, when, and what becomes of it?

Questions queue at the encoder in the order of their arrival. A free replica takes as many of them
as fit one pass, and their replies leave when the pass ends; what arrives meanwhile is the next
pass. What a client may still answer for is kept with its assignment and with nothing else: it goes
with the answer, with its client, or after `topology.timeout`.
"""

from __future__ import annotations

from itertools import accumulate

from actors.encoder import Pass, Question
from orchestrator.books import Event, Kind
from orchestrator.engine.context import Context
from orchestrator.engine.state import EncoderState, UnderWay, Waiting
from orchestrator.engine.taking import Taking
from orchestrator.engine.travelling import Travelling
from orchestrator.handed import Named
from orchestrator.plan import Flight, SplitPlan, Talk
from orchestrator.runtime import Handle, Place, Weights
from policies.splitting import Exchange
from policies.splitting.process import rows_in, step_of
from policies.types import Reason, RunError, Verdict, Version


class Serving:
    """Leads questions through the encoder."""

    def __init__(self, context: Context, travelling: Travelling, taking: Taking) -> None:
        self._state = context.state
        self._runtime = context.runtime
        self._clock = context.clock
        self._turns = context.turns
        self._journal = context.journal
        self._plan = context.plan
        self._travelling = travelling
        self._taking = taking

    @property
    def _split(self) -> SplitPlan:
        if self._plan.split is None:
            raise RunError("this model has no encoder of its own")
        return self._plan.split

    @property
    def _encoder(self) -> EncoderState:
        if self._state.encoder is None:
            raise RunError("this model has no encoder of its own")
        return self._state.encoder

    # ------------------------------------------------------------ questions

    def on_ask(self, event: Event) -> None:
        """A question has come."""
        flight = self._state.flights[event.address]
        talk = _talk(flight)
        question = self._travelling.asked(flight)
        exchange = talk.exchange
        entropy = talk.process.entropy_bytes(exchange)
        self._state.ledger.uplink_entropy_bytes += entropy
        self._journal.asked(flight, exchange, question, entropy)
        if talk.forgotten:
            self._taking.lose(flight, Reason.TIMED_OUT)
            return
        self._encoder.queue.append(self._waiting(flight, talk, question))
        talk.until_s = None
        if talk.is_kept:
            talk.question, talk.brought = question, exchange
        talk.waits = True
        if not exchange.returns:
            self._travelling.go_on(flight, None, 0)
        self._call()

    def _waiting(self, flight: Flight, talk: Talk, question: Place) -> Waiting:
        exchange = talk.exchange
        answered = bool(exchange.answered)
        return Waiting(
            flight.address,
            flight.base,
            exchange,
            talk.process.ends,
            step_of(talk.process.exchanges, talk.part),
            question,
            talk.question if answered else None,
            talk.brought if answered else Exchange(),
            talk.weights if answered else None,
            talk.process.examples if talk.process.caches else 0,
        )

    def _call(self) -> None:
        """Have a replica look at the queue once everything else of this moment is done."""
        encoder = self._encoder
        if encoder.queue and len(encoder.passes) < self._split.settings.replicas:
            self._turns.push(Event(self._clock.now_s(), Kind.SERVE, 0, encoder.begun))

    # ------------------------------------------------------------ passes

    def on_serve(self, event: Event) -> None:
        """Begin a pass over what waits."""
        encoder = self._encoder
        if event.number != encoder.begun or not encoder.queue:
            return  # the same moment called twice
        members = self._first_of(encoder.queue)
        number, replica = encoder.begun, self._free_replica()
        if replica is None:
            return
        del encoder.queue[: len(members)]
        encoder.begun += 1
        self.begin(number, members, encoder.weights, replica, self._state.head)
        now = self._clock.now_s()
        flops = sum(member.exchange.flops(member.ends) for member in members)
        took_s = self._split.seconds_of(flops) if self._clock.kind == "virtual" else 0.0
        self._turns.push(Event(now + took_s, Kind.SERVED, 0, number))
        self._call()

    def begin(
        self, number: int, members: list[Waiting], weights: Weights, replica: int, head: Version
    ) -> None:
        """Have a pass computed; again, if a checkpoint was taken in the midst of it."""
        asked, handles = _pass_of(number, members, weights, head)
        pending = self._runtime.compute(asked, handles, replica)
        under_way = UnderWay(tuple(members), weights, replica, head, pending)
        self._encoder.passes[number] = under_way

    def _first_of(self, queue: list[Waiting]) -> list[Waiting]:
        """Return the questions of the next pass: the first, and others while they fit."""
        rows = list(accumulate(rows_in([waiting.exchange]) for waiting in queue))
        fitting = sum(count <= self._split.settings.batch for count in rows)
        return queue[: max(fitting, 1)]

    def _free_replica(self) -> int | None:
        busy = {under_way.replica for under_way in self._encoder.passes.values()}
        return next((r for r in range(self._split.settings.replicas) if r not in busy), None)

    def on_served(self, event: Event) -> None:
        """Send the replies of a pass that is done."""
        encoder = self._encoder
        under_way = encoder.passes[event.number]
        members, passed = under_way.members, under_way.pending.result()
        del encoder.passes[event.number]
        receipt = passed.receipt
        if receipt.learnt:
            encoder.weights = Weights(encoder.weights.version + 1, passed.weights)
        falls = self._split.settings.rate_final is not None
        self._journal.served(event.number, members, encoder.weights.version, receipt, falls=falls)
        for waiting, place, verdict in zip(members, receipt.places, receipt.verdicts, strict=True):
            if waiting.address in self._state.flights:
                reply = Place(passed.replies, *place)
                self._reply(self._state.flights[waiting.address], waiting, reply, verdict)
        self._call()

    def _reply(self, flight: Flight, waiting: Waiting, reply: Place, verdict: Verdict) -> None:
        """Send a client its reply, or turn it away; who waits for none has gone on."""
        if not waiting.exchange.returns:
            return
        if not verdict.accepted:
            self._taking.turn_away(flight, verdict)
            return
        talk, encoder = _talk(flight), self._encoder
        if waiting.rows:
            encoder.features[flight.address.client] = reply
        if talk.is_kept:
            talk.weights = encoder.weights
            talk.until_s = self._clock.now_s() + self._split.settings.timeout
            self._turns.push(Event(talk.until_s, Kind.EXPIRE, *flight.address))
        entropy = talk.process.entropy_bytes(waiting.exchange, reply=True)
        self._journal.replied(flight, waiting, reply, encoder.weights.version, entropy)
        self._travelling.go_on(flight, reply, entropy)

    # ------------------------------------------------------------ forgetting

    def on_expire(self, event: Event) -> None:
        """Forget what was computed for a client that has not answered; it learns of it later."""
        flight = self._state.flights.get(event.address)
        talk = None if flight is None else flight.talk
        if flight is None or talk is None or talk.until_s != event.time_s:
            return  # it has answered, or is no more
        talk.question = talk.weights = talk.until_s = None
        talk.forgotten = True
        self._journal.forgotten(flight)


def _talk(flight: Flight) -> Talk:
    if flight.talk is None:
        raise RunError(f"update {flight.address} has no questions to an encoder")
    return flight.talk


def _pass_of(
    number: int, members: list[Waiting], weights: Weights, head: Version
) -> tuple[Pass, list[Handle]]:
    """Return the order for a pass of the encoder, and the handles of the buffers that it names.

    Args:
        number: Counts passes.
        members: The questions.
        weights: The encoder's newest.
        head: The newest version committed; from other lineages the encoder learns nothing.
    """
    named = Named()
    newest = named.at(weights.handle)
    questions = tuple(
        Question(
            waiting.address,
            waiting.base,
            waiting.exchange,
            waiting.step,
            waiting.ends.blocks,
            (named.at(waiting.question.handle), *waiting.question[1:]),
            named.within(waiting.before),
            waiting.brought,
            newest if waiting.weights is None else named.at(waiting.weights.handle),
            waiting.base.lineage == head.lineage,
        )
        for waiting in members
    )
    return Pass(number, questions, newest, head.number), named.handles
