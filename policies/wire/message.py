"""How does an update or a model become bytes, and how is it read without trust?

A message is a head of plain numbers, a coded part (range-coded words, then raw bits), the scales
and codes of the values, and the buffers. Everything is little-endian, and no length is sent that
follows from something else. Reading checks every length before it takes a slice; it never
unpickles, and what it returns may view the bytes it was given.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite
from typing import Final

import numpy as np
import xxhash

from policies.passes import not_finite
from policies.types import Address, Buffer, PayloadKind, Reason, Vector, Version
from policies.update import Content, Dense, Mask, ModelSchema, Update
from policies.wire.codes import (
    CodeHead,
    read_code_head,
    read_levels,
    read_values,
    value_bits,
    write_code,
)
from policies.wire.layouts import (
    LAYOUTS,
    Masks,
    Place,
    layout_of,
    position_bits,
    read_layout,
    write_layout,
)
from policies.wire.positions import raw_bytes, read_positions
from policies.wire.range_coder import RangeReader, RangeWriter
from policies.wire.reader import Reader, WireError, leb128
from policies.wire.values import CODINGS

MAGIC: Final = b"LC"
FORMAT: Final = 2
KINDS: Final[tuple[PayloadKind, ...]] = ("delta", "weights", "votes", "activations")
_FIXED: Final = struct.Struct("<2sBBII")  # magic, format, form, schema, checksum
_CHECKSUM_AT: Final = 8
_ALIGNMENT: Final = 4  # 32-bit floats start at a multiple, so that they are read in place
HEADER_LEAST_BYTES: Final = _FIXED.size + 5 + 4
_MOST_BEYOND: Final = 128


@dataclass(frozen=True, slots=True)
class Header:
    """What a message says about itself before its numbers.

    Attributes:
        kind: What the numbers are.
        address: Client and dispatch counter.
        base: The version trained from, or the model's own.
        examples: Training examples behind it.
        scalar: An update's mean training loss; a model's asked density (0: as configured).
    """

    kind: PayloadKind
    address: Address
    base: Version
    examples: int
    scalar: float


@dataclass(frozen=True, slots=True)
class Message:
    """A read message."""

    header: Header
    content: Content
    buffers: Vector

    def update(self) -> Update:
        """Return it as an update."""
        h = self.header
        return Update(h.address, h.base, h.kind, self.content, self.buffers, h.examples, h.scalar)


def encode(
    header: Header,
    content: Content,
    buffers: Vector,
    schema: ModelSchema,
    known: Mask | None = None,
) -> Buffer:
    """Write a message.

    Args:
        header: Names the update.
        content: Over the P parameters.
        buffers: Normalisation buffers, shape (B,), float32.
        schema: The tensors of both.
        known: For values under a mask: the newest mask that the reader is sure to know. The same
            one is only named, an older one is narrowed, and without one the mask is stated.

    Returns:
        Shape (n,), uint8; its length is what the link carries.

    Raises:
        ValueError: If the content does not fit together, or its mask is not inside `known`.
    """
    _check_fit(content, schema)
    coder = RangeWriter()
    head, raw = write_layout(coder, content, schema, known)
    code_head, codes = write_code(coder, content, schema)
    coding = CODINGS.index(content.code.coding if content.code else "fp32")
    form = KINDS.index(header.kind) | layout_of(content, known) << 2 | coding << 5
    front = _front(header, form, schema) + head + code_head
    padding = 0 if coding else -(len(front) + raw.size) % _ALIGNMENT
    pieces = (
        np.frombuffer(front, dtype=np.uint8),
        coder.finish(),
        raw,
        np.zeros(padding, dtype=np.uint8),
        codes,
        np.ascontiguousarray(buffers, dtype="<f4").view(np.uint8),
    )
    message = np.concatenate(pieces)
    checksum = _checksum(message).to_bytes(4, "little")
    message[_CHECKSUM_AT : _FIXED.size] = np.frombuffer(checksum, dtype=np.uint8)
    return message


def dense_hash(header: Header, pieces: Sequence[Vector], schema: ModelSchema) -> tuple[int, str]:
    """Return what `encode` would write of dense float32 values, without writing it.

    Args:
        header: Names the message.
        pieces: Values and buffers in their order, cut anywhere; together shape (P + B,), float32.
        schema: The tensors of both.

    Returns:
        The message's length, and its XXH3-128.

    Raises:
        ValueError: If there are not as many values as there must be.
    """
    count = sum(piece.size for piece in pieces)
    if count != schema.size:
        raise ValueError(f"{count} values for {schema.size} parameters and buffers")
    front = _front(header, KINDS.index(header.kind), schema)
    front += bytes(-len(front) % _ALIGNMENT)
    octets = [np.ascontiguousarray(piece, dtype="<f4").view(np.uint8) for piece in pieces]
    total = xxhash.xxh3_64(front[:_CHECKSUM_AT] + front[_FIXED.size :])
    for piece in octets:
        total.update(piece.data)
    checksum = (total.intdigest() & 0xFFFFFFFF).to_bytes(4, "little")
    found = xxhash.xxh3_128(front[:_CHECKSUM_AT] + checksum + front[_FIXED.size :])
    for piece in octets:
        found.update(piece.data)
    return len(front) + 4 * count, found.hexdigest()


def dense_bytes(header: Header, schema: ModelSchema) -> int:
    """Return the length of what `encode` would write of dense float32 values."""
    front = len(_front(header, KINDS.index(header.kind), schema))
    return front + -front % _ALIGNMENT + 4 * schema.size


def _front(header: Header, form: int, schema: ModelSchema) -> bytes:
    """Return a message's beginning, its checksum yet to come."""
    return _FIXED.pack(MAGIC, FORMAT, form, schema.fingerprint, 0) + _names(header)


