"""What do the updates of a cell come to, before they cross the network?

A version that depends on the weighted sum of its updates alone can be made of one sum a cell. Sums
are float32, in the order of the updates; so a run with cells is another run than one without, in
the last bits, and the same one wherever it is hosted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from policies.types import PayloadKind, Positions, Vector
from policies.update import Content, Contribution, Dense, ModelSchema, Sparse

_WORTH_NAMING: Final = 33 / 32
"""A bit for each position, at the most, beside the 32 of a value."""


@dataclass(frozen=True, slots=True)
class CellSum:
    """What a cell's updates for a version come to.

    Attributes:
        kind: What the numbers are.
        content: ``sum f_i x_i`` with the aggregation's factors f.
        buffers: Mean of the normalisation buffers by examples times staleness weight, shape (B,).
        weight: ``sum n_i s_i``, examples times staleness weight.
        updates: How many.
    """

    kind: PayloadKind
    content: Content
    buffers: Vector
    weight: float
    updates: int


def counts(contribution: Contribution) -> float:
    """Return an update's examples times its staleness weight."""
    return max(contribution.update.examples, 0) * contribution.weight


def touched_by(contents: Iterable[Content]) -> list[Positions] | None:
    """Return what adding contents can change; None for everything."""
    pieces = [content.touches() for content in contents]
    known = [piece for piece in pieces if piece is not None]
    return known if len(known) == len(pieces) else None


def summed(
    batch: Sequence[Contribution], factor: Callable[[Contribution], float], schema: ModelSchema
) -> CellSum:
    """Sum the updates of a cell, in their order.

    Takes one vector of the model's length while it works; what comes of sparse updates is as
    sparse as they are together.

    Args:
        batch: At least one, of one kind.
        factor: What each counts.
        schema: The model's tensors.
    """
    total = np.zeros(schema.parameters, dtype=np.float32)
    for contribution in batch:
        contribution.content.add_to(total, factor(contribution))
    pieces = touched_by(c.content for c in batch)
    content: Content = Dense(total)
    if pieces is not None:
        positions = np.unique(np.concatenate(pieces))
        if _WORTH_NAMING * positions.size < total.size:
            content = Sparse(positions, total[positions])
    weights = [counts(contribution) for contribution in batch]
    weight = sum(weights)
    buffers = np.zeros(schema.buffers, dtype=np.float64)
    for contribution, share in zip(batch, weights, strict=True):
        if share:
            buffers += share / weight * contribution.update.buffers
    kind = batch[0].update.kind
    return CellSum(kind, content, buffers.astype(np.float32), weight, len(batch))


def mean_of_sums(model: Vector, sums: Sequence[CellSum]) -> None:
    """Replace `model` by the mean of the weights in cells' sums; if nothing counts, leave it."""
    total = sum(cell.weight for cell in sums)
    if total > 0:
        model[:] = 0
        for cell in sums:
            cell.content.add_to(model, 1 / total)


def mean_of_buffers(sums: Sequence[CellSum]) -> Vector | None:
    """Return the mean of all cells' normalisation buffers, shape (B,); None if nothing counts."""
    total = sum(cell.weight for cell in sums)
    if total <= 0:
        return None
    mean = np.zeros(sums[0].buffers.size, dtype=np.float64)
    for cell in sums:
        mean += cell.weight / total * cell.buffers
    return mean.astype(np.float32)
