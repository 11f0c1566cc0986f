"""How does a rate fall with the version?"""

from __future__ import annotations

import math


def exponential(first: float, final: float | None, versions: int, version: int) -> float:
    """Return a rate that falls, or grows, exponentially and then stays.

    Args:
        first: At version 0; above 0 if there is a `final`.
        final: From version `versions` on; None keeps `first`.
        versions: How many versions that takes.
        version: Which one is asked for.
    """
    if final is None:
        return first
    share = min(version, versions) / versions
    return first * math.pow(final / first, share)
