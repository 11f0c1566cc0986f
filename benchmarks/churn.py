"""Does a live run get on while nodes go and come, and does it grow?

    python benchmarks/churn.py [--quick] [--json FILE] [--minutes N] [--every SECONDS]

A cluster of three nodes of one CPU on this machine, 12 clients in pooled actors on the wall clock
with the delays of their profiles slept out, five times as long (digits, logistic regression with
650 parameters, 6 in flight, FedBuff with a buffer of 4, top-k with its residuals as the clients'
state). Every SECONDS (150) a node that is not the driver's is killed without a word, and another
one is started 20 s later. After an hour the run is stopped from another process. Told are the
updates a minute, the longest time without one, how often the run was set back, and the memory of
its processes at checkpoints, from minute 10 on and in the last minutes. --quick: four minutes, a
kill a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from actors.identity import numerics
from orchestrator.summary import Summary

EXPERIMENT: Final = """
name: churn
seed: 1
clock: wall
wall: {time_scale: 0.2}
data: {source: digits, train_examples: 600, partition: {kind: dirichlet, alpha: 0.5}}
model: {kind: logistic}
fleet:
  clients: 12
  mix: [{profile: flagship-phone}, {profile: budget-phone, share: 2}]
  jitter: {kind: lognormal, sigma: 0.5}
hosting: pooled
method:
  concurrency: 6
  training: {kind: sgd, lr: 0.1}
  uplink: {kind: top-k, density: 0.1}
  aggregation: {kind: fedbuff, size: 4}
stop: {versions: 1000000}
evaluate: {every_versions: 20}
checkpoint: {every_s: 15}
limits: {nodes_s: 300}
tracking: {enabled: false}
"""
REFILL_S: Final = 20.0


def churn(cluster: Any, nodes: list[Any], every_s: float, last_s: float, run: Any) -> int:
    """Kill a node now and then and start another one soon after; return how many were killed."""
    killed, dice = 0, random.Random(1)
    end = time.monotonic() + last_s
    while time.monotonic() + every_s < end and run.poll() is None:
        time.sleep(every_s - REFILL_S)
        cluster.remove_node(nodes.pop(dice.randrange(len(nodes))), allow_graceful=False)
        killed += 1
        time.sleep(REFILL_S)
        nodes.append(cluster.add_node(num_cpus=1))
    while time.monotonic() < end and run.poll() is None:
        time.sleep(1)
    return killed


def main() -> None:
    """Run for as long as is asked, and tell."""
    parser = argparse.ArgumentParser(description="A live run while nodes go and come.")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=150.0, help="seconds between two kills")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    minutes, every_s = (4.0, 60.0) if asked.quick else (asked.minutes, asked.every)
    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    command = [sys.executable, "-m", "orchestrator"]
    address = ["--address", cluster.address]
    with tempfile.TemporaryDirectory() as folder:
        out, file = Path(folder) / "churn", Path(folder) / "churn.yaml"
        file.write_text(EXPERIMENT, encoding="utf-8")
        with (Path(folder) / "log").open("w+", encoding="utf-8") as log:
            run = subprocess.Popen(
                [*command, "run", str(file), "--out", str(out), *address],
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
            killed = churn(cluster, nodes, every_s, 60 * minutes, run)
            subprocess.run([*command, "stop", "churn", *address], check=False)
            if run.wait(300) != 0:
                log.seek(0)
                raise SystemExit(f"the run has failed:\n{log.read()[-4000:]}")
        found = _figures(out, Summary.read(out), killed, minutes)
    cluster.shutdown()
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    _show(found)


def _figures(out: Path, summary: Summary, killed: int, minutes: float) -> dict[str, Any]:
    ops = pq.read_table(out / "ops.parquet").to_pylist()
    events = pq.read_table(out / "events.parquet").to_pylist()
    committed = [row["wall_s"] for row in ops if row["kind"] == "trained"]
    gaps = [after - before for before, after in pairwise(committed)]
    memory: dict[str, dict[float, int]] = {"all": {}}
    at = 0.0
    for row in ops:
        if row["kind"] == "checkpoint":
            at = row["wall_s"]
        elif row["kind"] == "memory":
            memory.setdefault(row["actor"], {})[at] = row["bytes"]
            memory["all"][at] = memory["all"].get(at, 0) + row["bytes"]
    kept = ("all", "driver", "parameter server")
    kinds = [row["kind"] for row in ops]
    return {
        "minutes": minutes,
        "versions": summary.versions,
        "updates": summary.updates,
        "final_accuracy": summary.final_accuracy,
        "kills": killed,
        "nodes_lost": kinds.count("node_lost"),
        "nodes_added": kinds.count("node_added"),
        "setbacks": summary.setbacks,
        "actors_lost": kinds.count("actor_lost"),
        "longest_pause_s": max(gaps),
        "updates_a_minute": 60 * len(committed) / max(committed[-1] - committed[0], 1e-9),
        "rows": len(events),
        "memory": {name: memory.get(name, {}) for name in kept},
    }


def _growth(sizes: dict[float, int], minutes: float) -> str:
    """Compare memory about minute ten (or a quarter of the time) with the last tenth's."""
    early, late = min(600.0, 15 * minutes), 54 * minutes
    then = [size for at, size in sizes.items() if early <= at < early + 6 * minutes]
    now = [size for at, size in sizes.items() if at >= late]
    if not then or not now:
        return "not seen"
    change = median(now) / median(then) - 1
    return f"{median(then) / 1e6:.0f} MB, then {median(now) / 1e6:.0f} MB ({change:+.1%})"


def _show(found: dict[str, Any]) -> None:
    rows = {
        "minutes": f"{found['minutes']:g}",
        "versions": f"{found['versions']:,}",
        "updates trained a minute": f"{found['updates_a_minute']:.0f}",
        "final accuracy": f"{found['final_accuracy']:.3f}",
        "nodes killed, seen as lost, added": f"{found['kills']}, {found['nodes_lost']}, "
        f"{found['nodes_added']}",
        "setbacks": f"{found['setbacks']}",
        "client actors lost": f"{found['actors_lost']}",
        "longest time without an update": f"{found['longest_pause_s']:.1f} s",
    }
    for name, sizes in found["memory"].items():
        by_time = {float(at): size for at, size in sizes.items()}
        rows[f"memory, {name}"] = _growth(by_time, found["minutes"])
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    python = sys.version.split()[0]
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {numerics()}, Python {python}")


if __name__ == "__main__":
    main()
