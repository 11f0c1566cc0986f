"""How does a person write a size, a time or a speed?

Annotated types for settings: a plain number in the base unit, or text with a unit after the number
(`50 MB`, `15 min`, `20 Mbit/s`, `12 GFLOP/s`). What a policy sees is always the number. Units are
case sensitive, because `Mb` and `MB` differ by eight.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?)\s*([A-Za-zµ/]*)\s*")
_LARGEST: Final = 10**30
_LONGEST: Final = 40


@dataclass(frozen=True)
class Dimension:
    """A physical dimension: what it counts and what each unit is worth in the base unit.

    Args:
        noun: What the plain number counts, for messages.
        example: A value as a person would write it.
        units: Worth of each unit; the first of them is the base unit.
    """

    noun: str
    example: str
    units: Mapping[str, Decimal]

    def parse(self, value: Any) -> float:
        """Return `value` in the base unit.

        Args:
            value: A number in the base unit, or text: a number and, if it has one, a unit.

        Returns:
            A finite number; an integer where `value` was one or the product is whole.

        Raises:
            PydanticCustomError: If it is no quantity of this dimension.
        """
        if isinstance(value, str):
            return self._from_text(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._mistake(value)
        if not abs(value) <= _LARGEST:  # a NaN is not, either
            raise self._mistake(value)
        return value

    def _from_text(self, text: str) -> float:
        match = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST else None
        if match is None:
            raise self._mistake(text)
        unit = match[2] or next(iter(self.units))
        if unit not in self.units:
            raise self._mistake(text, unit)
        product = Decimal(match[1]) * self.units[unit]
        if abs(product) > _LARGEST:
            raise self._mistake(text)
        whole = int(product)
        return whole if whole == product else float(product)

    def _mistake(self, value: Any, unit: str = "") -> PydanticCustomError:
        by_case = {name.lower(): name for name in self.units}
        near = difflib.get_close_matches(unit.lower(), by_case, n=1)
        hint = f"Did you mean {by_case[near[0]]}?" if near else f"Units: {', '.join(self.units)}."
        shown = repr(value)
        return PydanticCustomError(
            "quantity",
            "must be a number of {noun} or text such as '{example}', got {shown}. {hint}",
            {
                "noun": self.noun,
                "example": self.example,
                "shown": shown if len(shown) <= _LONGEST else shown[:_LONGEST] + "...",
                "hint": hint,
            },
        )


def _powers(base: int, *names: str) -> dict[str, Decimal]:
    return {name: Decimal(base) ** power for power, name in enumerate(names)}


SIZE: Final = Dimension(
    "bytes",
    "50 MB",
    _powers(1000, "B", "kB", "MB", "GB", "TB") | _powers(1024, "B", "KiB", "MiB", "GiB", "TiB"),
)
DURATION: Final = Dimension(
    "seconds",
    "15 min",
    {
        "s": Decimal(1),
        "ms": Decimal("1e-3"),
        "us": Decimal("1e-6"),
        "min": Decimal(60),
        "h": Decimal(3600),
        "d": Decimal(86400),
    },
)
BANDWIDTH: Final = Dimension(
    "bits a second",
    "20 Mbit/s",
    _powers(1000, "bit/s", "kbit/s", "Mbit/s", "Gbit/s")
    | _powers(1000, "bps", "kbps", "Mbps", "Gbps"),
)
COMPUTE: Final = Dimension(
    "FLOP/s",
    "12 GFLOP/s",
    _powers(1000, "FLOP/s", "kFLOP/s", "MFLOP/s", "GFLOP/s", "TFLOP/s")
    | _powers(1000, "FLOPS", "kFLOPS", "MFLOPS", "GFLOPS", "TFLOPS"),
)


def _whole(parse: Callable[[Any], float]) -> Callable[[Any], int]:
    """Round what `parse` returns up to a whole number: no one sends half a byte."""

    def validate(value: Any) -> int:
        return math.ceil(parse(value))

    return validate


def _schema(dimension: Dimension) -> WithJsonSchema:
    """Say in the JSON schema that text with a unit will do, so that editors accept it."""
    units = "|".join(re.escape(unit) for unit in dimension.units)
    pattern = rf"^\s*\+?(\d+\.?\d*|\.\d+)([eE][+-]?\d{{1,2}})?\s*({units})?\s*$"
    return WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "string", "pattern": pattern},
            ],
            "description": f"A number of {dimension.noun}, or text such as '{dimension.example}'.",
            "examples": [dimension.example],
        }
    )


Bytes = Annotated[int, Field(ge=0), BeforeValidator(_whole(SIZE.parse)), _schema(SIZE)]
"""Bytes, >= 0: `1000`, `50 MB` (10^6), `1.5 GiB` (2^30); a fraction of a byte is rounded up."""
Seconds = Annotated[float, Field(ge=0), BeforeValidator(DURATION.parse), _schema(DURATION)]
"""Seconds, >= 0: `3.5`, `90 s`, `20 ms`, `15 min`, `2 h`, `1 d`."""
BitsPerSecond = Annotated[float, Field(ge=0), BeforeValidator(BANDWIDTH.parse), _schema(BANDWIDTH)]
"""Bits a second, >= 0: `1e6`, `20 Mbit/s`, `20 Mbps`; k, M and G are powers of 1000."""
Flops = Annotated[float, Field(ge=0), BeforeValidator(COMPUTE.parse), _schema(COMPUTE)]
"""Floating-point operations a second, >= 0: `1e9`, `12 GFLOP/s`, `12 GFLOPS`."""
