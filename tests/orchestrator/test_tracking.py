"""A run's figures reach MLflow, whatever MLflow does meanwhile; real servers on loopback."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from orchestrator.observe import Point
from orchestrator.tracking.tracker import Delivery, Tracker, TrackingSettings

STARTED_MS = 1_700_000_000_000
PARAMS = {
    "seed": 7,
    "method": {"aggregation": {"kind": "fedbuff", "size": 4}, "correction": None},
    "fleet": {"mix": [{"profile": "phone", "share": 0.5}, {"profile": "gateway", "share": 0.5}]},
    "sizes": [1, 2, 3],
    "long": "x" * 7000,
}


def until(done: Callable[[], Any], *, within_s: float = 60.0) -> Any:
    """Ask again until the answer is true."""
    pause = threading.Event()
    for _ in range(int(within_s / 0.05)):
        if answer := done():
            return answer
        pause.wait(0.05)
    raise AssertionError(f"not within {within_s} s")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Server:
    """An `mlflow server` with its database in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        store = f"sqlite:///{self.folder / 'server.db'}"
        artifacts = str(self.folder / "artifacts")
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", store]
        command += ["--artifacts-destination", artifacts]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )
        until(self._healthy)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def _healthy(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "server.log").read_text()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Share one server; a test that stops it starts it again."""
    running = Server(tmp_path_factory.mktemp("mlflow"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test inherit a tracking server, or leave its calm settings behind."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def tracker(out: Path, uri: str | None, *, name: str = "a run", flush_s: float = 60.0) -> Tracker:
    settings = TrackingSettings(experiment="tests", uri=uri, flush_s=flush_s)
    return Tracker(settings, out=out, run_name=name, started_ms=STARTED_MS)


def send(watched: Tracker, versions: range) -> None:
    for version in versions:
        metrics = {"accuracy": version / 100, "uplink_bytes": 1000.0 * version}
        watched.point(Point(version=version, time_s=1.5 * version, metrics=metrics))


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def steps(uri: str, delivery: Delivery, metric: str = "accuracy") -> list[int]:
    return [entry.step for entry in client(uri).get_metric_history(delivery.run_id, metric)]


@pytest.mark.slow
def test_all_of_a_run_lands(server: Server, tmp_path: Path) -> None:
    """Metrics with their virtual times, params under dotted names, tags, files, folders, status."""
    out = tmp_path / "out"
    (out / "tables").mkdir(parents=True)
    (out / "tables" / "clients.csv").write_text("client,updates\n0,3\n")
    (out / "summary.json").write_text("{}")
    watched = tracker(out, server.uri)
    watched.start(PARAMS, {"git": "abc"})
    send(watched, range(3))
    watched.tag("digest", "d1")
    watched.artifacts([out / "summary.json", out / "tables"])
    delivery = watched.finish("FINISHED")

    assert delivery == Delivery(delivered=True, pending=0, note="", run_id=watched.run_id)
    run = client(server.uri).get_run(delivery.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a run"
    assert run.info.start_time == STARTED_MS
    assert run.info.end_time > STARTED_MS
    assert run.data.params == {
        "seed": "7",
        "method.aggregation.kind": "fedbuff",
        "method.aggregation.size": "4",
        "method.correction": "null",
        "fleet.mix.0.profile": "phone",
        "fleet.mix.0.share": "0.5",
        "fleet.mix.1.profile": "gateway",
        "fleet.mix.1.share": "0.5",
        "sizes": "[1, 2, 3]",
        "long": "x" * 6000,
    }
    assert {"git": "abc", "digest": "d1"}.items() <= run.data.tags.items()
    history = client(server.uri).get_metric_history(delivery.run_id, "accuracy")
    assert [(entry.step, entry.timestamp - STARTED_MS, entry.value) for entry in history] == [
        (0, 0, 0.0),
        (1, 1500, 0.01),
        (2, 3000, 0.02),
    ]
    history = client(server.uri).get_metric_history(delivery.run_id, "virtual_seconds")
    assert [entry.value for entry in history] == [0.0, 1.5, 3.0]
    names = {entry.path for entry in client(server.uri).list_artifacts(delivery.run_id)}
    assert names == {"summary.json", "tables"}
    inside = client(server.uri).list_artifacts(delivery.run_id, "tables")
    assert [entry.path for entry in inside] == ["tables/clients.csv"]
    assert not (out / "mlflow-undelivered.json").exists()
    assert json.loads((out / "mlflow.json").read_text())["delivered"] == 3


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_same_mlflow_run(server: Server, tmp_path: Path) -> None:
    """What the checkpoint makes the engine repeat is sent once; a changed param is only a note."""
    first = tracker(tmp_path, server.uri)
    first.start({"seed": 7, "workers": 1}, {})
    send(first, range(5))
    stopped = first.finish("KILLED")
    assert client(server.uri).get_run(stopped.run_id).info.status == "KILLED"

    second = Tracker(
        TrackingSettings(experiment="tests", uri=server.uri),
        out=tmp_path,
        run_name="a run",
        started_ms=STARTED_MS + 999_999,
    )
    second.start({"seed": 7, "workers": 2, "new": 1}, {}, first_serial=3)
    until(lambda: client(server.uri).get_run(stopped.run_id).info.status == "RUNNING")
    for version in (3, 4):  # a mark that must not arrive: MLflow itself drops equal points
        second.point(Point(version=version, time_s=1.5 * version, metrics={"again": 1.0}))
    send(second, range(5, 8))
    delivery = second.finish("FINISHED")

    assert delivery.delivered
    assert delivery.run_id == stopped.run_id
    assert "MLflow refused workers" in delivery.note
    run = client(server.uri).get_run(delivery.run_id)
    assert run.data.params == {"seed": "7", "workers": "1", "new": "1"}
    assert run.info.status == "FINISHED"
    assert steps(server.uri, delivery) == list(range(8))
    assert "again" not in run.data.metrics
    history = client(server.uri).get_metric_history(delivery.run_id, "accuracy")
    assert history[-1].timestamp == STARTED_MS + 10_500


@pytest.mark.slow
def test_a_folder_that_is_behind_mlflow(server: Server, tmp_path: Path) -> None:
    """A run from a URL is as old as its checkpoint; what MLflow has got since is not sent again."""
    first = tracker(tmp_path, server.uri)
    first.start({"seed": 7}, {})
    send(first, range(3))
    until(lambda: first.run_id and first.pending == 0)
    as_kept = (tmp_path / "mlflow.json").read_bytes()
    send(first, range(3, 6))
    stopped = first.finish("KILLED")
    (tmp_path / "mlflow.json").write_bytes(as_kept)

    second = tracker(tmp_path, server.uri)
    second.start({"seed": 7}, {}, first_serial=3)
    for version in range(3, 7):  # a mark that must arrive once: MLflow itself drops equal points
        second.point(Point(version=version, time_s=1.5 * version, metrics={"again": 1.0}))
    delivery = second.finish("FINISHED")

    assert delivery == Delivery(delivered=True, pending=0, note="", run_id=stopped.run_id)
    assert steps(server.uri, delivery, "virtual_seconds") == list(range(7))
    assert steps(server.uri, delivery, "accuracy") == list(range(6)), "and no second beginning"
    assert [step for step in steps(server.uri, delivery, "again") if step] == [6]


@pytest.mark.slow
def test_many_points_and_figures_that_are_no_numbers(server: Server, tmp_path: Path) -> None:
    """Batches keep MLflow's limits, and NaN or infinity spoils none of them."""
    watched = tracker(tmp_path, server.uri)
    watched.start({f"p{i}": i for i in range(250)}, {})
    wide = {f"m{i}": float(i) for i in range(1500)} | {"loss": math.inf, "bad//name": 1.0}
    watched.point(Point(version=0, time_s=0.0, metrics=wide))
    send(watched, range(1, 1200))
    delivery = watched.finish("FINISHED")

    assert delivery.delivered
    assert "MLflow refused bad//name" in delivery.note
    run = client(server.uri).get_run(delivery.run_id)
    assert len(run.data.params) == 250
    assert len(run.data.metrics) == 1504
    assert math.isnan(run.data.metrics["loss"])
    assert steps(server.uri, delivery) == list(range(1200))  # a beginning, and all the others


