"""A synchronous round makes a version (McMahan et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from policies.aggregation.base import (
    AggregationPolicy,
    Applied,
    Pacing,
    example_shares,
    mean_of_weights,
    touched,
)
from policies.aggregation.sums import CellSum, counts, mean_of_sums, touched_by
from policies.types import Arrays, PayloadKind, Vector
from policies.units import Seconds
from policies.update import Contribution


class Rounds(AggregationPolicy):
    """Makes a version of a synchronous round.

    A round asks `ceil(clients_per_round * over_selection)` clients and closes with the first
    `clients_per_round` updates, or at the deadline with what has come (at least one). Later ones
    are rejected as `round_closed`, and their work is counted as wasted.
    """

    clients_per_round: PositiveInt = 10
    over_selection: float = Field(default=1.0, ge=1)
    deadline_s: Annotated[Seconds, Field(gt=0)] | None = None

    def pacing(self) -> Pacing:
        """A round is a version."""
        cohort = ceil(self.clients_per_round * self.over_selection - 1e-9)
        return Pacing(size=self.clients_per_round, cohort=cohort, deadline_s=self.deadline_s)


class FedAvg(Rounds):
    """Average a round's updates by their examples.

    Deltas: ``w += sum n_k D_k / sum n_k``. Weights: ``w = sum n_k w_k / sum n_k``.

    Source:
        McMahan et al. 2017, arXiv:1602.05629; over-selection and deadline as in Bonawitz et al.
        2019, arXiv:1902.01046.
    """

    kind: Literal["fedavg"] = "fedavg"

    def takes(self) -> frozenset[PayloadKind]:
        """Deltas or weights."""
        return frozenset({"delta", "weights"})

    def keeps_zeros(self) -> bool:
        """Say yes: nothing of the old version is left in a mean of weights."""
        return True

    def elementwise(self) -> bool:
        """Say yes."""
        return True

    def apply(
        self, model: Vector, memory: Arrays, batch: Sequence[Contribution], version: int
    ) -> Applied:
        """Replace the model by the mean of its clients."""
        del version
        if batch[0].update.kind == "weights":
            mean_of_weights(model, batch)
            return Applied(memory)
        for share, contribution in zip(example_shares(batch), batch, strict=True):
            contribution.content.add_to(model, float(share))
        return Applied(memory, touched(batch))

    def factor(self, contribution: Contribution) -> float:
        """Return the examples, times the staleness weight (1 in a round)."""
        return counts(contribution)

    def apply_sums(
        self, model: Vector, memory: Arrays, sums: Sequence[CellSum], version: int
    ) -> Applied:
        """Divide the sum of all cells by what counts."""
        del version
        if sums[0].kind == "weights":
            mean_of_sums(model, sums)
            return Applied(memory)
        total = sum(cell.weight for cell in sums)
        for cell in sums if total > 0 else ():
            cell.content.add_to(model, 1 / total)
        return Applied(memory, touched_by(cell.content for cell in sums))
