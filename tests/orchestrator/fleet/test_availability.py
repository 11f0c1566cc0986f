"""Are clients there when they should be, and do all questions about it agree?"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.fleet import (
    Always,
    AvailabilityPolicy,
    Churn,
    Diurnal,
    Fleet,
    FleetSettings,
    Status,
    TraceAvailability,
)
from policies.types import Positions

CLIENTS = np.arange(40)
TRACE = "client,start_s,end_s\n0,0,10\n0,15,20\n2,5,20\n2,20,30\n3,0,40\n4,0,7\n4,33,40\n6,39,40\n"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, AvailabilityPolicy]:
    """Return some of each kind."""
    path = tmp_path_factory.mktemp("availability") / "trace.csv"
    path.write_text(TRACE)
    return {
        "always": Always(),
        "diurnal": Diurnal(hours=6, centre_h=1, spread_h=3),
        "diurnal, all day": Diurnal(hours=24),
        "churn": Churn(mean_on_s=30, mean_off_s=70),
        "churn, rare": Churn(mean_on_s=1, mean_off_s=500),
        "trace": TraceAvailability(path=str(path)),
        "trace, repeated": TraceAvailability(path=str(path), repeat_s=40.0),
    }


KINDS = [
    "always",
    "diurnal",
    "diurnal, all day",
    "churn",
    "churn, rare",
    "trace",
    "trace, repeated",
]


def test_every_member_has_a_sample(samples: dict[str, AvailabilityPolicy]) -> None:
    """An availability that is added must be added above."""
    ours = [
        c for c in AvailabilityPolicy.__subclasses__() if c.__module__.startswith("orchestrator")
    ]
    assert {type(sample) for sample in samples.values()} == set(ours)
    assert list(samples) == KINDS


@pytest.mark.parametrize("kind", KINDS)
@given(time_s=st.floats(0, 1e7))
def test_contract(kind: str, time_s: float, samples: dict[str, AvailabilityPolicy]) -> None:
    """It holds until it changes, then it has changed; one client or many, the answer is one."""
    policy = samples[kind]
    there, until_s = policy.status(5, CLIENTS, time_s)
    assert (until_s > time_s).all()
    assert policy.always() == (there.all() and (until_s == math.inf).all())
    for client in CLIENTS[:8]:
        alone = policy.status(5, np.array([client]), time_s)
        assert (alone.there[0], alone.until_s[0]) == (there[client], until_s[client])
        change_s = float(until_s[client])
        if change_s == math.inf:
            continue
        then = policy.status(5, np.array([client]), change_s)
        assert then.there[0] != there[client]
        middle_s = time_s + (change_s - time_s) / 2
        if time_s < middle_s < change_s:
            between = policy.status(5, np.array([client]), middle_s)
            assert (between.there[0], between.until_s[0]) == (there[client], change_s)


# ------------------------------------------------------------------ by hand


def test_diurnal_by_hand() -> None:
    """Eight hours around two o'clock are ten in the evening till six, every day."""
    day = Diurnal(hours=8, centre_h=2, spread_h=0)
    hours = [0, 5.9, 6, 12, 21.9, 22, 24]
    found = [day.status(0, np.array([0]), 3600 * hour) for hour in hours]
    assert [bool(status.there[0]) for status in found] == [True, True, *[False] * 3, True, True]
    ends = [6, 6, 22, 22, 22, 30, 30]
    assert [float(status.until_s[0]) / 3600 for status in found] == ends


def test_diurnal_spreads_its_clients() -> None:
    """Each client's own shift is normal and stays; the mean share online is hours a day."""
    day = Diurnal(hours=6, centre_h=12, spread_h=2)
    many = np.arange(20_000)
    noon = day.status(1, many, 12 * 3600.0)
    end_h = noon.until_s[noon.there] / 3600 - 15
    assert noon.there.mean() == pytest.approx(math.erf(1.5 / math.sqrt(2)), abs=0.01)
    assert end_h.mean() == pytest.approx(0, abs=0.05)
    shares = [day.status(1, many, 3600.0 * hour).there.mean() for hour in range(24)]
    assert np.mean(shares) == pytest.approx(0.25, abs=0.003)


def test_trace_by_hand(samples: dict[str, AvailabilityPolicy]) -> None:
    """Rows that touch are one stay; who is in no row never comes."""
    there, until_s = samples["trace"].status(0, np.arange(9), 6.0)
    assert there.tolist() == [True, False, True, True, True, *[False] * 4]
    inf = math.inf
    assert until_s.tolist() == [10, inf, 30, 40, 7, inf, 39, inf, inf]
    assert samples["trace"].status(0, np.arange(9), 40.0).there.tolist() == [False] * 9