@pytest.mark.slow
def test_a_server_that_goes_and_comes_back_misses_nothing(server: Server, tmp_path: Path) -> None:
    """Points that came while the server was down arrive after it is up again."""
    watched = tracker(tmp_path, server.uri)
    watched.start({"seed": 7}, {})
    send(watched, range(10))
    until(lambda: watched.run_id and watched.pending == 0)
    server.stop()
    try:
        send(watched, range(10, 20))
        kept = tmp_path / "mlflow-undelivered.json"
        until(kept.exists)  # the sender has failed at least once
        assert watched.pending == 10
    finally:
        server.start()
    until(lambda: watched.pending == 0)
    until(lambda: not kept.exists())
    send(watched, range(20, 25))
    delivery = watched.finish("FINISHED")

    assert delivery == Delivery(delivered=True, pending=0, note="", run_id=watched.run_id)
    assert steps(server.uri, delivery) == list(range(25))


@pytest.mark.slow
def test_a_server_that_was_away_gets_the_run_later(server: Server, tmp_path: Path) -> None:
    """Nothing is lost: it is kept in the folder, and the next start with it delivers it first."""
    out = tmp_path / "out"
    out.mkdir()
    away = tracker(out, f"http://127.0.0.1:{free_port()}", flush_s=0.2)
    away.start({"seed": 7}, {"git": "abc"})
    send(away, range(4))
    (out / "summary.json").write_text("{}")
    away.artifacts([out / "summary.json"])
    missed = away.finish("FINISHED")

    assert not missed.delivered
    assert missed.pending == 8  # a param, a tag, four points, an artifact, the status
    assert missed.run_id is None
    kept = json.loads((out / "mlflow-undelivered.json").read_text())
    assert "--resume" in kept["note"]
    assert [point["version"] for point in kept["points"]] == [0, 1, 2, 3]

    moved = out.rename(tmp_path / "moved")
    later = tracker(moved, server.uri)
    later.start({"seed": 7}, {}, first_serial=2)
    send(later, range(2, 6))
    delivery = later.finish("FINISHED")

    assert delivery == Delivery(delivered=True, pending=0, note="", run_id=later.run_id)
    assert steps(server.uri, delivery) == list(range(6))
    run = client(server.uri).get_run(delivery.run_id)
    assert run.data.params == {"seed": "7"}
    assert run.data.tags["git"] == "abc"
    assert [a.path for a in client(server.uri).list_artifacts(delivery.run_id)] == ["summary.json"]
    assert not (moved / "mlflow-undelivered.json").exists()


