"""A buffer of updates makes a version (Nguyen et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from policies.aggregation.base import (
    AggregationPolicy,
    Applied,
    Pacing,
    mean_of_weights,
    touched,
)
from policies.aggregation.sums import CellSum, counts, mean_of_sums, touched_by
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Contribution


class FedBuff(AggregationPolicy):
    """Aggregate a full buffer of updates.

    Form `delta`: add their staleness-weighted mean, ``w += rate / K * sum s(d_i) D_i``. The sum
    is divided by K once, not by the sum of the weights: late updates shorten the step.

    Form `weights`: replace the model by the mean of a buffer of whole weights,
    ``w = sum s(d_i) n_i w_i / sum s(d_i) n_i``, with nothing of the old model mixed in: what
    sparse weights need under asynchrony, since a zero stays zero only if no older model comes
    back.

    Source:
        Nguyen et al. 2022, arXiv:2106.06639, with their eta_g as `rate` and K as `size`. The form
        `weights` is our choice.
    """

    kind: Literal["fedbuff"] = "fedbuff"
    form: Literal["delta", "weights"] = "delta"
    size: PositiveInt = 10
    rate: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _a_mean_has_no_rate(self) -> Self:
        if self.form == "weights" and self.rate != 1:
            raise PydanticCustomError(
                "no_rate",
                "rate is for form delta; in form weights the mean replaces the model. "
                "Leave rate out, or set form to delta.",
            )
        return self

    def takes(self) -> frozenset[PayloadKind]:
        """Deltas or weights, as the form says."""
        return frozenset({self.form})

    def pacing(self) -> Pacing:
        """A full buffer is a version."""
        return Pacing(size=self.size)

    def keeps_zeros(self) -> bool:
        """Say whether the form replaces the model."""
        return self.form == "weights"

    def elementwise(self) -> bool:
        """Say yes."""
        return True

    def apply(
        self, model: Vector, memory: Arrays, batch: Sequence[Contribution], version: int
    ) -> Applied:
        """Add each update's share, in the order of arrival."""
        del version
        if self.form == "weights":
            mean_of_weights(model, batch)
            return Applied(memory)
        for contribution in batch:
            share = self.rate * contribution.weight / len(batch)
            contribution.content.add_to(model, share)
        return Applied(memory, touched(batch))

    def factor(self, contribution: Contribution) -> float:
        """Return s(d), times the examples in form `weights`."""
        return contribution.weight if self.form == "delta" else counts(contribution)

    def apply_sums(
        self, model: Vector, memory: Arrays, sums: Sequence[CellSum], version: int
    ) -> Applied:
        """Add each cell's sum; the step is that of all updates together."""
        del version
        if self.form == "weights":
            mean_of_sums(model, sums)
            return Applied(memory)
        updates = sum(cell.updates for cell in sums)
        for cell in sums:
            cell.content.add_to(model, self.rate / updates)
        return Applied(memory, touched_by(cell.content for cell in sums))
