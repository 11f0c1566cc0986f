"""Send the largest changes, keep the rest for the next time."""

from __future__ import annotations

from math import ceil
from typing import Literal

import numpy as np
from pydantic import Field

from policies.sparsity.base import UplinkPolicy
from policies.types import Arrays, PayloadKind, Positions, Vector
from policies.update import Content, ModelSchema, Sparse


def top_k(values: Vector, k: int) -> Positions:
    """Return the positions of the k largest magnitudes, in increasing order.

    Equal magnitudes go by position, the lowest first, so that every machine chooses the same.

    Args:
        values: Shape (n,), float32, free of NaN.
        k: 0 <= k <= n.

    Returns:
        Shape (k,), int64.

    Cost:
        O(n): one selection on the magnitudes' bit patterns, which order as the magnitudes do.
    """
    if k >= values.size:
        return np.arange(values.size, dtype=np.int64)
    if k <= 0:
        return np.empty(0, dtype=np.int64)
    magnitudes = np.abs(values).view(np.int32)
    threshold = np.partition(magnitudes, values.size - k)[values.size - k]
    chosen = np.flatnonzero(magnitudes >= threshold)
    surplus = chosen.size - k
    if surplus:
        ties = np.flatnonzero(magnitudes[chosen] == threshold)
        chosen = np.delete(chosen, ties[ties.size - surplus :])
    return chosen


class TopK(UplinkPolicy):
    """Send the `ceil(density * P)` largest entries of the difference.

    With error feedback what is not sent is added to the next difference:
    ``a = e + D; sent = top_k(a); e = a - sent``.

    Source:
        Stich et al. 2018, arXiv:1809.07599.
    """

    kind: Literal["top-k"] = "top-k"
    density: float = Field(default=0.05, gt=0, le=1)
    error_feedback: bool = True

    def sends(self) -> PayloadKind:
        """Send a difference."""
        return "delta"

    def start(self, schema: ModelSchema) -> Arrays:
        """Start with nothing left over."""
        if not self.error_feedback:
            return {}
        return {"residual": np.zeros(schema.parameters, dtype=np.float32)}

    def compress(self, weights: Vector, base: Vector, state: Arrays) -> tuple[Content, Arrays]:
        """Send the largest; keep the rest."""
        wanted = np.subtract(weights, base)
        if self.error_feedback:
            wanted += state["residual"]
        positions = top_k(wanted, self._count(wanted.size))
        sent = Sparse(positions, wanted[positions])
        if not self.error_feedback:
            return sent, state
        wanted[positions] = 0
        return sent, {"residual": wanted}

    def least_nonzeros(self, schema: ModelSchema) -> int:
        """Return k."""
        return self._count(schema.parameters)

    def _count(self, size: int) -> int:
        return min(size, ceil(self.density * size - 1e-9))
