"""What if the server is lost in mid-run? The run goes back to its last checkpoint and on."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from orchestrator.engine import Interrupted
from orchestrator.hosting import Node
from orchestrator.in_process import InProcessRuntime
from orchestrator.on_ray.nodes import NodeWatch
from orchestrator.request import Request
from orchestrator.run import Killed, _Run, run
from orchestrator.runtime import Setback
from orchestrator.setbacks import Setbacks
from policies.types import RunError

Lose = Callable[[int], bool]


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Lose], None]:
    """Return what makes servers go at versions for which `lose` says so."""

    def lose_at(lose: Lose) -> None:
        real = InProcessRuntime.commit

        def commit(self: Any, addresses: Any, expected: Any) -> Any:
            if lose(expected.number):
                raise Setback("the parameter server is lost")
            return real(self, addresses, expected)

        monkeypatch.setattr(InProcessRuntime, "commit", commit)

    return lose_at


def in_process(experiment: Any, out: Path) -> tuple[Any, str]:
    """Run in this process; return the summary and what was printed."""
    text = io.StringIO()
    return run(Request(experiment, out, in_process=True), Console(file=text, width=200)), (
        text.getvalue()
    )


@pytest.mark.parametrize("saved", [True, False])
def test_a_lost_server_changes_nothing(
    saved: bool,
    small: Any,
    ran: Any,
    losing: Callable[[Lose], None],
    saving: str,
    tmp_path: Path,
) -> None:
    """From a checkpoint, or from the beginning if there is none: the digest of an uncut run."""
    experiment = small(saving if saved else "checkpoint.every_s=3600", "stop.versions=20")
    reference = ran(experiment).digest
    left = [11, 5]
    losing(lambda version: bool(left) and version == left[-1] and bool(left.pop()))
    summary, text = in_process(experiment, tmp_path / "run")
    assert not left, "both were lost"
    assert summary.digest == reference
    assert summary.setbacks == 2
    assert text.count("set back at version") == 2
    back = [int(found) for found in re.findall(r"goes on from version (\d+)", text)]
    assert back == ([5, 11] if saved else [0, 0])
    ops = pq.read_table(tmp_path / "run" / "ops.parquet").to_pylist()
    assert [r["kind"] for r in ops if r["kind"] in {"set_back", "gone_on"}] == [
        "set_back", "gone_on", "set_back", "gone_on",
    ]  # fmt: skip


def test_a_run_that_gets_no_further_ends(
    small: Any, losing: Callable[[Lose], None], tmp_path: Path
) -> None:
    """What is lost at the same version again and again is a mistake, and told as one."""
    losing(lambda version: version == 5)
    with pytest.raises(RunError, match=r"set back 3 times without getting beyond version 5.*lost"):
        in_process(small("limits.attempts=2"), tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()


def test_mlflow_gets_each_point_once(
    small: Any, losing: Callable[[Lose], None], tmp_path: Path
) -> None:
    """Points that are met again after a setback are not sent twice, and none is missing."""
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    left = [10]
    losing(lambda version: bool(left) and version == left[-1] and bool(left.pop()))
    experiment = small("tracking.enabled=true", f"tracking.uri={uri}", "stop.versions=16")
    summary, _ = in_process(experiment, tmp_path / "run")
    assert summary.setbacks == 1
    assert summary.mlflow_run_id is not None
    points = MlflowClient(uri).get_metric_history(summary.mlflow_run_id, "accuracy")
    assert sorted(point.step for point in points) == [0, 4, 8, 12, 16]
    kept = json.loads((tmp_path / "run" / "mlflow.json").read_text(encoding="utf-8"))
    assert kept["delivered"] == 5


def test_progress_makes_a_setback_forgotten() -> None:
    """Only setbacks in a row, without a version gained, count against a run."""
    setbacks = Setbacks(attempts=2)
    for version in range(10):
        setbacks.meet(Setback("gone"), version)
    setbacks.meet(Setback("gone"), 9)
    with pytest.raises(RunError, match="3 times without getting beyond version 9"):
        setbacks.meet(Setback("gone"), 4)
    assert setbacks.count == 12


def test_nodes_that_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look says what has changed since the last one, once, and not too often."""
    now = [0.0]
    monkeypatch.setattr("orchestrator.on_ray.nodes.time.monotonic", lambda: now[0])
    there = [Node("a", {}), Node("b", {})]
    looks = []

    def nodes() -> list[Node]:
        looks.append(now[0])
        return list(there)

    watch = NodeWatch(nodes)
    there[1] = Node("c", {})
    assert watch.look() is None, "it is too early"
    now[0] = 10.0
    change = watch.look()
    assert change is not None
    assert [node.name for node in change.gone] == ["b"]
    assert [node.name for node in change.come] == ["c"]
    assert [node.name for node in change.there] == ["a", "c"]
    now[0] = 20.0
    assert watch.look() is None
    assert looks == [0.0, 10.0, 20.0]


