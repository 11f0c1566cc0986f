"""How does a reader learn how many entries of each tensor are present, when tensors are many?

The total is known. Each tensor's count is coded against its fair share of what remains: how many
bits the number has, against how many the fair share has, and then those bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policies.types import Reason
from policies.wire.range_coder import RangeReader, RangeWriter, geometric
from policies.wire.reader import WireError

_SELDOM, _USUAL = 40, 72  # tables with a mean of 1/8 and of 2


def write_counts(coder: RangeWriter, counts: Sequence[int], sizes: Sequence[int]) -> None:
    """Append the counts that do not follow from the total and the others."""
    entries, present = sum(sizes), sum(counts)
    for size, count in zip(sizes, counts, strict=True):
        if _open(size, entries, present):
            share, table = _expect(size, entries, present)
            length = count.bit_length()
            coder.put(geometric(table), np.array([_fold(length, share)], dtype=np.int32))
            if length > 1:
                coder.put_bits(count - (1 << length - 1), length - 1)
        entries -= size
        present -= count


def read_counts(coder: RangeReader, total: int, sizes: Sequence[int]) -> list[int]:
    """Return each tensor's count.

    Raises:
        WireError: If a count is not possible.
    """
    entries, present = sum(sizes), total
    counts: list[int] = []
    for size in sizes:
        count = size if present == entries else min(present, size)
        if _open(size, entries, present):
            share, table = _expect(size, entries, present)
            length = _unfold(int(coder.get(geometric(table), 1)[0]), share)
            if length > size.bit_length():
                raise WireError(Reason.MALFORMED, f"a count of {length} bits for {size} entries")
            count = (1 << length - 1 | coder.get_bits(length - 1)) if length else 0
        entries -= size
        present -= count
        if count > size or not 0 <= present <= entries:
            raise WireError(Reason.MALFORMED, f"{count} of {size} entries cannot be")
        counts.append(count)
    return counts


def _open(size: int, entries: int, present: int) -> bool:
    """Return whether a tensor's count does not follow from what remains."""
    return 0 < size < entries and 0 < present < entries


def _expect(size: int, entries: int, present: int) -> tuple[int, int]:
    """Return the bits of the fair share, and the table that says how far off the count is."""
    share = (2 * present * size + entries) // (2 * entries)
    return share.bit_length(), _USUAL if share else _SELDOM


def _fold(length: int, share: int) -> int:
    """Number lengths by their distance from `share`: s, s - 1, s + 1, s - 2, ..."""
    if length > 2 * share:
        return length
    return 2 * (length - share) if length >= share else 2 * (share - length) - 1


def _unfold(symbol: int, share: int) -> int:
    if symbol > 2 * share:
        return symbol
    return share - (symbol + 1) // 2 if symbol % 2 else share + symbol // 2
