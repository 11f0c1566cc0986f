"""Send the changes that are large enough."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from policies.sparsity.base import UplinkPolicy
from policies.sparsity.coded import Coding, coded_at
from policies.sparsity.feedback import left_over, nothing_left, wanted
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Base, Content, ModelSchema


class Threshold(UplinkPolicy):
    """Send every entry of the difference whose magnitude is at least `threshold`.

    How many that are changes from update to update; it may be none or all.

    Attributes:
        threshold: In the unit of the weights, 1e-30 to 1e30.
        error_feedback: Whether the rest is kept for the next time.
        values: How a value is written.

    Source:
        Strom, Interspeech 2015, with feedback; he sends `threshold` times the sign, we the value
        (our choice). Dryden et al., MLHPC 2016, set the threshold anew from the share that they
        want; that is `top-k`.
    """

    kind: Literal["threshold"] = "threshold"
    threshold: float = Field(ge=1e-30, le=1e30)
    error_feedback: bool = True
    values: Coding = "fp32"

    def sends(self) -> PayloadKind:
        """Send a difference."""
        return "delta"

    def start(self, schema: ModelSchema) -> Arrays:
        """Start with nothing left over."""
        return nothing_left(schema) if self.error_feedback else {}

    def compress(
        self, weights: Vector, base: Base, state: Arrays, rng: np.random.Generator
    ) -> tuple[Content, Arrays]:
        """Send the large ones; keep the rest."""
        del rng
        total = wanted(weights, base, state)
        small = np.abs(total) < self.threshold  # a NaN is not, and is sent
        positions = np.flatnonzero(~small)
        sent = coded_at(total[positions], positions, self.values, base.schema)
        return sent, left_over(total, sent, state)
