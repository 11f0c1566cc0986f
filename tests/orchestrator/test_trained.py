"""A run leaves models that do what the run said of them, and nothing in them is pickled."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file, save_file

from actors.identity import join_paths
from actors.learning.evaluation_torch import evaluate
from orchestrator.api import Run, load, run
from orchestrator.tracking import served, trained
from policies.types import ExperimentError

WAYS = {
    "sgd": (),
    "batch-norm": ("model={kind: resnet, depth: 8, width: 4, norm: batch}", "stop.versions=4"),
    "sparsyfed": (
        "model={kind: mlp, hidden: [16]}",
        "method.training={kind: sparsyfed, lr: 0.1}",
        "method.uplink={kind: sparse-weights, density: 0.2}",
        "method.aggregation={kind: fedbuff, form: weights, size: 3}",
    ),
}
HALF_FROZEN = """
from typing import Literal
from torch import nn
from actors.learning.models import ModelPolicy

class HalfFrozen(ModelPolicy):
    kind: Literal["half_frozen:HalfFrozen"] = "half_frozen:HalfFrozen"

    def parameters(self, shape):
        return 33 * 10

    def forward_flops(self, shape):
        return 2 * 64 * 32 + 2 * 320

    def activation_bytes(self, shape):
        return 4 * 96

    def build(self, shape):
        fixed = nn.Linear(64, 32)
        fixed.requires_grad_(False)
        return nn.Sequential(nn.Flatten(), fixed, nn.ReLU(), nn.Linear(32, shape.classes))
"""


@pytest.fixture
def finished(small: Callable[..., Any], tmp_path: Path) -> Callable[..., Run]:
    """Return what runs a small experiment in this process."""

    def go(*assignments: str) -> Run:
        out = tmp_path / "run"
        return run(small(*assignments), out=out, in_process=True, console=Console(quiet=True))

    return go


def accuracy(found: Run, which: str) -> float:
    """Test a model that a run has left."""
    data = found.experiment.data.load()
    x, y = torch.from_numpy(data.normalise(data.x_test)), torch.from_numpy(data.y_test)
    return evaluate(found.model(which), x, y, data.classes).accuracy


@pytest.mark.parametrize("way", WAYS)
def test_a_model_is_as_good_as_the_run_says(finished: Callable[..., Run], way: str) -> None:
    """Buffers and weights that are stored in another form included."""
    found = load(finished(*WAYS[way]).folder)
    assert accuracy(found, "final") == found.summary.final_accuracy
    assert accuracy(found, "best") == found.summary.best_accuracy
    assert not any(part.training for part in found.model().modules())


def test_the_best_is_not_the_last(finished: Callable[..., Run]) -> None:
    """Steps that are too large make a model worse again, and its best version is kept."""
    lr = "method.training={kind: sgd, lr: 2.0}"
    found = finished(lr, "evaluate.every_versions=1", "stop.versions=24")
    kept = trained.read_card(found.folder / "model").versions
    assert kept["best"].version != kept["final"].version
    assert accuracy(found, "best") == found.summary.best_accuracy > found.summary.final_accuracy


def test_what_is_not_trained_comes_from_the_seed(
    finished: Callable[..., Run], tmp_path: Path
) -> None:
    """A frozen layer stands in no file and is drawn again; the module is the user's own."""
    (tmp_path / "half_frozen.py").write_text(HALF_FROZEN)
    join_paths([str(tmp_path)])
    found = finished("model={kind: 'half_frozen:HalfFrozen'}")
    tensors = load_file(found.folder / "model" / "final.safetensors")
    assert set(tensors) == {"3.weight", "3.bias"}
    assert accuracy(found, "final") == found.summary.final_accuracy


def test_the_files_hold_names_and_numbers_alone(finished: Callable[..., Run]) -> None:
    """Safetensors under torch's names, and JSON."""
    folder = finished().folder / "model"
    names = {"best.safetensors", "final.safetensors", "model.json"}
    assert {file.name for file in folder.iterdir()} == names
    assert set(load_file(folder / "final.safetensors")) == {"linear1.weight", "linear1.bias"}
    card = json.loads((folder / "model.json").read_text())
    assert card["model"]["kind"] == "logistic"
    assert card["training"] == {**card["training"], "kind": "sgd", "lr": 0.1}
    assert card["seed"] == 7
    assert card["shape"]["classes"] == 10
    assert set(card["versions"]) == {"final", "best"}


def test_mistakes(finished: Callable[..., Run]) -> None:
    """Each is said with the way out."""
    found = finished()
    folder = found.folder / "model"
    with pytest.raises(ExperimentError, match=r"no model 'worst'. Name final or best"):
        found.model("worst")
    save_file({"linear1.weight": np.zeros((3, 3), np.float32)}, folder / "best.safetensors")
    with pytest.raises(ExperimentError, match=r"must hold linear1.weight of shape \(10, 64\)"):
        found.model("best")
    (folder / "final.safetensors").unlink()
    with pytest.raises(ExperimentError, match=r"final.safetensors is gone"):
        found.model()
    (folder / "model.json").write_text('{"name": 1}')
    with pytest.raises(ExperimentError, match=r"model.json cannot be read"):
        found.model()
    (folder / "model.json").unlink()
    with pytest.raises(ExperimentError, match=r"holds no models"):
        found.model()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")  # MLflow's own hints
def test_mlflow_loads_a_packaged_model(finished: Callable[..., Run], tmp_path: Path) -> None:
    """With a signature that refuses other shapes, and without MLflow's own warnings."""
    from mlflow import pyfunc
    from mlflow.exceptions import MlflowException

    found = finished()
    packed = tmp_path / "packed"
    served.package(found.folder / "model", "best", packed, model_id="m-1", run_id="r-1")
    files = {file.name for file in packed.rglob("*") if file.is_file()}
    own = {"MLmodel", "python_env.yaml", "requirements.txt"}
    assert files == own | {"model.json", "best.safetensors"}
    model = pyfunc.load_model(str(packed))
    data = found.experiment.data.load()
    x = data.normalise(data.x_test)
    logits = model.predict(x)
    assert logits.shape == (len(x), 10)
    assert (logits.argmax(1) == data.y_test).mean() == found.summary.best_accuracy
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, *x.shape[1:])
    with pytest.raises(MlflowException, match="shape"):
        model.predict(x.reshape(len(x), -1)[:, :5])


def test_serving_needs_no_mlflow() -> None:
    """The module that MLflow imports imports no MLflow."""
    program = "import sys, orchestrator.tracking.served; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
