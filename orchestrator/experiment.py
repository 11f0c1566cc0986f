"""What does an experiment file hold?

The model below is the schema: its fields, their types and the checks between sections. Reading a
file needs no Ray, no MLflow and, unless it names a model of the user's own, no torch.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from actors.identity import join_paths
from actors.learning.data import Data, DataSettings, DataShape
from actors.learning.models import Model
from actors.learning.sources.packaged import Mnist5k
from actors.learning.sources.silos import Silos
from actors.work import Work
from orchestrator.checks import CHECKS, ends_of, memory_of
from orchestrator.clock import WallSettings
from orchestrator.document import Document
from orchestrator.fleet import FleetSettings, ServerSettings
from orchestrator.kpis import Kpis
from orchestrator.refusals import UNKNOWN
from orchestrator.sections import Checkpoints, Evaluate, Guards, Hosting, Limits, PlannedFault
from orchestrator.tracking.tracker import TrackingSettings
from policies.base import Settings
from policies.guards import Stop
from policies.memory import Memory
from policies.method import Method
from policies.splitting import Ends, Split, Topology, Whole
from policies.types import ExperimentError

__all__ = ["CHECKS", "Experiment", "json_schema", "read"]


def _name(name: str) -> str:
    if not name or any(c in name for c in "/\\\0") or name.strip(". ") != name:
        raise PydanticCustomError(
            "run_name",
            "must be usable as a folder's name, got {name}. Use letters, digits and hyphens.",
            {"name": name},
        )
    return name


def _names_clients(data: Any) -> bool:
    """Return whether a section `data`, valid or not, means to say who the clients are."""
    if not isinstance(data, dict):
        return False
    partition = data.get("partition")
    natural = isinstance(partition, dict) and partition.get("kind") == "natural"
    return natural or data.get("source") == "silos"


class Experiment(Settings):
    """A whole experiment.

    Attributes:
        name: Names the run and its folder.
        seed: Names all random streams: the same file and seed give the same run.
        clock: `virtual` jumps from event to event; `wall` is a live fleet.
        wall: How time passes on the wall clock.
        data: Examples, and who holds which.
        model: What is trained.
        fleet: The clients' devices.
        server: The modelled server.
        hosting: One actor a client, or a few actors for all; `auto` says which and why.
        method: The policies.
        topology: Whether clients compute the whole model, or an encoder's side part of it.
        stop: When the run has done enough.
        guards: What else a figure leads to.
        evaluate: How often a version is tested.
        checkpoint: How often the run is saved.
        limits: How long anything is waited for.
        faults: Planned faults, to see that a run survives them.
        tracking: Where MLflow is.
        kpis: Conditions on the run's figures: shown live, judged at the end.
    """

    name: Annotated[str, AfterValidator(_name)]
    seed: NonNegativeInt = 0
    clock: Literal["virtual", "wall"] = "virtual"
    wall: WallSettings = WallSettings()
    data: Data = Mnist5k()
    model: Model
    fleet: FleetSettings
    server: ServerSettings = ServerSettings()
    hosting: Hosting = "auto"
    method: Method
    topology: Topology = Whole()
    stop: Stop
    guards: Guards = Guards()
    evaluate: Evaluate = Evaluate()
    checkpoint: Checkpoints = Checkpoints()
    limits: Limits = Limits()
    faults: tuple[PlannedFault, ...] = ()
    tracking: TrackingSettings = TrackingSettings()
    kpis: Kpis = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _count_clients(cls, values: Any) -> Any:
        """Fill in `fleet.clients` where the data says who its clients are."""
        fleet = values.get("fleet") if isinstance(values, dict) else None
        if not isinstance(fleet, dict) or "clients" in fleet:
            return values
        given = values.get("data", {})
        clients: Any = None
        with suppress(ValidationError, ExperimentError):  # said where it stands
            clients = TypeAdapter[DataSettings](Data).validate_python(given).natural_clients()
        if clients is None and not _names_clients(given):
            return values
        return {**values, "fleet": {"clients": UNKNOWN if clients is None else clients, **fleet}}

    def work(self, *, timed: bool = False) -> Work:
        """Return what actors are told; `timed` is whether their time is taken."""
        return Work(
            seed=self.seed,
            data=self.data,
            model=self.model,
            method=self.method.among(self.fleet.clients),
            topology=self.topology,
            tests=self.evaluate.examples,
            shards=self.server.shards,
            lengths=self.guards.anomaly.length is not None,
            timed=timed,
        )

    def hosted(self) -> Hosting:
        """Return the hosting that is asked for; a silo's actor is always its own."""
        return "dedicated" if isinstance(self.data, Silos) else self.hosting

    def ends(self, shape: DataShape) -> dict[int, Ends]:
        """Return how the model is split, by the number of blocks that may run on a device.

        Raises:
            ExperimentError: If it cannot be split, or not there.
        """
        return ends_of(self.topology, self.model, shape) if isinstance(self.topology, Split) else {}

    def memory(self, shape: DataShape) -> Memory:
        """Return what training the whole model takes on a device."""
        return memory_of(self.model, shape)


def read(path: Path, assignments: tuple[str, ...] = ()) -> tuple[Experiment, list[str]]:
    """Read an experiment file; its folder becomes importable.

    Args:
        path: The file.
        assignments: `key=value` pairs that override it.

    Returns:
        The experiment, and notes on what the assignments dropped.

    Raises:
        ExperimentFileError: With every mistake and its line.
    """
    join_paths([str(path.resolve().parent)])
    document = Document.read(path)
    notes = document.override(assignments, Experiment)
    return document.validate(Experiment, CHECKS), notes


def json_schema() -> str:
    """Return the JSON schema of experiment files, as `docs/experiment.schema.json` holds it."""
    schema = Experiment.model_json_schema()
    schema["$defs"]["FleetSettings"]["required"].remove("clients")  # some data says how many
    return json.dumps(schema, indent=2) + "\n"
