"""Does what was sent arrive, in few bytes, and can nothing else be slipped in?"""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import comb, log2

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from policies.types import Address, Arrays, Buffer, PayloadKind, Reason, Vector, Version
from policies.update import Content, Dense, ModelSchema, Sparse, TensorSpec
from policies.wire import (
    HEADER_LEAST_BYTES,
    Header,
    Message,
    StateLayout,
    WireError,
    check_finite,
    decode,
    encode,
    entropy_bytes,
    least_bytes,
    most_bytes,
)

HEADER = Header("delta", Address(3, 4), Version(5, 1), 20, 0.5)
NO_BUFFERS = np.empty(0, dtype=np.float32)
ONE = ModelSchema((TensorSpec("w", (20,)),))
TWO = ModelSchema(
    (TensorSpec("w", (3, 4)), TensorSpec("b", (5,)), TensorSpec("mean", (2,), buffer=True))
)
SCHEMAS = st.builds(
    lambda sizes, buffers: ModelSchema(
        (
            *(TensorSpec(f"t{i}", (n,)) for i, n in enumerate(sizes)),
            *(TensorSpec(f"b{i}", (n,), buffer=True) for i, n in enumerate(buffers)),
        )
    ),
    st.lists(st.integers(0, 70), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), max_size=2),
)
KINDS: st.SearchStrategy[PayloadKind] = st.sampled_from(("delta", "weights", "votes"))
COUNTERS = st.integers(0, 300) | st.integers(0, 2**63 - 1)
HEADERS = st.builds(
    Header,
    KINDS,
    st.builds(Address, COUNTERS, COUNTERS),
    st.builds(Version, COUNTERS, COUNTERS),
    COUNTERS,
    st.floats(width=32, allow_nan=False),
)


def some_sparse(size: int, density: float, seed: int = 0) -> Sparse:
    """Return `density` of the positions, evenly spread, with values from all bit patterns."""
    rng = np.random.default_rng(seed)
    count = round(density * size)
    positions = np.sort(rng.choice(size, count, replace=False))
    bits = rng.integers(0, 2**32, count, dtype=np.uint32)
    return Sparse(positions.astype(np.int64), bits.view(np.float32))


def some_dense(size: int, seed: int = 0) -> Dense:
    return Dense(np.random.default_rng(seed).standard_normal(size, dtype=np.float32))


def same(message: Message, header: Header, content: Content, buffers: Vector) -> None:
    """Check that a read message is what was written, bit for bit."""
    assert message.header == header
    assert type(message.content) is type(content)
    assert message.content.values.tobytes() == content.values.tobytes()
    if isinstance(content, Sparse):
        assert isinstance(message.content, Sparse)
        np.testing.assert_array_equal(message.content.positions, content.positions)
    assert message.buffers.tobytes() == buffers.tobytes()


def resigned(message: Buffer | bytes) -> Buffer:
    """Return a copy whose checksum is right, as an attacker would send it."""
    copy = bytearray(bytes(message))
    if len(copy) >= 14:
        copy[10:14] = struct.pack("<I", xxhash.xxh3_64_intdigest(copy[:10] + copy[14:]) % 2**32)
    return np.frombuffer(bytes(copy), dtype=np.uint8)


def refusal(payload: Buffer, schema: ModelSchema) -> tuple[Reason, str] | None:
    """Return why a payload is refused; None if it is taken."""
    try:
        check_finite(decode(payload, schema))
    except WireError as error:
        return error.reason, str(error)
    return None


# ---------------------------------------------------------------- there and back


@given(SCHEMAS, HEADERS, st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.5, 0.8, 0.99, 1.0]), st.data())
def test_sparse_round_trip(
    schema: ModelSchema, header: Header, density: float, data: st.DataObject
) -> None:
    """Any positions and any bits come back, in a length between the bounds."""
    content = some_sparse(schema.parameters, density, data.draw(st.integers(0, 2**32)))
    buffers = some_dense(schema.buffers).values
    message = encode(header, content, buffers, schema)
    same(decode(message, schema), header, content, buffers)
    assert least_bytes(content.nonzeros, schema) <= message.size <= most_bytes(schema)


