"""How do activations and their gradients cross the network?"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, SerializeAsAny, WrapValidator

from policies.base import Policy, open_union
from policies.sparsity.coded import BITS, Coding, coded_at
from policies.sparsity.topk import share, top_k
from policies.types import Vector
from policies.update import Content, Dense, ModelSchema
from policies.wire import dequantise, quantise
from policies.wire.positions import log2_choices


class ActivationPolicy(Policy):
    """Writes tensors that pass between a client and the encoder, one for each example."""

    @abstractmethod
    def write(self, values: Vector, schema: ModelSchema) -> Content:
        """Return what is sent of some tensors, and what the other side reads.

        Args:
            values: All tensors end to end, shape (P,).
            schema: Says where each begins.
        """

    @abstractmethod
    def least_bits(self, schema: ModelSchema) -> float:
        """Return bits that the values take at least."""

    def entropy_bits(self, schema: ModelSchema) -> float:
        """Return bits that positions and values take at least."""
        return self.least_bits(schema)


class DenseActivations(ActivationPolicy):
    """Send every value.

    Attributes:
        values: How one is written; `int8` has a scale for each example.
    """

    kind: Literal["dense"] = "dense"
    values: Coding = "fp32"

    def write(self, values: Vector, schema: ModelSchema) -> Content:
        """Return all values, rounded."""
        if self.values == "fp32":
            return Dense(values)
        code = quantise(values, None, self.values, schema)
        return Dense(dequantise(code, None, schema), code)

    def least_bits(self, schema: ModelSchema) -> float:
        """Return a value's bits, for each."""
        return float(BITS[self.values] * schema.parameters)


class TopKActivations(ActivationPolicy):
    """Send the largest magnitudes of each example's tensor; the others read as zero.

    Attributes:
        density: Share of the values that is sent.
        values: How one is written.
    """

    kind: Literal["top-k"] = "top-k"
    density: float = Field(default=0.1, gt=0, le=1)
    values: Coding = "fp32"

    def write(self, values: Vector, schema: ModelSchema) -> Content:
        """Return the largest, rounded."""
        pieces = [
            begin + top_k(values[begin : begin + size], share(self.density, size))
            for begin, size in zip(schema.offsets, schema.sizes, strict=False)
        ]
        positions = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)
        return coded_at(values[positions], positions, self.values, schema)

    def least_bits(self, schema: ModelSchema) -> float:
        """Return the largest values' bits."""
        return float(BITS[self.values] * sum(share(self.density, n) for n in schema.sizes))

    def entropy_bits(self, schema: ModelSchema) -> float:
        """Return those of the positions, log2 C(n, k) a tensor, and of the values."""
        positions = sum(
            count * log2_choices(size, share(self.density, size))
            for size, count in Counter(schema.sizes).items()
        )
        return positions + self.least_bits(schema)


Activations = Annotated[
    Annotated[DenseActivations | TopKActivations, Field(discriminator="kind")],
    WrapValidator(open_union(ActivationPolicy)),
    SerializeAsAny(),
]
