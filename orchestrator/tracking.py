"""How do a run's figures get to MLflow without the run ever waiting for it?

The engine only puts things into an outbox. One daemon thread imports MLflow, sends whatever waits
in batches, and tries again while the server is away. What is left at the end is kept beside the
run and goes first when the run is started again.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import math
import os
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from orchestrator.observe import Point
from policies.base import Settings

Status = Literal["FINISHED", "KILLED", "FAILED"]

KEPT_FILE: Final = "mlflow.json"
UNDELIVERED_FILE: Final = "mlflow-undelivered.json"

_MAX_METRICS: Final = 1000  # MLflow's limits for one log_batch
_MAX_NAMED: Final = 100
_MAX_NAME: Final = 250
_MAX_PARAM: Final = 6000
_MAX_TAG: Final = 8000
_FIRST_RETRY_S: Final = 0.5
_LAST_RETRY_S: Final = 15.0
_KEY_TAG: Final = "latecomer.key"
_HOW: Final = (
    "MLflow could not be reached. What is in this file is delivered first when the run is started "
    "again with `latecomer run --resume` and this folder; the file then goes away."
)
_Model = TypeVar("_Model", bound=BaseModel)
_CALM: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the outbox tries again, and stays awake meanwhile
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # the terminal belongs to the run
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Set for our client unless the user has set them."""


class TrackingSettings(Settings):
    """Where a run's figures go."""

    experiment: str = Field(
        default="latecomer", min_length=1, description="The MLflow experiment that holds the run."
    )
    uri: str | None = Field(
        default=None,
        description="Tracking server or database. By default MLFLOW_TRACKING_URI, else "
        "mlflow.db in the working folder with its artifacts in mlartifacts beside it.",
    )
    enabled: bool = Field(default=True, description="Whether MLflow is told at all.")
    flush_s: PositiveFloat = Field(
        default=30.0, description="Seconds that the end of a run waits for MLflow."
    )


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of the figures.

    Attributes:
        delivered: Whether all of them are in MLflow.
        pending: Points, params, tags, artifacts and final status that are not.
        note: What a person should know; empty if nothing.
        run_id: The MLflow run, None if there never was one.
    """

    delivered: bool
    pending: int
    note: str
    run_id: str | None


class _Kept(BaseModel):
    """What `mlflow.json` remembers of a run, so that the next process continues it."""

    key: str  # marks the run in MLflow from the moment that it is made
    started_ms: int
    run_id: str | None = None
    delivered: int = 0  # points with a smaller serial are in MLflow


class _Waiting(BaseModel):
    """A point and its place since the run's very beginning."""

    serial: int
    version: int
    time_s: float
    metrics: dict[str, float]


