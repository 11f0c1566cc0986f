"""How do the positions of a sparse update become few bytes?

Entries are coded in runs: each tensor with its own count, or all tensors as one run, whichever is
shorter. A run writes the gaps between those of its entries that are rarer, the present or the
absent ones; where both are about as many, one bit an entry. A gap's low bits are written as they
are, and the rest of it range coded with a table that follows from the run's size and count.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lgamma, log

import numpy as np
import numpy.typing as npt

from policies.types import Buffer, Positions, Reason
from policies.wire.counts import read_counts, write_counts
from policies.wire.range_coder import (
    ESCAPE,
    RangeReader,
    RangeWriter,
    geometric,
    nearest_table,
)
from policies.wire.reader import WireError, pack_bits, unpack_bits

_NOTHING = np.empty(0, dtype=np.uint8)


class Run:
    """Entries that are coded together.

    Attributes:
        size: Entries.
        count: Those present.
        bitmap: Whether it takes one bit an entry: from 7/16 to 9/16 of them are present.
        inverted: Whether the gaps lie between absent entries.
        gaps: Number of gaps, 0 for a bitmap.
        low: Low bits of a gap that are written as they are.
        raw_bits: Bits that are not range coded.
    """

    __slots__ = ("bitmap", "count", "gaps", "inverted", "low", "raw_bits", "size")

    def __init__(self, size: int, count: int) -> None:
        self.size = size
        self.count = count
        self.bitmap = 0 < 7 * size <= 16 * count <= 9 * size
        self.inverted = 2 * count > size
        self.gaps = gaps = 0 if self.bitmap else min(count, size - count)
        self.low = max(((size - gaps) // (gaps + 1)).bit_length() - 4, 0)
        self.raw_bits = size if self.bitmap else gaps * self.low

    @property
    def table(self) -> int:
        """Table of the rest of a gap."""
        return nearest_table(self.size - self.gaps, (self.gaps + 1) << self.low)


def write_positions(
    coder: RangeWriter, positions: Positions, offsets: Sequence[int]
) -> tuple[int, Buffer]:
    """Code strictly increasing positions.

    Args:
        coder: Takes the symbols.
        positions: Shape (k,), within [0, offsets[-1]).
        offsets: Where each tensor begins, and the end of the last.

    Returns:
        What the message's head says (twice k, plus 1 if all tensors are one run), and the raw bits.
    """
    cuts = np.searchsorted(positions, offsets).tolist()
    counts, sizes = _steps(cuts), _steps(offsets)
    joined = joint_bits(counts, sizes) < separate_bits(counts, sizes)
    if joined:
        offsets, cuts = [0, offsets[-1]], [0, positions.size]
    else:
        write_counts(coder, counts, sizes)
    pieces: list[Buffer] = []
    for at, (size, count) in enumerate(zip(_steps(offsets), _steps(cuts), strict=True)):
        run = Run(size, count)
        if run.bitmap or run.gaps:
            local = positions[cuts[at] : cuts[at + 1]] - offsets[at]
            pieces.append(_write_run(coder, local, run))
    raw = pack_bits(np.concatenate(pieces)) if pieces else _NOTHING
    return 2 * positions.size + joined, raw


def _write_run(coder: RangeWriter, local: Positions, run: Run) -> Buffer:
    """Put a run's symbols; return its raw bits, one a byte."""
    if run.bitmap:
        return _flags(local, run.size).view(np.uint8)
    if run.inverted:
        local = np.flatnonzero(~_flags(local, run.size))
    gaps = local.copy()
    gaps[1:] -= local[:-1] + 1
    table = geometric(run.table)
    rest = gaps >> run.low
    while rest.size:
        symbols = np.minimum(rest, ESCAPE)
        coder.put(table, symbols.astype(np.int32))
        rest = rest[symbols == ESCAPE] - ESCAPE
    if not run.low:
        return _NOTHING
    octets = gaps.astype("<i8").view(np.uint8).reshape(-1, 8)
    return np.unpackbits(octets, axis=1, count=run.low, bitorder="little").reshape(-1)


