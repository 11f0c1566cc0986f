"""When is a client there that comes and goes at random?"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import numpy as np

from orchestrator.fleet.status import AvailabilityPolicy, Status, Times
from orchestrator.fleet.waves import Period, period_of
from policies.counter import uniforms
from policies.types import Positions

_MOST_A_BLOCK: Final = 64
"""Events that a block of one mean gap can hold; more come with a probability of 10^-90."""
_BLOCKS_AT_ONCE: Final = 16


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
        leave, arrive = self._events()
        there = arrive.last(seed, clients, time_s) >= leave.last(seed, clients, time_s)
        until_s = np.empty(len(clients))
        until_s[there] = leave.following(seed, clients[there], time_s)
        until_s[~there] = arrive.following(seed, clients[~there], time_s)
        return Status(there, until_s)

    def windows(self, seed: int, client: int, start_s: float) -> Iterator[tuple[float, float]]:
        """Yield (comes, goes) of a client from a time on; many of them take few draws of many."""
        leave, arrive = (_Ahead(events, seed, client) for events in self._events())
        if not self.status(seed, np.array([client]), start_s).there[0]:
            start_s = arrive.after(start_s)
        while True:
            end_s = leave.after(start_s)
            yield start_s, end_s
            start_s = arrive.after(end_s)

    def _events(self) -> tuple[_Events, _Events]:
        """Return departures and arrivals."""
        return _Events("leave", self.mean_on_s), _Events("arrive", self.mean_off_s)


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

    def of_blocks(self, seed: int, client: int, blocks: Positions) -> Times:
        """Return all events of one client in blocks that follow each other, in order."""
        counters = blocks[:, np.newaxis] * _MOST_A_BLOCK + np.arange(_MOST_A_BLOCK)
        gaps_s = -self.mean_s * np.log(uniforms(seed, self.purpose, client, counters))
        begins_s = (blocks * self.mean_s)[:, np.newaxis]
        events_s = np.cumsum(np.hstack((begins_s, gaps_s)), axis=1)[:, 1:]
        ends_s = ((blocks + 1) * self.mean_s)[:, np.newaxis]
        return np.asarray(events_s[events_s < ends_s])

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


class _Ahead:
    """One client's events, for questions about times that grow; draws many of them at once."""

    def __init__(self, events: _Events, seed: int, client: int) -> None:
        self._events = events
        self._names = seed, client
        self._drawn_s: list[float] = []
        self._next_block = 0

    def after(self, time_s: float) -> float:
        """Return the first event after a time, the same bits as `_Events.following` finds."""
        at = bisect_right(self._drawn_s, time_s)
        while at == len(self._drawn_s):
            first = max(self._next_block, period_of(time_s, self._events.mean_s))
            self._next_block = first + _BLOCKS_AT_ONCE
            blocks = np.arange(first, self._next_block)
            self._drawn_s = self._events.of_blocks(*self._names, blocks).tolist()
            at = bisect_right(self._drawn_s, time_s)
        return self._drawn_s[at]
