"""When is a client there?

A policy answers for many clients at one time: who is there, and until when that stays so. The
answer depends on the names and the time alone, so it can be asked in any order.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, PrivateAttr, SerializeAsAny, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.fleet.files import Found, find, mistake, read_columns
from orchestrator.fleet.waves import Period, period_of
from policies.base import Policy, open_union
from policies.counter import normals, uniforms
from policies.types import Positions

Flags = npt.NDArray[np.bool_]
Times = npt.NDArray[np.float64]

_MOST_A_BLOCK: Final = 64
"""Events that a block of one mean gap can hold; more come with a probability of 10^-90."""


class Status(NamedTuple):
    """Who is there, and the first moment later than now at which that changes, or infinity.

    Both shape (clients,). A client is there from the moment at which it comes and away from the
    moment at which it goes.
    """

    there: Flags
    until_s: Times


class AvailabilityPolicy(Policy):
    """When clients are there."""

    @abstractmethod
    def status(self, seed: int, clients: Positions, time_s: float) -> Status:
        """Return who of `clients` is there at `time_s`, and until when.

        Args:
            seed: The experiment's seed.
            clients: Which clients, shape (n,).
            time_s: A moment in virtual time, >= 0.
        """

    def always(self) -> bool:
        """Say whether all clients are there at all times."""
        return False

    def files(self) -> tuple[Path, ...]:
        """Return the files that it reads."""
        return ()


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


class Churn(AvailabilityPolicy):
    """Comes and goes at random: times there and times away are exponential.

    At time 0 a client is there with probability mean_on_s / (mean_on_s + mean_off_s), as at any
    other time. Our choice.

    Attributes:
        mean_on_s: Mean time that a client stays.
        mean_off_s: Mean time that it is away.
    """

    # Arrivals and departures are two Poisson processes; a client is there if the later event is
    # an arrival. What does not change anything (an arrival of one who is there) leaves the gaps
    # exponential, since they have no memory. So nothing has to be added up from time 0.

    kind: Literal["churn"] = "churn"
    mean_on_s: Period = 3600.0
    mean_off_s: Period = 3600.0

    def status(self, seed: int, clients: Positions, time_s: float) -> Status:
        """Return who had its latest arrival after its latest departure."""
        leave, arrive = _Events("leave", self.mean_on_s), _Events("arrive", self.mean_off_s)
        there = arrive.last(seed, clients, time_s) >= leave.last(seed, clients, time_s)
        until_s = np.empty(len(clients))
        until_s[there] = leave.following(seed, clients[there], time_s)
        until_s[~there] = arrive.following(seed, clients[~there], time_s)
        return Status(there, until_s)


class _Events(NamedTuple):
    """A Poisson process a client: in each block of one mean gap, gaps from the block's start."""

    purpose: str
    mean_s: float

    def last(self, seed: int, clients: Positions, time_s: float) -> Times:
        """Return each client's last event at or before a time."""
        return self._search(seed, clients, time_s, -1)

    def following(self, seed: int, clients: Positions, time_s: float) -> Times:
        """Return each client's first event after a time."""
        return self._search(seed, clients, time_s, 1)

    def _search(self, seed: int, clients: Positions, time_s: float, step: int) -> Times:
        """Look through the blocks from `time_s` on, back or forth, until everybody has an event."""
        found_s = np.full(len(clients), math.nan)
        open_ = np.arange(len(clients))
        block = period_of(time_s, self.mean_s)
        while len(open_):
            here_s = self._in_block(seed, clients[open_], block, time_s, step)
            found_s[open_] = here_s
            open_ = open_[np.flatnonzero(np.isnan(here_s))]
            block += step
        return found_s

    def _in_block(
        self, seed: int, clients: Positions, block: int, time_s: float, step: int
    ) -> Times:
        """Return each client's last event up to `time_s` or first one after it, or NaN."""
        end_s = (block + 1) * self.mean_s
        found_s = np.full(len(clients), math.nan)
        rows = np.arange(len(clients))
        events_s = np.full(len(clients), block * self.mean_s)
        for at in range(_MOST_A_BLOCK):
            u = uniforms(seed, self.purpose, clients[rows], block * _MOST_A_BLOCK + at)
            events_s -= self.mean_s * np.log(u)
            passed = events_s <= time_s
            if step < 0:
                kept = np.flatnonzero(passed & (events_s < end_s))
                found_s[rows[kept]] = events_s[kept]
            else:
                first = np.flatnonzero(~passed & (events_s < end_s))
                found_s[rows[first]] = events_s[first]
                kept = np.flatnonzero(passed)
            if not len(kept):
                break
            rows, events_s = rows[kept], events_s[kept]
        return found_s


