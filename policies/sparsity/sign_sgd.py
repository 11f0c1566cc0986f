"""Vote with the sign of every change."""

from __future__ import annotations

from typing import Literal

import numpy as np

from policies.sparsity.base import UplinkPolicy
from policies.sparsity.coded import not_finite
from policies.sparsity.feedback import alive, difference
from policies.sparsity.signs import votes
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Base, Content, Dense, Masked, Quantised


class SignSGD(UplinkPolicy):
    """Vote for the sign of every entry of the gradient; keep nothing.

    Attributes:
        zeros: What an entry does that is exactly 0, as those behind an inactive unit are. `toss`
            votes at random, which leaves the majority unbiased and costs one bit a parameter, no
            more and no less. `abstain` says nothing, which then costs saying where.

    Source:
        Bernstein et al. 2019, arXiv:1810.05291, signSGD with majority vote: one bit a parameter.
        Their sign has no 0; what a 0 does is our choice, and so is the pseudo-gradient,
        base - weights, in place of one gradient.
    """

    kind: Literal["sign-sgd"] = "sign-sgd"
    zeros: Literal["toss", "abstain"] = "toss"

    def sends(self) -> PayloadKind:
        """Send votes."""
        return "votes"

    def compress(
        self, weights: Vector, base: Base, state: Arrays, rng: np.random.Generator
    ) -> tuple[Content, Arrays]:
        """Vote on everything."""
        gradient = alive(difference(base.values, weights), base)
        broken = not_finite(gradient)
        if broken is not None:
            return broken, state
        if self.zeros == "abstain":
            return votes(gradient, np.flatnonzero(gradient)), state
        if base.mask is not None:
            gradient = gradient[base.mask.positions]
        codes = np.where(gradient < 0, -1, 1).astype(np.int8)
        undecided = np.flatnonzero(gradient == 0)
        codes[undecided] = 2 * rng.integers(0, 2, undecided.size, dtype=np.int8) - 1
        values, code = codes.astype(np.float32), Quantised("sign", codes)
        if base.mask is not None:
            return Masked(base.mask, values, code), state
        return Dense(values, code), state
