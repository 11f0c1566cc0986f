"""Who votes on what, and what does a voter remember?"""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.sparsity import Signs, SignSGD, UplinkPolicy
from policies.types import Address, Arrays, Vector, stream
from policies.update import FIRST, Base, Dense, Mask, ModelSchema, Sparse, TensorSpec
from policies.wire import Header, encode

ENTRIES = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=20)


def vector(values: list[float]) -> Vector:
    return np.array(values, dtype=np.float32)


def zeros(*sizes: int, density: float = 0.0) -> Base:
    tensors = ModelSchema(tuple(TensorSpec(f"t{i}", (n,)) for i, n in enumerate(sizes)))
    return Base(np.zeros(sum(sizes), np.float32), tensors, density=density)


def vote(
    policy: UplinkPolicy, gradient: Vector, base: Base, state: Arrays | None = None
) -> tuple[dict[int, float], Arrays]:
    """Return the votes by position, and the state, after training along `gradient`."""
    before = policy.start(base.schema) if state is None else state
    sent, after = policy.compress(base.values - gradient, base, before, stream(5, "uplink"))
    assert isinstance(sent, Sparse)
    assert sent.code is not None
    assert sent.code.coding == "sign"
    assert sent.code.codes.tolist() == sent.values.tolist()
    return dict(zip(sent.positions.tolist(), sent.values.tolist(), strict=True)), after


def test_two_rounds_by_hand() -> None:
    """With a = e / 2 + g; what is voted on is reset to 0, not reduced by the vote."""
    policy, base = Signs(density=0.5, memory=0.5), zeros(4)
    votes, state = vote(policy, vector([4, -3, 2, 1]), base)
    assert votes == {0: 1, 1: -1}
    assert state["memory"].tolist() == [0, 0, 2, 1]
    votes, state = vote(policy, vector([0.5, 1, -4, 1]), base, state)
    assert votes == {2: -1, 3: 1}  # a = 0.5, 1, -3, 1.5
    assert state["memory"].tolist() == [0.5, 1, 0, 0]


def test_the_gradient_points_from_the_weights_to_the_base() -> None:
    """A weight that grew votes against its gradient: the server subtracts the majority."""
    base = Base(vector([1, 1, 1]), zeros(3).schema)
    sent, _ = SignSGD(zeros="abstain").compress(vector([3, 0, 1]), base, {}, stream(5, "uplink"))
    assert sent.densify(3).tolist() == [-1, 1, 0]


def test_zeros_abstain() -> None:
    """An exact 0 is no vote, even among the largest."""
    gradient = vector([0, -0.0, 5, 0])
    for policy in (SignSGD(zeros="abstain"), Signs(density=1), Signs(density=0.75)):
        assert vote(policy, gradient, zeros(4))[0] == {2: 1}
    assert vote(Signs(), vector([0, 0]), zeros(2))[0] == {}


def test_zeros_toss() -> None:
    """As published every entry votes: a 0 at random, half of the time each way, the rest as is."""
    gradient = np.zeros(1000, dtype=np.float32)
    gradient[:3] = 2, -3, -0.5
    base, seen = zeros(1000), np.zeros(1000)
    for number in range(50):
        draw = stream(5, "uplink", 0, number)
        sent, _ = SignSGD().compress(base.values - gradient, base, {}, draw)
        assert isinstance(sent, Dense)
        assert set(np.unique(sent.values)) == {-1, 1}
        seen += sent.values
    assert seen[:3].tolist() == [50, -50, -50]
    assert abs(seen[3:].mean()) < 5 * np.sqrt(50 / 997)
    assert 0.9 < seen[3:].std() / np.sqrt(50) < 1.1


def test_a_toss_costs_a_bit_a_parameter() -> None:
    """Under a mask it is a bit for each that lives."""
    tensors = ModelSchema((TensorSpec("w", (8000,), prunable=True),))
    weights, header = np.zeros(8000, np.float32), Header("votes", Address(0, 0), FIRST, 1, 0.0)
    for mask, bits in ((None, 8000), (Mask(1, np.arange(0, 8000, 5)), 1600)):
        base = Base(np.zeros(8000, np.float32), tensors, mask=mask)
        sent, _ = SignSGD().compress(weights, base, {}, stream(5, "uplink"))
        size = encode(header, sent, np.empty(0, np.float32), tensors, mask).size
        assert bits / 8 < size < bits / 8 + 40


@pytest.mark.parametrize(
    ("scope", "positions"), [("tensor", [0, 1, 4, 5]), ("model", [5, 6, 7, 8, 9])]
)
def test_counts(scope: str, positions: list[int]) -> None:
    """ceil(density x n) of each tensor as published, or of the model: 2, 1 and 1, or 5 of 10."""
    policy = Signs.model_validate({"density": 0.5, "scope": scope})
    gradient = vector([4, 3, 2, 1, 1, 7, 6, 6, 5, 5])
    base = zeros(4, 1, 1, 4) if scope == "model" else zeros(4, 1, 1)
    votes, _ = vote(policy, gradient[: base.values.size], base)
    assert sorted(votes) == positions


@given(ENTRIES)
def test_all_votes_without_memory_are_sign_sgd(entries: list[float]) -> None:
    """With density 1 and memory 0 it is signSGD, and nothing is remembered."""
    gradient = vector(entries)
    votes, state = vote(Signs(density=1, memory=0), gradient, zeros(gradient.size))
    assert votes == vote(SignSGD(zeros="abstain"), gradient, zeros(gradient.size))[0]
    assert not state["memory"].any()


