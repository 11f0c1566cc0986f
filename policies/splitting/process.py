"""What does an assignment exchange with the encoder, and what does each part of it take?

An assignment is cut into parts: each but the last ends with a question to the encoder, and the next
begins with its reply. The last one ends with the update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

from policies.memory import FLOAT_BYTES, Memory
from policies.splitting.gradients import Differences
from policies.splitting.topology import Split
from policies.training.base import TrainingPolicy
from policies.update import ModelSchema, TensorSpec
from policies.wire import least_bytes

Returns = Literal["", "features", "gradient"]
"""What a reply holds; nothing if none is waited for."""


class Ends(NamedTuple):
    """A model that is cut in three: a client's head, the encoder's part, and the client's tail.

    Attributes:
        smashed: Shape of one example's activations behind the head.
        features: Numbers of one example behind the encoder.
        head_flops: Of one example's forward pass through what runs before the cut.
        body_flops: Through the encoder's part.
        tail_flops: Through the tail.
        head_trained: Whether the head learns.
        encoder_trained: Whether any of the encoder's part does.
        blocks: Of the encoder that run before the cut; one more than it has if all of it does, its
            pooling included.
        whole: Whether all of it does, so that nothing is asked.
        equipment_bytes: Of what runs before the cut and is not trained, which a client is sent
            once.
        parameters: Numbers that clients train.
        activation_bytes: What one example leaves on the device for the way back; what it is asked
            and answered comes on top.
        tail_parameters: Of `parameters`, those of the tail.
    """

    smashed: tuple[int, ...]
    features: int
    head_flops: float
    body_flops: float
    tail_flops: float
    head_trained: bool
    encoder_trained: bool
    blocks: int = 0
    whole: bool = False
    equipment_bytes: int = 0
    parameters: int = 0
    activation_bytes: int = 0
    tail_parameters: int = 0

    @property
    def runs(self) -> str:
        """How much of the encoder runs before the cut, in a word."""
        return "all" if self.whole else str(self.blocks)

    def exchanged(self, split: Split) -> int:
        """Return how many numbers clients and the parameter server exchange."""
        return self.parameters - (self.tail_parameters if split.personal else 0)

    @property
    def learns(self) -> bool:
        """Whether anything but the tail does."""
        return self.head_trained or self.encoder_trained


class Exchange(NamedTuple):
    """A question to the encoder.

    Attributes:
        rows: Examples of the batch whose activations it brings; 0 if none.
        copies: How often each: once, and moved.
        moves: How often the encoder computes them with moved weights besides.
        answered: Examples of the batch before whose gradients dL/dz it brings; 0 if none.
        scalars: Differences of the loss that it brings.
        returns: What the reply holds.
    """

    rows: int = 0
    copies: int = 1
    moves: int = 0
    answered: int = 0
    scalars: int = 0
    returns: Returns = ""

    @property
    def answers(self) -> bool:
        """Whether it says how a batch before did."""
        return bool(self.answered or self.scalars)

    def question(self, ends: Ends) -> ModelSchema:
        """Return the tensors of the question."""
        return _schema(
            (("smashed", self.rows * self.copies, ends.smashed),
             ("gradient", self.answered, (ends.features,))),
            self.scalars,
        )  # fmt: skip

    def reply(self, ends: Ends) -> ModelSchema:
        """Return the tensors of the reply."""
        if self.returns == "gradient":
            return _schema((("gradient", self.answered, ends.smashed),))
        count = self.rows * (self.copies + self.moves) if self.returns else 0
        return _schema((("features", count, (ends.features,)),))

    def flops(self, ends: Ends) -> float:
        """Return the encoder's work: forward passes; for gradients one more, and the way back."""
        forward = self.rows * (self.copies + self.moves)
        backward = self.answered * (3 if ends.encoder_trained else 2)
        return ends.body_flops * (forward + backward)


@lru_cache(maxsize=512)
def _schema(parts: tuple[tuple[str, int, tuple[int, ...]], ...], scalars: int = 0) -> ModelSchema:
    """Return a tensor for each example, and the scalars as what is never coded."""
    tensors = [
        TensorSpec(f"{name}.{row}", shape) for name, count, shape in parts for row in range(count)
    ]
    if scalars:
        tensors.append(TensorSpec("differences", (scalars,), buffer=True))
    return ModelSchema(tuple(tensors))


def batch_sizes(training: TrainingPolicy, examples: int) -> list[int]:
    """Return the length of each batch of an assignment."""
    size = training.batch_size
    return [
        min(size, examples - start)
        for count in training.passes(examples)
        for start in range(0, count * size, size)
    ]


