"""Which models does a run leave, and how is one taken up again?

The final and the best version, as parameters and buffers under their torch names, and what builds
the module that they belong to: `model/` in a run's folder. Nothing in it is pickled. Where tails
are personal, both have the one that a run begins with, and a file of its own has those of clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeInt, PositiveInt, ValidationError
from safetensors.numpy import load_file, save_file

from actors.learning.data import DataShape
from actors.learning.holdings import Holdings
from actors.learning.models import Model
from actors.learning.sources.packaged import Mnist5k
from actors.work import Work
from policies.base import Settings
from policies.method import Method
from policies.training import Training
from policies.types import ExperimentError, Vector, Version
from policies.update import ModelSchema

if TYPE_CHECKING:
    from torch import nn

    from orchestrator.experiment import Experiment

Which = Literal["final", "best"]

FOLDER: Final = "model"
CARD: Final = "model.json"
TAILS: Final = "tails.safetensors"
CLIENTS: Final = "client"
"""In it, the clients whose tails are in the rows of the other tensors, shape (n,)."""
WHICH: Final[tuple[Which, ...]] = get_args(Which)


class Kept(Settings):
    """Which version a file holds, and how good it was when it was tested."""

    version: NonNegativeInt
    lineage: NonNegativeInt
    accuracy: float


class Card(Settings):
    """What `model.json` holds: all that the module is built from.

    Attributes:
        latecomer: The version that wrote it.
        name: Of the experiment.
        seed: Draws what a module does not train.
        model: The section `model` of the experiment.
        training: The section `method.training`; some store a weight in another form.
        shape: What the data looks like.
        mean: Of uint8 inputs, where 255 is 1; a model takes ``((x / 255) - mean) / std``.
        std: Likewise.
        versions: What the files hold, by their names.
        own_tails: How many clients there are, if each has a tail of its own; None if all have
            the same.
    """

    latecomer: str = metadata.version("latecomer")
    name: str
    seed: NonNegativeInt
    model: Model
    training: Training
    shape: DataShape
    mean: float = 0.0
    std: float = 1.0
    versions: dict[Which, Kept]
    own_tails: PositiveInt | None = None

    def named(self, name: str) -> Which:
        """Return the model of a name.

        Raises:
            ExperimentError: If there is none.
        """
        found = next((which for which in self.versions if which == name), None)
        if found is None:
            raise ExperimentError(f"there is no model {name!r}. Name {' or '.join(self.versions)}.")
        return found

    def alone(self, which: Which) -> Card:
        """Return the card of one of the models."""
        return self.model_copy(update={"versions": {which: self.versions[which]}})

    def text(self) -> str:
        """Return it as the file holds it."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"


class Made(NamedTuple):
    """A model that is to be kept.

    Attributes:
        version: Which it is.
        accuracy: What its test found.
        vector: Parameters and buffers that are exchanged, shape (P + B,).
        encoder: What an encoder of its own has learnt, shape (E,); None if it has none.
    """

    version: Version
    accuracy: float
    vector: Vector
    encoder: Vector | None = None


def write(
    out: Path,
    experiment: Experiment,
    holdings: Holdings,
    schema: ModelSchema,
    models: Mapping[Which, Made],
    own: Mapping[int, Vector] | None = None,
) -> Path:
    """Write models into a run's folder.

    Args:
        out: The run's folder.
        experiment: That they came of.
        holdings: The examples that they were trained on.
        schema: Their tensors that are exchanged.
        models: By their names.
        own: Tails of the clients that have trained one, as `Division.own_of` gives them; None if
            all have the same.

    Returns:
        The folder that holds them.

    Cost:
        A copy of each model on the disk.
    """
    mean, std = holdings.moments()
    card = Card(
        name=experiment.name,
        seed=experiment.seed,
        model=experiment.model,
        training=experiment.method.training,
        shape=holdings.shape,
        mean=mean,
        std=std,
        versions={
            which: Kept(
                version=one.version.number, lineage=one.version.lineage, accuracy=one.accuracy
            )
            for which, one in models.items()
        },
        own_tails=None if own is None else len(holdings),
    )
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for which, one in models.items():
        partial = folder / f"{which}.tmp"
        tensors = _tensors(one.vector, schema)
        if own is not None:
            tensors |= _tails(experiment.work(), holdings.shape, own, folder / TAILS)
        if one.encoder is not None and one.encoder.size:
            _, body = experiment.work().build_halves(holdings.shape)
            tensors |= _tensors(one.encoder, body.schema)
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.replace(weights(folder, which))
    partial = folder / "model.tmp"
    partial.write_text(card.text(), encoding="utf-8")
    partial.replace(folder / CARD)
    return folder