class _Outbox(BaseModel):
    """What MLflow has not been given yet."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    note: str = _HOW
    trouble: str = ""
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    points: list[_Waiting] = []
    artifacts: list[str] = []
    status: Status | None = None

    def __len__(self) -> int:
        named = len(self.params) + len(self.tags)
        return named + len(self.points) + len(self.artifacts) + (self.status is not None)


class Tracker:
    """Sends a run to MLflow in the background; an `Observer`.

    Every method but `finish` returns at once, and none raises. A point is named by its serial,
    its place in the order of `point` calls since the run's very beginning. A run that is resumed
    says where it goes on, and what MLflow already has is not sent twice.
    """

    def __init__(
        self, settings: TrackingSettings, *, out: Path, run_name: str, started_ms: int
    ) -> None:
        self._settings = settings
        self._out = out.absolute()
        self._run_name = run_name
        self._store = _Store(settings.uri or os.environ.get("MLFLOW_TRACKING_URI"))
        self._kept = _Kept(key=uuid.uuid4().hex, started_ms=started_ms)
        self._outbox = _Outbox()
        self._serial = 0  # of the next point
        self._wanted = 0  # points with a smaller serial are delivered or wait already
        self._notes: list[str] = []
        self._client: Any = None
        self._changed = threading.Condition()
        self._finishing = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def run_id(self) -> str | None:
        """The MLflow run, once known."""
        return self._kept.run_id

    @property
    def pending(self) -> int:
        """How many things wait."""
        return len(self._outbox)

    def start(
        self, params: Mapping[str, object], tags: Mapping[str, str], *, first_serial: int = 0
    ) -> None:
        """Begin, or continue what `out` remembers.

        Args:
            params: The resolved experiment; nested names are joined by dots.
            tags: Names and values.
            first_serial: Serial of the first point to come: how many `point` calls the run has
                made up to the checkpoint that it is resumed from.
        """
        if not self._settings.enabled or self._thread is not None:
            return
        self._recall(first_serial)
        with self._changed:
            self._outbox.params.update(_flatten(params))
            self._outbox.tags.update({_name(k): str(v)[:_MAX_TAG] for k, v in tags.items()})
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def point(self, point: Point) -> None:
        """Take the figures of an evaluation (and of version 0)."""
        if not self._settings.enabled:
            return
        metrics = {_name(k): _number(v) for k, v in point.metrics.items()}
        metrics.setdefault("virtual_seconds", point.time_s)
        with self._changed:
            serial, self._serial = self._serial, self._serial + 1
            if serial >= self._wanted:
                self._outbox.points.append(
                    _Waiting.model_construct(
                        serial=serial, version=point.version, time_s=point.time_s, metrics=metrics
                    )
                )
                self._changed.notify()

    def artifacts(self, paths: Sequence[Path]) -> None:
        """Take files and folders; they are read when MLflow is there for them."""
        if not self._settings.enabled:
            return
        with self._changed:
            self._outbox.artifacts += [self._portable(path) for path in paths]
            self._changed.notify()

    def tag(self, name: str, value: object) -> None:
        """Set a tag; the last value counts."""
        if not self._settings.enabled:
            return
        with self._changed:
            self._outbox.tags[_name(name)] = str(value)[:_MAX_TAG]
            self._changed.notify()

    def finish(self, status: Status, *, wait_s: float | None = None) -> Delivery:
        """End the MLflow run and wait a while for all of it to arrive.

        Args:
            status: How the run ended.
            wait_s: Longest wait, `flush_s` of the settings if None. A run that is being killed
                has little time.

        Returns:
            What became of the figures. What is not delivered is in `mlflow-undelivered.json`.
        """
        if self._thread is None:
            return Delivery(delivered=True, pending=0, note="", run_id=None)
        with self._changed:
            if not self._closed.is_set():
                self._outbox.status = status
            self._finishing.set()
            self._changed.notify()
        self._thread.join(self._settings.flush_s if wait_s is None else wait_s)
        with self._changed:
            self._closed.set()  # from here on the thread touches neither files nor outbox
            pending = len(self._outbox)
            self._note_disk(self._keep_outbox)
            notes = [*self._notes, self._outbox.trouble] if pending else self._notes
        if pending:
            notes = [f"{pending} items for MLflow are kept in {UNDELIVERED_FILE}", *notes]
        return Delivery(
            delivered=not pending,
            pending=pending,
            note="; ".join(note for note in notes if note),
            run_id=self._kept.run_id,
        )

    # What is kept beside the run.

    def _recall(self, first_serial: int) -> None:
        """Take up what an earlier process left in `out`."""
        self._kept = self._read(KEPT_FILE, _Kept) or self._kept
        self._outbox = self._read(UNDELIVERED_FILE, _Outbox) or self._outbox
        outbox, delivered = self._outbox, self._kept.delivered
        outbox.status, outbox.trouble = None, ""
        outbox.points = [point for point in outbox.points if point.serial >= delivered]
        self._serial = first_serial
        self._wanted = outbox.points[-1].serial + 1 if outbox.points else delivered
        if first_serial > self._wanted:
            self._note(f"points {self._wanted} to {first_serial - 1} were lost with a killed run")

    def _read(self, name: str, model: type[_Model]) -> _Model | None:
        path = self._out / name
        try:
            return model.model_validate_json(path.read_bytes()) if path.exists() else None
        except (OSError, ValueError) as error:
            self._note(f"{path} cannot be read: {error}")
            return None

    def _keep_outbox(self) -> None:
        """Write what waits, or remove the file if nothing does; hold the lock."""
        path = self._out / UNDELIVERED_FILE
        if len(self._outbox):
            _write(path, self._outbox.model_dump_json(indent=1))
        else:
            path.unlink(missing_ok=True)

    def _keep_run(self) -> None:
        """Write which run it is and how far it has come; hold the lock."""
        _write(self._out / KEPT_FILE, self._kept.model_dump_json(indent=1))

    def _note_disk(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            self._note(f"{self._out} cannot be written: {error}")

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)

    def _portable(self, path: Path) -> str:
        """Name a file of the run's folder by its place in it, so that the folder can move."""
        whole = path.absolute()
        return str(whole.relative_to(self._out) if whole.is_relative_to(self._out) else whole)

    # The writer thread.

    def _work(self) -> None:
        """Deliver what comes until the run is over; never raise."""
        retry_s = _FIRST_RETRY_S
        while not self._closed.is_set():
            try:
                self._deliver()
                self._recover()
                if self._end():
                    return
                retry_s = _FIRST_RETRY_S
            except Exception as error:  # noqa: BLE001 - a sink never stops a run
                self._client = None
                with self._changed:
                    if self._closed.is_set():
                        return
                    self._outbox.trouble = _without_password(f"{type(error).__name__}: {error}")
                    self._note_disk(self._keep_outbox)
                if not self._finishing.wait(retry_s):
                    retry_s = min(2 * retry_s, _LAST_RETRY_S)
                else:
                    self._closed.wait(_FIRST_RETRY_S)

    def _recover(self) -> None:
        """Forget a trouble that is over."""
        with self._changed:
            if self._outbox.trouble and not self._closed.is_set():
                self._outbox.trouble = ""
                self._note_disk((self._out / UNDELIVERED_FILE).unlink)

    def _deliver(self) -> None:
        """Send all that waits."""
        if self._client is None:
            self._client = self._connect()
        self._send_named("params")
        self._send_named("tags")
        self._send_points()
        self._send_artifacts()

    def _end(self) -> bool:
        """Wait for more; if only the final status is left, send it and return that it is over."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._outbox))
            status = self._outbox.status
            if status is None or len(self._outbox) > 1:
                return False
        self._client.set_terminated(self._kept.run_id, status, round(1000 * time.time()))
        with self._changed:
            if not self._closed.is_set():
                self._outbox.status = None
        return True

    def _connect(self) -> Any:
        """Return a client, with the run made or found and running."""
        client = self._store.client()
        run_id = self._kept.run_id and self._find_run(client, self._kept.run_id)
        if not run_id:
            with self._changed:
                if not self._closed.is_set():  # the key first: a run made is a run found
                    self._note_disk(self._keep_run)
            run_id = self._make_run(client)
        with self._changed:
            if not self._closed.is_set():
                self._kept.run_id = run_id
                self._note_disk(self._keep_run)
        return client

    def _find_run(self, client: Any, run_id: str) -> str | None:
        """Set a run that exists to running again."""
        try:
            info = client.get_run(run_id).info
        except Exception as error:
            if _code(error) != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._note(f"MLflow does not know run {run_id}; a new one continues it")
            return None
        if info.lifecycle_stage == "deleted":
            raise RuntimeError(f"MLflow run {run_id} was deleted. Restore it to get the figures.")
        if info.status != "RUNNING":
            client.update_run(run_id, status="RUNNING")
        return run_id

    def _make_run(self, client: Any) -> str:
        """Make the run, unless a call that seemed to fail has made it."""
        name = self._settings.experiment
        found = client.get_experiment_by_name(name)
        if found is None:
            place = self._store.artifact_location(name)
            experiment = client.create_experiment(name, artifact_location=place)
        else:
            experiment = found.experiment_id
            made = client.search_runs([experiment], f"tags.`{_KEY_TAG}` = '{self._kept.key}'")
            if made:
                return str(made[0].info.run_id)
        tags = {_KEY_TAG: self._kept.key, "mlflow.source.name": "latecomer", **_user()}
        run = client.create_run(
            experiment, start_time=self._kept.started_ms, tags=tags, run_name=self._run_name
        )
        return str(run.info.run_id)

    def _send_named(self, field: Literal["params", "tags"]) -> None:
        from mlflow.entities import Param, RunTag  # noqa: PLC0415 - seconds, in this thread only

        make = Param if field == "params" else RunTag
        with self._changed:
            waiting: dict[str, str] = getattr(self._outbox, field)
            items = list(waiting.items())
        for part in _chunks(items, _MAX_NAMED):
            self._log(field, [make(key, value) for key, value in part])
            with self._changed:
                if self._closed.is_set():
                    return
                for key, value in part:
                    if waiting.get(key) == value:
                        del waiting[key]

    def _send_points(self) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415

        while True:
            with self._changed:
                points = _first_points(self._outbox.points)
            if not points:
                return
            metrics = [
                Metric(name, value, self._kept.started_ms + round(1000 * p.time_s), p.version)
                for p in points
                for name, value in p.metrics.items()
            ]
            for part in _chunks(metrics, _MAX_METRICS):
                self._log("metrics", part)
            with self._changed:
                if self._closed.is_set():
                    return
                del self._outbox.points[: len(points)]
                self._kept.delivered = points[-1].serial + 1
                self._note_disk(self._keep_run)

    def _send_artifacts(self) -> None:
        with self._changed:
            names = list(self._outbox.artifacts)
        for name in names:
            path = self._out / name
            if path.is_dir():
                self._client.log_artifacts(self._kept.run_id, str(path), artifact_path=path.name)
            elif path.exists():
                self._client.log_artifact(self._kept.run_id, str(path))
            else:
                self._note(f"{path} is gone and was not sent to MLflow")
            with self._changed:
                if self._closed.is_set():
                    return
                self._outbox.artifacts.remove(name)

    def _log(self, field: str, items: Sequence[Any]) -> None:
        """Log a batch; what MLflow refuses for good is found by halving, and dropped."""
        try:
            self._client.log_batch(self._kept.run_id, **{field: items})
        except Exception as error:
            if _code(error) != "INVALID_PARAMETER_VALUE":
                raise
            if self._client.get_run(self._kept.run_id).info.lifecycle_stage == "deleted":
                raise
            if len(items) == 1:
                self._note(f"MLflow refused {items[0].key}: {_without_password(str(error))}")
                return
            half = len(items) // 2
            self._log(field, items[:half])
            self._log(field, items[half:])


class _Store:
    """Where MLflow is: a server, or a database file."""

    def __init__(self, uri: str | None) -> None:
        self._uri = uri or "sqlite:///mlflow.db"
        self._file: Path | None = None
        path = self._uri.removeprefix("sqlite:///")
        if path not in (self._uri, "", ":memory:"):
            self._file = Path(path).absolute()  # the working folder may change later
            self._uri = f"sqlite:///{self._file}"

    def client(self) -> Any:
        """Return a client; a new database gets its tables (about 1.5 s)."""
        for name, value in _CALM.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # noqa: PLC0415

        with self._alone():
            return MlflowClient(self._uri)

    def artifact_location(self, experiment: str) -> str | None:
        """Return where a new experiment's artifacts go; None leaves it to the server."""
        if self._file is None:
            return None
        folder = re.sub(r"[^\w.-]", "_", experiment)
        return (self._file.parent / "mlartifacts" / folder).as_uri()

    def _alone(self) -> contextlib.AbstractContextManager[Any]:
        """Hold the database file: two processes that both make its tables break it."""
        if self._file is None:
            return contextlib.nullcontext()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        name = hashlib.blake2b(str(self._file).encode(), digest_size=8).hexdigest()
        return FileLock(Path(tempfile.gettempdir()) / f"latecomer-mlflow-{name}.lock", timeout=60)


