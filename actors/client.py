"""How does a client turn a version into an update?

`Client` is the plain class: it hosts any number of clients, since all that belongs to one of them
comes in with the assignment (its state) or is derived from its name (its examples, its random
streams). `ClientActor` is its remote shell.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from math import prod
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from actors import faults
from actors.allocation import keep_freed
from actors.buffers import ALIGNMENT, NOTHING, heap, laid, piece
from actors.client_state import StateCodec
from actors.corrector import Corrector
from actors.ends import EndsTrainer, Start
from actors.identity import Identity, identify, join_paths
from actors.lane import HAS_LANES, End
from actors.learning.evaluation_torch import Score, score
from actors.learning.holdings import Description, Examples, Holdings
from actors.pieces import Bases, Handed
from actors.shared import Pool, Shared
from actors.stopwatch import Stopwatch, Usage
from actors.work import Assignment, Figures, GroupReceipt, Order, Work, packed, unpacked
from policies.splitting import Ends
from policies.training import Member, Portion, Task, Trained
from policies.training.chain_torch import aligned
from policies.types import Buffer, Vector, stream, stream_seed
from policies.update import Base, Masked, ModelSchema
from policies.wire import Header, encode

CACHE_BYTES = 256 * 2**20
"""Examples that a process keeps ready for training; as many of features."""
COHORT_BYTES = 64 * 2**20
"""Weights of the clients that train side by side: more do not fit a cache."""


class _Start(NamedTuple):
    """A version as clients need it: values, buffers, and 1 where a parameter may move."""

    base: Base
    buffers: Vector
    flags: torch.Tensor | None


class _Given(NamedTuple):
    """An assignment with all that its training needs.

    Attributes:
        assignment: What is asked for.
        start: The base version.
        newest: The version that corrects the update; None if nothing does.
        state: The client's state, packed; empty before its first update.
        carry: What the last part of it left; empty if there was none.
        reply: The encoder's reply to that; empty if there is none.
    """

    assignment: Assignment
    start: _Start
    newest: _Start | None
    state: Buffer
    carry: Buffer = NOTHING
    reply: Buffer = NOTHING


_Tensors = tuple[torch.Tensor, ...]


def _bytes(tensors: _Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


class _Kept:
    """Keeps clients' tensors, those that were used last, up to `CACHE_BYTES`.

    Attributes:
        clients: Tensors of each, those used last at the end.
        size: Bytes of all.
    """

    def __init__(self) -> None:
        self.clients: OrderedDict[int, _Tensors] = OrderedDict()
        self.size = 0

    def of(self, client: int, make: Callable[[], _Tensors]) -> _Tensors:
        """Return a client's tensors, made if they are not there."""
        if client in self.clients:
            self.clients.move_to_end(client)
            return self.clients[client]
        found = self.clients[client] = make()
        self.size += _bytes(found)
        while self.size > CACHE_BYTES and len(self.clients) > 1:
            _, old = self.clients.popitem(last=False)
            self.size -= _bytes(old)
        return found