def _check_fit(content: Content, schema: ModelSchema) -> None:
    count = content.values.size
    if isinstance(content, Dense):
        if count != schema.parameters:
            raise ValueError(f"{count} values for {schema.parameters} parameters")
    elif count != content.positions.size:
        raise ValueError(f"{count} values at {content.positions.size} positions")


def _names(header: Header) -> bytes:
    numbers = leb128([*header.address, *header.base, header.examples])
    with np.errstate(over="ignore"):  # beyond float32 it is infinite, and refused as such
        return numbers + np.asarray(header.scalar).astype("<f4").tobytes()


def decode(
    message: Buffer, schema: ModelSchema, masks: Masks | None = None, *, own: bool = False
) -> Message:
    """Read a message without trusting it.

    Args:
        message: Shape (n,), uint8.
        schema: What the reader expects.
        masks: Returns the mask of an epoch, or raises KeyError.
        own: Whether this process has just written it: then the checksum holds.

    Returns:
        The message, its values as float32 and as they were written; they may view `message`,
        which must then not change.

    Raises:
        WireError: With the reason, for anything that is not a whole, well-formed message over
            this schema and these masks.
    """
    kind, layout, coding = _check_fixed(message, schema, own=own)
    reader = Reader(message, _FIXED.size)
    client, number, version, lineage, examples = (reader.number() for _ in range(5))
    (scalar,) = struct.unpack("<f", reader.take(4).tobytes())
    header = Header(
        KINDS[kind], Address(client, number), Version(version, lineage), examples, scalar
    )
    place = read_layout(reader, layout, schema, masks)
    head = read_code_head(reader, CODINGS[coding])
    content = _read_content(reader, place, head, schema)
    return Message(header, content, reader.floats(schema.buffers))


