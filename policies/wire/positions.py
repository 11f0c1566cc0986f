"""How do the positions of a sparse update become few bytes?

Per tensor one byte names the coding: nothing (all values present, or none), or Rice-coded gaps.
Rice codes the gap g between neighbours as ``g >> r`` in unary and its r low bits as they are; the
unary parts and the low bits of all tensors form two separate streams, so that coding and decoding
are whole-array operations. With r = 0 the unary stream is a bitmap that ends at the last position.
For geometrically distributed gaps Rice stays within about 1 % of the entropy (Kiely 2004, IPN
Progress Report 42-159).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, log2

import numpy as np

from policies.types import Buffer, Positions

FULL = 255
"""All values of the tensor are present."""
MOST_RICE = 30
"""Largest r."""


class PositionsError(ValueError):
    """The positions cannot be read."""


@dataclass(frozen=True, slots=True)
class CodedPositions:
    """Positions in bytes.

    Attributes:
        counts: Values present in each tensor.
        codings: One byte a tensor: r of Rice, or `FULL`.
        unary, low: The two streams.
    """

    counts: list[int]
    codings: list[int]
    unary: Buffer
    low: Buffer


def encode_positions(positions: Positions, offsets: Sequence[int]) -> CodedPositions:
    """Code strictly increasing flat positions.

    Args:
        positions: Shape (k,), within [0, offsets[-1]).
        offsets: Where each tensor begins, and the end of the last.
    """
    cuts = np.searchsorted(positions, offsets)
    counts = np.diff(cuts).tolist()
    codings: list[int] = []
    quotients: list[Positions] = []
    lows: list[Buffer] = []
    for index, count in enumerate(counts):
        size = offsets[index + 1] - offsets[index]
        local = positions[cuts[index] : cuts[index + 1]] - offsets[index]
        coding, gaps = _choose(local, size)
        codings.append(coding)
        if coding != FULL and count:
            quotients.append(gaps >> coding)
            shifts = np.arange(coding, dtype=np.int64)
            lows.append(((gaps[:, None] >> shifts) & 1).astype(np.uint8).ravel())
    return CodedPositions(counts, codings, _unary_bits(quotients), _pack(lows))


def _choose(local: Positions, size: int) -> tuple[int, Positions]:
    """Return the cheapest coding of one tensor's positions, and their gaps."""
    count = local.size
    if count == size:
        return FULL, local
    if count == 0:
        return 0, local
    gaps = np.diff(local, prepend=np.int64(-1)) - 1
    mean = max(float(gaps.mean()), 1e-9)
    guess = int(np.clip(round(log2(max(mean * log(2), 1.0))), 0, MOST_RICE))
    costs = {
        r: count * (r + 1) + int((gaps >> r).sum())
        for r in range(max(guess - 1, 0), min(guess + 1, MOST_RICE) + 1)
    }
    best = min(costs, key=lambda r: (costs[r], r))
    return best, gaps


def _unary_bits(quotients: list[Positions]) -> Buffer:
    """Write each q as q zeros and a one."""
    if not quotients:
        return np.empty(0, dtype=np.uint8)
    ends = np.cumsum(np.concatenate(quotients) + 1) - 1
    bits = np.zeros(int(ends[-1]) + 1, dtype=np.uint8)
    bits[ends] = 1
    return np.packbits(bits, bitorder="little")


def _pack(pieces: list[Buffer]) -> Buffer:
    if not pieces:
        return np.empty(0, dtype=np.uint8)
    return np.packbits(np.concatenate(pieces), bitorder="little")


def decode_positions(coded: CodedPositions, offsets: Sequence[int]) -> Positions:
    """Return the flat positions, shape (k,), strictly increasing.

    Raises:
        PositionsError: If a count, a coding, a stream's length or a position is out of range.
    """
    sizes = np.diff(offsets).tolist()
    _check_counts(coded, sizes)
    riced = [
        (c, r) for c, r in zip(coded.counts, coded.codings, strict=True) if r <= MOST_RICE and c
    ]
    quotients = _read_unary(coded.unary, sum(c for c, _ in riced))
    low_bits = _read_low(coded.low, sum(c * r for c, r in riced))
    pieces: list[Positions] = []
    at_quotient = at_low = 0
    for offset, size, count, coding in zip(
        offsets, sizes, coded.counts, coded.codings, strict=False
    ):
        if coding == FULL:
            local = np.arange(size, dtype=np.int64)
        else:
            high = quotients[at_quotient : at_quotient + count]
            at_quotient += count
            bits = low_bits[at_low : at_low + count * coding].reshape(count, coding)
            at_low += count * coding
            low = bits.astype(np.int64) @ (np.int64(1) << np.arange(coding, dtype=np.int64))
            if count and int(high.max()) > size >> coding:
                raise PositionsError("a gap leaves its tensor")
            local = np.cumsum((high << coding) + low + 1) - 1
            if count and int(local[-1]) >= size:
                raise PositionsError("a position leaves its tensor")
        pieces.append(local + offset)
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)


def _check_counts(coded: CodedPositions, sizes: Sequence[int]) -> None:
    for size, count, coding in zip(sizes, coded.counts, coded.codings, strict=True):
        if not 0 <= count <= size:
            raise PositionsError(f"{count} values in a tensor of {size}")
        if coding > MOST_RICE and coding != FULL:
            raise PositionsError(f"unknown coding {coding}")
        if coding == FULL and count != size:
            raise PositionsError(f"{count} values in a full tensor of {size}")


def _read_unary(stream: Buffer, count: int) -> Positions:
    """Read `count` unary numbers, which must end within the stream's last byte."""
    bits = np.unpackbits(stream, bitorder="little")
    ends = np.flatnonzero(bits)
    if ends.size != count:
        raise PositionsError(f"the unary stream ends {ends.size} numbers, not {count}")
    if count and bits.size - int(ends[-1]) > 8:
        raise PositionsError("the unary stream is longer than its numbers")
    if not count and stream.size:
        raise PositionsError("the unary stream is longer than its numbers")
    return np.diff(ends, prepend=np.int64(-1)) - 1


def _read_low(stream: Buffer, count: int) -> Buffer:
    """Read `count` bits; the stream holds no more, and zeros to the end of its last byte."""
    if stream.size != (count + 7) // 8:
        raise PositionsError(f"the low stream has {stream.size} bytes for {count} bits")
    bits = np.unpackbits(stream, bitorder="little")
    if bits[count:].any():
        raise PositionsError("the low stream has bits beyond its end")
    return bits[:count]
