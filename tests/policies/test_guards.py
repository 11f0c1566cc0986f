"""Does a run end when it should, and is only a hostile client left out?"""

from __future__ import annotations

from math import inf, nan

import pytest
from pydantic import ValidationError

from policies.guards import Anomaly, Figures, Look, NoProgress, Quarantine, Stop
from policies.types import (
    ACCEPTED,
    HOSTILE_REASONS,
    Outcome,
    Reason,
    Verdict,
    rejected,
)


def fired(stop: Stop, figures: Figures) -> tuple[str, str] | None:
    """Return which guard fires after a publication, and what it says."""
    reason = stop.after_publish(figures)
    return reason and (reason.guard, reason.text)


# ---------------------------------------------------------------- stop


@pytest.mark.parametrize(
    ("stop", "below", "at", "guard", "text"),
    [
        (Stop(versions=5), Figures(4, 9e9, 10**9), Figures(5, 0, 0), "versions", "version 5 is"),
        (
            Stop(virtual_seconds=60),
            Figures(999, 59.9, 10**9),
            Figures(0, 60.0, 0),
            "virtual_seconds",
            "60.0 s have passed",
        ),
        (Stop(bytes=1000), Figures(999, 9e9, 999), Figures(0, 0, 1000), "bytes", "1000 bytes"),
    ],
)
def test_limits(stop: Stop, below: Figures, at: Figures, guard: str, text: str) -> None:
    """Each limit fires when it is reached, not before, whatever the other figures are."""
    assert fired(stop, below) is None
    found = fired(stop, at)
    assert found is not None
    assert found[0] == guard
    assert text in found[1]


def test_units() -> None:
    """Limits are written as a person would."""
    stop = Stop.model_validate({"virtual_seconds": "2 h", "bytes": "1.5 MB"})
    assert (stop.virtual_seconds, stop.bytes) == (7200, 1_500_000)


def test_accuracy() -> None:
    """The newest evaluation counts, and reaching the limit is enough."""
    stop = Stop(accuracy=0.8)
    assert stop.after_evaluation(Figures(1, 0, 0, (0.9, 0.79))) is None
    reason = stop.after_evaluation(Figures(1, 0, 0, (0.1, 0.8)))
    assert reason is not None
    assert (reason.guard, reason.text) == ("accuracy", "accuracy 0.8000 has reached 0.8")
    assert stop.after_publish(Figures(10**6, 1e9, 10**12, (0.9,))) is None


@pytest.mark.parametrize("loss", [nan, inf, -inf])
def test_not_finite(loss: float) -> None:
    """A model that has diverged ends any run, also one that seems accurate enough."""
    reason = Stop(accuracy=0.1).after_evaluation(Figures(3, 0, 0, (0.9,), loss))
    assert reason is not None
    assert reason.guard == "not_finite"
    assert f"test loss is {loss}" in reason.text


@pytest.mark.parametrize(
    ("accuracies", "stalled"),
    [
        ((), False),
        ((0.5, 0.5), False),  # nothing stands before the last two
        ((0.5, 0.5, 0.5), True),
        ((0.5, 0.5, 0.625), False),  # it rose by exactly 0.125
        ((0.5, 0.625, 0.5), False),  # within the last two, though not at the end
        ((0.5, 0.5, 0.6), True),  # by less
        ((0.5, 0.75, 0.5, 0.8), True),  # against the best, not against the first
        ((0.9, 0.1, 0.9, 0.9), True),
        ((0.1, 0.2, 0.4, 0.5), False),
    ],
)
def test_no_progress(accuracies: tuple[float, ...], stalled: bool) -> None:
    """Two evaluations must beat the best before them by 0.125."""
    guard = NoProgress(evaluations=2, by=0.125)
    assert guard.stalled(accuracies) is stalled
    if accuracies:
        reason = Stop(no_progress=guard).after_evaluation(Figures(1, 0, 0, accuracies))
        assert (reason is not None) is stalled
        if reason is not None:
            assert (reason.guard, reason.text) == (
                "no_progress",
                "no progress over 2 evaluations",
            )


def test_a_run_needs_an_end() -> None:
    """Without any limit it is a mistake, and the message names the limits there are."""
    with pytest.raises(
        ValidationError,
        match="a run needs an end; set at least one of versions, virtual_seconds, bytes, accuracy",
    ):
        Stop()


