"""Did the run keep what was asked of it?"""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from orchestrator.kpis import FIGURES, Kpis, figures, judge, parse, short

KPIS: TypeAdapter[dict[str, str]] = TypeAdapter(Kpis)
STATUS: dict[str, Any] = {
    "time_s": 43_200.0,
    "accuracy": 0.9,
    "updates": 30,
    "rejected_updates": 10,
    "uplink_bytes": 4_000_000,
    "downlink_bytes": 8_000_000,
    "energy_joules": 20.0,
    "device_seconds": 50.0,
    "wasted_device_seconds": 5.0,
    "mean_staleness": 1.5,
}


@pytest.mark.parametrize(
    ("name", "condition", "expected"),
    [
        ("accuracy", ">= 0.85", (">=", 0.85)),
        ("accuracy", ">=85%", (">=", 0.85)),
        ("participation", "> 90 %", (">", 0.9)),
        ("uplink_bytes", "<= 50 MB", ("<=", 50e6)),
        ("uplink_bytes_per_client_day", "< 1.5 GiB", ("<", 1.5 * 2**30)),
        ("virtual_seconds", "<= 2 h", ("<=", 7200)),
        ("energy_joules", "<= 1e6", ("<=", 1e6)),
    ],
)
def test_conditions(name: str, condition: str, expected: tuple[str, float]) -> None:
    """A comparison, a number, and a unit of the figure's own dimension or a per cent sign."""
    compare, threshold = parse(name, condition)
    assert compare == expected[0]
    assert math.isclose(threshold, expected[1])


@pytest.mark.parametrize(
    ("name", "condition", "words"),
    [
        ("acuracy", ">= 0.85", r"acuracy is no figure of a run\. Did you mean accuracy\?"),
        ("zzz", ">= 0.85", r"zzz is no figure of a run\. Known: accuracy, tail_accuracy"),
        ("accuracy", "0.85", r"must be a comparison and a threshold such as '>= 0\.85'"),
        ("accuracy", "== 0.85", r"Comparisons: <=, >=, <, >"),
        ("accuracy", ">= high", r"accuracy is a plain number; its threshold must be one"),
        ("accuracy", ">= nan", r"got 'nan'"),
        ("uplink_bytes", "<= 50 Mbit", r"'50 Mbit'\. Did you mean MB\?"),
        ("virtual_seconds", "<= 50 %", r"must be a number of seconds"),
        ("accuracy", ">= 850 %", r"accuracy lies in \[0, 1\], where '>= 850 %' is never met"),
        ("participation", "> 1", r"where '> 1' is never met\. Give a threshold in that range"),
        ("wasted_share", "<= -0.1", r"wasted_share lies in \[0, 1\]"),
        ("accuracy_spread", "< 0", r"accuracy_spread lies in \[0, 1\]"),
    ],
)
def test_mistakes(name: str, condition: str, words: str) -> None:
    """A mistake is said at the KPI's own name, with the rule and the way out."""
    with pytest.raises(ValidationError, match=words) as found:
        KPIS.validate_python({"best_accuracy": "> 0.1", name: condition})
    assert [error["loc"] for error in found.value.errors()] == [(name,)]


@pytest.mark.parametrize(
    ("name", "condition"),
    [
        ("accuracy", ">= 100 %"),
        ("accuracy", "< 2"),
        ("rejected_share", "<= 0"),
        ("most_load", "< 3"),
        ("mean_staleness", ">= 8"),
    ],
)
def test_conditions_at_the_edge(name: str, condition: str) -> None:
    """What one value meets is allowed, and only shares end at 1."""
    assert KPIS.validate_python({name: condition}) == {name: condition}


def test_figures_by_hand() -> None:
    """Per client and day is over the run's own time; shares are of what came and was spent."""
    found = figures(STATUS, clients=4)
    assert found["uplink_bytes_per_client_day"] == 4_000_000 / (4 * 0.5)
    assert found["downlink_bytes_per_client_day"] == 8_000_000 / (4 * 0.5)
    assert found["energy_joules_per_client_day"] == 10.0
    assert found["wasted_share"] == 0.1
    assert found["rejected_share"] == 0.25
    assert found["accuracy"] == 0.9
    assert found["virtual_seconds"] == 43_200.0
    assert set(found) <= set(FIGURES)


def test_figures_at_the_start() -> None:
    """Before any time has passed nothing is divided by zero; what is not known is left out."""
    found = figures({"time_s": 0.0, "accuracy": None, "uplink_bytes": 0}, clients=4)
    assert found == {"uplink_bytes": 0.0, "virtual_seconds": 0.0}


def test_verdicts() -> None:
    """A KPI is met, missed, or not known yet; a NaN is not known."""
    kpis = {"accuracy": ">= 0.85", "uplink_bytes": "<= 1 MB", "most_load": "< 0.5"}
    verdicts = judge(kpis, {"accuracy": 0.9, "uplink_bytes": 2e6, "most_load": math.nan})
    assert {name: verdict.met for name, verdict in verdicts.items()} == {
        "accuracy": True,
        "uplink_bytes": False,
        "most_load": None,
    }
    assert verdicts["uplink_bytes"] == ("<= 1 MB", 2e6, False)


def test_verdicts_in_words() -> None:
    """Figures are written as people read them."""
    kpis = {"uplink_bytes": "<= 1 MB", "virtual_seconds": "<= 2 h", "accuracy": ">= 0.85"}
    verdicts = judge(kpis, {"uplink_bytes": 2.5e6, "virtual_seconds": 600.0})
    assert {name: verdict.text(name) for name, verdict in verdicts.items()} == {
        "uplink_bytes": "missed: 2.50 MB, asked <= 1 MB",
        "virtual_seconds": "met: 10 min, asked <= 2 h",
        "accuracy": "not known: >= 0.85",
    }


def test_verdicts_on_a_progress_line() -> None:
    """Each with its threshold; what nobody knows yet is not counted; late figures say so."""
    kpis = {
        "accuracy": ">= 20 %",
        "best_accuracy": ">= 0.99",
        "uplink_bytes": "<= 1 kB",
        "energy_joules": "<= 100",
        "tail_accuracy": ">= 0.9",
        "most_load": "< 0.5",
    }
    status = {"accuracy": 0.95, "best_accuracy": 0.95, "uplink_bytes": 210_000}
    status |= {"energy_joules": 81.5, "tail_accuracy": math.nan}
    assert short(judge(kpis, figures(status, clients=4))) == [
        "KPIs 2/4",
        "accuracy 0.95 >= 20 % ok",
        "best_accuracy 0.95 >= 0.99 not yet",
        "uplink 210 kB <= 1 kB MISSED",
        "energy_joules 81.5 <= 100 ok",
        "tail_accuracy ? >= 0.9",
        "most_load ? < 0.5 at the end",
    ]
    assert short({}) == []


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_comparisons_are_what_they_say(value: float, threshold: float) -> None:
    """Strict and loose comparisons differ at equality alone, and opposites exclude each other."""
    met = {
        sign: judge({"most_load": f"{sign} {threshold!r}"}, {"most_load": value})["most_load"].met
        for sign in ("<", "<=", ">", ">=")
    }
    assert met["<"] is not met[">="]
    assert met[">"] is not met["<="]
    assert (met["<="] and met[">="]) == (value == threshold)
