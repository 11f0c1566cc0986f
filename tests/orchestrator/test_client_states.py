"""Is every client's state what its last update left, wherever it lies, and what does that hold?"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any
from weakref import ref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import client_states
from orchestrator.client_states import MOST_IN_BUFFER, ClientStates
from orchestrator.runtime import Place
from policies.types import Address, Buffer

SIZE = 8
"""Bytes of a state here."""


class Shelf:
    """Keeps buffers as a runtime does, and knows which of them are still held."""

    def __init__(self) -> None:
        self.made: list[ref[Any]] = []

    def put(self, buffer: Buffer) -> Any:
        kept = buffer.copy()
        self.made.append(ref(kept))
        return kept

    def fetch(self, what: Any) -> Buffer:
        return what.handle[what.start : what.stop] if isinstance(what, Place) else what

    @property
    def bytes(self) -> int:
        return sum(buffer.nbytes for made in self.made if (buffer := made()) is not None)


def group(shelf: Shelf, marks: Iterable[int]) -> list[Place]:
    """Put the states of updates that were trained together into one buffer."""
    handle = shelf.put(np.repeat(np.array(list(marks), dtype=np.uint8), SIZE))
    return [Place(handle, at, at + SIZE) for at in range(0, handle.size, SIZE)]


def mark(shelf: Shelf, states: ClientStates, client: int) -> int | None:
    found = states.current(client)
    return None if found is None else int(shelf.fetch(found)[0])


def place(name: str) -> Place:
    return Place(name, 0, 1)


def test_states_by_hand() -> None:
    """An accepted state is built upon at once, and stays when its update is committed."""
    states = ClientStates()
    assert states.current(0) is None
    states.accept(Address(0, 0), place("a"))
    assert states.current(0) == place("a")
    assert states.current(1) is None
    states.commit(Address(0, 0))
    states.accept(Address(0, 1), place("b"))
    states.accept(Address(0, 2), place("c"))
    assert states.current(0) == place("c")
    states.commit(Address(0, 1))
    assert list(states.items()) == [(0, 1, True, place("b")), (0, 2, False, place("c"))]


def test_supersede_takes_back_what_was_built_on_it() -> None:
    """Taking back update 1 takes back 2, too; what was committed before stays."""
    states = ClientStates()
    states.accept(Address(0, 0), place("a"))
    states.commit(Address(0, 0))
    for number, name in ((1, "b"), (2, "c")):
        states.accept(Address(0, number), place(name))
    states.accept(Address(4, 1), place("x"))
    states.supersede(Address(0, 1))
    assert states.current(0) == place("a")
    assert states.current(4) == place("x")
    states.supersede(Address(4, 1))
    assert states.current(4) is None


def test_supersede_keeps_what_came_before() -> None:
    """Taking back update 2 leaves the provisional state of 1."""
    states = ClientStates()
    for number, name in ((1, "b"), (2, "c")):
        states.accept(Address(0, number), place(name))
    states.supersede(Address(0, 2))
    assert states.current(0) == place("b")


def test_no_state_is_no_entry() -> None:
    """A method that keeps nothing leaves nothing here."""
    states = ClientStates()
    states.accept(Address(0, 0), None)
    states.commit(Address(0, 0))
    assert states.current(0) is None
    assert list(states.items()) == []


def test_states_through_a_checkpoint() -> None:
    """Read back, provisional and committed states behave as before."""
    states, again = ClientStates(), ClientStates()
    for client in (3, 1):
        states.accept(Address(client, 0), place(f"{client}a"))
        states.commit(Address(client, 0))
        for number in (1, 2):
            states.accept(Address(client, number), place(f"{client}{number}"))
    for client, number, committed, state in states.items():
        again.put(client, number, committed=committed, state=state)
    assert list(again.items()) == list(states.items())
    for one in (states, again):
        one.supersede(Address(3, 2))
        one.commit(Address(1, 1))
    assert list(again.items()) == list(states.items())
    assert (again.current(3), again.current(1)) == (place("31"), place("12"))


# ---------------------------------------------------------------- where they lie


def rare(states: ClientStates, shelf: Shelf, *, clients: int, updates: int) -> dict[int, int]:
    """Let a large fleet take part by groups; return the mark of each client's newest state."""
    rng, numbers, newest = random.Random(3), [0] * clients, {}
    for at in range(updates):
        members = rng.sample(range(clients), MOST_IN_BUFFER)
        marks = [(at * MOST_IN_BUFFER + i) % 251 for i in range(len(members))]
        for client, state, is_ in zip(members, group(shelf, marks), marks, strict=True):
            states.accept(Address(client, numbers[client]), state)
            states.commit(Address(client, numbers[client]))
            numbers[client] += 1
            newest[client] = is_
        states.compact(shelf)
    return newest