class Client:
    """Trains assignments, for one client or for many.

    Attributes:
        watch: Where its time goes.
    """

    def __init__(self, work: Work, holdings: Holdings) -> None:
        torch.set_num_threads(1)  # another number of threads gives other sums
        self._work = work
        self._holdings = holdings
        self._model = work.build(holdings.shape)
        self._corrector = Corrector(work, holdings.shape)
        self._ends = None if work.split is None else EndsTrainer(work, self._model, self._cut_at)
        if self._ends is not None and self._ends.caches:
            self._model = self._ends.on_features()
        self._division = work.division(self._model.schema)
        self._states = StateCodec(work, self._model)
        self._bases = Bases(self.schema)
        self._examples = _Kept()
        self._features = _Kept()
        self._grams = _Kept()
        self._keeps_grams = self._ends is None and _all_fit(holdings)
        self.watch = Stopwatch(on=work.timed)

    def _cut_at(self, blocks: int) -> Ends:
        return self._work.model.ends(self._holdings.shape, blocks)

    @property
    def schema(self) -> ModelSchema:
        """The tensors that clients and the parameter server exchange."""
        return self._division.shared

    @property
    def has_cohorts(self) -> bool:
        """Whether clients train side by side, and not one after the other."""
        return self._work.method.training.cohorts(self._model)

    def train(
        self, assignment: Assignment, base: Handed, state: Buffer, teacher: Handed | None = None
    ) -> tuple[Buffer, Buffer]:
        """Train one assignment.

        Args:
            assignment: What is asked for.
            base: The base version.
            state: The client's state, packed; empty before its first update.
            teacher: The version that corrects the update; None if nothing does.

        Returns:
            The payload, and the state that becomes current if the payload is accepted. The same
            arguments give the same bytes, in any process.
        """
        with self.watch("read the base"):
            start = self._start(base)
            newest = None if teacher is None else self._start(teacher, alone=False)
        ((payload, after, _),) = self._updates([_Given(assignment, start, newest, state)])
        return payload, after

    def _start(self, handed: Handed, *, alone: bool = True) -> _Start:
        """Read a base version; see `Bases.read`."""
        received = self._bases.read(handed, alone=alone)
        content = received.content
        mask = content.mask if isinstance(content, Masked) else None
        values = content.densify(self.schema.parameters)
        base = Base(values, self.schema, received.header.base, mask, received.header.scalar)
        return _Start(base, received.buffers, _flags(base, self._division.own.parameters))

    def _updates(self, group: Sequence[_Given]) -> Iterator[tuple[Buffer, Buffer, Figures]]:
        """Yield each assignment's payload, its client's state after it, and what was measured."""
        for given, (weights, trained) in zip(group, self._train(group), strict=True):
            corrected, figures = self._corrected(given, weights)
            with self.watch("compress and encode"):
                payload, after = self._written(given, corrected, trained)
            yield payload, after, figures

    def _train(self, group: Sequence[_Given]) -> Iterator[tuple[Vector, Trained]]:
        """Yield each assignment's weights, shape (P,), which stay what they are until the next."""
        if len(group) > 1:
            yield from self._train_cohort(group)
            return
        for given in group:
            yield self._model.params.numpy(), self._train_one(given)

    def _train_one(self, given: _Given) -> Trained:
        assignment, start, member = given.assignment, self._begins(given), self._member(given)
        if self._ends is not None and self._ends.asks_in_training(assignment):
            with self.watch("train"):
                return self._ends.finish(assignment, start, member, given.carry, given.reply)
        self._model.load(start.base.values, start.buffers)
        with torch.random.fork_rng(devices=[]):
            seed = stream_seed(self._work.seed, "train", *assignment.address)
            torch.default_generator.manual_seed(seed)
            with self.watch("train"):
                return self._work.training(assignment).train(self._model, *member)

    def _train_cohort(self, group: Sequence[_Given]) -> Iterator[tuple[Vector, Trained]]:
        """Train side by side."""
        members = [self._member(given) for given in group]
        order = sorted(range(len(group)), key=lambda place: -members[place].y.shape[0])
        size = self.schema.parameters
        params = torch.empty(len(group), aligned(size))[:, :size]
        for row, place in zip(params.numpy(), order, strict=True):
            row[:] = group[place].start.base.values
        with self.watch("train"):
            found = self._work.training(group[0].assignment).train_cohort(
                self._model, params, [members[place] for place in order]
            )
        rows = dict(zip(order, zip(params.numpy(), found, strict=True), strict=True))
        yield from (rows[place] for place in range(len(group)))

    def _member(self, given: _Given) -> Member:
        """Return an assignment's examples; where their features are known, these."""
        assignment = given.assignment
        client, number = assignment.address
        x, y = self._examples_of(client, number)
        if self._ends is not None and self._ends.caches and not assignment.asks:
            x = self._features_of(self._ends, given, x)
        rng = stream(self._work.seed, "batches", client, number)
        drill = _drill(assignment.fault)
        gram = self._gram_of(assignment, x)
        return Member(x, y, Task(rng, assignment.base.number, given.start.flags, drill, gram))

    def _corrected(self, given: _Given, weights: Vector) -> tuple[Vector, Figures]:
        """Return an update's weights after the client's own correction, and what it measured."""
        newest = given.newest
        if newest is None:
            return weights, ()
        x, y = self._examples_of(*given.assignment.address)
        examples = Examples(x.numpy(), y.numpy())
        with self.watch("correct late updates"):
            return self._corrector.correct(
                given.assignment,
                weights,
                given.start.base,
                (newest.base, newest.buffers),
                examples,
            )

    def _written(self, given: _Given, weights: Vector, trained: Trained) -> tuple[Buffer, Buffer]:
        """Return an update's payload, and its client's state after it."""
        method, assignment, base = self._work.method, given.assignment, given.start.base
        buffers = self._model.buffers.numpy()
        own = self._division.own_of(weights, buffers)
        weights, buffers = self._division.shared_of(weights, buffers)
        before, _ = self._states.read(given.state)
        if assignment.fault == "not-finite":
            weights[0] = np.nan
        elif assignment.fault == "huge":
            weights += np.float32(faults.HUGE - 1) * (weights - base.values)
        rng = stream(self._work.seed, "compress", *assignment.address)
        content, after = method.uplink.compress(weights, base, before, rng)
        header = Header(
            method.uplink.sends(),
            assignment.address,
            assignment.base,
            trained.examples,
            trained.loss,
        )
        payload = encode(header, content, buffers, self.schema, base.mask)
        payload = faults.spoil(assignment.fault, payload, assignment.address)
        return payload, self._states.write(after, own)

    def describe(self, clients: Sequence[int]) -> list[Description]:
        """Count clients' examples; a silo's are loaded now."""
        return [self._holdings.describe(client) for client in clients]

    def evaluate(self, clients: Sequence[int], version: Handed) -> list[Score]:
        """Test a version on the test examples of clients' own.

        Args:
            clients: Who tests.
            version: Which one.

        Returns:
            A score for each client, in their order; of no examples for those that have none.
        """
        with self.watch("test"):
            return self._scores(clients, version)

    def _scores(self, clients: Sequence[int], version: Handed) -> list[Score]:
        received = self._bases.read(version)
        self._model.load(received.content.densify(self.schema.parameters), received.buffers)
        scores = []
        for client in clients:
            found = self._holdings.test(client)
            classes = self._holdings.shape.classes
            if found is None:
                scores.append(Score.nothing(client, classes))
                continue
            x, y = torch.from_numpy(found.x.copy()), torch.from_numpy(found.y.copy())
            scores.append(score(client, self._model.module, x, y, classes))
        return scores

    def train_group(
        self, order: Order, buffers: Sequence[Buffer], room: Callable[[int], Buffer] = heap
    ) -> tuple[Buffer, Buffer, GroupReceipt]:
        """Train assignments into one contiguous buffer, side by side where the model allows.

        Args:
            order: What is asked for.
            buffers: Shared between the group's members.
            room: Gives memory, first for the payloads, then for the states.

        Returns:
            All payloads, all states (of equal length), and the receipt.
        """
        pieces: list[Buffer] = []
        states: list[Buffer] = []
        durations: list[float] = []
        figures: list[Figures] = []
        cpu = time.process_time()
        for cohort in self._cohorts(self._given(order, buffers)):
            began = time.perf_counter()
            answer = self._asked if cohort[0].assignment.asks else self._updates
            for message, after, found in answer(cohort):
                pieces.append(message)
                states.append(after)
                figures.append(found)
            took = time.perf_counter() - began
            durations += [took / len(cohort)] * len(cohort)
        spent = time.process_time() - cpu
        with self.watch("gather payloads"):
            payloads, places = laid(pieces, ALIGNMENT, room)
            kept, kept_at = laid(states, room=room)
        receipt = GroupReceipt(places, kept_at, tuple(durations), spent, tuple(figures))
        return payloads, kept, receipt

    def train_through(
        self, pools: Sequence[Pool], order: bytes, buffers: Sequence[Buffer]
    ) -> tuple[bytes, Sequence[Shared]]:
        """Train a group into memory that is shared, from a packed `Order` to a packed receipt.

        Args:
            pools: Give memory for payloads, and for states, which stay for longer.
            order: What is asked for.
            buffers: As `train_group`.
        """
        found: list[Shared] = []

        def room(size: int) -> Buffer:
            found.append(pools[len(found)].room(size))
            return found[-1].room

        *_, receipt = self.train_group(unpacked(order), buffers, room)
        return packed(receipt), found

    def _given(self, order: Order, buffers: Sequence[Buffer]) -> list[_Given]:
        """Return what each of a group is given."""
        distinct = dict.fromkeys(filter(None, (*order.base_at, *order.teacher_at)))
        with self.watch("read the base"):
            starts = {
                places: self._start([buffers[place] for place in places], alone=len(distinct) == 1)
                for places in distinct
            }
        nowhere = [None] * len(order.group)
        return [
            _Given(
                assignment,
                starts[base],
                starts.get(teacher),
                piece(buffers, state),
                piece(buffers, carry),
                piece(buffers, reply),
            )
            for assignment, base, teacher, state, carry, reply in zip(
                order.group,
                order.base_at,
                order.teacher_at,
                order.state_at,
                order.carry_at or nowhere,
                order.reply_at or nowhere,
                strict=True,
            )
        ]

    def _cohorts(self, group: Sequence[_Given]) -> Iterator[Sequence[_Given]]:
        """Cut a group into cohorts of a bearable size; a planned fault is acted out alone."""
        most = 1
        if self.has_cohorts:
            most = max(1, COHORT_BYTES // (4 * self.schema.parameters))

        def kind(given: _Given) -> tuple[bool, bool, Portion]:
            assignment = given.assignment
            return bool(assignment.fault), assignment.asks, assignment.portion

        for (faulty, asks, _), run in groupby(group, key=kind):
            members = list(run)
            step = 1 if faulty or asks else most
            yield from (members[at : at + step] for at in range(0, len(members), step))

    # ------------------------------------------------------------ where the model is split

    def _asked(self, group: Sequence[_Given]) -> Iterator[tuple[Buffer, Buffer, Figures]]:
        """Yield each part's question, what its next part needs, and nothing measured."""
        for given in group:
            assert self._ends is not None  # noqa: S101  # asked only where there are ends
            member = self._member(given)
            with self.watch("train"):
                asked = self._ends.ask(
                    given.assignment, self._begins(given), member, given.carry, given.reply
                )
            yield asked.question, asked.carry, ()

    def _begins(self, given: _Given) -> Start:
        """Return what a client trains from: what it was sent, and what is its own."""
        base, buffers, _ = given.start
        _, own = self._states.read(given.state)
        values, buffers = self._division.joined(base.values, buffers, own)
        return Start(replace(base, values=values, schema=self._model.schema), buffers)

    def _examples_of(self, client: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a client's examples as tensors of our own memory, kept for the next time.

        Examples that change from one update to the next are not kept.
        """

        def load() -> _Tensors:
            found = self._holdings.train(client, number)
            return torch.from_numpy(found.x), torch.from_numpy(found.y)

        x, y = self._examples.of(client, load) if self._holdings.keeps() else load()
        return x, y

    def _gram_of(self, assignment: Assignment, x: torch.Tensor) -> torch.Tensor | None:
        """Return what training keeps of a client's examples, if it keeps anything."""
        if not self._keeps_grams:
            return None

        def make() -> _Tensors:
            found = self._work.training(assignment).gram(self._model, x)
            return () if found is None else (found,)

        return next(iter(self._grams.of(assignment.address.client, make)), None)

    def _features_of(self, ends: EndsTrainer, given: _Given, x: torch.Tensor) -> torch.Tensor:
        """Return the features of a client's examples: as it was told, or computed by itself."""
        assignment = given.assignment
        if given.reply.size:
            return ends.features(assignment, len(x), given.reply)
        (own,) = self._features.of(assignment.address.client, lambda: (ends.own_features(x),))
        return own


def _all_fit(holdings: Holdings) -> bool:
    """Say whether all clients' examples, and their products with one another, can be kept.

    Asked of all, so that the answer does not depend on who trains where.
    """
    sizes = holdings.sizes()
    if sizes is None or not holdings.keeps():
        return False
    examples = 4 * prod(holdings.shape.input) * int(sizes.train.sum())
    return max(examples, 4 * int((sizes.train**2).sum())) <= CACHE_BYTES


def _flags(base: Base, own: int) -> torch.Tensor | None:
    """Return 1 where a parameter may move and 0 elsewhere; None without a mask.

    No mask is about the `own` parameters of a client, which come last.
    """
    if base.mask is None:
        return None
    flags = torch.zeros(base.values.size + own)
    flags[torch.from_numpy(base.mask.positions)] = 1.0
    flags[base.values.size :] = 1.0
    return flags


def _drill(fault: str) -> Callable[[int], None] | None:
    """Return what acts out a planned fault after the first step."""
    if fault not in faults.IN_TRAINING:
        return None

    def after_step(steps: int) -> None:
        if steps == 1:
            faults.act_out(fault)

    return after_step


class Store(Protocol):
    """Gives an actor what is the same for all of them."""

    def __call__(self) -> Holdings:
        """Return the clients' examples."""

    def node(self) -> str:
        """Name the node that the actor is on."""


class ClientActor:
    """The remote shell of `Client`, which processes of its machine reach through a lane as well."""

    def __init__(self, work: dict[str, Any], paths: Sequence[str], store: Store) -> None:
        join_paths(paths)
        keep_freed()
        self._client = Client(Work.model_validate(work), store())
        self._node = store.node()
        self._alone = Lock()
        self._pools = Pool(), Pool()
        calls = {"train": self._train_through_lane}
        self._end = End(calls, begin=partial(torch.set_num_threads, 1)) if HAS_LANES else None

    def identity(self) -> Identity:
        """Say who and where this process is."""
        lane = "" if self._end is None else self._end.address
        return replace(identify(), node=self._node, lane=lane)

    def describe(self, clients: Sequence[int]) -> list[Description]:
        """Count clients' examples; see `Client.describe`."""
        with self._alone:
            return self._client.describe(clients)

    def usage(self) -> Usage:
        """Say what this process's time went into."""
        return self._client.watch.usage()

    def evaluate(self, clients: Sequence[int], *version: Buffer) -> list[Score]:
        """Test a version, in pieces; see `Client.evaluate`."""
        with self._alone:
            return self._client.evaluate(clients, version)

    def train(self, order: bytes, *buffers: Buffer) -> tuple[Buffer, Buffer, bytes]:
        """Train a group, from a packed `Order` to a packed receipt; see `Client.train_group`."""
        with self._alone:
            payloads, states, receipt = self._client.train_group(unpacked(order), buffers)
        return payloads, states, packed(receipt)

    def _train_through_lane(
        self, order: bytes, buffers: Sequence[Buffer]
    ) -> tuple[bytes, Sequence[Shared]]:
        with self._alone:
            return self._client.train_through(self._pools, order, buffers)
