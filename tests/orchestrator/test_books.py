"""Do the engine's books add up, in any order of entries, and through a checkpoint?"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.publisher import Shipment
from orchestrator.books import (
    Event,
    EventQueue,
    Kind,
    Ledger,
    Published,
    Resources,
    Roster,
    VersionStore,
)
from policies.selection import Uniform
from policies.types import Address, Outcome, Reason, Verdict, Version, rejected, stream

EVENTS = st.builds(
    Event,
    st.sampled_from([0.0, 1.0, 1.5]) | st.floats(0, 1e9),
    st.sampled_from(Kind),
    st.integers(0, 3),
    st.integers(0, 3),
)
V0, V1, V2 = Version(0, 0), Version(1, 0), Version(2, 0)


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def drained(queue: EventQueue) -> list[Event]:
    return [queue.pop() for _ in range(len(queue))]


# ---------------------------------------------------------------- event queue


@given(st.lists(EVENTS), st.randoms(use_true_random=False))
def test_any_order_of_pushes(events: list[Event], rng: random.Random) -> None:
    """Events come by (time, kind, client, number), however they were pushed."""
    pushed, queue = list(events), EventQueue(events[: len(events) // 2])
    rng.shuffle(pushed)
    both = EventQueue(pushed)
    for event in events[len(events) // 2 :]:
        queue.push(event)
    assert queue.peek() == min(events, default=None)
    key: Callable[[Event], Any] = lambda e: (e.time_s, int(e.kind), e.client, e.number)  # noqa: E731
    assert drained(queue) == drained(both) == sorted(events, key=key)
    assert queue.peek() is None
    assert len(queue) == 0


@given(st.lists(EVENTS))
def test_queue_through_a_checkpoint(events: list[Event]) -> None:
    """What was written is read back, kinds as kinds, and the queue written from stays."""
    queue = EventQueue(events)
    again = EventQueue.load(through_json(queue.dump()))
    assert len(queue) == len(again) == len(events)
    left = drained(again)
    assert left == drained(queue)
    assert all(type(event.kind) is Kind for event in left)


def test_kinds_at_equal_times() -> None:
    """At one moment: arrive, publish, evaluate, guard, select; and a round closes on arrivals."""
    order = [Kind.ARRIVE, Kind.CLOSE_ROUND, Kind.PUBLISH, Kind.EVALUATE, Kind.GUARD, Kind.SELECT]
    assert all(a < b for a, b in pairwise(order))
    assert max(Kind.STAGE, Kind.RESOLVE) < Kind.ARRIVE  # what leads to an arrival precedes it
    queue = EventQueue(Event(1.0, kind, 9 - kind, 0) for kind in reversed(Kind))
    assert [event.kind for event in drained(queue)] == sorted(Kind)


def test_time_then_client_then_number() -> None:
    """An earlier time wins over any kind; among equals, the lower client, then number."""
    events = [
        Event(1.0, Kind.SELECT, 9, 9),
        Event(2.0, Kind.ARRIVE, 0, 7),
        Event(2.0, Kind.ARRIVE, 1, 0),
        Event(2.0, Kind.ARRIVE, 1, 1),
    ]
    assert drained(EventQueue(events[::-1])) == events


@given(st.lists(EVENTS), st.sets(st.sampled_from(Kind)))
def test_keep(events: list[Event], kinds: set[Kind]) -> None:
    """Events of other kinds are dropped, the rest stays in order."""
    queue = EventQueue(events)
    queue.keep(frozenset(kinds))
    assert drained(queue) == sorted(e for e in events if e.kind in kinds)


# ---------------------------------------------------------------- resources


def test_first_come_first_served() -> None:
    """5 s asked at 0 end at 5; 2 s asked at 1 wait and end at 7; asked at 9 they end at 11."""
    resources = Resources()
    assert resources.serve("server", 0, 5) == 5
    assert resources.serve("server", 1, 2) == 7
    assert resources.serve("uplink/3", 1, 2) == 3  # another resource is free
    assert resources.serve("server", 9, 2) == 11
    assert resources.serve("server", 11, 0) == 11


def test_resources_through_a_checkpoint() -> None:
    """What is busy stays busy; what is free by then is left out."""
    resources = Resources()
    resources.serve("b", 0, 5)
    resources.serve("a", 0, 9)
    resources.serve("c", 0, 4)
    dump = through_json(resources.dump(now_s=5))
    assert dump == {"a": 9}
    again = Resources(dump)
    assert again.serve("a", 6, 1) == resources.serve("a", 6, 1) == 10
    assert again.serve("b", 6, 1) == 7
    assert dump == {"a": 9}


# ---------------------------------------------------------------- roster


@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5))))
def test_roster_in_any_sequence(size: int, steps: list[tuple[int, int]]) -> None:
    """Whatever happens, exactly those neither busy nor out are idle; numbers count up by one."""
    roster, busy, out, sent = Roster(size), set[int](), set[int](), [0] * size
    for act, drawn in steps:
        client = drawn % size
        if act == 0 and client not in busy | out:
            assert roster.dispatch(client) == Address(client, sent[client])
            sent[client] += 1
            busy.add(client)
        elif act == 0:
            with pytest.raises(ValueError, match=f"client {client} cannot be asked now"):
                roster.dispatch(client)
        elif act == 1 and client in busy:
            roster.release(client)
            busy.discard(client)
        elif act == 2:
            roster.quarantine(client)
            out.add(client)
        for one in (roster, Roster.load(through_json(roster.dump()))):
            idle = [c for c in range(size) if one.is_idle(c)]
            assert idle == sorted(set(range(size)) - busy - out)
            assert (one.idle, one.size, one.quarantined) == (len(idle), size, sorted(out))
            assert [c for c in range(size) if one.is_out(c)] == sorted(out)


def test_roster_through_a_checkpoint() -> None:
    """Counters and strikes go on where they were."""
    roster = Roster(4)
    for client in (2, 0):
        roster.dispatch(client)
    roster.release(2)
    roster.strikes[3] = 2
    roster.quarantine(0)
    again = Roster.load(through_json(roster.dump()))
    assert again.dump() == roster.dump()
    assert again.strikes == {3: 2}
    assert again.dispatch(2) == Address(2, 1)
    again.release(0)  # busy when it was put out: still out
    assert not again.is_idle(0)
    assert again.idle == 2


def test_a_selection_can_read_a_roster() -> None:
    """The roster is what selection policies look at."""
    roster = Roster(3)
    roster.dispatch(1)
    assert sorted(Uniform().choose(roster, 5, stream(0, "select"))) == [0, 2]


# ---------------------------------------------------------------- versions


def test_versions_by_hand() -> None:
    """A version goes when a newer one is published and its last user lets it go."""
    store = VersionStore()
    with pytest.raises(ValueError, match="no version is published"):
        _ = store.newest
    store.add(V0, "h0")
    store.publish(V0, Published(Shipment(100, 90.0), 7))
    assert store.hold(V0) == "h0"
    store.add(V1, "h1")
    assert store.newest == V0  # made, but not published
    assert V1 in store
    store.publish(V1, Published(Shipment(50, 40.0), 8))
    assert (store.newest, store.handle(V1), store.published(V1).nonzeros) == (V1, "h1", 8)
    assert V0 in store
    assert (store.handle(V0), store.published(V0).whole) == ("h0", Shipment(100, 90.0))
    store.release(V0)
    assert V0 not in store
    assert store.items() == [(V1, 1, Published(Shipment(50, 40.0), 8), "h1")]


def test_an_unused_version_goes_at_once() -> None:
    """If nobody held it, the next publication lets it go; the newest stays by itself."""
    store = VersionStore()
    for number in range(3):
        version = Version(number, 0)
        store.add(version, number)
        store.publish(version, Published(Shipment(50, 40.0), 8))
    assert store.items() == [(V2, 1, Published(Shipment(50, 40.0), 8), 2)]


def test_a_version_that_is_never_published() -> None:
    """It can be let go like any other."""
    store = VersionStore()
    store.add(V0, "h0")
    store.release(V0)
    assert V0 not in store


@given(st.lists(st.integers(0, 2), max_size=30))
def test_versions_in_any_sequence(steps: list[int]) -> None:
    """A version is there as long as it is the newest or somebody holds it."""
    store, held, newest = VersionStore(), list[Version](), V0
    store.add(V0, 0)
    store.publish(V0, Published(Shipment(50, 40.0), 8))
    for step in steps:
        if step == 0:
            newest = Version(newest.number + 1, 0)
            store.add(newest, newest.number)
            store.publish(newest, Published(Shipment(50, 40.0), 8))
        elif step == 1:
            store.hold(newest)
            held.append(newest)
        elif held:
            store.release(held.pop(0))
        assert {version for version, *_ in store.items()} == {newest, *held}


def test_versions_through_a_checkpoint() -> None:
    """Read back, users, bytes and the newest are as before, also of one not yet published."""
    store, again = VersionStore(), VersionStore()
    store.add(V0, "h0")
    store.publish(V0, Published(Shipment(100, 90.0), 7))
    store.hold(V0)
    store.add(V1, "h1")
    store.publish(V1, Published(Shipment(50, 40.0), 8))
    store.add(V2, "h2")
    rows = store.items()
    first, second = Published(Shipment(100, 90.0), 7), Published(Shipment(50, 40.0), 8)
    assert rows == [(V0, 1, first, "h0"), (V1, 1, second, "h1"), (V2, 1, None, "h2")]
    for version, users, published, handle in rows:
        again.put(version, users, published, handle, newest=version == store.newest)
    for one in (store, again):
        one.publish(V2, Published(Shipment(50, 40.0), 8))
        one.release(V0)
    assert again.items() == store.items() == [(V2, 1, Published(Shipment(50, 40.0), 8), "h2")]


# ---------------------------------------------------------------- ledger


ENDS = st.sampled_from(["commit", *Outcome])


@given(st.lists(ENDS), st.integers(0, 5))
def test_nothing_is_lost_from_the_ledger(ends: list[str], open_ends: int) -> None:
    """Dispatched is committed + rejected + superseded + lost + in flight, after any sequence."""
    ledger = Ledger(dispatched=len(ends) + open_ends)
    for end in ends:
        if end == "commit":
            ledger.committed += 1
        elif end != Outcome.ACCEPTED:
            ledger.settle(Verdict(Outcome(end), Reason.NO_RESULT), 0.5, 7)
    counts = [ledger.rejected, ledger.superseded, ledger.lost]
    settled = [Outcome.REJECTED, Outcome.SUPERSEDED, Outcome.LOST]
    assert counts == [ends.count(outcome) for outcome in settled]
    assert ledger.in_flight == open_ends + ends.count(Outcome.ACCEPTED)
    assert sum(ledger.reasons.values()) == sum(counts)
    assert ledger.wasted_device_s == 0.5 * sum(counts)
    assert ledger.wasted_bytes == 7 * sum(counts)


def test_ledger_by_hand() -> None:
    """Means are over committed updates, bytes go both ways, reasons are counted."""
    ledger = Ledger(dispatched=9, committed=4, staleness_sum=10, uplink_bytes=30, downlink_bytes=12)
    ledger.settle(rejected(Reason.TOO_STALE), 2.0, 10)
    ledger.settle(rejected(Reason.TOO_STALE), 1.0, 5)
    ledger.settle(Verdict(Outcome.LOST, Reason.NO_RESULT), 0.25, 1)
    assert (ledger.mean_staleness, ledger.bytes, ledger.in_flight) == (2.5, 42, 2)
    assert ledger.reasons == {"too_stale": 2, "no_result": 1}
    assert (ledger.wasted_device_s, ledger.wasted_bytes) == (3.25, 16)
    assert Ledger().mean_staleness == 0


def test_ledger_through_a_checkpoint() -> None:
    """What is written makes an equal ledger, and shares nothing with it."""
    ledger = Ledger(dispatched=3, accuracies=[0.5], energy_j=0.1)
    ledger.settle(Verdict(Outcome.LOST, Reason.NO_RESULT), 0.3, 1)
    again = Ledger(**through_json(ledger.dump()))
    assert again == ledger
    dump = ledger.dump()
    dump["accuracies"].append(0.9)
    assert ledger.accuracies == [0.5]
    assert np.isclose(again.wasted_device_s, 0.3)


def test_a_client_that_leaves_and_comes_again() -> None:
    """It is not asked meanwhile, whatever it was doing; the counts and a checkpoint agree."""
    roster = Roster(3)
    assert roster.admit(1, out=True)
    assert not roster.admit(1, out=True)
    assert (roster.idle, roster.left, list(roster.askable())) == (2, [1], [True, False, True])
    roster.dispatch(0)
    assert roster.admit(0, out=True)
    roster.release(0)
    assert (roster.idle, roster.is_idle(0)) == (1, False)
    again = Roster.load(through_json(roster.dump()))
    assert (again.idle, again.left) == (1, [0, 1])
    assert again.admit(0, out=False)
    assert (again.idle, again.is_idle(0)) == (2, True)
    again.quarantine(0)
    assert again.idle == 1