@pytest.mark.slow
def test_a_server_that_never_answers_holds_nobody(tmp_path: Path) -> None:
    """While the sender hangs in a request, calls still return, and the end waits only so long."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        watched = tracker(tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}", flush_s=0.2)
        watched.start({}, {})
        listener.settimeout(60)
        connection, _ = listener.accept()  # the sender waits for an answer from here on
        send(watched, range(1000))
        watched.tag("digest", "d1")
        assert watched.pending == 1001
        missed = watched.finish("KILLED")
        sender = watched._thread
        assert sender is not None
        assert sender.is_alive()  # it is the network that it waits for, and we did not
        connection.close()
    sender.join(30)
    assert not sender.is_alive()
    assert missed.pending == 1002
    assert len(json.loads((tmp_path / "mlflow-undelivered.json").read_text())["points"]) == 1000


@pytest.mark.slow
def test_the_default_is_a_database_in_the_working_folder(tmp_path: Path) -> None:
    """Two processes at once make mlflow.db, keep its artifacts beside it, and print nothing."""
    program = """
import sys
from pathlib import Path
from orchestrator.observe import Point
from orchestrator.tracking.tracker import Tracker, TrackingSettings
out = Path(sys.argv[1])
watched = Tracker(TrackingSettings(), out=out, run_name=out.name, started_ms=1000)
assert "mlflow" not in sys.modules
watched.start({"seed": 7}, {})
watched.point(Point(version=0, time_s=0.0, metrics={"accuracy": 0.1}))
out.mkdir(exist_ok=True)
(out / "summary.json").write_text("{}")
watched.artifacts([out / "summary.json"])
delivery = watched.finish("FINISHED", wait_s=100)
assert delivery.delivered, delivery
assert not delivery.note, delivery
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, name],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for name in ("one", "two")
    ]
    said = [process.communicate(timeout=120)[0].decode() for process in processes]
    assert said == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        runs = store.execute(
            "SELECT r.name, r.status, e.name FROM runs r JOIN experiments e USING (experiment_id)"
        )
        assert sorted(runs) == [
            ("one", "FINISHED", "latecomer"),
            ("two", "FINISHED", "latecomer"),
        ]
    found = sorted(path.name for path in (tmp_path / "mlartifacts").rglob("*.json"))
    assert found == ["summary.json", "summary.json"]