def weights(folder: Path, which: Which) -> Path:
    """Return the file of a model's parameters and buffers."""
    return folder / f"{which}.safetensors"


def read_card(folder: Path) -> Card:
    """Read `model.json`.

    Args:
        folder: Holds it.

    Raises:
        ExperimentError: If it is not there, or no card.
    """
    file = folder / CARD
    if not file.exists():
        raise ExperimentError(
            f"{folder} holds no models: there is no {CARD} in it. Runs of an earlier version left "
            "none; run the experiment again."
        )
    try:
        return Card.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise ExperimentError(f"{file} cannot be read: {error}") from error


def take_up(folder: Path, which: str = "final", client: int | None = None) -> nn.Module:
    """Return a model as a torch module, ready to be used.

    Args:
        folder: Holds `model.json` and the model.
        which: `final` or `best`.
        client: Whose tail it has, where tails are personal: the one that the client had when the
            run ended. A client that never trained, and nobody, has the one that the run began with.

    Returns:
        The module in eval mode: normalised inputs, shape (n, *shape.input), to logits.

    Raises:
        ExperimentError: If there is no such model, or it does not fit its card.
    """
    card = read_card(folder)
    file = weights(folder, card.named(which))
    work = Work(
        seed=card.seed,
        data=Mnist5k(),  # any: a module is built from the data's shape alone
        model=card.model,
        method=Method.model_validate({"training": card.training}),
    )
    flat = work.build(card.shape)
    found = _read(file) | ({} if client is None else _tail_of(folder, card, client))
    values = _values(found, file, flat.schema)
    flat.load(values[: flat.schema.parameters], values[flat.schema.parameters :])
    return flat.module.eval()


def _tensors(values: Vector, schema: ModelSchema) -> dict[str, npt.NDArray[np.float32]]:
    """Cut a flat vector into named tensors."""
    ends = np.cumsum([tensor.size for tensor in schema.tensors])[:-1]
    parts = np.split(values.astype(np.float32, copy=False), ends) if schema.tensors else []
    return {
        tensor.name: np.ascontiguousarray(part.reshape(tensor.shape))
        for tensor, part in zip(schema.tensors, parts, strict=True)
    }


def _tails(
    work: Work, shape: DataShape, own: Mapping[int, Vector], file: Path
) -> dict[str, npt.NDArray[np.float32]]:
    """Write the tails of clients; return the one that a run begins with."""
    model = work.build(shape)
    division = work.division(model.schema)
    rows = [_tensors(tail, division.own) for tail in own.values()]
    stacked: dict[str, npt.NDArray[Any]] = {
        tensor.name: np.array([row[tensor.name] for row in rows], dtype=np.float32).reshape(
            len(rows), *tensor.shape
        )
        for tensor in division.own.tensors
    }
    partial = file.with_suffix(".tmp")
    save_file(stacked | {CLIENTS: np.array(list(own), dtype=np.int64)}, partial)
    partial.replace(file)
    first = division.own_of(model.params.numpy(), model.buffers.numpy())
    return _tensors(first, division.own)


def _tail_of(folder: Path, card: Card, client: int) -> dict[str, npt.NDArray[np.float32]]:
    """Read a client's tail; nothing if it has never trained one.

    Raises:
        ExperimentError: If tails are not clients' own, or there is no such client.
    """
    if card.own_tails is None:
        raise ExperimentError(
            f"client {client} has no tail of its own: all clients of this run have the same model. "
            "Leave client out."
        )
    if not 0 <= client < card.own_tails:
        raise ExperimentError(f"client must lie in [0, {card.own_tails - 1}], got {client}.")
    found = _read(folder / TAILS)
    (rows,) = np.nonzero(found.pop(CLIENTS) == client)
    return {name: tensor[row] for row in rows for name, tensor in found.items()}


def _read(file: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the tensors of a file.

    Raises:
        ExperimentError: If it is gone.
    """
    if not file.exists():
        raise ExperimentError(f"{file} is gone. Copy it back, or run the experiment again.")
    found: dict[str, npt.NDArray[Any]] = load_file(file)
    return found


def _values(found: Mapping[str, npt.NDArray[Any]], file: Path, schema: ModelSchema) -> Vector:
    """Return the flat vector of a model.

    Args:
        found: Its tensors.
        file: They were read from.
        schema: The model's.

    Raises:
        ExperimentError: If there are other tensors than the model has.
    """
    for tensor in schema.tensors:
        shape = found[tensor.name].shape if tensor.name in found else None
        if shape != tensor.shape:
            raise ExperimentError(
                f"{file} must hold {tensor.name} of shape {tensor.shape}, and it has "
                f"{'none of that name' if shape is None else shape}. Is the model's code another "
                "one since?"
            )
    return np.concatenate([found[tensor.name].ravel() for tensor in schema.tensors])
