"""How does something drift up and down around its mean?

A factor that is constant within a period and depends on the periods before: the logarithm is a
first-order autoregression. Jitter and links share it.
"""

from __future__ import annotations

import math
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from policies.counter import normals
from policies.types import RunError
from policies.units import Seconds

Sigma = Annotated[float, Field(ge=0, le=5)]
"""Standard deviation of a factor's logarithm."""
Correlation = Annotated[float, Field(ge=0, le=0.99)]
"""Of one period's logarithm with the next one's; longer memory takes longer periods."""
Period = Annotated[Seconds, Field(ge=1e-3)]

_FORGOTTEN: Final = 1e-6
_MOST_PERIODS: Final = 2**44
"""Later a float holds fewer than some 200 moments a period."""


def period_of(time_s: float, period_s: float) -> int:
    """Return the n with n * period_s <= time_s < (n + 1) * period_s, in floating point exactly.

    Raises:
        RunError: If the moments of a period can no longer be told apart.
    """
    if time_s / period_s > _MOST_PERIODS:
        raise RunError(
            f"at {time_s:g} s moments of one period of {period_s:g} s cannot be told apart. "
            "Lengthen the periods and mean times of fleet.availability, fleet.link and "
            "fleet.jitter, or let clients join earlier."
        )
    at = math.floor(time_s / period_s)
    if at * period_s > time_s:
        return at - 1
    return at + 1 if (at + 1) * period_s <= time_s else at


def wave(
    seed: int,
    purpose: str,
    client: int,
    first: int,
    count: int,
    *,
    sigma: float,
    correlation: float,
) -> npt.NDArray[np.float64]:
    """Return the factors of `count` periods from `first` on, mean 1.

    The logarithm is x_n = correlation * x_(n-1) + noise, with variance sigma^2. It is written out
    as a weighted sum of the noise of so many periods back that what is cut off has a weight below
    1e-6; then the variance is made exact. So a factor depends on its names alone.

    Returns:
        Shape (count,).

    Cost:
        O(count + m) draws, O(count * m) products, m = log(1e-6) / log(correlation): 132 for 0.9.
    """
    back = 1 if correlation == 0 else math.ceil(math.log(_FORGOTTEN) / math.log(correlation))
    weights = correlation ** np.arange(back, dtype=np.float64)[::-1]
    weights *= sigma / math.sqrt(float(np.sum(weights**2)))
    noise = normals(seed, purpose, client, np.arange(first - back + 1, first + count))
    logs = np.sum(np.lib.stride_tricks.sliding_window_view(noise, back) * weights, axis=-1)
    return np.asarray(np.exp(logs - sigma**2 / 2))