@given(SCHEMAS, st.data())
def test_clustered_round_trip(schema: ModelSchema, data: st.DataObject) -> None:
    """Positions that are not evenly spread come back too."""
    drawn = data.draw(st.sets(st.integers(0, max(schema.parameters - 1, 0))))
    kept = sorted(p for p in drawn if p < schema.parameters)
    content = Sparse(np.array(kept, dtype=np.int64), np.ones(len(kept), dtype=np.float32))
    buffers = np.zeros(schema.buffers, dtype=np.float32)
    message = encode(HEADER, content, buffers, schema)
    same(decode(message, schema), HEADER, content, buffers)
    assert least_bytes(len(kept), schema) <= message.size <= most_bytes(schema)


@given(SCHEMAS, HEADERS, st.integers(0, 2**32))
def test_dense_round_trip(schema: ModelSchema, header: Header, seed: int) -> None:
    """Dense values come back, in a length between the bounds."""
    content, buffers = some_dense(schema.parameters, seed), some_dense(schema.buffers, seed).values
    message = encode(header, content, buffers, schema)
    same(decode(message, schema), header, content, buffers)
    assert least_bytes(schema.parameters, schema) <= message.size <= most_bytes(schema)


def test_update_of_a_message() -> None:
    """An update carries what the message says, field by field."""
    content, buffers = some_sparse(17, 0.3), some_dense(2).values
    update = decode(encode(HEADER, content, buffers, TWO), TWO).update()
    assert (update.address, update.base, update.kind) == ((3, 4), (5, 1), "delta")
    assert (update.examples, update.loss) == (20, 0.5)
    assert update.content.values.tobytes() == content.values.tobytes()
    assert update.buffers.tobytes() == buffers.tobytes()


@pytest.mark.parametrize("count", range(8))
def test_values_are_read_in_place(count: int) -> None:
    """Values view the message at a multiple of four, whatever stands before them."""
    content = Sparse(np.arange(count, dtype=np.int64) * 2, np.ones(count, dtype=np.float32))
    message = encode(HEADER, content, np.ones(2, dtype=np.float32), TWO)
    read = decode(message, TWO)
    for values in (read.content.values, read.buffers):
        assert (values.ctypes.data - message.ctypes.data) % 4 == 0
        assert np.shares_memory(values, message) or not values.size


def test_bytes_by_hand() -> None:
    """One value at position 3 of 20: the gap 3 is 1 in unary (01) and the low bit 1."""
    message = encode(HEADER, Sparse(np.array([3]), np.array([2], np.float32)), NO_BUFFERS, ONE)
    assert bytes(message[:6]) == b"LC" + bytes((1, 0, 1, 0))  # format, delta, sparse, float32
    assert bytes(message[14:19]) == bytes((3, 4, 5, 1, 20))
    assert bytes(message[19:23]) == struct.pack("<f", 0.5)
    assert bytes(message[23:28]) == bytes((1, 1, 1, 0b10, 0b1))  # count, r, unary bytes, streams
    assert bytes(message[28:]) == struct.pack("<f", 2)
    assert message.tobytes() == resigned(message).tobytes()


# ---------------------------------------------------------------- how many bytes


@pytest.mark.parametrize("density", [0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5])
@pytest.mark.parametrize("sizes", [(100_000,), (64_000, 35_000, 990, 10)])
def test_close_to_the_entropy(density: float, sizes: tuple[int, ...]) -> None:
    """A payload of 100,000 parameters takes at most 2 % and 64 bytes more than the least."""
    schema = ModelSchema(tuple(TensorSpec(f"t{i}", (n,)) for i, n in enumerate(sizes)))
    content = some_sparse(100_000, density, seed=round(1000 * density))
    message = encode(HEADER, content, NO_BUFFERS, schema)
    least = entropy_bytes(content, NO_BUFFERS, schema)
    assert least < message.size <= 1.02 * least + 64


