"""When was a client there that has been observed?"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from pydantic import PrivateAttr, model_validator

from orchestrator.fleet.files import Found, find, mistake, read_columns
from orchestrator.fleet.status import AvailabilityPolicy, Status, Times
from orchestrator.fleet.waves import Period, period_of
from policies.types import Positions


class _Intervals(NamedTuple):
    """Times there, sorted by client and time; one row more is nobody's, all infinite."""

    client: Times
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
        client, start_s, end_s = _read_intervals(self._found, self.repeat_s)
        cycle = 0 if self.repeat_s is None else period_of(time_s, self.repeat_s)
        length_s = self.repeat_s or 0.0
        now_s, next_s = cycle * length_s, (cycle + 1) * length_s
        low, high = (np.searchsorted(client, clients, side) for side in ("left", "right"))
        after = _count(start_s, now_s, low, high, time_s)
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


def _count(
    start_s: Times, now_s: float, low: Positions, high: Positions, time_s: float
) -> Positions:
    """Return for each (low, high) the first row there that starts after a time, or `high`.

    Rows start at `now_s + start_s`; only those that are looked at are added up.
    """
    while (low < high).any():
        middle = (low + high) // 2
        begun = (low < high) & (now_s + start_s[middle] <= time_s)
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
    rows = np.stack([client, start_s, end_s])
    if ((client[1:] == client[:-1]) & (start_s[1:] <= end_s[:-1])).any():
        rows = _joined(rows)
    nobody = np.full((3, 1), math.inf)
    return _Intervals(*np.ascontiguousarray(np.hstack([rows, nobody])))


def _joined(rows: Times) -> Times:
    """Put together what overlaps or touches; rows of client, start and end, shape (3, n)."""
    kept: list[tuple[float, float, float]] = []
    for who, begin, end in rows.T.tolist():
        if kept and kept[-1][0] == who and begin <= kept[-1][2]:
            kept[-1] = (who, kept[-1][1], max(end, kept[-1][2]))
        else:
            kept.append((who, begin, end))
    return np.array(kept).T