def _flatten(value: object, prefix: str = "") -> dict[str, str]:
    """Return nested settings under dotted names, as the experiment file would write them."""
    if isinstance(value, Mapping) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, Sequence) and any(isinstance(item, Mapping) for item in value):
        items = [(str(place), item) for place, item in enumerate(value)]
    else:
        text = value if isinstance(value, str) else _json(value)
        return {_name(prefix): text[:_MAX_PARAM]} if prefix else {}
    flat: dict[str, str] = {}
    for key, item in items:
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else key)
    return flat


def _json(value: object) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return str(value)


def _name(text: str) -> str:
    """Return a name that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", text)[:_MAX_NAME]


def _number(value: object) -> float:
    """Return a figure; what is not finite becomes NaN (an infinity would be stored as 1.8e308)."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _first_points(points: Sequence[_Waiting]) -> list[_Waiting]:
    """Return the first points that fit into one call, at least one if there is one."""
    taken: list[_Waiting] = []
    room = _MAX_METRICS
    for point in points:
        room -= len(point.metrics)
        if taken and room < 0:
            break
        taken.append(point)
    return taken


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _code(error: Exception) -> str:
    return str(getattr(error, "error_code", ""))


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//", text)[:1000]


def _user() -> dict[str, str]:
    try:
        return {"mlflow.user": getpass.getuser()}
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return {}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
