"""How does an update or a model become bytes, and how is it read without trust?

A message is a fixed part of 14 bytes, unsigned LEB128 numbers, and streams whose lengths those
numbers give. Everything is little-endian. Reading checks every length before it takes a slice; it
never unpickles, and what it returns may view the bytes it was given.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, lgamma, log
from typing import Final

import numpy as np
import xxhash

from policies.types import Address, Buffer, PayloadKind, Reason, Vector, Version
from policies.update import Content, Dense, ModelSchema, Sparse, Update
from policies.wire.positions import (
    FULL,
    CodedPositions,
    PositionsError,
    decode_positions,
    encode_positions,
)

MAGIC: Final = b"LC"
FORMAT: Final = 1
KINDS: Final[tuple[PayloadKind, ...]] = ("delta", "weights", "votes")
_FIXED: Final = struct.Struct("<2sBBBBII")  # magic, format, kind, layout, values, schema, checksum
_CHECKSUM_AT: Final = 10
_ALIGNMENT: Final = 4  # values start at a multiple, so that they are read in place
_DENSE, _SPARSE = 0, 1
_FLOAT32 = 0
HEADER_LEAST_BYTES: Final = _FIXED.size + 5 + 4
_HEADER_MOST_BYTES: Final = _FIXED.size + 5 * 10 + 4


class WireError(ValueError):
    """A message that cannot be taken, with the typed reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Header:
    """What a message says about itself before its numbers."""

    kind: PayloadKind
    address: Address
    base: Version
    examples: int
    loss: float


@dataclass(frozen=True, slots=True)
class Message:
    """A read message."""

    header: Header
    content: Content
    buffers: Vector

    def update(self) -> Update:
        """Return it as an update."""
        h = self.header
        return Update(h.address, h.base, h.kind, self.content, self.buffers, h.examples, h.loss)


def encode(header: Header, content: Content, buffers: Vector, schema: ModelSchema) -> Buffer:
    """Write a message.

    Args:
        header: Names the update.
        content: Over the P parameters.
        buffers: Normalisation buffers, shape (B,), float32.
        schema: The tensors of both.

    Returns:
        Shape (n,), uint8; its length is what the link carries.
    """
    numbers = [*header.address, *header.base, header.examples]
    head = bytearray(_leb128(numbers))
    with np.errstate(over="ignore"):  # beyond float32 it is infinite, and refused as such
        head += np.asarray(header.loss).astype("<f4").tobytes()
    pieces: list[Buffer] = []
    layout = _DENSE
    if isinstance(content, Sparse):
        layout = _SPARSE
        coded = encode_positions(content.positions, schema.offsets)
        head += _leb128(coded.counts) + bytes(coded.codings)
        head += _leb128([coded.unary.size])
        pieces = [coded.unary, coded.low]
    values = np.ascontiguousarray(content.values, dtype="<f4").view(np.uint8)
    extra = np.ascontiguousarray(buffers, dtype="<f4").view(np.uint8)
    kind = KINDS.index(header.kind)
    fixed = _FIXED.pack(MAGIC, FORMAT, kind, layout, _FLOAT32, schema.fingerprint, 0)
    front = [np.frombuffer(fixed + bytes(head), dtype=np.uint8), *pieces]
    padding = np.zeros(-sum(piece.size for piece in front) % _ALIGNMENT, dtype=np.uint8)
    message = np.concatenate([*front, padding, values, extra])
    message[_CHECKSUM_AT : _FIXED.size] = np.frombuffer(
        struct.pack("<I", _checksum(message)), dtype=np.uint8
    )
    return message


def decode(message: Buffer, schema: ModelSchema) -> Message:
    """Read a message without trusting it.

    Args:
        message: Shape (n,), uint8.
        schema: What the reader expects.

    Returns:
        The message; its values may view `message`, which must then not change.

    Raises:
        WireError: With the reason, for anything that is not a whole, well-formed message over
            this schema.
    """
    if message.size > most_bytes(schema):
        raise WireError(
            Reason.OVERSIZED, f"{message.size} bytes where {most_bytes(schema)} are the most"
        )
    if message.size < HEADER_LEAST_BYTES:
        raise WireError(Reason.TRUNCATED, f"{message.size} bytes are no header")
    magic, form, kind, layout, values, fingerprint, checksum = _FIXED.unpack_from(message.data)
    if magic != MAGIC or form != FORMAT:
        raise WireError(Reason.MALFORMED, f"magic {magic!r}, format {form}, not LC {FORMAT}")
    if checksum != _checksum(message):
        raise WireError(Reason.CHECKSUM, "the checksum does not match")
    if fingerprint != schema.fingerprint:
        raise WireError(
            Reason.WRONG_SCHEMA, f"schema {fingerprint:08x}, not {schema.fingerprint:08x}"
        )
    if kind >= len(KINDS) or layout not in {_DENSE, _SPARSE} or values != _FLOAT32:
        raise WireError(Reason.MALFORMED, f"unknown kind {kind}, layout {layout}, values {values}")
    reader = _Reader(message, _FIXED.size)
    client, number, version, lineage, examples = reader.leb128(5)
    (loss,) = struct.unpack("<f", reader.take(4).tobytes())
    positions = reader.positions(schema) if layout == _SPARSE else None
    reader.align()
    count = schema.parameters if positions is None else positions.size
    content_values = reader.floats(count)
    buffers = reader.floats(schema.buffers)
    if reader.left:
        raise WireError(Reason.MALFORMED, f"{reader.left} bytes beyond the end")
    header = Header(KINDS[kind], Address(client, number), Version(version, lineage), examples, loss)
    content: Content = (
        Dense(content_values) if positions is None else Sparse(positions, content_values)
    )
    return Message(header, content, buffers)


