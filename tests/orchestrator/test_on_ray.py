"""One digest, whatever the hosting, the workers and the faults; and how runs are reached."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from orchestrator.engine import Interrupted
from orchestrator.handed import pieces
from orchestrator.run import Killed, _Run

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own sockets
]

FEW = ("hosting=dedicated", "fleet.clients=3", "method.concurrency=3")
"""A fleet that is quickly started, an actor each."""
NETS = Path(__file__).resolve().parent.parent / "nets"
RUN = [sys.executable, "-m", "orchestrator"]


def on_ray(experiment: Any, out: Path, address: str, **more: Any) -> Any:
    """Run on a given Ray; return the summary and the ops log."""
    from orchestrator.request import Request
    from orchestrator.run import run

    summary = run(Request(experiment, out, address=address, **more), Console(file=io.StringIO()))
    return summary, pq.read_table(out / "ops.parquet").to_pylist()


@pytest.fixture
def reference(small: Any, ran: Any) -> str:
    """The digest of the small experiment in one process."""
    return str(ran(small()).digest)


def test_pooled(
    small: Any, reference: str, head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actors that host many clients give the in-process digest; no evaluator delays their start."""
    from orchestrator.on_ray.runtime import RayRuntime

    begin, early = RayRuntime.begin, []

    def begins(self: Any) -> None:
        early.append(self._evaluator is not None)
        begin(self)
        early.append(self._evaluator is not None)

    monkeypatch.setattr(RayRuntime, "begin", begins)
    workers = 2  # other tests take one
    summary, ops = on_ray(
        small("hosting=pooled"), tmp_path / "run", head.address, workers=workers, profile=True
    )
    assert summary.digest == reference
    assert (summary.hosting, summary.client_actors) == ("pooled", workers)
    assert early == [False, True]
    started = {row["actor"] for row in ops if row["kind"] == "actor_started"}
    assert started <= {f"worker-{index}" for index in range(workers)}  # the run may end first
    assert started
    used = {(row["actor"], row["detail"]) for row in ops if row["kind"] == "used"}
    assert {("engine", "send work"), ("parameter server", "make versions")} <= used
    assert {(actor, "train") for actor in started} & used
    assert summary.peak_pss_bytes > 10**8


