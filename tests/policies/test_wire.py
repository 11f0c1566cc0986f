"""Does what was sent arrive, in few bytes, and can nothing else be slipped in?"""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from math import comb, log2
from typing import NamedTuple

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.types import (
    Address,
    Arrays,
    Buffer,
    PayloadKind,
    Reason,
    ValueCoding,
    Vector,
    Version,
)
from policies.update import (
    Content,
    Dense,
    Mask,
    Masked,
    ModelSchema,
    Quantised,
    Sparse,
    TensorSpec,
)
from policies.wire import (
    HEADER_LEAST_BYTES,
    Header,
    Masks,
    Message,
    StateLayout,
    WireError,
    check_finite,
    decode,
    dequantise,
    encode,
    entropy_bytes,
    least_bytes,
    most_bytes,
    open_bundle,
    pack_bundle,
    quantise,
)
from policies.wire.range_coder import RangeWriter, geometric
from policies.wire.values import CODINGS, scales_of

HEADER = Header("delta", Address(3, 4), Version(5, 1), 20, 0.5)
FIXED = 12
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
    st.lists(st.integers(0, 70) | st.integers(0, 900), min_size=1, max_size=5),
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
DENSITIES = st.sampled_from([0.0, 0.002, 0.02, 0.1, 0.3, 0.5, 0.8, 0.99, 1.0])
SEEDS = st.integers(0, 2**32)


class Sample(NamedTuple):
    """A content, and what its reader knows."""

    content: Content
    known: Mask | None
    masks: Masks | None


def some_positions(size: int, density: float, seed: int = 0) -> np.ndarray:
    """Return `density` of the positions, evenly spread."""
    chosen = np.random.default_rng(seed).choice(size, round(density * size), replace=False)
    return np.sort(chosen).astype(np.int64)


def some_sparse(size: int, density: float, seed: int = 0) -> Sparse:
    """Return `density` of the positions, with values from all bit patterns."""
    positions = some_positions(size, density, seed)
    bits = np.random.default_rng(seed).integers(0, 2**32, positions.size, dtype=np.uint32)
    return Sparse(positions, bits.view(np.float32))


def some_dense(size: int, seed: int = 0) -> Dense:
    return Dense(np.random.default_rng(seed).standard_normal(size, dtype=np.float32))


def some_code(
    count: int, coding: ValueCoding, schema: ModelSchema, seed: int, block: int
) -> Quantised:
    """Return codes out of all that a coding allows."""
    rng = np.random.default_rng(seed)
    if coding in {"fp16", "bf16"}:
        return Quantised(coding, rng.integers(0, 2**16, count, dtype=np.uint16))
    if coding == "sign":
        return Quantised(coding, rng.choice(np.array([-1, 1], dtype=np.int8), count))
    scales = rng.random(scales_of(block, schema), dtype=np.float32)
    codes = rng.integers(-127, 128, count).astype(np.int8)
    if coding == "level":
        most = int(rng.choice([1, 2, 5, 127]))
        codes = (rng.integers(1, most + 1, count) * rng.choice([-1, 1], count)).astype(np.int8)
    return Quantised(coding, codes, scales, block)


def coded(
    content: Content, coding: ValueCoding, schema: ModelSchema, seed: int, block: int = 0
) -> Content:
    """Return the same positions with values in a coding."""
    if coding == "fp32":
        return content
    code = some_code(content.nonzeros, coding, schema, seed, block)
    return replace(content, values=dequantise(code, content.touches(), schema), code=code)


def sample(layout: int, density: float, size: int, seed: int) -> Sample:
    """Return a content that is written in a layout."""
    if layout < 2:
        return Sample(some_sparse(size, density, seed) if layout else some_dense(size), None, None)
    sparse = some_sparse(size, density, seed)
    mask = Mask(7, sparse.positions)
    extra = some_positions(size, 0.1, seed + 1)
    older = Mask(4, np.union1d(mask.positions, extra).astype(np.int64))
    known = {2: mask, 3: None, 4: older}[layout]
    return Sample(Masked(mask, sparse.values), known, {4: older, 7: mask}.__getitem__)