def check_finite(message: Message) -> None:
    """Refuse NaN and infinity.

    Raises:
        WireError: With `Reason.NOT_FINITE`.
    """
    if not isfinite(message.header.loss):
        raise WireError(Reason.NOT_FINITE, f"the loss is {message.header.loss}")
    for name, values in (("values", message.content.values), ("buffers", message.buffers)):
        if not np.isfinite(values).all():
            bad = int(values.size - np.isfinite(values).sum())
            raise WireError(Reason.NOT_FINITE, f"{bad} of {values.size} {name} are not finite")


def entropy_bytes(content: Content, buffers: Vector, schema: ModelSchema) -> float:
    """Return the least that the numbers could take: log2 C(N_l, k_l) a tensor, plus 32 bits each.

    Headers do not count. Gives the uplink's yardstick (docs/wire-format.md).
    """
    bits = 32.0 * (content.nonzeros + buffers.size)
    if isinstance(content, Sparse):
        counts = np.diff(np.searchsorted(content.positions, schema.offsets))
        for size, count in zip(schema.sizes, counts.tolist(), strict=True):
            bits += (lgamma(size + 1) - lgamma(count + 1) - lgamma(size - count + 1)) / log(2)
    return bits / 8


def least_bytes(nonzeros: int, schema: ModelSchema) -> int:
    """Return a length that no message of at least `nonzeros` values goes below."""
    return HEADER_LEAST_BYTES + 4 * (nonzeros + schema.buffers)


def most_bytes(schema: ModelSchema) -> int:
    """Return a length that no message over this schema needs to exceed."""
    tensors = len(schema.sizes)
    streams = 11 * tensors + 10 + 2 * (schema.parameters // 8 + 3) + _ALIGNMENT
    return _HEADER_MOST_BYTES + streams + 4 * schema.size


class _Reader:
    """Takes pieces from the front of a message, checking that they are there."""

    def __init__(self, message: Buffer, start: int) -> None:
        self._message = message
        self._at = start

    @property
    def left(self) -> int:
        return self._message.size - self._at

    def take(self, count: int) -> Buffer:
        if count > self.left:
            raise WireError(Reason.TRUNCATED, f"{count} bytes wanted, {self.left} left")
        piece = self._message[self._at : self._at + count]
        self._at += count
        return piece

    def align(self) -> None:
        if self.take(-self._at % _ALIGNMENT).any():
            raise WireError(Reason.MALFORMED, "the padding is not zero")

    def floats(self, count: int) -> Vector:
        return self.take(4 * count).view("<f4")

    def leb128(self, count: int) -> list[int]:
        """Read unsigned numbers below 2^63, at most nine bytes each."""
        numbers: list[int] = []
        for _ in range(count):
            number = shift = 0
            while True:
                byte = int(self.take(1)[0])
                number |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
                if shift > 56:
                    raise WireError(Reason.MALFORMED, "a number is too long")
            numbers.append(number)
        return numbers

    def positions(self, schema: ModelSchema) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        sizes = schema.sizes
        counts = self.leb128(len(sizes))
        codings = self.take(len(sizes)).tolist()
        (unary_bytes,) = self.leb128(1)
        low_bits = sum(c * r for c, r in zip(counts, codings, strict=True) if r != FULL)
        coded = CodedPositions(
            counts,
            codings,
            self.take(unary_bytes),
            self.take((low_bits + 7) // 8),
        )
        try:
            return decode_positions(coded, schema.offsets)
        except PositionsError as error:
            raise WireError(Reason.MALFORMED, str(error)) from error


def _leb128(numbers: Sequence[int]) -> bytes:
    out = bytearray()
    for value in numbers:
        rest = value
        while rest > 0x7F:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        out.append(rest)
    return bytes(out)


def _checksum(message: Buffer) -> int:
    """Return the low 32 bits of XXH3-64 over all bytes but the checksum's own."""
    total = xxhash.xxh3_64()
    total.update(message[:_CHECKSUM_AT].data)
    total.update(message[_FIXED.size :].data)
    return total.intdigest() & 0xFFFFFFFF
