"""How do the codes of values stand in a message?

What a reader must know first stands in the head; scales and codes stand behind the coded part.
Magnitudes of `level` are range coded, and only their signs stand behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from policies.types import Buffer, Positions, Reason, ValueCoding, Vector
from policies.update import Content, ModelSchema, Quantised
from policies.wire.range_coder import (
    MEANS,
    RangeReader,
    RangeWriter,
    Symbols,
    geometric,
    nearest_table,
)
from policies.wire.reader import Reader, WireError, leb128, pack_bits, unpack_bits
from policies.wire.values import LEAST_BLOCK, MOST_CODE, SCALED, dequantise, scales_of

BITS: Final = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "level": 1, "sign": 1}
"""Bits of a value behind the coded part."""


@dataclass(frozen=True)
class CodeHead:
    """What the head says about values.

    Attributes:
        coding: How they are written.
        block: Parameters that share a scale; 0 for a scale a tensor.
        table: The table of a `level`.
    """

    coding: ValueCoding
    block: int = 0
    table: int = 0

    def tail_bytes(self, values: int, schema: ModelSchema) -> int:
        """Return what stands behind the coded part for so many values."""
        scales = scales_of(self.block, schema) if self.coding in SCALED else 0
        return 4 * scales + (values * BITS[self.coding] + 7) // 8


def write_code(coder: RangeWriter, content: Content, schema: ModelSchema) -> tuple[bytes, Buffer]:
    """Write a content's values.

    Returns:
        Numbers for the head, and what stands behind the coded part.

    Raises:
        ValueError: If there are not as many codes and scales as there must be.
    """
    code = content.code
    if code is None:
        return b"", np.ascontiguousarray(content.values, dtype="<f4").view(np.uint8)
    wanted = scales_of(code.block, schema) if code.coding in SCALED else 0
    if (code.codes.size, code.scales.size) != (content.values.size, wanted):
        raise ValueError(
            f"{code.codes.size} codes and {code.scales.size} scales "
            f"for {content.values.size} values and {wanted} scales"
        )
    if code.coding not in SCALED:
        return b"", _pack(code)
    head = leb128([code.block])
    if code.coding == "level":
        steps = np.abs(code.codes).astype(np.int32) - 1
        table = nearest_table(int(steps.sum()), max(steps.size, 1))
        coder.put(geometric(table), steps)
        head += bytes([table])
    scales = np.ascontiguousarray(code.scales, dtype="<f4").view(np.uint8)
    return head, np.concatenate([scales, _pack(code)])


def _pack(code: Quantised) -> Buffer:
    if code.coding in {"sign", "level"}:
        return pack_bits((code.codes < 0).view(np.uint8))
    kind = "i1" if code.coding == "int8" else "<u2"
    return np.ascontiguousarray(code.codes, dtype=kind).view(np.uint8)


def read_code_head(reader: Reader, coding: ValueCoding) -> CodeHead:
    """Read what the head says about values.

    Raises:
        WireError: If a block or a table is out of range.
    """
    if coding not in SCALED:
        return CodeHead(coding)
    block = reader.number()
    if 0 < block < LEAST_BLOCK:
        raise WireError(Reason.MALFORMED, f"a scale for {block} values, fewer than {LEAST_BLOCK}")
    table = reader.byte() if coding == "level" else 0
    if table >= len(MEANS):
        raise WireError(Reason.MALFORMED, f"unknown table {table}")
    return CodeHead(coding, block, table)


def read_levels(coder: RangeReader, head: CodeHead, count: int) -> Symbols:
    """Return the magnitudes of `level`, shape (count,); of other codings none.

    Raises:
        WireError: If one is too large.
    """
    if head.coding != "level":
        return np.empty(0, dtype=np.int32)
    levels = coder.get(geometric(head.table), count) + 1
    if levels.max(initial=0) > MOST_CODE:
        raise WireError(Reason.MALFORMED, f"a level beyond {MOST_CODE}")
    return levels


def read_values(
    reader: Reader,
    head: CodeHead,
    levels: Symbols,
    place: tuple[int, Positions | None],
    schema: ModelSchema,
) -> tuple[Vector, Quantised | None]:
    """Read scales and codes.

    Args:
        reader: Stands behind the coded part.
        head: What the message's head said.
        levels: From `read_levels`.
        place: The number of values, and their positions.
        schema: The tensors.

    Returns:
        The values, shape (k,), and how they were written; plain floats may view the message, and
        have no other form.

    Raises:
        WireError: If a scale is below 0, or a code out of range.
    """
    count, positions = place
    if head.coding == "fp32":
        return reader.floats(count), None
    scales = np.empty(0, dtype=np.float32)
    if head.coding in SCALED:
        scales = reader.floats(scales_of(head.block, schema))
        if (scales < 0).any():
            raise WireError(Reason.MALFORMED, "a scale is below 0")
    packed = reader.take((count * BITS[head.coding] + 7) // 8)
    codes = _unpack(packed, head.coding, count)
    if head.coding == "level":
        codes *= levels.astype(np.int8)
    code = Quantised(head.coding, codes, scales, head.block)
    return dequantise(code, positions, schema), code


def _unpack(packed: Buffer, coding: ValueCoding, count: int) -> npt.NDArray[Any]:
    if coding in {"sign", "level"}:
        return 1 - 2 * unpack_bits(packed, count).view(np.int8)
    if coding == "int8":
        codes = packed.view(np.int8)
        if codes.min(initial=0) < -MOST_CODE:
            raise WireError(Reason.MALFORMED, f"a code below -{MOST_CODE}")
        return codes
    return np.require(packed.view("<u2"), dtype=np.uint16, requirements="A")


def value_bits(content: Content) -> float:
    """Return the least that values and scales take: for `level`, a sign and the entropy."""
    code, count = content.code, content.values.size
    if code is None:
        return 32.0 * count
    bits = BITS[code.coding] * count + 32.0 * code.scales.size
    if code.coding == "level" and count:
        found = np.bincount(np.abs(code.codes))
        shares = found[found > 0] / count
        bits -= count * float((shares * np.log2(shares)).sum())
    return bits
