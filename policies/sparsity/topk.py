"""Send the largest changes, keep the rest for the next time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from typing import Literal

import numpy as np
from pydantic import Field

from policies.sparsity.base import UplinkPolicy
from policies.sparsity.coded import BITS, Coding, coded_at
from policies.sparsity.feedback import left_over, nothing_left, wanted
from policies.types import Arrays, PayloadKind, Positions, Vector
from policies.update import Base, Content, ModelSchema

Scope = Literal["model", "tensor"]
"""Compare all parameters with each other, or those of one tensor."""


def top_k(values: Vector, k: int) -> Positions:
    """Return the positions of the k largest magnitudes, in increasing order.

    Equal magnitudes go by position, the lowest first, so that every machine chooses the same.
    A NaN is larger than any number, so that it is sent and seen.

    Args:
        values: Shape (n,), float32.
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
    if 2 * np.count_nonzero(values.view(np.int32)) < values.size:  # many equal zeros are slow
        return _among(values, np.flatnonzero(values), k)
    return _largest(values, k)


def _among(values: Vector, nonzero: Positions, k: int) -> Positions:
    """Return the k largest where all but `nonzero` are 0: those, and the first zeros if need be."""
    if nonzero.size >= k:
        return nonzero if nonzero.size == k else nonzero[_largest(values[nonzero], k)]
    zero = np.flatnonzero(values == 0)[: k - nonzero.size]
    return np.sort(np.concatenate([nonzero, zero]))


def _largest(values: Vector, k: int) -> Positions:
    """Return the k largest by selection, 0 < k < n."""
    magnitudes = np.abs(values).view(np.int32)
    threshold = np.partition(magnitudes, values.size - k)[values.size - k]
    chosen = np.flatnonzero(magnitudes >= threshold)
    surplus = chosen.size - k
    if surplus:
        ties = np.flatnonzero(magnitudes[chosen] == threshold)
        chosen = np.delete(chosen, ties[ties.size - surplus :])
    return chosen


def share(density: float, size: int) -> int:
    """Return ``ceil(density * size)``, at least 1 of any; a rounding error adds nothing."""
    return min(size, max(1, ceil(density * size - 1e-9)))


def shares(density: float, scope: Scope, schema: ModelSchema) -> list[int]:
    """Return how many are the largest: of the model, or of each tensor."""
    sizes = [schema.parameters] if scope == "model" else schema.sizes
    return [share(density, size) for size in sizes]


def select(values: Vector, density: float, scope: Scope, base: Base) -> Positions:
    """Return the positions of the largest magnitudes that live, in increasing order.

    Args:
        values: Shape (P,).
        density: Share of those that live, in (0, 1].
        scope: One threshold for the model, or one for each tensor.
        base: Its schema says where tensors begin, its mask what lives.
    """
    if base.mask is None:
        return _select(values, density, scope, base.schema.offsets)
    living = base.mask.positions
    cuts = np.searchsorted(living, base.schema.offsets).tolist()
    chosen: Positions = living[_select(values[living], density, scope, cuts)]
    return chosen


def _select(values: Vector, density: float, scope: Scope, offsets: Sequence[int]) -> Positions:
    if scope == "model":
        return top_k(values, share(density, values.size))
    pieces = [
        begin + top_k(values[begin:end], share(density, end - begin))
        for begin, end in pairwise(offsets)
    ]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)


class TopK(UplinkPolicy):
    """Send the `ceil(density * P)` largest entries of the difference.

    With error feedback what is not sent is added to the next difference:
    ``a = e + D; sent = top_k(a); e = a - sent``.

    Attributes:
        density: Share of the entries that is sent.
        error_feedback: Whether the rest is kept for the next time.
        scope: The largest of the model, or `max(1, ceil(density * n))` of each tensor of n.
        values: How a value is written; with feedback the rounding is made up for, too.

    Source:
        Stich et al. 2018, arXiv:1809.07599. Scope and coded values are our choice.
    """

    kind: Literal["top-k"] = "top-k"
    density: float = Field(default=0.05, gt=0, le=1)
    error_feedback: bool = True
    scope: Scope = "model"
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
        """Send the largest; keep the rest."""
        del rng
        total = wanted(weights, base, state)
        positions = select(total, self.density, self.scope, base)
        sent = coded_at(total[positions], positions, self.values, base.schema)
        return sent, left_over(total, sent, state)

    def least_bits(self, schema: ModelSchema) -> float:
        """Return k values' bits."""
        return float(BITS[self.values] * sum(shares(self.density, self.scope, schema)))
