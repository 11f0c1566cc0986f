"""What must every way of making the next version say about itself?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from policies.aggregation.sums import CellSum, counts, touched_by
from policies.base import Policy
from policies.types import Arrays, PayloadKind, Positions, RunError, Vector
from policies.update import Contribution, ModelSchema, Sparse


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


@dataclass(frozen=True, slots=True)
class Applied:
    """What an aggregation did.

    Attributes:
        memory: What it remembers from now on.
        touched: Positions that it can have changed, in pieces that may overlap; None for all.
        step: What it added to the model, if that was one sparse vector with few bits a value, so
            that others can repeat it exactly.
        measures: Figures that the method is known by, for the log and MLflow.
    """

    memory: Arrays
    touched: Sequence[Positions] | None = None
    step: Sparse | None = None
    measures: Mapping[str, float] = field(default_factory=dict)


class AggregationPolicy(Policy):
    """Makes the next version out of accepted updates."""

    @abstractmethod
    def takes(self) -> frozenset[PayloadKind]:
        """Return the kinds of payload that it can aggregate."""

    @abstractmethod
    def pacing(self) -> Pacing:
        """Return when a version is due."""

    def keeps_zeros(self) -> bool:
        """Say whether a version is zero wherever all updates in it are.

        Sparse weights need it: what every client has pruned must go. False is always safe.
        """
        return False

    def elementwise(self) -> bool:
        """Say whether each parameter moves by what updates hold there alone.

        So must the memory, whose arrays have an entry for each parameter if they are as long, and
        no figure may depend on parameters. Then several servers can each hold a part of the model;
        False is always safe.
        """
        return False

    def adds(self) -> bool:
        """Say whether a version depends on the weighted sum of its updates alone.

        Then cells can sum their own updates first. Whoever defines `factor` and `apply_sums` says
        so; who then defines another `apply` must define them anew.
        """
        takes = [kind for kind in type(self).__mro__ if {"apply", "apply_sums"} & vars(kind).keys()]
        return takes[0] is not AggregationPolicy and "apply_sums" in vars(takes[0])

    def weighs_lateness(self) -> bool:
        """Say whether updates count as much as the staleness policy says.

        Where they do not, another staleness than `constant` is refused.
        """
        return True

    def judges_lateness(self) -> bool:
        """Say whether it deals with lateness by itself, so that updates weigh the same unless set.

        A method that does not weigh them always does.
        """
        return not self.weighs_lateness()

    def bases_bytes(self) -> int:
        """Return how much the server keeps of past models, to tell what updates started from.

        0 keeps none, and contributions come without a `base`.
        """
        return 0

    def echoes(self) -> bool:
        """Say whether a version can move a parameter that no update in it holds.

        What the memory holds of older updates then grows back where weights were pruned.
        """
        return False

    def among(self, clients: int) -> Self:
        """Return this policy as it is in a fleet of so many clients; most do not ask."""
        del clients
        return self

    def start(self, schema: ModelSchema) -> Arrays:
        """Return the memory before the first version; most methods have none."""
        del schema
        return {}

    @abstractmethod
    def apply(
        self, model: Vector, memory: Arrays, batch: Sequence[Contribution], version: int
    ) -> Applied:
        """Move `model`, shape (P,), to the next version in place.

        The server alone owns `model`, and publishes a copy: in place is what lets a large model
        through without a second one. `memory` is a value: it is not changed.

        Args:
            model: The newest version.
            memory: What the policy remembers.
            batch: The updates, in the order of arrival.
            version: Number of the version that is made.
        """

    def factor(self, contribution: Contribution) -> float:
        """Return what an update counts in its cell's sum, where `adds` says yes."""
        raise NotImplementedError(f"{self.kind} has updates summed, and does not say by what")

    def apply_sums(
        self, model: Vector, memory: Arrays, sums: Sequence[CellSum], version: int
    ) -> Applied:
        """Move `model` as `apply` would by the updates of all cells, given their sums.

        Args:
            model: The newest version.
            memory: What the policy remembers.
            sums: One a cell that has updates in the version, in the order of cells.
            version: Number of the version that is made.
        """
        raise NotImplementedError(f"{self.kind} has updates summed, and does not take the sums")

    def buffer_rate(self, batch: Sequence[Contribution]) -> float:
        """Return how far normalisation buffers move to the batch's weighted mean, in [0, 1]."""
        del batch
        return 1.0

    def flops(self, nonzeros: int) -> float:
        """Return what taking one update of that many values costs the server."""
        return 2.0 * nonzeros


def base_of(contribution: Contribution) -> Vector:
    """Return the model that an update was trained from, shape (P,).

    Raises:
        RunError: If it did not come with the update.
    """
    if contribution.base is None:
        raise RunError(
            f"{contribution.update.address} came without its base. An aggregation that compares "
            "with it must say so by bases_bytes()."
        )
    return contribution.base


def touched(batch: Sequence[Contribution]) -> list[Positions] | None:
    """Return what adding the updates of a batch can change; None for everything."""
    return touched_by(c.content for c in batch)


def example_shares(batch: Sequence[Contribution]) -> npt.NDArray[np.float64]:
    """Return each update's share by examples times staleness weight, summing to 1.

    Plain shares when all those weights are zero.
    """
    weights = np.array([counts(c) for c in batch], dtype=np.float64)
    if weights.sum() <= 0:
        weights = np.ones(len(batch))
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


def mean_of_weights(model: Vector, batch: Sequence[Contribution]) -> None:
    """Replace `model` by ``sum s_k n_k w_k / sum s_k n_k``; what an update lacks counts as 0."""
    model[:] = 0
    for share, contribution in zip(example_shares(batch), batch, strict=True):
        contribution.content.add_to(model, float(share))


def mean_buffers(batch: Sequence[Contribution]) -> Vector:
    """Average the reported normalisation buffers as values.

    Weighted by examples times staleness weight (our choice: no source treats buffers under
    asynchrony); plain when all those weights are zero.

    Returns:
        Shape (B,), float32, summed in float64 in the batch's order.
    """
    total = np.zeros(batch[0].update.buffers.size, dtype=np.float64)
    for share, contribution in zip(example_shares(batch), batch, strict=True):
        total += share * contribution.update.buffers
    return total.astype(np.float32)
