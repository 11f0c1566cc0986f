"""A round's mean is a gradient for Adam at the server (Reddi et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, PositiveFloat

from policies.aggregation.base import Applied, example_shares
from policies.aggregation.fedavg import Rounds
from policies.aggregation.moments import Moments, adaptive_step, zeros
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Contribution, ModelSchema


class FedAdam(Rounds):
    """Let Adam at the server take the mean of a round for its gradient.

        D = sum n_k D_k / sum n_k ;  m = beta1 m + (1 - beta1) D ;  v = beta2 v + (1 - beta2) D * D
        w += rate * m / (sqrt(v) + epsilon)

    m starts at 0 and v at epsilon^2, without bias correction. Rounds are those of FedAvg.

    Attributes:
        rate: Their eta (our choice of 0.01: the source tunes it).
        beta1: Share of the old momentum that stays.
        beta2: Share of the old mean square that stays.
        epsilon: Their tau: how adaptive the step is; the larger, the less.

    Source:
        Reddi et al., ICLR 2021, arXiv:2003.00295, algorithm 2, for 0.9, 0.99 and 1e-3. Its mean
        is plain; weighing by examples, as FedAvg does, is our choice.

    Cost:
        Two vectors of the model's length in memory.
    """

    kind: Literal["fedadam"] = "fedadam"
    rate: PositiveFloat = 0.01
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    epsilon: PositiveFloat = 1e-3

    def takes(self) -> frozenset[PayloadKind]:
        """Deltas."""
        return frozenset({"delta"})

    def elementwise(self) -> bool:
        """Say yes."""
        return True

    def echoes(self) -> bool:
        """Say yes: the momentum."""
        return True

    def start(self, schema: ModelSchema) -> Arrays:
        """Remember no gradient."""
        variance = np.full(schema.parameters, self.epsilon**2, dtype=np.float32)
        return {"momentum": zeros(schema.parameters), "variance": variance}

    def apply(
        self, model: Vector, memory: Arrays, batch: Sequence[Contribution], version: int
    ) -> Applied:
        """Take the mean, bring the moments on, step."""
        del version
        mean = np.zeros_like(model)
        for share, contribution in zip(example_shares(batch), batch, strict=True):
            contribution.content.add_to(mean, float(share))
        found = Moments.of(memory).follow(mean, self.beta1, self.beta2)
        adaptive_step(model, *found, rate=self.rate, epsilon=self.epsilon)
        return Applied({**memory, **found._asdict()})
