"""How is a figure written so that a person reads it at a glance?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

Unit = tuple[float, str]
TIME: Final[Sequence[Unit]] = ((1, "s"), (60, "min"), (3600, "h"), (86400, "days"))
BYTES: Final[Sequence[Unit]] = ((1, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"))
ENERGY: Final[Sequence[Unit]] = ((1, "J"), (1e3, "kJ"), (1e6, "MJ"), (1e9, "GJ"))
ACCURACY: Final[Sequence[Unit]] = ((1, ""),)
SHARE: Final[Sequence[Unit]] = ((0.01, "%"),)


def unit_for(largest: float, units: Sequence[Unit]) -> Unit:
    """Return the unit in which the largest value reads best (two minutes are 120 s)."""
    roomy = 2.0 if units is TIME else 1.0
    return max((unit for unit in units if unit[0] * roomy <= largest), default=units[0])


def human(value: float, units: Sequence[Unit]) -> str:
    """Write a value with three significant digits in a fitting unit."""
    if math.isnan(value):
        return "-"
    if units is ACCURACY:
        return f"{value:.4f}"
    if units is SHARE:
        return share(value)
    scale, unit = unit_for(abs(value), units)
    return f"{count(value / scale)} {unit}"


def count(value: float) -> str:
    """Write a whole number in full, another with three significant digits."""
    if math.isnan(value):
        return "-"
    if abs(value) >= 1000 or float(value).is_integer():
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def share(part: float) -> str:
    """Write a share in per cent, with three digits; what is less than a thousandth, in words."""
    if math.isnan(part):
        return "-"
    return "under 0.1 %" if 0 < part < 1e-3 else f"{count(round(100 * part, 9))} %"


def plain(value: object) -> str:
    """Write a value of the summary as a person would."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return count(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(plain(item) for item in value)
    return "-" if value is None else str(value)
