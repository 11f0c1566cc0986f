"""Send the signs of the largest changes, and one magnitude a tensor."""

from __future__ import annotations

from math import floor, log, log2, sqrt
from typing import Literal

import numpy as np
from pydantic import Field

from policies.sparsity.base import UplinkPolicy
from policies.sparsity.coded import not_finite
from policies.sparsity.feedback import left_over, nothing_left, wanted
from policies.sparsity.topk import select
from policies.types import Arrays, PayloadKind, Positions, Vector
from policies.update import Base, Content, ModelSchema, Quantised, Sparse
from policies.wire import dequantise


def mean_signs(values: Vector, positions: Positions, schema: ModelSchema) -> Quantised:
    """Code values as their signs times the mean magnitude of their tensor.

    Args:
        values: Shape (k,), finite, none of them 0.
        positions: Whose they are, shape (k,).
        schema: The model's tensors.
    """
    counts = np.diff(np.searchsorted(positions, schema.offsets))
    tensors = np.repeat(np.arange(counts.size), counts)
    sums = np.bincount(tensors, weights=np.abs(values), minlength=counts.size)
    means = (sums / np.maximum(counts, 1)).astype(np.float32)
    return Quantised("level", np.where(values < 0, -1, 1).astype(np.int8), means)


def golomb_bits(density: float) -> float:
    """Return the bits that STC's authors give for one value: its position and its sign.

    A position is the gap to the one before, Golomb coded with a divisor of ``2 ** b``, where
    ``b = 1 + floor(log2(log(phi - 1) / log(1 - p)))`` and phi is the golden ratio; that takes
    ``b + 1 / (1 - (1 - p) ** (2 ** b))`` bits in the mean. The sign takes one more.

    Args:
        density: Their p, in (0, 1).

    Source:
        Sattler et al. 2019, arXiv:1903.02891. It is for p below 0.38, where b is at least 1; we
        go on with b = 0, a unary code.
    """
    golden = (sqrt(5) + 1) / 2
    remainder = max(0, 1 + floor(log2(log(golden - 1) / log(1 - density))))
    quotient = 1 / (1 - (1 - density) ** (1 << remainder))
    return remainder + quotient + 1


class STC(UplinkPolicy):
    """Send the largest entries of each tensor as their sign times their mean magnitude.

    Of a tensor of n entries `max(1, ceil(density * n))` are kept; entries that are exactly 0 are
    not sent and do not count in the mean (our choice: the paper's sign of 0 is open). Error
    feedback keeps the rest: ``e = a - sent``.

    Attributes:
        density: Share of each tensor that is sent.

    Source:
        Sattler et al. 2019, arXiv:1903.02891; their p is `density`. They go on to the downlink the
        same way: downlink `top-k` with values `level`. Our coding of positions takes about as
        much as theirs (`golomb_bits`).
    """

    kind: Literal["stc"] = "stc"
    density: float = Field(default=0.01, gt=0, le=1)

    def sends(self) -> PayloadKind:
        """Send a difference."""
        return "delta"

    def start(self, schema: ModelSchema) -> Arrays:
        """Start with nothing left over."""
        return nothing_left(schema)

    def compress(
        self, weights: Vector, base: Base, state: Arrays, rng: np.random.Generator
    ) -> tuple[Content, Arrays]:
        """Send the largest as one magnitude; keep the rest."""
        del rng
        total = wanted(weights, base, state)
        broken = not_finite(total)
        if broken is not None:
            return broken, state
        positions = select(total, self.density, "tensor", base)
        positions = positions[total[positions] != 0]
        code = mean_signs(total[positions], positions, base.schema)
        sent = Sparse(positions, dequantise(code, positions, base.schema), code)
        return sent, left_over(total, sent, state)
