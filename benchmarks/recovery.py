"""How soon does a run go on when something is killed, and is its digest the same?

    python benchmarks/recovery.py [--quick] [--json FILE] [--only times|kills|faults] [--seed N]

A small experiment (digits, 6 clients, FedBuff with a buffer of 3, top-k with residuals, virtual
clock) in pooled actors on three nodes of one CPU on this machine, a checkpoint a second.
`times`: a client's actor, the parameter server, a node, and the whole run (kill -9, then --resume)
are killed at a random moment, in turns, in runs of 2,000 versions; told is what passes until the
next update is committed, and until all that was lost is there again (a lost node is not: what it
hosted moves to the other two). `kills`: 50 runs are killed with -9 at random points and
resumed. `faults`: 100 runs with random sets of two to four faults each, at random addresses and
moments (crash, hang, duplicate, parameter server, node). Every digest is held to that of the
faultless run, and every planned fault must have fired. --quick: one turn, 3 kills, 4 sets.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import isnan
from pathlib import Path
from statistics import median
from typing import Any, Final

import pyarrow.parquet as pq
from ray.cluster_utils import Cluster
from rich.console import Console

from actors.identity import numerics
from orchestrator.document import Document, to_yaml
from orchestrator.experiment import CHECKS, Experiment
from orchestrator.request import Request, again
from orchestrator.run import _Run, run

EXPERIMENT: Final = """
name: recovery
seed: 7
data: {source: digits, train_examples: 240, partition: {kind: dirichlet, alpha: 0.5}}
model: {kind: logistic}
fleet:
  clients: 6
  mix: [{profile: flagship-phone}, {profile: budget-phone, share: 2}]
  jitter: {kind: lognormal, sigma: 0.5}
hosting: pooled
method:
  concurrency: 4
  training: {kind: sgd, lr: 0.1}
  uplink: {kind: top-k, density: 0.1}
  aggregation: {kind: fedbuff, size: 3}
stop: {versions: 200}
evaluate: {every_versions: 20}
checkpoint: {every_s: 1}
limits: {train_s: 4, nodes_s: 120}
tracking: {enabled: false}
"""
LONG: Final = "stop.versions=2000"
"""Long enough for what is killed to come back before the end."""
AT_ADDRESSES: Final = ("crash", "hang", "duplicate")
AT_VERSIONS: Final = ("server", "node")
LOGGED: Final = {"crash": "resent", "hang": "resent", "duplicate": "duplicate"}
"""The row of the ops log that a fault leaves, with its address."""


class Nodes:
    """Three nodes, of which two can be killed; there are three again after `refill`."""

    def __init__(self) -> None:
        head = {"num_cpus": 1, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self._others = [self.cluster.add_node(num_cpus=1) for _ in range(2)]

    def lose(self) -> None:
        """Kill one without a word."""
        self.cluster.remove_node(self._others.pop(0), allow_graceful=False)

    def refill(self) -> None:
        """Start what is missing."""
        while len(self._others) < 2:
            self._others.append(self.cluster.add_node(num_cpus=1))


class Drill:
    """Has things happen at versions, and sees when the run commits again.

    Attributes:
        fired: What has happened.
        at: When, on the monotonic clock, which all processes of a machine share.
        committed_at: When an update was committed after it.
        began: When the run's process began.
    """

    def __init__(self, acts: dict[int, tuple[str, Callable[[Any], None]]]) -> None:
        self._acts = dict(acts)
        self.fired: list[str] = []
        self.at = 0.0
        self.committed_at = 0.0
        self.began = 0.0
        self._engine: Any = None
        self._committed = 0

    def look(self, began: float, engine: Any) -> None:
        """Look round between two events of a run that began at a time."""
        self.began = began
        if engine is not self._engine:
            self._engine, self._committed = engine, engine.state.ledger.committed
        if engine.state.ledger.committed > self._committed:
            self._committed = engine.state.ledger.committed
            if self.at and not self.committed_at:
                self.committed_at = time.monotonic()
        due = [version for version in self._acts if engine.state.head.number >= version]
        for version in due:
            name, act = self._acts.pop(version)
            self.at = time.monotonic()
            act(engine.runtime)
            self.fired.append(name)


def kill_server(runtime: Any) -> None:
    """Kill the parameter server's process."""
    _kill(runtime, "parameter server")


def kill_client(runtime: Any) -> None:
    """Kill the process of a client actor."""
    _kill(runtime, "worker-0")


