"""Which state does each client train from next, and what does keeping it take?

Clients that never took part have none. States of updates that were trained together lie in one
buffer, and a buffer lives as long as one of them is current: in a large fleet, where clients come
again at very different times, most of a buffer would be dead for long. So what still lives in such
buffers is moved together into new ones. The bytes of a state never change, only where they lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from orchestrator.runtime import Handle, Place, States
from policies.types import Address, Buffer

MOST_WASTE_BYTES: Final = 64 * 2**20
"""Dead bytes in buffers that are mostly dead; above, what lives in them is moved."""
MOST_IN_BUFFER: Final = 16
"""States that are laid together; a node that needs one of them gets all."""
MOST_BUFFER_BYTES: Final = 16 * 2**20

Name = tuple[int, int]
"""The client, and the number of the update that left the state."""


class Store(Protocol):
    """What of a runtime is needed to move states."""

    def put(self, buffer: Buffer) -> Handle:
        """Keep a buffer."""

    def fetch(self, what: Handle | Place) -> Buffer:
        """Return the bytes behind a handle."""


@dataclass(slots=True)
class _Tenants:
    """Who lives in a buffer, and how many of its bytes live or did live."""

    names: set[Name] = field(default_factory=set)
    live: int = 0
    dead: int = 0

    @property
    def wasteful(self) -> bool:
        return self.dead >= self.live


class ClientStates:
    """Which state each client trains from next.

    The state behind an accepted update is provisional until the update is committed: the next
    assignment builds on it, and a rollback that supersedes the update takes it back.

    Args:
        most_waste_bytes: Dead bytes in mostly dead buffers that are put up with.

    Attributes:
        waste_bytes: Dead bytes in mostly dead buffers.
        saved: The checkpoint that they were last written into or read from.
    """

    def __init__(self, most_waste_bytes: int = MOST_WASTE_BYTES) -> None:
        self._committed: dict[int, tuple[int, Place]] = {}
        self._provisional: dict[int, list[tuple[int, Place]]] = {}
        self._buffers: dict[int, _Tenants] = {}  # by the identity of their handles
        self._wasteful: dict[int, None] = {}  # those that are mostly dead, the oldest first
        self._most_waste_bytes = most_waste_bytes
        self.waste_bytes = 0
        self.saved: Path | None = None

    def current(self, client: int) -> Place | None:
        """Return the state for the client's next assignment; None before its first update."""
        if self._provisional.get(client):
            return self._provisional[client][-1][1]
        return self._committed[client][1] if client in self._committed else None

    def committed(self) -> States:
        """Return the states that stay, in the order of clients."""
        return tuple((client, self._committed[client][1]) for client in sorted(self._committed))

    def accept(self, address: Address, state: Place | None) -> None:
        """Build on an accepted update's state."""
        if state is not None:
            self.put(*address, committed=False, state=state)

    def commit(self, address: Address) -> None:
        """Make an update's state the one that stays."""
        client = address.client
        waiting = self._provisional.get(client, [])
        for number, state in waiting:
            if number == address.number:
                before = self._committed.get(client)
                self._committed[client] = (number, state)
                if before is not None:
                    self._leave(client, *before)
            elif number < address.number:
                self._leave(client, number, state)
        self._keep(client, [w for w in waiting if w[0] > address.number])

    def supersede(self, address: Address) -> None:
        """Take back an accepted update's state, and whatever was built on it."""
        client = address.client
        waiting = self._provisional.get(client, [])
        for number, state in waiting:
            if number >= address.number:
                self._leave(client, number, state)
        self._keep(client, [w for w in waiting if w[0] < address.number])

    def _keep(self, client: int, waiting: list[tuple[int, Place]]) -> None:
        if waiting:
            self._provisional[client] = waiting
        else:
            self._provisional.pop(client, None)

    def items(self) -> Iterator[tuple[int, int, bool, Place]]:
        """Yield (client, number, committed, state) for a checkpoint, in order."""
        for client in sorted(self._committed):
            number, state = self._committed[client]
            yield client, number, True, state
        for client in sorted(self._provisional):
            for number, state in self._provisional[client]:
                yield client, number, False, state

    def put(self, client: int, number: int, *, committed: bool, state: Place) -> None:
        """Read one of `items` back."""
        if committed:
            self._committed[client] = (number, state)
        else:
            self._provisional.setdefault(client, []).append((number, state))
        self._enter(client, number, state)

    # ------------------------------------------------------------ what it takes

    @property
    def live_bytes(self) -> int:
        """Bytes of all states."""
        return sum(tenants.live for tenants in self._buffers.values())

    @property
    def held_bytes(self) -> int:
        """Bytes that states keep from being freed, dead ones among them."""
        return sum(tenants.live + tenants.dead for tenants in self._buffers.values())

    def compact(self, store: Store) -> int:
        """Move states out of mostly dead buffers, once these waste too much.

        Afterwards `held_bytes` is below twice `live_bytes` and `most_waste_bytes` more. If the
        store fails or is interrupted, nothing has changed.

        Returns:
            How many states were moved.

        Cost:
            None before there is too much; then one copy of at most as many bytes as are freed.
        """
        if self.waste_bytes <= self._most_waste_bytes:
            return 0
        names = [name for at in self._wasteful for name in sorted(self._buffers[at].names)]
        places = [self._place(name) for name in names]
        moved = together(store, fetched(store, places))
        for name, place in zip(names, moved, strict=True):
            self._move(name, place)
        return len(moved)

    def _place(self, name: Name) -> Place:
        client, number = name
        committed = self._committed.get(client)
        if committed is not None and committed[0] == number:
            return committed[1]
        return dict(self._provisional[client])[number]

    def _move(self, name: Name, place: Place) -> None:
        client, number = name
        before = self._place(name)
        if client in self._committed and self._committed[client][0] == number:
            self._committed[client] = (number, place)
        else:
            waiting = self._provisional[client]
            self._provisional[client] = [(n, place if n == number else s) for n, s in waiting]
        self._enter(client, number, place)
        self._leave(client, number, before)

    def _enter(self, client: int, number: int, place: Place) -> None:
        tenants = self._buffers.setdefault(id(place.handle), _Tenants())
        tenants.names.add((client, number))
        tenants.live += place.stop - place.start
        self._weigh(id(place.handle), tenants, 0)

    def _leave(self, client: int, number: int, place: Place) -> None:
        at, size = id(place.handle), place.stop - place.start
        tenants = self._buffers[at]
        tenants.names.remove((client, number))
        tenants.live -= size
        tenants.dead += size
        self._weigh(at, tenants, size)

    def _weigh(self, at: int, tenants: _Tenants, died: int) -> None:
        """Keep account of a buffer's waste after `died` more of its bytes are dead."""
        counted = at in self._wasteful
        if not tenants.names:  # nobody holds it any more
            self.waste_bytes -= (tenants.dead - died) * counted
            self._wasteful.pop(at, None)
            del self._buffers[at]
        elif counted and not tenants.wasteful:
            self.waste_bytes -= tenants.dead - died
            del self._wasteful[at]
        elif tenants.wasteful:
            self.waste_bytes += died if counted else tenants.dead
            self._wasteful[at] = None


