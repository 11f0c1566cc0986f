"""How is an update added to a large model without touching more of it than it must?"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from policies.types import Positions, Vector

BLOCK = 1 << 16
"""Values that are scaled at a time: the scratch stays in the processor's cache."""
MANY = 20_000
"""From so many positions on, torch's scatter is worth being loaded: it takes half the time."""


def add_dense(model: Vector, values: Vector, scale: float) -> None:
    """Add `scale * values` to `model`, both shape (P,), in place.

    The product is rounded to float32 before it is added, as in `add_at`.
    """
    factor = np.float32(scale)
    scratch = np.empty(min(BLOCK, model.size), dtype=np.float32)
    for start in range(0, model.size, BLOCK):
        piece = model[start : start + BLOCK]
        np.multiply(values[start : start + BLOCK], factor, out=scratch[: piece.size])
        piece += scratch[: piece.size]


def add_at(model: Vector, positions: Positions, values: Vector, scale: float) -> None:
    """Add `scale * values`, shape (k,), to `model`, shape (P,), in place, at k positions.

    Args:
        model: Changed in place.
        positions: Different from each other, within the model.
        values: What is added where.
        scale: Of all of them.

    Cost:
        O(k); the same bits whichever library adds.
    """
    add_each(model, positions, np.multiply(values, np.float32(scale)))


def add_each(target: npt.NDArray[Any], positions: Positions, values: npt.NDArray[Any]) -> None:
    """Add `values`, shape (k,), to `target` in place, at k positions that all differ.

    Both of one type that torch has; the same bits whichever library adds.
    """
    if positions.size < MANY or not (positions.flags.writeable and values.flags.writeable):
        target[positions] += values
        return
    import torch  # noqa: PLC0415  small models need no torch at the server

    places, addends = torch.from_numpy(positions), torch.from_numpy(values)
    torch.from_numpy(target).scatter_add_(0, places, addends)