def test_repeated_trace_by_hand(samples: dict[str, AvailabilityPolicy]) -> None:
    """After 40 s all begins again: client 3 never goes, client 4 stays over the turn."""
    there, until_s = samples["trace, repeated"].status(0, np.arange(8), 76.0)
    assert there.tolist() == [False, False, False, True, True, False, False, False]
    assert until_s.tolist() == [80, math.inf, 85, math.inf, 87, math.inf, 79, math.inf]
    last = samples["trace, repeated"].status(0, np.array([6]), 79.5)
    assert (last.there[0], last.until_s[0]) == (True, 80)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "diurnal", "hours": 25}, "hours of at most 24"),
        ({"kind": "diurnal", "hours": 3, "period_s": "2 h"}, "hours of at most 2, .* got 3"),
        ({"kind": "diurnal", "centre_h": 24.5}, "centre_h of at most 24"),
        ({"kind": "churn", "mean_on_s": 0}, "mean_on_s"),
    ],
)
def test_refused(
    changes: dict[str, Any], message: str, settings: Callable[..., FleetSettings]
) -> None:
    """A day has its hours, and who comes must stay a little."""
    with pytest.raises(ValidationError, match=message):
        settings(availability=changes)


# ------------------------------------------------------------------ a whole fleet

SHORT = {"kind": "churn", "mean_on_s": 5, "mean_off_s": 5}
MIX = [
    {"profile": "toy", "share": 3},
    {"profile": "toy", "availability": {"kind": "always"}, "joins_s": 50, "leaves_s": 90},
    {"profile": "toy", "availability": SHORT, "joins_s": 20, "leaves_s": 70},
]
CHURN = {"kind": "churn", "mean_on_s": 30, "mean_off_s": 20}


def test_joining_and_leaving_by_hand(drawn: Callable[..., Fleet]) -> None:
    """Nobody is there before joining or from leaving on; in between the policy says."""
    fleet = drawn(mix=[{"profile": "toy", "joins_s": 50, "leaves_s": "2 min"}])
    assert [fleet.present(t).all() for t in (0.0, 49.9, 50.0, 119.9, 120.0)] == [0, 0, 1, 1, 0]
    assert not fleet.always_there
    assert fleet.back_at(0, 0.0) == 50
    assert fleet.away_from(0, 0.0) == 0
    assert fleet.away_from(0, 60.0) == 120
    assert fleet.back_at(0, 120.0) == math.inf
    assert [fleet.next_arrival(t) for t in (0.0, 50.0, 130.0)] == [50, math.inf, math.inf]
    assert [fleet.returning(t).sum() for t in (0.0, 50.0, 119.0, 120.0)] == [8, 8, 8, 0]


def test_always_there(drawn: Callable[..., Fleet]) -> None:
    """By default nobody ever goes, and the fleet says so."""
    fleet = drawn()
    assert fleet.always_there
    assert fleet.present(5.0).all()
    assert fleet.away_from(0, 5.0) == math.inf
    assert fleet.back_at(0, 5.0) == 5.0
    assert fleet.next_arrival(5.0) == math.inf
    assert fleet.returning(5.0).sum() == 8
    assert not drawn(availability=CHURN).always_there
    assert drawn(mix=[{"profile": "toy", "availability": {"kind": "always"}}]).always_there


@bounded(max_examples=40)
@given(times=st.lists(st.floats(0, 200), min_size=1, max_size=12))
def test_all_questions_agree(times: list[float], drawn: Callable[..., Fleet]) -> None:
    """Whatever was asked before, in whatever order: who is there is there for all questions."""
    fleet = drawn(clients=30, mix=MIX, availability=CHURN)
    for time_s in times:
        fresh = drawn(clients=30, mix=MIX, availability=CHURN)
        there = fleet.present(time_s)
        backs = [fleet.back_at(client, time_s) for client in range(30)]
        aways = [fleet.away_from(client, time_s) for client in range(30)]
        assert there.tolist() == fresh.present(time_s).tolist()
        assert there.tolist() == [back == time_s for back in backs]
        assert there.tolist() == [away > time_s for away in aways]
        assert backs == [fresh.back_at(client, time_s) for client in range(30)]
        for client in range(0, 30, 3):
            assert backs[client] == math.inf or fresh.present(backs[client])[client]
            assert aways[client] == math.inf or not fresh.present(aways[client])[client]
        assert fleet.returning(time_s).sum() == sum(back < math.inf for back in backs)
        assert fleet.next_arrival(time_s) == min([b for b in backs if b > time_s] or [math.inf])


def test_present_over_time(drawn: Callable[..., Fleet]) -> None:
    """Looking again and again finds what a look from scratch finds, and hands out its own array."""
    fleet = drawn(clients=2000, mix=MIX, availability=CHURN)
    for time_s in np.linspace(0, 300, 61).tolist():
        fresh = drawn(clients=2000, mix=MIX, availability=CHURN)
        found = fleet.present(time_s)
        assert np.array_equal(found, fresh.present(time_s))
        found[:] = True
    assert not fleet.present(0.0).all()


