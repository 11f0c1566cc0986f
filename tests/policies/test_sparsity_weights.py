"""Does SparsyFed's upload keep the right weights, and do its figures say what happens?"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.sparsity import SparseWeights
from policies.types import Address, Vector, Version, stream
from policies.update import (
    Base,
    Content,
    Contribution,
    Dense,
    ModelSchema,
    Move,
    Sparse,
    TensorSpec,
    Update,
)

LAYERS = ModelSchema(
    (
        TensorSpec("first", (4,), prunable=True),
        TensorSpec("bias", (2,)),
        TensorSpec("norm", (3,), buffer=True),
        TensorSpec("second", (3,), prunable=True),
    )
)
PRUNABLE = [0, 1, 2, 3, 6, 7, 8]


def vector(values: list[float]) -> Vector:
    return np.array(values, dtype=np.float32)


def upload(density: float, weights: list[float], schema: ModelSchema = LAYERS) -> Sparse:
    base = Base(np.ones(schema.parameters, np.float32), schema)
    sent, state = SparseWeights(density=density).compress(
        vector(weights), base, {}, stream(1, "uplink")
    )
    assert isinstance(sent, Sparse)
    assert state == {}
    return sent


@pytest.mark.parametrize(
    ("density", "weights", "positions"),
    [
        (3 / 7, [1, -5, 2, 3, 9, 0, 4, 0.1, -0.2], [1, 3, 4, 5, 6]),  # the layers together
        (0.3, [1, -5, 2, 3, 9, 0, 4, 0.1, -0.2], [1, 3, 4, 5, 6]),  # ceil(2.1) = 3
        (3 / 7, [1, 1, -1, 1, 0, 0, 1, 1, 1], [0, 1, 2, 4, 5]),  # ties: the lowest positions
        (3 / 7, [0, 0, 2, 0, 0, 0, 0, 0, -0.0], [2, 4, 5]),  # zeros are not sent
        (1, [1, 0, 2, 3, 0, 0, 4, 5, 6], [0, 2, 3, 4, 5, 6, 7, 8]),
        (0.001, [1, 2, 3, 4, 7, 7, 5, 6, 7], [4, 5, 8]),  # at least one
        (1, [0] * 9, [4, 5]),
    ],
)
def test_by_hand(density: float, weights: list[float], positions: list[int]) -> None:
    """The largest of all prunable weights, and every bias, as they are."""
    sent = upload(density, weights)
    assert sent.positions.tolist() == positions
    assert sent.values.tolist() == [weights[at] for at in positions]


def test_nothing_prunable() -> None:
    """A model without prunable tensors is sent whole."""
    schema = ModelSchema((TensorSpec("bias", (3,)),))
    assert upload(0.1, [0, 2, 3], schema).values.tolist() == [0, 2, 3]
    zero = np.zeros(3, np.float32)
    assert SparseWeights().measure([], Move(zero, zero, schema)) == {}


def test_least_bits() -> None:
    """What is not prunable is always sent."""
    assert SparseWeights().least_bits(LAYERS) == 2 * 32


def contribution(content: Content, client: int = 0) -> Contribution:
    update = Update(
        Address(client, 0), Version(0, 0), "weights", content, np.empty(0, np.float32), 1, 0.0
    )
    return Contribution(update, 0)


def test_figures_by_hand() -> None:
    """Regrowth counts prunable weights that were 0; density leaves biases out."""
    move = Move(vector([0, 1, 0, 2, 0, 0, 3, 0, 0]), vector([5, 1, 0, 0, 7, 0, 3, -1, 0]), LAYERS)
    one = contribution(Sparse(np.array([0, 1, 4, 6]), vector([5, 1, 9, 3])))
    two = contribution(Dense(vector([0, 1, 2, 0, 9, 9, 3, -1, 0])), 1)
    none = contribution(Sparse(np.array([4, 5]), vector([1, 1])), 2)
    policy = SparseWeights(density=0.5)
    alone = policy.measure([one], move)
    assert alone == {
        "regrowth": 2,  # 0 and 7; 4 is a bias
        "density": pytest.approx(4 / 7),
        "excess_density": pytest.approx(4 / 7 - 0.5),
    }
    # {0, 1, 6} and {1, 2, 6, 7} share 2 of 5; the empty one shares nothing with either
    together = policy.measure([one, two, none], move)
    assert together == {**alone, "mask_jaccard": pytest.approx(2 / 5 / 3)}
    assert policy.measure([none, none], move)["mask_jaccard"] == 1


@given(st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=2, max_size=5))
def test_jaccard_is_that_of_sets(rows: list[list[bool]]) -> None:
    """The same by Python's sets, whatever the masks."""
    batch = [contribution(Dense(vector([float(v) for v in row]))) for row in rows]
    supports = [{at for at in PRUNABLE if row[at]} for row in rows]
    alike = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in combinations(supports, 2)]
    zero = np.zeros(9, np.float32)
    found = SparseWeights().measure(batch, Move(zero, zero, LAYERS))
    assert found["mask_jaccard"] == pytest.approx(sum(alike) / len(alike))


def test_what_was_pruned_stays_pruned() -> None:
    """Sending what was received again sends the same: nothing is pruned twice."""
    weights = stream(2, "test").standard_normal(9).tolist()
    once = upload(0.4, weights)
    twice = upload(0.4, once.densify(9).tolist())
    assert once.positions.tolist() == twice.positions.tolist()
