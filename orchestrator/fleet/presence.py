"""Who of the fleet is there?

Puts the policies of all kinds of device together with the times at which clients join and leave,
and remembers the newest answer: time mostly grows, and few clients change from one look to the
next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from orchestrator.fleet.status import AvailabilityPolicy, Status
from policies.types import Positions


class Stay(NamedTuple):
    """When clients of one kind are there: what the policy says, from joining until leaving."""

    policy: AvailabilityPolicy
    joins_s: float
    leaves_s: float

    def always(self) -> bool:
        """Say whether all of them are there at all times."""
        return self.policy.always() and self.joins_s == 0 and self.leaves_s == math.inf

    def status(self, seed: int, clients: Positions, time_s: float) -> Status:
        """Return who of `clients` is there, and until when."""
        if time_s >= self.leaves_s:
            gone = np.zeros(len(clients), dtype=np.bool_)
            return Status(gone, np.full(len(clients), math.inf))
        there, until_s = self.policy.status(seed, clients, max(time_s, self.joins_s))
        if time_s < self.joins_s:
            until_s = np.where(there, self.joins_s, until_s)
            there = np.zeros(len(clients), dtype=np.bool_)
        never_s = np.where(there, self.leaves_s, math.inf)
        return Status(there, np.where(until_s < self.leaves_s, until_s, never_s))

    def windows(self, seed: int, client: int, start_s: float) -> Iterator[tuple[float, float]]:
        """Yield (comes, goes) of a client from a time on."""
        for begin_s, end_s in self.policy.windows(seed, client, max(start_s, self.joins_s)):
            if begin_s >= self.leaves_s:
                break
            yield begin_s, min(end_s, self.leaves_s)


class Presence:
    """Answers for the whole fleet.

    Args:
        seed: The experiment's seed.
        stays: One for each kind of device.
        entries: Each client's kind, shape (clients,).
    """

    def __init__(self, seed: int, stays: Sequence[Stay], entries: Positions) -> None:
        self.always = all(stay.always() for stay in stays)
        self._seed = seed
        self._stays = stays
        self._entries = entries
        self._seen_s = math.inf  # of what is remembered; nothing is yet
        self._next_s = math.inf  # when the first of them changes
        self._there = np.zeros(0, dtype=np.bool_)
        self._until_s = np.zeros(0)
        self._ahead: dict[int, tuple[float, bool, float]] = {}  # (from, there, until) of some

    def look(self, time_s: float) -> Status:
        """Return the status of all clients; do not change it.

        Cost:
            Nothing while nobody changes; then a comparison a client, and the work for those that
            have changed since the last look; work for all of them if time runs back.
        """
        if time_s >= self._seen_s:
            if time_s >= self._next_s:
                changed = np.flatnonzero(self._until_s <= time_s)
                self._there[changed], self._until_s[changed] = self._status(changed, time_s)
                self._next_s = float(self._until_s.min(initial=math.inf))
            self._seen_s = time_s
            return Status(self._there, self._until_s)
        status = self._status(np.arange(len(self._entries)), time_s)
        if self._seen_s == math.inf:
            self._there, self._until_s = np.array(status.there), np.array(status.until_s)
            self._next_s = float(self._until_s.min(initial=math.inf))
            self._seen_s = time_s
        return status

    def away_from(self, client: int, time_s: float) -> float:
        """Return the first moment from `time_s` on at which a client is away, or infinity."""
        there, until_s = self._one(client, time_s)
        return until_s if there else time_s

    def back_at(self, client: int, time_s: float) -> float:
        """Return the first moment from `time_s` on at which a client is there, or infinity."""
        there, until_s = self._one(client, time_s)
        return time_s if there else until_s

    def windows(self, client: int, start_s: float) -> Iterator[tuple[float, float]]:
        """Yield (comes, goes) of a client from a time on; the first is what is remembered."""
        begin_s = self.back_at(client, start_s)
        if begin_s == math.inf:
            return
        end_s = self.away_from(client, begin_s)
        yield begin_s, end_s
        if end_s < math.inf:
            stay = self._stays[int(self._entries[client])]
            yield from stay.windows(self._seed, client, end_s)

    def _one(self, client: int, time_s: float) -> tuple[bool, float]:
        """Return one client's status: a remembered one where it holds."""
        if time_s == math.inf:
            return False, math.inf
        if self._seen_s <= time_s < self._until_s[client]:
            return bool(self._there[client]), float(self._until_s[client])
        begin_s, there, until_s = self._ahead.get(client, (math.inf, False, math.inf))
        if not begin_s <= time_s < until_s:
            status = self._status(np.array([client]), time_s)
            there, until_s = bool(status.there[0]), float(status.until_s[0])
            self._ahead[client] = time_s, there, until_s
        return there, until_s

    def _status(self, clients: Positions, time_s: float) -> Status:
        if len(self._stays) == 1:
            return self._stays[0].status(self._seed, clients, time_s)
        there = np.empty(len(clients), dtype=np.bool_)
        until_s = np.empty(len(clients))
        kinds = self._entries[clients]
        for kind, stay in enumerate(self._stays):
            here = np.flatnonzero(kinds == kind)
            if len(here):
                there[here], until_s[here] = stay.status(self._seed, clients[here], time_s)
        return Status(there, until_s)
