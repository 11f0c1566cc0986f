"""What must every way of making the next version say about itself?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.base import Policy
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Contribution


@dataclass(frozen=True, slots=True)
class Pacing:
    """When a version is due.

    Attributes:
        size: Accepted updates that make a version.
        cohort: Clients asked together, once a version (synchronous rounds); None keeps
            `concurrency` clients busy at all times.
        deadline_s: A round closes this long after it began, if anything has come; None waits.
    """

    size: int
    cohort: int | None = None
    deadline_s: float | None = None


class AggregationPolicy(Policy):
    """Makes the next version out of accepted updates."""

    @abstractmethod
    def takes(self) -> frozenset[PayloadKind]:
        """Return the kinds of payload that it can aggregate."""

    @abstractmethod
    def pacing(self) -> Pacing:
        """Return when a version is due."""

    def start(self, parameters: int) -> Arrays:
        """Return the memory before the first version; most methods have none."""
        del parameters
        return {}

    @abstractmethod
    def apply(self, model: Vector, memory: Arrays, batch: Sequence[Contribution]) -> Arrays:
        """Move `model`, shape (P,), to the next version in place; return the new memory.

        The server alone owns `model`, and publishes a copy: in place is what lets a large model
        through without a second one. `memory` is a value: it is not changed.
        """

    def buffer_rate(self, batch: Sequence[Contribution]) -> float:
        """Return how far normalisation buffers move to the batch's weighted mean, in [0, 1]."""
        del batch
        return 1.0

    def flops(self, nonzeros: int) -> float:
        """Return what taking one update of that many values costs the server."""
        return 2.0 * nonzeros


def mean_buffers(batch: Sequence[Contribution]) -> Vector:
    """Average the reported normalisation buffers as values.

    Weighted by examples times staleness weight (our choice: no source treats buffers under
    asynchrony); plain when all those weights are zero.

    Returns:
        Shape (B,), float32, summed in float64 in the batch's order.
    """
    weights = np.array([max(c.update.examples, 0) * c.weight for c in batch], dtype=np.float64)
    if weights.sum() <= 0:
        weights = np.ones(len(batch))
    total = np.zeros(batch[0].update.buffers.size, dtype=np.float64)
    for share, contribution in zip(weights / weights.sum(), batch, strict=True):
        total += share * contribution.update.buffers
    return total.astype(np.float32)
