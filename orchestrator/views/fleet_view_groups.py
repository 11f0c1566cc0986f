"""Which kinds of clients does a fleet have, and what can they do?

A kind is an entry of the mix in a region. What differs within it is told by three figures.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from orchestrator.fleet import Fleet, MixEntry, Profile, Region
from orchestrator.fleet.links import Way
from policies.types import Positions

Reals = npt.NDArray[np.float64]

DAY_S: Final = 86400.0
_GOLDEN: Final = (math.sqrt(5) - 1) / 2
_LINKS: Final = 25  # clients of a kind whose links are looked at
_LOOKS: Final = 12  # moments, at each of them
_DOTS: Final = 600
_LEAST_DOTS: Final = 20  # of a kind
_DOT_LOOKS: Final = 3


class Range(NamedTuple):
    """How a figure differs.

    Attributes:
        low: The least, or what 5 % are below.
        median: What half are below.
        high: The most, or what 95 % are below.
    """

    low: float
    median: float
    high: float

    @classmethod
    def whole(cls, values: npt.NDArray[Any]) -> Range:
        """Return the least, the median and the most."""
        return cls(*(float(v) for v in np.quantile(values, [0.0, 0.5, 1.0])))

    @classmethod
    def mostly(cls, values: npt.NDArray[Any]) -> Range:
        """Return the 5 %, 50 % and 95 % quantiles."""
        return cls(*(float(v) for v in np.quantile(values, [0.05, 0.5, 0.95])))


class Typical(NamedTuple):
    """A figure over clients, their assignments and the times of a day.

    Attributes:
        median: What half are below; NaN if it is not known.
        high: What 95 % are below.
    """

    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Typical:
        """Return both."""
        return cls(*(float(v) for v in np.quantile(values, [0.5, 0.95])))


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Clients of one kind.

    Attributes:
        label: Tells it from the others.
        entry: Its entry of the mix.
        profile: The device.
        region: Name of the region; empty if there are none.
        members: Who they are, shape (n,), n >= 1.
        flops: FLOP/s, over the clients: least, median, most.
        downlink: Bits a second, over clients and moments of a day: 5 %, median, 95 %.
        uplink: The same, from the client.
        latency_s: Of profile and region.
    """

    label: str
    entry: MixEntry
    profile: Profile
    region: str
    members: Positions
    flops: Range
    downlink: Range
    uplink: Range
    latency_s: float


def groups(fleet: Fleet) -> list[Group]:
    """Return the kinds that have clients, in the order of the mix, then of the regions."""
    settings = fleet.settings
    known = settings.known_profiles()
    regions = settings.regions or {"": Region()}
    labels = _labels(settings.mix)
    found = []
    for at, entry in enumerate(settings.mix):
        profile = known[entry.profile]
        for place, (name, region) in enumerate(regions.items()):
            members = np.flatnonzero((fleet.entries == at) & (fleet.regions == place))
            if not members.size:
                continue
            found.append(
                Group(
                    label=f"{labels[at]}, {name}" if name else labels[at],
                    entry=entry,
                    profile=profile,
                    region=name,
                    members=members,
                    flops=Range.whole(profile.flops * fleet.speeds[members]),
                    downlink=_link(fleet, members, "downlink"),
                    uplink=_link(fleet, members, "uplink"),
                    latency_s=profile.latency_s + region.latency_s,
                )
            )
    return found


def without_clients(fleet: Fleet) -> list[str]:
    """Return the entries of the mix whose share is too small for a client."""
    counts = np.bincount(fleet.entries, minlength=len(fleet.settings.mix))
    labels = _labels(fleet.settings.mix)
    return [label for label, count in zip(labels, counts, strict=True) if not count]


def _labels(mix: tuple[MixEntry, ...]) -> list[str]:
    """Return the profiles' names, numbered where several entries have one profile."""
    often, seen = Counter(entry.profile for entry in mix), Counter[str]()
    labels = []
    for name in (entry.profile for entry in mix):
        seen[name] += 1
        labels.append(name if often[name] == 1 else f"{name} ({seen[name]})")
    return labels


def _link(fleet: Fleet, members: Positions, way: Way) -> Range:
    looks = [rates(fleet, client, way, _LOOKS) for client in evenly(members, _LINKS)]
    return Range.mostly(np.concatenate(looks))


def rates(fleet: Fleet, client: int, way: Way, looks: int) -> Reals:
    """Return how fast a client's link is at so many moments of a day, bits a second."""
    settings, profile = fleet.settings, fleet.profile_of(client)
    region = settings.regions.get(fleet.region_of(client), Region())
    nominal = (profile.uplink if way == "uplink" else profile.downlink) * region.bandwidth
    pieces = settings.link.pieces
    return np.array(
        [
            next(pieces(fleet.seed, client, time_s, way=way, nominal=nominal))[0]
            for time_s in moments(looks)
        ]
    )


def moments(count: int) -> Iterator[float]:
    """Yield a moment of each of `count` equal parts of a day, in order.

    Each lies elsewhere in its part, so that nothing that comes round again is seen at one of its
    phases alone.
    """
    for part in range(count):
        yield (part + part * _GOLDEN % 1) * DAY_S / count


def evenly(members: Positions, most: int) -> list[int]:
    """Return at most so many of the clients, from the first to the last."""
    if members.size <= most:
        return [int(client) for client in members]
    places = np.linspace(0, members.size - 1, most).round().astype(np.int64)
    return [int(client) for client in members[places]]


class Dots(NamedTuple):
    """Some of the clients, one by one.

    Attributes:
        kinds: Index of each one's kind, shape (n,).
        flops: FLOP/s, shape (n,).
        uplink: Bits a second, median over a day, shape (n,).
        clients: Who they are, shape (n,).
    """

    kinds: Positions
    flops: Reals
    uplink: Reals
    clients: Positions


def dots(fleet: Fleet, found: Sequence[Group]) -> Dots:
    """Return clients of every kind: all, or about 600 of many."""
    share = min(1.0, _DOTS / len(fleet))
    chosen = [
        evenly(group.members, max(_LEAST_DOTS, round(share * group.members.size)))
        for group in found
    ]
    clients = np.array([client for some in chosen for client in some], dtype=np.int64)
    nominal = np.array([fleet.profile_of(int(client)).flops for client in clients])
    looks = [np.median(rates(fleet, int(client), "uplink", _DOT_LOOKS)) for client in clients]
    kinds = np.repeat(np.arange(len(found)), [len(some) for some in chosen])
    return Dots(kinds, nominal * fleet.speeds[clients], np.array(looks), clients)
