"""Does interrupted work end when it should, by hand and by law?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fleet import Fleet, Span
from orchestrator.fleet.spans import Pieces, Windows, always, carry, through, until
from policies.types import RunError


def windows(*times: tuple[float, float]) -> Windows:
    """Return windows that are known beforehand."""

    def after(start_s: float) -> Iterator[tuple[float, float]]:
        for begin_s, end_s in times:
            if end_s > start_s:
                yield max(begin_s, start_s), end_s

    return after


def pieces(*rates: tuple[float, float]) -> Pieces:
    """Return pieces (bits a second, until when) that are known beforehand."""

    def after(start_s: float) -> Iterator[tuple[float, float]]:
        return ((rate, until_s) for rate, until_s in rates if until_s > start_s)

    return after


EVER = (0.0, math.inf)


def test_through_by_hand() -> None:
    """12 s from second 3 on, with the seconds 10 to 15 away, end at 20."""
    assert through(3.0, 12.0, always) == Span(15.0, 12.0)
    assert through(3.0, 12.0, windows((0, 10), (15, math.inf))) == Span(20.0, 12.0)
    assert through(12.0, 1.0, windows((0, 10), (15, math.inf))) == Span(16.0, 1.0)
    assert through(3.0, 7.0, windows((0, 10), (15, math.inf))) == Span(10.0, 7.0)
    assert through(3.0, 12.0, windows((0, 10))) == Span(math.inf, 7.0, 7 / 12)


def test_carry_by_hand() -> None:
    """Latency passes once; then 10 bits a second until 4, 1 bit a second after that."""
    slow = pieces((10, 4), (1, math.inf))
    assert carry(1.0, 1.0, 20, slow, always) == Span(4.0, 3.0)
    assert carry(1.0, 1.0, 25, slow, always) == Span(9.0, 8.0)
    assert carry(1.0, 1.0, 25, slow, windows((0, 3), (6, math.inf))) == Span(21.0, 17.0)
    assert carry(5.0, 1.0, 3, slow, always) == Span(9.0, 4.0)


def test_an_outage_is_not_busy() -> None:
    """At 0 bits a second time passes and nothing works."""
    outage = pieces((10, 2), (0, 5), (10, math.inf))
    assert carry(0.0, 0.0, 40, outage, always) == Span(7.0, 4.0)
    assert carry(0.0, 1.0, 0, outage, always) == Span(1.0, 1.0)


def test_who_never_comes_back_never_ends() -> None:
    """Gone in the midst of it, or of its latency: seconds are counted, and the bits that moved."""
    for rates in (pieces((10, 100), (1, math.inf)), pieces((10, math.inf))):
        assert carry(0.0, 1.0, 1000, rates, windows((0, 6))) == Span(math.inf, 6.0, 0.05)
        assert carry(0.0, 8.0, 1000, rates, windows((0, 6))) == Span(math.inf, 6.0, 0.0)
        assert carry(0.0, 1.0, 1000, rates, windows((0, 3), (5, 7))) == Span(math.inf, 5.0, 0.04)
        assert carry(0.0, 1.0, 1000, rates, windows()) == Span(math.inf, 0.0, 0.0)
    outage = pieces((10, 2), (0, 50), (10, math.inf))
    assert carry(0.0, 0.0, 100, outage, windows((0, 20))) == Span(math.inf, 2.0, 0.2)
    assert carry(3.0, 0.0, 100, outage, windows((0, 20))) == Span(math.inf, 0.0, 0.0)


def test_windows_until_a_moment() -> None:
    """From the moment on there are none, and what ends at that very moment ends."""
    known = until(windows((0, 4), (6, 9), (11, 12)), 7)
    assert list(known(1.0)) == [(1.0, 4), (6, 7)]
    assert list(until(always, 5)(2.0)) == [(2.0, 5)]
    assert list(until(always, 5)(6.0)) == []
    assert through(2.0, 3.0, until(always, 5)) == Span(5.0, 3.0)
    assert carry(4.0, 1.0, 0, pieces((1, 9), (2, math.inf)), until(always, 5)) == Span(5.0, 1.0)


def test_a_link_that_is_up_only_while_away() -> None:
    """Nothing moves for ever: that is said, not waited for."""

    def forever(start_s: float) -> Iterator[tuple[float, float]]:
        at = math.floor(start_s)
        while True:
            yield float(at % 2), at + 1.0
            at += 1

    def even(start_s: float) -> Iterator[tuple[float, float]]:
        at = math.ceil(start_s / 2) * 2.0
        while True:
            yield at, at + 1
            at += 2

    with pytest.raises(RunError, match=r"never goes on.*fleet\.link or fleet\.availability"):
        carry(0.0, 0.0, 5, forever, even)


EDGES = st.lists(st.floats(0.01, 1000), min_size=2, max_size=12, unique=True).map(sorted)


@given(
    EDGES,
    st.lists(st.floats(0, 100), min_size=13, max_size=13),
    st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)),
    st.floats(0, 500),
)
def test_carry_by_law(
    edges: list[float], rates: list[float], sizes: tuple[float, float], start_s: float
) -> None:
    """More bits take no less time, and the link is busy for no longer than it takes."""
    known = pieces(*zip(rates, edges, strict=False), (1.0, math.inf))
    there = windows(*list(pairwise(edges))[::2], (edges[-1], math.inf))
    less, more = (carry(start_s, 0.5, bits, known, there) for bits in sorted(sizes))
    assert less.end_s <= more.end_s
    for span in (less, more):
        assert span.busy_s <= (span.end_s - start_s) * (1 + 1e-9) + 1e-9


@given(EDGES, st.floats(0.001, 2000), st.floats(0, 500))
def test_a_pause_is_an_exact_shift(edges: list[float], seconds: float, start_s: float) -> None:
    """Work ends so much later as it was away in between."""
    there = list(pairwise([0.0, *edges]))[::2]
    end_s, busy_s, _ = through(start_s, seconds, windows(*there, (edges[-1] + 1, math.inf)))
    gaps = list(zip([end for _, end in there], [b for b, _ in there[1:]] + [edges[-1] + 1]))  # noqa: B905  # one more begin than ends
    away_s = sum(max(0.0, min(b, end_s) - max(e, start_s)) for e, b in gaps)
    assert busy_s == seconds
    assert end_s == pytest.approx(start_s + seconds + away_s, rel=1e-9)


# ------------------------------------------------------------------ a fleet's own


@given(
    client=st.integers(0, 7),
    size=st.integers(0, 10**12),
    start_s=st.floats(0, 1e7),
    number=st.integers(0, 9),
)
def test_defaults_are_plain_arithmetic(
    client: int, size: int, start_s: float, number: int, drawn: Callable[..., Fleet]
) -> None:
    """With nothing to interrupt it, work takes the floats of the formulas, bit for bit."""
    fleet = drawn(spread=0.3, jitter={"kind": "lognormal"})
    factor = fleet.settings.jitter.factor(3, client, number, start_s)
    down, up = 0.5 + 8 * size / 80e6, 0.5 + 8 * size / 8e6
    work = float(size / (2e9 * fleet.speeds[client])) * factor
    assert fleet.download(client, start_s, size) == Span(start_s + down, down)
    assert fleet.upload(client, start_s, size) == Span(start_s + up, up)
    assert fleet.compute(client, number, start_s, size) == Span(start_s + work, work)
    assert fleet.download(client, 0.0, size).busy_s == down
    assert fleet.upload(client, 0.0, size).busy_s == up


def test_times_by_hand(drawn: Callable[..., Fleet]) -> None:
    """Latency plus bits over bandwidth; operations over speed; watts times seconds."""
    fleet = drawn()
    assert fleet.upload(0, 10.0, 1_000_000) == Span(11.5, 1.5)
    assert fleet.download(0, 10.0, 1_000_000) == Span(10.6, 0.6)
    assert fleet.compute(0, 0, 10.0, 4e9) == Span(12.0, 2.0)
    assert fleet.compute(0, 0, 0.0, 4e9).busy_s == 2.0
    assert fleet.compute_j(0, 2.0) == 6.0
    assert fleet.transfer_j(0, 2.0) == 4.0


def test_sparse_work_by_hand(drawn: Callable[..., Fleet]) -> None:
    """A measured table makes sparse work faster; without one it takes what dense work takes."""
    fast = drawn(device={"sparse_speedup": {"0.1": 4}})
    assert fast.compute(0, 0, 0.0, 4e9, density=0.1).busy_s == 0.5
    assert fast.compute(0, 0, 0.0, 4e9).busy_s == 2.0
    assert drawn().compute(0, 0, 0.0, 4e9, density=0.1).busy_s == 2.0


def test_a_table_may_speak_of_dense_models(drawn: Callable[..., Fleet]) -> None:
    """At density 1 the time is what the table says, and just below it hardly another."""
    fleet = drawn(device={"sparse_speedup": {"0.1": 4, "1.0": 2}})
    assert fleet.compute(0, 0, 0.0, 4e9, density=1.0).busy_s == 1.0
    assert fleet.compute(0, 0, 0.0, 4e9, density=0.999999).busy_s == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("jitter", ["lognormal", "pareto"])
def test_purposes_share_no_draws(jitter: str, drawn: Callable[..., Fleet]) -> None:
    """Training keeps its draws; each other purpose and number has one of its own."""
    fleet = drawn(jitter={"kind": jitter})
    names = [("training", n) for n in range(20)]
    names += [(f"test/{lineage}", n) for lineage in range(3) for n in range(20)]
    found = [fleet.compute(3, n, 0.0, 4e9, purpose=purpose).busy_s for purpose, n in names]
    assert found[:20] == [fleet.compute(3, n, 0.0, 4e9).busy_s for n in range(20)]
    factors = [fleet.settings.jitter.factor(3, 3, n, 0.0) for n in range(20)]
    assert found[:20] == [2 * factor for factor in factors]
    assert len(set(found)) == 80


def test_a_slow_device_is_slow_for_every_purpose(drawn: Callable[..., Fleet]) -> None:
    """A factor that drifts belongs to the device and the moment, not to the piece of work."""
    fleet = drawn(jitter={"kind": "correlated"})
    assert fleet.compute(3, 0, 9.0, 4e9, purpose="test") == fleet.compute(3, 5, 9.0, 4e9)


@pytest.mark.parametrize(
    ("on_leave", "download", "compute"),
    [
        ("lost", (9.5, 1.5), (10.0, 2.0)),
        ("late", (101.0, 1.5), (10.0, 2.0)),
        ("paused", (101.0, 1.5), (101.5, 2.0)),
    ],
)
def test_what_waits_for_whom(
    on_leave: str,
    download: tuple[float, float],
    compute: tuple[float, float],
    drawn: Callable[..., Fleet],
    csv: Callable[..., str],
) -> None:
    """Away from 8.5 to 100: lost work ignores it, late transfers wait, paused work waits too."""
    path = csv("client start_s end_s", *(f"{c} {b} {e}" for c in range(8) for b, e in TIMES))
    fleet = drawn(device={"on_leave": on_leave}, availability={"kind": "trace", "path": path})
    assert fleet.on_leave(0) == on_leave
    assert fleet.download(0, 8.0, 10_000_000) == Span(*download)
    assert fleet.upload(0, 8.0, 1_000_000) == Span(*download)
    assert fleet.compute(0, 0, 8.0, 4e9) == Span(*compute)
    assert fleet.compute(0, 0, 299.0, 4e9).end_s == (math.inf if on_leave == "paused" else 301.0)


TIMES = ((0, 8.5), (100, 300))


def changing(kind: str) -> dict[str, Any]:
    """Return settings under which all changes."""
    return {
        "device": {"on_leave": kind},
        "link": {"kind": "varying", "period_s": 5},
        "availability": {"kind": "churn", "mean_on_s": 30, "mean_off_s": 20},
        "jitter": {"kind": "correlated"},
    }


@given(
    kind=st.sampled_from(["lost", "late", "paused"]),
    client=st.integers(0, 7),
    start_s=st.floats(0, 1e5),
    sizes=st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)),
)
def test_laws_of_a_fleet_in_motion(
    kind: str, client: int, start_s: float, sizes: tuple[int, int], drawn: Callable[..., Fleet]
) -> None:
    """Monotone in size, busy no longer than it takes, and the same in a fresh fleet."""
    fleet, fresh = drawn(**changing(kind)), drawn(**changing(kind))
    fleet.present(start_s + 7)
    less, more = sorted(sizes)
    for way in ("download", "upload"):
        first = getattr(fleet, way)(client, start_s, less)
        second = getattr(fleet, way)(client, start_s, more)
        assert second == getattr(fresh, way)(client, start_s, more)
        assert first == getattr(fresh, way)(client, start_s, less)
        assert start_s < first.end_s <= second.end_s < math.inf
        assert second.busy_s <= (second.end_s - start_s) * (1 + 1e-9) + 1e-6
    work = fleet.compute(client, 3, start_s, 1e3 * more)
    assert work == fresh.compute(client, 3, start_s, 1e3 * more)
    assert work.end_s >= fleet.compute(client, 3, start_s, 1e3 * less).end_s
    assert work.busy_s <= (work.end_s - start_s) * (1 + 1e-9) + 1e-6
