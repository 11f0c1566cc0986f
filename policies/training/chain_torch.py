"""How are the two passes of many small networks computed at once?

A chain is linear layers one after the other, with or without ReLU behind each. Its two passes are
written out as batched matrix products over a cohort, whose members each have weights and examples
of their own. One member alone takes the same kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from policies.training.products_torch import linear

_relu_backward = torch.ops.aten.threshold_backward
_LEAST_WEIGHTS: Final = 2**14
"""Of a first layer that is worth a Gram matrix."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _Linear(NamedTuple):
    """A linear layer: where its weight and bias begin in the flat vector, and its widths."""

    weight_at: int
    bias_at: int | None
    inside: int
    outside: int
    relu: bool = False


class Views(NamedTuple):
    """A layer of several members: weight (g, out, in) and bias (g, out) if there is one."""

    weight: Tensor
    bias: Tensor | None


class Chain:
    """The layers of a network that can train in cohorts."""

    def __init__(self, layers: Sequence[_Linear]) -> None:
        self._layers = tuple(layers)
        self._agree: dict[tuple[int, ...], bool] = {}

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

    # ------------------------------------------------------------ examples' products

    def gram(self, x: Tensor) -> Tensor | None:
        """Return how far a step by one example moves the first layer's answer to another.

        Args:
            x: A client's inputs, shape (n, ...).

        Returns:
            ``x x^T``, plus 1 where the layer has a bias, shape (n, n). None where training gains
            nothing by it: the layer is small, or the examples are many for their width.
        """
        first = self._layers[0]
        few = 0 < 2 * len(x) <= first.inside
        if not few or first.inside * first.outside < _LEAST_WEIGHTS:
            return None
        flat = x.flatten(1)
        return torch.mm(flat, flat.t()).add_(0.0 if first.bias_at is None else 1.0)

    def first(self, weights: Sequence[Views], place: int, x: Tensor) -> Tensor:
        """Return the first layer's answers to all of one member's inputs, shape (n, out)."""
        weight, bias = weights[0]
        return linear(x.flatten(1), weight[place], None if bias is None else bias[place])

    def shift_first(self, weights: Sequence[Views], place: int, x: Tensor, moves: Tensor) -> None:
        """Add to one member's first layer the steps of all its examples.

        Args:
            weights: Of g members.
            place: Which of them.
            x: Its inputs, shape (n, ...).
            moves: By how much each moves the layer's answers to an input of length 1, (n, out).
        """
        weight, bias = weights[0]
        weight[place].add_(linear(moves.t(), x.flatten(1).t()))
        if bias is not None:
            bias[place].add_(moves.sum(0))

    # ------------------------------------------------------------ who trains together

    def together(self, count: int, length: int) -> bool:
        """Say whether so many members get the bits that each would get alone: tried once."""
        if count == 1:
            return True
        key = (count, length)
        if key not in self._agree:
            self._agree[key] = self._try(count, length)
        return self._agree[key]

    def products_agree(self, count: int, length: int, size: int) -> bool:
        """Say the same of products of rows of Gram matrices with what examples have moved.

        Args:
            count: Members.
            length: Rows of each.
            size: Examples of each.
        """
        key = (count, length, size)
        if count > 1 and key not in self._agree:
            generator = torch.Generator().manual_seed(0)
            rows = torch.rand(count, length, size, generator=generator)
            moves = torch.rand(count, size, self._layers[0].outside, generator=generator) - 0.5
            at = torch.rand(count, length, self._layers[0].outside, generator=generator)
            together = torch.baddbmm(at, rows, moves)
            each = [torch.baddbmm(*(t[i : i + 1] for t in (at, rows, moves))) for i in range(count)]
            self._agree[key] = torch.equal(together, torch.cat(each))
        return count == 1 or self._agree[key]

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

    def views(self, flat: Tensor) -> list[Views]:
        """Return each layer's part of vectors over all parameters, shape (g, P)."""
        found = []
        for layer in self._layers:
            size = layer.outside * layer.inside
            weight = flat[:, layer.weight_at : layer.weight_at + size]
            bias = None
            if layer.bias_at is not None:
                bias = flat[:, layer.bias_at : layer.bias_at + layer.outside]
            found.append(Views(weight.view(len(flat), layer.outside, layer.inside), bias))
        return found

    def step(
        self,
        weights: Sequence[Views],
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        into: Sequence[Views] | None = None,
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
        losses, delta = _losses(inputs[-1], y, scale, added)
        self.push(weights, inputs, delta, into)
        return losses

    def step_behind(
        self, weights: Sequence[Views], z: Tensor, y: Tensor, scale: Tensor, added: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Take `step` in all layers but the first.

        Args:
            weights: Of g members.
            z: The first layer's answers, shape (g, b, out); lost.
            y: Labels, shape (g, b).
            scale: One factor a member, shape (g,).
            added: To the logits before the loss, shape (g, out).

        Returns:
            Sums of the losses, shape (g,), float64, and what the first layer is to be moved by:
            the factor times the gradient by `z`, shape (g, b, out).
        """
        inputs = [z, *self._behind(weights, z)]
        losses, delta = _losses(inputs[-1], y, scale, added)
        return losses, self._push_back(weights, inputs, delta, None)

    def answers(self, weights: Sequence[Views], x: Tensor) -> list[Tensor]:
        """Return what goes into every layer, and last what the members answer, (g, b, out)."""
        return [x, *self._behind(weights, _applied(weights[0], x))]

    def _behind(self, weights: Sequence[Views], z: Tensor) -> Iterator[Tensor]:
        """Yield what every layer hands on, from the first one's answers on."""
        for place, layer in enumerate(self._layers):
            if place:
                z = _applied(weights[place], z)
            if layer.relu:
                z = z.relu_()
            yield z

    def push(
        self,
        weights: Sequence[Views],
        inputs: Sequence[Tensor],
        delta: Tensor,
        into: Sequence[Views] | None = None,
    ) -> None:
        """Add to the weights what the chain rule makes of a wish for other answers.

        Args:
            weights: Of g members.
            inputs: What `answers` returned for them.
            delta: A factor times the gradient by the answers, shape (g, b, out); lost.
            into: If given, the gradients go there, and what was there is lost.
        """
        delta = self._push_back(weights, inputs, delta, into)
        _shift((weights if into is None else into)[0], delta, inputs[0], keep=into is None)

    def _push_back(
        self,
        weights: Sequence[Views],
        inputs: Sequence[Tensor],
        delta: Tensor,
        into: Sequence[Views] | None,
    ) -> Tensor:
        """Push through all layers but the first; return what it is to be moved by."""
        targets = weights if into is None else into
        for place in reversed(range(len(self._layers))):
            if self._layers[place].relu:
                delta = _relu_backward(delta, inputs[place + 1], 0)
            if place:
                before = torch.bmm(delta, weights[place].weight)
                _shift(targets[place], delta, inputs[place], keep=into is None)
                delta = before
        return delta


def _applied(views: Views, x: Tensor) -> Tensor:
    """Return a layer's answers, shape (g, b, out)."""
    if views.bias is None:
        return torch.bmm(x, views.weight.transpose(1, 2))
    return torch.baddbmm(views.bias.unsqueeze(1), x, views.weight.transpose(1, 2))


def _shift(views: Views, delta: Tensor, x: Tensor, *, keep: bool) -> None:
    """Add to a layer, or put there, the products of its inputs and what came back to it."""
    views.weight.baddbmm_(delta.transpose(1, 2), x, beta=int(keep))
    if views.bias is not None:
        if not keep:
            views.bias.zero_()
        views.bias.add_(delta.sum(1))


def _losses(
    logits: Tensor, y: Tensor, scale: Tensor, added: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return sums of losses, (g,), and the factor times the gradient by the logits, (g, b, out)."""
    by_class = (logits if added is None else logits + added.unsqueeze(1)).transpose(1, 2)
    logs = torch.log_softmax(by_class.contiguous(), 1)  # over strides: few classes fill no vector
    labels = y.unsqueeze(1)
    losses = -logs.gather(1, labels).sum((1, 2), dtype=torch.float64)
    delta = logs.exp_()
    delta.scatter_add_(1, labels, torch.full_like(labels, -1.0, dtype=delta.dtype))
    delta *= (scale / y.shape[1]).view(-1, 1, 1)
    return losses, delta.transpose(1, 2)


def aligned(size: int) -> int:
    """Return the least multiple of 16 floats that holds `size`, so that rows begin alike."""
    return -(-size // 16) * 16


def rows_like(flat: Tensor) -> Tensor:
    """Return zeros of the shape (g, P), in rows that begin alike; torch would close the gaps."""
    return torch.zeros(len(flat), aligned(flat.shape[1]))[:, : flat.shape[1]]


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
