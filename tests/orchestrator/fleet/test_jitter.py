"""Do jitter and spread have mean 1, and does each depend on its own names alone?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.fleet import (
    CorrelatedJitter,
    Fleet,
    FleetSettings,
    JitterPolicy,
    LognormalJitter,
    NoJitter,
    ParetoJitter,
)
from orchestrator.fleet.waves import period_of, wave

SAMPLES: dict[str, JitterPolicy] = {
    "none": NoJitter(),
    "lognormal": LognormalJitter(sigma=0.5),
    "pareto": ParetoJitter(alpha=3.0),
    "correlated": CorrelatedJitter(sigma=0.5, correlation=0.8, period_s=10.0),
}


def test_every_member_has_a_sample() -> None:
    """A jitter that is added must be added above."""
    ours = [c for c in JitterPolicy.__subclasses__() if c.__module__.startswith("orchestrator")]
    assert {sample.kind for sample in SAMPLES.values()} == set(SAMPLES)
    assert {type(sample) for sample in SAMPLES.values()} == set(ours)


@pytest.mark.parametrize("jitter", SAMPLES.values(), ids=lambda j: j.kind)
def test_contract(jitter: JitterPolicy) -> None:
    """Above 0, of mean 1, and the same for the same names."""
    places = [(client, number) for client in range(100) for number in range(60)]
    found = [jitter.factor(1, client, n, 1000.0 * n) for client, n in places]
    again = [jitter.factor(1, client, n, 1000.0 * n) for client, n in reversed(places)]
    assert found == again[::-1]
    assert min(found) > 0
    assert np.mean(found) == pytest.approx(1, abs=5 * np.std(found) / math.sqrt(len(found)))


@pytest.mark.parametrize("kind", ["lognormal", "pareto", "correlated"])
def test_other_names_have_other_factors(kind: str) -> None:
    """Seed, client and, as the kind has it, dispatch or period tell factors apart."""
    by_time = kind == "correlated"
    found = {
        SAMPLES[kind].factor(s, c, 0 if by_time else n, 100.0 * n if by_time else 0.0)
        for s in (0, 1)
        for c in (0, 1)
        for n in (0, 1)
    }
    assert len(found) == 8


def test_lognormal_keeps_its_numbers() -> None:
    """The factors are those of the first release."""
    assert SAMPLES["lognormal"].factor(1, 2, 3, 0.0) == pytest.approx(1.3125581446966752, rel=1e-14)
    draws = [SAMPLES["lognormal"].factor(1, c, n, 0.0) for c in range(40) for n in range(200)]
    assert np.std(np.log(draws)) == pytest.approx(0.5, rel=0.05)


def test_pareto_by_hand() -> None:
    """The least factor is (alpha - 1) / alpha; twice the least is exceeded by 2^-alpha."""
    draws = np.array([SAMPLES["pareto"].factor(1, c, 0, 0.0) for c in range(8000)])
    assert draws.min() >= 2 / 3
    assert draws.min() == pytest.approx(2 / 3, rel=1e-3)
    assert (draws > 4 / 3).mean() == pytest.approx(1 / 8, abs=0.02)


def test_correlated_holds_through_a_period() -> None:
    """Number and moment within a period change nothing; the next period differs."""
    jitter = SAMPLES["correlated"]
    assert jitter.factor(1, 2, 0, 20.0) == jitter.factor(1, 2, 9, 29.9)
    assert jitter.factor(1, 2, 0, 20.0) != jitter.factor(1, 2, 0, 30.0)


def test_correlated_has_its_moments() -> None:
    """The logarithm has the variance sigma^2 and the correlation of a first-order chain."""
    logs = np.log([wave(1, "test", c, 0, 4, sigma=0.5, correlation=0.8) for c in range(5000)])
    assert logs.std(axis=0) == pytest.approx(np.full(4, 0.5), rel=0.06)
    assert logs.mean(axis=0) == pytest.approx(np.full(4, -0.125), abs=0.04)
    for lag in (1, 2, 3):
        found = np.corrcoef(logs[:, 0], logs[:, lag])[0, 1]
        assert found == pytest.approx(0.8**lag, abs=0.05)


@given(st.integers(-50, 50), st.integers(1, 40), st.sampled_from([0.0, 0.5, 0.9]))
def test_a_wave_is_the_same_in_any_piece(first: int, count: int, correlation: float) -> None:
    """A period has the same bits, drawn alone or among others."""
    whole = wave(1, "test", 2, -60, 200, sigma=1.0, correlation=correlation)
    piece = wave(1, "test", 2, first, count, sigma=1.0, correlation=correlation)
    assert piece.tolist() == whole[first + 60 : first + 60 + count].tolist()


@given(st.floats(0, 1e9), st.floats(1e-3, 1e6))
def test_period_of_is_exact(time_s: float, period_s: float) -> None:
    """A time lies between the ends of its period, as they are computed, not as they should be."""
    at = period_of(time_s, period_s)
    assert at * period_s <= time_s < (at + 1) * period_s
    assert period_of(at * period_s, period_s) == at


def test_period_of_where_division_rounds_over_the_edge() -> None:
    """Just before the edge of period 164 a quotient of exactly 164 is not believed."""
    assert 114.79999999999998 / 0.7 == 164
    assert 114.79999999999998 < 164 * 0.7
    assert period_of(114.79999999999998, 0.7) == 163
    assert period_of(252 * 9.21, 9.21) == 252


# ------------------------------------------------------------------ spread


def test_a_number_is_a_lognormal_spread(drawn: Callable[..., Fleet]) -> None:
    """`spread: 0.3` and its long form draw the same devices, mean 1, as the first release did."""
    short = drawn(clients=20_000, spread=0.3, seed=1)
    long = drawn(clients=20_000, spread={"kind": "lognormal", "sigma": 0.3}, seed=1)
    assert np.array_equal(short.speeds, long.speeds)
    assert short.speeds.mean() == pytest.approx(1.0, abs=0.02)
    assert short.speeds[:2] == pytest.approx([1.104394466815021, 1.1115728129909102], rel=1e-14)


def test_a_pareto_spread_has_slow_devices(drawn: Callable[..., Fleet]) -> None:
    """The time has mean 1 and a least value; the slowest of many is very slow."""
    times = 1 / drawn(clients=20_000, spread={"kind": "pareto", "alpha": 3}).speeds
    assert times.mean() == pytest.approx(1.0, abs=0.04)
    assert times.min() == pytest.approx(2 / 3, rel=1e-3)
    assert times.max() > 5


def test_spread_stays_with_the_client(drawn: Callable[..., Fleet]) -> None:
    """A device is as fast today as tomorrow."""
    fleet = drawn(spread=0.3)
    assert fleet.compute(5, 0, 0.0, 1e9).busy_s == fleet.compute(5, 9, 0.0, 1e9).busy_s
    assert fleet.compute(5, 0, 0.0, 1e9).busy_s != fleet.compute(6, 0, 0.0, 1e9).busy_s


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"spread": -1}, "spread.number"),
        ({"spread": {"kind": "pareto", "alpha": 1}}, "spread.group.pareto.alpha"),
        ({"spread": {"kind": "gauss"}}, "spread.group"),
        ({"jitter": {"kind": "pareto", "alpha": 1}}, "jitter.pareto.alpha"),
        ({"jitter": {"kind": "correlated", "correlation": 1}}, "jitter.correlated.correlation"),
    ],
)
def test_refused(
    changes: dict[str, Any], place: str, settings: Callable[..., FleetSettings]
) -> None:
    """What has no mean, or never forgets, is refused at its place."""
    with pytest.raises(ValidationError, match=place):
        settings(**changes)
