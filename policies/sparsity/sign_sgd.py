"""Vote with the sign of every change."""

from __future__ import annotations

from typing import Literal

import numpy as np

from policies.sparsity.base import UplinkPolicy
from policies.sparsity.coded import not_finite
from policies.sparsity.feedback import difference
from policies.sparsity.signs import votes
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Base, Content


class SignSGD(UplinkPolicy):
    """Vote for the sign of every entry of the gradient that is not exactly 0; keep nothing.

    Source:
        Bernstein et al. 2019, arXiv:1810.05291, signSGD with majority vote. Our choice: the
        gradient is the pseudo-gradient, base - weights, and an exact 0 abstains (theirs has no 0).
    """

    kind: Literal["sign-sgd"] = "sign-sgd"

    def sends(self) -> PayloadKind:
        """Send votes."""
        return "votes"

    def compress(
        self, weights: Vector, base: Base, state: Arrays, rng: np.random.Generator
    ) -> tuple[Content, Arrays]:
        """Vote on everything."""
        del rng
        gradient = difference(base.values, weights)
        broken = not_finite(gradient)
        if broken is not None:
            return broken, state
        return votes(gradient, np.flatnonzero(gradient)), state
