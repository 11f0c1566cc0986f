"""How do clients with small networks train side by side?

Members take their steps together as long as their batches are equally long; rows are never padded.
There are two ways to take the same steps. One goes through the weights at every step. The other
leaves the first layer as it was: its weights are those it began with, plus a sum over examples,

    W = W_0 + M^T X    so    X W^T = X W_0^T + (X X^T) M,

and a step changes a few rows of M alone. The layer's answers to all examples, and what becomes of
it, are then one product each, over all examples in place of one batch; what lies between needs
products of examples with one another, which stay the same from one update to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from policies.training.adjustment_torch import Adjustment
from policies.training.base import Member, Trained, TrainingPolicy
from policies.training.chain_torch import Chain, Views, rows_like


def train(
    chain: Chain,
    policy: TrainingPolicy,
    params: Tensor,
    members: Sequence[Member],
    *,
    proximal: float = 0.0,
) -> list[Trained]:
    """Run every member's local steps in place; the same steps as `local_sgd`.

    Args:
        chain: The layers.
        policy: Learning rate, momentum, weight decay, epochs or steps, batch size.
        params: Weights that the members start from, shape (g, P), rows contiguous; changed.
        members: Their examples, those with most of them first.
        proximal: Pull towards the base; 0 for none.
    """
    plain = not (policy.weight_decay or proximal or policy.momentum)

    def spans(place: int) -> bool:
        task = members[place].task
        return plain and task.gram is not None and task.mask is None

    found: list[Trained] = []
    for in_span, run in groupby(range(len(members)), key=spans):
        places = list(run)
        part = slice(places[0], places[-1] + 1)
        kind = _InSpan if in_span else _Block
        block = kind(chain, policy, params[part], members[part], proximal)
        _take_steps(block, policy, members[part])
        found += block.trained()
    return found


def _take_steps(block: _Block, policy: TrainingPolicy, members: Sequence[Member]) -> None:
    passes = [policy.passes(int(member.y.shape[0])) for member in members]
    for number in range(max(map(len, passes))):
        batches = [p[number] if number < len(p) else 0 for p in passes]
        block.shuffle(batches)
        for batch in range(max(batches)):
            lengths = [
                block.length(place, batch) if batch < count else 0
                for place, count in enumerate(batches)
            ]
            for begin, end, length in block.runs(lengths):
                block.step(begin, end, batch * policy.batch_size, length)


class _Block:
    """A cohort's weights, momenta and shuffled examples, a row a member."""

    def __init__(
        self,
        chain: Chain,
        policy: TrainingPolicy,
        params: Tensor,
        members: Sequence[Member],
        proximal: float,
    ) -> None:
        self._chain = chain
        self._policy = policy
        self._members = members
        self._params = params
        self._sizes = [int(member.y.shape[0]) for member in members]
        self._losses = torch.zeros(len(members), dtype=torch.float64)
        self._rates = torch.tensor([policy.rate(member.task.version) for member in members])
        self._proximal = proximal
        self._steps = [0] * len(members)
        self._added = None
        if policy.logit_adjustment:
            each = [Adjustment(policy, member.y).added(chain.classes) for member in members]
            self._added = torch.stack(each)
        self._make_room()

    def _make_room(self) -> None:
        """Allocate what the steps need."""
        members, policy, params = self._members, self._policy, self._params
        self._masks = [member.task.mask for member in members]
        self._base = params.clone() if self._proximal else None
        self._velocity = rows_like(params) if policy.momentum else None
        plain = not (policy.weight_decay or self._proximal or policy.momentum)
        self._grads = None
        if not plain or any(mask is not None for mask in self._masks):
            self._grads = rows_like(params)
        inside = members[0].x.shape[1:].numel()
        self._x = torch.empty(len(members), max(self._sizes), inside)
        self._y = torch.empty(len(members), max(self._sizes), dtype=torch.int64)

    def length(self, place: int, batch: int) -> int:
        """Return how long a member's batch is."""
        size = self._policy.batch_size
        return min(size, self._sizes[place] - batch * size)

    def runs(self, lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
        """Yield (begin, end, length) of neighbours that take a step together."""
        at = 0
        for length, run in groupby(lengths):
            count = len(list(run))
            if length and self._chain.together(count, length):
                yield at, at + count, length
            elif length:
                yield from ((place, place + 1, length) for place in range(at, at + count))
            at += count

    def shuffle(self, batches: Sequence[int]) -> None:
        """Put every member's examples into the order of its next pass, if it takes one."""
        for place, (member, count) in enumerate(zip(self._members, batches, strict=True)):
            if count:
                size = self._sizes[place]
                order = torch.from_numpy(member.task.rng.permutation(size))
                torch.index_select(member.x.flatten(1), 0, order, out=self._x[place, :size])
                torch.index_select(member.y, 0, order, out=self._y[place, :size])

    def step(self, begin: int, end: int, row: int, length: int) -> None:
        """Let members take a step on so many rows."""
        self._losses[begin:end].add_(self._move(begin, end, row, length))
        for place in range(begin, end):
            self._steps[place] += 1
            after_step = self._members[place].task.after_step
            if after_step is not None:
                after_step(self._steps[place])

    def _move(self, begin: int, end: int, row: int, length: int) -> Tensor:
        """Change weights; return the sums of the losses, shape (g,), float64."""
        x, y = self._x[begin:end, row : row + length], self._y[begin:end, row : row + length]
        params, rates = self._params[begin:end], self._rates[begin:end]
        weights = self._chain.views(params)
        added = None if self._added is None else self._added[begin:end]
        if self._grads is None:
            return self._chain.step(weights, x, y, -rates, None, added)
        grads = self._grads[begin:end]
        into = self._chain.views(grads)
        losses = self._chain.step(weights, x, y, torch.ones_like(rates), into, added)
        params.addcmul_(self._moved(begin, end, params, grads), -rates.unsqueeze(1))
        return losses

    def _moved(self, begin: int, end: int, params: Tensor, step: Tensor) -> Tensor:
        """Turn gradients, shape (g, P), into what the weights move against."""
        if self._policy.weight_decay:
            step.add_(params, alpha=self._policy.weight_decay)
        if self._base is not None:
            step.add_(params - self._base[begin:end], alpha=self._proximal)
        for row, mask in zip(step, self._masks[begin:end], strict=True):
            if mask is not None:
                row[: mask.shape[0]].mul_(mask)
        if self._velocity is not None:
            step = self._velocity[begin:end].mul_(self._policy.momentum).add_(step)
        return step

    def trained(self) -> list[Trained]:
        """Return each member's mean loss, and how many examples it has seen."""
        found = []
        for total, size in zip(self._losses.tolist(), self._sizes, strict=True):
            seen = self._policy.examples_seen(size)
            found.append(Trained(loss=total / seen, examples=min(size, seen)))
        return found


class _Alike(NamedTuple):
    """Neighbours with equally many examples.

    Attributes:
        begin: The first one's place.
        end: Of the last, plus 1.
        size: Examples of each.
        grams: Theirs, one below the other, shape ((end - begin) * size, size).
    """

    begin: int
    end: int
    size: int
    grams: Tensor


class _InSpan(_Block):
    """A cohort whose first layer moves in the span of its examples; all members' examples in a row.

    The layer's answers to them are kept as they were before the first step, and so is, of each,
    what it has moved the layer by since.
    """

    def _make_room(self) -> None:
        members = self._members
        self._parts: dict[tuple[int, int], Sequence[Views]] = {}
        self._weights = self._views(0, len(members))
        each = [self._chain.first(self._weights, i, member.x) for i, member in enumerate(members)]
        self._answers = torch.cat(each)
        self._moves = torch.zeros_like(self._answers)
        self._y = torch.cat([member.y for member in members])
        self._at = [0, *accumulate(self._sizes)]
        self._order = torch.empty(len(members), max(self._sizes), dtype=torch.int64)
        self._alike = list(self._neighbours())
        self._passes = 0

    def _neighbours(self) -> Iterator[_Alike]:
        begin = 0
        for size, run in groupby(self._sizes):
            end = begin + len(list(run))
            grams = [member.task.gram for member in self._members[begin:end]]
            found = [gram for gram in grams if gram is not None]
            yield _Alike(begin, end, size, found[0] if len(found) == 1 else torch.cat(found))
            begin = end

    def shuffle(self, batches: Sequence[int]) -> None:
        """Draw the order of every member's next pass, if it takes one."""
        self._passes += 1
        order = self._order.numpy()
        for place, (member, count) in enumerate(zip(self._members, batches, strict=True)):
            if count:
                size = self._sizes[place]
                np.add(member.task.rng.permutation(size), self._at[place], out=order[place, :size])

    def _move(self, begin: int, end: int, row: int, length: int) -> Tensor:
        index = self._order[begin:end, row : row + length].reshape(-1)
        z = self._answers.index_select(0, index).view(end - begin, length, -1)
        if self._steps[begin]:
            self._catch_up(begin, end, index.view(end - begin, length), z)
        losses, moves = self._chain.step_behind(
            self._views(begin, end),
            z,
            self._y.index_select(0, index).view(end - begin, length),
            -self._rates[begin:end],
            None if self._added is None else self._added[begin:end],
        )
        moves = moves.view(len(index), -1)
        if self._passes == 1:
            self._moves.index_copy_(0, index, moves)  # none of them has moved anything yet
        else:
            self._moves.index_add_(0, index, moves)
        return losses

    def _views(self, begin: int, end: int) -> Sequence[Views]:
        if (begin, end) not in self._parts:
            self._parts[begin, end] = self._chain.views(self._params[begin:end])
        return self._parts[begin, end]

    def _catch_up(self, begin: int, end: int, index: Tensor, z: Tensor) -> None:
        """Add to answers, shape (g, b, out), what the layer has been moved by."""
        for first, last, size, grams in self._alike:
            low, high = max(first, begin), min(last, end)
            if low >= high:
                continue
            found = index[low - begin : high - begin].reshape(-1) - self._at[first]
            rows = grams.index_select(0, found).view(high - low, -1, size)
            moves = self._moves[self._at[low] : self._at[high]].view(high - low, size, -1)
            into = z[low - begin : high - begin]
            if self._chain.products_agree(high - low, rows.shape[1], size):
                into.baddbmm_(rows, moves)
            else:
                for place in range(high - low):
                    one = slice(place, place + 1)
                    into[one].baddbmm_(rows[one], moves[one])

    def trained(self) -> list[Trained]:
        """Bring the first layers to where their examples have moved them; see `_Block.trained`."""
        for place, member in enumerate(self._members):
            moves = self._moves[self._at[place] : self._at[place + 1]]
            self._chain.shift_first(self._weights, place, member.x, moves)
        return super().trained()
