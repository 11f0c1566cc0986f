"""Do clients come and go at random as they should, and many times at little cost?"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.fleet import AvailabilityPolicy, Churn, Fleet, FleetSettings, churn
from policies.counter import uniforms
from policies.types import RunError


def test_churn_is_stationary() -> None:
    """The share of clients there is on / (on + off), from time 0 on."""
    many = np.arange(20_000)
    policy = Churn(mean_on_s=30, mean_off_s=70)
    for time_s in (0.0, 1.0, 45.0, 1e6):
        found = policy.status(1, many, time_s).there.mean()
        assert found == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / len(many)))


def test_churn_is_exponential() -> None:
    """Stays and absences have their means, and exponential tails."""
    policy = Churn(mean_on_s=30, mean_off_s=70)
    stays: dict[bool, list[float]] = {True: [], False: []}
    for client in range(150):
        here, time_s = np.array([client]), 0.0
        for turn in range(20):
            there, until_s = policy.status(1, here, time_s)
            if turn:  # the first one began before time 0
                stays[bool(there[0])].append(float(until_s[0]) - time_s)
            time_s = float(until_s[0])
    for there, mean in ((True, 30), (False, 70)):
        found = np.array(stays[there])
        assert found.mean() == pytest.approx(mean, abs=5 * mean / math.sqrt(len(found)))
        assert (found > 2 * mean).mean() == pytest.approx(math.exp(-2), abs=0.05)


@given(
    on_s=st.floats(0.01, 1000),
    off_s=st.floats(0.01, 1000),
    client=st.integers(0, 99),
    start_s=st.floats(0, 1e7),
)
def test_windows_are_those_of_the_status(
    on_s: float, off_s: float, client: int, start_s: float
) -> None:
    """Many stays drawn at once are, bit for bit, those that one question after the other finds."""
    policy = Churn(mean_on_s=on_s, mean_off_s=off_s)
    found = list(islice(policy.windows(2, client, start_s), 30))
    assert found == list(islice(AvailabilityPolicy.windows(policy, 2, client, start_s), 30))


def test_long_work_takes_few_draws(
    drawn: Callable[..., Fleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that is interrupted some 1,500 times does not draw for each of them."""
    calls = 0

    def counted(*names: object) -> object:
        nonlocal calls
        calls += 1
        return uniforms(*names)  # type: ignore[arg-type]

    monkeypatch.setattr(churn, "uniforms", counted)
    often = {"kind": "churn", "mean_on_s": 1, "mean_off_s": 1}
    fleet = drawn(device={"on_leave": "paused"}, availability=often)
    span = fleet.compute(0, 0, 0.0, 3000 * 2e9)
    assert span.busy_s == 3000
    assert span.end_s == pytest.approx(6000, rel=0.1)
    assert 0 < calls < 1500


def test_absurd_times_are_refused(
    drawn: Callable[..., Fleet], settings: Callable[..., FleetSettings]
) -> None:
    """In the file where it says so, else when a run gets there; before that all is well."""
    often = {"kind": "churn", "mean_on_s": "1 ms", "mean_off_s": "1 ms"}
    mix = [{"profile": "toy", "joins_s": 1e15}]
    with pytest.raises(
        ValidationError, match=r"must be at most 1e\+10 s, .* got 1e\+15 s"
    ) as caught:
        settings(mix=mix, availability=often)
    assert caught.value.errors()[0]["loc"] == ("mix", 0, "joins_s")
    fleet = drawn(mix=[{"profile": "toy", "joins_s": 1e10}], availability=often)
    assert 1e10 < fleet.next_arrival(1e10) < 1e10 + 1
    with pytest.raises(RunError, match=r"at 1e\+15 s .* of 0\.001 s cannot be told apart"):
        fleet.present(1e15)
