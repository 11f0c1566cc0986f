"""What tests share: a small experiment, and what it takes to run one."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("latecomer", deadline=None)  # a busy machine is no failure
settings.load_profile("latecomer")
sys.path.append(str(Path(__file__).with_name("nets")))  # models that experiments of tests name
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

SMALL = """
name: small
seed: 7
data: {source: digits, train_examples: 240, partition: {kind: dirichlet, alpha: 0.5}}
model: {kind: logistic}
fleet:
  clients: 6
  mix: [{profile: flagship-phone}, {profile: budget-phone, share: 2}]
  jitter: {kind: lognormal, sigma: 0.5}
method:
  concurrency: 4
  training: {kind: sgd, lr: 0.1}
  uplink: {kind: top-k, density: 0.1}
  aggregation: {kind: fedbuff, size: 3}
stop: {versions: 12}
evaluate: {every_versions: 4}
checkpoint: {every_s: 3600}
tracking: {enabled: false}
"""


@dataclass
class Ran:
    """A run in this process, with all that tests look at."""

    engine: Any
    rows: list[dict[str, Any]]
    digest: str

    @property
    def state(self) -> Any:
        """What the run has come to."""
        return self.engine.state

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of a kind."""
        return [row for row in self.rows if row["kind"] == kind]


@pytest.fixture(scope="session")
def small() -> Callable[..., Any]:
    """Return a maker of small experiments; keyword arguments are dotted, with __ for dots."""
    from orchestrator.document import Document
    from orchestrator.experiment import CHECKS, Experiment

    def make(*assignments: str) -> Experiment:
        document = Document.parse(SMALL, "small.yaml")
        document.override(assignments, Experiment)
        return document.validate(Experiment, CHECKS)

    return make


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Any]:
    """Return a maker of engines that run in this process."""
    from actors.learning.holdings import hold
    from orchestrator.cells import Cells
    from orchestrator.clock import VirtualClock, WallClock
    from orchestrator.engine import Engine
    from orchestrator.fleet import Fleet
    from orchestrator.in_process import InProcessRuntime
    from orchestrator.log import EVENTS_SCHEMA, Log
    from orchestrator.plan import Plan
    from orchestrator.told import Told

    counter = iter(range(10**6))

    def make(
        experiment: Any, *, begin_s: float = 0.0, folder: Path | None = None, **more: Any
    ) -> Any:
        holdings = hold(experiment.data, experiment.fleet.clients, experiment.seed)
        told = Told(holdings)
        wall = experiment.wall
        clock = (
            VirtualClock(begin_s)
            if experiment.clock == "virtual"
            else WallClock(wall.time_scale, begin_s)
        )
        fleet = Fleet.draw(experiment.fleet, experiment.seed)
        return Engine(
            Plan.of(experiment, told.shape, told.sizes),
            fleet,
            InProcessRuntime(experiment.work(timed=True), holdings, Cells.of(fleet)),
            clock,
            Log(folder or tmp_path / f"log-{next(counter)}", "events", EVENTS_SCHEMA),
            **more,
        )

    return make


@pytest.fixture
def ended() -> Callable[[Any], Ran]:
    """Return what turns an engine that has run into rows and a digest."""
    from actors.server import whole_model
    from orchestrator.log import digest

    def close(engine: Any) -> Ran:
        table = engine.events.merge()
        versions = engine.state.versions
        message = engine.runtime.fetch(versions.handle(versions.newest))
        return Ran(engine, table.to_pylist(), digest(table, whole_model(message, engine.schema)))

    return close


@pytest.fixture
def ran(build: Callable[..., Any], ended: Callable[[Any], Ran]) -> Callable[..., Ran]:
    """Return what runs an experiment in this process, from beginning to end."""

    def go(experiment: Any, **more: Any) -> Ran:
        engine = build(experiment, **more)
        engine.begin()
        engine.run()
        return ended(engine)

    return go


@pytest.fixture
def saving(monkeypatch: pytest.MonkeyPatch) -> str:
    """Have runs save at every tenth event, whatever the clock says; return the setting for it."""
    from orchestrator.run import _Run

    real, looks = _Run._between_events, count(1)

    def between(self: Any, engine: Any) -> None:
        if next(looks) % 10 == 0:
            real(self, engine)
        else:
            self._signals.check()

    monkeypatch.setattr("orchestrator.run.SAVE_SHARE", 0)
    monkeypatch.setattr(_Run, "_between_events", between)
    return "checkpoint.every_s=1e-9"


@dataclass
class Head:
    """A Ray of the tests' own, as `ray start --head` makes one.

    Attributes:
        address: For `--address`.
        dashboard: For `ray job submit`.
        env: What its clients must have in their environment.
    """

    address: str
    dashboard: str
    env: dict[str, str]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Turn token authentication on for every Ray of this process, which reads it but once."""
    token = tmp_path_factory.mktemp("ray-token") / "token"
    token.write_text(secrets.token_hex(32), encoding="ascii")
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    os.environ.update(env)
    os.environ.pop("RAY_ADDRESS", None)
    return env


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory, tokens: dict[str, str]) -> Iterator[Head]:
    """Start a head with 2 CPUs and token authentication; end it by its own process."""
    port, dashboard = free_port(), free_port()
    ray = Path(sys.executable).with_name("ray")
    command = [
        str(ray), "start", "--head", "--block", "--num-cpus=2", f"--port={port}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={free_port()}",  # another Ray may be here
        "--node-ip-address=127.0.0.1", "--disable-usage-stats",
    ]  # fmt: skip
    log = (tmp_path_factory.mktemp("ray-head") / "log").open("w+", encoding="utf-8")
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "PATH": _path()}
    )
    try:
        _wait_for_port(dashboard, process, log)
        yield Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", tokens)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _path() -> str:
    """Return a PATH on which the entrypoint of a job finds this environment's python."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Any) -> None:
    pause = threading.Event()
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        pause.wait(0.1)
    log.seek(0)
    pytest.fail(f"ray start did not come up:\n{log.read()}")