@given(ENTRIES, ENTRIES, st.floats(0.05, 1), st.floats(0, 2, width=32))
def test_memory(first: list[float], second: list[float], density: float, memory: float) -> None:
    """What is remembered is a where no vote was cast, and 0 where one was."""
    size = min(len(first), len(second))
    gradient, old = vector(first[:size]), vector(second[:size])
    policy = Signs(density=density, memory=memory)
    votes, state = vote(policy, gradient, zeros(size), {"memory": old})
    total = gradient + np.float32(memory) * old
    total[list(votes)] = 0
    np.testing.assert_array_equal(state["memory"], total)


# ---------------------------------------------------------------- density: auto


def test_auto_follows_the_server() -> None:
    """The density that comes with the version is taken; a number of one's own is kept."""
    gradient = np.arange(1, 11, dtype=np.float32)
    base = zeros(10, density=0.3)
    assert sorted(vote(Signs(density="auto"), gradient, base)[0]) == [7, 8, 9]
    assert sorted(vote(Signs(density=0.1), gradient, base)[0]) == [9]


def test_auto_by_the_rule() -> None:
    """Where the server names none: ln(1 / uncovered) / voters, 15 voters if none are given."""
    assert Signs().auto_density(10) == pytest.approx(log(20) / 10)
    assert Signs(uncovered=0.5).auto_density(10) == pytest.approx(log(2) / 10)
    assert Signs().auto_density(1) == 1
    assert Signs(least_density=0.01).auto_density(10**6) == 0.01
    assert Signs(density="auto").density_for(zeros(4)) == pytest.approx(log(20) / 15)
    assert Signs(density="auto", voters=30).density_for(zeros(4)) == pytest.approx(log(20) / 30)


@pytest.mark.parametrize("voters", [5, 15, 50])
def test_auto_leaves_as_many_uncovered_as_it_says(voters: int) -> None:
    """With votes at random places, the share without a vote is about `uncovered`, never above."""
    size, draw = 20_000, stream(9, "test")
    policy = Signs(density="auto", voters=voters)
    covered = np.zeros(size, dtype=bool)
    for _ in range(voters):
        covered[list(vote(policy, draw.random(size, np.float32) + 1, zeros(size))[0])] = True
    assert 0 < 1 - covered.mean() < 0.05 + 5 * np.sqrt(0.05 / size)


# ---------------------------------------------------------------- the density that is asked for


def test_only_auto_is_asked_for() -> None:
    """A density that the file names is not overruled."""
    assert Signs(density=0.2).asks(0.0, 10, {}) == 0
    assert Signs(density=0.2).asks(0.1, 10, {"coverage": 0.5}) == 0


def test_the_first_density_is_that_of_votes_at_random() -> None:
    """ln(1 / 0.05) / 15 = 0.1997 for 15 voters, and never more than all."""
    assert Signs(density="auto").asks(0.0, 15, {}) == pytest.approx(0.19972, abs=1e-5)
    assert Signs(density="auto", voters=30).asks(0.0, 15, {}) == pytest.approx(0.09986, abs=1e-5)
    assert Signs(density="auto").asks(0.0, 1, {}) == 1


@pytest.mark.parametrize(
    ("coverage", "cast", "asked"),
    [
        (0.95, 0.1, 0.1),  # as wanted: as it was
        (1 - 0.05**0.64, 0.1, 0.125),  # 0.64 of the exponent: the root of 1 / 0.64 as much
        (0.95, 0.064, 0.08),  # cast with less than was asked for: less is enough
        (0.0, 0.1, 0.1),  # nothing to go by
        (0.5, 0.0, 0.1),
    ],
)
def test_the_density_follows_the_coverage(coverage: float, cast: float, asked: float) -> None:
    """With 5 % uncovered wanted, what the ballots covered says how much more or less is needed."""
    measures = {"coverage": coverage, "ballot_density": cast}
    assert Signs(density="auto").asks(0.1, 15, measures) == pytest.approx(asked)


def test_other_aggregations_need_not_measure() -> None:
    """Without measures the density stays as it was asked."""
    assert Signs(density="auto").asks(0.123, 15, {}) == 0.123


def test_the_density_settles_though_votes_are_late() -> None:
    """With votes cast five versions ago it comes to rest where the wanted share is covered."""
    policy, strength = Signs(density="auto", uncovered=0.2), 6.0
    asked = [policy.asks(0.0, 15, {})] * 5
    for _ in range(100):
        cast = asked[-5]
        measures = {"coverage": 1 - np.exp(-strength * cast), "ballot_density": cast}
        asked.append(policy.asks(asked[-1], 15, measures))
    assert 1 - np.exp(-strength * np.array(asked[-20:])) == pytest.approx(0.8, abs=0.01)


def test_the_density_has_bounds() -> None:
    """It goes neither above 1 nor below the least, nor far from the rule: dead inputs stay dead."""
    policy, low = Signs(density="auto", least_density=0.09), {"ballot_density": 0.01}
    assert policy.asks(0.1, 15, {**low, "coverage": 1.0}) == 0.09
    density = policy.asks(0.0, 15, {})
    for _ in range(30):
        density = policy.asks(density, 15, {"coverage": 0.6, "ballot_density": density})
    assert density == pytest.approx(3 * log(20) / 15)
    assert policy.asks(0.9, 3, {"coverage": 0.1, "ballot_density": 0.9}) == 1
