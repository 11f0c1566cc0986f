"""Send the largest weights, as they are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from policies.sparsity.base import UplinkPolicy
from policies.sparsity.topk import share, top_k
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Base, Content, Contribution, ModelSchema, Move, Sparse

Words = npt.NDArray[np.uint64]
"""One bit a parameter, in 64-bit words."""


class SparseWeights(UplinkPolicy):
    """Send the `ceil(density * n)` largest of the n prunable weights, and all that is not prunable.

    Magnitudes are compared over all prunable tensors together, so that layers differ in density;
    equal ones go by position, the lowest first. A prunable weight that is exactly 0 is not sent,
    even if fewer are left. Weights are sent, and no difference, whose support would be the union
    of two; what is not sent is 0 to the server.

    Attributes:
        density: Share of the prunable weights that is sent.

    Source:
        Guastella et al. 2025, arXiv:2504.05153 (SparsyFed): what a client uploads.
    """

    kind: Literal["sparse-weights"] = "sparse-weights"
    density: float = Field(default=0.05, gt=0, le=1)

    def sends(self) -> PayloadKind:
        """Send weights."""
        return "weights"

    def zeros_count(self) -> bool:
        """Say yes: what is missing was pruned."""
        return True

    def compress(
        self, weights: Vector, base: Base, state: Arrays, rng: np.random.Generator
    ) -> tuple[Content, Arrays]:
        """Send what is left of the weights."""
        del rng
        prunable = base.schema.prunable
        candidates = np.where(prunable, weights, np.float32(0))
        largest = top_k(candidates, share(self.density, int(np.count_nonzero(prunable))))
        kept = ~prunable
        kept[largest] |= candidates[largest] != 0
        positions = np.flatnonzero(kept)
        return Sparse(positions, weights[positions]), state

    def least_bits(self, schema: ModelSchema) -> float:
        """Return the bits of what is not prunable; the rest may all be 0."""
        return 32.0 * int(np.count_nonzero(~schema.prunable))

    def measure(self, batch: Sequence[Contribution], move: Move) -> dict[str, float]:
        """Return the method's own figures, over the prunable weights.

        `regrowth` counts weights that were 0 and are not any more, `density` is the share of the
        new model that is not 0, `excess_density` what that is above the target, and
        `mask_jaccard` how alike the clients' supports are: the mean over all pairs of what they
        share by what they have together, from two clients on.
        """
        prunable = move.schema.prunable
        total = int(np.count_nonzero(prunable))
        if not total:
            return {}
        after = (move.after != 0) & prunable
        density = int(np.count_nonzero(after)) / total
        figures = {
            "regrowth": float(np.count_nonzero(after & (move.before == 0))),
            "density": density,
            "excess_density": density - self.density,
        }
        if len(batch) > 1:
            figures["mask_jaccard"] = mean_jaccard(
                [_support(c.update.content, prunable) for c in batch]
            )
        return figures


def _support(content: Content, prunable: npt.NDArray[np.bool_]) -> Words:
    """Return where a payload has prunable weights other than 0, as bits."""
    support = np.zeros(prunable.size, dtype=np.bool_)
    reached = content.touches()
    support[slice(None) if reached is None else reached] = content.values != 0
    packed = np.packbits(support & prunable)
    return np.pad(packed, (0, -packed.size % 8)).view(np.uint64)


def mean_jaccard(supports: Sequence[Words]) -> float:
    """Return the mean over all pairs of ``|A and B| / |A or B|``; two empty ones are alike.

    Args:
        supports: Two or more, as bits, each of the same shape.

    Cost:
        P / 8 bytes of work a pair.
    """
    sizes = [_ones(support) for support in supports]
    alike: list[float] = []
    for a, b in combinations(range(len(supports)), 2):
        shared = _ones(supports[a] & supports[b])
        either = sizes[a] + sizes[b] - shared
        alike.append(shared / either if either else 1.0)
    return sum(alike) / len(alike)


def _ones(words: Words) -> int:
    return int(np.bitwise_count(words).sum(dtype=np.int64))
