"""What a finished run prints."""

from __future__ import annotations

import io
import math
from typing import Any

from rich.console import Console

from orchestrator.result import rows, show
from orchestrator.summary import Summary

FIGURES: dict[str, Any] = {
    "name": "small",
    "digest": "d" * 64,
    "numerics": "torch 2",
    "stopped_by": "versions",
    "hosting": "in-process",
    "mlflow_run_id": None,
    "final_accuracy": 0.9123,
    "accuracy_swing": 0.0123,
    "worst_decile_accuracy": 0.5105,
    "accuracy_spread": 0.0456,
    "participation": 0.96,
    "cycle_seconds": 90.0,
    "most_load": 0.000125,
    "uplink_bytes": 2_500_000,
    "energy_joules": 81_500.0,
    "kpis": {
        "downlink_bytes_per_client_day": {"asked": "<= 50 MB", "value": 1.5e9, "met": False},
        "participation": {"asked": ">= 90 %", "value": 0.96, "met": True},
    },
}


def summary(**more: Any) -> Summary:
    """Return a summary whose other figures are 0."""
    return Summary(**dict.fromkeys(Summary.__dataclass_fields__, 0) | FIGURES | more)


def printed(found: Summary, small: Any, width: int) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)
    with console.capture() as captured:
        show(found, "out", small(), console)
    return captured.get().splitlines()


def test_what_decides_is_in_the_table(small: Any) -> None:
    """How clients fared stands beside the accuracy, in units that people read."""
    found = rows(summary())
    for name, expected in {
        "final accuracy": "0.9123",
        "swing in the last tenth": "0.0123",
        "worst tenth of clients": "0.5105",
        "spread between clients": "0.0456",
        "clients in the model": "96 %",
        "from asked to update": "90 s",
        "largest load of a device": "0.000125",
        "energy of the devices": "81.5 kJ",
        "KPI participation": "met: 0.96, asked >= 90 %",
    }.items():
        assert found[name] == expected
    assert printed(summary(), small, 80)[0].rstrip() == "small: stopped by versions"


def test_setbacks_are_told_where_there_were_some() -> None:
    """A run that never went back does not speak of it."""
    assert rows(summary(setbacks=2))["set back to a checkpoint"] == "2 times"
    assert "set back to a checkpoint" not in rows(summary())


def test_what_is_not_known_is_a_dash() -> None:
    """A figure that nobody found out is none."""
    found = rows(summary(accuracy_spread=math.nan, cycle_seconds=math.nan, most_load=math.nan))
    for name in ("spread between clients", "from asked to update", "largest load of a device"):
        assert found[name] == "-"


def test_no_number_is_broken_at_80_columns(small: Any) -> None:
    """Every value stands whole on one line that the terminal has room for."""
    lines = printed(summary(), small, 80)
    assert "…" not in "".join(lines)
    for value in rows(summary()).values():
        assert any(value in line and len(line) <= 80 for line in lines)