def test_entropy_by_hand() -> None:
    """2 of 12 and 1 of 5 take log2(66 x 5) bits, 3 values and 2 buffers 160 bits."""
    content = Sparse(np.array([0, 11, 12]), np.ones(3, dtype=np.float32))
    bits = entropy_bytes(content, np.ones(2, dtype=np.float32), TWO) * 8
    assert bits == pytest.approx(160 + log2(66 * 5))


@pytest.mark.parametrize(("size", "count"), [(20, 0), (20, 20), (20, 1), (300, 7)])
def test_entropy_of_one_tensor(size: int, count: int) -> None:
    """Positions take log2 C(N, k) bits; none or all of them take nothing."""
    schema = ModelSchema((TensorSpec("w", (size,)),))
    content = Sparse(np.arange(count), np.ones(count, dtype=np.float32))
    bits = entropy_bytes(content, NO_BUFFERS, schema) * 8
    assert bits == pytest.approx(32 * count + log2(comb(size, count)), abs=1e-9)


def test_dense_entropy() -> None:
    """Dense values take four bytes each and no positions; headers do not count."""
    assert entropy_bytes(some_dense(17), np.ones(2, dtype=np.float32), TWO) == 4 * (17 + 2)


@pytest.mark.parametrize("absent", [0, 5_000, 9_999])
def test_almost_everything(absent: int) -> None:
    """All but one of 10,000 values with the largest numbers still keep to the bound."""
    schema = ModelSchema((TensorSpec("w", (10_000,)),))
    kept = np.delete(np.arange(10_000), absent)
    content = Sparse(kept, np.ones(9_999, dtype=np.float32))
    most = 2**63 - 1
    header = Header("delta", Address(most, most), Version(most, most), most, 0.5)
    message = encode(header, content, NO_BUFFERS, schema)
    assert message.size <= most_bytes(schema)
    same(decode(message, schema), header, content, NO_BUFFERS)


def test_least_bytes_is_reached() -> None:
    """An empty dense message with small numbers is as short as the bound, and one value longer."""
    nothing = ModelSchema((TensorSpec("w", (0,)),))
    small = Header("delta", Address(0, 0), Version(0, 0), 0, 0.0)
    bare = encode(small, some_dense(0), NO_BUFFERS, nothing).size
    assert HEADER_LEAST_BYTES == least_bytes(0, nothing) == 23
    assert bare - least_bytes(0, nothing) < 4  # the padding
    assert least_bytes(3, TWO) == 23 + 4 * (3 + 2)


# ---------------------------------------------------------------- damaged on the way


def messages() -> Iterator[tuple[Buffer, ModelSchema]]:
    """Yield a few good messages: every layout, coding and role."""
    buffers = some_dense(2).values
    for density in (0, 0.1, 0.5, 0.8, 1):
        values = np.ones(round(density * 17), dtype=np.float32)
        content = Sparse(some_sparse(17, density, seed=1).positions, values)
        yield encode(HEADER, content, buffers, TWO), TWO
    yield encode(HEADER, some_dense(17), buffers, TWO), TWO
    yield encode(HEADER, Sparse(np.array([3]), np.ones(1, np.float32)), NO_BUFFERS, ONE), ONE


def test_the_good_messages_are_good() -> None:
    """What the next tests damage is taken as it is."""
    assert [refusal(*pair) for pair in messages()] == [None] * 7


def test_every_truncation_is_refused() -> None:
    """No shorter message passes, and the reason says that something is missing or changed."""
    for message, schema in messages():
        for size in range(message.size):
            found = refusal(message[:size], schema)
            short = size < HEADER_LEAST_BYTES
            assert found is not None
            assert found[0] is (Reason.TRUNCATED if short else Reason.CHECKSUM)


