"""How does MLflow load a model that a run has left?

`mlflow.pyfunc.load_model` imports this module and calls `_load_pyfunc`. It needs latecomer, and
no MLflow; what it reads is what `trained` has written, and `package` puts beside it what MLflow
asks for. By hand: MLflow's own way warns, and looks for requirements in processes of its own.
"""

from __future__ import annotations

import json
import platform
import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from actors.learning.examples import DataShape
from orchestrator.tracking.trained import CARD, Card, Which, read_card, take_up, weights

if TYPE_CHECKING:
    from torch import nn

_DATA: Final = "data"
_BATCH: Final = 512
_NEEDED: Final = ("torch", "numpy", "safetensors")


class Served:
    """A model behind MLflow's `predict`.

    Args:
        module: In eval mode.
        shape: What its data looks like.
    """

    def __init__(self, module: nn.Module, shape: DataShape) -> None:
        self.module = module
        self._shape = shape

    def predict(self, inputs: npt.ArrayLike, params: object = None) -> npt.NDArray[np.float32]:
        """Return logits.

        Args:
            inputs: Normalised, shape (n, ...), an array or a table of numbers.
            params: Not used; MLflow passes them.

        Returns:
            Shape (n, classes).
        """
        import torch  # noqa: PLC0415  packaging a model needs no torch

        del params
        shape = (-1, *self._shape.input)
        x = torch.from_numpy(np.array(inputs, dtype=_dtype(self._shape)).reshape(shape))
        with torch.no_grad():
            parts = [self.module(part) for part in torch.split(x, _BATCH)]
        return torch.cat(parts).numpy()


def _load_pyfunc(path: str) -> Served:
    """Return the one model in a folder; MLflow knows this name."""
    folder = Path(path)
    card = read_card(folder)
    (which,) = card.versions
    return Served(take_up(folder, which), card.shape)


def package(source: Path, which: Which, target: Path, *, model_id: str, run_id: str) -> None:
    """Write a model of a run as a folder that MLflow loads.

    Args:
        source: `model/` of the run.
        which: Of its models.
        target: A folder to be filled.
        model_id: That MLflow knows the model by.
        run_id: The MLflow run that it came of.

    Cost:
        A copy of the model on the disk.
    """
    card = read_card(source).alone(which)
    data = target / _DATA
    data.mkdir(parents=True)
    shutil.copy(weights(source, which), data)
    (data / CARD).write_text(card.text(), encoding="utf-8")
    size = sum(file.stat().st_size for file in data.iterdir())
    about = _mlmodel(card, which, size) | {"model_id": model_id, "run_id": run_id}
    about["model_uuid"] = model_id
    _yaml(target / "MLmodel", about)
    _yaml(
        target / "python_env.yaml",
        {"python": platform.python_version(), "dependencies": ["-r requirements.txt"]},
    )
    needed = "".join(f"{name}=={version(name).partition('+')[0]}\n" for name in _NEEDED)
    text = f"# and latecomer {card.latecomer} itself, which is on no index\n{needed}"
    (target / "requirements.txt").write_text(text, encoding="utf-8")


def _mlmodel(card: Card, which: Which, size: int) -> dict[str, Any]:
    """Return what MLflow reads first."""
    kept = card.versions[which]
    return {
        "artifact_path": which,
        "flavors": {
            "python_function": {
                "loader_module": __name__,
                "data": _DATA,
                "env": {"virtualenv": "python_env.yaml"},
                "python_version": platform.python_version(),
                "streamable": False,
            }
        },
        "metadata": {"version": kept.version, "accuracy": kept.accuracy, "model": card.model.kind},
        "model_size_bytes": size,
        "signature": {
            "inputs": _tensor(_dtype(card.shape), card.shape.input),
            "outputs": _tensor("float32", (card.shape.classes,)),
            "params": None,
        },
        "utc_time_created": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}",
    }


def signature(shape: DataShape) -> str:
    """Return what the data looks like, as MLflow writes the schema of a data set."""
    features, targets = _tensor(_dtype(shape), shape.input), _tensor("int64", ())
    return json.dumps({"mlflow_tensorspec": {"features": features, "targets": targets}})


def _tensor(dtype: str, shape: tuple[int, ...]) -> str:
    spec = {"dtype": dtype, "shape": [-1, *shape]}
    return json.dumps([{"type": "tensor", "tensor-spec": spec}])


def _dtype(shape: DataShape) -> str:
    return "int64" if shape.vocabulary else "float32"


def _yaml(file: Path, content: dict[str, Any]) -> None:
    """Write YAML; JSON is YAML."""
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
