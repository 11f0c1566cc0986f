"""Do uplinks that draw send the truth in the mean, and does a threshold cut where it says?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from policies.sparsity import QSGD, RandomK, Threshold, Uplink, UplinkPolicy
from policies.types import Vector, stream
from policies.update import Base, ModelSchema, Sparse, TensorSpec

UPLINK: TypeAdapter[UplinkPolicy] = TypeAdapter(Uplink)
DRAWS = 4000


def vector(values: list[float]) -> Vector:
    return np.array(values, dtype=np.float32)


def zeros(size: int) -> Base:
    return Base(np.zeros(size, np.float32), ModelSchema((TensorSpec("w", (size,)),)))


def compress(policy: UplinkPolicy, weights: Vector, number: int = 0) -> Sparse:
    base = zeros(weights.size)
    rng = stream(11, "uplink", 0, number)
    content, _ = policy.compress(weights, base, policy.start(base.schema), rng)
    assert isinstance(content, Sparse)
    return content


def mean_and_error(policy: UplinkPolicy, weights: Vector) -> tuple[Vector, Vector]:
    """Return the mean of many draws, and its standard error."""
    sent = np.array([compress(policy, weights, n).densify(weights.size) for n in range(DRAWS)])
    return sent.mean(axis=0), sent.std(axis=0) / np.sqrt(DRAWS)


# ---------------------------------------------------------------- random-k


def test_random_k_is_unbiased() -> None:
    """The mean of many draws is the difference, every entry within five standard errors."""
    weights = vector([1, -2, 3, 0, 0.5, -4, 7])
    mean, error = mean_and_error(RandomK(density=0.4), weights)
    assert (np.abs(mean - weights) <= 5 * error + 1e-6).all()
    assert error[0] > 0


def test_random_k_values() -> None:
    """3 of 7 are sent, times 7/3; or as they are, and the others wait."""
    weights = np.arange(1, 8, dtype=np.float32)
    sent = compress(RandomK(density=0.4), weights)
    assert sent.nonzeros == 3
    np.testing.assert_array_equal(sent.values, weights[sent.positions] * np.float32(7 / 3))
    policy, base = RandomK(density=0.4, error_feedback=True), zeros(7)
    content, state = policy.compress(weights, base, policy.start(base.schema), stream(11, "uplink"))
    assert state["residual"].tolist() == (weights - content.densify(7)).tolist()
    assert sorted([*content.values, *state["residual"][state["residual"] != 0]]) == [*range(1, 8)]


def test_random_k_draws_anew() -> None:
    """Each update draws its own positions, without replacement, each about equally often."""
    counts = np.zeros(20)
    for number in range(DRAWS):
        counts[compress(RandomK(density=0.25), np.ones(20, np.float32), number).positions] += 1
    assert counts.sum() == 5 * DRAWS
    assert (np.abs(counts - DRAWS / 4) < 5 * np.sqrt(DRAWS * 0.25 * 0.75)).all()


def test_random_k_scales_unless_fed_back() -> None:
    """The default follows error feedback; both together are refused."""
    assert RandomK().scaled
    assert not RandomK(error_feedback=True).scaled
    assert not RandomK(scaled=False).scaled
    with pytest.raises(ValidationError, match="scaled must be false with error_feedback"):
        UPLINK.validate_python({"kind": "random-k", "error_feedback": True, "scaled": True})


# ---------------------------------------------------------------- threshold


def test_threshold_by_hand() -> None:
    """Magnitudes from 1 on are sent; the rest adds up until it is there."""
    policy, base, weights = Threshold(threshold=1), zeros(5), vector([1, -1, 0.5, -3, 0])
    sent, state = policy.compress(weights, base, policy.start(base.schema), stream(1, "uplink"))
    assert isinstance(sent, Sparse)
    assert (sent.positions.tolist(), sent.values.tolist()) == ([0, 1, 3], [1, -1, -3])
    assert state["residual"].tolist() == [0, 0, 0.5, 0, 0]
    sent, state = policy.compress(weights, base, state, stream(1, "uplink"))
    assert (sent.densify(5).tolist(), state["residual"].any()) == ([1, -1, 1, -3, 0], False)


def test_threshold_may_send_nothing() -> None:
    """If every change is small, nothing is sent, and nothing is promised."""
    sent = compress(Threshold(threshold=9), vector([1, 2]))
    assert sent.nonzeros == 0
    assert Threshold(threshold=9).least_bits(zeros(2).schema) == 0


@pytest.mark.parametrize("threshold", [0, -1, float("inf"), float("nan"), 1e-40])
def test_threshold_is_a_magnitude(threshold: float) -> None:
    """A threshold that no float32 can be compared with is a mistake."""
    with pytest.raises(ValidationError, match="threshold"):
        Threshold(threshold=threshold)


# ---------------------------------------------------------------- qsgd


@pytest.mark.parametrize(("levels", "bucket"), [(1, 8), (4, 8), (127, 8), (4, 512)])
def test_qsgd_is_unbiased(levels: int, bucket: int) -> None:
    """The mean of many draws is the difference, every entry within five standard errors.

    A value f between two levels that are s apart has variance s^2 f (1 - f).
    """
    weights = vector([1, -2, 3, 0, 0.5, -4, 7, 0.01, 0.1, 0, -0.2, 0.05, 3])
    mean, _ = mean_and_error(QSGD(levels=levels, bucket=bucket), weights)
    norms = [np.linalg.norm(weights[i : i + bucket]) for i in range(0, weights.size, bucket)]
    step = np.repeat(norms, bucket)[: weights.size] / levels
    between = np.abs(weights) / step % 1
    error = step * np.sqrt(between * (1 - between) / DRAWS)
    assert (np.abs(mean - weights) <= 5 * error + 1e-6).all()


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    st.sampled_from([1, 4, 127]),
    st.integers(8, 50),
    st.integers(0, 10**6),
)
def test_qsgd_within_its_bucket(values: list[float], levels: int, bucket: int, draw: int) -> None:
    """A value moves by less than a level of its bucket, keeps its sign, and is never sent as 0."""
    weights = vector(values)
    sent = compress(QSGD(levels=levels, bucket=bucket), weights, draw)
    code = sent.code
    assert code is not None
    assert (code.coding, code.block) == ("level", bucket)
    pieces = [weights[i : i + bucket].astype(float) for i in range(0, weights.size, bucket)]
    norms = np.array([np.sqrt((piece**2).sum()) for piece in pieces])
    np.testing.assert_allclose(code.scales, norms / levels, rtol=1e-6, atol=2**-148)
    assert code.codes.dtype == np.int8
    assert code.codes.all()
    assert (np.abs(code.codes.astype(int)) <= levels).all()
    assert (np.sign(sent.values) == np.sign(weights[sent.positions])).all()
    step = np.repeat(norms / levels, bucket)[: weights.size]
    assert (np.abs(sent.densify(weights.size) - weights) <= step * (1 + 1e-5) + 2**-148).all()


def test_qsgd_by_hand() -> None:
    """(3, 4) has norm 5: with 5 levels it is exactly 3 and 4; a bucket of zeros sends nothing."""
    weights = vector([3, -4, *[0] * 6, *[0] * 8, 0, 2])
    for number in range(20):
        sent = compress(QSGD(levels=5, bucket=8), weights, number)
        assert sent.code is not None
        assert sent.positions.tolist() == [0, 1, 17]
        assert sent.code.codes.tolist() == [3, -4, 5]
        np.testing.assert_allclose(sent.code.scales, [1, 0, 0.4])
        np.testing.assert_allclose(sent.values, [3, -4, 2])


def test_qsgd_of_the_smallest_numbers() -> None:
    """Where a level's worth is rounded much, there are still no more levels than asked for."""
    sent = compress(QSGD(levels=127, bucket=8), vector([190 * 2**-149, 0, 2**-149]))
    assert sent.code is not None
    assert sent.code.scales.tolist() == [2**-149]
    assert sent.code.codes.tolist() == [127, 1]


def test_qsgd_sends_few() -> None:
    """Of a bucket of d at most s^2 + s sqrt(d) are sent in the mean, as published."""
    weights = stream(3, "test").standard_normal(512 * 40).astype(np.float32)
    assert compress(QSGD(), weights).nonzeros / 40 <= 4**2 + 4 * np.sqrt(512)


@pytest.mark.parametrize("field", [{"levels": 0}, {"levels": 128}, {"bucket": 7}])
def test_qsgd_refuses(field: dict[str, int]) -> None:
    """Levels must fit 8 bits, and a bucket must be worth its norm."""
    with pytest.raises(ValidationError, match=next(iter(field))):
        QSGD(**field)
