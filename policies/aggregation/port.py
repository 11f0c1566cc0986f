"""Late updates that pull another way than the model count less (Su and Li 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from policies.aggregation.base import AggregationPolicy, Applied, Pacing, base_of, touched
from policies.distances import cosine
from policies.types import Arrays, PayloadKind, Vector
from policies.units import Bytes
from policies.update import Contribution


class Port(AggregationPolicy):
    """Average a buffer by examples, lateness, and agreement with where the model has gone.

    As soon as `size` updates are there, ``w += sum p_i D_i``, where the p_i sum to 1 and

        p_i  ~  n_i * (similarity_weight * (1 + cos_i) / 2  +  staleness_weight * b / (b + d_i))

    with d_i the staleness in versions, b the `bound`, and cos_i the cosine of the angle between
    D_i and ``w_t - w_tau``, the way that the model has gone since the client took its base: an
    update that interferes with it counts less. Where the model has not moved, cos_i is 1. If all
    p_i are zero, they are equal.

    From the source: the two terms, their sum, the examples, that the p_i are normalised, and that
    a version takes at least so many updates. Its authors' code takes the movement of the last two
    versions for every update that is more than one late; we take it from the update's own base,
    as the comment there describes it (our choice). Left out: the source's server *waits* for a
    client once it is later than the bound, and asks it to hand in what it has. Here nobody waits:
    `method.staleness.max_staleness` rejects what is later, and `bound` alone shapes the weight.

    Attributes:
        size: The least number of updates that make a version.
        similarity_weight: Of the first term.
        staleness_weight: Of the second term.
        bound: Their staleness bound: as late as this, an update's second term is a half.
        bases: How much of past models the server keeps. For an update of a version that is no
            longer kept, the movement begins at the oldest one that is (our choice); the measure
            `bases_lacking` says how often.

    Source:
        Su and Li, IWQoS 2022, and the authors' code in TL-System/plato.
    """

    kind: Literal["port"] = "port"
    size: PositiveInt = 10
    similarity_weight: NonNegativeFloat = 1.0
    staleness_weight: NonNegativeFloat = 1.0
    bound: PositiveFloat = 10.0
    bases: Annotated[Bytes, Field(gt=0)] = 512_000_000

    @model_validator(mode="after")
    def _something_weighs(self) -> Self:
        if self.similarity_weight == self.staleness_weight == 0:
            raise PydanticCustomError(
                "no_weight",
                "similarity_weight and staleness_weight must not both be 0: nothing would weigh "
                "anything. Raise one, or take fedavg or fedbuff.",
            )
        return self

    def takes(self) -> frozenset[PayloadKind]:
        """Deltas."""
        return frozenset({"delta"})

    def pacing(self) -> Pacing:
        """A full buffer is a version."""
        return Pacing(size=self.size)

    def weighs_lateness(self) -> bool:
        """Say no: the bound does."""
        return False

    def bases_bytes(self) -> int:
        """Return `bases`."""
        return self.bases

    def apply(
        self, model: Vector, memory: Arrays, batch: Sequence[Contribution], version: int
    ) -> Applied:
        """Weigh all against the model before them, then add."""
        del version
        cosines = [cosine(c.content, base_of(c), model) for c in batch]
        shares = self._shares(batch, cosines)
        for share, contribution in zip(shares.tolist(), batch, strict=True):
            contribution.content.add_to(model, share)
        measures = {"similarity": float(np.mean(cosines)), "largest_share": float(shares.max())}
        return Applied(memory, touched(batch), measures=measures)

    def _shares(
        self, batch: Sequence[Contribution], cosines: Sequence[float]
    ) -> npt.NDArray[np.float64]:
        weights = np.array(
            [
                max(c.update.examples, 0)
                * (
                    self.similarity_weight * (1 + found) / 2
                    + self.staleness_weight * self.bound / (self.bound + c.staleness)
                )
                for c, found in zip(batch, cosines, strict=True)
            ]
        )
        if weights.sum() <= 0:
            weights = np.ones(len(batch))
        shares: npt.NDArray[np.float64] = weights / weights.sum()
        return shares

    def flops(self, nonzeros: int) -> float:
        """Return 9 a value: two norms, a product and the step; right for dense updates."""
        return 9.0 * nonzeros