@pytest.mark.parametrize(
    ("limit", "used"),
    [
        ("", {"train", "admit", "commit"}),
        ("runtime.MOST_BYTES", set()),
        ("lanes.MOST_KEPT", {"train", "admit", "commit"}),
    ],
    ids=["lanes", "a large model", "many states"],
)
def test_lanes_change_no_bit(
    limit: str,
    used: set[str],
    small: Any,
    ran: Any,
    head: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What goes through lanes, and what of it must not, gives the same digest."""
    from actors.lane import Lane

    experiment = small("method.uplink={kind: top-k, density: 0.1}", "hosting=pooled")
    real, calls = Lane.call, set[str]()

    def call(self: Lane, what: str, *arguments: Any, **more: Any) -> Any:
        calls.add(what)
        return real(self, what, *arguments, **more)

    monkeypatch.setattr(Lane, "call", call)
    if limit:
        monkeypatch.setattr(f"orchestrator.on_ray.{limit}", 0)
    summary, _ = on_ray(experiment, tmp_path / "run", head.address, workers=1)
    assert summary.digest == ran(experiment).digest
    assert calls == used


def test_dedicated(small: Any, ran: Any, head: Any, tmp_path: Path) -> None:
    """One actor a client gives the same digest."""
    experiment = small(*FEW)
    summary, ops = on_ray(experiment, tmp_path / "run", head.address)
    assert summary.digest == ran(experiment).digest
    assert (summary.hosting, summary.client_actors) == ("dedicated", 3)
    trained = {(row["client"], row["actor"]) for row in ops if row["kind"] == "trained"}
    assert all(actor == f"client-{client}" for client, actor in trained)


OWN = "method.correction={kind: distillation, proxy: client, ramp: 6, steps: 3, batch: 32}"


def test_dedicated_clients_correct_their_own(
    small: Any, ran: Any, head: Any, tmp_path: Path
) -> None:
    """One actor a client learns from the version that it is handed with its job, also again."""
    alone = ran(small(*FEW, OWN))
    fetched = {(row["client"], row["number"]) for row in alone.of("fetched")}
    client, number = min(fetched)
    fault = f"faults=[{{fault: crash, client: {client}, number: {number}}}]"
    experiment = small(*FEW, OWN, fault)
    summary, ops = on_ray(experiment, tmp_path / "run", head.address)
    assert summary.digest == alone.digest
    assert {row["client"] for row in ops if row["kind"] == "resent"} == {client}


@pytest.mark.parametrize(
    ("tail", "hosting"),
    [("shared", ("hosting=pooled",)), ("personal", ("hosting=pooled",)), ("personal", FEW)],
    ids=["shared, pooled", "personal, pooled", "personal, dedicated"],
)
def test_split_models(
    tail: str,
    hosting: tuple[str, ...],
    small: Any,
    head: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An encoder that dies in the midst of a pass, and a client between two of its parts.

    Personal tails come to the evaluator from where clients' states lie, and are in the digest.
    """
    import ray

    from orchestrator.on_ray.runtime import RayRuntime

    settings = (
        'model={kind: "split_nets:Parts", width: 14}',
        f"topology={{kind: split, rate: 0.05, tail: {tail}}}",
        "method.uplink.kind=dense",
        "method.training={kind: sgd, lr: 0.1, steps: 3}",
        "stop.versions=5",
        *hosting,
    )
    real, killed = RayRuntime.compute, []

    def compute(self: Any, asked: Any, buffers: Any, replica: int) -> Any:
        pending = real(self, asked, buffers, replica)
        if asked.number in (3, 11):
            ray.kill(self._encoders[replica], no_restart=False)
            killed.append(asked.number)
        return pending

    monkeypatch.setattr(RayRuntime, "compute", compute)
    crash = "faults=[{fault: crash, client: 2, number: 0}]"
    more = {"paths": (str(NETS),)}
    experiment = small(*settings, crash)
    summary, ops = on_ray(experiment, tmp_path / "ray", head.address, **more)
    alone, _ = on_ray(small(*settings), tmp_path / "alone", "", in_process=True, **more)
    assert killed == [3, 11]
    assert {row["client"] for row in ops if row["kind"] == "resent"} >= {2}
    assert summary.digest == alone.digest
    assert summary.activation_uplink_bytes == alone.activation_uplink_bytes > 0
    assert {"encoder 0"} <= {row["actor"] for row in ops if row["kind"] == "memory"}


def test_split_models_that_run_on_the_devices(small: Any, head: Any, tmp_path: Path) -> None:
    """Devices that compute their features, some of them with smaller batches, and one that dies."""
    settings = (
        'model={kind: "split_nets:Parts", width: 14, head: frozen, body: frozen}',
        "topology={kind: split, cut: auto, flops: 1e6}",
        (
            "fleet.profiles={strong: {flops: 1e12, memory_bytes: 13 kB, compute_watts: 2, "
            "radio_watts: 1, uplink: 10 kbit/s, downlink: 10 kbit/s, latency_s: 0.05}, "
            "weak: {flops: 1e5, memory_bytes: 1 GB, compute_watts: 2, radio_watts: 1, "
            "uplink: 1 Gbit/s, downlink: 1 Gbit/s, latency_s: 0.0001}}"
        ),
        "fleet.mix=[{profile: strong}, {profile: weak}]",
        "method.uplink.kind=dense",
        "method.workload={kind: equal, least_batch: 2}",
        "stop.versions=8",
    )
    more = {"paths": (str(NETS),)}
    crash = "faults=[{fault: crash, client: 2, number: 0}]"
    experiment = small(*settings, crash, "hosting=pooled")
    summary, ops = on_ray(experiment, tmp_path / "ray", head.address, workers=1, **more)
    alone, _ = on_ray(small(*settings), tmp_path / "alone", "", in_process=True, **more)
    assert {row["client"] for row in ops if row["kind"] == "resent"} >= {2}
    assert summary.digest == alone.digest
    events = pq.read_table(tmp_path / "ray" / "events.parquet").to_pylist()
    told = {row["detail"] or "" for row in events}
    assert "all of the encoder" in told
    assert any(text.startswith("batches of ") for text in told)


CELLS = "fleet.regions={near: {cell: {}}, far: {share: 2, cell: {uplink: 1e6, latency_s: 0.1}}}"


@pytest.mark.parametrize(
    "method",
    [
        (
            "method.uplink={kind: packed, content: delta}",
            "method.pruning={kind: fedmap, density: 0.2, every: 2}",
            "method.downlink={kind: difference, ring: 20 kB}",
        ),
        (
            "method.uplink={kind: signs, density: auto}",
            "method.aggregation={kind: majority-vote, voters: 4, size: 3}",
            "method.downlink={kind: difference}",
        ),
        (
            "method.training={kind: sparsyfed, lr: 0.3}",
            "method.uplink={kind: sparse-weights, density: 0.1}",
            "method.aggregation={kind: fedavg, clients_per_round: 3}",
            "method.downlink={kind: sparse}",
        ),
        (
            "data={source: digits, train_examples: 240, holdout: 200}",
            "method.correction={kind: step-distillation, steps: 3, ramp: 10}",
            CELLS,
        ),
        (OWN, "method.downlink={kind: difference}"),
    ],
    ids=["fedmap", "signs", "sparsyfed", "corrected", "own"],
)
def test_sparse_methods(
    method: tuple[str, ...], small: Any, ran: Any, head: Any, tmp_path: Path
) -> None:
    """Masks, sign memory and what clients are sent are the same on Ray, server ahead or not."""
    alone = ran(small(*method))
    experiment = small("hosting=pooled", *method)
    cells = 2 if CELLS in method else 1  # each has an actor of its own
    summary, _ = on_ray(experiment, tmp_path / "run", head.address, workers=cells)
    assert summary.digest == alone.digest
    assert 0 < summary.downlink_entropy_bytes <= summary.downlink_bytes


LARGE = (
    "model={kind: mlp, hidden: [57400]}",  # 4.3 million parameters
    "method.uplink={kind: top-k, density: 0.001}",
    "method.aggregation.kind=fedasync",
    "stop.versions=14",
    "evaluate.every_versions=2",
)


@pytest.mark.parametrize("shards", [1, 4])
def test_large_models(
    shards: int, small: Any, ran: Any, head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Actors put versions together, also one that was started again.

    From what has changed, or from the parts that several servers hold.
    """
    with monkeypatch.context() as patch:
        patch.setattr("actors.changes.LEAST_PARAMETERS", 1 << 32)
        alone = ran(small(*LARGE))
    seen: list[int] = []

    def counted(version: Any) -> list[Any]:
        found = pieces(version)
        seen.append(len(found))
        return found

    monkeypatch.setattr("orchestrator.handed.pieces", counted)
    fault = "faults=[{fault: crash, client: 1, number: 1}]"
    experiment = small("hosting=pooled", *LARGE, fault, f"server.shards={shards}")
    summary, ops = on_ray(experiment, tmp_path / "run", head.address, workers=2)
    assert summary.digest == alone.digest
    assert max(seen) > 2 if shards == 1 else set(seen) == {1, 4}  # version 0 is whole
    servers = {row["actor"] for row in ops if "server" in (row["actor"] or "")}
    assert len(servers) == shards
    assert "resent" in {row["kind"] for row in ops}


def test_shards_resume(
    small: Any, ran: Any, head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose model several servers hold is cut, and goes on with as many, then with one."""
    settings = (*LARGE, "stop.versions=8", "hosting=pooled")
    looks = iter(range(10**6))

    def cut(_: Any, engine: Any) -> None:
        if next(looks) % 25 == 24 and engine.state.head.number:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_between_events", cut)
        for resume in (False, True):
            with pytest.raises(Killed):
                on_ray(
                    small(*settings, "server.shards=3"),
                    tmp_path / "run",
                    head.address,
                    workers=1,
                    resume=resume,
                )
    again, _ = on_ray(small(*settings), tmp_path / "run", head.address, workers=1, resume=True)
    assert again.digest == ran(small(*settings)).digest


SILOS = """
import os
from pathlib import Path

import numpy as np


def examples(name):
    (Path(__file__).parent / f"{name}-{os.getpid()}").touch()
    rng = np.random.default_rng(len(name))
    y = np.arange(40 + len(name)) % 2
    x = rng.normal(size=(len(y), 5)).astype("float32") + 2 * y[:, None].astype("float32")
    return {"x_train": x[:30], "y_train": y[:30], "x_test": x[30:], "y_test": y[30:]}
"""


def test_silos(head: Any, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each silo is loaded in its own actor, again after a crash, and never in the driver's."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "silos_on_ray.py").write_text(SILOS, encoding="utf-8")
    data = "data={source: silos, call: 'silos_on_ray:examples', clients: [a, bb, ccc], "
    settings = (
        data + "input: [5], classes: 2}",
        "fleet.clients=3",
        "method.concurrency=3",
        "evaluate={kind: federated, every_versions: 4}",
    )
    more = {"paths": (str(tmp_path),)}
    crash = "faults=[{fault: crash, client: 1, number: 1}]"
    summary, ops = on_ray(small(*settings, crash), tmp_path / "ray", head.address, **more)
    loaded = sorted(file.name for file in tmp_path.glob("*-*"))
    assert [name.partition("-")[0] for name in loaded] == ["a", "bb", "bb", "ccc"]
    pids = {name.partition("-")[2] for name in loaded}
    assert len(pids) == 4
    assert str(os.getpid()) not in pids
    joined = [row["detail"] for row in ops if row["kind"] == "joined"]
    assert joined == ["a: 30 and 11 examples", "bb: 30 and 12 examples", "ccc: 30 and 13 examples"]
    actors = {row["actor"] for row in ops if row["kind"] == "memory"}
    assert {"driver", "client-0", "client-1", "client-2", "evaluator"} <= actors
    alone, _ = on_ray(small(*settings), tmp_path / "alone", "", in_process=True, **more)
    assert alone.digest == summary.digest
    assert summary.hosting == "dedicated"


@pytest.mark.parametrize("hosting", [("hosting=pooled",), FEW], ids=["pooled", "dedicated"])
def test_cells(hosting: tuple[str, ...], small: Any, ran: Any, head: Any, tmp_path: Path) -> None:
    """Sums of aggregators give the in-process digest, also when a client's actor dies."""
    settings = small(CELLS, *hosting, "faults=[{fault: crash, client: 1}]")
    summary, ops = on_ray(settings, tmp_path / "run", head.address, profile=True)
    reference = ran(small(CELLS, *hosting))
    assert summary.digest == reference.digest
    ledger = reference.state.ledger
    assert summary.backhaul_uplink_bytes == ledger.backhaul_uplink_bytes > 0
    used = {(row["actor"], row["detail"]) for row in ops if row["kind"] == "used"}
    assert {("cell 0", "sum updates"), ("cell 1", "read payloads")} <= used
    assert ("parameter server", "read payloads") not in used
    assert "resent" in {row["kind"] for row in ops}


@pytest.mark.parametrize("hosting", [("hosting=pooled",), FEW], ids=["pooled", "dedicated"])
def test_crash(hosting: tuple[str, ...], small: Any, ran: Any, head: Any, tmp_path: Path) -> None:
    """An actor killed in mid-training is replaced, its updates sent again: the same digest.

    So it is when a payload is delivered twice, which counts once.
    """
    crashes = "{fault: crash, client: 1}, {fault: crash, client: 2}"
    doubles = "{fault: duplicate, client: 0}, {fault: duplicate, client: 1, number: 1}"
    experiment = small(*hosting, f"faults=[{crashes}, {doubles}]")
    summary, ops = on_ray(experiment, tmp_path / "run", head.address)
    assert summary.digest == ran(small(*hosting)).digest
    lost = [row for row in ops if row["kind"] == "actor_lost"]
    assert len(lost) == 2, "both faults fired"
    seen = {
        kind: {(row["client"], row["number"]) for row in ops if row["kind"] == kind}
        for kind in ("resent", "duplicate")
    }
    assert {(1, 0), (2, 0)} <= seen["resent"]
    assert {(0, 0), (1, 1)} == seen["duplicate"]


def test_grouping_does_not_touch_planned_faults(
    small: Any, ran: Any, head: Any, tmp_path: Path
) -> None:
    """A crash in a group takes neither its neighbours' faults nor their tries with it."""
    bad = "{fault: garbage, client: 0}, {fault: garbage, client: 2}, {fault: not-finite, client: 4}"
    wide = ("method.concurrency=6", "hosting=pooled", "limits.attempts=2")
    reference = ran(small(f"faults=[{bad}]", *wide))
    assert reference.state.ledger.rejected == 3
    experiment = small(f"faults=[{bad}, {{fault: crash, client: 1}}]", *wide)
    summary, ops = on_ray(experiment, tmp_path / "run", head.address, workers=1)
    assert [row["kind"] for row in ops].count("actor_lost") == 1
    assert (summary.rejected_updates, summary.lost_updates) == (3, 0)
    assert summary.digest == reference.digest


def test_hang(small: Any, ran: Any, head: Any, tmp_path: Path) -> None:
    """An actor that hangs past its deadline is killed and replaced: the same digest."""
    experiment = small(*FEW, "faults=[{fault: hang, client: 2}]", "limits.train_s=5")
    summary, ops = on_ray(experiment, tmp_path / "run", head.address)
    assert summary.digest == ran(small(*FEW)).digest
    (deadline,) = [row for row in ops if row["kind"] == "deadline"]
    assert (deadline["client"], deadline["number"]) == (2, 0)
    (lost,) = [row for row in ops if row["kind"] == "actor_lost"]
    assert lost["detail"].startswith("deadline")


DEADLY = '''
import os

from policies.training import Sgd


class Deadly(Sgd):
    """Dies on one client's shard, whatever is done."""

    kind: str = "deadly:Deadly"
    size: int

    def train(self, model, x, y, task):
        if len(y) == self.size:
            os._exit(1)
        return super().train(model, x, y, task)
'''


def test_an_update_that_always_dies_is_lost(
    small: Any, head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its last try an update is counted as lost, and the run goes on without it."""
    from policies.types import stream

    (tmp_path / "deadly.py").write_text(DEADLY, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    labels = small().data.load().y_train
    parts = small().data.partition.split(labels, 6, stream(7, "partition"))
    sizes = [len(part) for part in parts]
    deadly = max(range(6), key=lambda c: (sizes.count(sizes[c]) == 1, sizes[c]))
    experiment = small(
        "hosting=pooled",
        "limits.attempts=2",
        "guards.quarantine.after=1",
        f'method.training={{kind: "deadly:Deadly", size: {sizes[deadly]}}}',
    )
    summary, ops = on_ray(
        experiment, tmp_path / "run", head.address, workers=1, paths=[str(tmp_path)]
    )
    assert summary.lost_updates == 1
    assert summary.versions == 12
    resent = [row for row in ops if row["kind"] == "resent" and row["client"] == deadly]
    assert len(resent) >= 1
    assert len([row for row in ops if row["kind"] == "actor_lost"]) >= 2
    events = pq.read_table(tmp_path / "run" / "events.parquet").to_pylist()
    (lost,) = [row for row in events if row["outcome"] == "lost"]
    assert (lost["client"], lost["reason"]) == (deadly, "no_result")


def test_an_error_in_training_is_told(small: Any, head: Any, tmp_path: Path) -> None:
    """An exception in a client's training ends the run with what, where and for whom."""
    from policies.types import RunError

    experiment = small("hosting=pooled", "faults=[{fault: error, client: 0}]")
    with pytest.raises(RunError, match=r"training failed for \(client, number\).*PlannedError"):
        on_ray(experiment, tmp_path / "run", head.address, workers=1)


def test_a_fleet_that_does_not_fit_is_refused(small: Any, head: Any, tmp_path: Path) -> None:
    """Nothing is started, and the numbers are told node by node."""
    from policies.types import ExperimentError

    experiment = small(
        "hosting=dedicated",
        "fleet.mix=[{profile: flagship-phone, resources: {num_cpus: 0.5, custom: {tpu: 1}}}]",
    )
    with pytest.raises(ExperimentError, match=r"6 client actors ask.*none.*\n.*2 CPU, 0 tpu"):
        on_ray(experiment, tmp_path / "run", head.address)


def test_a_hung_server_is_named(small: Any, head: Any, tmp_path: Path) -> None:
    """A parameter server that no longer answers ends the run with its name, not the workers'."""
    from orchestrator.on_ray import runtime as ray_runtime
    from policies.types import RunError

    experiment = small(
        "hosting=pooled", "stop.versions=100000", "limits.train_s=2", "limits.server_s=4"
    )
    stopped: list[int] = []

    class Freezer(ray_runtime.RayRuntime):
        def commit(self, addresses: Any, expected: Any) -> Any:
            if expected.number == 20:
                stopped.append(self._processes["parameter server"].pid)
                os.kill(stopped[0], signal.SIGSTOP)
            return super().commit(addresses, expected)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.on_ray.start.RayRuntime", Freezer)
        try:
            with pytest.raises(RunError, match=r"parameter server did not|for version 21, in vain"):
                on_ray(experiment, tmp_path / "run", head.address, workers=1)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
    assert stopped


def test_wall_clock(small: Any, head: Any, tmp_path: Path) -> None:
    """A live run on Ray trains, commits and evaluates as events happen."""
    summary, _ = on_ray(
        small("hosting=pooled", "clock=wall", "wall.time_scale=5", "stop.versions=8"),
        tmp_path / "run",
        head.address,
        workers=1,
    )
    assert summary.versions == 8
    assert summary.updates == 24
    events = pq.read_table(tmp_path / "run" / "events.parquet").to_pylist()
    times = [row["time_s"] for row in events]
    assert times == sorted(times)


# ------------------------------------------------------------ the command


def write(small: Any, folder: Path, *changes: str) -> Path:
    """Write the small experiment as a file."""
    from orchestrator.document import to_yaml

    file = folder / "small.yaml"
    file.write_text(to_yaml(small(*changes)), encoding="utf-8")
    return file


def summary_of(out: Path) -> dict[str, Any]:
    """Read a run's summary."""
    found: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return found


def command(*words: str, cwd: Path, **env: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [*RUN, *words],
        cwd=cwd,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition: Any, process: subprocess.Popen[str], deadline_s: float = 90.0) -> None:
    """Wait for a condition while a process lives."""
    pause = threading.Event()
    for _ in range(int(deadline_s / 0.05)):
        if condition():
            return
        if process.poll() is not None:
            pytest.fail(f"it ended early:\n{process.communicate()[0]}")
        pause.wait(0.05)
    process.kill()
    pytest.fail(f"waited in vain:\n{process.communicate()[0]}")


def test_kill_9_and_resume(small: Any, ran: Any, head: Any, tmp_path: Path) -> None:
    """A run killed with -9 at a random point and resumed ends with the uncut run's digest.

    It is resumed with another hash seed and one actor less, and finds its Ray by `--address auto`.
    """
    longer = ("stop.versions=150", "hosting=pooled", "checkpoint.every_s=0.2")
    reference = ran(small(*longer)).digest
    file, out = write(small, tmp_path, *longer), tmp_path / "run"
    rng = random.Random(os.urandom(8))  # where it is killed must not matter
    first = command("run", str(file), "--out", str(out), "--address", head.address, cwd=tmp_path)
    wanted = rng.randint(1, 4)
    wait_until(lambda: len(list((out / "checkpoint").glob("0*"))) >= min(wanted, 2), first)
    threading.Event().wait(rng.random() * 0.5)
    if first.poll() is None:
        first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL, "it was killed in mid-run"
    assert not (out / "summary.json").exists()
    again = command(
        "run", "--resume", str(out), "--address", "auto", "--workers", "1", cwd=tmp_path,
        PYTHONHASHSEED="12345", RAY_ADDRESS=head.address,
    )  # fmt: skip
    text, _ = again.communicate(timeout=120)
    assert again.returncode == 0, text
    assert "resumed from version" in text
    assert summary_of(out)["digest"] == reference


def test_control_from_another_terminal(small: Any, head: Any, tmp_path: Path) -> None:
    """status, pause, resume and stop reach a run; a pause does not change it."""
    file, out = (
        write(small, tmp_path, "stop.versions=100000", "hosting=pooled"),
        tmp_path / "steered",
    )
    words = ("run", str(file), "--out", str(out), "--workers", "1")
    process = command(*words, "--address", head.address, cwd=tmp_path)
    try:
        wait_until((out / "events.parts").exists, process)

        def tell(word: str) -> str:
            done = subprocess.run(
                [*RUN, word, "steered", "--address", head.address],
                cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            return done.stdout + done.stderr

        wait_until(lambda: "in flight" in tell("status"), process)
        assert "pause is posted" in tell("pause")
        wait_until(lambda: "paused" in tell("status"), process)
        held = tell("status")
        assert tell("status") == held
        tell("resume")
        wait_until(lambda: "paused" not in tell("status"), process)
        tell("stop")
        text, _ = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 0, text
    assert summary_of(out)["stopped_by"] == "control"
    assert "no run steered is going on" in tell("status")


def test_ray_job(small: Any, ran: Any, head: Any, tmp_path: Path) -> None:
    """As the entrypoint of `ray job submit`, with token authentication: the same digest.

    A folder that would go with the job is refused.
    """
    file = write(small, tmp_path, "hosting=pooled")
    ray = str(Path(sys.executable).with_name("ray"))
    out = tmp_path.parent / f"{tmp_path.name}-job"
    start = f"{sys.executable} -m orchestrator run {file.name} --workers 1 --out"
    done = subprocess.run(
        [
            ray, "job", "submit", "--address", head.dashboard, "--working-dir", str(tmp_path),
            "--", "sh", "-c", f"{start} here; {start} {out}",
        ],
        capture_output=True, text=True, timeout=180, check=False, env={**os.environ},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "--out and --resume must be absolute" in said
    assert summary_of(out)["digest"] == ran(small()).digest


def test_a_job_that_is_stopped(small: Any, head: Any, tmp_path: Path) -> None:
    """`ray job stop` leaves a checkpoint where the run is kept, and ends its MLflow run.

    The job works in a folder of its own, and its results go to a URL.
    """
    from mlflow import MlflowClient

    work, kept = tmp_path / "work", tmp_path / "kept" / "far"
    work.mkdir()
    file = write(
        small, work, "hosting=pooled", "stop.versions=100000", "checkpoint.every_s=1",
        "tracking.enabled=true",
    )  # fmt: skip
    store = f"sqlite:///{tmp_path}/mlflow.db"
    ray = str(Path(sys.executable).with_name("ray"))

    def job(*words: str) -> str:
        done = subprocess.run(
            [ray, "job", words[0], "--address", head.dashboard, *words[1:]],
            capture_output=True, text=True, timeout=180, check=False, env={**os.environ},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    job(
        "submit", "--no-wait", "--submission-id", "stopped", "--working-dir", str(work),
        "--runtime-env-json", json.dumps({"env_vars": {"MLFLOW_TRACKING_URI": store}}),
        "--", sys.executable, "-m", "orchestrator", "run", file.name, "--out", f"file://{kept}",
        "--workers", "1",
    )  # fmt: skip
    pause = threading.Event()
    for _ in range(600):
        if list(kept.glob("going-*.json")):
            break
        pause.wait(0.2)
    job("stop", "stopped")
    assert "interrupted at version" in job("logs", "stopped")
    runs = MlflowClient(store).search_runs(["1"])
    assert [found.info.status for found in runs] == ["KILLED"]
    (newest,) = kept.glob("going-*.json")
    listed = json.loads(newest.read_text(encoding="utf-8"))["files"]
    assert any(name.startswith("checkpoint/") for name in listed)
    assert not (kept / "summary.json").exists()