@pytest.mark.parametrize(
    "settings",
    [
        {"versions": 1},
        {"virtual_seconds": "1 s"},
        {"bytes": "1 kB"},
        {"accuracy": 0.5},
        {"no_progress": {}},
    ],
)
def test_any_limit_is_an_end(settings: dict[str, object]) -> None:
    """One limit is enough, whichever it is."""
    assert Stop.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"versions": 0}, "versions"),
        ({"accuracy": 1.5}, "accuracy"),
        ({"accuracy": 0}, "accuracy"),
        ({"no_progress": {"by": -1}}, "no_progress.by"),
        ({"no_progress": {"evaluations": 0}}, "no_progress.evaluations"),
    ],
)
def test_refused(settings: dict[str, object], complaint: str) -> None:
    """Limits that can never or must always fire are mistakes."""
    with pytest.raises(ValidationError, match=complaint):
        Stop.model_validate(settings)


# ---------------------------------------------------------------- quarantine


@pytest.mark.parametrize("reason", sorted(HOSTILE_REASONS))
def test_hostile_updates_count(reason: Reason) -> None:
    """Each update that speaks against its sender is one strike more."""
    assert Quarantine().strikes(1, rejected(reason)) == 2


def test_lost_updates_count() -> None:
    """Training that ended its process at every attempt speaks against its client."""
    assert Quarantine().strikes(1, Verdict(Outcome.LOST, Reason.NO_RESULT)) == 2


@pytest.mark.parametrize(
    "verdict",
    [
        rejected(Reason.TOO_STALE),
        rejected(Reason.ROUND_CLOSED),
        Verdict(Outcome.SUPERSEDED, Reason.OLD_LINEAGE),
    ],
    ids=repr,
)
def test_bad_luck_does_not_count(verdict: Verdict) -> None:
    """Being late neither adds a strike nor clears any."""
    assert Quarantine().strikes(2, verdict) == 2


def test_three_in_a_row() -> None:
    """An accepted update in between starts the count afresh; the third strike is enough."""
    guard, bad, strikes = Quarantine(after=3), rejected(Reason.NOT_FINITE), 0
    history = []
    for verdict in (bad, bad, ACCEPTED, bad, rejected(Reason.TOO_STALE), bad, bad):
        strikes = guard.strikes(strikes, verdict)
        history.append((strikes, guard.applies(strikes)))
    assert [count for count, _ in history] == [1, 2, 0, 1, 1, 2, 3]
    assert [out for _, out in history] == [False] * 6 + [True]


def test_one_strike_can_be_enough() -> None:
    """With `after` 1 the first bad update ends it, and nobody is out before any."""
    assert not Quarantine(after=1).applies(0)
    assert Quarantine(after=1).applies(1)
    with pytest.raises(ValidationError, match="greater than 0"):
        Quarantine(after=0)


USUAL = [Look(length, loss) for length, loss in zip(range(1, 12), [0.5] * 11, strict=True)]


def test_anomalies_by_hand() -> None:
    """Against the medians 6 and 0.5 of eleven updates; nothing is said of what is not asked."""
    guard = Anomaly(length=3, loss=4)
    assert guard.finding(Look(18.0, 2.0), USUAL) == ""
    assert guard.finding(Look(18.1, 0.1), USUAL) == (
        "its length 18.1 is more than 3 times the median 6"
    )
    assert (
        guard.finding(Look(1.0, 2.1), USUAL) == "its loss 2.1 is more than 4 times the median 0.5"
    )
    assert guard.finding(Look(1e9, 1e9), USUAL[:9]) == "", "too few to judge by"
    assert Anomaly(loss=4).finding(Look(float("nan"), 0.5), USUAL) == ""
    assert Anomaly(length=3).finding(Look(1.0, 1e9), USUAL) == ""
    assert not Anomaly().judges
    assert guard.judges
    for wrong in ({"length": 1}, {"loss": 0.5}, {"window": 0}):
        with pytest.raises(ValidationError):
            Anomaly.model_validate(wrong)


def test_lessons_by_hand() -> None:
    """Against the median 6 of eleven divergences; what is no number is odd, too."""
    guard, usual = Anomaly(kl=3), [float(kl) for kl in range(1, 12)]
    assert guard.lesson(18.0, usual) == ""
    assert guard.lesson(18.1, usual) == "its KL 18.1 is more than 3 times the median 6"
    assert guard.lesson(float("nan"), usual)
    assert guard.lesson(float("inf"), usual)
    assert guard.lesson(1e9, usual[:9]) == "", "too few to judge by"
    assert Anomaly(length=3).lesson(1e9, usual) == ""
    assert guard.reads_lessons
    assert not guard.judges, "nothing is judged at its arrival"
    assert not Anomaly(length=3, loss=3).reads_lessons
    with pytest.raises(ValidationError):
        Anomaly.model_validate({"kl": 1})