def same(message: Message, header: Header, content: Content, buffers: Vector) -> None:
    """Check that a read message is what was written, bit for bit."""
    assert message.header == header
    assert type(message.content) is type(content)
    assert (message.content.code is None) == (content.code is None)
    if message.content.code is not None and content.code is not None:
        assert message.content.code.codes.tolist() == content.code.codes.tolist()
        assert message.content.code.scales.tobytes() == content.code.scales.tobytes()
    assert message.content.values.dtype == np.float32
    assert message.content.values.tobytes() == content.values.tobytes()
    if not isinstance(content, Dense):
        assert not isinstance(message.content, Dense)
        assert message.content.positions.dtype == np.int64
        np.testing.assert_array_equal(message.content.positions, content.positions)
    if isinstance(content, Masked):
        assert isinstance(message.content, Masked)
        assert message.content.mask.epoch == content.mask.epoch
    assert message.buffers.tobytes() == buffers.tobytes()


def resigned(message: Buffer | bytes) -> Buffer:
    """Return a copy whose checksum is right, as an attacker would send it."""
    copy = bytearray(bytes(message))
    if len(copy) >= FIXED:
        copy[8:12] = struct.pack("<I", xxhash.xxh3_64_intdigest(copy[:8] + copy[12:]) % 2**32)
    return np.frombuffer(bytes(copy), dtype=np.uint8)


def refusal(
    payload: Buffer, schema: ModelSchema, masks: Masks | None = None
) -> tuple[Reason, str] | None:
    """Return why a payload is refused; None if it is taken."""
    try:
        check_finite(decode(payload, schema, masks))
    except WireError as error:
        return error.reason, str(error)
    return None


# ---------------------------------------------------------------- there and back


@settings(deadline=None)
@given(
    SCHEMAS,
    HEADERS,
    st.integers(0, 4),
    st.sampled_from(CODINGS),
    DENSITIES,
    st.sampled_from([0, 8, 10, 512, 2**62]),
    SEEDS,
)
def test_round_trip(
    schema: ModelSchema,
    header: Header,
    layout: int,
    coding: ValueCoding,
    density: float,
    block: int,
    seed: int,
) -> None:
    """Every layout comes back in every coding, in a length between the bounds."""
    plain, known, masks = sample(layout, density, schema.parameters, seed)
    content = coded(plain, coding, schema, seed, block)
    buffers = some_dense(schema.buffers).values
    message = encode(header, content, buffers, schema, known)
    assert message[3] >> 2 & 7 == layout
    same(decode(message, schema, masks), header, content, buffers)
    bits = 8 * entropy_bytes(content, NO_BUFFERS, schema, known)
    assert least_bytes(content.nonzeros, schema) <= message.size <= most_bytes(schema)
    assert bits >= content.nonzeros


@settings(deadline=None)
@given(SCHEMAS, st.data())
def test_clustered_round_trip(schema: ModelSchema, data: st.DataObject) -> None:
    """Positions that are not evenly spread come back too."""
    drawn = data.draw(st.sets(st.integers(0, max(schema.parameters - 1, 0))))
    kept = sorted(p for p in drawn if p < schema.parameters)
    content = Sparse(np.array(kept, dtype=np.int64), np.ones(len(kept), dtype=np.float32))
    buffers = np.zeros(schema.buffers, dtype=np.float32)
    message = encode(HEADER, content, buffers, schema)
    same(decode(message, schema), HEADER, content, buffers)
    assert message.size <= most_bytes(schema)


@pytest.mark.parametrize(
    "positions",
    [
        [0],
        [999_999],
        [0, 999_999],
        [*range(10_000)],
        [*range(990_000, 1_000_000)],
        [*range(500_000), 999_999],
        [*range(0, 1_000_000, 2)],
        [*range(3), *range(10, 1_000_000)],
    ],
)
def test_extreme_positions(positions: list[int]) -> None:
    """Gaps far beyond a table's last symbol come back, and all that is packed closely."""
    schema = ModelSchema((TensorSpec("w", (1000, 1000)),))
    content = Sparse(np.array(positions), np.ones(len(positions), dtype=np.float32))
    message = encode(HEADER, content, NO_BUFFERS, schema)
    same(decode(message, schema), HEADER, content, NO_BUFFERS)
    assert message.size <= most_bytes(schema)


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
    """Floats view the message at a multiple of four, whatever stands before them."""
    content = Sparse(np.arange(count, dtype=np.int64) * 2, np.ones(count, dtype=np.float32))
    message = encode(HEADER, content, np.ones(2, dtype=np.float32), TWO)
    read = decode(message, TWO)
    for values in (read.content.values, read.buffers):
        assert (values.ctypes.data - message.ctypes.data) % 4 == 0
        assert np.shares_memory(values, message) or not values.size


