"""Send every change as one of a few levels, rounded up or down by lot."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from policies.sparsity.base import UplinkPolicy
from policies.sparsity.coded import not_finite
from policies.sparsity.feedback import difference
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Base, Content, Quantised, Sparse
from policies.wire import dequantise
from policies.wire.values import LEAST_BLOCK

_LEAST: Final = np.finfo(np.float32).smallest_subnormal
_MOST: Final = np.finfo(np.float32).max


def _round(
    values: Vector, levels: int, bucket: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int8], Vector]:
    """Return each value's level from -levels to levels, and each bucket's worth of one level."""
    squares = np.square(values, dtype=np.float64)  # no square of a float32 overflows here
    norms = np.sqrt(np.add.reduceat(squares, np.arange(0, values.size, bucket)))
    scales = np.clip(norms / levels, _LEAST, _MOST).astype(np.float32)
    exact = np.abs(values) / np.repeat(scales, min(bucket, values.size))[: values.size]
    level = np.floor(exact)
    level += rng.random(values.size, dtype=np.float32) < exact - level
    np.minimum(level, levels, out=level)  # a scale that was rounded down leads beyond
    scales[norms == 0] = 0
    return np.copysign(level, values).astype(np.int8), scales


class QSGD(UplinkPolicy):
    """Send the difference in levels: a whole number of times its bucket's norm / levels.

    ``|v| / norm * levels`` is rounded up with the probability of its fraction, else down, so that
    the mean over all draws is the difference. What is rounded to 0 is not sent: of a bucket of d
    at most ``levels ** 2 + levels * sqrt(d)`` values are left in the mean. Nothing is kept for the
    next time.

    Attributes:
        levels: Positive levels, 1 to 127.
        bucket: Parameters that share a norm, in the order of the flat vector; 8 or more.

    Source:
        Alistarh et al. 2017, arXiv:1610.02132; their s is `levels`, their d `bucket`. Buckets may
        span tensors, as theirs; positions and levels are coded by our format, not by Elias codes.
    """

    kind: Literal["qsgd"] = "qsgd"
    levels: int = Field(default=4, ge=1, le=127)
    bucket: int = Field(default=512, ge=LEAST_BLOCK)

    def sends(self) -> PayloadKind:
        """Send a difference."""
        return "delta"

    def compress(
        self, weights: Vector, base: Base, state: Arrays, rng: np.random.Generator
    ) -> tuple[Content, Arrays]:
        """Round, and send what is not 0."""
        values = difference(weights, base.values)
        broken = not_finite(values)
        if broken is not None:
            return broken, state
        levels, scales = _round(values, self.levels, self.bucket, rng)
        positions = np.flatnonzero(levels)
        code = Quantised("level", levels[positions], scales, self.bucket)
        return Sparse(positions, dequantise(code, positions, base.schema), code), state
