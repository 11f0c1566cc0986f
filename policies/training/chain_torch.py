"""How are many small networks trained at once?

A chain is linear layers one after the other, with or without ReLU behind each. Its two passes are
written out as batched matrix products over a cohort, whose members each have weights, examples and
a base of their own. One member alone takes the same kernels; rows are never padded, so that
members train together only as long as their batches are equally long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from policies.training.adjustment_torch import Adjustment
from policies.training.base import Member, Trained, TrainingPolicy

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _Linear(NamedTuple):
    """A linear layer: where its weight and bias begin in the flat vector, and its widths."""

    weight_at: int
    bias_at: int | None
    inside: int
    outside: int
    relu: bool = False


class _Views(NamedTuple):
    """A layer of several members: weight (g, out, in) and bias (g, out) if there is one."""

    weight: Tensor
    bias: Tensor | None


class Chain:
    """The layers of a network that can train in cohorts."""

    def __init__(self, layers: Sequence[_Linear]) -> None:
        self._layers = tuple(layers)
        self._agree: dict[tuple[int, int], bool] = {}

    @property
    def classes(self) -> int:
        """What a row of logits holds."""
        return self._layers[-1].outside

    @classmethod
    def of(cls, module: nn.Module, parameters: Sequence[Tensor]) -> Chain | None:
        """Return a module as a chain; None if it is no such thing.

        Args:
            module: Any.
            parameters: Its trainable ones, in the order of the flat vector.
        """
        at = {}
        begin = 0
        for parameter in parameters:
            at[id(parameter)] = begin
            begin += parameter.numel()
        layers: list[_Linear] = []
        if type(module) is not nn.Sequential:
            return None
        for place, layer in enumerate(_flattened(module)):
            if _hooked(layer) or (type(layer) is nn.Flatten and place):
                return None
            if type(layer) is nn.Linear:
                weight_at = at.pop(id(layer.weight), None)
                bias_at = None if layer.bias is None else at.pop(id(layer.bias), None)
                if weight_at is None or (bias_at is None) != (layer.bias is None):
                    return None  # frozen, or shared with a layer before
                widths = (layer.in_features, layer.out_features)
                layers.append(_Linear(weight_at, bias_at, *widths))
            elif type(layer) is nn.ReLU and layers and not layers[-1].relu:
                layers[-1] = layers[-1]._replace(relu=True)
            elif type(layer) is not nn.Flatten:
                return None
        return cls(layers) if layers and not at else None

    # ------------------------------------------------------------ training

    def train(
        self,
        policy: TrainingPolicy,
        params: Tensor,
        members: Sequence[Member],
        *,
        proximal: float = 0.0,
    ) -> list[Trained]:
        """Run every member's local steps in place; the same steps as `local_sgd`.

        Args:
            policy: Learning rate, momentum, weight decay, epochs or steps, batch size.
            params: Weights that the members start from, shape (g, P), rows contiguous; changed.
            members: Their examples, those with most of them first.
            proximal: Pull towards the base; 0 for none.
        """
        block = _Block(self, policy, params, members, proximal)
        passes = [policy.passes(int(member.y.shape[0])) for member in members]
        for number in range(max(map(len, passes))):
            batches = [p[number] if number < len(p) else 0 for p in passes]
            block.shuffle(batches)
            for batch in range(max(batches)):
                lengths = [
                    block.length(place, batch) if batch < count else 0
                    for place, count in enumerate(batches)
                ]
                for begin, end, length in self._runs(lengths):
                    block.step(begin, end, batch * policy.batch_size, length)
        return block.trained()

    def _runs(self, lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
        """Yield (begin, end, length) of neighbours that take a step together."""
        at = 0
        for length, run in groupby(lengths):
            count = len(list(run))
            if length and self._together(count, length):
                yield at, at + count, length
            elif length:
                yield from ((place, place + 1, length) for place in range(at, at + count))
            at += count

    def _together(self, count: int, length: int) -> bool:
        """Say whether so many members get the bits that each would get alone: tried once."""
        if count == 1:
            return True
        key = (count, length)
        if key not in self._agree:
            self._agree[key] = self._try(count, length)
        return self._agree[key]

    def _try(self, count: int, length: int) -> bool:
        generator = torch.Generator().manual_seed(0)
        size = max(max(layer.weight_at, layer.bias_at or 0) for layer in self._layers)
        size += max(layer.outside * layer.inside for layer in self._layers)
        params = torch.rand(count, aligned(size), generator=generator) - 0.5
        x = torch.rand(count, length, self._layers[0].inside, generator=generator)
        y = torch.randint(0, self._layers[-1].outside, (count, length), generator=generator)
        scale = torch.full((count,), -0.1)
        return all(
            self._agrees(params.clone(), x, y, scale, apart=apart) for apart in (True, False)
        )

    def _agrees(self, params: Tensor, x: Tensor, y: Tensor, scale: Tensor, *, apart: bool) -> bool:
        """Try a step, with gradients kept apart or added to the weights at once."""
        grads, alone = rows_like(params), params.clone()
        each_grads = rows_like(params)

        def step(weights: Tensor, into: Tensor, i: slice) -> Tensor:
            views = self.views(into[i]) if apart else None
            return self.step(self.views(weights[i]), x[i], y[i], scale[i], views)

        losses = step(params, grads, slice(None))
        each = torch.cat([step(alone, each_grads, slice(i, i + 1)) for i in range(len(x))])
        same = torch.equal(params, alone) and torch.equal(grads, each_grads)
        return same and torch.equal(losses, each)

    # ------------------------------------------------------------ one step

    def views(self, flat: Tensor) -> list[_Views]:
        """Return each layer's part of vectors over all parameters, shape (g, P)."""
        found = []
        for layer in self._layers:
            size = layer.outside * layer.inside
            weight = flat[:, layer.weight_at : layer.weight_at + size]
            bias = None
            if layer.bias_at is not None:
                bias = flat[:, layer.bias_at : layer.bias_at + layer.outside]
            found.append(_Views(weight.view(len(flat), layer.outside, layer.inside), bias))
        return found

    def step(
        self,
        weights: Sequence[_Views],
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        into: Sequence[_Views] | None = None,
        added: Tensor | None = None,
    ) -> Tensor:
        """Add the gradient of the mean cross-entropy, times `scale`, to the weights.

        Args:
            weights: Of g members.
            x: Inputs, shape (g, b, in).
            y: Labels, shape (g, b).
            scale: One factor a member, shape (g,).
            into: If given, the gradients go there, and what was there is lost.
            added: To the logits before the loss, shape (g, out).

        Returns:
            Sums of the losses over each member's batch, shape (g,), float64.
        """
        inputs = self.answers(weights, x)
        logits = inputs[-1] if added is None else inputs[-1] + added.unsqueeze(1)
        logs = torch.log_softmax(logits, 2)
        labels = y.unsqueeze(2)
        losses = -logs.gather(2, labels).sum((1, 2), dtype=torch.float64)
        delta = logs.exp_()
        delta.scatter_add_(2, labels, torch.full_like(labels, -1.0, dtype=delta.dtype))
        delta *= (scale / x.shape[1]).view(-1, 1, 1)
        self.push(weights, inputs, delta, into)
        return losses

    def answers(self, weights: Sequence[_Views], x: Tensor) -> list[Tensor]:
        """Return what goes into every layer, and last what the members answer, (g, b, out)."""
        inputs = [x]
        for layer, (weight, bias) in zip(self._layers, weights, strict=True):
            z = torch.bmm(inputs[-1], weight.transpose(1, 2))
            if bias is not None:
                z += bias.unsqueeze(1)
            inputs.append(z.relu_() if layer.relu else z)
        return inputs

    def push(
        self,
        weights: Sequence[_Views],
        inputs: Sequence[Tensor],
        delta: Tensor,
        into: Sequence[_Views] | None = None,
    ) -> None:
        """Add to the weights what the chain rule makes of a wish for other answers.

        Args:
            weights: Of g members.
            inputs: What `answers` returned for them.
            delta: A factor times the gradient by the answers, shape (g, b, out); lost.
            into: If given, the gradients go there, and what was there is lost.
        """
        if self._layers[-1].relu:
            delta *= inputs[-1] > 0
        for place in reversed(range(len(self._layers))):
            before = torch.bmm(delta, weights[place].weight) if place else None
            target, keep = (weights[place], 1) if into is None else (into[place], 0)
            target.weight.baddbmm_(delta.transpose(1, 2), inputs[place], beta=keep)
            if target.bias is not None:
                if not keep:
                    target.bias.zero_()
                target.bias.add_(delta.sum(1))
            if before is not None:
                if self._layers[place - 1].relu:
                    before *= inputs[place] > 0
                delta = before


