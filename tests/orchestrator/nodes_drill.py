"""Runs on three nodes of this machine, of which some go and others come.

    python nodes_drill.py FOLDER

A process can speak to one cluster of this kind, so tests start this one. FOLDER holds an experiment
for each drill, and those that need nodes with names; what came of them is written to
FOLDER/drills.json, runs stay in FOLDER/runs.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster
from rich.console import Console

from orchestrator.experiment import read
from orchestrator.request import Request, new
from orchestrator.run import _Run, run
from policies.types import RunError

AT_VERSION = 40
NAMES = ("north", "south")


class Nodes:
    """The cluster: a head with the driver, and two nodes with names that can be taken away."""

    def __init__(self) -> None:
        own = tempfile.mkdtemp(prefix="ray-")  # jobs of another Ray here look into the usual one
        head = {
            "num_cpus": 1,
            "include_dashboard": False,
            "temp_dir": own,
            "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 6},
        }
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        add = self.cluster.add_node
        self.others = [add(num_cpus=1, resources={name: 1}) for name in NAMES]
        self.named = {
            name: str(node.node_id) for name, node in zip(NAMES, self.others, strict=True)
        }

    def lose(self) -> str:
        """Kill a node; return its id."""
        node = self.others.pop()
        self.cluster.remove_node(node, allow_graceful=False)
        return str(node.node_id)

    def add(self) -> str:
        """Start another one; return its id."""
        self.others.append(self.cluster.add_node(num_cpus=1))
        return str(self.others[-1].node_id)


class Said(io.StringIO):
    """What a run prints; calls back, once, when a text is in it."""

    def __init__(self, text: str = "", act: Callable[[], Any] = str) -> None:
        super().__init__()
        self._text, self._act = text, act

    def write(self, text: str) -> int:
        if self._text and self._text in text:
            self._text = ""
            self._act()
        return super().write(text)


def drill(
    name: str, folder: Path, nodes: Nodes, act: Callable[[Any], Any], said: Said
) -> dict[str, Any]:
    """Run an experiment, and do something once `AT_VERSION` is there."""
    experiment, _ = read(folder / f"{name}.yaml")
    happened: list[int] = []
    real = _Run._between_events

    def between(self: Any, engine: Any) -> None:
        real(self, engine)
        head = engine.state.head.number
        if head >= AT_VERSION and not happened:
            happened.append(head)
            act(engine.runtime)

    _Run._between_events = between  # type: ignore[method-assign]
    try:
        request = Request(experiment, folder / "runs" / name, address=nodes.cluster.address)
        summary = run(request, Console(file=said, width=500))
        found: dict[str, Any] = {"digest": summary.digest, "setbacks": summary.setbacks}
    except RunError as error:
        found = {"error": str(error)}
    finally:
        _Run._between_events = real  # type: ignore[method-assign]
    return found | {"happened": happened, "said": said.getvalue()}


def main(folder: Path) -> None:
    """Go through all drills."""
    nodes = Nodes()
    for name, workers in {"silos": None, "cells": 2}.items():
        wanted, _ = new(folder / f"{name}.yaml", [], str(folder / "runs" / name))
        run(replace(wanted, address=nodes.cluster.address, workers=workers), Console(file=Said()))
    changed: dict[str, str] = {}

    def go_and_come(runtime: Any) -> None:
        changed.update(lost=nodes.lose(), added=nodes.add())
        watch = runtime._placement.watch
        while True:  # its actors work on until the end of the node is noticed
            known = " ".join(watch._known)
            if changed["lost"][:6] not in known and changed["added"][:6] in known:
                break
            runtime.turn()

    def grow(runtime: Any) -> None:
        before = len(runtime._crew.all())
        nodes.add()
        while len(runtime._crew.actors()) <= before:
            runtime.turn()

    def lose(runtime: Any) -> None:
        lost = nodes.lose()
        watch = runtime._placement.watch
        while lost[:6] in " ".join(watch._known):
            runtime.turn()  # a fast machine would be done before the end of the node is noticed

    found = {"moves": drill("moves", folder, nodes, go_and_come, Said()) | changed}
    found["grows"] = drill("grows", folder, nodes, grow, Said())
    nodes.lose()
    waiting = Said("waiting up to", nodes.add)
    found["waits"] = drill("waits", folder, nodes, lose, waiting)
    found["never"] = drill("never", folder, nodes, lose, Said())
    told = {"drills": found, "named": nodes.named}
    (folder / "drills.json").write_text(json.dumps(told), encoding="utf-8")
    nodes.cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
