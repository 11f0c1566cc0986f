"""How is a value written in fewer bits than a float's 32, and what does it read as?

`quantise` and `dequantise` are the only arithmetic between values and codes: writers, readers and
the policies that keep a residual all call them, so that what is kept is what was not sent.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from policies.types import Positions, ValueCoding, Vector
from policies.update import ModelSchema, Quantised

CODINGS: Final[tuple[ValueCoding, ...]] = ("fp32", "fp16", "bf16", "int8", "level", "sign")
"""In the order of their numbers in a message."""
SCALED: Final = frozenset({"int8", "level"})
"""Codings whose codes are multiplied by a scale."""
LEAST_BLOCK: Final = 8
"""Fewest parameters that share a scale, where blocks are given."""
MOST_CODE: Final = 127
_FP16_MOST: Final = np.float32(65504)
_BF16_MOST: Final = np.uint16(0x7F7F)
_SCALE_MOST: Final = np.nextafter(np.finfo(np.float32).max / np.float32(MOST_CODE), np.float32(0))


def quantise(
    values: Vector, positions: Positions | None, coding: ValueCoding, schema: ModelSchema
) -> Quantised:
    """Write values in fewer bits.

    `fp16` and `bf16` round to the nearest, half to even; what is finite stays finite (the largest
    number where it would overflow), and what is not stays so, to be refused. `int8` takes the
    largest magnitude of each tensor's values / 127 as its scale and rounds half to even. `sign`
    keeps the sign of values that are not 0.

    Args:
        values: Shape (k,).
        positions: Where they are, shape (k,); None for every parameter.
        coding: One of `fp16`, `bf16`, `int8` and `sign`.
        schema: The tensors.

    Raises:
        ValueError: If the coding is another, or `sign` is asked for a 0.
    """
    if coding == "fp16":
        most = np.where(np.isinf(values), np.float32(np.inf), _FP16_MOST)
        return Quantised(coding, np.clip(values, -most, most).astype(np.float16).view(np.uint16))
    if coding == "bf16":
        return Quantised(coding, _bf16(values))
    if coding == "int8":
        return _int8(values, positions, schema)
    if coding == "sign":
        if not values.all():
            raise ValueError("0 has no sign. Leave its position out.")
        return Quantised(coding, np.where(np.signbit(values), np.int8(-1), np.int8(1)))
    raise ValueError(f"nothing rounds to {coding} here; use fp16, bf16, int8 or sign")


def dequantise(code: Quantised, positions: Positions | None, schema: ModelSchema) -> Vector:
    """Return what codes stand for.

    Args:
        code: Shape (k,).
        positions: Where its values are, shape (k,); None for every parameter.
        schema: The tensors.

    Returns:
        Shape (k,), float32.
    """
    if code.coding == "fp16":
        return code.codes.view(np.float16).astype(np.float32)
    if code.coding == "bf16":
        return (code.codes.astype(np.uint32) << np.uint32(16)).view(np.float32)
    values: Vector = code.codes.astype(np.float32)
    if code.coding in SCALED:
        with np.errstate(over="ignore", invalid="ignore"):  # refused later, as not finite
            values *= _each(code.scales, code.block, positions, schema)
    return values


def scales_of(block: int, schema: ModelSchema) -> int:
    """Return how many scales there are: one a tensor, or one a block."""
    return -(-schema.parameters // block) if block else len(schema.sizes)


def _each(
    scales: Vector, block: int, positions: Positions | None, schema: ModelSchema
) -> npt.NDArray[np.float32]:
    """Return the scale of each value."""
    if not block:
        return np.repeat(scales, np.diff(_cuts(positions, schema)))
    if positions is None:
        return np.repeat(scales, min(block, schema.parameters))[: schema.parameters]
    return scales[positions // block]


def _cuts(positions: Positions | None, schema: ModelSchema) -> Positions:
    """Return where each tensor's values begin among all, and their number at the end."""
    offsets = np.asarray(schema.offsets, dtype=np.int64)
    return offsets if positions is None else np.searchsorted(positions, offsets)


def _bf16(values: Vector) -> npt.NDArray[np.uint16]:
    bits = np.ascontiguousarray(values).view(np.uint32)
    top = (bits >> np.uint32(16)).astype(np.uint16)
    rounded = bits + np.uint32(0x7FFF) + (top & np.uint16(1))
    codes = (rounded >> np.uint32(16)).astype(np.uint16)
    over = np.isinf((codes.astype(np.uint32) << np.uint32(16)).view(np.float32))
    codes[over] = top[over] & np.uint16(0x8000) | _BF16_MOST
    strange = ~np.isfinite(values)
    codes[strange] = top[strange] | np.isnan(values[strange]).astype(np.uint16) << np.uint16(6)
    return codes


def _int8(values: Vector, positions: Positions | None, schema: ModelSchema) -> Quantised:
    cuts = _cuts(positions, schema).tolist()
    most = [np.abs(values[a:b]).max(initial=0) for a, b in pairwise(cuts)]
    scales = np.array(most, dtype=np.float32) / np.float32(MOST_CODE)
    scales[np.isfinite(scales) & (scales > _SCALE_MOST)] = _SCALE_MOST
    each = _each(scales, 0, positions, schema)
    with np.errstate(invalid="ignore"):  # a scale that is not finite is refused by the reader
        steps = np.divide(
            values, each, out=np.zeros_like(values), where=np.isfinite(each) & (each > 0)
        )
    codes = np.clip(np.rint(steps), -MOST_CODE, MOST_CODE).astype(np.int8)
    return Quantised("int8", codes, scales)