def _kill(runtime: Any, name: str) -> None:
    while name not in runtime._processes:  # noqa: SLF001  # where else are its processes known
        runtime.turn()
    os.kill(runtime._processes[name].pid, signal.SIGKILL)  # noqa: SLF001


def made(*changes: str) -> Experiment:
    """Return the experiment with changes."""
    document = Document.parse(EXPERIMENT, "recovery.yaml")
    document.override(changes, Experiment)
    return document.validate(Experiment, CHECKS)


def go(wanted: Request, drill: Drill | None = None) -> Any:
    """Run; return the summary and the ops log."""
    real = _Run._between_events  # noqa: SLF001  # the one place between two events

    def between(self: Any, engine: Any) -> None:
        real(self, engine)
        if drill is not None:
            drill.look(self._began - self._earlier_s, engine)

    _Run._between_events = between  # type: ignore[method-assign]  # noqa: SLF001
    try:
        summary = run(wanted, Console(file=io.StringIO()))
    finally:
        _Run._between_events = real  # type: ignore[method-assign]  # noqa: SLF001
    return summary, pq.read_table(wanted.out / "ops.parquet").to_pylist()


def there_again(drill: Drill, ops: list[dict[str, Any]]) -> float:
    """Return when the last of what was lost was there, on the monotonic clock; 0 if nothing was."""
    rows = [row["wall_s"] for row in ops if row["kind"] in {"actor_started", "gone_on"}]
    return max((at for at in (drill.began + s for s in rows) if at > drill.at), default=0.0)


# ---------------------------------------------------------------- times


def times(nodes: Nodes, folder: Path, dice: random.Random, turns: int, digest: str) -> Any:
    """Kill each kind in turns; return seconds until a commit, and until all is there again."""
    acts = {"client actor": kill_client, "server": kill_server, "node": lambda _: nodes.lose()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (*acts, "whole run")}
    for turn in range(turns):
        for name, act in acts.items():
            drill = Drill({dice.randint(60, 120): (name, act)})
            address = nodes.cluster.address
            wanted = Request(made(LONG), folder / f"{name}-{turn}", address=address)
            summary, ops = go(wanted, drill)
            back = there_again(drill, ops)
            _check(summary.digest == digest and drill.fired == [name], f"{name}, turn {turn}")
            back_s = back - drill.at if name != "node" else float("nan")
            _check(back_s > 0 or name == "node", f"{name}, turn {turn}: nothing came back in time")
            _check(drill.committed_at > 0, f"{name}, turn {turn}: nothing was committed after it")
            found[name].append((drill.committed_at - drill.at, back_s))
            nodes.refill()
            print(f"{name}: {found[name][-1]}", file=sys.stderr, flush=True)
        run_ = _killed_run(nodes, folder / f"run-{turn}", dice, digest, LONG)
        found["whole run"].append(run_)
        print(f"whole run: {run_}", file=sys.stderr, flush=True)
    return found


def _killed_run(
    nodes: Nodes, out: Path, dice: random.Random, digest: str, *changes: str
) -> tuple[float, float]:
    """Kill a run with -9 at a random point, resume it, and hold its digest to the faultless."""
    file = out.with_suffix(".yaml")
    file.write_text(to_yaml(made(*changes)), encoding="utf-8")
    address = ["--address", nodes.cluster.address]
    command = [sys.executable, "-u", "-m", "orchestrator", "run", str(file), "--out", str(out)]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    first = subprocess.Popen([*command, *address], **quiet)
    while not (out / "events.parts").exists():
        time.sleep(0.05)
    time.sleep(dice.uniform(0, 12))
    first.kill()
    first.communicate()
    killed = time.monotonic()
    if (out / "summary.json").exists():  # it was faster: no kill at all
        return _killed_run(nodes, out.with_name(f"{out.name}x"), dice, digest, *changes)
    goes_on = [sys.executable, __file__, "--resume", str(out), *address]
    ended = subprocess.run(goes_on, check=False, capture_output=True, text=True)
    _check(ended.returncode == 0, f"resume of {out.name}: {ended.stderr[-2000:]}")
    found = json.loads(ended.stdout.splitlines()[-1])
    _check(found["committed_at"] > 0 < found["back"], f"{out.name}: nothing came after the resume")
    _check(found["digest"] == digest, f"digest of {out.name}")
    return found["committed_at"] - killed, found["back"] - killed


def resume(out: str, address: str) -> None:
    """Go on with a run in this process; tell its digest, and when it committed again."""
    drill = Drill({})
    drill.at = time.monotonic()
    summary, ops = go(replace(again(out), address=address), drill)
    told = {"committed_at": drill.committed_at, "back": there_again(drill, ops)}
    print(json.dumps({"digest": summary.digest, **told}))


