"""Does an experiment's fleet fit where it would run?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import psutil

from actors.learning.sources.silos import Silos
from orchestrator.doctor.findings import Finding, ok, trouble
from orchestrator.experiment import Experiment
from orchestrator.fleet import Fleet
from orchestrator.hosting import Node, choose
from policies.types import ExperimentError

RAY_SHARE = 0.7
"""Ray lets actors reserve so much of the free memory; the rest is its object store's."""


def fit(experiment: Experiment, nodes: Sequence[Node], free_bytes: int | None) -> Finding:
    """Say how the fleet would be hosted, by the decision that a run makes.

    Args:
        experiment: A valid one.
        nodes: What there is.
        free_bytes: Memory that is really free there, if it is known.
    """
    fleet = Fleet.draw(experiment.fleet, experiment.seed)
    try:
        hosting = choose(
            experiment.hosted(),
            fleet.resources(),
            nodes,
            free_bytes=free_bytes,
            poolable=not isinstance(experiment.data, Silos),
        )
    except ExperimentError as error:
        return trouble("fleet", str(error), "See docs/hosting.md.")
    return ok("fleet", f"hosting: {hosting.kind}, {hosting.actors} client actors ({hosting.why})")


def this_machine() -> tuple[list[Node], int]:
    """Return what a Ray that is started here would have, and the free memory."""
    free = int(psutil.virtual_memory().available)
    has = {
        "CPU": float(os.cpu_count() or 1),
        "GPU": float(len(list(Path("/dev").glob("nvidia[0-9]*")))),
        "memory": RAY_SHARE * free,
    }
    return [Node("this machine", has)], free
