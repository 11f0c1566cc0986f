"""When is a client there: always, or at hours of its day, or as other modules say?"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, SerializeAsAny, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.fleet.churn import Churn
from orchestrator.fleet.presence_trace import TraceAvailability
from orchestrator.fleet.status import AvailabilityPolicy, Status
from orchestrator.fleet.waves import Period
from policies.base import open_union
from policies.counter import normals
from policies.types import Positions


class Always(AvailabilityPolicy):
    """Nobody ever goes."""

    kind: Literal["always"] = "always"

    def status(self, seed: int, clients: Positions, time_s: float) -> Status:  # noqa: ARG002  # the family's
        """Return everybody, for ever."""
        return Status(np.ones(len(clients), dtype=np.bool_), np.full(len(clients), math.inf))

    def always(self) -> bool:
        """Return true."""
        return True


class Diurnal(AvailabilityPolicy):
    """There for some hours a day, each client a little earlier or later than the others.

    Attributes:
        hours: Hours online a day.
        centre_h: Hour of the day in their middle; virtual time begins at hour 0.
        spread_h: Standard deviation of each client's own shift, normal, drawn once.
        period_s: Length of a day.
    """

    kind: Literal["diurnal"] = "diurnal"
    hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 8.0
    centre_h: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    spread_h: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    period_s: Period = 86400.0

    @model_validator(mode="after")
    def _fits_the_day(self) -> Self:
        day_h = self.period_s / 3600
        for name, value in (("hours", self.hours), ("centre_h", self.centre_h)):
            if value > day_h:
                raise PydanticCustomError(
                    "day",
                    "must have {name} of at most {day}, the hours of period_s, got {value}.",
                    {"name": name, "day": f"{day_h:g}", "value": f"{value:g}"},
                )
        return self

    def always(self) -> bool:
        """Say whether the hours fill the day."""
        return self.hours * 3600 >= self.period_s

    def status(self, seed: int, clients: Positions, time_s: float) -> Status:
        """Return who is in the online hours of its own day."""
        if self.always():
            return Always().status(seed, clients, time_s)
        shift_h = self.spread_h * normals(seed, "diurnal", clients)
        begin_s = (self.centre_h - self.hours / 2 + shift_h) * 3600
        day = np.floor((time_s - begin_s) / self.period_s)
        day -= day * self.period_s + begin_s > time_s
        day += (day + 1) * self.period_s + begin_s <= time_s
        end_s = day * self.period_s + begin_s + self.hours * 3600
        there = time_s < end_s
        return Status(there, np.where(there, end_s, (day + 1) * self.period_s + begin_s))


Availability = Annotated[
    Annotated[Always | Diurnal | Churn | TraceAvailability, Field(discriminator="kind")],
    WrapValidator(open_union(AvailabilityPolicy)),
    SerializeAsAny(),
]
