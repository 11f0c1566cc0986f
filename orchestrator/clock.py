"""What time is it in the run?"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from pydantic import PositiveFloat

from policies.base import Settings


class WallSettings(Settings):
    """How a run on the wall clock passes its time.

    Attributes:
        delays: Wait out the modelled times of devices and links; otherwise only what really
            passes counts.
        time_scale: Seconds of the run in one second on the wall.
    """

    delays: bool = True
    time_scale: PositiveFloat = 1.0


class VirtualClock:
    """Time that jumps from event to event."""

    kind: Literal["virtual"] = "virtual"

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s

    def now_s(self) -> float:
        """Return the time of the newest event."""
        return self._now_s

    def reach(self, time_s: float) -> None:
        """Jump to an event's time, which is never in the past."""
        if time_s < self._now_s:
            raise ValueError(f"time cannot run back from {self._now_s} to {time_s}")
        self._now_s = time_s


class WallClock:
    """Time that passes by itself, `scale` times as fast as on the wall."""

    kind: Literal["wall"] = "wall"

    def __init__(
        self,
        scale: float = 1.0,
        begin_s: float = 0.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scale = scale
        self._monotonic = monotonic
        self._began = monotonic() - begin_s / scale
        self._reached_s = begin_s

    def now_s(self) -> float:
        """Return the time of the newest event: it stands still while that is handled."""
        return self._reached_s

    def read_s(self) -> float:
        """Look at the wall; never behind an event that was handled."""
        return max((self._monotonic() - self._began) * self._scale, self._reached_s)

    def reach(self, time_s: float) -> None:
        """Note that an event of this time is handled."""
        self._reached_s = max(self._reached_s, time_s)

    def wall_s(self, seconds: float) -> float:
        """Return how long `seconds` of the run take on the wall."""
        return seconds / self._scale


Clock = VirtualClock | WallClock
