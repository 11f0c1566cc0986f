"""Does a run with `--profile` say where its time went?"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from orchestrator.views.report_usage import SORTS, where_time_went


def run_in_process(experiment: Any, out: Path, *, profile: bool) -> Any:
    from orchestrator.request import Request
    from orchestrator.run import run

    request = Request(experiment, out, in_process=True, profile=profile)
    return run(request, Console(file=io.StringIO()))


def test_every_stage_is_noted(small: Any, tmp_path: Path) -> None:
    """Each is gone through as often as the run says, and no CPU second counts twice."""
    out = tmp_path / "run"
    before = time.process_time()
    summary = run_in_process(small(), out, profile=True)
    spent = time.process_time() - before
    ops = pd.read_parquet(out / "ops.parquet")
    used = ops[ops["kind"] == "used"].set_index(["actor", "detail"])
    written = used.loc[("clients", "compress and encode"), "number"]
    assert written == used.loc[("parameter server", "read payloads"), "number"]
    assert written >= summary.updates
    assert used.loc[("clients", "train"), "number"] < written  # side by side
    assert used.loc[("parameter server", "make versions"), "number"] == summary.versions
    assert used.loc[("engine", "events: publish"), "number"] == summary.versions
    assert (used["cpu_s"] >= 0).all()
    assert 0 < used.loc[("clients", "train"), "cpu_s"] < used["cpu_s"].sum() < spent
    assert summary.updates_per_second == pytest.approx(summary.updates / summary.working_seconds)
    assert "Where the time went" in (out / "report.html").read_text()


def test_without_it_nothing_is_noted(small: Any, tmp_path: Path) -> None:
    """A run says nothing of its processes unless it was asked; its digest is the same."""
    plain = run_in_process(small(), tmp_path / "plain", profile=False)
    asked = run_in_process(small(), tmp_path / "asked", profile=True)
    assert plain.digest == asked.digest
    ops = pd.read_parquet(tmp_path / "plain" / "ops.parquet")
    assert "used" not in set(ops["kind"])
    assert "Where the time went" not in (tmp_path / "plain" / "report.html").read_text()


def rows(*found: tuple[str, str, float]) -> pd.DataFrame:
    return pd.DataFrame(
        [(actor, stage, 2, 2 * cpu, cpu) for actor, stage, cpu in found],
        columns=["actor", "detail", "number", "duration_s", "cpu_s"],
    )


def test_the_report_puts_client_actors_together() -> None:
    """Client actors are one bar; shares are of all CPU seconds."""
    used = rows(
        ("engine", "events: arrive", 1.0),
        ("worker-0", "train", 3.0),
        ("worker-1", "train", 4.0),
        ("client-7", "the rest", 2.0),
    )
    part = where_time_went(used, {"working_seconds": 5.0, "updates": 100})
    assert part is not None
    assert part.lead == (
        "10 s of CPU in 5 s of work: 2.0 CPUs were busy on average, 100 ms of CPU an update."
    )
    assert part.rows is not None
    assert [row[0] for row in part.rows.cells] == ["engine", "client actors", "client actors"]
    assert [row[2] for row in part.rows.cells] == ["2", "4", "2"]
    assert [row[-1] for row in part.rows.cells] == ["10.0%", "70.0%", "20.0%"]
    for words in ("training", "events", "everything else"):
        assert words in SORTS
        assert words in str(part.picture)


def test_nothing_to_show() -> None:
    """A run without the rows has no such section."""
    assert where_time_went(rows(), {}) is None
