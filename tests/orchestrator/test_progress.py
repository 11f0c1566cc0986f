"""The lines that people see while a run goes on."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from orchestrator.kpis import Verdict, figures, judge
from orchestrator.observe import Point
from orchestrator.progress import Progress, size

STATUS: dict[str, Any] = {
    "version": 4,
    "time_s": 12.0,
    "accuracy": 0.95,
    "updates": 30,
    "rejected_updates": 0,
    "in_flight": 2,
    "uplink_bytes": 210_000,
    "downlink_bytes": 400_000,
}
KPIS = {"accuracy": ">= 20 %", "uplink_bytes": "<= 1 kB", "most_load": "< 0.5"}


def judged(status: Mapping[str, Any]) -> Mapping[str, Verdict]:
    return judge(KPIS, figures(status, clients=4))


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def drawn(console: Console, **options: Any) -> list[str]:
    """Return what a live display shows after one status."""
    with Progress(console, versions=12, **options) as progress:
        progress.tick(STATUS)
        assert progress._live is not None
        with console.capture() as shown:
            console.print(progress._live.renderable)
    return [one.rstrip() for one in shown.get().splitlines()]


def test_a_pipe_has_a_line_for_each_evaluation() -> None:
    """The KPIs follow the figures, each with its threshold; unknown ones are not counted."""
    text = io.StringIO()
    with Progress(Console(file=text), versions=12, judge=judged) as progress:
        assert not progress.due()
        progress.tick(STATUS)
        progress.point(Point(4, 12.0, {k: v for k, v in STATUS.items() if k != "version"}))
    assert text.getvalue() == (
        "version 4/12 | 12.0 s | accuracy 0.9500 | 30 updates | 2 in flight | up 210.0 kB | "
        "down 400.0 kB | KPIs 1/2 | accuracy 0.95 >= 20 % ok | uplink 210 kB <= 1 kB MISSED | "
        "most_load ? < 0.5 at the end\n"
    )


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_terminal_shows_all_kpis_and_breaks_none(width: int) -> None:
    """They stand below the live line, whole, in as many lines as they need."""
    first, *others = drawn(terminal(width), judge=judged)
    assert first.startswith("version 4/12 | 12.0 s")
    assert " ".join(others).split(" | ") == [
        "KPIs 1/2",
        "accuracy 0.95 >= 20 % ok",
        "uplink 210 kB <= 1 kB MISSED",
        "most_load ? < 0.5 at the end",
    ]
    assert all(len(line) <= width for line in others)
    assert any("accuracy 0.95 >= 20 % ok" in line for line in others)
    assert any("uplink 210 kB <= 1 kB MISSED" in line for line in others)
    assert any("most_load ? < 0.5 at the end" in line for line in others)


def test_a_run_without_kpis_has_one_line() -> None:
    """Nothing was asked, and nothing is said."""
    assert len(drawn(terminal(200))) == 1


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2.5e15, "2500.0 TB")]
)
def test_sizes(count: float, expected: str) -> None:
    """One decimal in the unit that fits."""
    assert size(count) == expected
