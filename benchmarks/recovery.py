"""How soon does a run go on when something is killed, and is its digest the same?

    python benchmarks/recovery.py [--quick] [--json FILE] [--only times|kills|faults] [--seed N]

A small experiment (digits, 6 clients, FedBuff with a buffer of 3, top-k with residuals, virtual
clock) in pooled actors on three nodes of one CPU on this machine, a checkpoint a second.
`times`: a client's actor, the parameter server, a node, and the whole run (kill -9, then --resume)
are killed at a random moment, in turns; told is what passes until the next update is committed, and
until all that was lost is there again. `kills`: 50 runs are killed with -9 at random points and
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
from orchestrator.request import Request
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
    """Has things happen at versions, and sees when the run commits again."""

    def __init__(self, acts: dict[int, tuple[str, Callable[[Any], None]]]) -> None:
        self._acts = dict(acts)
        self.fired: list[str] = []
        self.at = 0.0
        self.committed_again_s = 0.0
        self._engine: Any = None
        self._committed = 0

    def look(self, engine: Any) -> None:
        """Look round between two events."""
        if engine is not self._engine:
            self._engine, self._committed = engine, engine.state.ledger.committed
        if engine.state.ledger.committed > self._committed:
            self._committed = engine.state.ledger.committed
            if self.at and not self.committed_again_s:
                self.committed_again_s = time.monotonic() - self.at
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


def go(experiment: Experiment, out: Path, nodes: Nodes | None, drill: Drill | None = None) -> Any:
    """Run; return the summary and the ops log."""
    real = _Run._between_events  # noqa: SLF001  # the one place between two events

    def between(self: Any, engine: Any) -> None:
        real(self, engine)
        if drill is not None:
            drill.look(engine)

    _Run._between_events = between  # type: ignore[method-assign]  # noqa: SLF001
    try:
        where = {"in_process": True} if nodes is None else {"address": nodes.cluster.address}
        summary = run(Request(experiment, out, **where), Console(file=io.StringIO()))
    finally:
        _Run._between_events = real  # type: ignore[method-assign]  # noqa: SLF001
    return summary, pq.read_table(out / "ops.parquet").to_pylist()


# ---------------------------------------------------------------- times


def times(nodes: Nodes, folder: Path, dice: random.Random, turns: int, digest: str) -> Any:
    """Kill each kind in turns; return seconds until a commit, and until all is there again."""
    acts = {"client actor": kill_client, "server": kill_server, "node": lambda _: nodes.lose()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (*acts, "whole run")}
    for turn in range(turns):
        for name, act in acts.items():
            drill = Drill({dice.randint(60, 120): (name, act)})
            began = time.monotonic()
            summary, ops = go(made(), folder / f"{name}-{turn}", nodes, drill)
            killed = drill.at - began
            back = [r["wall_s"] for r in ops if r["kind"] in {"actor_started", "gone_on"}]
            late = [at - killed for at in back if at > killed]  # none: nobody had to come back
            found[name].append((drill.committed_again_s, max(late, default=0.0)))
            _check(summary.digest == digest and drill.fired == [name], f"{name}, turn {turn}")
            nodes.refill()
        found["whole run"].append(_killed_run(nodes, folder / f"run-{turn}", dice, digest))
    return found


def _killed_run(nodes: Nodes, out: Path, dice: random.Random, digest: str) -> tuple[float, float]:
    """Kill a run with -9 at a random point, resume it, and hold its digest to the faultless."""
    file = out.with_suffix(".yaml")
    file.write_text(to_yaml(made()), encoding="utf-8")
    command = [sys.executable, "-u", "-m", "orchestrator", "run"]
    address = ["--address", nodes.cluster.address]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    first = subprocess.Popen([*command, str(file), "--out", str(out), *address], **quiet)
    while not (out / "events.parts").exists():
        time.sleep(0.05)
    time.sleep(dice.uniform(0, 12))
    first.kill()
    first.communicate()
    killed = time.monotonic()
    if (out / "summary.json").exists():  # it was faster: no kill at all
        return _killed_run(nodes, out.with_name(f"{out.name}x"), dice, digest)
    again = subprocess.Popen([*command, "--resume", str(out), *address], **quiet)
    under_way = 0.0
    said = []
    for line in again.stdout or ():
        said.append(line)
        if line.startswith("resumed from"):
            under_way = time.monotonic() - killed
    again.wait()
    _check(again.returncode == 0, f"resume of {out.name}: {''.join(said)[-2000:]}")
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    _check(summary["digest"] == digest, f"digest of {out.name}")
    return float("nan"), under_way


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
        summary, ops = go(
            made(f"faults={json.dumps(planned)}"), folder / f"set-{number}", nodes, drill
        )
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
    asked = parser.parse_args()
    turns, kills, sets = (1, 3, 4) if asked.quick else (5, 50, 100)
    dice = random.Random(asked.seed)
    found: dict[str, Any] = {}
    nodes = Nodes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digest = go(made(), folder / "faultless", None)[0].digest
        if asked.only in {None, "times"}:
            found["times"] = times(nodes, folder, dice, turns, digest)
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
    if any(map(isnan, values)):  # not looked at
        return "-"
    return f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
