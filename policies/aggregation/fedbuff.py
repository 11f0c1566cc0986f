"""A buffer of updates makes a version (Nguyen et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from policies.aggregation.base import AggregationPolicy, Pacing
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Contribution


class FedBuff(AggregationPolicy):
    """Add the staleness-weighted mean of a full buffer: ``w += rate / K * sum s(d_i) D_i``.

    The sum is divided by K once, not by the sum of the weights: late updates shorten the step.

    Source:
        Nguyen et al. 2022, arXiv:2106.06639, with their eta_g as `rate` and K as `size`.
    """

    kind: Literal["fedbuff"] = "fedbuff"
    size: PositiveInt = 10
    rate: PositiveFloat = 1.0

    def takes(self) -> frozenset[PayloadKind]:
        """Deltas."""
        return frozenset({"delta"})

    def pacing(self) -> Pacing:
        """A full buffer is a version."""
        return Pacing(size=self.size)

    def apply(self, model: Vector, memory: Arrays, batch: Sequence[Contribution]) -> Arrays:
        """Add each update's share, in the order of arrival."""
        for contribution in batch:
            share = self.rate * contribution.weight / len(batch)
            contribution.update.content.add_to(model, share)
        return memory
