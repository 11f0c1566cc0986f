"""A run's data set, models, table and final figures in MLflow; real stores, real runs."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from orchestrator.api import Run, run
from orchestrator.engine import CLIENT_ACCURACY, METRICS, OF_CELLS
from orchestrator.fleet import Fleet
from orchestrator.observe import Point
from orchestrator.tracking import shown
from orchestrator.tracking.mlflow_things import MOST_ROWS, table
from orchestrator.tracking.outbox import Data
from orchestrator.tracking.tracker import Tracker, TrackingSettings
from policies.method import Method

MEASURED = (
    "model={kind: mlp, hidden: [16]}",
    "method.training={kind: sparsyfed, lr: 0.1}",
    "method.uplink={kind: sparse-weights, density: 0.2}",
    "method.aggregation={kind: fedbuff, form: weights, size: 3}",
)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test leave the client's calm settings behind."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture
def tracked(small: Callable[..., Any], tmp_path: Path) -> Callable[..., tuple[Run, Any]]:
    """Return what runs a small experiment into a database of its own, and its client."""

    def go(*assignments: str) -> tuple[Run, Any]:
        from mlflow import MlflowClient

        uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
        settings = (f"tracking={{uri: '{uri}', flush_s: 100}}", *assignments)
        found = run(
            small(*settings), out=tmp_path / "r", in_process=True, console=Console(quiet=True)
        )
        assert not (found.folder / "mlflow-undelivered.json").exists()
        return found, MlflowClient(uri)

    return go


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")  # MLflow's own hints
def test_what_mlflow_shows_of_a_run(tracked: Callable[..., tuple[Run, Any]]) -> None:
    """Tags, data set, models that load and are as good, a table, and figures of the end."""
    from mlflow import pyfunc

    found, client = tracked(*MEASURED, "kpis={accuracy: '>= 0.1'}")
    made = client.get_run(found.summary.mlflow_run_id)
    tags = made.data.tags
    assert tags["method"] == "fedbuff+sparse-weights+sparsyfed"
    assert tags["data"] == "digits"
    assert tags["model"] == "mlp"
    assert tags["lineage"] == "0"
    assert tags["kpi.accuracy"].startswith("met: ")
    assert tags["fleet"].startswith("4 budget-phone, 2 flagship-phone (")

    (given,) = made.inputs.dataset_inputs
    assert given.dataset.name == "digits"
    profile = json.loads(given.dataset.profile)
    assert profile["training examples"] == 240
    assert profile["partition"].startswith("dirichlet alpha 0.5")

    data = found.experiment.data.load()
    accuracies = {
        "small-final": found.summary.final_accuracy,
        "small-best": found.summary.best_accuracy,
    }
    outputs = [client.get_logged_model(o.model_id) for o in made.outputs.model_outputs]
    assert {model.name for model in outputs} == set(accuracies)
    for model in outputs:
        assert str(model.status) == "READY"
        figures = {metric.key: metric.value for metric in model.metrics}
        assert figures["accuracy"] == accuracies[model.name]
        loaded = pyfunc.load_model(model.artifact_location)
        right = loaded.predict(data.normalise(data.x_test)).argmax(1) == data.y_test
        assert right.mean() == accuracies[model.name]

    artifacts = {entry.path for entry in client.list_artifacts(made.info.run_id)}
    assert {"clients.json", "clients.parquet", "report.html"} <= artifacts
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [{"path": "clients.json", "type": "table"}]
    read = json.loads(Path(client.download_artifacts(made.info.run_id, "clients.json")).read_text())
    assert read["columns"][:3] == ["client", "name", "profile"]
    assert len(read["data"]) == 6

    for name in shown.FINAL:
        (entry,) = client.get_metric_history(made.info.run_id, name)
        assert entry.step == 0  # MLflow draws bars of it
    assert made.data.metrics["worst_decile_accuracy"] == found.summary.worst_decile_accuracy
    first, second, *_ = client.get_metric_history(made.info.run_id, "density")
    assert math.isnan(first.value)
    assert (first.step, first.timestamp) == (0, made.info.start_time)
    assert second.step > 0


@pytest.mark.slow
def test_models_can_be_left_out(tracked: Callable[..., tuple[Run, Any]]) -> None:
    """They stay in the run's folder alone."""
    found, client = tracked("tracking.models=false")
    made = client.get_run(found.summary.mlflow_run_id)
    assert not made.outputs.model_outputs
    assert (found.folder / "model" / "final.safetensors").exists()