def test_a_setback_before_the_run_has_begun(
    small: Any, ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures of its duration are those of a run all the same."""
    real, left = InProcessRuntime.begin, [True]

    def begin(self: Any) -> None:
        if left:
            left.pop()
            raise Setback("the parameter server is lost")
        real(self)

    monkeypatch.setattr(InProcessRuntime, "begin", begin)
    summary, _ = in_process(small(), tmp_path / "run")
    assert (summary.setbacks, left) == (1, [])
    assert summary.digest == ran(small()).digest
    assert 0 < summary.working_seconds < summary.wall_seconds
    assert summary.startup_seconds > 0


def test_an_actor_that_goes_at_the_end_is_not_missed(
    small: Any, ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is lost while the results are read sets the run back while its log can be cut."""
    real, left = InProcessRuntime.usage, [True]

    def usage(self: Any) -> Any:
        if left:
            left.pop()
            raise Setback("a node is lost")
        return real(self)

    monkeypatch.setattr(InProcessRuntime, "usage", usage)
    request = Request(small(), tmp_path / "run", in_process=True, profile=True)
    summary = run(request, Console(file=io.StringIO()))
    assert (summary.setbacks, left) == (1, [])
    assert summary.digest == ran(small()).digest


def test_an_interrupted_run_whose_server_is_gone(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be saved any more; it says so, and how to go on from the last checkpoint."""

    def between(_: Any, engine: Any) -> None:
        if engine.state.head.number >= 5:
            raise Interrupted

    def snapshot(*_: Any) -> None:
        raise Setback("the server's node is gone")

    monkeypatch.setattr(_Run, "_between_events", between)
    monkeypatch.setattr(InProcessRuntime, "snapshot", snapshot)
    text = io.StringIO()
    with pytest.raises(Killed):
        run(Request(small(), tmp_path / "run", in_process=True), Console(file=text, width=200))
    assert (
        "the last checkpoint is what is left, for meanwhile: the server's node" in text.getvalue()
    )
    assert "go on with: latecomer run --resume" in text.getvalue()


def test_a_stop_is_not_forgotten(
    small: Any, losing: Callable[[Lose], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands are saved when they are carried out: a setback right behind one keeps it."""
    left = [8]
    losing(lambda version: bool(left) and version == left[-1] and bool(left.pop()))

    class Stopping:
        """Somebody who stops the run once, at version 7."""

        asked = False

        def poll(self, status: Any) -> list[str]:
            if not self.asked and status()["version"] >= 7:
                self.asked = True
                return ["leave 3", "stop"]
            return []

        def wait(self) -> None:
            """Never called: nobody pauses."""

    monkeypatch.setattr("orchestrator.host.InThisProcess.control", Stopping())
    experiment = small("stop.versions=100", "method.aggregation.size=1", "method.concurrency=6")
    summary, text = in_process(experiment, tmp_path / "run")
    assert summary.stopped_by == "control"
    assert summary.versions < 20
    assert ("set back" in text) == (not left)