def test_a_message_at_an_odd_place_is_read() -> None:
    """Inside a bundle a message starts anywhere; its floats are aligned all the same."""
    content, buffers = some_dense(17), some_dense(2).values
    message = encode(HEADER, content, buffers, TWO)
    for shift in range(4):
        shifted = np.concatenate([np.zeros(shift, dtype=np.uint8), message])[shift:]
        read = decode(shifted, TWO)
        same(read, HEADER, content, buffers)
        assert read.content.values.flags.aligned
        assert read.buffers.flags.aligned


def test_bytes_by_hand() -> None:
    """A value at position 3 of 20 is one gap of 3, coded with the table of the mean 19 / 2."""
    message = encode(HEADER, Sparse(np.array([3]), np.array([2], np.float32)), NO_BUFFERS, ONE)
    assert bytes(message[:4]) == b"LC" + bytes((2, 1 << 2))  # format; delta, sparse, float32
    assert bytes(message[12:17]) == bytes((3, 4, 5, 1, 20))
    assert bytes(message[17:21]) == struct.pack("<f", 0.5)
    assert message[21] == 3  # one position, all tensors as one run
    assert bytes(message[26:28]) == bytes(2)  # padding behind one word
    assert bytes(message[28:]) == struct.pack("<f", 2)
    coder = RangeWriter()
    coder.put(geometric(90), np.array([3], dtype=np.int32))  # 2^(2 + 2/8) = 9.51
    assert bytes(message[22:26]) == coder.finish().tobytes()
    assert message.tobytes() == resigned(message).tobytes()


def test_positions_that_follow_cost_nothing() -> None:
    """All of a tensor, or none of it, needs no word beyond the total and the counts."""
    for positions in ([], [*range(17)]):
        content = Sparse(np.array(positions, dtype=np.int64), np.ones(len(positions), np.float32))
        content = replace(content, code=quantise(content.values, content.positions, "sign", TWO))
        message = encode(HEADER, content, NO_BUFFERS, replace(TWO, tensors=TWO.tensors[:2]))
        assert message.size == 21 + 1 + (len(positions) + 7) // 8


# ---------------------------------------------------------------- masks


SOME_MASK = Mask(7, np.array([0, 2, 3, 9, 13, 16]))
OLDER = Mask(4, np.array([0, 1, 2, 3, 7, 9, 12, 13, 16]))
MASKED = Masked(SOME_MASK, np.arange(6, dtype=np.float32))


def book(*masks: Mask) -> Masks:
    """Return what a reader knows."""
    return {mask.epoch: mask for mask in masks}.__getitem__


def test_a_known_mask_is_only_named() -> None:
    """Its epoch and checksum take five bytes; the reader's own mask object comes back."""
    message = encode(HEADER, MASKED, NO_BUFFERS, ONE, SOME_MASK)
    assert message[21] == 7
    assert bytes(message[22:26]) == SOME_MASK.checksum.to_bytes(4, "little")
    assert message.size == 26 + 2 + 4 * 6
    read = decode(message, ONE, book(SOME_MASK)).content
    assert isinstance(read, Masked)
    assert read.mask is SOME_MASK


def test_a_newer_known_mask_does_not_help() -> None:
    """A reader who knows a later mask alone is told this one whole."""
    newer = Mask(9, SOME_MASK.positions[:3])
    message = encode(HEADER, MASKED, NO_BUFFERS, ONE, newer)
    same(decode(message, ONE), HEADER, MASKED, NO_BUFFERS)


def test_an_older_mask_is_narrowed() -> None:
    """Of nine parameters three are removed: log2 of C(9, 3) bits in place of C(20, 6)."""
    message = encode(HEADER, MASKED, NO_BUFFERS, ONE, OLDER)
    same(decode(message, ONE, book(OLDER)), HEADER, MASKED, NO_BUFFERS)
    bits = 8 * entropy_bytes(MASKED, NO_BUFFERS, ONE, OLDER)
    assert bits == pytest.approx(32 * 6 + log2(comb(9, 3)))