@pytest.mark.slow
def test_once_more_changes_nothing(tracked: Callable[..., tuple[Run, Any]]) -> None:
    """What seemed to fail is sent again, and is there once; what is gone is a note."""
    from orchestrator.tracking.mlflow_store import Store

    found, client = tracked()
    run_id = found.summary.mlflow_run_id
    assert run_id is not None
    notes: list[str] = []
    store = Store(found.experiment.tracking.uri, notes.append)
    store.connect()
    before = client.get_run(run_id)
    client.update_run(run_id, status="RUNNING")
    store.send_model(run_id, found.folder, "final")
    store.send_table(run_id, found.folder / "clients.parquet")
    store.send_data(run_id, shown.data(found.experiment, found.experiment.data.shape()))
    after = client.get_run(run_id)
    assert len(after.outputs.model_outputs) == len(before.outputs.model_outputs) == 2
    assert len(after.inputs.dataset_inputs) == 1
    assert not notes
    store.send_model(run_id, found.folder, "worst")
    store.send_model(run_id, found.folder / "gone", "best")
    store.send_table(run_id, found.folder / "gone.parquet")
    assert ["no model 'worst'" in notes[0], "holds no models" in notes[1], "is gone" in notes[2]]
    assert len(notes) == 3


def test_a_resumed_run_has_begun_what_it_began(tmp_path: Path) -> None:
    """A figure that MLflow has a point of gets no second beginning; a new one gets its first."""
    (tmp_path / "mlflow.json").write_text(
        json.dumps({"key": "k", "started_ms": 1, "delivered": 3, "named": ["accuracy", "density"]})
    )
    settings = TrackingSettings(uri="http://127.0.0.1:1")
    watched = Tracker(settings, out=tmp_path, run_name="again", started_ms=1)
    watched._recall(3)
    metrics = {"accuracy": 0.5, "density": 0.1, "regrowth": 2.0}
    watched.point(Point(version=6, time_s=9.0, metrics=metrics))
    watched.point(Point(version=9, time_s=12.0, metrics=metrics))
    assert [point.begun for point in watched._outbox.points] == [
        ["regrowth", "virtual_seconds"],
        [],
    ]


def test_the_first_point_begins_nothing(tmp_path: Path) -> None:
    """At version 0 every figure is at its own beginning."""
    watched = Tracker(TrackingSettings(), out=tmp_path, run_name="one", started_ms=1)
    watched.point(Point(version=0, time_s=0.0, metrics={"accuracy": 0.5}))
    assert watched._outbox.points[0].begun == []


def test_what_waits_is_kept_whole(tmp_path: Path) -> None:
    """The data set, the figures of the end, the table and the models survive the file."""
    settings = TrackingSettings(uri="http://127.0.0.1:1", flush_s=0.01)
    watched = Tracker(settings, out=tmp_path, run_name="one", started_ms=1)
    watched.start({}, {})
    watched.data(Data(name="d", digest="1", source="{}", outline="{}", profile="{}"))
    watched.finals({"participation": 1.0, "cycle_seconds": math.nan}, 5.0)
    watched.table(tmp_path / "clients.parquet")
    watched.models(["final", "best"])
    watched.models(["final"])
    assert watched.finish("FINISHED").pending == 6
    kept = json.loads((tmp_path / "mlflow-undelivered.json").read_text())
    assert kept["models"] == ["final", "best"]
    again = Tracker(settings, out=tmp_path, run_name="one", started_ms=1)
    again._recall(0)
    assert again._outbox.finals[0].metrics["participation"] == 1.0
    assert math.isnan(again._outbox.finals[0].metrics["cycle_seconds"])
    assert again._outbox.data is not None
    assert again._outbox.data.name == "d"


def test_a_table_of_many_clients() -> None:
    """Those with the most updates in the model, in the order of their numbers."""
    clients = pd.DataFrame({"client": range(MOST_ROWS + 5), "committed": 1, "load": np.nan})
    clients.loc[[3, 7, 9, 11, 13], "committed"] = 0
    read = json.loads(table(clients))
    assert len(read["data"]) == MOST_ROWS
    assert [row[0] for row in read["data"][:5]] == [0, 1, 2, 4, 5]
    assert read["data"][0][2] is None


def test_what_a_run_is_looked_for_by(small: Callable[..., Any]) -> None:
    """Methods, fleets and data that differ have other names; those that are alike have one."""
    assert shown.method(Method.model_validate({})) == "fedbuff+dense"
    one, other = small(), small("seed=8")
    assert shown.tags(one)["method"] == "fedbuff+top-k"
    fleets = [shown.fleet(Fleet.draw(e.fleet, e.seed)) for e in (one, small(), other)]
    assert fleets[0] == fleets[1] != fleets[2]
    shape = one.data.shape()
    digests = [shown.data(e, shape).digest for e in (one, small("name=x"), other)]
    assert digests[0] == digests[1] != digests[2]


def test_the_page_names_the_figures_that_there_are() -> None:
    """docs/mlflow.md lists the figures of the end, docs/logs.md those of every evaluation."""
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "mlflow.md").read_text(encoding="utf-8")
    listed = page.partition("draws bars of them:")[2].partition("[summary.md]")[0]
    assert tuple(re.findall(r"`(\w+)`", listed)) == shown.FINAL
    page = (docs / "logs.md").read_text(encoding="utf-8")
    told = page.partition("## What MLflow is told")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", told))
    others = {"accuracy", "loss", "virtual_seconds", CLIENT_ACCURACY}
    assert {*METRICS, *OF_CELLS, *others} == named - {"measured"}
