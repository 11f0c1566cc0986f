"""How much do pieces of work, and devices of one kind, differ?"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Discriminator, Field, SerializeAsAny, Tag, WrapValidator

from orchestrator.fleet.waves import Correlation, Period, Sigma, period_of, wave
from policies.base import Policy, Settings, open_union
from policies.counter import uniforms
from policies.types import stream

_Alpha = Annotated[float, Field(gt=1, allow_inf_nan=False)]


class JitterPolicy(Policy):
    """How much one piece of work differs from the next on the same device."""

    @abstractmethod
    def factor(self, seed: int, client: int, number: int, time_s: float) -> float:
        """Return a multiplier of compute time, with mean 1.

        Args:
            seed: The experiment's seed.
            client: Whose work it is.
            number: Which piece of its work: that of a dispatch, or one below 0 for what is no
                training.
            time_s: When the work begins, in virtual time.
        """


class NoJitter(JitterPolicy):
    """Every piece of work takes what it takes."""

    kind: Literal["none"] = "none"

    def factor(self, seed: int, client: int, number: int, time_s: float) -> float:  # noqa: ARG002  # the family's
        """Return 1."""
        return 1.0


class LognormalJitter(JitterPolicy):
    """Multiply by ``exp(sigma z - sigma^2 / 2)``, z standard normal: mean 1. Our choice."""

    kind: Literal["lognormal"] = "lognormal"
    sigma: Sigma = 0.25

    def factor(self, seed: int, client: int, number: int, time_s: float) -> float:  # noqa: ARG002  # the family's
        """Return a draw that depends on seed, client and number alone."""
        z = stream(seed, "jitter", client, number).standard_normal()
        return math.exp(self.sigma * z - self.sigma**2 / 2)


class ParetoJitter(JitterPolicy):
    """Multiply by ``(alpha - 1) / alpha * u^(-1 / alpha)``, u uniform: mean 1, a heavy tail.

    Above its least value the factor exceeds x with a probability that falls as x^-alpha; up to
    alpha = 2 the variance is infinite. Our choice.
    """

    kind: Literal["pareto"] = "pareto"
    alpha: _Alpha = 2.5

    def factor(self, seed: int, client: int, number: int, time_s: float) -> float:  # noqa: ARG002  # the family's
        """Return a draw that depends on seed, client and number alone."""
        return float(_pareto(uniforms(seed, "jitter", client, number), self.alpha)[0])


class CorrelatedJitter(JitterPolicy):
    """A lognormal factor, mean 1, that drifts: a device that is slow now is slow for a while.

    All work that begins in one period has one factor; from period to period the logarithm is a
    first-order autoregression. Our choice.
    """

    kind: Literal["correlated"] = "correlated"
    sigma: Sigma = 0.25
    correlation: Correlation = 0.9
    period_s: Period = 60.0

    def factor(self, seed: int, client: int, number: int, time_s: float) -> float:  # noqa: ARG002  # the family's
        """Return the factor of the client and the period that the time falls into."""
        period = period_of(time_s, self.period_s)
        factors = wave(
            seed, "jitter", client, period, 1, sigma=self.sigma, correlation=self.correlation
        )
        return float(factors[0])


Jitter = Annotated[
    Annotated[
        NoJitter | LognormalJitter | ParetoJitter | CorrelatedJitter, Field(discriminator="kind")
    ],
    WrapValidator(open_union(JitterPolicy)),
    SerializeAsAny(),
]


class _Spread(Settings, ABC):
    """How much devices of one profile differ: a factor of the speed, drawn once a client."""

    @abstractmethod
    def speeds(self, seed: int, clients: int) -> npt.NDArray[np.float64]:
        """Return each client's factor, mean 1, shape (clients,)."""


class LognormalSpread(_Spread):
    """A lognormal factor, as a plain number for `spread` gives it too."""

    kind: Literal["lognormal"] = "lognormal"
    sigma: Sigma

    def speeds(self, seed: int, clients: int) -> npt.NDArray[np.float64]:
        """Return ``exp(sigma z - sigma^2 / 2)``, z standard normal."""
        z = stream(seed, "spread").standard_normal(clients)
        return np.exp(self.sigma * z - self.sigma**2 / 2)


class ParetoSpread(_Spread):
    """A heavy tail of slow devices: the *time* has the Pareto factor of the jitter, mean 1."""

    kind: Literal["pareto"] = "pareto"
    alpha: _Alpha

    def speeds(self, seed: int, clients: int) -> npt.NDArray[np.float64]:
        """Return one over the factor of the time."""
        return 1 / _pareto(uniforms(seed, "spread", np.arange(clients)), self.alpha)


def _pareto(u: npt.NDArray[np.float64], alpha: float) -> npt.NDArray[np.float64]:
    return np.asarray((alpha - 1) / alpha * u ** (-1 / alpha))


def _form(value: Any) -> str:
    return "group" if isinstance(value, dict | _Spread) else "number"


Spread = Annotated[
    Annotated[Sigma, Tag("number")]
    | Annotated[
        Annotated[LognormalSpread | ParetoSpread, Field(discriminator="kind")], Tag("group")
    ],
    Discriminator(_form),
]
"""A number, which is the sigma of a lognormal factor, or a group with a `kind`."""
