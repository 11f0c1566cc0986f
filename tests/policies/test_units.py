"""Do the units of settings mean what a person means by them?"""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from policies.units import BitsPerSecond, Bytes, Flops, Seconds

BYTES: TypeAdapter[int] = TypeAdapter(Bytes)
SECONDS: TypeAdapter[float] = TypeAdapter(Seconds)
BITS: TypeAdapter[float] = TypeAdapter(BitsPerSecond)
FLOPS: TypeAdapter[float] = TypeAdapter(Flops)


@pytest.mark.parametrize(
    ("adapter", "written", "meant"),
    [
        (BYTES, 1000, 1000),
        (BYTES, "1000", 1000),
        (BYTES, "50 MB", 50_000_000),
        (BYTES, "1.5 GiB", 1_610_612_736),
        (BYTES, "1.1kB", 1100),
        (BYTES, "0.1 B", 1),
        (BYTES, 2.5, 3),
        (SECONDS, "2 h", 7200),
        (SECONDS, "90 s", 90),
        (SECONDS, "15 min", 900),
        (SECONDS, "20 ms", 0.02),
        (SECONDS, 3.5, 3.5),
        (BITS, "20 Mbit/s", 20e6),
        (BITS, "20 Mbps", 20e6),
        (FLOPS, "12 GFLOP/s", 12e9),
        (FLOPS, "1e9", 1e9),
        (FLOPS, 1e9, 1e9),
    ],
)
def test_value(adapter: TypeAdapter[Any], written: Any, meant: float) -> None:
    """A number is in the base unit; text carries its own unit; the product is exact."""
    assert adapter.validate_python(written) == meant


@pytest.mark.parametrize(
    ("adapter", "written", "complaint"),
    [
        (BYTES, "50 Mb", "a number of bytes or text such as '50 MB', got '50 Mb'. Did you mean MB"),
        (BYTES, "much", "got 'much'. Units: B, kB, MB"),
        (BYTES, "", "got ''"),
        (BYTES, True, "got True"),
        (BYTES, None, "got None"),
        (BYTES, -1, "greater than or equal to 0"),
        (BYTES, "-1 MB", "greater than or equal to 0"),
        (BYTES, math.inf, "got inf"),
        (BYTES, "1e99 TB", "got '1e99 TB'"),
        (BYTES, "9" * 5000, "got '999"),
        (SECONDS, math.nan, "got nan"),
        (SECONDS, "2 hours", "got '2 hours'. Units: s, ms"),
        (BITS, "20 MB/s", "bits a second or text such as '20 Mbit/s', got '20 MB/s'. Did you mean"),
        (FLOPS, "12 gflop/s", "Did you mean GFLOP/s"),
        (FLOPS, [1], r"got \[1\]"),
    ],
)
def test_mistake(adapter: TypeAdapter[Any], written: Any, complaint: str) -> None:
    """What is no quantity is refused with an example, what was given, and the nearest unit."""
    with pytest.raises(ValidationError, match=complaint):
        adapter.validate_python(written)


@given(st.text() | st.integers() | st.floats() | st.none() | st.lists(st.integers()))
def test_anything_is_a_number_or_a_mistake(value: Any) -> None:
    """Whatever stands in a file becomes a finite number >= 0 or a validation error."""
    for adapter in (BYTES, SECONDS, BITS, FLOPS):
        try:
            number = adapter.validate_python(value)
        except ValidationError:
            continue
        assert 0 <= number < math.inf


@given(st.integers(0, 10**9), st.sampled_from(["B", "kB", "MB", "KiB", "GiB"]))
def test_sizes_are_exact(count: int, unit: str) -> None:
    """A whole number of a unit is exactly that many bytes."""
    worth = {"B": 1, "kB": 1000, "MB": 1000**2, "KiB": 1024, "GiB": 1024**3}[unit]
    assert BYTES.validate_python(f"{count} {unit}") == count * worth


@pytest.mark.parametrize("adapter", [BYTES, SECONDS, BITS, FLOPS])
def test_schema_takes_both(adapter: TypeAdapter[Any]) -> None:
    """Editors that read the JSON schema accept a number and text."""
    kinds = {option["type"] for option in adapter.json_schema()["anyOf"]}
    assert kinds == {"number", "string"}
