"""What do the driver and the actors on its machine hand each other without Ray?

Calls whose buffers are small go through a lane where there is one: what a call through Ray takes
is as long as a small network trains. Buffers are shared memory then. Whoever is not reached
through a lane gets them from Ray's store, into which they are put when that is first asked for.
"""

from __future__ import annotations

import resource
import selectors
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Any, Final

import ray

from actors.identity import Identity
from actors.lane import MOST_SHARED, Lane
from actors.shared import READERS, Blocks, Shared
from orchestrator.runtime import Handle
from policies.types import Buffer

MOST_BYTES: Final = 16 * 2**20
"""Models with larger messages cross through Ray's store, which moves to disk what is too much."""
MOST_KEPT: Final = 1 << 29
"""What is kept in shared memory beside Ray's store, at the most, but for what is written again."""
_FILES: Final = 4
"""A buffer takes as many files at the most: its own and its map's, here and on the way."""
_KEPT: Final = 8


class Local:
    """A buffer in memory that is shared on this machine.

    Args:
        shared: The buffer, or what waits for it and returns it.
    """

    def __init__(self, shared: Shared | Callable[[], Shared]) -> None:
        self._shared = shared
        self._reference: Any = None

    @property
    def shared(self) -> Shared:
        """The memory; waits for it.

        Raises:
            Broken: If it will not come.
            CallError: If what was to make it has failed.
        """
        if not isinstance(self._shared, Shared):
            self._shared = self._shared()
        return self._shared

    @property
    def array(self) -> Buffer:
        """The bytes."""
        return self.shared.array

    @property
    def reference(self) -> Any:
        """The same in Ray's store."""
        if self._reference is None:
            self._reference = ray.put(self.array)
        return self._reference


def stored(handle: Handle) -> Any:
    """Return a buffer's reference, put into Ray's store if it is not there."""
    return handle.reference if isinstance(handle, Local) else handle


class Lanes:
    """All lanes of a run.

    Args:
        node: The driver's.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._selector = selectors.DefaultSelector()
        self._lanes: list[Lane] = []
        self._blocks = Blocks()
        self._readers = count(2)  # the server is the first
        self._copies: OrderedDict[Any, Shared] = OrderedDict()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._most = hard // (2 * _FILES)

    def open(self, identity: Identity, *, server: bool = False) -> Lane | None:
        """Connect to a process of this node; None if that cannot be.

        Args:
            identity: Which one.
            server: Whether it is the server, which comes once and must be lent what others make.
        """
        here = identity.lane and identity.node == self._node
        if not here:
            return None
        reader = 1 if server else next(self._readers)
        borrows = reader if reader < READERS else None
        lane = Lane.to(identity.lane, identity.pid, self._blocks, borrows)
        if lane is not None:
            self._lanes.append(lane)
            self._selector.register(lane.sock, selectors.EVENT_READ, lane)
        return lane

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited on any."""
        return any(lane.busy for lane in self._lanes)

    def room(self, buffers: int) -> bool:
        """Say whether so many buffers can cross with a message, and there are files for more."""
        return buffers <= MOST_SHARED and Shared.alive < self._most

    def keep(self, shared: Shared) -> Handle:
        """Return a handle of what an actor gave; past a limit it moves into Ray's store."""
        if shared.block is None and Shared.alive_bytes > MOST_KEPT:
            return ray.put(shared.array)
        return Local(shared)

    def of(self, handle: Handle) -> Shared:
        """Return a buffer as shared memory, copied if it lies in Ray's store."""
        if isinstance(handle, Local):
            return handle.shared
        if handle not in self._copies:
            self._copies[handle] = Shared.of(ray.get(handle))
            if len(self._copies) > _KEPT:
                self._copies.popitem(last=False)
        self._copies.move_to_end(handle)
        return self._copies[handle]

    def wait(self, timeout_s: float) -> bool:
        """Wait for something on any of them, and take it in; say whether there was something."""
        ready = self._selector.select(timeout_s)
        for key, _ in ready:
            key.data.take()
        for lane in [lane for lane in self._lanes if lane.broken]:
            self._lanes.remove(lane)
            self._selector.unregister(lane.sock)
        return bool(ready)

    def close(self) -> None:
        """End all."""
        for lane in self._lanes:
            lane.close()
        self._selector.close()