def test_every_signed_truncation_is_refused() -> None:
    """With the checksum made right too, though some look malformed rather than short."""
    for message, schema in messages():
        reasons = {refusal(resigned(message[:size]), schema) for size in range(message.size)}
        assert {r and r[0] for r in reasons} <= {Reason.TRUNCATED, Reason.MALFORMED}


def test_every_extension_is_refused() -> None:
    """No longer message passes, signed or not."""
    for message, schema in messages():
        for extra in (b"\0", b"\xff", bytes(3), bytes(4), bytes(5), bytes(64)):
            longer = np.frombuffer(message.tobytes() + extra, dtype=np.uint8)
            assert (refusal(longer, schema) or (None,))[0] in {Reason.CHECKSUM, Reason.OVERSIZED}
            assert (refusal(resigned(longer), schema) or (None,))[0] in {
                Reason.MALFORMED,
                Reason.OVERSIZED,
            }


def test_every_flipped_bit_is_refused() -> None:
    """One bit anywhere is noticed."""
    for message, schema in messages():
        for at in range(8 * message.size):
            damaged = message.copy()
            damaged[at // 8] ^= 1 << at % 8
            found = refusal(damaged, schema)
            assert found is not None
            assert found[0] is (Reason.MALFORMED if at < 24 else Reason.CHECKSUM)


# ---------------------------------------------------------------- made to deceive


def crafted(
    head: Sequence[int] = (),
    *,
    fixed: Sequence[int] = (76, 67, 1, 0, 1, 0),
    numbers: Sequence[int] = (3, 4, 5, 1, 20),
    padding: int = 0,
    values: Sequence[float] = (1,),
) -> Buffer:
    """Write a message over `ONE` by hand, byte by byte, and sign it."""
    front = bytes(fixed) + struct.pack("<II", ONE.fingerprint, 0)
    front += bytes(numbers) + struct.pack("<f", 0.5) + bytes(head)
    front += bytes([padding]) * (-len(front) % 4)
    return resigned(front + np.array(values, dtype="<f4").tobytes())


def test_crafted_is_right() -> None:
    """Written by hand and unharmed, it is the message of `test_bytes_by_hand`."""
    real = encode(HEADER, Sparse(np.array([3]), np.ones(1, np.float32)), NO_BUFFERS, ONE)
    assert crafted((1, 1, 1, 0b10, 1)).tobytes() == real.tobytes()


@pytest.mark.parametrize(
    ("message", "reason", "says"),
    [
        (crafted(fixed=(76, 68, 1, 0, 0, 0)), Reason.MALFORMED, "magic"),
        (crafted(fixed=(76, 67, 2, 0, 0, 0)), Reason.MALFORMED, "format 2, not LC 1"),
        (crafted(fixed=(76, 67, 1, 3, 0, 0)), Reason.MALFORMED, "unknown kind 3"),
        (crafted(fixed=(76, 67, 1, 0, 2, 0)), Reason.MALFORMED, "layout 2"),
        (crafted(fixed=(76, 67, 1, 0, 0, 1)), Reason.MALFORMED, "values 1"),
        (crafted(numbers=[0x80] * 9 + [1]), Reason.MALFORMED, "a number is too long"),
        (crafted((21, 1, 1, 2, 0, 0, 0)), Reason.MALFORMED, "21 values in a tensor of 20"),
        (crafted((1, 31, 1, 2, 0, 0, 0, 0)), Reason.MALFORMED, "unknown coding 31"),
        (crafted((1, 253, 1, 2, *[0] * 32)), Reason.MALFORMED, "unknown coding 253"),
        (crafted((1, 255, 0)), Reason.MALFORMED, "1 values in a full tensor of 20"),
        (crafted((1, 1, 1, 0, 1)), Reason.MALFORMED, "unary stream ends 0 numbers, not 1"),
        (crafted((1, 1, 1, 6, 1)), Reason.MALFORMED, "unary stream ends 2 numbers, not 1"),
        (crafted((1, 1, 2, 2, 0, 1)), Reason.MALFORMED, "unary stream is longer"),
        (crafted((0, 0, 1, 0), values=()), Reason.MALFORMED, "unary stream is longer"),
        (crafted((1, 1, 1, 2, 3)), Reason.MALFORMED, "low stream has bits beyond its end"),
        (crafted((1, 2, 1, 0b100000, 0)), Reason.MALFORMED, "a position leaves its tensor"),
        (crafted((1, 2, 1, 0b1000000, 0)), Reason.MALFORMED, "a gap leaves its tensor"),
        (crafted((1, 0, 1, 2), padding=7), Reason.MALFORMED, "the padding is not zero"),
        (crafted((1, 1, 255, 255, 1, 2, 1)), Reason.TRUNCATED, "32767 bytes wanted"),
        (crafted((1, 1, 1, 2, 1), values=()), Reason.TRUNCATED, "4 bytes wanted, 0 left"),
        (crafted((1, 1, 1, 2, 1), values=(1, 1)), Reason.MALFORMED, "4 bytes beyond the end"),
        (crafted((1, 1, 1, 2, 1), values=(np.nan,)), Reason.NOT_FINITE, "1 of 1 values"),
        (crafted((1, 1, 1, 2, 1), values=(-np.inf,)), Reason.NOT_FINITE, "1 of 1 values"),
        (crafted(values=[0.0] * 99), Reason.OVERSIZED, "are the most"),
        (np.empty(0, dtype=np.uint8), Reason.TRUNCATED, "0 bytes are no header"),
    ],
)
def test_crafted_is_refused(message: Buffer, reason: Reason, says: str) -> None:
    """With its checksum right, each lie is found, and told apart from the others."""
    found = refusal(message, ONE)
    assert found is not None
    assert found[0] is reason
    assert says in found[1]


@pytest.mark.parametrize(
    "other",
    [
        ModelSchema((TensorSpec("v", (20,)),)),
        ModelSchema((TensorSpec("w", (4, 5)),)),
        ModelSchema((TensorSpec("w", (20,), buffer=True),)),
        ModelSchema((TensorSpec("w", (21,)),)),
    ],
)
def test_wrong_schema(other: ModelSchema) -> None:
    """A name, a shape or a role that differs is another model."""
    message = encode(HEADER, some_dense(20), NO_BUFFERS, ONE)
    with pytest.raises(WireError, match=r"schema [0-9a-f]{8}, not [0-9a-f]{8}") as caught:
        decode(message, other)
    assert caught.value.reason is Reason.WRONG_SCHEMA


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(bad: float) -> None:
    """A number that is none is found in the values, the buffers and the loss."""
    values, buffers = np.ones(17, dtype=np.float32), np.ones(2, dtype=np.float32)
    values[4] = buffers[1] = bad
    good = some_dense(17)
    for content, extra, loss, says in (
        (Dense(values), np.ones(2, np.float32), 0.5, "1 of 17 values are not finite"),
        (good, buffers, 0.5, "1 of 2 buffers are not finite"),
        (good, np.ones(2, np.float32), bad, "the loss is"),
    ):
        header = Header("delta", Address(0, 0), Version(0, 0), 1, loss)
        message = decode(encode(header, content, extra, TWO), TWO)
        with pytest.raises(WireError, match=says) as caught:
            check_finite(message)
        assert caught.value.reason is Reason.NOT_FINITE


def spoiled(rng: random.Random, good: list[bytes], schema: ModelSchema) -> Buffer:
    """Return something that might hurt a reader."""
    way = rng.randrange(5)
    if way == 0:
        return np.frombuffer(rng.randbytes(rng.randrange(most_bytes(schema) + 8)), np.uint8)
    one = bytearray(rng.choice(good))
    if way == 1:  # a right beginning, then anything
        one[23:] = rng.randbytes(rng.randrange(most_bytes(schema) - 23))
    elif way == 2:  # spliced
        other = rng.choice(good)
        one[rng.randrange(14, len(one)) :] = other[rng.randrange(14, len(other)) :]
    else:  # mutated
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(14, len(one)) if way == 3 else rng.randrange(23, 30)
            one[at] = rng.randrange(256)
    return resigned(one)


def test_fuzz() -> None:
    """Of 100,000 payloads each is refused for a reason, or is a message whose positions hold."""
    rng, found = random.Random(0), Counter[Reason | None]()
    good = {schema: [m.tobytes() for m, of in messages() if of is schema] for schema in (ONE, TWO)}
    for index in range(100_000):
        schema = (ONE, TWO)[index % 2]
        payload = spoiled(rng, good[schema], schema)
        try:
            message = decode(payload, schema)
        except WireError as error:
            found[error.reason] += 1
            continue
        found[None] += 1
        content = message.content
        assert message.buffers.size == schema.buffers
        if isinstance(content, Sparse):
            bounded = [-1, *content.positions.tolist(), schema.parameters]
            assert all(a < b for a, b in pairwise(bounded))
            assert content.values.size == content.positions.size
        else:
            assert content.values.size == schema.parameters
    reasons = {Reason.MALFORMED, Reason.TRUNCATED, Reason.OVERSIZED}
    assert set(found) == {None, *reasons}
    assert min(found.values()) > 500  # all ways are really tried


# ---------------------------------------------------------------- a client's state


LAYOUT = StateLayout(
    {
        "residual": np.zeros((2, 3), dtype=np.float32),
        "step": np.zeros((), dtype=np.int64),
        "mask": np.zeros(3, dtype=np.bool_),
        "nothing": np.zeros(0, dtype=np.float32),
        "tail": np.zeros(1, dtype=np.float64),
    }
)


def some_state() -> Arrays:
    return {
        "residual": np.arange(6, dtype=np.float32).reshape(2, 3).T.copy().T,  # not contiguous
        "step": np.array(-5, dtype=np.int64),
        "mask": np.array([True, False, True]),
        "nothing": np.zeros(0, dtype=np.float32),
        "tail": np.array([np.pi]),
    }


def test_state_round_trip() -> None:
    """All shapes and types come back, from 6 x 4 + 8 + 3 + 0 + 8 bytes."""
    packed = LAYOUT.pack(some_state())
    assert (packed.size, LAYOUT.size, packed.dtype) == (43, 43, np.uint8)
    again = LAYOUT.unpack(packed)
    assert list(again) == list(LAYOUT.start)
    for name, array in some_state().items():
        np.testing.assert_array_equal(again[name], array)
        assert (again[name].dtype, again[name].shape) == (array.dtype, array.shape)


def test_no_state() -> None:
    """A method that keeps nothing has a state of no bytes."""
    empty = StateLayout({})
    assert empty.pack({}).size == empty.size == 0
    assert empty.unpack(np.empty(0, dtype=np.uint8)) == {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"step": np.array(0, dtype=np.int32)}, r"step is int32\(\), not int64\(\)"),
        ({"mask": np.zeros(4, dtype=np.bool_)}, r"mask is bool\(4,\), not bool\(3,\)"),
        ({"extra": np.zeros(1)}, r"not \['residual', .*'extra'\]"),
    ],
)
def test_foreign_state_is_refused(change: Arrays, says: str) -> None:
    """Another type, shape or name is a mistake, told by name."""
    with pytest.raises(ValueError, match=says):
        LAYOUT.pack({**some_state(), **change})


def test_state_in_another_order_is_refused() -> None:
    """Names in another order would be read back wrongly."""
    backwards = dict(reversed(some_state().items()))
    with pytest.raises(ValueError, match=r"a state holds \['residual', .* not \['tail'"):
        LAYOUT.pack(backwards)


@pytest.mark.parametrize("size", [0, 42, 44])
def test_state_of_another_length_is_refused(size: int) -> None:
    """Bytes that are not exactly a state are not read."""
    with pytest.raises(ValueError, match=f"{size} bytes of state, not 43"):
        LAYOUT.unpack(np.zeros(size, dtype=np.uint8))
