"""How much does a late update weigh?"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    SerializeAsAny,
    WrapValidator,
)

from policies.base import Policy, open_union


class StalenessPolicy(Policy):
    """Turns a staleness d >= 0, counted in versions, into a weight.

    Attributes:
        max_staleness: Updates staler than this are rejected; None takes all.
    """

    max_staleness: NonNegativeInt | None = None

    @abstractmethod
    def weight(self, staleness: int) -> float:
        """Return s(d), with s(0) = 1."""

    def accepts(self, staleness: int) -> bool:
        """Say whether an update that late still counts."""
        return self.max_staleness is None or staleness <= self.max_staleness


class Constant(StalenessPolicy):
    """Weigh every update the same: ``s(d) = 1``.

    Source:
        Xie et al. 2019, arXiv:1903.03934.
    """

    kind: Literal["constant"] = "constant"

    def weight(self, staleness: int) -> float:
        """Return 1."""
        del staleness
        return 1.0


class Polynomial(StalenessPolicy):
    """Weigh ``s(d) = (1 + d) ** -exponent``.

    Source:
        Xie et al. 2019, arXiv:1903.03934; their a is `exponent`. FedBuff (Nguyen et al. 2022,
        arXiv:2106.06639) uses it with 0.5.
    """

    kind: Literal["polynomial"] = "polynomial"
    exponent: NonNegativeFloat = 0.5

    def weight(self, staleness: int) -> float:
        """Return (1 + d) ** -exponent."""
        return float((1 + staleness) ** -self.exponent)


class Hinge(StalenessPolicy):
    """Weigh 1 up to `tolerance` versions, then ``1 / (slope * (d - tolerance) + 1)``.

    Source:
        Xie et al. 2019, arXiv:1903.03934; their a is `slope`, their b `tolerance`.
    """

    kind: Literal["hinge"] = "hinge"
    slope: PositiveFloat = 10.0
    tolerance: NonNegativeInt = 4

    def weight(self, staleness: int) -> float:
        """Return s(d)."""
        if staleness <= self.tolerance:
            return 1.0
        return 1.0 / (self.slope * (staleness - self.tolerance) + 1.0)


Staleness = Annotated[
    Annotated[Constant | Polynomial | Hinge, Field(discriminator="kind")],
    WrapValidator(open_union(StalenessPolicy)),
    SerializeAsAny(),
]
