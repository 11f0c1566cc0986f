"""Send everything: the baseline."""

from __future__ import annotations

from typing import Literal

import numpy as np

from policies.sparsity.base import UplinkPolicy
from policies.sparsity.coded import BITS, Coding, coded
from policies.sparsity.feedback import difference
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Base, Content, Dense, Masked, ModelSchema


class DenseUplink(UplinkPolicy):
    """Send every value that lives, as the difference to the base or as it is.

    Attributes:
        content: The difference, or the weights.
        values: How a value is written; with fewer bits the rounding is lost.
    """

    kind: Literal["dense"] = "dense"
    content: Literal["delta", "weights"] = "delta"
    values: Coding = "fp32"

    def sends(self) -> PayloadKind:
        """Return `content`."""
        return self.content

    def compress(
        self, weights: Vector, base: Base, state: Arrays, rng: np.random.Generator
    ) -> tuple[Content, Arrays]:
        """Send all of it; keep nothing."""
        del rng
        values = difference(weights, base.values) if self.content == "delta" else weights
        if base.mask is not None:
            living = base.mask.positions
            return Masked(
                base.mask, *coded(values[living], living, self.values, base.schema)
            ), state
        return Dense(*coded(values, None, self.values, base.schema)), state

    def least_bits(self, schema: ModelSchema) -> float:
        """Return all values' bits."""
        return float(BITS[self.values] * schema.parameters)