def _check_fixed(message: Buffer, schema: ModelSchema, *, own: bool) -> tuple[int, int, int]:
    """Check what stands before the names; return kind, layout and coding."""
    most = most_bytes(schema)
    if message.size > most:
        raise WireError(Reason.OVERSIZED, f"{message.size} bytes where {most} are the most")
    if message.size < HEADER_LEAST_BYTES:
        raise WireError(Reason.TRUNCATED, f"{message.size} bytes are no header")
    magic, version, form, fingerprint, checksum = _FIXED.unpack_from(message.data)
    if magic != MAGIC or version != FORMAT:
        raise WireError(Reason.MALFORMED, f"magic {magic!r}, format {version}, not LC {FORMAT}")
    if not own and checksum != _checksum(message):
        raise WireError(Reason.CHECKSUM, "the checksum does not match")
    if fingerprint != schema.fingerprint:
        raise WireError(
            Reason.WRONG_SCHEMA, f"schema {fingerprint:08x}, not {schema.fingerprint:08x}"
        )
    kind, layout, coding = form & 3, form >> 2 & 7, form >> 5
    if layout >= LAYOUTS or coding >= len(CODINGS):
        raise WireError(Reason.MALFORMED, f"unknown layout {layout} or coding {coding}")
    return kind, layout, coding


def _read_content(reader: Reader, place: Place, head: CodeHead, schema: ModelSchema) -> Content:
    """Read the coded part and the values."""
    count, start = place.values(schema), reader.at
    coded = reader.take_all_but(head.tail_bytes(count, schema) + 4 * schema.buffers)
    coder = RangeReader(coded)
    runs = place.runs(coder)
    raw = raw_bytes(runs)
    padding = -(start + raw) % _ALIGNMENT if head.coding == "fp32" else 0
    words = coded.size - raw - padding
    if words < 0:
        raise WireError(Reason.TRUNCATED, f"{raw} bytes of raw bits wanted, {coded.size} left")
    found = read_positions(coder, coded[words : words + raw], runs)
    levels = read_levels(coder, head, count)
    coder.close(coded[:words])
    if coded[words + raw :].any():
        raise WireError(Reason.MALFORMED, "the padding is not zero")
    blank = place.content(found)
    values, code = read_values(reader, head, levels, (count, blank.touches()), schema)
    return replace(blank, values=values, code=code)


def check_finite(message: Message) -> None:
    """Refuse NaN and infinity.

    Raises:
        WireError: With `Reason.NOT_FINITE`.
    """
    if not isfinite(message.header.scalar):
        raise WireError(Reason.NOT_FINITE, f"the scalar is {message.header.scalar}")
    for name, values in (("values", message.content.values), ("buffers", message.buffers)):
        bad = not_finite(values)
        if bad:
            raise WireError(Reason.NOT_FINITE, f"{bad} of {values.size} {name} are not finite")


def entropy_bytes(
    content: Content, buffers: Vector, schema: ModelSchema, known: Mask | None = None
) -> float:
    """Return the least that the numbers could take.

    The positions that the layout codes, log2 C(N, k) bits a tensor; the values by their coding;
    32 bits a buffer. Headers and the tensors' counts do not count. Gives the uplink's yardstick
    (docs/wire-format.md).

    Raises:
        ValueError: If the content's mask is not inside `known`.
    """
    bits = position_bits(content, schema, known) + value_bits(content) + 32.0 * buffers.size
    return bits / 8


def least_bytes(bits: float, schema: ModelSchema) -> int:
    """Return a length that no message whose values take at least `bits` bits goes below."""
    return HEADER_LEAST_BYTES + ceil(bits / 8) + 4 * schema.buffers


def most_bytes(schema: ModelSchema) -> int:
    """Return a length that no message over this schema needs to exceed."""
    spare = _MOST_BEYOND + 16 * len(schema.sizes) + schema.parameters // 4
    return spare + 4 * schema.size


def _checksum(message: Buffer) -> int:
    """Return the low 32 bits of XXH3-64 over all bytes but the checksum's own."""
    total = xxhash.xxh3_64()
    total.update(message[:_CHECKSUM_AT].data)
    total.update(message[_FIXED.size :].data)
    return total.intdigest() & 0xFFFFFFFF