def read_runs(coder: RangeReader, total: int, joined: bool, sizes: Sequence[int]) -> list[Run]:
    """Return the runs of `total` positions, at most all; from them follow the raw bits.

    Raises:
        WireError: If a tensor's count is not possible.
    """
    if joined:
        return [Run(sum(sizes), total)]
    counts = read_counts(coder, total, sizes)
    return [Run(size, count) for size, count in zip(sizes, counts, strict=True)]


def raw_bytes(runs: Sequence[Run]) -> int:
    """Return the length of the raw bits."""
    return (sum(run.raw_bits for run in runs) + 7) // 8


def read_positions(coder: RangeReader, raw: Buffer, runs: Sequence[Run]) -> Positions:
    """Return the positions, shape (k,), strictly increasing.

    Raises:
        WireError: If one leaves its run.
    """
    if not runs:
        return np.empty(0, dtype=np.int64)
    bits = unpack_bits(raw, sum(run.raw_bits for run in runs))
    pieces: list[Positions] = [] if len(runs) == 1 else [np.empty(0, dtype=np.int64)]
    at = offset = 0
    for run in runs:
        if run.count or len(runs) == 1:
            local = _read_run(coder, bits[at : at + run.raw_bits], run)
            pieces.append(local + offset if offset else local)
            at += run.raw_bits
        offset += run.size
    return np.concatenate(pieces) if len(runs) != 1 else pieces[0]


def _read_run(coder: RangeReader, bits: Buffer, run: Run) -> Positions:
    if run.bitmap:
        found = np.flatnonzero(bits.view(np.bool_))
        if found.size != run.count:
            raise WireError(Reason.MALFORMED, f"a bitmap of {found.size}, not {run.count}")
        return found
    local = _read_gaps(coder, bits, run)
    if not run.inverted:
        return local
    return np.flatnonzero(~_flags(local, run.size))


def _read_gaps(coder: RangeReader, bits: Buffer, run: Run) -> Positions:
    """Return the positions between gaps, within the run."""
    if not run.gaps:
        return np.empty(0, dtype=np.int64)
    gaps = _read_quotients(coder, run)
    if run.low:
        octets = np.zeros((run.gaps, 8), dtype=np.uint8)
        packed = np.packbits(bits.reshape(run.gaps, run.low), axis=1, bitorder="little")
        octets[:, : packed.shape[1]] = packed
        gaps = (gaps << run.low) + octets.view("<i8")[:, 0]
    local = np.cumsum(gaps + 1) - 1
    if local[-1] >= run.size:
        raise WireError(Reason.MALFORMED, "a position leaves its run")
    return local


def _read_quotients(coder: RangeReader, run: Run) -> Positions:
    """Read what is above the low bits; an escape says that 255 or more are to be added."""
    table, most = geometric(run.table), run.size >> run.low
    symbols = coder.get(table, run.gaps)
    quotients = symbols.astype(np.int64)
    open_ones = np.flatnonzero(symbols == ESCAPE)
    escapes = open_ones.size
    while open_ones.size:
        if ESCAPE * escapes > most:
            raise WireError(Reason.MALFORMED, "a gap leaves its run")
        symbols = coder.get(table, open_ones.size)
        quotients[open_ones] += symbols
        open_ones = open_ones[symbols == ESCAPE]
        escapes += open_ones.size
    return quotients


def _flags(local: Positions, size: int) -> npt.NDArray[np.bool_]:
    """Return True at positions and False elsewhere."""
    flags = np.zeros(size, dtype=np.bool_)
    flags[local] = True
    return flags


def _steps(bounds: Sequence[int]) -> list[int]:
    return np.diff(bounds).tolist()


def log2_choices(size: int, count: int) -> float:
    """Return log2 C(size, count)."""
    return (lgamma(size + 1) - lgamma(count + 1) - lgamma(size - count + 1)) / log(2)


def separate_bits(counts: Sequence[int], sizes: Sequence[int]) -> float:
    """Estimate what a run for each tensor takes, with the counts."""
    return sum(
        log2_choices(size, count) + 1.5 * count.bit_length() + 0.3
        for size, count in zip(sizes, counts, strict=True)
    )


def joint_bits(counts: Sequence[int], sizes: Sequence[int]) -> float:
    """Estimate what one run for all tensors takes."""
    return log2_choices(sum(sizes), sum(counts)) + max(sum(counts), 1).bit_length() / 2
