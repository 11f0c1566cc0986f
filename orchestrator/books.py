"""What does the engine keep account of?

Plain values without time or machines in them: the event queue, who is idle, which versions are
still needed, and how many updates went which way. Each can be written into a checkpoint (`dump`)
and read back. The clients' states have a module of their own.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from actors.publisher import Shipment
from orchestrator.runtime import Handle, Weights
from policies.selection import Idle, Past
from policies.types import Address, Arrays, Outcome, RunError, Verdict, Version

if TYPE_CHECKING:
    from orchestrator.examiner import Test


class Kind(IntEnum):
    """What an event is; at equal times the lower number comes first."""

    STAGE = 0
    RESOLVE = 1
    LEAVE = 2
    SERVED = 3
    ASK = 4
    EXPIRE = 5
    ARRIVE = 6
    CLOSE_ROUND = 7
    GATHER = 8
    PUBLISH = 9
    EVALUATE = 10
    GUARD = 11
    SELECT = 12
    SERVE = 13


class Event(NamedTuple):
    """Something that happens at a time; the tuple itself is the order.

    `client` and `number` name an address, a cell and a version, or are 0 and a version, a round or
    a counter.
    """

    time_s: float
    kind: Kind
    client: int
    number: int

    @property
    def address(self) -> Address:
        """The assignment that it is about."""
        return Address._make(self[2:])

    @property
    def version(self) -> Version:
        """The version that it is about, whose lineage stands in `client`."""
        return Version(self.number, self.client)


class EventQueue:
    """Events in the order of (time, kind, client, number), however they were pushed."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._heap = list(events)
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        """Count events."""
        return len(self._heap)

    def push(self, event: Event) -> None:
        """Add an event."""
        heapq.heappush(self._heap, event)

    def peek(self) -> Event | None:
        """Return the next event and leave it."""
        return self._heap[0] if self._heap else None

    def pop(self) -> Event:
        """Take the next event."""
        return heapq.heappop(self._heap)

    def keep(self, kinds: frozenset[Kind]) -> None:
        """Drop events of all other kinds."""
        self._heap = [event for event in self._heap if event.kind in kinds]
        heapq.heapify(self._heap)

    def dump(self) -> list[list[Any]]:
        """Return all events, in order."""
        return [list(event) for event in sorted(self._heap)]

    @classmethod
    def load(cls, rows: list[list[Any]]) -> EventQueue:
        """Read what `dump` wrote."""
        return cls(Event(t, Kind(k), c, n) for t, k, c, n in rows)


class Resources:
    """Modelled resources that serve one thing after the other, first come, first served."""

    def __init__(self, free_at: dict[str, float] | None = None) -> None:
        self._free_at = dict(free_at or {})

    def serve(self, name: str, now_s: float, duration_s: float) -> float:
        """Queue for `duration_s` of a resource; return when the service ends."""
        end = max(now_s, self._free_at.get(name, 0.0)) + duration_s
        self._free_at[name] = end
        return end

    def dump(self, now_s: float) -> dict[str, float]:
        """Return when each resource is free; those that are free already are left out."""
        return {name: end for name, end in sorted(self._free_at.items()) if end > now_s}


class Roster:
    """Who can be asked: idle, in the run, and not in quarantine."""

    def __init__(self, size: int) -> None:
        self._busy = bytearray(size)
        self._out = bytearray(size)  # in quarantine
        self._left = bytearray(size)
        self._idle = size
        self.next_number: dict[int, int] = {}
        self.strikes: dict[int, int] = {}

    @property
    def size(self) -> int:
        """Clients in the fleet."""
        return len(self._busy)

    @property
    def idle(self) -> int:
        """How many can be asked."""
        return self._idle

    def is_idle(self, client: int) -> bool:
        """Whether this one can be asked."""
        return not (self._busy[client] or self._out[client] or self._left[client])

    def is_out(self, client: int) -> bool:
        """Whether this one is in quarantine."""
        return bool(self._out[client])

    def askable(self) -> npt.NDArray[np.bool_]:
        """Return who can be asked, shape (size,)."""
        flags = (self._busy, self._out, self._left)
        busy, out, left = (np.frombuffer(flag, dtype=np.bool_) for flag in flags)
        return np.logical_not(busy | out | left)

    def dispatch(self, client: int) -> Address:
        """Make a client busy; return the address of its next update."""
        if not self.is_idle(client):
            raise ValueError(f"client {client} cannot be asked now")
        self._busy[client] = 1
        self._idle -= 1
        number = self.next_number.get(client, 0)
        self.next_number[client] = number + 1
        return Address(client, number)

    def release(self, client: int) -> None:
        """Make a client idle again."""
        self._busy[client] = 0
        self._idle += self.is_idle(client)

    def quarantine(self, client: int) -> None:
        """Never ask a client again."""
        self._idle -= self.is_idle(client)
        self._out[client] = 1

    def admit(self, client: int, *, out: bool) -> bool:
        """Take a client out of the run, or in again; return whether that changed anything."""
        if bool(self._left[client]) == out:
            return False
        before = self.is_idle(client)
        self._left[client] = out
        self._idle += self.is_idle(client) - before
        return True

    def in_run(self) -> npt.NDArray[np.bool_]:
        """Return who can be asked now or later, shape (size,): not taken out, nor in quarantine."""
        out, left = (np.frombuffer(flag, dtype=np.bool_) for flag in (self._out, self._left))
        return np.logical_not(out | left)

    @property
    def left(self) -> list[int]:
        """Who was taken out of the run."""
        return _set(self._left)

    @property
    def quarantined(self) -> list[int]:
        """Who is in quarantine."""
        return _set(self._out)

    def dump(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "size": self.size,
            "busy": _set(self._busy),
            "quarantined": self.quarantined,
            "left": self.left,
            "next_number": sorted(self.next_number.items()),
            "strikes": sorted(self.strikes.items()),
        }

    @classmethod
    def load(cls, data: dict[str, Any]) -> Roster:
        """Read what `dump` wrote."""
        roster = cls(data["size"])
        for client in data["busy"]:
            roster._busy[client] = 1
        roster._idle -= len(data["busy"])
        for client in data["quarantined"]:
            roster.quarantine(client)
        for client in data["left"]:
            roster.admit(client, out=True)
        roster.next_number = dict(map(tuple, data["next_number"]))
        roster.strikes = dict(map(tuple, data["strikes"]))
        return roster


