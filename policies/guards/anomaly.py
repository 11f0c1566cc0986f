"""When does an update not look like the others?"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from statistics import median
from typing import Annotated, Final, NamedTuple

from pydantic import Field, PositiveInt

from policies.base import Settings

LEAST: Final = 10
"""Accepted updates that must be known before another one is judged by them."""


class Look(NamedTuple):
    """What an update looks like.

    Attributes:
        length: Euclidean length of its numbers as they were sent; NaN where nobody asked.
        loss: Mean training loss as its client reports it.
    """

    length: float
    loss: float


class Anomaly(Settings):
    """Reject an update that is far from the median of the last accepted ones, and count a strike.

    Nothing is judged before ten updates are accepted. A client whose data are unlike the others'
    has longer updates and higher losses than they have: factors below 3 or so hit it, too.

    Attributes:
        length: How many medians long an update may be; None for any.
        loss: How many medians of reported losses its own may be; None for any.
        window: Accepted updates that the medians are of.
    """

    length: Annotated[float, Field(gt=1)] | None = None
    loss: Annotated[float, Field(gt=1)] | None = None
    window: PositiveInt = 100

    @property
    def judges(self) -> bool:
        """Whether it looks at anything."""
        return self.length is not None or self.loss is not None

    def finding(self, look: Look, accepted: Sequence[Look]) -> str:
        """Return what is odd about an update, in words; "" if nothing is.

        Args:
            look: What it looks like.
            accepted: What the last accepted ones did, the newest last.
        """
        if len(accepted) < LEAST:
            return ""
        for name, most in (("length", self.length), ("loss", self.loss)):
            value = getattr(look, name)
            if most is None or isnan(value):
                continue
            usual = median(getattr(one, name) for one in accepted)
            if value > most * usual:
                return f"its {name} {value:.3g} is more than {most:g} times the median {usual:.3g}"
        return ""
