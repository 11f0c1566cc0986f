"""What has MLflow not been given yet, in words that it takes?"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from orchestrator.tracking.trained import Which

Status = Literal["FINISHED", "KILLED", "FAILED"]

MAX_METRICS: Final = 1000  # MLflow's limits
MAX_TAG: Final = 8000
_MAX_NAME: Final = 250
_MAX_PARAM: Final = 6000
_HOW: Final = (
    "MLflow could not be reached. What is in this file is delivered first when the run is started "
    "again with `latecomer run --resume` and this folder; the file then goes away."
)


class Kept(BaseModel):
    """What `mlflow.json` remembers of a run, so that the next process continues it."""

    key: str  # marks the run in MLflow from the moment that it is made
    started_ms: int
    run_id: str | None = None
    delivered: int = 0  # points with a smaller serial are in MLflow
    named: list[str] = []  # metrics that have a point there


class Waiting(BaseModel):
    """A point and its place since the run's very beginning.

    Attributes:
        begun: Names whose first figure this is, though the run began before.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    serial: int
    version: int
    time_s: float
    metrics: dict[str, float]
    begun: list[str] = []


class Data(BaseModel):
    """A data set that a run was trained on.

    Attributes:
        digest: Tells it from others of its name, at most 36 characters.
        source: Where it comes from, JSON.
        outline: What an example looks like, in MLflow's JSON.
        profile: Counts, JSON.
    """

    name: str
    digest: str
    source: str
    outline: str
    profile: str


class Outbox(BaseModel):
    """What MLflow has not been given yet."""

    note: str = _HOW
    trouble: str = ""
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    points: list[Waiting] = []
    data: Data | None = None
    finals: list[Waiting] = []
    artifacts: list[str] = []
    tables: list[str] = []
    models: list[Which] = []
    status: Status | None = None

    def __len__(self) -> int:
        single = (self.data is not None) + (self.status is not None)
        named = len(self.params) + len(self.tags)
        files = len(self.artifacts) + len(self.tables) + len(self.models)
        return named + len(self.points) + len(self.finals) + files + single


def flatten(value: object, prefix: str = "") -> dict[str, str]:
    """Return nested settings under dotted names, as the experiment file would write them."""
    if isinstance(value, Mapping) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, Sequence) and any(isinstance(item, Mapping) for item in value):
        items = [(str(place), item) for place, item in enumerate(value)]
    else:
        text = value if isinstance(value, str) else _json(value)
        return {taken_name(prefix): text[:_MAX_PARAM]} if prefix else {}
    flat: dict[str, str] = {}
    for key, item in items:
        flat |= flatten(item, f"{prefix}.{key}" if prefix else key)
    return flat


def _json(value: object) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return str(value)


def taken_name(text: str) -> str:
    """Return a name that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", text)[:_MAX_NAME]


def taken_number(value: object) -> float:
    """Return a figure; what is not finite becomes NaN (an infinity would be stored as 1.8e308)."""
    try:
        figure = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
    return figure if math.isfinite(figure) else math.nan


def first_points(points: Sequence[Waiting]) -> list[Waiting]:
    """Return the first points that fit into one call, at least one if there is one."""
    taken: list[Waiting] = []
    room = MAX_METRICS
    for point in points:
        room -= len(point.metrics)
        if taken and room < 0:
            break
        taken.append(point)
    return taken
