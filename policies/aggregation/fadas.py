"""A buffer's mean is a gradient for AMSGrad at the server (Wang et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from policies.aggregation.base import AggregationPolicy, Applied, Pacing
from policies.aggregation.moments import Moments, adaptive_step, zeros
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Contribution, ModelSchema


class FADAS(AggregationPolicy):
    """Let AMSGrad at the server take the mean of a buffer for its gradient.

        D = 1/M sum D_i ;  m = beta1 m + (1 - beta1) D ;  v = beta2 v + (1 - beta2) D * D
        v^ = max(v^, v) ;  w += rate_t * m / (sqrt(v^) + epsilon)

    The division is by the running *maximum* of v. The step is cut where the buffer's largest
    staleness exceeds `tolerance`. All moments start at zero, without bias correction, as in the
    source's algorithm (its code corrects); so the first version moves every parameter by rate x
    (1 - beta1) / sqrt(1 - beta2), whatever its update: with the defaults, by the rate.

    Updates are not weighed: the mean is plain. Every parameter that was ever in an update moves
    at every version, however sparse the updates are.

    Attributes:
        size: Their M.
        rate: Their eta (our choice of 0.01: the source tunes it).
        beta1: Share of the old momentum that stays.
        beta2: Share of the old mean square that stays.
        epsilon: Keeps the division finite.
        tolerance: Their tau_c: versions of staleness up to which the step is whole.
        cut: What is done beyond: `divide` takes rate / tau_max, as the authors' code does; `cap`
            takes min(rate, 1 / tau_max), as the paper writes, which leaves a small rate as it is.

    Source:
        Wang et al., ICML 2024, arXiv:2407.18365, and the authors' code yujiaw98/FADAS, for M 5,
        tau_c 1, beta1 0.9, beta2 0.99, epsilon 1e-8.

    Cost:
        Three vectors of the model's length in memory; their new values and two more while a
        version is made.
    """

    kind: Literal["fadas"] = "fadas"
    size: PositiveInt = 5
    rate: PositiveFloat = 0.01
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    epsilon: PositiveFloat = 1e-8
    tolerance: NonNegativeInt = 1
    cut: Literal["divide", "cap"] = "divide"

    def takes(self) -> frozenset[PayloadKind]:
        """Deltas."""
        return frozenset({"delta"})

    def pacing(self) -> Pacing:
        """A full buffer is a version."""
        return Pacing(size=self.size)

    def elementwise(self) -> bool:
        """Say yes: the cut depends on no parameter."""
        return True

    def weighs_lateness(self) -> bool:
        """Say no: the step is cut."""
        return False

    def echoes(self) -> bool:
        """Say yes: the momentum."""
        return True

    def start(self, schema: ModelSchema) -> Arrays:
        """Remember no gradient."""
        names = (*Moments._fields, "largest")
        return {name: zeros(schema.parameters) for name in names}

    def reach(self, delay: int) -> float:
        """Return the rate of a version whose latest update is so many versions late."""
        if delay <= self.tolerance:
            return self.rate
        return self.rate / delay if self.cut == "divide" else min(self.rate, 1 / delay)

    def apply(
        self, model: Vector, memory: Arrays, batch: Sequence[Contribution], version: int
    ) -> Applied:
        """Take the mean, bring the moments on, step."""
        del version
        mean = np.zeros_like(model)
        for contribution in batch:
            contribution.content.add_to(mean, 1 / len(batch))
        found = Moments.of(memory).follow(mean, self.beta1, self.beta2)
        largest = np.maximum(memory["largest"], found.variance)
        delay = max(contribution.staleness for contribution in batch)
        rate = self.reach(delay)
        adaptive_step(model, found.momentum, largest, rate=rate, epsilon=self.epsilon)
        measures = {"largest_staleness": float(delay), "applied_rate": rate}
        return Applied({**memory, **found._asdict(), "largest": largest}, measures=measures)

    def flops(self, nonzeros: int) -> float:
        """Return 2 a value; the step over all parameters is part of publishing a version."""
        return 2.0 * nonzeros