def test_a_look_at_which_nobody_changes_asks_nobody(
    drawn: Callable[..., Fleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Selections follow each other closely; only those who came or went are asked about."""
    asked: list[int] = []
    status = Churn.status

    def watched(self: Churn, seed: int, clients: Positions, time_s: float) -> Status:
        asked.append(len(clients))
        return status(self, seed, clients, time_s)

    monkeypatch.setattr(Churn, "status", watched)
    fleet = drawn(clients=50, availability={"kind": "churn", "mean_on_s": 50, "mean_off_s": 50})
    times = np.arange(0.0, 20.0, 0.01).tolist()
    looks = [fleet.present(time_s) for time_s in times]
    changes = sum(int((one != other).sum()) for one, other in pairwise(looks))
    assert asked[0] == 50
    assert 10 < changes <= sum(asked[1:]) <= 1.5 * changes
    assert 0 not in asked
    assert len(asked) - 1 <= changes


def test_windows_are_stays(drawn: Callable[..., Fleet]) -> None:
    """Between arrival and departure a client is there, and away until the next arrival."""
    fleet = drawn(clients=3, availability=CHURN)
    times = [fleet.back_at(1, 0.0)]
    for _ in range(20):
        times.append(fleet.away_from(1, times[-1]))
        times.append(fleet.back_at(1, times[-1]))
    for at, (one, other) in enumerate(pairwise(times)):
        assert one < other
        assert fleet.present((one + other) / 2)[1] == (at % 2 == 0)


def test_stays_of_a_fleet(drawn: Callable[..., Fleet]) -> None:
    """What a client's stays say from any time on is what looking says; they end with leaving."""
    fleet = drawn(clients=30, mix=MIX, availability=CHURN)
    for client, start_s in ((c, t) for c in range(30) for t in (0.0, 33.0, 120.0)):
        fresh = drawn(clients=30, mix=MIX, availability=CHURN)
        stays = list(islice(fleet.stays(client, start_s), 8))
        begin_s = fresh.back_at(client, start_s)
        for comes_s, goes_s in stays:
            assert (comes_s, goes_s) == (begin_s, fresh.away_from(client, begin_s))
            begin_s = fresh.back_at(client, goes_s)
        assert len(stays) == 8 or begin_s == math.inf
        assert bool(fleet.entries[client]) >= (len(stays) < 8)


def test_who_returns(drawn: Callable[..., Fleet]) -> None:
    """Who is there, or will come: an array of the caller's own, and its count."""
    fleet = drawn(clients=30, mix=MIX, availability=CHURN)
    fleet.present(10.0)
    for time_s in (10.0, 60.0, 75.0, 95.0, 20.0):
        backs = [fleet.back_at(client, time_s) for client in range(30)]
        found = fleet.returning(time_s)
        assert found.tolist() == [back < math.inf for back in backs]
        found[:] = False
        assert fleet.returning(time_s).sum() > 0
    assert set(fleet.entries[fleet.returning(95.0)].tolist()) == {0}


@bounded(max_examples=25)
@given(time_s=st.floats(0, 200), among=st.lists(st.booleans(), min_size=30, max_size=30))
def test_next_arrival_among_some(
    time_s: float, among: list[bool], drawn: Callable[..., Fleet]
) -> None:
    """Only those that are asked for count, and of them those that are away; maybe nobody."""
    fleet = drawn(clients=30, mix=MIX, availability=CHURN)
    wanted = np.array(among)
    backs = [fleet.back_at(client, time_s) for client in np.flatnonzero(wanted).tolist()]
    expected = min([back for back in backs if back > time_s], default=math.inf)
    assert fleet.next_arrival(time_s, wanted) == expected
    assert wanted.tolist() == among
    assert fleet.next_arrival(time_s, ~np.zeros(30, np.bool_)) == fleet.next_arrival(time_s)


def test_leaving_comes_after_joining(settings: Callable[..., FleetSettings]) -> None:
    """Who leaves before joining is a mistake, at its place."""
    mix = [{"profile": "toy", "joins_s": 5, "leaves_s": 5}]
    with pytest.raises(ValidationError, match="must be after joins_s = 5 s, got 5 s") as caught:
        settings(mix=mix)
    assert caught.value.errors()[0]["loc"] == ("mix", 0, "leaves_s")


# ------------------------------------------------------------------ dropping out


def test_drop_outs(drawn: Callable[..., Fleet]) -> None:
    """An assignment is abandoned with the probability of its entry, at a uniform share."""
    mix = [{"profile": "toy"}, {"profile": "toy", "drop_out": 0}]
    fleet = drawn(clients=200, mix=mix, drop_out=0.3)
    found = {
        entry: [
            fleet.drops_out_at(c, n)
            for c in np.flatnonzero(fleet.entries == entry).tolist()
            for n in range(50)
        ]
        for entry in (0, 1)
    }
    assert found[1] == [None] * 5000
    shares = [share for share in found[0] if share is not None]
    assert len(shares) / 5000 == pytest.approx(0.3, abs=0.035)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.04)
    assert 0 < min(shares) < 0.02
    assert 0.98 < max(shares) < 1
    client = int(np.flatnonzero(fleet.entries == 0)[0])
    assert [fleet.drops_out_at(client, n) for n in range(9)] == found[0][:9]


def test_by_default_nobody_drops_out(drawn: Callable[..., Fleet]) -> None:
    """Without a probability there is no draw."""
    assert {drawn().drops_out_at(c, n) for c in range(8) for n in range(50)} == {None}
