"""What does MLflow show of a run besides its settings and its curves?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from actors.learning.examples import DataShape
from orchestrator.experiment import Experiment
from orchestrator.fleet import Fleet
from orchestrator.kpis import figures
from orchestrator.summary import Summary
from orchestrator.tracking.outbox import Data
from orchestrator.tracking.served import signature
from policies.method import Method

FINAL: Final = (
    "final_accuracy", "mean_client_accuracy", "worst_decile_accuracy", "accuracy_spread",
    "participation", "cycle_seconds", "most_load", "uplink_bytes_per_client_day",
    "downlink_bytes_per_client_day", "energy_joules_per_client_day", "wasted_share",
    "rejected_share", "versions", "dispatched_updates", "wall_seconds", "startup_seconds",
    "updates_per_second", "peak_pss_bytes",
)  # fmt: skip
"""Figures that a run has at its end alone."""


def tags(experiment: Experiment) -> dict[str, str]:
    """Return what a run is looked for by."""
    origin = experiment.model.origin()
    return {
        "name": experiment.name,
        "method": method(experiment.method),
        "data": experiment.data.source,
        "model": experiment.model.kind,
        "clients": str(experiment.fleet.clients),
        "clock": experiment.clock,
        **({} if origin is None else {"weights": str(origin)}),
    }


def method(settings: Method) -> str:
    """Return the kinds that make up a method, without those that do nothing.

    `fedbuff+top-k` is FedBuff of sparse updates; `fedavg+sparse-weights+sparsyfed+sparse`
    has a way of training and a downlink of its own.
    """
    usual = Method.model_validate({})
    words = [settings.aggregation.kind, settings.uplink.kind]
    for name in ("training", "downlink", "correction", "pruning", "selection"):
        kind = getattr(settings, name).kind
        if kind != getattr(usual, name).kind:
            words.append(kind)
    return "+".join(words)


def fleet(found: Fleet) -> str:
    """Return how many clients have which profile, and what names this very fleet."""
    counts = sorted(found.counts().items(), key=lambda item: -item[1])
    devices = ", ".join(f"{count} {name}" for name, count in counts if count)
    return f"{devices} ({found.fingerprint()})"


def data(experiment: Experiment, shape: DataShape) -> Data:
    """Return the data set as MLflow lists it: these examples, dealt to these clients."""
    section = experiment.data.model_dump(mode="json", serialize_as_any=True)
    clients, seed = experiment.fleet.clients, experiment.seed
    named = json.dumps([section, clients, seed, repr(shape)], sort_keys=True)
    digest = hashlib.blake2b(named.encode(), digest_size=8).hexdigest()
    profile = {
        "training examples": shape.train,
        "test examples": shape.test,
        "classes": shape.classes,
        "clients": clients,
        **_partition(section),
    }
    return Data(
        name=experiment.data.source,
        digest=digest,
        source=json.dumps({"tags": {"mlflow.source.name": "latecomer", "data": section}}),
        outline=signature(shape),
        profile=json.dumps(profile),
    )


def _partition(section: Mapping[str, Any]) -> dict[str, str]:
    found = section.get("partition")
    if not isinstance(found, Mapping):
        return {}
    more = [f"{name} {value}" for name, value in found.items() if name != "kind" and value]
    return {"partition": " ".join([str(found.get("kind")), *map(str, more)])}


def final_figures(summary: Summary, experiment: Experiment) -> dict[str, float]:
    """Return the figures in `FINAL`, for tables and for parallel coordinates."""
    whole = asdict(summary)
    known = whole | figures(whole, experiment.fleet.clients)
    return {name: float(known[name]) for name in FINAL if name in known}
