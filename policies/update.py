"""What does an update hold, and over which tensors?

A model is one flat float32 vector: first every trainable tensor in the module's order, then every
normalisation buffer (running means and variances), which is reported and averaged as values and
never as a difference.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xxhash

from policies.adding import add_at, add_dense
from policies.types import Address, PayloadKind, Positions, ValueCoding, Vector, Version

FIRST: Final = Version(0, 0)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a model.

    Attributes:
        name: As the module names it.
        shape: Its shape.
        buffer: Whether it is a normalisation buffer.
        prunable: Whether it is the weight of a linear, convolution or attention layer, which
            methods that prune may set to zero; never a bias, a norm or an embedding.
    """

    name: str
    shape: tuple[int, ...]
    buffer: bool = False
    prunable: bool = False

    @property
    def role(self) -> int:
        """0 for a plain trainable tensor, 1 for a buffer, 2 for a prunable one."""
        return 1 if self.buffer else 2 if self.prunable else 0

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
    def prunable(self) -> npt.NDArray[np.bool_]:
        """Which parameters are prunable, shape (P,)."""
        flags = [np.full(t.size, t.prunable) for t in self.tensors if not t.buffer]
        return np.concatenate(flags) if flags else np.zeros(0, dtype=np.bool_)

    @cached_property
    def fingerprint(self) -> int:
        """32 bits that tell schemas apart: names, shapes and roles in order."""
        text = ";".join(f"{t.name}:{t.shape}:{t.role}" for t in self.tensors)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


@dataclass(frozen=True)
class Mask:
    """Which parameters live; the others are zero and stay so.

    Attributes:
        epoch: Counts prunings; the masks of one run are nested, a later one inside an earlier.
        positions: Strictly increasing flat indices of those that live, shape (m,).
    """

    epoch: int
    positions: Positions

    @cached_property
    def checksum(self) -> int:
        """Low 32 bits of XXH3-64 over the positions as little-endian 32-bit numbers."""
        numbers = np.ascontiguousarray(self.positions, dtype="<u4")
        return xxhash.xxh3_64_intdigest(numbers.data) & 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Quantised:
    """Values as fewer bits: what is written in place of 32-bit floats.

    Attributes:
        coding: How one value is written.
            `fp16`, `bf16`: the float with fewer bits; `codes` are its 16 bits.
            `int8`: a whole number from -127 to 127, times its block's scale.
            `level`: the same, never 0 and entropy coded: for few different numbers.
            `sign`: -1 or 1, one bit each, no scale.
        codes: Shape (k,): uint16 for `fp16` and `bf16`, int8 otherwise.
        scales: One a block, float32, >= 0; shape (0,) for codings without scales.
        block: Parameters that share a scale: flat index // block; 0 for one scale a tensor.
    """

    coding: ValueCoding
    codes: npt.NDArray[Any]
    scales: Vector = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    block: int = 0


@dataclass(frozen=True, slots=True)
class Dense:
    """A value for every parameter, shape (P,).

    `code`, if given, is how the same values are written in fewer bits.
    """

    values: Vector
    code: Quantised | None = None

    @property
    def nonzeros(self) -> int:
        """Values that were sent."""
        return self.values.size

    def add_to(self, model: Vector, scale: float) -> None:
        """Add `scale` times this to `model`, shape (P,), in place."""
        add_dense(model, self.values, scale)

    def densify(self, size: int) -> Vector:
        """Return all values, shape (size,)."""
        if self.values.size != size:
            raise ValueError(f"{self.values.size} values for {size} parameters")
        return self.values

    def touches(self) -> Positions | None:
        """Return the positions that it can change; None for all."""
        return None

    def within(self, mask: Mask) -> Content:
        """Return what of it lies inside `mask`."""
        return Masked(mask, self.values[mask.positions])


class _Listed(ABC):
    """What contents with values at listed positions have in common."""

    __slots__ = ()
    values: Vector

    @abstractmethod
    def touches(self) -> Positions:
        """Return the positions that it can change; None for all."""

    @property
    def nonzeros(self) -> int:
        """Values that were sent."""
        return self.values.size

    def add_to(self, model: Vector, scale: float) -> None:
        """Add `scale` times this to `model`, shape (P,), in place, touching k values only."""
        add_at(model, self.touches(), self.values, scale)

    def densify(self, size: int) -> Vector:
        """Return all values, shape (size,), zero where nothing was sent."""
        full = np.zeros(size, dtype=np.float32)
        full[self.touches()] = self.values
        return full


@dataclass(frozen=True, slots=True)
class Sparse(_Listed):
    """Values at some positions, and zero elsewhere.

    Attributes:
        positions: Strictly increasing flat indices, shape (k,).
        values: Shape (k,), float32.
        code: How the same values are written in fewer bits.
    """

    positions: Positions
    values: Vector
    code: Quantised | None = None

    def touches(self) -> Positions:
        """Return the positions that it can change; None for all."""
        return self.positions

    def within(self, mask: Mask) -> Content:
        """Return what of it lies inside `mask`."""
        found = np.searchsorted(mask.positions, self.positions)
        found[found == mask.positions.size] = 0
        kept = mask.positions[found] == self.positions if mask.positions.size else found < 0
        return Sparse(self.positions[kept], self.values[kept])


@dataclass(frozen=True, slots=True)
class Masked(_Listed):
    """A value for every parameter that lives under a mask both sides can know.

    Positions need not be sent: the mask's epoch and checksum name them.

    Attributes:
        mask: Which parameters; many updates share one mask.
        values: Shape (m,), float32, in the order of the mask's positions; a value may be 0.
        code: How the same values are written in fewer bits.
    """

    mask: Mask
    values: Vector
    code: Quantised | None = None

    @property
    def positions(self) -> Positions:
        """The mask's positions."""
        return self.mask.positions

    def touches(self) -> Positions:
        """Return the positions that it can change; None for all."""
        return self.positions

    def within(self, mask: Mask) -> Content:
        """Return what of it lies inside `mask`, which must be inside its own."""
        if mask is self.mask or mask.epoch == self.mask.epoch:
            return self
        found = np.searchsorted(self.positions, mask.positions)
        return Masked(mask, self.values[found])


Content = Dense | Sparse | Masked


@dataclass(frozen=True, slots=True)
class Base:
    """What a client trains from.

    Attributes:
        values: Before training, shape (P,).
        schema: The model's tensors.
        version: Which version it is.
        mask: Which parameters live; None for all.
        density: Share of the entries that the server asks for; 0 leaves it to the uplink.
    """

    values: Vector
    schema: ModelSchema
    version: Version = FIRST
    mask: Mask | None = None
    density: float = 0.0


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
        base: The model that it was trained from, shape (P,), which must not change; None where
            the aggregation does not ask for it.
        corrected: Its numbers after a correction; None where they are as they came.
    """

    update: Update
    staleness: int
    weight: float = field(default=1.0)
    base: Vector | None = None
    corrected: Content | None = None

    @property
    def content(self) -> Content:
        """Its numbers as they are to be aggregated."""
        return self.update.content if self.corrected is None else self.corrected


@dataclass(frozen=True, slots=True)
class Move:
    """What a version changed.

    Attributes:
        before: The version before, shape (P,).
        after: The new one, shape (P,).
        schema: The model's tensors.
    """

    before: Vector
    after: Vector
    schema: ModelSchema
