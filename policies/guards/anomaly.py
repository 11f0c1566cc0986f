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

    The length and the reported loss are known when an update arrives. How far its model is from the
    one that teaches it is known when it has been corrected, and then it is in a version: that
    speaks against its client, and no more.

    Nothing is judged before ten updates are accepted, or corrected. A client whose data are unlike
    the others' has longer updates and higher losses than they have, and is further from the
    teacher: factors below 3 or so hit it, too.

    Attributes:
        length: How many medians long an update may be; None for any.
        loss: How many medians of reported losses its own may be; None for any.
        kl: How many medians of the divergences before a correction its own may be; None for any.
        window: Accepted updates that the medians are of; of `kl`, corrected ones.
    """

    length: Annotated[float, Field(gt=1)] | None = None
    loss: Annotated[float, Field(gt=1)] | None = None
    kl: Annotated[float, Field(gt=1)] | None = None
    window: PositiveInt = 100

    @property
    def judges(self) -> bool:
        """Whether it looks at updates that arrive."""
        return self.length is not None or self.loss is not None

    @property
    def reads_lessons(self) -> bool:
        """Whether it looks at what a correction has measured."""
        return self.kl is not None

    def lesson(self, kl: float, corrected: Sequence[float]) -> str:
        """Return what is odd about a corrected update, in words; "" if nothing is.

        Args:
            kl: Mean KL divergence of its answers from the teacher's, before the correction; nats.
            corrected: Those of the last corrected ones, the newest last.
        """
        if self.kl is None or len(corrected) < LEAST:
            return ""
        usual = median(corrected)
        if kl <= self.kl * usual:  # NaN is odd, too
            return ""
        return f"its KL {kl:.3g} is more than {self.kl:g} times the median {usual:.3g}"

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