@dataclass(frozen=True)
class Process:
    """The parts of one assignment.

    Attributes:
        split: The topology.
        ends: How the model is cut for this client.
        training: How it trains.
        examples: How many it has.
        known: Whether it has the features of its examples already.
    """

    split: Split
    ends: Ends
    training: TrainingPolicy
    examples: int
    known: bool = False

    @property
    def caches(self) -> bool:
        """Whether an example's features never change, so that they are computed once."""
        return not self.ends.learns

    @property
    def embeds(self) -> bool:
        """Whether the device computes such features itself, and has not done so before."""
        return self.caches and self.ends.whole and not self.known

    @cached_property
    def batches(self) -> list[int]:
        """Length of each batch."""
        return batch_sizes(self.training, self.examples)

    @cached_property
    def exchanges(self) -> tuple[Exchange, ...]:
        """All questions, in order."""
        gradient, ends, rows = self.split.gradient, self.ends, self.batches
        if ends.whole:
            return ()
        if self.caches:
            return () if self.known else (Exchange(self.examples, returns="features"),)
        if gradient.exact and ends.head_trained:
            pairs = [
                (Exchange(n, returns="features"), Exchange(answered=n, returns="gradient"))
                for n in rows
            ]
            return tuple(exchange for pair in pairs for exchange in pair)
        copies = 1 + gradient.copies() * ends.head_trained
        moves = gradient.moves() * ends.encoder_trained
        answers = [self._answer(n) for n in rows]
        asks = [
            Exchange(n, copies, moves, *answer, returns="features")
            for n, answer in zip(rows, [(0, 0), *answers], strict=False)
        ]
        last = Exchange(0, 1, 0, *answers[-1])
        return (*asks, last) if last.answers else tuple(asks)

    def _answer(self, rows: int) -> tuple[int, int]:
        """Return how many gradients and scalars a client answers with to a batch."""
        if not self.ends.encoder_trained:
            return 0, 0
        gradient = self.split.gradient
        return (rows, 0) if gradient.exact else (0, gradient.scalars())

    def least_bytes(self, part: int) -> int:
        """Return a length that the question at the end of a part does not go below."""
        schema = self.exchanges[part].question(self.ends)
        return least_bytes(self.split.activations.least_bits(schema), schema)

    def entropy_bytes(self, exchange: Exchange, *, reply: bool = False) -> float:
        """Return the least that the numbers of a question, or of its reply, could take."""
        schema = exchange.reply(self.ends) if reply else exchange.question(self.ends)
        return self.split.activations.entropy_bits(schema) / 8 + 4.0 * schema.buffers

    @property
    def memory(self) -> Memory:
        """What the parts take on the device, from the first assignment on.

        Where features never change, activations of all examples are there at once, and then their
        features as long as they are trained on. Elsewhere a batch's question or reply is there
        beside what it leaves for the way back.
        """
        ends, n = self.ends, self.examples
        plain = Memory(ends.parameters, ends.activation_bytes, ends.equipment_bytes // FLOAT_BYTES)
        if self.caches:
            asked = n * math.prod(ends.smashed) * (not ends.whole)
            return plain._replace(kept=FLOAT_BYTES * n * ends.features, once=FLOAT_BYTES * asked)
        sizes = [
            max(exchange.question(ends).parameters, exchange.reply(ends).parameters)
            for exchange in set(self.exchanges)
        ]
        crossing = -(-max(sizes, default=0) // self.batches[0])
        return plain._replace(each=plain.each + FLOAT_BYTES * crossing)

    def device_flops(self, part: int) -> float:
        """Return the device's work in a part: what it makes of a reply, and the next question."""
        asked = self.exchanges
        work = self._digesting(asked[part - 1]) if part else 0.0
        if part == len(asked):
            return work + self._by_itself()
        return work + self._asking(asked[part])

    @cached_property
    def all_flops(self) -> float:
        """Return the device's work in all parts."""
        return sum(self.device_flops(part) for part in range(len(self.exchanges) + 1))

    def _by_itself(self) -> float:
        """Return the work of what the device trains without an encoder, once it has features."""
        ends = self.ends
        if self.caches:
            own = ends.head_flops * self.examples * self.embeds
            return own + self.training.flops(self.examples, ends.tail_flops)
        forward_flops = ends.head_flops + ends.tail_flops
        return self.training.flops(self.examples, forward_flops) if ends.whole else 0.0

    def _digesting(self, exchange: Exchange) -> float:
        ends = self.ends
        if self.caches or not exchange.returns:
            return 0.0
        if exchange.returns == "gradient":
            return 2.0 * ends.head_flops * exchange.answered
        looks = exchange.copies - 1 + exchange.moves
        work = (3.0 + looks) * ends.tail_flops * exchange.rows
        gradient = self.split.gradient
        by_input = isinstance(gradient, Differences) and gradient.head == "input"
        if by_input and ends.head_trained:
            work += 2.0 * ends.head_flops * exchange.rows
        return work

    def _asking(self, exchange: Exchange) -> float:
        gradient = self.split.gradient
        by_weights = isinstance(gradient, Differences) and gradient.head == "parameters"
        passes = exchange.copies if by_weights else 1
        return self.ends.head_flops * exchange.rows * passes


def step_of(exchanges: Sequence[Exchange], at: int) -> int:
    """Return which batch an exchange is about: the one that it brings, or the one before."""
    return sum(bool(exchange.rows) for exchange in exchanges[: at + 1]) - 1


def rows_in(exchanges: Sequence[Exchange]) -> int:
    """Return how many rows an encoder computes for some questions."""
    return sum(e.rows * (e.copies + e.moves) + e.answered for e in exchanges)
