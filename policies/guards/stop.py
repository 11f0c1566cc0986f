"""When has a run done enough?"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from policies.base import Settings
from policies.units import Bytes, Seconds


@dataclass(frozen=True, slots=True)
class Figures:
    """What guards look at.

    Attributes:
        version: Newest published version.
        time_s: The run's own time.
        bytes: Both directions together.
        accuracies: Of all evaluations so far, in order.
        loss: Of the newest evaluation.
    """

    version: int
    time_s: float
    bytes: int
    accuracies: tuple[float, ...] = ()
    loss: float = 0.0


@dataclass(frozen=True, slots=True)
class StopReason:
    """Which guard fired, and what it says."""

    guard: str
    text: str


class NoProgress(Settings):
    """Stop when the best accuracy has not risen by `by` over the last `evaluations`."""

    evaluations: PositiveInt = 10
    by: NonNegativeFloat = 0.001

    def stalled(self, accuracies: tuple[float, ...]) -> bool:
        """Say whether nothing has come of the last evaluations."""
        if len(accuracies) <= self.evaluations:
            return False
        before = max(accuracies[: -self.evaluations])
        return max(accuracies[-self.evaluations :]) < before + self.by


class Stop(Settings):
    """Ends a run at the first limit it reaches; a run needs at least one.

    A model that is no longer finite always stops a run.

    Attributes:
        versions: Stop when this version is published.
        virtual_seconds: Stop when the run's own time reaches this.
        bytes: Stop when both directions together have carried this much.
        accuracy: Stop when an evaluation reaches it.
        no_progress: Stop when accuracy stalls.
    """

    versions: PositiveInt | None = None
    virtual_seconds: Seconds | None = None
    bytes: Bytes | None = None
    accuracy: float | None = Field(default=None, gt=0, le=1)
    no_progress: NoProgress | None = None

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if all(value is None for value in self.__dict__.values()):
            names = ", ".join(type(self).model_fields)
            raise ValueError(f"a run needs an end; set at least one of {names}")
        return self

    def after_publish(self, figures: Figures) -> StopReason | None:
        """Look at what is known whenever a version appears or time passes."""
        if self.versions is not None and figures.version >= self.versions:
            return StopReason("versions", f"version {figures.version} is published")
        if self.virtual_seconds is not None and figures.time_s >= self.virtual_seconds:
            return StopReason("virtual_seconds", f"{figures.time_s:.1f} s have passed")
        if self.bytes is not None and figures.bytes >= self.bytes:
            return StopReason("bytes", f"{figures.bytes} bytes have crossed the links")
        return None

    def after_evaluation(self, figures: Figures) -> StopReason | None:
        """Look at an evaluation."""
        if not isfinite(figures.loss):
            return StopReason("not_finite", f"the model's test loss is {figures.loss}")
        newest = figures.accuracies[-1]
        if self.accuracy is not None and newest >= self.accuracy:
            return StopReason("accuracy", f"accuracy {newest:.4f} has reached {self.accuracy}")
        if self.no_progress is not None and self.no_progress.stalled(figures.accuracies):
            count = self.no_progress.evaluations
            return StopReason("no_progress", f"no progress over {count} evaluations")
        return None