def together(store: Store, states: Iterable[Buffer]) -> list[Place]:
    """Lay states into new buffers, as many into one as are bearable.

    Args:
        store: Takes the buffers.
        states: One after the other, so that only those of one buffer are copied at a time.

    Returns:
        Where each lies, in the same order.
    """
    found: list[Place] = []
    part: list[Buffer] = []
    size = 0
    for state in states:
        if part and (len(part) == MOST_IN_BUFFER or size + state.size > MOST_BUFFER_BYTES):
            found += _laid(store, part)
            part, size = [], 0
        part.append(state)
        size += state.size
    return found + (_laid(store, part) if part else [])


def _laid(store: Store, states: Sequence[Buffer]) -> list[Place]:
    """Put states into one buffer."""
    handle = store.put(np.concatenate(states))
    ends = np.cumsum([state.size for state in states]).tolist()
    return [Place(handle, *bounds) for bounds in zip([0, *ends[:-1]], ends, strict=True)]


def fetched(store: Store, places: Iterable[Place]) -> Iterator[Buffer]:
    """Yield the bytes at places; neighbours in one buffer are fetched once."""
    for _, neighbours in groupby(places, key=lambda place: id(place.handle)):
        first, *others = neighbours
        whole = store.fetch(first.handle)
        for place in (first, *others):
            yield whole[place.start : place.stop]
