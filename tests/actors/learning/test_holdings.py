"""Is what is known of all clients at once what each of them has?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actors.learning.evaluation_torch import Evaluation
from actors.learning.examples import DataSet
from actors.learning.holdings import Dealt
from actors.learning.shards import Indices, ListedShards, Shards
from orchestrator.told import Told

NAMES = ("ann", "bob", "cyd", "dee")
TRAIN = np.array([2, 0, 1, 0, 2, 2, 3, 0])
TEST = np.array([0, 3, 2, 0, 0, 3])


def data(**changes: Any) -> DataSet:
    """Return examples of four people; the only value of an input is its row."""
    rows = np.arange(8, dtype=np.float32)[:, None]
    whole: dict[str, Any] = {
        "x_train": rows,
        "y_train": np.arange(8) % 3,
        "x_test": rows[:6],
        "y_test": np.arange(6) % 3,
        "classes": 3,
        "clients_train": TRAIN,
        "clients_test": TEST,
        "client_names": NAMES,
    }
    return DataSet(**whole | changes)


def natural(*people: int) -> ListedShards:
    return Shards.of([np.flatnonzero(person == TRAIN) for person in people])


def test_tests_of_a_client_are_those_of_its_person() -> None:
    """By hand; whoever is nobody in particular has none, nor has who was never tested."""
    mixed = Shards.of([*(natural(2, 1, 3)[c] for c in range(3)), np.array([0, 1])])
    holdings = Dealt(data(), mixed)
    assert holdings.owners is not None
    assert holdings.owners.tolist() == [2, 1, 3, -1]
    assert [holdings.name_of(client) for client in range(4)] == ["cyd", "bob", "dee", "3"]
    assert holdings.sizes().test.tolist() == [1, 0, 2, 0]
    found = [holdings.test(client) for client in range(4)]
    assert [None if f is None else f.x.ravel().tolist() for f in found] == [
        [2.0],
        None,
        [1.0, 5.0],
        None,
    ]
    assert [holdings.describe(client).test for client in range(4)] == [1, 0, 2, 0]


@pytest.mark.parametrize(
    "changes",
    [{"clients_test": None}, {"clients_train": None, "clients_test": None, "client_names": ()}],
    ids=["no tests of their own", "no people"],
)
def test_sources_that_say_less(changes: dict[str, Any]) -> None:
    """Without people, or tests of theirs, nobody has test examples."""
    holdings = Dealt(data(**changes), natural(0, 1))
    assert holdings.sizes().test.tolist() == [0, 0]
    assert holdings.test(0) is None
    assert holdings.name_of(1) == ("1" if "client_names" in changes else "bob")


def test_nobody_is_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes, names and accuracies of all clients need no look at what each of them has."""
    looks: list[int] = []
    one = ListedShards.__getitem__

    def watched(self: ListedShards, client: int) -> Indices:
        looks.append(client)
        return one(self, client)

    people = np.arange(4).repeat(50)
    holdings = Dealt(data(), Shards.of([np.flatnonzero(person == TRAIN) for person in people]))
    monkeypatch.setattr(ListedShards, "__getitem__", watched)
    told = Told(holdings)
    assert told.sizes.test.tolist() == np.array([3, 0, 1, 2]).repeat(50).tolist()
    assert told.names == [NAMES[person] for person in people]
    evaluation = Evaluation(0.5, 1.0, (0.5,) * 3, (2,) * 3, (0.1, 0.2, 0.3))
    found = told.accuracies(evaluation)
    np.testing.assert_array_equal(found, np.array([0.1, 0.2, 0.3, np.nan]).repeat(50))
    assert not looks