def aligned(size: int) -> int:
    """Return the least multiple of 16 floats that holds `size`, so that rows begin alike."""
    return -(-size // 16) * 16


def rows_like(flat: Tensor) -> Tensor:
    """Return zeros of the shape (g, P), in rows that begin alike; torch would close the gaps."""
    return torch.zeros(len(flat), aligned(flat.shape[1]))[:, : flat.shape[1]]


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
        count = len(members)
        self._sizes = [int(member.y.shape[0]) for member in members]
        self._losses = torch.zeros(count, dtype=torch.float64)
        self._rates = torch.tensor([policy.rate(member.task.version) for member in members])
        self._masks = [member.task.mask for member in members]
        self._proximal = proximal
        self._base = params.clone() if proximal else None
        self._velocity = rows_like(params) if policy.momentum else None
        plain = not (policy.weight_decay or proximal or policy.momentum)
        self._grads = None
        if not plain or any(mask is not None for mask in self._masks):
            self._grads = rows_like(params)
        inside = members[0].x.shape[1:].numel()
        self._x = torch.empty(count, max(self._sizes), inside)
        self._y = torch.empty(count, max(self._sizes), dtype=torch.int64)
        self._steps = [0] * count
        self._added = None
        if policy.logit_adjustment:
            each = [Adjustment(policy, member.y).added(chain.classes) for member in members]
            self._added = torch.stack(each)

    def length(self, place: int, batch: int) -> int:
        """Return how long a member's batch is."""
        size = self._policy.batch_size
        return min(size, self._sizes[place] - batch * size)

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
        x, y = self._x[begin:end, row : row + length], self._y[begin:end, row : row + length]
        params, rates = self._params[begin:end], self._rates[begin:end]
        weights = self._chain.views(params)
        added = None if self._added is None else self._added[begin:end]
        if self._grads is None:
            losses = self._chain.step(weights, x, y, -rates, None, added)
        else:
            grads = self._grads[begin:end]
            into = self._chain.views(grads)
            losses = self._chain.step(weights, x, y, torch.ones_like(rates), into, added)
            params.addcmul_(self._moved(begin, end, params, grads), -rates.unsqueeze(1))
        self._losses[begin:end] += losses
        for place in range(begin, end):
            self._steps[place] += 1
            after_step = self._members[place].task.after_step
            if after_step is not None:
                after_step(self._steps[place])

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


def _flattened(module: nn.Sequential) -> Iterator[nn.Module]:
    """Yield the parts of a sequence, those of sequences inside it one by one."""
    if _hooked(module):
        yield module  # as a whole it is no layer
        return
    for part in module:
        if type(part) is nn.Sequential:
            yield from _flattened(part)
        else:
            yield part


def _hooked(module: nn.Module) -> bool:
    """Say whether a module does more than its class says."""
    return any(getattr(module, name, None) for name in _HOOKS)
