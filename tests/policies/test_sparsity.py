"""Are the right coordinates sent, and does nothing get lost on the way?"""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from policies.sparsity import (
    DenseDownlink,
    DenseUplink,
    Downlink,
    DownlinkPolicy,
    TopK,
    Uplink,
    UplinkPolicy,
    top_k,
)
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Dense, ModelSchema, Sparse, TensorSpec
from policies.wire import StateLayout

UPLINK: TypeAdapter[UplinkPolicy] = TypeAdapter(Uplink)
MEMBERS = get_args(get_args(Uplink)[0])
SAMPLES: dict[type[UplinkPolicy], list[UplinkPolicy]] = {
    DenseUplink: [DenseUplink(), DenseUplink(content="weights")],
    TopK: [TopK(density=0.3), TopK(density=1), TopK(density=0.1, error_feedback=False)],
}
EVERY_SAMPLE = [sample for samples in SAMPLES.values() for sample in samples]
TIES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 2**-149, -(2**-149), 2**-148])
FLOATS = st.floats(width=32, allow_nan=False)
VALUES = st.lists(TIES) | st.lists(FLOATS) | st.lists(TIES | FLOATS)
SMALL = st.floats(-4, 4, width=32)


def vector(values: list[float]) -> Vector:
    return np.array(values, dtype=np.float32)


def schema(*sizes: int) -> ModelSchema:
    return ModelSchema(tuple(TensorSpec(f"t{i}", (n,)) for i, n in enumerate(sizes)))


# ---------------------------------------------------------------- top_k


@given(VALUES, st.integers(0, 12))
def test_top_k_is_a_plain_sort(values: list[float], k: int) -> None:
    """The k largest by (magnitude, lowest position first), in increasing order."""
    by_size = sorted(range(len(values)), key=lambda i: (-abs(np.float32(values[i])), i))
    np.testing.assert_array_equal(top_k(vector(values), k), sorted(by_size[:k]))


@pytest.mark.parametrize(
    ("values", "k", "positions"),
    [
        ([3, -3, 3, 3], 2, [0, 1]),  # all equal: the lowest positions
        ([0.0, -0.0, 0.0], 1, [0]),  # a negative zero is no larger
        ([-0.0, 0.0, 2**-149], 1, [2]),  # the smallest number is larger than zero
        ([1, 5, -5, 2, 5], 2, [1, 2]),
        ([1, -2, np.inf, -np.inf], 3, [1, 2, 3]),
        ([1, 2], 0, []),
        ([1, 2], 5, [0, 1]),
        ([], 3, []),
    ],
)
def test_top_k_by_hand(values: list[float], k: int, positions: list[int]) -> None:
    """Ties and extremes go as the docstring says, and positions are int64."""
    found = top_k(vector(values), k)
    assert found.tolist() == positions
    assert found.dtype == np.int64


def test_top_k_leaves_its_input() -> None:
    """The values are looked at, not sorted in place."""
    values = vector([1, -7, 3])
    top_k(values, 1)
    assert values.tolist() == [1, -7, 3]


# ---------------------------------------------------------------- what every member must do


def test_every_member_has_a_sample() -> None:
    """A new member of the family cannot escape the contract below."""
    assert set(MEMBERS) == set(SAMPLES)


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
@given(data=st.data())
def test_contract(policy: UplinkPolicy, data: st.DataObject) -> None:
    """Inputs stay as they were, the next state fits the layout, and the fewest is a lower bound."""
    size = data.draw(st.integers(1, 12))
    weights, base = (
        vector(data.draw(st.lists(SMALL, min_size=size, max_size=size))) for _ in range(2)
    )
    tensors = schema(size)
    state = policy.start(tensors)
    layout = StateLayout(policy.start(tensors))
    for _ in range(2):
        inputs: Arrays = {"weights": weights, "base": base, **state}
        before = {name: array.tobytes() for name, array in inputs.items()}
        content, after = policy.compress(weights, base, state)
        again, _ = policy.compress(weights, base, state)
        assert {name: array.tobytes() for name, array in inputs.items()} == before
        assert content.values.tobytes() == again.values.tobytes()
        assert content.values.dtype == np.float32
        assert policy.least_nonzeros(tensors) <= content.nonzeros <= size
        assert layout.pack(after).size == layout.size
        state = after


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_written_back(policy: UplinkPolicy) -> None:
    """It sends a known kind, and what is written of it makes an equal one."""
    assert policy.sends() in get_args(PayloadKind)
    assert UPLINK.validate_json(UPLINK.dump_json(policy)) == policy


