"""Which entries does a message hold values for, and how does it say so?

All of them; those it lists; those of a mask that both sides know, that it states, or that it tells
as the change from an older one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from policies.types import Buffer, Positions, Reason
from policies.update import Content, Dense, Mask, Masked, ModelSchema, Sparse
from policies.wire.positions import Run, log2_choices, read_runs, write_positions
from policies.wire.range_coder import RangeReader, RangeWriter
from policies.wire.reader import Reader, WireError, leb128

DENSE: Final = 0
SPARSE: Final = 1
PACKED: Final = 2
MASKED: Final = 3
NARROWED: Final = 4
LAYOUTS: Final = 5

_NO_VALUES = np.empty(0, dtype=np.float32)

Masks = Callable[[int], Mask]
"""Returns the mask of an epoch; raises KeyError if there is none."""


def layout_of(content: Content, known: Mask | None) -> int:
    """Return the layout for a reader who knows the mask `known`."""
    if isinstance(content, Dense):
        return DENSE
    if isinstance(content, Sparse):
        return SPARSE
    if known is None or known.epoch > content.mask.epoch:
        return MASKED
    return PACKED if known.epoch == content.mask.epoch else NARROWED


def coded_among(
    content: Content, schema: ModelSchema, known: Mask | None
) -> tuple[Positions, Sequence[int]] | None:
    """Return the positions that must be coded, and where each tensor's entries begin among all.

    Entries are the parameters or, for a mask told by its change, those of the older mask; the
    second value ends with their number. None if nothing is coded.

    Raises:
        ValueError: If the content's mask is not inside the older one.
    """
    layout = layout_of(content, known)
    if isinstance(content, Dense) or layout == PACKED:
        return None
    if isinstance(content, Masked) and known is not None and layout == NARROWED:
        return removed_from(known, content.mask), _cuts(known, schema)
    return content.positions, schema.offsets


def write_layout(
    coder: RangeWriter, content: Content, schema: ModelSchema, known: Mask | None
) -> tuple[bytes, Buffer]:
    """Write which entries have values.

    Returns:
        Numbers for the head, and raw bits.

    Raises:
        ValueError: If the content's mask is not inside the older one.
    """
    head, raw, coded = b"", np.empty(0, dtype=np.uint8), coded_among(content, schema, known)
    if isinstance(content, Masked):
        epoch, layout = content.mask.epoch, layout_of(content, known)
        if layout == NARROWED and known is not None:
            head = _named(known) + leb128([epoch - known.epoch])
        else:
            head = _named(content.mask) if layout == PACKED else leb128([epoch])
    if coded is not None:
        field, raw = write_positions(coder, *coded)
        head += leb128([field])
    return head, raw


def removed_from(old: Mask, new: Mask) -> Positions:
    """Return which of the old mask's positions the new one lacks, as indices among them.

    Raises:
        ValueError: If the new mask is not inside the old one.
    """
    lacking = ~np.isin(old.positions, new.positions, assume_unique=True)
    removed = np.flatnonzero(lacking)
    if removed.size + new.positions.size != old.positions.size:
        raise ValueError(
            f"the mask of epoch {new.epoch} holds positions that epoch {old.epoch} lacks"
        )
    return removed


@dataclass(frozen=True)
class Place:
    """What a message's head says about its entries.

    Attributes:
        layout: One of the five.
        epoch: The epoch of its mask, if it has one.
        known: The mask that the reader knows, if the layout builds on one.
        total: Positions that are coded.
        joined: Whether they are coded as one run.
        sizes: Entries of each tensor among which they are coded; none if nothing is.
    """

    layout: int
    epoch: int = 0
    known: Mask | None = None
    total: int = 0
    joined: bool = False
    sizes: tuple[int, ...] = ()

    def values(self, schema: ModelSchema) -> int:
        """Return the number of values."""
        if self.layout == DENSE:
            return schema.parameters
        old = self.known.positions.size if self.known is not None else 0
        return {PACKED: old, NARROWED: old - self.total}.get(self.layout, self.total)

    def runs(self, coder: RangeReader) -> list[Run]:
        """Return the runs of the coded positions."""
        return read_runs(coder, self.total, self.joined, self.sizes)

    def content(self, coded: Positions) -> Content:
        """Return the content for the coded positions, its values yet to come."""
        if self.layout == DENSE:
            return Dense(_NO_VALUES)
        if self.layout == SPARSE:
            return Sparse(coded, _NO_VALUES)
        if self.known is None:
            return Masked(Mask(self.epoch, coded), _NO_VALUES)
        if self.layout == PACKED:
            return Masked(self.known, _NO_VALUES)
        return Masked(Mask(self.epoch, np.delete(self.known.positions, coded)), _NO_VALUES)


def read_layout(reader: Reader, layout: int, schema: ModelSchema, masks: Masks | None) -> Place:
    """Read which entries a message has values for.

    Raises:
        WireError: If that cannot be, or if it builds on a mask that is not known.
    """
    if layout == DENSE:
        return Place(layout)
    if layout == SPARSE:
        return _coded(reader, Place(layout, sizes=schema.sizes))
    if layout == MASKED:
        return _coded(reader, Place(layout, reader.number(), sizes=schema.sizes))
    known = _find(reader, masks)
    if layout == PACKED:
        return Place(layout, known.epoch, known)
    step = reader.number()
    if not step or known.epoch + step >= 1 << 63:
        raise WireError(Reason.MALFORMED, f"a mask {step} epochs after {known.epoch}")
    sizes = tuple(np.diff(_cuts(known, schema)).tolist())
    return _coded(reader, Place(layout, known.epoch + step, known, sizes=sizes))


def position_bits(content: Content, schema: ModelSchema, known: Mask | None) -> float:
    """Return log2 C(N, k) of what the layout codes, summed over tensors."""
    coded = coded_among(content, schema, known)
    if coded is None:
        return 0.0
    positions, offsets = coded
    counts = np.diff(np.searchsorted(positions, offsets)).tolist()
    sizes = np.diff(offsets).tolist()
    return sum(log2_choices(n, k) for n, k in zip(sizes, counts, strict=True))


def _coded(reader: Reader, place: Place) -> Place:
    """Add the total, and whether all tensors are one run."""
    field = reader.number()
    total, entries = field >> 1, sum(place.sizes)
    if total > entries:
        raise WireError(Reason.MALFORMED, f"{total} positions among {entries} entries")
    return replace(place, total=total, joined=bool(field & 1))


def _named(mask: Mask) -> bytes:
    """Write which mask is meant."""
    return leb128([mask.epoch]) + mask.checksum.to_bytes(4, "little")


def _find(reader: Reader, masks: Masks | None) -> Mask:
    """Read which mask is meant, and return it."""
    epoch = reader.number()
    checksum = int.from_bytes(reader.take(4).tobytes(), "little")
    try:
        mask = masks(epoch) if masks is not None else None
    except KeyError:
        mask = None
    if mask is None:
        raise WireError(Reason.WRONG_MASK, f"the mask of epoch {epoch} is not known here")
    if mask.checksum != checksum:
        raise WireError(
            Reason.WRONG_MASK,
            f"the mask of epoch {epoch} is {mask.checksum:08x} here, not {checksum:08x}",
        )
    return mask


def _cuts(mask: Mask, schema: ModelSchema) -> list[int]:
    """Return where each tensor's entries begin among the mask's, and their number."""
    cuts: list[int] = np.searchsorted(mask.positions, schema.offsets).tolist()
    return cuts