def _check(held: bool, what: str) -> None:
    if not held:
        raise SystemExit(f"not as it must be: {what}")


# ---------------------------------------------------------------- faults


def faults(nodes: Nodes, folder: Path, dice: random.Random, sets: int, digest: str) -> Any:
    """Run with random sets of faults; return how often each kind has fired."""
    fired: Counter[str] = Counter()
    setbacks = 0
    for number in range(sets):
        kinds = ["node"] * 3
        while kinds.count("node") > 2:  # there are two that can be killed
            kinds = [dice.choice((*AT_ADDRESSES, *AT_VERSIONS)) for _ in range(dice.randint(2, 4))]
        clients = dice.sample(range(6), 6)
        planned = [
            {"fault": kind, "client": clients[at], "number": dice.randint(0, 30)}
            for at, kind in enumerate(kinds)
            if kind in AT_ADDRESSES
        ]
        versions = dice.sample(range(20, 180), len(kinds))
        deeds = {"server": kill_server, "node": lambda _: nodes.lose()}
        acts = {
            version: (kind, deeds[kind])
            for version, kind in zip(versions, kinds, strict=True)
            if kind in deeds
        }
        drill = Drill(acts)
        hurt = made(f"faults={json.dumps(planned)}")
        address = nodes.cluster.address
        summary, ops = go(Request(hurt, folder / f"set-{number}", address=address), drill)
        _check(summary.digest == digest, f"digest of set {number}: {kinds}")
        seen = {(row["kind"], row["client"], row["number"]) for row in ops}
        for fault in planned:
            left = (LOGGED[fault["fault"]], fault["client"], fault["number"])
            _check(left in seen, f"set {number}: {fault} left no row {left}")
            fired[fault["fault"]] += 1
        _check(len(drill.fired) == len(acts), f"set {number}: {drill.fired} of {acts}")
        fired.update(drill.fired)
        setbacks += summary.setbacks
        nodes.refill()
        print(f"set {number + 1} of {sets}: {', '.join(kinds)}", file=sys.stderr, flush=True)
    return {"sets": sets, "equal": sets, "fired": dict(fired), "setbacks": setbacks}


# ---------------------------------------------------------------- telling


def main() -> None:
    """Do what is asked, and tell."""
    parser = argparse.ArgumentParser(description="What a run survives, and how soon it goes on.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=("times", "kills", "faults"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--resume", help=argparse.SUPPRESS)  # a killed run goes on in a process
    parser.add_argument("--address", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.resume:
        resume(asked.resume, asked.address)
        return
    turns, kills, sets = (1, 3, 4) if asked.quick else (5, 50, 100)
    dice = random.Random(asked.seed)
    found: dict[str, Any] = {}
    nodes = Nodes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digest = go(Request(made(), folder / "faultless", in_process=True))[0].digest
        if asked.only in {None, "times"}:
            long = Request(made(LONG), folder / "long", in_process=True)
            found["times"] = times(nodes, folder, dice, turns, go(long)[0].digest)
        if asked.only in {None, "kills"}:
            for number in range(kills):
                _killed_run(nodes, folder / f"kill-{number}", dice, digest)
                print(f"kill {number + 1} of {kills}", file=sys.stderr, flush=True)
            found["kills"] = {"runs": kills, "equal": kills}
        if asked.only in {None, "faults"}:
            found["faults"] = faults(nodes, folder, dice, sets, digest)
    nodes.cluster.shutdown()
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    _show(found)


def _show(found: dict[str, Any]) -> None:
    if "times" in found:
        print("| killed | until the next commit, s | until all is there again, s |")
        print("|---|---|---|")
        for name, rows in found["times"].items():
            print(f"| {name} | {_spread([a for a, _ in rows])} | {_spread([b for _, b in rows])} |")
    if "kills" in found:
        print(f"kill -9: {found['kills']['equal']} of {found['kills']['runs']} digests equal")
    if "faults" in found:
        told = found["faults"]
        fired = ", ".join(f"{count} {kind}" for kind, count in told["fired"].items())
        print(
            f"sets of faults: {told['equal']} of {told['sets']} digests equal; all fired: {fired}; "
            f"{told['setbacks']} setbacks"
        )
    python = sys.version.split()[0]
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {numerics()}, Python {python}")


def _spread(values: list[float]) -> str:
    if any(map(isnan, values)):  # nothing comes back
        return "-"
    return f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
