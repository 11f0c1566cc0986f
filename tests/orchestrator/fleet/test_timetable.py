"""Does an assignment whose client goes count what was done until then, and no more?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fleet import Fleet
from orchestrator.stages import Compute, Download, Upload
from orchestrator.timetable import Leg, Timetable
from policies.types import Address, Reason

FIRST = Address(0, 0)
KINDS = ["lost", "paused", "late"]
GONE = Reason.WENT_AWAY


@pytest.fixture
def legs(drawn: Callable[..., Fleet]) -> Callable[..., Timetable]:
    """Return a maker of timetables of toy devices that leave for good at a moment."""

    def make(leaves_s: float, device: dict[str, Any] | None = None, **changes: Any) -> Timetable:
        mix = [{"profile": "toy", "leaves_s": leaves_s}]
        return Timetable(drawn(device=device, mix=mix, **changes), delays=True)

    return make


@pytest.mark.parametrize("on_leave", KINDS)
def test_bytes_that_moved_by_hand(on_leave: str, legs: Callable[..., Timetable]) -> None:
    """After half a second of latency 2.5 s at 1,000 bits a second are 312 bytes, whoever goes."""
    device = {"uplink": "1 kbit/s", "downlink": "1 kbit/s", "on_leave": on_leave}
    timetable = legs(3.0, device)
    leg = timetable.upload(FIRST, 0.0, 2621)
    assert leg == Leg(0.0, 3.0, 3.0, 2500 / (8 * 2621), GONE)
    assert int(leg.done * 2621) == 312
    assert timetable.leg(FIRST, Download(2621), 0.0, 1.0) == leg
    assert timetable.leg(FIRST, Upload(2621), 0.0, 1.0) == leg
    assert timetable.upload(FIRST, 1.0, 2621) == Leg(1.0, 3.0, 2.0, 1500 / (8 * 2621), GONE)
    assert timetable.upload(FIRST, 3.0, 2621) == Leg(3.0, 3.0, 0.0, 0.0, GONE)
    assert timetable.upload(FIRST, 5.0, 2621) == Leg(5.0, 5.0, 0.0, 0.0, GONE)


@pytest.mark.parametrize("on_leave", KINDS)
def test_nothing_moves_in_an_outage(
    on_leave: str, legs: Callable[..., Timetable], csv: Callable[..., str]
) -> None:
    """From 0.2 to 50 s the link carries nothing: it is not busy, and no bit moves."""
    path = csv("time_s uplink downlink", "0 0.001 0.001", "0.2 0 0", "50 1 1", "60 1 1")
    for latency_s, busy_s, done in (
        (0.2, 0.2, 0.0),
        (0.1, 0.2, 800 / 2248),
        (0.0, 0.2, 1600 / 2248),
    ):
        device = {"latency_s": latency_s, "on_leave": on_leave}
        leg = legs(20.0, device, link={"kind": "trace", "path": path}).upload(FIRST, 0.0, 281)
        assert leg[:3] == (0.0, 20.0, pytest.approx(busy_s))
        assert leg.done == pytest.approx(done)
        assert leg.lost == GONE


@pytest.mark.parametrize("on_leave", KINDS)
def test_latency_sends_nothing(on_leave: str, legs: Callable[..., Timetable]) -> None:
    """Gone after 4 s of 5 s of latency: the radio has worked for 4 s, and nothing has moved."""
    timetable = legs(4.0, {"latency_s": 5, "on_leave": on_leave})
    assert timetable.upload(FIRST, 0.0, 281) == Leg(0.0, 4.0, 4.0, 0.0, GONE)


def test_work_that_is_cut(legs: Callable[..., Timetable]) -> None:
    """Lost and paused work has done 3 of 4 s; late work goes on. Who gives up does a share."""
    found = {
        kind: legs(3.0, {"on_leave": kind}).leg(FIRST, Compute(8e9), 0.0, 1.0) for kind in KINDS
    }
    assert found["lost"] == found["paused"] == Leg(0.0, 3.0, 3.0, 0.75, GONE)
    assert found["late"] == Leg(0.0, 4.0, 4.0)
    timetable = legs(3.0, {"on_leave": "paused"}, drop_out=0.999)
    leg = timetable.leg(FIRST, Compute(100e9), 0.0, 1.0)
    assert (leg.end_s, leg.done, leg.lost) == (3.0, pytest.approx(0.06), GONE)
    leg = timetable.leg(FIRST, Compute(2e9), 0.0, 1.0)
    assert leg.lost == Reason.GAVE_UP
    assert leg.done == pytest.approx(leg.busy_s)


def test_what_ends_as_its_client_goes_is_done(legs: Callable[..., Timetable]) -> None:
    """A client is away from the moment at which it goes, and what ends then has ended."""
    for kind in KINDS:
        assert legs(1.5, {"on_leave": kind}).upload(FIRST, 0.0, 1_000_000) == Leg(0.0, 1.5, 1.5)


@pytest.mark.parametrize("on_leave", KINDS)
def test_many_absences_before_the_last(
    on_leave: str, drawn: Callable[..., Fleet], csv: Callable[..., str]
) -> None:
    """Lost at the first absence, or at the last one with what moved while it was there."""
    path = csv("client start_s end_s", *(f"0 {begin} {end}" for begin, end in ((0, 2), (4, 5))))
    device = {"uplink": "1 kbit/s", "on_leave": on_leave}
    timetable = Timetable(
        drawn(device=device, availability={"kind": "trace", "path": path}), delays=True
    )
    end_s, busy_s = (2.0, 2.0) if on_leave == "lost" else (5.0, 3.0)
    share = 1000 * (busy_s - 0.5) / 8000
    assert timetable.upload(FIRST, 0.0, 1000) == Leg(0.0, end_s, busy_s, share, GONE)


@given(
    kind=st.sampled_from(KINDS),
    size=st.integers(0, 10**8),
    start_s=st.floats(0, 150),
    steady=st.booleans(),
)
def test_laws_of_cut_legs(
    kind: str, size: int, start_s: float, drawn: Callable[..., Fleet], *, steady: bool
) -> None:
    """What is done is what the link carries while it is busy, and all if nothing is lost."""
    link = {"kind": "steady"} if steady else {"kind": "varying", "period_s": 5, "sigma": 0.5}
    fleet = drawn(
        device={"on_leave": kind},
        link=link,
        mix=[{"profile": "toy", "leaves_s": 120}],
        availability={"kind": "churn", "mean_on_s": 30, "mean_off_s": 20},
    )
    leg = Timetable(fleet, delays=True).upload(FIRST, start_s, size)
    assert start_s == leg.begin_s <= leg.end_s < math.inf
    assert 0 <= leg.busy_s <= (leg.end_s - start_s) * (1 + 1e-9) + 1e-9
    assert 0 <= leg.done <= 1
    assert bool(leg.lost) or leg.done == 1
    if steady and leg.lost:
        assert leg.done * 8 * size == pytest.approx(8e6 * max(0.0, leg.busy_s - 0.5), abs=1)


def test_tests_and_training_draw_apart(drawn: Callable[..., Fleet]) -> None:
    """A purpose reaches the fleet; by default work is training."""
    fleet = drawn(jitter={"kind": "lognormal"})
    timetable = Timetable(fleet, delays=True)
    trained = timetable.work(FIRST, 0.0, 2e9)
    assert trained.busy_s == fleet.compute(0, 0, 0.0, 2e9).busy_s
    tested = timetable.work(FIRST, 0.0, 2e9, purpose="test/0")
    assert tested.busy_s == fleet.compute(0, 0, 0.0, 2e9, purpose="test/0").busy_s
    assert tested.busy_s != trained.busy_s