def _set(flags: bytearray) -> list[int]:
    """Return who has a flag."""
    found: list[int] = np.flatnonzero(np.frombuffer(flags, dtype=np.bool_)).tolist()
    return found


class Present:
    """Who can be asked among those who are there.

    Args:
        roster: Who is idle.
        there: Who is there, shape (size,).
    """

    def __init__(self, roster: Roster, there: npt.NDArray[np.bool_]) -> None:
        self._askable = roster.askable() & there

    @property
    def size(self) -> int:
        """Clients in the fleet."""
        return self._askable.size

    def askable(self) -> npt.NDArray[np.bool_]:
        """Return who can be asked, shape (size,)."""
        return self._askable

    @property
    def idle(self) -> int:
        """How many can be asked."""
        return int(np.count_nonzero(self._askable))

    def is_idle(self, client: int) -> bool:
        """Whether this one can be asked."""
        return bool(self._askable[client])


@dataclass(frozen=True, slots=True)
class Asked:
    """What a selection is told: who can be asked, and what is known.

    Attributes:
        who: Who can be asked.
        selections: Selections before this one.
        memory: What the policy remembers.
        known: What is known of clients; None where the policy does not look back.
    """

    who: Idle
    selections: int
    memory: Arrays
    known: Past | None

    @property
    def size(self) -> int:
        """Clients in the fleet."""
        return self.who.size

    @property
    def idle(self) -> int:
        """How many can be asked."""
        return self.who.idle

    def is_idle(self, client: int) -> bool:
        """Whether this one can be asked."""
        return self.who.is_idle(client)

    def askable(self) -> npt.NDArray[np.bool_]:
        """Return who can be asked, shape (size,)."""
        return self.who.askable()

    @property
    def past(self) -> Past:
        """What is known of clients.

        Raises:
            RunError: If nothing is kept, because the policy does not say that it looks back.
        """
        if self.known is None:
            raise RunError(
                "the selection looks at clients' past, and says by looks_back that it does not"
            )
        return self.known


class Published(NamedTuple):
    """What is known of a published version.

    Attributes:
        whole: What sending it takes to a client that holds nothing.
        nonzeros: Parameters that are not zero.
        encoder: The encoder's weights when it was published; None where it has none of its own.
    """

    whole: Shipment
    nonzeros: int
    encoder: Weights | None = None


class VersionStore:
    """Which versions exist, which is the newest that clients get, and which are still needed."""

    def __init__(self) -> None:
        self._handles: dict[Version, Handle] = {}
        self._published: dict[Version, Published] = {}
        self._users: dict[Version, int] = {}
        self._newest: Version | None = None

    def add(self, version: Version, handle: Handle) -> None:
        """Take a version that was made; it is not handed out before `publish`."""
        self._handles[version] = handle
        self._users[version] = 1

    def publish(self, version: Version, published: Published) -> None:
        """Make a version the newest; the one before goes once nobody uses it.

        Args:
            version: Newer than the newest.
            published: What is known of it.
        """
        if self._newest is not None and version <= self._newest:
            raise ValueError(f"{version} cannot follow {self._newest}")
        self._published[version] = published
        before, self._newest = self._newest, version
        if before is not None:
            self.release(before)

    @property
    def newest(self) -> Version:
        """The version that is handed out."""
        if self._newest is None:
            raise ValueError("no version is published")
        return self._newest

    def handle(self, version: Version) -> Handle:
        """Return a version's handle."""
        return self._handles[version]

    def published(self, version: Version) -> Published:
        """Return what is known of a published version."""
        return self._published[version]

    def hold(self, version: Version) -> Handle:
        """Count one more user of a version, and return its handle."""
        self._users[version] += 1
        return self._handles[version]

    def release(self, version: Version) -> None:
        """Count one user less; the last one lets the version go."""
        self._users[version] -= 1
        if not self._users[version]:
            del self._users[version], self._handles[version]
            self._published.pop(version, None)

    def __contains__(self, version: Version) -> bool:
        """Whether somebody still needs it."""
        return version in self._handles

    def items(self) -> list[tuple[Version, int, Published | None, Handle]]:
        """Return (version, users, published, handle) in order, for a checkpoint."""
        return [
            (v, self._users[v], self._published.get(v), self._handles[v])
            for v in sorted(self._handles)
        ]

    def put(
        self,
        version: Version,
        users: int,
        published: Published | None,
        handle: Handle,
        *,
        newest: bool,
    ) -> None:
        """Read one of `items` back."""
        self._handles[version] = handle
        self._users[version] = users
        if published is not None:
            self._published[version] = published
        if newest:
            self._newest = version


