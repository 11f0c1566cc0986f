"""What arrives of values that are written in fewer bits?

An uplink codes its values itself, so that it knows what the server will receive: error feedback
subtracts that, and not what it wished to send.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from policies.types import Positions, Vector
from policies.update import ModelSchema, Quantised, Sparse
from policies.wire import dequantise, quantise

Coding = Literal["fp32", "fp16", "bf16", "int8"]
"""How an uplink may write its values: as they are, or each in fewer bits."""
BITS: Final[Mapping[Coding, int]] = MappingProxyType(
    {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8}
)
"""What one value takes."""


def coded(
    values: Vector, positions: Positions | None, coding: Coding, schema: ModelSchema
) -> tuple[Vector, Quantised | None]:
    """Write values in fewer bits.

    Values of which one is NaN or infinite stay as they are, so that the server sees it.

    Args:
        values: Shape (k,).
        positions: Whose they are; None for all parameters.
        coding: How to write one.
        schema: The model's tensors, which may have a scale each.

    Returns:
        The values as received, shape (k,), and how they are written if not as 32-bit floats.
    """
    if coding == "fp32" or not np.isfinite(values).all():
        return values, None
    code = quantise(values, positions, coding, schema)
    return dequantise(code, positions, schema), code


def coded_at(values: Vector, positions: Positions, coding: Coding, schema: ModelSchema) -> Sparse:
    """Return the content with `values`, shape (k,), at `positions`, as received."""
    return Sparse(positions, *coded(values, positions, coding, schema))


def not_finite(values: Vector) -> Sparse | None:
    """Return the entries that are NaN or infinite, or None if there are none.

    Signs and levels cannot carry them. Training that has diverged sends them alone, and the
    server refuses the update.
    """
    finite = np.isfinite(values)
    if finite.all():
        return None
    positions = np.flatnonzero(~finite)
    return Sparse(positions, values[positions])