@pytest.mark.slow
def test_an_import_that_failed_once_is_tried_again(tmp_path: Path) -> None:
    """MLflow's modules import each other: half of them left behind would fail for good."""
    program = """
import sys
from pathlib import Path
from orchestrator.observe import Point
from orchestrator.tracking.tracker import Tracker, TrackingSettings

class FailOnce:
    left = ["mlflow.telemetry", "mlflow.entities.webhook"]
    def find_spec(self, name, path=None, target=None):
        if name in self.left:
            self.left.remove(name)
            raise ImportError(f"no {name} for now")

sys.meta_path.insert(0, FailOnce())
watched = Tracker(TrackingSettings(), out=Path("run"), run_name="run", started_ms=1000)
watched.start({"seed": 7}, {})
watched.point(Point(version=0, time_s=0.0, metrics={"accuracy": 0.1}))
delivery = watched.finish("FINISHED", wait_s=100)
assert delivery.delivered and not delivery.note, delivery
assert not FailOnce.left
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_tracking_can_be_off(tmp_path: Path) -> None:
    """Nothing is started, kept or written."""
    watched = Tracker(
        TrackingSettings(enabled=False), out=tmp_path, run_name="off", started_ms=STARTED_MS
    )
    watched.start(PARAMS, {})
    send(watched, range(3))
    watched.tag("digest", "d1")
    watched.artifacts([tmp_path])
    assert watched.pending == 0
    assert watched.finish("FINISHED") == Delivery(delivered=True, pending=0, note="", run_id=None)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_is_a_note(tmp_path: Path) -> None:
    """A torn mlflow.json costs the connection to the old run, not the new one."""
    (tmp_path / "mlflow.json").write_text('{"key": "abc", "star')
    watched = tracker(tmp_path, "http://127.0.0.1:1")
    watched._recall(0)
    send(watched, range(2))
    assert watched.pending == 2
    assert "mlflow.json cannot be read" in watched._notes[0]


def test_points_lost_with_a_killed_process_are_said(tmp_path: Path) -> None:
    """What only the killed process knew cannot come back: the gap is named."""
    kept = {"key": "abc", "started_ms": STARTED_MS, "run_id": "r1", "delivered": 5}
    (tmp_path / "mlflow.json").write_text(json.dumps(kept))
    for there, gone in (({0, 4}, "5 to 7"), (set(range(7)), "7 to 7"), (set(range(8)), "")):
        watched = tracker(tmp_path, "http://127.0.0.1:1")
        watched._recall(8)
        watched._catch_up(there, set())
        watched._catch_up(there, set())  # as when MLflow was away for a while
        assert watched._notes == [f"points {gone} were lost with a killed run"] * bool(gone)
        assert watched.run_id == "r1"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")  # MLflow's own hints
def test_models_reach_a_server(
    server: Server, small: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run's models go there by HTTP, come back, and are as good."""
    from mlflow import pyfunc, set_tracking_uri
    from rich.console import Console

    from orchestrator.api import run

    experiment = small(f"tracking={{uri: '{server.uri}', flush_s: 100}}")
    found = run(experiment, out=tmp_path / "r", in_process=True, console=Console(quiet=True))
    made = client(server.uri).get_run(found.summary.mlflow_run_id)
    assert len(made.outputs.model_outputs) == 2
    monkeypatch.chdir(tmp_path)
    set_tracking_uri(server.uri)
    model = pyfunc.load_model(f"models:/{made.outputs.model_outputs[0].model_id}")
    set_tracking_uri(None)
    data = experiment.data.load()
    right = model.predict(data.normalise(data.x_test)).argmax(1) == data.y_test
    assert right.mean() in (found.summary.final_accuracy, found.summary.best_accuracy)
