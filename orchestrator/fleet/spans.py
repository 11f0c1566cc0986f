"""When does work end that is interrupted, or whose link changes?

Work goes through windows, the times in which it may go on. Both functions are arithmetic on plain
numbers; nothing is drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from policies.types import RunError

Windows = Callable[[float], Iterator[tuple[float, float]]]
"""From a time on, (begin, end) of the times in which work goes on."""
Pieces = Callable[[float], Iterator[tuple[float, float]]]
"""From a time on, (bits a second, until when)."""

_MOST_IDLE: Final = 10_000


class Span(NamedTuple):
    """How long a piece of work takes.

    Attributes:
        end_s: When it ends; infinite if its client never comes back.
        busy_s: Seconds in which the device or the link really worked.
        done: Share of the work that is done, or of the bits that have moved; 1 if it ends.
    """

    end_s: float
    busy_s: float
    done: float = 1.0


def always(start_s: float) -> Iterator[tuple[float, float]]:
    """Yield the one window of work that nothing interrupts."""
    yield start_s, math.inf


def until(windows: Windows, stop_s: float) -> Windows:
    """Return the windows up to a moment, from which on there are none."""
    if stop_s == math.inf:
        return windows

    def before(start_s: float) -> Iterator[tuple[float, float]]:
        for begin_s, end_s in windows(start_s):
            if begin_s > stop_s:
                break
            yield begin_s, min(end_s, stop_s)

    return before


def through(start_s: float, seconds: float, windows: Windows) -> Span:
    """Return when `seconds` of work that begin at `start_s` are done."""
    if windows is always:
        return Span(start_s + seconds, seconds)
    left, busy_s = seconds, 0.0
    for begin_s, end_s in windows(start_s):
        if begin_s + left <= end_s:
            return Span(begin_s + left, seconds)
        left = max(0.0, left - (end_s - begin_s))
        busy_s += end_s - begin_s
    return Span(math.inf, busy_s, min(1.0, busy_s / seconds) if seconds else 0.0)


def carry(start_s: float, latency_s: float, bits: float, pieces: Pieces, windows: Windows) -> Span:
    """Return when a transfer that begins at `start_s` is done.

    Args:
        start_s: When it begins.
        latency_s: Passes once, before the first bit.
        bits: How many.
        pieces: The bandwidth over time; it may be 0 for a while, which is not busy.
        windows: When it may go on.

    Raises:
        RunError: If nothing has moved in 10,000 windows: the link is only ever up while the
            client is away.
    """
    rate, until_s = next(pieces(start_s))
    if until_s == math.inf:
        return _steadily(start_s, latency_s, bits, rate, windows)
    latency = through(start_s, latency_s, windows)
    busy_s, left, idle = latency.busy_s, bits, 0
    if latency.end_s == math.inf:
        return latency._replace(done=0.0)
    for begin_s, end_s in windows(latency.end_s):
        here = _one_window(begin_s, end_s, left, pieces)
        busy_s += here.busy_s
        if here.left == 0:
            return Span(here.end_s, busy_s)
        idle = idle + 1 if here.left == left else 0
        left = here.left
        if idle > _MOST_IDLE:
            raise RunError(
                f"a transfer that began at {start_s:g} s never goes on: whenever its client is "
                "there, its link carries nothing. Change fleet.link or fleet.availability."
            )
    return Span(math.inf, busy_s, _moved(bits - left, bits))


def _steadily(start_s: float, latency_s: float, bits: float, rate: float, windows: Windows) -> Span:
    """Return when a transfer is done whose bandwidth never changes."""
    span = through(start_s, latency_s + bits / rate, windows)
    if span.end_s < math.inf:
        return span
    return span._replace(done=_moved(rate * (span.busy_s - latency_s), bits))


def _moved(moved: float, bits: float) -> float:
    """Return the share of the bits that have moved; none before the latency has passed."""
    return min(1.0, max(0.0, moved) / bits) if bits else 0.0


class _Window(NamedTuple):
    end_s: float
    busy_s: float
    left: float


def _one_window(begin_s: float, end_s: float, bits: float, pieces: Pieces) -> _Window:
    """Move as many bits as one window takes."""
    busy_s = 0.0
    for rate, until_s in pieces(begin_s):
        stop_s = min(end_s, until_s)
        if rate > 0 or bits == 0:
            need_s = bits / rate if bits else 0.0
            if begin_s + need_s <= stop_s:
                return _Window(begin_s + need_s, busy_s + need_s, 0.0)
            bits = max(math.ulp(0.0), bits - rate * (stop_s - begin_s))
            busy_s += stop_s - begin_s
        begin_s = stop_s
        if begin_s >= end_s:
            break
    return _Window(begin_s, busy_s, bits)
