"""What does an update hold, and over which tensors?

A model is one flat float32 vector: first every trainable tensor in the module's order, then every
normalisation buffer (running means and variances), which is reported and averaged as values and
never as a difference.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from math import prod

import numpy as np

from policies.types import Address, PayloadKind, Positions, Vector, Version


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a model: its name, shape, and whether it is a normalisation buffer."""

    name: str
    shape: tuple[int, ...]
    buffer: bool = False

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)


@dataclass(frozen=True)
class ModelSchema:
    """The tensors of a model in the order of its flat vector: parameters, then buffers."""

    tensors: tuple[TensorSpec, ...]

    @cached_property
    def parameters(self) -> int:
        """Number P of trainable values."""
        return sum(t.size for t in self.tensors if not t.buffer)

    @cached_property
    def buffers(self) -> int:
        """Number B of values in normalisation buffers."""
        return sum(t.size for t in self.tensors if t.buffer)

    @property
    def size(self) -> int:
        """Length of the flat vector, P + B."""
        return self.parameters + self.buffers

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the trainable tensors."""
        return tuple(t.size for t in self.tensors if not t.buffer)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each trainable tensor begins, and P at the end."""
        return tuple(accumulate(self.sizes, initial=0))

    @cached_property
    def fingerprint(self) -> int:
        """32 bits that tell schemas apart: names, shapes and roles in order."""
        text = ";".join(f"{t.name}:{t.shape}:{int(t.buffer)}" for t in self.tensors)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


@dataclass(frozen=True, slots=True)
class Dense:
    """A value for every parameter, shape (P,)."""

    values: Vector

    @property
    def nonzeros(self) -> int:
        """Values that were sent."""
        return self.values.size

    def add_to(self, model: Vector, scale: float) -> None:
        """Add `scale` times this to `model`, shape (P,), in place."""
        model += np.multiply(self.values, np.float32(scale))

    def densify(self, size: int) -> Vector:
        """Return all values, shape (size,)."""
        if self.values.size != size:
            raise ValueError(f"{self.values.size} values for {size} parameters")
        return self.values


@dataclass(frozen=True, slots=True)
class Sparse:
    """Values at some positions; the others are zero (a delta) or not reported (weights).

    Attributes:
        positions: Strictly increasing flat indices, shape (k,).
        values: Shape (k,), float32.
    """

    positions: Positions
    values: Vector

    @property
    def nonzeros(self) -> int:
        """Values that were sent."""
        return self.values.size

    def add_to(self, model: Vector, scale: float) -> None:
        """Add `scale` times this to `model`, shape (P,), in place, touching k values only."""
        model[self.positions] += np.multiply(self.values, np.float32(scale))

    def densify(self, size: int) -> Vector:
        """Return all values, shape (size,), zero where nothing was sent."""
        full = np.zeros(size, dtype=np.float32)
        full[self.positions] = self.values
        return full


Content = Dense | Sparse


@dataclass(frozen=True, slots=True)
class Update:
    """What a client reports.

    Attributes:
        address: Client and dispatch counter.
        base: The version that it trained from.
        kind: What the numbers are.
        content: The numbers for the parameters.
        buffers: Values of the normalisation buffers, shape (B,).
        examples: Training examples behind it, n_k.
        loss: Mean training loss over the local epochs.
    """

    address: Address
    base: Version
    kind: PayloadKind
    content: Content
    buffers: Vector
    examples: int
    loss: float


@dataclass(frozen=True, slots=True)
class Contribution:
    """An accepted update with what its lateness costs it.

    Attributes:
        update: The update.
        staleness: Versions published since its base, d = t - tau.
        weight: s(d) of the staleness policy.
    """

    update: Update
    staleness: int
    weight: float = field(default=1.0)
