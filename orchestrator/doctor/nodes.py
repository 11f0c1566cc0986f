"""Do the nodes of a Ray have what a run needs, and does a fleet fit them?"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.doctor import probe
from orchestrator.doctor.findings import Finding, note, ok, trouble
from orchestrator.doctor.fit import fit
from orchestrator.doctor.machine import STORE_SHARE
from orchestrator.experiment import Experiment
from orchestrator.on_ray.cluster import connect
from orchestrator.progress import size
from policies.types import ExperimentError

ANSWER_S: Final = 30.0
"""Longest wait for all nodes together; a worker takes seconds to start."""


def nodes(address: str, experiment: Experiment | None) -> Iterator[Finding]:
    """Look at every living node of a Ray, and whether an experiment's fleet fits them."""
    try:
        cluster = connect(address, "latecomer-doctor")
    except ExperimentError as error:
        yield trouble("Ray", str(error), "See docs/doctor.md.")
        return
    try:
        answers = _ask()
        here = probe.look()
        for name, answer in answers.items():
            yield compared(name, answer, here)
        if experiment is not None:
            yield fit(experiment, cluster.nodes(), cluster.free_bytes())
    finally:
        cluster.close()


def _ask() -> dict[str, Mapping[str, Any] | None]:
    """Return what each node says of itself, None for one that does not answer."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[probe.__name__])
    try:
        look = ray.remote(num_cpus=0, max_retries=0)(probe.look)
        asked = {}
        for row in sorted(ray.nodes(), key=lambda row: (row["NodeManagerAddress"], row["NodeID"])):
            if row["Alive"]:
                pinned = NodeAffinitySchedulingStrategy(node_id=row["NodeID"], soft=False)
                name = f"{row['NodeManagerAddress']} ({row['NodeID'][:6]})"
                asked[name] = look.options(scheduling_strategy=pinned).remote()
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[probe.__name__])
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S)
    return {name: _answer(reference) for name, reference in asked.items()}


def _answer(reference: Any) -> Mapping[str, Any] | None:
    try:
        answer: Mapping[str, Any] = ray.get(reference, timeout=0.1)
    except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
        return None
    return answer


def compared(name: str, there: Mapping[str, Any] | None, here: Mapping[str, Any]) -> Finding:
    """Compare a node with this process.

    Args:
        name: The node's address.
        there: What the node says of itself; None if it says nothing.
        here: What this process says.
    """
    topic = "node"
    if there is None:
        text = f"{name} does not answer within {ANSWER_S:g} s"
        return trouble(topic, text, "Look at `ray status` and at the logs of that node.")
    ours, theirs = here["versions"], there["versions"]
    lacking = [package for package in ours if theirs.get(package) is None]
    if there["code"] is None and "latecomer" not in lacking:
        lacking.append("latecomer (it cannot be imported)")
    if lacking:
        return trouble(
            topic,
            f"{name} lacks {', '.join(lacking)}",
            "Install the project there, in the environment that `ray start` is called from.",
        )
    others = [f"{p} {theirs[p]} (here {ours[p]})" for p in ours if theirs[p] != ours[p]]
    if there["code"] != here["code"]:
        others.append("other code of latecomer")
    if others:
        return trouble(
            topic, f"{name} has {', '.join(others)}", "Install the same versions on all nodes."
        )
    has = f"{size(there['memory_bytes'])} of memory free, {size(there['shm_bytes'])} in /dev/shm"
    if there["shm_bytes"] < STORE_SHARE * there["memory_bytes"]:
        text = f"{name} is as this machine; {has}: Ray's object store goes to the disk"
        return note(topic, text, "Start its container with a larger --shm-size.")
    return ok(topic, f"{name} is as this machine; {has}")