@pytest.mark.parametrize("known", [SOME_MASK, OLDER])
@pytest.mark.parametrize(
    ("masks", "says"),
    [
        (None, "is not known here"),
        (book(), "is not known here"),
        (book(replace(SOME_MASK, epoch=4), replace(OLDER, epoch=7)), "here, not"),
    ],
)
def test_a_mask_that_differs_is_refused(known: Mask, masks: Masks | None, says: str) -> None:
    """Neither an unknown epoch nor other positions under its number pass."""
    found = refusal(encode(HEADER, MASKED, NO_BUFFERS, ONE, known), ONE, masks)
    assert found is not None
    assert found[0] is Reason.WRONG_MASK
    assert says in found[1]


def test_a_mask_that_is_not_nested_cannot_be_narrowed() -> None:
    """A parameter does not come back to life."""
    strange = Mask(3, np.array([0, 2, 3, 9, 13, 15, 17, 18, 19]))
    with pytest.raises(ValueError, match="epoch 7 holds positions that epoch 3 lacks"):
        encode(HEADER, MASKED, NO_BUFFERS, ONE, strange)


# ---------------------------------------------------------------- how few bytes could do


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


def test_packed_entropy() -> None:
    """A mask that the reader knows costs nothing, one that he does not its choices."""
    assert entropy_bytes(MASKED, NO_BUFFERS, ONE, SOME_MASK) == 24
    bits = 8 * entropy_bytes(MASKED, NO_BUFFERS, ONE)
    assert bits == pytest.approx(192 + log2(comb(20, 6)))


@pytest.mark.parametrize(
    ("coding", "bits"),
    [("fp16", 17 * 16), ("bf16", 17 * 16), ("sign", 17), ("int8", 17 * 8 + 2 * 32)],
)
def test_entropy_of_codings(coding: ValueCoding, bits: int) -> None:
    """A value takes the bits of its coding, a scale 32."""
    content = coded(some_dense(17), coding, TWO, 1)
    assert 8 * entropy_bytes(content, NO_BUFFERS, TWO) == bits


def test_entropy_of_levels() -> None:
    """12 of 16 magnitudes 1 and 4 of them 2: 0.811 bits each, a sign, and two scales."""
    codes = np.array([1] * 12 + [-2] * 4 + [], dtype=np.int8)
    code = Quantised("level", codes, np.ones(2, dtype=np.float32))
    content = Sparse(np.arange(16), codes.astype(np.float32), code)
    values = 8 * entropy_bytes(content, NO_BUFFERS, TWO) - log2(5)  # 4 of the 5 entries of b
    entropy = 0.75 * log2(4 / 3) + 0.25 * log2(4)
    assert values == pytest.approx(16 * (1 + entropy) + 64)


def test_least_bytes_is_reached() -> None:
    """An empty message with small numbers is as short as the bound, and one bit a byte longer."""
    nothing = ModelSchema((TensorSpec("w", (0,)),))
    small = Header("delta", Address(0, 0), Version(0, 0), 0, 0.0)
    code = Quantised("sign", np.empty(0, dtype=np.int8))
    bare = encode(small, Dense(np.empty(0, dtype=np.float32), code), NO_BUFFERS, nothing)
    assert HEADER_LEAST_BYTES == least_bytes(0, nothing) == bare.size == 21
    assert least_bytes(96, TWO) == 21 + 4 * (3 + 2)
    assert least_bytes(0.5, nothing) == 22


@pytest.mark.parametrize("absent", [0, 5_000, 9_999])
def test_almost_everything(absent: int) -> None:
    """All but one of 10,000 values with the largest numbers still keep to the bound."""
    schema = ModelSchema((TensorSpec("w", (10_000,)),))
    kept = np.delete(np.arange(10_000), absent)
    most = 2**63 - 1
    content = Masked(Mask(most, kept), np.ones(9_999, dtype=np.float32))
    header = Header("delta", Address(most, most), Version(most, most), most, 0.5)
    message = encode(header, content, NO_BUFFERS, schema)
    assert message.size <= most_bytes(schema)
    same(decode(message, schema), header, content, NO_BUFFERS)


def test_what_does_not_fit_is_not_written() -> None:
    """Too few values, codes or scales are a mistake of the caller."""
    code = Quantised("int8", np.ones(17, dtype=np.int8), np.ones(1, dtype=np.float32))
    for content, says in (
        (some_dense(16), "16 values for 17 parameters"),
        (Dense(np.ones(17, np.float32), code), "17 codes and 1 scales for 17 values and 2 scales"),
        (Sparse(np.arange(3), np.ones(3, np.float32), code), "17 codes and 1 scales for 3 values"),
        (Masked(SOME_MASK, np.ones(5, np.float32)), "5 values at 6 positions"),
    ):
        with pytest.raises(ValueError, match=says):
            encode(HEADER, content, np.ones(2, dtype=np.float32), TWO)


