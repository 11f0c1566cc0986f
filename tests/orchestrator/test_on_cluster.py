"""What if an actor that holds the model, or a node, goes in mid-run? One digest."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from orchestrator.document import to_yaml
from orchestrator.request import Request
from orchestrator.run import _Run, run

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own sockets
]

LONG = ("stop.versions=100", "checkpoint.every_s=0.5", "hosting=pooled")
ALONE = (
    *LONG[:2],
    *("hosting=dedicated", "fleet.clients=3", "method.concurrency=3"),
    "fleet.mix=[{profile: budget-phone, resources: {num_cpus: 1}}]",
)
DRILLS = {
    "moves": LONG,
    "grows": LONG,
    "waits": (*ALONE, "limits.nodes_s=60"),
    "never": (*ALONE, "limits.nodes_s=1"),
}
ENTRY = "{profile: workstation, resources: {num_cpus: 0.5, custom: {NAME: 1}}}"
REGION = "NAME: {cell: {resources: {custom: {NAME: 0.01}}}}"


def named(text: str) -> str:
    """Return a list's text with an entry for each node that has a name."""
    return ", ".join(text.replace("NAME", name) for name in ("north", "south"))


WARDS = """
from pathlib import Path

import numpy as np
import ray


def examples(name):
    node = ray.get_runtime_context().get_node_id()
    (Path(__file__).parent / f"node-of-{name}").write_text(node)
    y = np.arange(40) % 2
    x = np.random.default_rng(len(name)).normal(size=(40, 5)).astype("float32")
    return {"x_train": x[:30], "y_train": y[:30], "x_test": x[30:], "y_test": y[30:]}
"""
WARD_DATA = "source: silos, call: 'wards_on_ray:examples', clients: [north, south]"
SILOS = (
    f"data={{{WARD_DATA}, input: [5], classes: 2}}",
    *("fleet.clients=2", "fleet.order=listed", f"fleet.mix=[{named(ENTRY)}]"),
    *("method.concurrency=2", "method.aggregation.size=2", "stop.versions=2"),
    "evaluate.kind=federated",
)
CELLS = (f"fleet.regions={{{named(REGION)}}}", "hosting=pooled")
When = Callable[[Any], None]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, When], list[int]]:
    """Return what has something happen once a version is there; the list gets the version."""

    def plan(version: int, act: When) -> list[int]:
        real, happened = _Run._between_events, list[int]()

        def between(self: Any, engine: Any) -> None:
            real(self, engine)
            head = engine.state.head.number
            if head >= version and not happened:
                happened.append(head)
                act(engine.runtime)

        monkeypatch.setattr(_Run, "_between_events", between)
        return happened

    return plan


def go(experiment: Any, out: Path, address: str) -> tuple[Any, list[dict[str, Any]], str]:
    """Run; return the summary, the ops log and what was printed."""
    text = io.StringIO()
    request = Request(experiment, out, address=address, workers=1)
    summary = run(request, Console(file=text, width=200))
    return summary, pq.read_table(out / "ops.parquet").to_pylist(), text.getvalue()


def end(name: str) -> When:
    """Return what kills the process of an actor, once that is there."""

    def kill(runtime: Any) -> None:
        while name not in runtime._processes:
            runtime.turn()
        os.kill(runtime._processes[name].pid, signal.SIGKILL)

    return kill


def test_the_server_is_killed(small: Any, ran: Any, head: Any, at: Any, tmp_path: Path) -> None:
    """The run goes back to the server's last checkpoint and on, to the same digest."""
    experiment = small(*LONG)
    fired = at(60, end("parameter server"))
    summary, ops, text = go(experiment, tmp_path / "run", head.address)
    assert fired
    assert summary.digest == ran(experiment).digest
    assert summary.setbacks == 1
    assert "the parameter server is lost" in text
    kinds = [row["kind"] for row in ops if row["kind"] in {"set_back", "gone_on"}]
    assert kinds == ["set_back", "gone_on"]


def test_the_evaluator_is_killed(small: Any, ran: Any, head: Any, at: Any, tmp_path: Path) -> None:
    """It costs nothing but its start."""
    experiment = small(*LONG)
    fired = at(60, end("evaluator"))
    summary, _, _ = go(experiment, tmp_path / "run", head.address)
    assert fired
    assert summary.digest == ran(experiment).digest
    assert summary.setbacks == 0


