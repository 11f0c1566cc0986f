"""Every update makes a version (Xie et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from policies.aggregation.base import AggregationPolicy, Applied, Pacing, touched
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Contribution


class FedAsync(AggregationPolicy):
    """Step towards each update as it arrives.

    Form `delta`: ``w += rate * s(d) * D_k``. Form `mix`: ``w += rate * s(d) * (w_k - w)``, which
    moves every coordinate at every version and needs whole weights on the uplink. The rate itself
    never changes: s(d) multiplies it afresh at each step.

    Source:
        Xie et al. 2019, arXiv:1903.03934 mixes (their alpha is `rate`); the form on deltas is the
        common one for compressed uplinks, and our choice as the default.
    """

    kind: Literal["fedasync"] = "fedasync"
    form: Literal["delta", "mix"] = "delta"
    rate: float = Field(default=0.6, gt=0, le=1)

    def takes(self) -> frozenset[PayloadKind]:
        """Deltas, or whole weights to mix."""
        return frozenset({"delta"}) if self.form == "delta" else frozenset({"weights"})

    def pacing(self) -> Pacing:
        """Every accepted update is a version."""
        return Pacing(size=1)

    def elementwise(self) -> bool:
        """Say yes."""
        return True

    def apply(
        self, model: Vector, memory: Arrays, batch: Sequence[Contribution], version: int
    ) -> Applied:
        """Take one step per update."""
        del version
        for contribution in batch:
            step = self.rate * contribution.weight
            if self.form == "mix":
                model *= np.float32(1.0 - step)
            contribution.content.add_to(model, step)
        return Applied(memory, None if self.form == "mix" else touched(batch))

    def buffer_rate(self, batch: Sequence[Contribution]) -> float:
        """Move buffers as far as the weights."""
        return self.rate * batch[-1].weight