# ---------------------------------------------------------------- damaged on the way


def messages() -> Iterator[tuple[Buffer, ModelSchema]]:
    """Yield a few good messages: every layout, coding and role."""
    buffers = some_dense(2).values
    for density in (0, 0.1, 0.5, 0.8, 1):
        values = np.ones(round(density * 17), dtype=np.float32)
        content = Sparse(some_sparse(17, density, seed=1).positions, values)
        yield encode(HEADER, content, buffers, TWO), TWO
    yield encode(HEADER, some_dense(17), buffers, TWO), TWO
    for coding in ("int8", "level", "sign"):
        thin = Sparse(np.array([2, 9, 16]), np.ones(3, np.float32))
        yield encode(HEADER, coded(thin, coding, TWO, 3), buffers, TWO), TWO
    yield encode(HEADER, Sparse(np.array([3]), np.ones(1, np.float32)), NO_BUFFERS, ONE), ONE
    for known in (SOME_MASK, OLDER, None):
        yield encode(HEADER, MASKED, NO_BUFFERS, ONE, known), ONE


BOOK = book(SOME_MASK, OLDER)


def test_the_good_messages_are_good() -> None:
    """What the next tests damage is taken as it is."""
    assert [refusal(*pair, BOOK) for pair in messages()] == [None] * 13


def test_every_truncation_is_refused() -> None:
    """No shorter message passes, and the reason says that something is missing or changed."""
    for message, schema in messages():
        for size in range(message.size):
            found = refusal(message[:size], schema, BOOK)
            short = size < HEADER_LEAST_BYTES
            assert found is not None
            assert found[0] is (Reason.TRUNCATED if short else Reason.CHECKSUM)


def test_every_signed_truncation_is_refused() -> None:
    """With the checksum made right too, though some look malformed rather than short."""
    for message, schema in messages():
        for size in range(message.size):
            found = refusal(resigned(message[:size]), schema, BOOK)
            assert found is not None
            assert found[0] in {Reason.TRUNCATED, Reason.MALFORMED, Reason.WRONG_MASK}


def test_every_extension_is_refused() -> None:
    """No longer message passes, signed or not."""
    for message, schema in messages():
        for extra in (b"\0", b"\xff", bytes(3), bytes(4), bytes(5), bytes(8), bytes(400)):
            longer = np.frombuffer(message.tobytes() + extra, dtype=np.uint8)
            assert (refusal(longer, schema, BOOK) or (None,))[0] in {
                Reason.CHECKSUM,
                Reason.OVERSIZED,
            }
            assert (refusal(resigned(longer), schema, BOOK) or (None,))[0] in {
                Reason.MALFORMED,
                Reason.OVERSIZED,
            }


