"""How many clients are there over a day?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from orchestrator.fleet import (
    Always,
    AvailabilityPolicy,
    Churn,
    Diurnal,
    Fleet,
    FleetSettings,
    MixEntry,
    TraceAvailability,
)
from orchestrator.views.fleet_view_groups import Group, Reals, moments
from orchestrator.views.readable import TIME, human
from policies.types import Positions

LOOKS: Final = 96
"""Moments of a day that are looked at, one a quarter of an hour."""


@dataclass(frozen=True, slots=True, eq=False)
class Day:
    """The first day of a run.

    Attributes:
        there: How many of each kind are there at each moment, shape (kinds, LOOKS).
        never: How many of each kind never come, at no time of a run, shape (kinds,).
        sizes: How many of each kind there are, shape (kinds,).
    """

    there: Positions
    never: Positions
    sizes: Positions

    @property
    def shares(self) -> Reals:
        """Share of the day that a client is there, mean over each kind, shape (kinds,)."""
        found: Reals = self.there.mean(axis=1) / self.sizes
        return found

    @property
    def least(self) -> int:
        """Clients of all kinds that are there when the fewest are."""
        return int(self.there.sum(axis=0).min())

    @property
    def most(self) -> int:
        """Clients of all kinds that are there when the most are."""
        return int(self.there.sum(axis=0).max())

    @property
    def whole(self) -> bool:
        """Whether everybody is there at all moments."""
        return self.least == int(self.sizes.sum())


def day(fleet: Fleet, groups: Sequence[Group]) -> Day:
    """Look at a fleet over its first day.

    Cost:
        One look a moment; only those who have come or gone since the last one take work.
    """
    sizes = np.array([group.members.size for group in groups])
    if fleet.always_there:
        there = np.repeat(sizes[:, None], LOOKS, axis=1)
        return Day(there, np.zeros_like(sizes), sizes)
    kinds = np.empty(len(fleet), dtype=np.int64)
    for kind, group in enumerate(groups):
        kinds[group.members] = kind
    first = fleet.present(0.0)
    away = np.flatnonzero(~first)
    gone = [int(client) for client in away if fleet.back_at(int(client), 0.0) == math.inf]
    counts = [
        np.bincount(kinds[fleet.present(time_s)], minlength=sizes.size) for time_s in moments(LOOKS)
    ]
    never = np.bincount(kinds[np.array(gone, dtype=np.int64)], minlength=sizes.size)
    return Day(np.array(counts).T, never, sizes)


def in_words(settings: FleetSettings, entry: MixEntry) -> str:
    """Say when the clients of an entry of the mix are there."""
    return _policy(entry.availability or settings.availability)


def _policy(policy: AvailabilityPolicy) -> str:
    if isinstance(policy, Always) or policy.always():
        return "always"
    if isinstance(policy, Diurnal):
        length = "a day" if policy.period_s == 86400 else f"in {human(policy.period_s, TIME)}"
        shift = f", give or take {_hours(policy.spread_h)}" if policy.spread_h else ""
        return f"{_hours(policy.hours)} {length} around {_clock(policy.centre_h)}{shift}"
    if isinstance(policy, Churn):
        on, off = (human(value, TIME) for value in (policy.mean_on_s, policy.mean_off_s))
        return f"comes and goes: {on} there, {off} away on average"
    if isinstance(policy, TraceAvailability):
        again = "" if policy.repeat_s is None else f", again every {human(policy.repeat_s, TIME)}"
        return f"as in {policy.path}{again}"
    return str(policy.kind)


def _hours(hours: float) -> str:
    return human(3600 * hours, TIME)


def _clock(hour: float) -> str:
    minutes = round(60 * hour)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
