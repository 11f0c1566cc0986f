"""Are the right coordinates sent, and does nothing get lost on the way?

What all uplinks must do stands here, with top-k and dense; the others have files of their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from policies.sparsity import (
    QSGD,
    STC,
    DenseDownlink,
    DenseUplink,
    Downlink,
    DownlinkPolicy,
    Packed,
    RandomK,
    Signs,
    SignSGD,
    SparseWeights,
    Threshold,
    TopK,
    Uplink,
    UplinkPolicy,
    top_k,
)
from policies.sparsity.coded import BITS
from policies.types import Address, Arrays, PayloadKind, Vector, Version, stream
from policies.update import Base, Content, Dense, Mask, Masked, ModelSchema, Sparse, TensorSpec
from policies.wire import (
    Header,
    Message,
    StateLayout,
    WireError,
    check_finite,
    decode,
    dequantise,
    encode,
)

UPLINK: TypeAdapter[UplinkPolicy] = TypeAdapter(Uplink)
MEMBERS = get_args(get_args(Uplink)[0])
SAMPLES: dict[type[UplinkPolicy], list[UplinkPolicy]] = {
    DenseUplink: [
        DenseUplink(),
        DenseUplink(content="weights"),
        DenseUplink(values="fp16"),
        DenseUplink(content="weights", values="int8"),
    ],
    TopK: [
        TopK(density=0.3),
        TopK(density=1),
        TopK(density=0.1, error_feedback=False),
        TopK(density=0.2, scope="tensor", values="bf16"),
        TopK(density=0.5, values="int8"),
    ],
    RandomK: [
        RandomK(density=0.3),
        RandomK(density=0.2, error_feedback=True, values="fp16"),
        RandomK(density=1, scaled=False),
    ],
    Threshold: [
        Threshold(threshold=1),
        Threshold(threshold=0.5, error_feedback=False, values="int8"),
    ],
    STC: [STC(density=0.3)],
    QSGD: [QSGD(), QSGD(levels=127, bucket=8), QSGD(levels=1, bucket=10**9)],
    Signs: [
        Signs(density=0.3),
        Signs(density="auto", scope="model", memory=0.5, voters=20),
        Signs(density=1, memory=0),
    ],
    SignSGD: [SignSGD(), SignSGD(zeros="abstain")],
    SparseWeights: [SparseWeights(density=0.4), SparseWeights(density=1)],
    Packed: [Packed(), Packed(content="delta", values="fp16")],
}
EVERY_SAMPLE = [sample for samples in SAMPLES.values() for sample in samples]
TIES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 2**-149, -(2**-149), 2**-148])
FLOATS = st.floats(width=32, allow_nan=False)
VALUES = st.lists(TIES) | st.lists(FLOATS) | st.lists(TIES | FLOATS)
SMALL = st.floats(-4, 4, width=32) | TIES


def vector(values: list[float]) -> Vector:
    return np.array(values, dtype=np.float32)


def schema(*sizes: int) -> ModelSchema:
    return ModelSchema(tuple(TensorSpec(f"t{i}", (n,)) for i, n in enumerate(sizes)))


def base(values: list[float], *sizes: int) -> Base:
    return Base(vector(values), schema(*(sizes or (len(values),))))


def rng(number: int = 0) -> np.random.Generator:
    return stream(7, "uplink", 0, number)


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
        ([np.inf, -np.nan, 9, np.nan], 2, [1, 3]),  # a NaN is larger than anything
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


@st.composite
def trained(draw: st.DrawFn) -> tuple[Vector, Base]:
    """Draw weights and their base: two tensors, the second prunable, perhaps under a mask."""
    sizes = draw(st.tuples(st.integers(0, 8), st.integers(1, 10)))
    size = sum(sizes)
    tensors = ModelSchema(
        (
            TensorSpec("bias", (sizes[0],)),
            TensorSpec("norm", (3,), buffer=True),
            TensorSpec("weight", (sizes[1],), prunable=True),
        )
    )
    weights, before = (vector(draw(st.lists(SMALL, min_size=size, max_size=size))) for _ in "ab")
    alive = draw(st.none() | st.sets(st.integers(0, size - 1), min_size=1))
    mask = None if alive is None else Mask(1, np.array(sorted(alive), dtype=np.int64))
    density = draw(st.sampled_from([0.0, 0.25]))
    return weights, Base(before, tensors, mask=mask, density=density)


def as_bytes(content: Content) -> dict[str, Any]:
    code = content.code
    return {
        "values": content.values.tobytes(),
        "positions": None if isinstance(content, Dense) else content.positions.tobytes(),
        "codes": code and code.codes.tobytes(),
        "scales": code and code.scales.tobytes(),
    }


def check_content(content: Content, start: Base) -> None:
    """Check types, order, and that the code stands for exactly these values."""
    positions = None if isinstance(content, Dense) else content.positions
    size = start.values.size
    assert content.values.dtype == np.float32
    assert content.values.shape == ((size,) if positions is None else positions.shape)
    if positions is not None:
        assert positions.dtype == np.int64
        assert (np.diff(positions, prepend=-1, append=size) > 0).all()
    if content.code is not None:
        read = dequantise(content.code, positions, start.schema)
        assert read.tobytes() == content.values.tobytes()


def received(policy: UplinkPolicy, content: Content, start: Base) -> Message:
    """Return what a server reads."""
    header = Header(policy.sends(), Address(0, 0), Version(0, 0), 1, 0.0)
    message = encode(header, content, np.zeros(start.schema.buffers, np.float32), start.schema)
    return decode(message, start.schema, {1: start.mask}.__getitem__)


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
@settings(max_examples=25)
@given(trained())
def test_contract(policy: UplinkPolicy, drawn: tuple[Vector, Base]) -> None:
    """Inputs stay as they were, the state keeps its layout, equal draws send equal bytes.

    What a server reads of the message is what the payload says.
    """
    weights, start = drawn
    state = policy.start(start.schema)
    layout = StateLayout(policy.start(start.schema))
    for number in range(2):
        inputs: Arrays = {"weights": weights, "base": start.values, **state}
        before = {name: array.tobytes() for name, array in inputs.items()}
        content, after = policy.compress(weights, start, state, rng(number))
        again, _ = policy.compress(weights, start, state, rng(number))
        assert {name: array.tobytes() for name, array in inputs.items()} == before
        assert as_bytes(content) == as_bytes(again)
        check_content(content, start)
        assert layout.pack(after).size == layout.size
        if not number:
            read = as_bytes(received(policy, content, start).content)
            assert {name: as_bytes(content)[name] for name in ("values", "positions")} == {
                name: read[name] for name in ("values", "positions")
            }
        state = after


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
@settings(max_examples=10)
@given(trained())
def test_least_bits(policy: UplinkPolicy, drawn: tuple[Vector, Base]) -> None:
    """No payload's values take fewer bits where no mask is; levels and signs promise nothing."""
    weights, start = drawn[0], replace(drawn[1], mask=None)
    content, _ = policy.compress(weights, start, policy.start(start.schema), rng())
    coding = "fp32" if content.code is None else content.code.coding
    assert 0 <= policy.least_bits(start.schema) <= content.nonzeros * BITS.get(coding, 0)


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_nothing_to_send(policy: UplinkPolicy) -> None:
    """Where clients share no parameter an update is a message all the same."""
    start = Base(np.empty(0, dtype=np.float32), ModelSchema(()))
    state = policy.start(start.schema)
    content, after = policy.compress(start.values, start, state, rng())
    StateLayout(state).pack(after)
    assert received(policy, content, start).content.nonzeros == 0
    assert policy.least_bits(start.schema) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [1, 17, 39, slice(None)])