def test_every_flipped_bit_is_refused() -> None:
    """One bit anywhere is noticed."""
    for message, schema in messages():
        for at in range(8 * message.size):
            damaged = message.copy()
            damaged[at // 8] ^= 1 << at % 8
            found = refusal(damaged, schema, BOOK)
            assert found is not None
            assert found[0] is (Reason.MALFORMED if at < 24 else Reason.CHECKSUM)


# ---------------------------------------------------------------- made to deceive


def crafted(
    rest: bytes = b"",
    *,
    fixed: Sequence[int] = (76, 67, 2, 4),
    numbers: Sequence[int] = (3, 4, 5, 1, 20),
    values: Sequence[float] = (1,),
) -> Buffer:
    """Write a message over `ONE` by hand, byte by byte, and sign it."""
    front = bytes(fixed) + struct.pack("<II", ONE.fingerprint, 0)
    front += bytes(numbers) + struct.pack("<f", 0.5) + rest
    return resigned(front + np.array(values, dtype="<f4").tobytes())


def coded_words(*pairs: tuple[int, int]) -> bytes:
    """Range code pairs of a table and a symbol."""
    coder = RangeWriter()
    for table, symbol in pairs:
        coder.put(geometric(table), np.array([symbol], dtype=np.int32))
    return coder.finish().tobytes()


GOOD = coded_words((90, 3))
BEYOND = b"\3\0\x77" + coded_words((90, 3), (119, 127)) + bytes(4 + 1)
BIT = bytes((76, 67, 2, 4 | 5 << 5))  # sparse, one bit a value
LEVEL = bytes((76, 67, 2, 4 | 4 << 5))
BYTES = bytes((76, 67, 2, 3 << 5))  # dense, a byte a value
STEPS = bytes((76, 67, 2, 4 << 2))  # narrowed
NAMED = bytes([4]) + OLDER.checksum.to_bytes(4, "little")


def test_crafted_is_right() -> None:
    """Written by hand and unharmed, they are messages."""
    real = encode(HEADER, Sparse(np.array([3]), np.ones(1, np.float32)), NO_BUFFERS, ONE)
    assert crafted(b"\3" + GOOD + b"\0\0").tobytes() == real.tobytes()
    assert refusal(crafted(b"\3" + GOOD + b"\1", fixed=BIT, values=()), ONE) is None
    assert refusal(crafted(b"\0" + bytes(24), fixed=BYTES, values=()), ONE) is None


@pytest.mark.parametrize(
    ("message", "reason", "says"),
    [
        (crafted(fixed=(76, 68, 2, 0)), Reason.MALFORMED, "magic"),
        (crafted(fixed=(76, 67, 1, 0)), Reason.MALFORMED, "format 1, not LC 2"),
        (crafted(fixed=(76, 67, 3, 0)), Reason.MALFORMED, "format 3, not LC 2"),
        (crafted(fixed=(76, 67, 2, 5 << 2)), Reason.MALFORMED, "layout 5"),
        (crafted(fixed=(76, 67, 2, 6 << 5)), Reason.MALFORMED, "coding 6"),
        (crafted(numbers=[0x80] * 9 + [1]), Reason.MALFORMED, "a number is too long"),
        (crafted(numbers=[0x83, 0, 4, 5, 1, 20]), Reason.MALFORMED, "not in its shortest form"),
        (crafted(b"\x2a" + GOOD + b"\0\0"), Reason.MALFORMED, "21 positions among 20 entries"),
        (crafted(b"\3" + GOOD + b"\0\7"), Reason.MALFORMED, "the padding is not zero"),
        (crafted(b"\3" + GOOD + bytes(6)), Reason.MALFORMED, "is not what a writer writes"),
        (crafted(b"\3" + GOOD + bytes(3)), Reason.MALFORMED, "is not what a writer writes"),
        (crafted(b"\3\0\0"), Reason.MALFORMED, "is not what a writer writes"),
        (crafted(b"\3" + bytes([255] * 8) + b"\0\0"), Reason.MALFORMED, "leaves its range"),
        (crafted(b"\3" + coded_words((90, 20)) + b"\0\0"), Reason.MALFORMED, "leaves its run"),
        (
            crafted(b"\3" + coded_words(*[(90, 255)] * 9) + b"\0\0"),
            Reason.MALFORMED,
            "a gap leaves its run",
        ),
        (crafted(b"\3"), Reason.TRUNCATED, "raw bits wanted"),
        (crafted(b"\3" + GOOD + b"\0\0", values=(np.nan,)), Reason.NOT_FINITE, "1 of 1 values"),
        (crafted(b"\3" + GOOD + b"\0\0", values=(-np.inf,)), Reason.NOT_FINITE, "1 of 1 values"),
        (crafted(b"\3", values=()), Reason.TRUNCATED, "4 bytes wanted, 0 left"),
        (crafted(values=[0.0] * 99), Reason.OVERSIZED, "are the most"),
        (crafted(b"\3" + GOOD + b"\3", fixed=BIT, values=()), Reason.MALFORMED, "a bit is set"),
        (
            crafted(b"\x15" + bytes(4) + b"\xff\x03\0" + b"\0\0", fixed=BIT, values=()),
            Reason.MALFORMED,
            "not what a writer writes",
        ),
        (
            crafted(b"\x15" + b"\xff\x07\0" + b"\0\0", fixed=BIT, values=()),
            Reason.MALFORMED,
            "a bitmap of 11, not 10",
        ),
        (
            crafted(b"\3\0\x78" + bytes(5), fixed=LEVEL, values=()),
            Reason.MALFORMED,
            "unknown table 120",
        ),
        (crafted(BEYOND, fixed=LEVEL, values=()), Reason.MALFORMED, "a level beyond 127"),
        (crafted(b"\3\7\0", fixed=LEVEL), Reason.MALFORMED, "a scale for 7 values"),
        (
            crafted(b"\0" + struct.pack("<f", -1) + bytes(20), fixed=BYTES, values=()),
            Reason.MALFORMED,
            "a scale is below 0",
        ),
        (
            crafted(b"\0" + bytes(4) + b"\x80" * 20, fixed=BYTES, values=()),
            Reason.MALFORMED,
            "a code below -127",
        ),
        (
            crafted(b"\0" + struct.pack("<f", np.inf) + b"\1" * 20, fixed=BYTES, values=()),
            Reason.NOT_FINITE,
            "20 of 20 values",
        ),
        (crafted(NAMED + bytes(2), fixed=STEPS), Reason.MALFORMED, "a mask 0 epochs after 4"),
        (crafted(NAMED + b"\1\x14", fixed=STEPS), Reason.MALFORMED, "10 positions among 9"),
        (np.empty(0, dtype=np.uint8), Reason.TRUNCATED, "0 bytes are no header"),
    ],
)
def test_crafted_is_refused(message: Buffer, reason: Reason, says: str) -> None:
    """With its checksum right, each lie is found, and told apart from the others."""
    found = refusal(message, ONE, BOOK)
    assert found is not None
    assert found[0] is reason
    assert says in found[1]


def test_counts_that_cannot_be_are_refused() -> None:
    """A tensor holds no more than its size, nor more than all together, nor so little."""
    schema = ModelSchema((TensorSpec("a", (6,)), TensorSpec("b", (5,)), TensorSpec("c", (0,))))
    front = bytes((76, 67, 2, 4 | 5 << 5)) + struct.pack("<II", schema.fingerprint, 0)
    front += bytes((3, 4, 5, 1, 20)) + bytes(4)
    for total, symbols, says in (
        (1, (2, 0), "cannot be"),
        (7, (5,), "cannot be"),
        (1, (6,), "a count of 6 bits for 6 entries"),
    ):
        words = coded_words(*[(72, s) for s in symbols])
        found = refusal(resigned(front + bytes([2 * total]) + words + b"\0"), schema)
        assert found is not None
        assert found[0] is Reason.MALFORMED
        assert says in found[1]


@pytest.mark.parametrize(
    "other",
    [
        ModelSchema((TensorSpec("v", (20,)),)),
        ModelSchema((TensorSpec("w", (4, 5)),)),
        ModelSchema((TensorSpec("w", (20,), buffer=True),)),
        ModelSchema((TensorSpec("w", (20,), prunable=True),)),
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
    """A number that is none is found in the values, the buffers and the scalar."""
    values, buffers = np.ones(17, dtype=np.float32), np.ones(2, dtype=np.float32)
    values[4] = buffers[1] = bad
    good = some_dense(17)
    for content, extra, scalar, says in (
        (Dense(values), np.ones(2, np.float32), 0.5, "1 of 17 values are not finite"),
        (good, buffers, 0.5, "1 of 2 buffers are not finite"),
        (good, np.ones(2, np.float32), bad, "the scalar is"),
    ):
        header = Header("delta", Address(0, 0), Version(0, 0), 1, scalar)
        message = decode(encode(header, content, extra, TWO), TWO)
        with pytest.raises(WireError, match=says) as caught:
            check_finite(message)
        assert caught.value.reason is Reason.NOT_FINITE


@pytest.mark.parametrize("coding", ["fp16", "bf16", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(coding: ValueCoding, bad: float) -> None:
    """No coding hides that training has gone wrong."""
    values = np.linspace(-1, 1, 17, dtype=np.float32)
    values[4] = bad
    content = Dense(values, quantise(values, None, coding, TWO))
    message = decode(encode(HEADER, content, np.ones(2, np.float32), TWO), TWO)
    with pytest.raises(WireError, match="of 17 values are not finite"):
        check_finite(message)


def spoiled(rng: random.Random, good: list[bytes], schema: ModelSchema) -> Buffer:
    """Return something that might hurt a reader."""
    way = rng.randrange(6)
    if way == 0:
        return np.frombuffer(rng.randbytes(rng.randrange(most_bytes(schema) + 8)), np.uint8)
    one = bytearray(rng.choice(good))
    if way == 1:  # a right beginning, then anything
        one[21:] = rng.randbytes(rng.randrange(most_bytes(schema) - 21))
    elif way == 2:  # spliced
        other = rng.choice(good)
        one[rng.randrange(12, len(one)) :] = other[rng.randrange(12, len(other)) :]
    elif way == 3:  # read in another layout or coding
        one[3] = rng.randrange(3) | rng.randrange(5) << 2 | rng.randrange(6) << 5
    else:  # mutated
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(12, len(one)) if way == 4 else rng.randrange(21, 30)
            one[min(at, len(one) - 1)] = rng.randrange(256)
    return resigned(one)


def test_fuzz() -> None:
    """Of 100,000 payloads each is refused for a reason, or is a message whose positions hold."""
    rng, found = random.Random(0), Counter[Reason | None]()
    good = {schema: [m.tobytes() for m, of in messages() if of is schema] for schema in (ONE, TWO)}
    for index in range(100_000):
        schema = (ONE, TWO)[index % 2]
        payload = spoiled(rng, good[schema], schema)
        try:
            message = decode(payload, schema, BOOK)
        except WireError as error:
            found[error.reason] += 1
            continue
        found[None] += 1
        content = message.content
        assert message.buffers.size == schema.buffers
        if isinstance(content, Dense):
            assert content.values.size == schema.parameters
        else:
            bounded = [-1, *content.positions.tolist(), schema.parameters]
            assert all(a < b for a, b in pairwise(bounded))
            assert content.values.size == content.positions.size
    reasons = {Reason.MALFORMED, Reason.TRUNCATED, Reason.OVERSIZED, Reason.WRONG_MASK}
    assert set(found) == {None, *reasons}
    assert min(found.values()) > 300  # all ways are really tried


def test_a_large_message_of_noise_is_refused() -> None:
    """Where tables, escapes and low bits are really used, noise passes no better."""
    schema = ModelSchema((TensorSpec("a", (40_000,)), TensorSpec("b", (500,))))
    rng = np.random.default_rng(0)
    content = coded(some_sparse(40_500, 0.01), "sign", schema, 0)
    good = encode(HEADER, content, NO_BUFFERS, schema)
    refused = 0
    for _ in range(2_000):
        noisy = good.copy()
        first = int(rng.integers(21, good.size))
        noisy[first:] = rng.integers(0, 256, good.size - first, dtype=np.uint8)
        found = refusal(resigned(noisy), schema)
        refused += found is not None and found[0] in {Reason.MALFORMED, Reason.TRUNCATED}
    assert refused > 1_700  # noise among the signs alone is a message


# ---------------------------------------------------------------- several messages as one


def test_bundle_round_trip() -> None:
    """What is packed comes out in its order, each message whole."""
    packed = [message for message, schema in messages() if schema is TWO]
    opened = open_bundle(pack_bundle(packed), TWO)
    assert [m.tobytes() for m in opened] == [m.tobytes() for m in packed]
    assert open_bundle(pack_bundle([]), TWO) == []


@pytest.mark.parametrize(
    ("bundle", "reason", "says"),
    [
        (b"LC" + bytes([20] + [0] * 20), Reason.MALFORMED, "magic b'LC', not LB"),
        (b"", Reason.MALFORMED, "magic b'', not LB"),
        (b"LB" + bytes([20] + [0] * 20), Reason.MALFORMED, "20 bytes are no header"),
        (b"LB" + bytes([22] + [0] * 21), Reason.TRUNCATED, "22 bytes wanted, 21 left"),
        (b"LB" + bytes([0xFF, 0xFF, 3]), Reason.OVERSIZED, "65535 bytes where"),
        (b"LB" + bytes([0x80]), Reason.TRUNCATED, "1 bytes wanted, 0 left"),
        (b"LB" + bytes([21] + [0] * 21) * 65_537, Reason.OVERSIZED, "more than 65536 messages"),
    ],
)
def test_bad_bundles_are_refused(bundle: bytes, reason: Reason, says: str) -> None:
    """Lengths that lie are found before a slice is taken."""
    with pytest.raises(WireError, match=says) as caught:
        open_bundle(np.frombuffer(bundle, dtype=np.uint8), ONE)
    assert caught.value.reason is reason


def test_a_bundle_has_a_limit() -> None:
    """A writer keeps to what readers take."""
    with pytest.raises(ValueError, match="at most 65536 messages, not 65537"):
        pack_bundle([np.empty(0, dtype=np.uint8)] * 65_537)


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
