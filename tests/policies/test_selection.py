"""Is everyone who is idle asked with the same chance, and nobody else?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from policies.selection import Selection, SelectionPolicy, Uniform
from policies.types import stream

ADAPTER: TypeAdapter[SelectionPolicy] = TypeAdapter(Selection)
MEMBER = get_args(Selection)[0]
MEMBERS = get_args(MEMBER) or (MEMBER,)
SAMPLES: dict[type[SelectionPolicy], list[SelectionPolicy]] = {Uniform: [Uniform()]}
EVERY_SAMPLE = [sample for samples in SAMPLES.values() for sample in samples]


@dataclass
class Clients:
    """A fleet where some are idle; counts how often it is asked."""

    size: int
    who: frozenset[int]
    asked: int = field(default=0)

    @property
    def idle(self) -> int:
        return len(self.who)

    def is_idle(self, client: int) -> bool:
        self.asked += 1
        return client in self.who

    def askable(self) -> npt.NDArray[np.bool_]:
        self.asked += self.size
        return np.isin(np.arange(self.size), list(self.who))


def test_every_member_has_a_sample() -> None:
    """A new member of the family cannot escape the contract below."""
    assert set(MEMBERS) == set(SAMPLES)


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
@given(st.sets(st.integers(0, 19)), st.integers(0, 25), st.integers(0, 99))
def test_contract(policy: SelectionPolicy, idle: set[int], count: int, seed: int) -> None:
    """Only idle ones, none twice, as many as asked for or as there are; equal streams agree."""
    clients = Clients(20, frozenset(idle))
    chosen = policy.choose(clients, count, stream(seed, "select"))
    assert set(chosen) <= idle
    assert len(set(chosen)) == len(chosen) == min(count, len(idle))
    assert all(type(client) is int for client in chosen)
    assert chosen == policy.choose(clients, count, stream(seed, "select"))


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_written_back(policy: SelectionPolicy) -> None:
    """What is written of a member makes an equal one."""
    assert ADAPTER.validate_json(ADAPTER.dump_json(policy)) == policy


@pytest.mark.parametrize(
    ("size", "idle", "count"),
    [
        (12, range(12), 3),  # drawn until idle ones come
        (12, (0, 2, 3, 5, 7, 11), 2),
        (12, range(2, 12), 8),  # many of few: a permutation
        (40, (1, 2, 17, 30, 39), 2),  # few idle ones: a permutation
    ],
)
def test_unbiased(size: int, idle: range | tuple[int, ...], count: int) -> None:
    """Over 4000 streams each idle client is chosen, and comes first, as often as any other."""
    clients = Clients(size, frozenset(idle))
    chosen, first = np.zeros(size), np.zeros(size)
    for number in range(4000):
        found = Uniform().choose(clients, count, stream(1, "select", 0, number))
        assert len(set(found)) == count
        chosen[found] += 1
        first[found[0]] += 1
    for counts in (chosen, first):
        expected = counts.sum() / len(idle)
        deviation = (counts[list(idle)] - expected) ** 2 / expected
        assert deviation.sum() < 40  # chi-square with 11 degrees: one in 30,000 exceeds 40


def test_large_fleet() -> None:
    """Five of a million idle clients are found by asking about a handful of them."""
    clients = Clients(10**6, frozenset())
    clients.who = range(10**6)  # type: ignore[assignment]  # holds all without a set
    assert len(Uniform().choose(clients, 5, stream(0, "select"))) == 5
    assert clients.asked < 50


def test_few_idle_in_a_large_fleet() -> None:
    """The only two idle ones of fifty thousand are found, looking at each client once."""
    clients = Clients(50_000, frozenset({7, 49_999}))
    assert sorted(Uniform().choose(clients, 5, stream(0, "select"))) == [7, 49_999]
    assert clients.asked == 50_000


@pytest.mark.parametrize("idle", [frozenset(), frozenset({1}), frozenset({1, 2, 3})])
def test_nobody_is_wanted(idle: frozenset[int]) -> None:
    """If none is wanted, nobody is asked, however many are idle."""
    assert Uniform().choose(Clients(4, idle), 0, stream(0, "select")) == []
