"""How does a client train a head and a tail whose middle is computed elsewhere?

Part by part: each takes what the part before has left and the encoder's reply, and gives a question
and what the next part needs. Nothing is kept between them, so that any process can do any part, and
do it again.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from actors.work import Assignment, Work
from policies.splitting import Ends, Exchange, Process, Split
from policies.splitting.gradients import Differences
from policies.splitting.halves_torch import (
    EndsModule,
    differences,
    directions,
    estimate,
    learn_head,
    learn_tail,
    losses,
    moved,
    on_features,
)
from policies.splitting.process import step_of
from policies.training import Member, Trained
from policies.training.adjustment_torch import Adjustment
from policies.training.flat_torch import FlatModel
from policies.training.sgd import LocalSteps
from policies.training.sgd_torch import Steps, batches
from policies.types import Buffer, Vector, stream, stream_seed
from policies.update import Base, ModelSchema
from policies.wire import Header, decode, encode

_LOSS_BYTES = 8


class Asked(NamedTuple):
    """What a part gives that ends with a question.

    Attributes:
        question: The message.
        carry: What the next part needs.
    """

    question: Buffer
    carry: Buffer


class Start(NamedTuple):
    """What a client trains from.

    Attributes:
        base: The version's weights, and where training pulls.
        buffers: Its normalisation buffers, shape (B,).
    """

    base: Base
    buffers: Vector


class _Answer(NamedTuple):
    """What a client tells the encoder of a batch: gradients, shape (n, features), or scalars."""

    gradient: Vector
    scalars: Vector


_NONE = _Answer(np.empty(0, dtype=np.float32), np.empty(0, dtype=np.float32))


class EndsTrainer:
    """Trains heads and tails.

    Args:
        work: What actors are told.
        model: The two ends; it holds a client's weights while a part of its is computed.
        cut_at: Returns how the model is cut behind some of the encoder's blocks.
    """

    def __init__(self, work: Work, model: FlatModel, cut_at: Callable[[int], Ends]) -> None:
        if work.split is None or not isinstance(model.module, EndsModule):
            raise TypeError("only a split model has ends")
        self._split: Split = work.split
        self._work = work
        self._training = work.method.training
        self._seed = work.seed
        self._model = model
        self._module = model.module
        self._cut_at = cut_at
        sizes = [p.numel() for n, p in model.module.named_parameters() if n.startswith("embedding")]
        self._head = slice(0, sum(sizes))
        self._tail = slice(sum(sizes), model.schema.parameters)

    @property
    def caches(self) -> bool:
        """Whether the features of an example never change, so that clients train on them alone."""
        return not self._cut_at(0).learns

    def on_features(self) -> FlatModel:
        """Return the model of clients that have their features; its schema is the same."""
        return FlatModel(on_features(self._module))

    def process(self, assignment: Assignment, examples: int) -> Process:
        """Return the parts of an assignment."""
        ends = self._cut_at(assignment.cut)
        training = self._work.training(assignment)
        return Process(self._split, ends, training, examples, assignment.known)

    def ask(
        self, assignment: Assignment, start: Start, member: Member, carry: Buffer, reply: Buffer
    ) -> Asked:
        """Return the question that a part ends with.

        Args:
            assignment: Names the part.
            start: What the client trains from.
            member: Its examples.
            carry: What its last part left; empty in the first part.
            reply: The encoder's reply to that; empty if there is none.
        """
        answer, velocity, total = self._go_on(assignment, start, member, carry, reply)
        question = self._question(assignment, member, answer)
        return Asked(question, self._carry(velocity, total))

    def finish(
        self, assignment: Assignment, start: Start, member: Member, carry: Buffer, reply: Buffer
    ) -> Trained:
        """Do the last part; leave the weights in the model.

        Args:
            assignment: Names the part.
            start: What the client trains from.
            member: Its examples.
            carry: What its last part left.
            reply: The encoder's reply to that; empty if there is none.
        """
        _, _, total = self._go_on(assignment, start, member, carry, reply)
        n = len(member.y)
        seen = self._work.training(assignment).examples_seen(n)
        return Trained(loss=total / seen, examples=min(n, seen))

    def _go_on(
        self, assignment: Assignment, start: Start, member: Member, carry: Buffer, reply: Buffer
    ) -> tuple[_Answer, torch.Tensor | None, float]:
        """Take up a client's weights and learn from a reply.

        Returns:
            What to answer, the velocity of the momentum, and the sum of losses so far.
        """
        velocity, total = self._load(start, carry)
        if not assignment.part:
            return _NONE, velocity, total
        steps = self._steps(start.base, member, velocity)
        answer, loss = self._digest(assignment, member, steps, reply)
        return answer, velocity, total + loss

    def features(self, assignment: Assignment, examples: int, reply: Buffer) -> torch.Tensor:
        """Return the features of a client's examples, shape (n, features), from their reply."""
        ends = self._cut_at(assignment.cut)
        schema = Exchange(examples, returns="features").reply(ends)
        return self._read(reply, schema, ends.features)

    def own_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return what a device that runs all of the encoder makes of inputs, shape (n, features).

        So many at a time as the encoder takes in a pass.
        """
        with torch.no_grad():
            parts = [self._module.features(part) for part in torch.split(x, self._split.batch)]
        return torch.cat(parts)

    def asks_in_training(self, assignment: Assignment) -> bool:
        """Return whether the encoder is asked in the midst of each step.

        It is not where features are known, nor where the device runs all of it.
        """
        return not self.caches and not self._cut_at(assignment.cut).whole

    # ------------------------------------------------------------ what goes from part to part

    def _load(self, start: Start, carry: Buffer) -> tuple[torch.Tensor | None, float]:
        """Put a client's weights into the model; return its velocity and the losses so far."""
        model, schema = self._model, self._model.schema
        if not carry.size:
            model.load(start.base.values, start.buffers)
            velocity = torch.zeros_like(model.params) if self._training.momentum else None
            return velocity, 0.0
        total = float(carry[-_LOSS_BYTES:].copy().view(np.float64)[0])
        values = carry[:-_LOSS_BYTES].copy().view(np.float32)
        params, buffers, kept = np.split(values, [schema.parameters, schema.size])
        model.load(params, buffers)
        return torch.from_numpy(kept) if kept.size else None, total

    def _carry(self, velocity: torch.Tensor | None, total: float) -> Buffer:
        model = self._model
        pieces = [model.params.numpy().view(np.uint8), model.buffers.numpy().view(np.uint8)]
        if velocity is not None:
            pieces.append(velocity.numpy().view(np.uint8))
        pieces.append(np.array([total]).view(np.uint8))
        return np.concatenate(pieces)

    def _steps(self, base: Base, member: Member, velocity: torch.Tensor | None) -> Steps:
        training = self._training
        pull = training.pull() if isinstance(training, LocalSteps) else 0.0
        around = torch.from_numpy(base.values) if pull else None
        return Steps(
            training, self._model, member.task, proximal=pull, base=around, velocity=velocity
        )

    # ------------------------------------------------------------ replies

    def _digest(
        self, assignment: Assignment, member: Member, steps: Steps, reply: Buffer
    ) -> tuple[_Answer, float]:
        """Learn from a reply; return what to answer, and the sum of losses of its batch."""
        process = self.process(assignment, len(member.y))
        exchange = process.exchanges[assignment.part - 1]
        if not exchange.returns or process.caches:
            return _NONE, 0.0
        step = step_of(process.exchanges, assignment.part - 1)
        if assignment.part == 1 and member.task.after_step is not None:
            member.task.after_step(1)
        x, y = self._batch(process, assignment, member, step)
        model, ends = self._model, process.ends
        model.grads.zero_()
        self._module.train()
        schema = exchange.reply(ends)
        if exchange.returns == "gradient":
            gradient = self._read(reply, schema, *ends.smashed)
            learn_head(self._module, x, assignment.cut, gradient)
            steps.take(self._head)
            return _NONE, 0.0
        z = self._read(reply, schema, ends.features).reshape(-1, len(y), ends.features)
        adjusted = Adjustment(self._training, member.y)

        def tail(features: torch.Tensor) -> torch.Tensor:
            return adjusted(self._module.tail(features))

        with torch.random.fork_rng(devices=[]):
            seed = stream_seed(self._seed, f"train/{step}", *assignment.address)
            torch.default_generator.manual_seed(seed)
            each, gradient = learn_tail(tail, z[0], y)
            answer = self._look(assignment, process, exchange, z, tail, (x, y, each), step)
        steps.take(self._tail)
        if exchange.copies > 1:
            steps.take(self._head)
        total = float(each.double().sum())
        if answer is None:
            return _Answer(gradient.numpy().reshape(-1), _NONE.scalars), total
        return answer, total

    def _look(
        self,
        assignment: Assignment,
        process: Process,
        exchange: Exchange,
        z: torch.Tensor,
        tail: Callable[[torch.Tensor], torch.Tensor],
        batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        step: int,
    ) -> _Answer | None:
        """Compare losses; leave a head's gradient, and return the scalars. None if exact.

        Args:
            assignment: Names the client's directions.
            process: Says how the model is cut.
            exchange: Says how often the batch was moved.
            z: Features: of the batch, of its moved copies, and by moved weights, shape
                (copies + moves, n, features).
            tail: Maps features to the logits of the loss.
            batch: Inputs, labels, and the losses at the point itself, shape (n,).
            step: Which batch it is.
        """
        gradient = process.split.gradient
        if not isinstance(gradient, Differences):
            return None
        x, y, each = batch
        looks = torch.stack([losses(tail, row, y) for row in z[1:]]) if len(z) > 1 else z[:0, :, 0]
        copies, sides = exchange.copies - 1, gradient.sides
        if copies:
            seed = stream_seed(self._seed, f"head/{step}", *assignment.address)
            if gradient.head == "input":
                by_example = differences(each, looks[:copies], sides)
                ds = _by_input(by_example, seed, gradient, process.ends.smashed)
                learn_head(self._module, x, assignment.cut, ds)
            else:
                apart = differences(each.mean(), looks[:copies].mean(dim=1), sides)
                size = self._head.stop
                found = estimate(apart.tolist(), seed, gradient.step, sides, size)
                self._model.grads[self._head] += found
        scalars = differences(each.mean(), looks[copies:].mean(dim=1), sides)
        return _Answer(_NONE.gradient, scalars.numpy() if exchange.moves else _NONE.scalars)

    def _read(self, reply: Buffer, schema: ModelSchema, *shape: int) -> torch.Tensor:
        content = decode(reply, schema).content
        values = np.array(content.densify(schema.parameters), dtype=np.float32)
        return torch.from_numpy(values).reshape(-1, *shape)

    # ------------------------------------------------------------ questions

    def _question(self, assignment: Assignment, member: Member, answer: _Answer) -> Buffer:
        process = self.process(assignment, len(member.y))
        exchange, ends = process.exchanges[assignment.part], process.ends
        smashed = _NONE.gradient
        if exchange.rows:
            step = step_of(process.exchanges, assignment.part)
            x, _ = self._batch(process, assignment, member, step)
            smashed = self._smashed(assignment, process, exchange, x, step)
        schema = exchange.question(ends)
        values = np.concatenate([smashed, answer.gradient if exchange.answered else _NONE.gradient])
        content = process.split.activations.write(values, schema)
        rows = exchange.rows or exchange.answered
        header = Header("activations", assignment.address, assignment.base, rows, 0.0)
        return encode(header, content, answer.scalars, schema)

    def _smashed(
        self, assignment: Assignment, process: Process, exchange: Exchange, x: torch.Tensor,
        step: int,
    ) -> Vector:  # fmt: skip
        """Return a batch's activations and those of its moved copies, end to end."""
        split, gradient = process.split, process.split.gradient
        seed = stream_seed(self._seed, f"head/{step}", *assignment.address)
        with torch.no_grad():
            s = self._module.smash(x, assignment.cut)
            found = [s]
            if exchange.copies > 1 and isinstance(gradient, Differences):
                sides = moved(gradient.step, gradient.sides)
                if gradient.head == "input":
                    lines = directions(seed, gradient.head_directions, s.numel())
                    found += [s + by * u.reshape(s.shape) for u in lines for by in sides]
                else:
                    found += self._moved_heads(x, assignment.cut, seed, gradient)
        smashed: Vector = torch.stack(found).reshape(-1).numpy()
        if not split.noise:
            return smashed
        rng = stream(self._seed, f"noise/{step}", *assignment.address)
        return smashed + np.float32(split.noise) * rng.standard_normal(
            smashed.size, dtype=np.float32
        )

    def _moved_heads(
        self, x: torch.Tensor, cut: int, seed: int, gradient: Differences
    ) -> list[torch.Tensor]:
        """Return activations of a batch by moved heads; the head stays what it is."""
        head = self._model.params[self._head]
        kept, found = head.clone(), []
        for u in directions(seed, gradient.head_directions, head.numel()):
            for by in moved(gradient.step, gradient.sides):
                head.copy_(kept).add_(u, alpha=by)
                found.append(self._module.smash(x, cut))
        head.copy_(kept)
        return found

    def _batch(
        self, process: Process, assignment: Assignment, member: Member, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a step's batch: the one that plain training would take."""
        if process.caches:
            return member.x, member.y
        rng = stream(self._seed, "batches", *assignment.address)
        rows = next(islice(batches(process.training, len(member.y), rng), step, None))
        return member.x[rows], member.y[rows]


def _by_input(
    by_example: torch.Tensor, seed: int, gradient: Differences, shape: tuple[int, ...]
) -> torch.Tensor:
    """Return an estimate of dL/ds from each example's own losses, shape (n, *shape).

    Args:
        by_example: What its loss differs by along each direction, shape (directions, n).
        seed: Of the directions.
        gradient: Says how far they were gone.
        shape: Of one example's activations.
    """
    count, n = by_example.shape
    size = n * int(np.prod(shape))
    scaled = by_example / (gradient.sides * gradient.step * count * n)
    total = torch.zeros(n, size // n)
    for row, u in zip(scaled, directions(seed, count, size), strict=True):
        total += row.unsqueeze(1) * u.reshape(n, -1)
    return total.reshape(n, *shape)