# ---------------------------------------------------------------- top-k with error feedback


@given(
    st.integers(1, 20).flatmap(
        lambda n: st.tuples(*(st.lists(FLOATS, min_size=n, max_size=n) for _ in range(3)))
    ),
    st.floats(0.01, 1),
)
def test_nothing_is_lost(drawn: tuple[list[float], ...], density: float) -> None:
    """Sent + residual is the old residual + delta, exactly; what is sent stays nowhere else."""
    weights, base, old = (vector([v % 1000 if np.isfinite(v) else 1 for v in d]) for d in drawn)
    sent, state = TopK(density=density).compress(weights, base, {"residual": old})
    wanted = (weights - base) + old
    assert isinstance(sent, Sparse)
    np.testing.assert_array_equal(sent.densify(wanted.size) + state["residual"], wanted)
    np.testing.assert_array_equal(sent.values, wanted[sent.positions])
    assert not state["residual"][sent.positions].any()


def test_top_k_with_error_feedback() -> None:
    """What stays behind is added next time: 1 + 1 then beats 1.5."""
    policy, zero = TopK(density=0.5), vector([0, 0])
    state = policy.start(schema(2))
    sent, state = policy.compress(vector([1, 1.5]), zero, state)
    assert (sent.densify(2).tolist(), state["residual"].tolist()) == ([0, 1.5], [1, 0])
    sent, state = policy.compress(vector([1, 1.5]), zero, state)
    assert (sent.densify(2).tolist(), state["residual"].tolist()) == ([2, 0], [0, 1.5])


def test_top_k_without_error_feedback() -> None:
    """What stays behind is dropped, and no state is kept."""
    policy = TopK(density=0.5, error_feedback=False)
    for _ in range(2):
        sent, state = policy.compress(vector([1, 1.5]), vector([0, 0]), policy.start(schema(2)))
        assert sent.densify(2).tolist() == [0, 1.5]
        assert state == {}


def test_top_k_of_the_difference() -> None:
    """The difference to the base is compared, not the weights: +3 at 0 beats 10 unchanged."""
    sent, _ = TopK(density=0.5, error_feedback=False).compress(vector([3, 10]), vector([0, 10]), {})
    assert isinstance(sent, Sparse)
    assert (sent.positions.tolist(), sent.values.tolist()) == ([0], [3])


@pytest.mark.parametrize(
    ("density", "size", "count"),
    [(0.05, 100, 5), (0.05, 101, 6), (0.07, 100, 7), (0.001, 10, 1), (1, 10, 10), (0.3, 10, 3)],
)
def test_count(density: float, size: int, count: int) -> None:
    """ceil(density x P) over all tensors together; a rounding error adds nothing."""
    policy = TopK(density=density)
    assert policy.least_nonzeros(schema(size - 4, 4)) == count
    sent, _ = policy.compress(
        np.ones(size, np.float32), np.zeros(size, np.float32), policy.start(schema(size))
    )
    assert sent.nonzeros == count


@pytest.mark.parametrize("density", [0, -0.1, 1.1])
def test_density_is_a_share(density: float) -> None:
    """A density outside (0, 1] is a mistake."""
    with pytest.raises(ValidationError, match="density"):
        TopK(density=density)


# ---------------------------------------------------------------- dense


@pytest.mark.parametrize(("content", "sent"), [("delta", [2, -1]), ("weights", [3, 1])])
def test_dense(content: str, sent: list[float]) -> None:
    """Everything is sent, as the difference (3, 1) - (1, 2) or as it is."""
    policy = UPLINK.validate_python({"kind": "dense", "content": content})
    found, state = policy.compress(vector([3, 1]), vector([1, 2]), {})
    assert isinstance(found, Dense)
    assert (policy.sends(), found.values.tolist(), state) == (content, sent, {})
    assert policy.least_nonzeros(schema(2, 3)) == 5


def test_dense_downlink() -> None:
    """The downlink's default can be written and read."""
    adapter: TypeAdapter[DownlinkPolicy] = TypeAdapter(Downlink)
    assert adapter.validate_python({"kind": "dense"}) == DenseDownlink()
