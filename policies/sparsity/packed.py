"""Send what lives under the mask that both sides know, without saying where."""

from __future__ import annotations

from typing import Literal

import numpy as np

from policies.sparsity.base import UplinkPolicy
from policies.sparsity.coded import Coding, coded
from policies.sparsity.feedback import difference
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Base, Content, Dense, Masked


class Packed(UplinkPolicy):
    """Send the values that live under the base's mask, in its order; no positions.

    Where the base has no mask, because nothing has been pruned yet, all values are sent.

    Attributes:
        content: The weights, or the difference to the base.
        values: How a value is written; with fewer bits the rounding is lost.

    Source:
        Herzog et al. 2024, arXiv:2406.19050 (FedMap), who send weights. Differences and coded
        values are our choice.
    """

    kind: Literal["packed"] = "packed"
    content: Literal["weights", "delta"] = "weights"
    values: Coding = "fp32"

    def sends(self) -> PayloadKind:
        """Return `content`."""
        return self.content

    def compress(
        self, weights: Vector, base: Base, state: Arrays, rng: np.random.Generator
    ) -> tuple[Content, Arrays]:
        """Send what lives; keep nothing."""
        del rng
        positions = None if base.mask is None else base.mask.positions
        before = base.values
        if positions is not None:
            weights, before = weights[positions], before[positions]
        values = weights if self.content == "weights" else difference(weights, before)
        received, code = coded(values, positions, self.values, base.schema)
        if base.mask is None:
            return Dense(received, code), state
        return Masked(base.mask, received, code), state