def test_a_buffer_is_not_held_for_one_member() -> None:
    """Of clients that come again rarely, less than twice their states is held, and some slack."""
    shelf, slack = Shelf(), 40 * MOST_IN_BUFFER * SIZE
    states = ClientStates(slack)
    newest = rare(states, shelf, clients=2000, updates=1500)
    assert {client: mark(shelf, states, client) for client in newest} == newest
    assert states.live_bytes == len(newest) * SIZE
    assert shelf.bytes == states.held_bytes <= 2 * states.live_bytes + slack + MOST_IN_BUFFER * SIZE
    loose, other = ClientStates(10**9), Shelf()
    assert rare(loose, other, clients=2000, updates=1500) == newest
    assert other.bytes > 2.9 * loose.live_bytes  # the sum of 1/i up to 16 is 3.4


@given(st.integers(0, 2**32 - 1))
def test_moving_states_changes_none(seed: int) -> None:
    """Whatever happens, states that are moved at every chance are those that never move."""
    rng, shelf = random.Random(seed), Shelf()
    moving, plain = ClientStates(most_waste_bytes=0), ClientStates(10**9)
    waiting: list[Address] = []
    numbers = [0] * 6
    for _ in range(60):
        what = rng.random()
        if what < 0.5 or not waiting:
            members = rng.sample(range(6), rng.randint(1, 4))
            marks = [rng.randrange(256) for _ in members]
            for client, state in zip(members, group(shelf, marks), strict=True):
                address = Address(client, numbers[client])
                numbers[client] += 1
                waiting.append(address)
                moving.accept(address, state)
                plain.accept(address, state)
        else:
            address = waiting.pop(rng.randrange(len(waiting)))
            for states in (moving, plain):
                (states.commit if what < 0.85 else states.supersede)(address)
        moving.compact(shelf)
        expected = [(*name, bytes(shelf.fetch(state))) for *name, state in plain.items()]
        assert [(*name, bytes(shelf.fetch(state))) for *name, state in moving.items()] == expected
        assert moving.live_bytes == plain.live_bytes == SIZE * len(expected)
        assert moving.waste_bytes == 0
        assert moving.held_bytes <= 2 * moving.live_bytes


def test_a_store_that_fails_changes_nothing() -> None:
    """If states cannot be moved now, they stay where they are, and are moved the next time."""

    class Broken(Shelf):
        def put(self, buffer: Buffer) -> Any:
            raise OSError(f"no room for {buffer.size} bytes")

    shelf, states = Shelf(), ClientStates(most_waste_bytes=0)
    for number in range(2):
        for client, state in enumerate(group(shelf, range(4 - 2 * number))):
            states.accept(Address(client, number), state)
            states.commit(Address(client, number))
    before = list(states.items())
    with pytest.raises(OSError, match="no room"):
        states.compact(Broken())
    assert list(states.items()) == before
    assert states.compact(shelf) == 2
    assert [mark(shelf, states, client) for client in range(4)] == [0, 1, 2, 3]
    assert states.held_bytes == states.live_bytes


@pytest.mark.parametrize("aggregation", ["fedbuff, size: 3", "fedasync"])
def test_moving_states_is_not_in_the_digest(
    aggregation: str, small: Any, ran: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose states are moved again and again has the digest of one that leaves them."""
    experiment = small(
        "fleet.clients=20",
        "method.concurrency=12",  # whose states share buffers
        "stop.versions=40",
        f"method.aggregation={{kind: {aggregation}}}",
    )
    reference = ran(experiment)
    monkeypatch.setattr(ClientStates.__init__, "__defaults__", (0,))
    moved: list[int] = []
    compact = ClientStates.compact

    def watched(self: ClientStates, store: client_states.Store) -> int:
        moved.append(compact(self, store))
        return moved[-1]

    monkeypatch.setattr(ClientStates, "compact", watched)
    assert ran(experiment).digest == reference.digest
    assert sum(moved) > 5