@pytest.fixture(scope="module")
def drilled(small: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Run all drills on three nodes, in a process of their own."""
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "wards_on_ray.py").write_text(WARDS, encoding="utf-8")
    sys.path.append(str(folder))
    try:
        silos = small(*SILOS)
    finally:
        sys.path.remove(str(folder))
    (folder / "silos.yaml").write_text(to_yaml(silos), encoding="utf-8")
    for name, settings in {**DRILLS, "cells": CELLS}.items():
        (folder / f"{name}.yaml").write_text(to_yaml(small(*settings)), encoding="utf-8")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    log = folder / "log"
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nodes_drill.py")), str(folder)],
            cwd=folder, env=clean, stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(280)
        finally:  # no node is left behind, whatever has happened
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, log.read_text(encoding="utf-8")[-4000:]
    found: dict[str, Any] = json.loads((folder / "drills.json").read_text(encoding="utf-8"))
    assert all(drill["happened"] for drill in found["drills"].values())
    return folder, found


def test_a_silo_is_read_on_the_node_that_its_resources_name(drilled: Any) -> None:
    """Of three nodes two have data: each function is called on its own."""
    folder, found = drilled
    for name, node in found["named"].items():
        assert (folder / f"node-of-{name}").read_text(encoding="utf-8") == node


def test_cells_stay_on_their_nodes(small: Any, ran: Any, drilled: Any) -> None:
    """Of three nodes two have a cell each: one pooled actor trains for each, and no other."""
    folder, _ = drilled
    reference = ran(small(*CELLS))
    out = folder / "runs" / "cells"
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["digest"] == reference.digest
    ops = pq.read_table(out / "ops.parquet").to_pylist()
    fleet = reference.engine.fleet
    trained = {(fleet.region_of(r["client"]), r["actor"]) for r in ops if r["kind"] == "trained"}
    assert trained == {("north", "worker-0"), ("south", "worker-1")}


def test_a_node_goes_and_another_comes(small: Any, ran: Any, drilled: Any) -> None:
    """Clients move to the nodes that are there; the log names both; the digest is the same."""
    folder, found = drilled
    moved = found["drills"]["moves"]
    assert moved["digest"] == ran(small(*DRILLS["moves"])).digest
    ops = pq.read_table(folder / "runs" / "moves" / "ops.parquet").to_pylist()
    for kind, node in {"node_lost": moved["lost"], "node_added": moved["added"]}.items():
        assert [node[:6] in row["node"] for row in ops if row["kind"] == kind] == [True]


def test_a_pool_grows_with_the_cluster(small: Any, ran: Any, drilled: Any) -> None:
    """Another node brings another actor; who trains where does not matter."""
    folder, found = drilled
    assert found["drills"]["grows"]["digest"] == ran(small(*DRILLS["grows"])).digest
    ops = pq.read_table(folder / "runs" / "grows" / "ops.parquet").to_pylist()
    assert [row["kind"] for row in ops].count("node_added") == 1
    assert "worker-3" in {row["actor"] for row in ops if row["kind"] == "actor_started"}
    assert found["drills"]["grows"]["setbacks"] == 0


def test_a_fleet_that_fits_no_more_waits_for_a_node(small: Any, ran: Any, drilled: Any) -> None:
    """With `hosting: dedicated` it says so and waits, with a deadline, and then goes on."""
    _, found = drilled
    waited = found["drills"]["waits"]
    assert waited["digest"] == ran(small(*DRILLS["waits"])).digest
    assert waited["setbacks"] >= 1
    assert "waiting up to 60 s for nodes" in waited["said"]
    assert "3 client actors ask for 1 CPU each, and 1 of them finds no room" in waited["said"]


def test_a_node_that_never_comes(drilled: Any) -> None:
    """After its deadline the run ends with what it waited for, and can be resumed."""
    folder, found = drilled
    error = found["drills"]["never"]["error"]
    assert error.startswith("waited 1 s for nodes, in vain")
    assert "1 of them finds no room" in error
    assert list((folder / "runs" / "never" / "checkpoint").glob("0*"))
    assert not (folder / "runs" / "never" / "summary.json").exists()
