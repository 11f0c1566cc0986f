"""What do the people who watch a run get to see while it goes?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Point:
    """The run's figures at one moment, as MLflow and the progress line show them.

    Attributes:
        version: Newest published version.
        time_s: The run's own time in seconds.
        metrics: Named figures; units stand in the names.
    """

    version: int
    time_s: float
    metrics: dict[str, float]


class Observer(Protocol):
    """Is told of points as they come; must return at once and never raise."""

    def point(self, point: Point) -> None:
        """Take the figures of an evaluation (and of version 0)."""
