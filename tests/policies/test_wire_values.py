"""What do values become when they are written in fewer bits?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from policies.types import Vector
from policies.update import ModelSchema, Quantised, TensorSpec
from policies.wire import dequantise, quantise

SCHEMA = ModelSchema((TensorSpec("a", (4,)), TensorSpec("none", (0,)), TensorSpec("b", (5,))))
FLOATS = arrays(np.float32, 9, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


def through(values: list[float], coding: str) -> list[float]:
    """Return what single values read as."""
    array = np.array(values, dtype=np.float32)
    schema = ModelSchema((TensorSpec("w", (array.size,)),))
    return dequantise(quantise(array, None, coding, schema), None, schema).tolist()  # type: ignore[arg-type]


def test_fp16_by_hand() -> None:
    """Half to even, to zero below half the least, and to the largest number above it."""
    assert through([1, 1 + 2**-11, 1 + 3 * 2**-11, -2, 2**-26], "fp16") == [
        1,
        1,
        1 + 2**-9,
        -2,
        0,
    ]
    assert through([65504, 65519, 65520, 3e38, -1e30], "fp16") == [65504] * 4 + [-65504]


def test_bf16_by_hand() -> None:
    """Seven bits behind the point: half to even; nothing finite becomes infinite."""
    assert through([1, 1 + 2**-8, 1 + 3 * 2**-8, -2, 2**-140], "bf16") == [
        1,
        1,
        1 + 2**-6,
        -2,
        0,
    ]
    most = float(np.uint32(0x7F7F0000).view(np.float32))
    beyond = float(np.finfo(np.float32).max)
    assert through([most, beyond, -beyond], "bf16") == [most, most, -most]


def test_int8_by_hand() -> None:
    """The largest of each tensor is 127 steps; the others are whole steps, half to even."""
    values = np.array([12.7, -12.7, 0.25, 0.35, 0, 0, 0, 0, 0], dtype=np.float32)
    code = quantise(values, None, "int8", SCHEMA)
    assert code.codes.tolist() == [127, -127, 2, 4, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(code.scales, [0.1, 0, 0])
    read = dequantise(code, None, SCHEMA)
    np.testing.assert_allclose(read[:4], [12.7, -12.7, 0.2, 0.4], rtol=1e-6)


def test_int8_of_the_largest_floats() -> None:
    """The largest float reads as a finite number, a little below it."""
    most = float(np.finfo(np.float32).max)
    read = through([most, -most, 0], "int8")
    assert read == pytest.approx([most, -most, 0], rel=1e-6)
    assert np.isfinite(read).all()


def test_int8_at_positions() -> None:
    """A value's tensor goes by its position, not by its place among the values."""
    positions = np.array([3, 4, 8])
    code = quantise(np.array([1, 127, -254], np.float32), positions, "int8", SCHEMA)
    np.testing.assert_allclose(code.scales, [1 / 127, 0, 2])
    assert code.codes.tolist() == [127, 64, -127]
    np.testing.assert_allclose(dequantise(code, positions, SCHEMA), [1, 128, -254])


def test_blocks_go_by_position() -> None:
    """The fourth block begins at parameter 24."""
    schema = ModelSchema((TensorSpec("w", (30,)),))
    scales = np.array([1, 10, 100, 1000], dtype=np.float32)
    positions = np.array([0, 7, 8, 23, 24, 29])
    code = Quantised("level", np.array([1, -2, 3, 4, 5, -6], dtype=np.int8), scales, 8)
    assert dequantise(code, positions, schema).tolist() == [1, -2, 30, 400, 5000, -6000]
    dense = Quantised("int8", np.ones(30, dtype=np.int8), scales, 8)
    assert dequantise(dense, None, schema).tolist() == [1] * 8 + [10] * 8 + [100] * 8 + [1000] * 6


def test_signs() -> None:
    """Only the sign is left."""
    assert through([3, -0.25, 1e-45, -1e30], "sign") == [1, -1, 1, -1]


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_zero_has_no_sign(zero: float) -> None:
    """An abstention must not turn into a vote."""
    with pytest.raises(ValueError, match="0 has no sign"):
        through([1, zero], "sign")


@pytest.mark.parametrize("coding", ["fp32", "level"])
def test_what_is_not_rounded_here(coding: str) -> None:
    """Floats need no code, and levels are drawn by the method that has them."""
    with pytest.raises(ValueError, match=f"nothing rounds to {coding} here"):
        through([1], coding)


@pytest.mark.parametrize("coding", ["fp16", "bf16", "int8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_hidden(coding: str, bad: float) -> None:
    """A value that went wrong reads as one that did; with a scale, its tensor's do."""
    read = through([1, bad, 2], coding)
    assert not np.isfinite(read[1])
    if coding != "int8":
        assert read[0] == 1
        assert read[2] == 2


@settings(deadline=None)
@given(FLOATS)
def test_the_nearest_is_taken(values: Vector) -> None:
    """Halves of the distance to the next number bound the error; codes read the same again."""
    most = {"fp16": 65504.0, "bf16": float(np.uint32(0x7F7F0000).view(np.float32))}
    for coding, digits, least in (("fp16", 11, 2.0**-25), ("bf16", 8, 2.0**-134)):
        kept = np.clip(values.astype(np.float64), -most[coding], most[coding])
        code = quantise(values, None, coding, SCHEMA)  # type: ignore[arg-type]
        read = dequantise(code, None, SCHEMA)
        bound = np.maximum(np.abs(kept) * 2.0**-digits, least)
        assert (np.abs(read.astype(np.float64) - kept) <= bound).all()
        again = quantise(read, None, coding, SCHEMA)  # type: ignore[arg-type]
        assert again.codes.tolist() == code.codes.tolist()


@settings(deadline=None)
@given(FLOATS)
def test_int8_is_within_half_a_step(values: Vector) -> None:
    """However large or small, each value is within half a step of its tensor's, and a little."""
    code = quantise(values, None, "int8", SCHEMA)
    read = dequantise(code, None, SCHEMA).astype(np.float64)
    step = np.repeat(code.scales.astype(np.float64), SCHEMA.sizes)
    slack = 127 * 2.0**-149 + np.abs(values) * 2.0**-22
    assert (np.abs(read - values) <= 0.5 * step + slack).all()
    assert np.abs(code.codes.astype(int)).max() <= 127
