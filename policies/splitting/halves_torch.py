"""What do a client and the encoder compute of one step?

The pieces are pure but for the gradients that they leave on parameters: what crosses the network
goes in and comes out as plain tensors. One step of both halves together is a step of
back-propagation through the whole model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from policies.training.flat_torch import FlatModel
from policies.types import Vector


class EndsModule(nn.Module):
    """A client's head and tail, which are what clients and the parameter server exchange.

    Args:
        whole: Has `embedding`, `blocks`, `pool` and `tail`. Only those of its parameters that are
            trained at clients become part of this module.
    """

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        embedding, tail = whole.get_submodule("embedding"), whole.get_submodule("tail")
        if any(p.requires_grad for p in embedding.parameters()):
            self.embedding = embedding
        self.tail = tail
        blocks = whole.get_submodule("blocks")
        # a tuple, so that torch does not take them for parts of this module
        self._others = (embedding, list(blocks.children()), whole.get_submodule("pool"))

    def train(self, mode: bool = True) -> Self:
        """Train the tail; the encoder's parts stay in eval mode."""
        super().train(mode)
        for part in (self._others[0], *self._others[1], self._others[2]):
            part.eval()
        return self

    def smash(self, x: Tensor, cut: int) -> Tensor:
        """Return activations behind the head and the first `cut` blocks."""
        embedding, blocks, _ = self._others
        s: Tensor = embedding(x)
        for block in blocks[:cut]:
            s = block(s)
        return s

    def features(self, x: Tensor) -> Tensor:
        """Return what the encoder makes of inputs, shape (n, features)."""
        _, blocks, pool = self._others
        z: Tensor = pool(self.smash(x, len(blocks)))
        return z

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, shape (n, classes)."""
        logits: Tensor = self.tail(self.features(x))
        return logits


def on_features(ends: EndsModule) -> nn.Sequential:
    """Return the tail alone, under the same names, for a client that has its features."""
    return nn.Sequential(OrderedDict(tail=ends.tail))


class BodyModule(nn.Module):
    """The encoder behind its embedding.

    Args:
        whole: Has `blocks` and `pool`.
    """

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.blocks = whole.get_submodule("blocks")
        self.pool = whole.get_submodule("pool")

    def forward(self, s: Tensor, cut: int = 0) -> Tensor:
        """Return features, shape (n, features), of activations behind the first `cut` blocks."""
        for block in list(self.blocks.children())[cut:]:
            s = block(s)
        z: Tensor = self.pool(s)
        return z


def losses(tail: Callable[[Tensor], Tensor], z: Tensor, y: Tensor) -> Tensor:
    """Return each example's cross-entropy, shape (n,), without leaving gradients."""
    with torch.no_grad():
        return functional.cross_entropy(tail(z), y, reduction="none")


def learn_tail(tail: Callable[[Tensor], Tensor], z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Leave the gradient of the mean loss on the tail's parameters.

    Args:
        tail: Maps features to logits.
        z: Features, shape (n, features).
        y: Labels, shape (n,).

    Returns:
        Each example's loss, shape (n,), and dL/dz, shape (n, features).
    """
    z = z.detach().requires_grad_(True)
    each = functional.cross_entropy(tail(z), y, reduction="none")
    each.mean().backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None  # noqa: S101  # backward has just made it
    return each.detach(), z.grad


def learn_head(ends: EndsModule, x: Tensor, cut: int, gradient: Tensor) -> None:
    """Leave a gradient on the head's parameters.

    Args:
        ends: Has the head.
        x: The batch.
        cut: Blocks behind the head.
        gradient: dL/ds, of the activations' own shape.
    """
    torch.autograd.backward(ends.smash(x, cut), gradient)


def back_through(
    body: FlatModel, s: Tensor, cut: int, gradient: Tensor, *, wanted: bool
) -> Tensor | None:
    """Add dL/dW to the encoder's gradients.

    Args:
        body: The encoder; its weights are those that computed the batch.
        s: Activations as they came, shape (n, ...).
        cut: Blocks that the client has computed.
        gradient: dL/dz, shape (n, features).
        wanted: Whether the client asks for dL/ds.

    Returns:
        dL/ds, shape (n, ...), if it is wanted.
    """
    s = s.detach().requires_grad_(wanted)
    torch.autograd.backward(body.module(s, cut), gradient)
    return s.grad


def directions(rng_seed: int, count: int, size: int) -> Iterator[Tensor]:
    """Yield standard normal directions, each of shape (size,); the same seed gives the same."""
    generator = torch.Generator().manual_seed(rng_seed)
    for _ in range(count):
        yield torch.randn(size, generator=generator)


def moved(step: float, sides: int) -> Sequence[float]:
    """Return how far along each direction the loss is looked at."""
    return (step,) if sides == 1 else (step, -step)


def differences(base: Tensor, looks: Tensor, sides: int) -> Tensor:
    """Return what the loss differs by, along each direction.

    Args:
        base: Loss at the point itself, any shape.
        looks: Losses beside it: the first side of every direction in turn with the second,
            shape (directions * sides, *base.shape).
        sides: 1, or 2.

    Returns:
        Shape (directions, *base.shape): from the point to the one side, or from side to side.
    """
    if sides == 1:
        return looks - base
    pairs = looks.reshape(-1, 2, *base.shape)
    return pairs[:, 0] - pairs[:, 1]


def estimate(
    scalars: Sequence[float] | Vector, seed: int, step: float, sides: int, size: int
) -> Tensor:
    """Return the zeroth-order estimate of a gradient.

    Args:
        scalars: Differences of the loss, one a direction.
        seed: Of the directions.
        step: mu.
        sides: 1, or 2.
        size: Numbers in a direction.

    Returns:
        ``mean_i(difference_i / (sides * mu) * u_i)``, shape (size,). Its expectation tends to the
        gradient as mu does to 0.
    """
    total = torch.zeros(size)
    for scalar, u in zip(scalars, directions(seed, len(scalars), size), strict=True):
        total.add_(u, alpha=float(scalar) / (sides * step * len(scalars)))
    return total