def tail_accuracy(accuracies: Sequence[float]) -> float:
    """Average the last tenth of the evaluations, at least one."""
    return fmean(_tail(accuracies)) if accuracies else math.nan


def accuracy_swing(accuracies: Sequence[float]) -> float:
    """Return the standard deviation over the last tenth of the evaluations, two at least."""
    return pstdev(_tail(accuracies, 2)) if len(accuracies) > 1 else math.nan


def _tail(accuracies: Sequence[float], least: int = 1) -> Sequence[float]:
    return accuracies[-max(math.ceil(len(accuracies) / 10), least) :]


@dataclass(slots=True)
class Ledger:
    """How many updates went which way, and what it took; nothing is ever lost from it.

    `dispatched = committed + rejected + superseded + lost + in flight`, where an accepted update
    that waits for its version is in flight.
    """

    dispatched: int = 0
    committed: int = 0
    rejected: int = 0
    superseded: int = 0
    lost: int = 0
    downlink_bytes: int = 0
    uplink_bytes: int = 0
    uplink_entropy_bytes: float = 0.0
    downlink_entropy_bytes: float = 0.0
    activation_uplink_bytes: int = 0
    activation_downlink_bytes: int = 0
    backhaul_uplink_bytes: int = 0
    backhaul_downlink_bytes: int = 0
    staleness_sum: int = 0
    energy_j: float = 0.0
    device_s: float = 0.0
    wasted_device_s: float = 0.0
    wasted_bytes: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    accuracies: list[float] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Both directions."""
        return self.downlink_bytes + self.uplink_bytes

    @property
    def mean_staleness(self) -> float:
        """Mean over committed updates, in versions."""
        return self.staleness_sum / self.committed if self.committed else 0.0

    @property
    def in_flight(self) -> int:
        """Updates whose end is open."""
        return self.dispatched - self.committed - self.rejected - self.superseded - self.lost

    def figures(self) -> dict[str, Any]:
        """Return counts and costs, under the names that people know them by."""
        return {
            "tail_accuracy": tail_accuracy(self.accuracies),
            "best_accuracy": max(self.accuracies, default=math.nan),
            "accuracy_swing": accuracy_swing(self.accuracies),
            "updates": self.committed,
            "rejected_updates": self.rejected,
            "superseded_updates": self.superseded,
            "lost_updates": self.lost,
            "uplink_bytes": self.uplink_bytes,
            "downlink_bytes": self.downlink_bytes,
            "uplink_entropy_bytes": self.uplink_entropy_bytes,
            "downlink_entropy_bytes": self.downlink_entropy_bytes,
            "activation_uplink_bytes": self.activation_uplink_bytes,
            "activation_downlink_bytes": self.activation_downlink_bytes,
            "backhaul_uplink_bytes": self.backhaul_uplink_bytes,
            "backhaul_downlink_bytes": self.backhaul_downlink_bytes,
            "mean_staleness": self.mean_staleness,
            "energy_joules": self.energy_j,
            "device_seconds": self.device_s,
            "wasted_device_seconds": self.wasted_device_s,
            "wasted_bytes": self.wasted_bytes,
        }

    def settle(self, verdict: Verdict, device_s: float, sent: int) -> None:
        """Count an update that will not be committed.

        Args:
            verdict: Why not.
            device_s: Seconds of the device and its links that went into it.
            sent: Bytes both ways.
        """
        if verdict.outcome is Outcome.REJECTED:
            self.rejected += 1
        elif verdict.outcome is Outcome.SUPERSEDED:
            self.superseded += 1
        elif verdict.outcome is Outcome.LOST:
            self.lost += 1
        reason = verdict.reason.value
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        self.wasted_device_s += device_s
        self.wasted_bytes += sent

    def tested(self, test: Test) -> None:
        """Count what a client's test took; all of it is wasted if the result does not count."""
        self.device_s += test.device_s
        self.energy_j += test.energy_j
        self.downlink_bytes += test.downlink_bytes
        self.downlink_entropy_bytes += test.downlink_entropy_bytes
        self.uplink_bytes += test.uplink_bytes
        if test.trouble:
            self.wasted_device_s += test.device_s
            self.wasted_bytes += test.downlink_bytes + test.uplink_bytes

    def dump(self) -> dict[str, Any]:
        """Return all of it."""
        return asdict(self)