@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_diverged_training(policy: UplinkPolicy, bad: float, at: Any) -> None:
    """Weights that are no numbers are sent as 32-bit floats, for the server to refuse."""
    size = 40
    tensors = ModelSchema((TensorSpec("w", (size,), prunable=True),))
    weights = np.linspace(-1, 1, size, dtype=np.float32)
    weights[at] = bad
    mask = Mask(1, np.arange(1, size, 2))
    start = Base(np.zeros(size, dtype=np.float32), tensors, mask=mask)
    state = policy.start(tensors)
    content, after = policy.compress(weights, start, state, rng())
    assert content.code is None
    check_content(content, start)
    assert start.mask is not None or content.nonzeros * 32 >= policy.least_bits(tensors)
    StateLayout(state).pack(after)
    with pytest.raises(WireError, match="not finite"):
        check_finite(received(policy, content, start))


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_written_back(policy: UplinkPolicy) -> None:
    """It sends a known kind, and what is written of it makes an equal one."""
    assert policy.sends() in get_args(PayloadKind)
    assert UPLINK.validate_json(UPLINK.dump_json(policy)) == policy


@pytest.mark.parametrize("density", [0, -0.1, 1.1, float("nan")])
@pytest.mark.parametrize("member", [TopK, RandomK, STC, Signs, SparseWeights])
def test_density_is_a_share(member: type[TopK], density: float) -> None:
    """A density outside (0, 1] is a mistake."""
    with pytest.raises(ValidationError, match="density"):
        member(density=density)


