"""Does a slow device get less to do, and is what it does the beginning of the whole?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.views.fleet_view import look
from policies.training import Sgd
from policies.training.workload import EqualWorkload, TimedWorkload

SLOW = (
    "fleet.profiles={slow: {flops: 1e6, memory_bytes: 1 GB, compute_watts: 2, radio_watts: 1, "
    "uplink: 10 Mbit/s, downlink: 10 Mbit/s, latency_s: 0.01}, "
    "fast: {flops: 1e9, memory_bytes: 1 GB, compute_watts: 2, radio_watts: 1, "
    "uplink: 10 Mbit/s, downlink: 10 Mbit/s, latency_s: 0.01}}"
)
TIMED = (
    SLOW,
    "fleet.mix=[{profile: slow}, {profile: fast}]",
    "fleet.jitter.kind=none",
    "method.training={kind: sgd, lr: 0.1, batch_size: 5, epochs: 2}",
    "method.workload={kind: timed, seconds: 0.1, least: 2}",
)


@given(st.integers(1, 1000), st.floats(0, 100), st.floats(1e-3, 100), st.integers(1, 50))
def test_between_the_least_and_all(asked: int, batch_s: float, seconds: float, least: int) -> None:
    """What fits is taken, never less than `least` or all, and never more than is asked."""
    taken = TimedWorkload(seconds=seconds, least=least).batches(asked, batch_s)
    assert min(least, asked) <= taken <= asked
    if taken > least:
        assert taken * batch_s <= seconds * (1 + 1e-9)


def test_by_hand() -> None:
    """Three tenths of a second for batches of a tenth are three of ten."""
    assert TimedWorkload(seconds=0.35).batches(10, 0.1) == 3
    assert TimedWorkload(seconds=0.05, least=2).batches(10, 0.1) == 2
    assert EqualWorkload().batches(10, 1e9) == 10


@pytest.mark.parametrize("asked", [{"epochs": 2}, {"steps": 7}])
def test_a_shortened_training_is_the_beginning(asked: dict[str, Any]) -> None:
    """So many of its batches come first, in the same order, and cost as much less."""
    whole = Sgd(batch_size=10, **asked)
    short = whole.shortened(3)
    assert whole.batches(45) in (10, 7)
    assert short.batches(45) == 3
    assert short.passes(45) == [3]
    assert short.examples_seen(45) == 30
    assert short.flops(45, 2.0) == 3 * 2.0 * 30


def test_slow_devices_do_less(small: Any, ran: Any) -> None:
    """Nobody computes much longer than the time, and who is fast does all."""
    found = ran(small(*TIMED))
    names = found.engine.fleet.profile_names()
    examples = found.engine.plan.examples
    rows = [row for row in found.of("arrived") if row["outcome"] == "accepted"]
    trained = {names[row["client"]]: [] for row in rows}
    for row in rows:
        trained[names[row["client"]]].append(row["examples"] / examples[row["client"]])
    assert set(trained["fast"]) == {1.0}
    assert max(trained["slow"]) < 1.0
    whole = ran(small(*TIMED, "method.workload.kind=equal"))
    slow = [names[row["client"]] == "slow" for row in rows]
    took = np.array([row["device_s"] for row in rows])[slow]
    long = [r["device_s"] for r in whole.of("arrived") if names[r["client"]] == "slow"]
    assert took.mean() < 0.6 * np.mean(long)
    assert found.digest != whole.digest


def test_the_fleet_view_counts_on_it(small: Any) -> None:
    """A slow kind of client is forecast to compute about the time, a fast one all its work."""
    timed, whole = look(small(*TIMED)), look(small(*TIMED, "method.workload.kind=equal"))
    by_name = {
        group.profile.name: took for group, took in zip(timed.groups, timed.work, strict=True)
    }
    before = {
        group.profile.name: took for group, took in zip(whole.groups, whole.work, strict=True)
    }
    assert by_name["slow"].compute_s.median <= 0.1 < before["slow"].compute_s.median
    assert by_name["fast"].compute_s.median == before["fast"].compute_s.median
