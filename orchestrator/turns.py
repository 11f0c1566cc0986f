"""Whose turn is it?

On the virtual clock the next event is the first in the queue, and whatever it needs is waited for.
On the wall an event also waits for its time; one whose needs are not met stands aside, and takes
the time at which they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from orchestrator.books import Event, EventQueue, Kind
from orchestrator.clock import Clock, WallClock
from orchestrator.runtime import Pending

POLL_S = 0.05
"""Longest wait on the wall before the engine looks round."""


class Needs(Protocol):
    """Knows what events wait for."""

    def needed(self, event: Event) -> Pending[Any] | None:
        """Return what must be here before an event can be handled."""

    def in_order(self, event: Event) -> bool:
        """Say whether no other event of its kind must come first."""

    def look_round(self, wait_s: float) -> None:
        """Let up to `wait_s` on the wall pass; raises if somebody wants the run to end."""


class Turns:
    """Events that are to come, and those that stand aside."""

    def __init__(self, clock: Clock, needs: Needs) -> None:
        self._clock = clock
        self._needs = needs
        self._queue = EventQueue()
        self._aside: list[Event] = []

    def push(self, event: Event) -> None:
        """Add an event."""
        self._queue.push(event)

    def next(self) -> Event | None:
        """Return the next event once all that it needs is here; None if there is none."""
        if isinstance(self._clock, WallClock):
            return self._next_on_the_wall(self._clock)
        top = self._queue.peek()
        if top is None:
            return None
        needed = self._needs.needed(top)
        if needed is not None:
            needed.result()
        return self._queue.pop()

    def _next_on_the_wall(self, clock: WallClock) -> Event | None:
        while True:
            still: list[Event] = []
            for event in self._aside:
                if self._is_ready(event):
                    self._queue.push(event._replace(time_s=clock.read_s()))
                else:
                    still.append(event)
            self._aside = still
            top = self._queue.peek()
            if top is None and not still:
                return None
            now = clock.read_s()
            if top is not None and top.time_s <= now:
                event = self._queue.pop()
                if self._is_ready(event):
                    return event
                self._aside.append(event)
                continue
            wait = POLL_S if top is None else min(POLL_S, clock.wall_s(top.time_s - now))
            self._needs.look_round(wait)

    def _is_ready(self, event: Event) -> bool:
        if not self._needs.in_order(event):
            return False
        needed = self._needs.needed(event)
        return needed is None or needed.done()

    def keep(self, kinds: frozenset[Kind]) -> None:
        """Drop events of all other kinds."""
        self._queue.keep(kinds)
        self._aside = [event for event in self._aside if event.kind in kinds]

    def dump(self) -> dict[str, Any]:
        """Return all events."""
        return {"queue": self._queue.dump(), "aside": [list(event) for event in self._aside]}

    def load(self, data: dict[str, Sequence[Sequence[Any]]]) -> None:
        """Read what `dump` wrote."""
        self._queue = EventQueue.load([list(row) for row in data["queue"]])
        self._aside = [Event(t, Kind(k), c, n) for t, k, c, n in data["aside"]]