# ---------------------------------------------------------------- error feedback


FED_BACK: list[UplinkPolicy] = [
    policy
    for coding in BITS
    for policy in (
        TopK(density=0.3, values=coding),
        TopK(density=0.3, scope="tensor", values=coding),
        RandomK(density=0.3, error_feedback=True, values=coding),
        Threshold(threshold=1, values=coding),
    )
]
FED_BACK += [STC(density=0.3)]


@pytest.mark.parametrize("policy", FED_BACK, ids=repr)
@settings(max_examples=30)
@given(
    st.integers(1, 20).flatmap(
        lambda n: st.tuples(*(st.lists(FLOATS, min_size=n, max_size=n) for _ in range(3)))
    )
)
def test_nothing_is_lost(policy: UplinkPolicy, drawn: tuple[list[float], ...]) -> None:
    """Sent + residual is the old residual + delta; what is kept is that minus what arrives."""
    weights, before, old = (vector([v % 1000 if np.isfinite(v) else 1 for v in d]) for d in drawn)
    start = Base(before, schema(weights.size // 3, weights.size - weights.size // 3))
    sent, state = policy.compress(weights, start, {"residual": old}, rng())
    total = (weights - before) + old
    assert isinstance(sent, Sparse)
    np.testing.assert_array_equal(state["residual"], total - sent.densify(total.size))
    if sent.code is None:
        np.testing.assert_array_equal(sent.densify(total.size) + state["residual"], total)
        np.testing.assert_array_equal(sent.values, total[sent.positions])
        assert not state["residual"][sent.positions].any()


def test_rounding_is_made_up_for() -> None:
    """1/3 in 16 bits, sent 64 times with feedback, is off by no more than one rounding."""
    policy, third = TopK(density=1, values="bf16"), vector([1 / 3])
    start, total = base([0]), 0.0
    state = policy.start(start.schema)
    for _ in range(64):
        sent, state = policy.compress(third, start, state, rng())
        total += float(sent.values[0])
    assert total != 64 / 3
    assert abs(total - 64 / 3) < 1 / 3 / 128


# ---------------------------------------------------------------- top-k


def test_top_k_with_error_feedback() -> None:
    """What stays behind is added next time: 1 + 1 then beats 1.5."""
    policy, start = TopK(density=0.5), base([0, 0])
    state = policy.start(start.schema)
    sent, state = policy.compress(vector([1, 1.5]), start, state, rng())
    assert (sent.densify(2).tolist(), state["residual"].tolist()) == ([0, 1.5], [1, 0])
    sent, state = policy.compress(vector([1, 1.5]), start, state, rng())
    assert (sent.densify(2).tolist(), state["residual"].tolist()) == ([2, 0], [0, 1.5])


def test_top_k_without_error_feedback() -> None:
    """What stays behind is dropped, and no state is kept."""
    policy, start = TopK(density=0.5, error_feedback=False), base([0, 0])
    for _ in range(2):
        state = policy.start(start.schema)
        sent, state = policy.compress(vector([1, 1.5]), start, state, rng())
        assert sent.densify(2).tolist() == [0, 1.5]
        assert state == {}


def test_top_k_of_the_difference() -> None:
    """The difference to the base is compared, not the weights: +3 at 0 beats 10 unchanged."""
    policy = TopK(density=0.5, error_feedback=False)
    sent, _ = policy.compress(vector([3, 10]), base([0, 10]), {}, rng())
    assert isinstance(sent, Sparse)
    assert (sent.positions.tolist(), sent.values.tolist()) == ([0], [3])


@pytest.mark.parametrize(
    ("density", "size", "count"),
    [
        (0.05, 100, 5),
        (0.05, 101, 6),
        (0.07, 100, 7),
        (0.001, 10, 1),
        (1e-12, 10, 1),
        (1, 10, 10),
        (0.3, 10, 3),
    ],
)
@pytest.mark.parametrize(("values", "bits"), [("fp32", 32), ("fp16", 16), ("int8", 8)])
def test_count(density: float, size: int, count: int, values: Any, bits: int) -> None:
    """ceil(density x P) over all tensors together; a rounding error adds nothing."""
    policy = TopK(density=density, values=values)
    tensors = schema(size - 4, 4)
    assert policy.least_bits(tensors) == count * bits
    start = Base(np.zeros(size, np.float32), tensors)
    sent, _ = policy.compress(np.ones(size, np.float32), start, policy.start(tensors), rng())
    assert sent.nonzeros == count


def test_count_of_each_tensor() -> None:
    """At scope tensor each has its own ceil, at least one, however small its changes."""
    policy = TopK(density=0.25, scope="tensor")
    start = base([0] * 11, 5, 0, 1, 5)
    weights = vector([9, 8, 7, 6, 5, 0.1, 1, 2, -3, 3, 0])
    sent, _ = policy.compress(weights, start, policy.start(start.schema), rng())
    assert isinstance(sent, Sparse)
    assert sent.positions.tolist() == [0, 1, 5, 8, 9]
    assert policy.least_bits(start.schema) == 5 * 32


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_only_what_lives_is_sent(policy: UplinkPolicy) -> None:
    """Under a mask nothing outside it is sent, and a share is one of the survivors."""
    living = np.array([1, 2, 3, 5, 8, 13, 21, 34])
    tensors = ModelSchema((TensorSpec("w", (40,), prunable=True),))
    start = Base(np.zeros(40, np.float32), tensors, mask=Mask(1, living))
    weights = np.linspace(1, 2, 40, dtype=np.float32)
    state = {name: array + 1 for name, array in policy.start(tensors).items()}
    content, _ = policy.compress(weights, start, state, rng())
    sent = content.touches()
    if policy.kind not in {"qsgd", "threshold", "sparse-weights"}:
        assert sent is not None
        assert set(sent.tolist()) <= set(living.tolist())
        density = getattr(policy, "density", 1.0)
        assert content.nonzeros <= (8 if density == "auto" else np.ceil(density * 8))


# ---------------------------------------------------------------- dense


@pytest.mark.parametrize(("content", "sent"), [("delta", [2, -1]), ("weights", [3, 1])])
def test_dense(content: str, sent: list[float]) -> None:
    """Everything is sent, as the difference (3, 1) - (1, 2) or as it is."""
    policy = UPLINK.validate_python({"kind": "dense", "content": content})
    found, state = policy.compress(vector([3, 1]), base([1, 2]), {}, rng())
    assert isinstance(found, Dense)
    assert (policy.sends(), found.values.tolist(), state) == (content, sent, {})
    assert policy.least_bits(schema(2, 3)) == 5 * 32


def test_dense_in_fewer_bits() -> None:
    """What a payload holds is what arrives: 1 + 2^-12 is 1 in 16 bits."""
    policy = DenseUplink(values="fp16")
    found, _ = policy.compress(vector([1 + 2**-12, 0.5]), base([0, 0]), {}, rng())
    assert found.values.tolist() == [1, 0.5]
    assert policy.least_bits(schema(2, 3)) == 5 * 16


# ---------------------------------------------------------------- packed


@pytest.mark.parametrize(
    ("content", "packed", "whole"), [("weights", [4, 0], [4, 5, 0]), ("delta", [3, 0], [3, 3, 0])]
)
def test_packed(content: Any, packed: list[float], whole: list[float]) -> None:
    """Under a mask its values are sent in its order, zeros as well; without one, everything."""
    policy, weights = Packed(content=content), vector([4, 5, 0])
    start = base([1, 2, 0])
    found, _ = policy.compress(weights, start, {}, rng())
    assert isinstance(found, Dense)
    assert (policy.sends(), found.values.tolist()) == (content, whole)
    mask = Mask(1, np.array([0, 2]))
    found, _ = policy.compress(weights, Base(start.values, start.schema, mask=mask), {}, rng())
    assert isinstance(found, Masked)
    assert found.mask is mask
    assert found.values.tolist() == packed


# ---------------------------------------------------------------- the downlink's default


def test_dense_downlink() -> None:
    """The downlink's default can be written and read."""
    adapter: TypeAdapter[DownlinkPolicy] = TypeAdapter(Downlink)
    assert adapter.validate_python({"kind": "dense"}) == DenseDownlink()