class _Intervals(NamedTuple):
    """Times there, sorted by client and time: client c has the rows first[c] to first[c + 1]."""

    first: Positions
    start_s: Times
    end_s: Times


class TraceAvailability(AvailabilityPolicy):
    """What was observed: a CSV file with the columns client, start_s, end_s of the times there.

    Clients that are not in it never come; rows of clients that the fleet does not have are ignored.

    Attributes:
        path: The file, seen from the experiment file's folder or the working folder.
        repeat_s: Begin again after this time; without it all are away after their last row.
    """

    kind: Literal["trace"] = "trace"
    path: str
    repeat_s: Period | None = None
    _found: Found = PrivateAttr()

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        self._found = find(self.path)
        _read_intervals(self._found, self.repeat_s)
        return self

    def files(self) -> tuple[Path, ...]:
        """Return the trace."""
        return (self._found.path,)

    def status(self, seed: int, clients: Positions, time_s: float) -> Status:  # noqa: ARG002  # the family's
        """Return who is inside one of its intervals."""
        first, start_s, end_s = _read_intervals(self._found, self.repeat_s)
        cycle = 0 if self.repeat_s is None else period_of(time_s, self.repeat_s)
        length_s = self.repeat_s or 0.0
        now_s, next_s = cycle * length_s, (cycle + 1) * length_s
        known = np.minimum(clients, len(first) - 2)
        low, high = first[known], np.where(clients == known, first[known + 1], first[known])
        after = _count(now_s + start_s, low, high, time_s)
        there = (after > low) & (time_s < now_s + end_s[after - 1])
        until_s = np.where(there, now_s + end_s[after - 1], now_s + start_s[after])
        until_s[~there & (after == high)] = math.inf
        if self.repeat_s is not None:
            again = ~there & (after == high) & (high > low)
            until_s[again] = next_s + start_s[low[again]]
            over = there & (end_s[after - 1] == length_s) & (start_s[low] == 0)
            until_s[over] = next_s + end_s[low[over]]
            until_s[over & (high - low == 1)] = math.inf
        return Status(there, until_s)


def _count(starts_s: Times, low: Positions, high: Positions, time_s: float) -> Positions:
    """Return for each (low, high) the first row there that starts after a time, or `high`."""
    while (low < high).any():
        middle = (low + high) // 2
        begun = (low < high) & (starts_s[middle] <= time_s)
        high = np.where(begun | (low >= high), high, middle)
        low = np.where(begun, middle + 1, low)
    return low


@lru_cache(maxsize=8)
def _read_intervals(found: Found, repeat_s: float | None) -> _Intervals:
    table = read_columns(found.path, ("client", "start_s", "end_s"))
    order = np.lexsort((table["start_s"], table["client"]))
    client, start_s, end_s, line = (
        table[name][order] for name in ("client", "start_s", "end_s", "line")
    )
    for at in np.flatnonzero(end_s <= start_s)[:1]:
        text = f"end_s must be after start_s = {start_s[at]:g}, got {end_s[at]:g}."
        raise mistake(found.path, line[at], text)
    for at in np.flatnonzero(end_s > (math.inf if repeat_s is None else repeat_s))[:1]:
        text = f"end_s must be at most repeat_s = {repeat_s:g}, got {end_s[at]:g}."
        raise mistake(found.path, line[at], text)
    kept: list[tuple[float, float, float]] = []
    for who, begin, end in zip(client.tolist(), start_s.tolist(), end_s.tolist(), strict=True):
        if kept and kept[-1][0] == who and begin <= kept[-1][2]:
            kept[-1] = (who, kept[-1][1], max(end, kept[-1][2]))
        else:
            kept.append((who, begin, end))
    rows = np.array([*kept, (math.inf, math.inf, math.inf)])  # the last row is nobody's
    names = np.arange(int(client[-1]) + 2)
    return _Intervals(np.searchsorted(rows[:, 0], names), rows[:, 1].copy(), rows[:, 2].copy())


Availability = Annotated[
    Annotated[Always | Diurnal | Churn | TraceAvailability, Field(discriminator="kind")],
    WrapValidator(open_union(AvailabilityPolicy)),
    SerializeAsAny(),
]
