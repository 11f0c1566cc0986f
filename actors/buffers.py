"""How do many messages lie in one buffer?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from actors.work import At
from policies.types import Buffer

ALIGNMENT: Final = 64
"""Messages in a buffer begin at multiples of this, so that they are read in place."""
NOTHING: Final[Buffer] = np.empty(0, dtype=np.uint8)


def piece(buffers: Sequence[Buffer], at: At | None) -> Buffer:
    """Return the bytes at a place, as a view; none if there is no place."""
    return NOTHING if at is None else buffers[at[0]][at[1] : at[2]]


def heap(size: int) -> Buffer:
    """Return memory of this process."""
    return np.empty(size, dtype=np.uint8)


def laid(
    pieces: Sequence[Buffer], alignment: int = 1, room: Callable[[int], Buffer] = heap
) -> tuple[Buffer, tuple[tuple[int, int], ...]]:
    """Return pieces in one buffer, and from where to where each lies.

    Args:
        pieces: What is laid out, in order.
        alignment: Each begins at a multiple of this.
        room: Gives the memory.
    """
    places, filled, at = [], [], 0
    for one in pieces:
        places.append((at, at + one.size))
        padding = -one.size % alignment
        filled += [one, np.zeros(padding, dtype=np.uint8)] if padding else [one]
        at += one.size + padding
    whole = room(at)
    if filled:
        np.concatenate(filled, out=whole)
    return whole, tuple(places)
