"""How do a run's figures get to MLflow without the run ever waiting for it?

The engine only puts things into an outbox. One daemon thread sends whatever waits in batches, and
tries again while the server is away. What is left at the end is kept beside the run and goes first
when the run is started again.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import BaseModel, Field

from orchestrator.observe import Point
from orchestrator.tracking.mlflow_store import CLOCK, MAX_NAMED, Store, chunks, without_password
from orchestrator.tracking.outbox import (
    MAX_TAG,
    Data,
    Kept,
    Outbox,
    Status,
    Waiting,
    first_points,
    flatten,
    taken_name,
    taken_number,
)
from orchestrator.tracking.trained import Which
from policies.base import Settings
from policies.units import Seconds

KEPT_FILE: Final = "mlflow.json"
UNDELIVERED_FILE: Final = "mlflow-undelivered.json"

_FIRST_RETRY_S: Final = 0.5
_LAST_RETRY_S: Final = 15.0
_Files = Literal["artifacts", "tables", "models"]
_Model = TypeVar("_Model", bound=BaseModel)


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
    models: bool = Field(
        default=True, description="Whether MLflow gets the final and the best model, too."
    )
    flush_s: Seconds = Field(
        gt=0, default=30.0, description="Seconds that the end of a run waits for MLflow."
    )


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of the figures.

    Attributes:
        delivered: Whether all of them are in MLflow.
        pending: Points, params, tags, files, models and final status that are not.
        note: What a person should know; empty if nothing.
        run_id: The MLflow run, None if there never was one.
    """

    delivered: bool
    pending: int
    note: str
    run_id: str | None


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
        self._store = Store(settings.uri or os.environ.get("MLFLOW_TRACKING_URI"), self._note)
        self._kept = Kept(key=uuid.uuid4().hex, started_ms=started_ms)
        self._outbox = Outbox()
        self._serial = 0  # of the next point
        self._first = 0  # of this process's points
        self._there: set[int] = set()  # versions whose points MLflow had when it was reached
        self._named: set[str] = set()  # metrics with a point
        self._wanted = 0  # points with a smaller serial are delivered or wait already
        self._notes: list[str] = []
        self._run_id: str | None = None  # of the run that the thread is connected to
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
            self._outbox.params.update(flatten(params))
            self._outbox.tags.update({taken_name(k): str(v)[:MAX_TAG] for k, v in tags.items()})
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def rewind(self, serial: int) -> None:
        """Expect points again that were taken before: none of them is sent twice.

        Args:
            serial: Of the next point, as `start` takes it.
        """
        with self._changed:
            self._wanted = max(self._wanted, self._serial)
            self._serial = serial

    def point(self, point: Point) -> None:
        """Take the figures of an evaluation (and of version 0)."""
        if not self._settings.enabled:
            return
        metrics = {taken_name(k): taken_number(v) for k, v in point.metrics.items()}
        metrics[CLOCK] = metrics.pop(CLOCK, point.time_s)
        with self._changed:
            serial, self._serial = self._serial, self._serial + 1
            begun = [name for name in metrics if serial and name not in self._named]
            self._named.update(metrics)
            if serial >= self._wanted and point.version not in self._there:
                self._outbox.points.append(
                    Waiting.model_construct(
                        serial=serial,
                        version=point.version,
                        time_s=point.time_s,
                        metrics=metrics,
                        begun=begun,
                    )
                )
                self._changed.notify()

    def finals(self, figures: Mapping[str, float], time_s: float) -> None:
        """Take figures that a run has at its end alone.

        Args:
            figures: By name.
            time_s: The run's own time at its end.
        """
        if not self._settings.enabled:
            return
        metrics = {taken_name(name): taken_number(value) for name, value in figures.items()}
        with self._changed:
            self._outbox.finals = [Waiting(serial=-1, version=0, time_s=time_s, metrics=metrics)]
            self._changed.notify()

    def data(self, data: Data) -> None:
        """Take the data set that the run is trained on."""
        if not self._settings.enabled:
            return
        with self._changed:
            self._outbox.data = data
            self._changed.notify()

    def artifacts(self, paths: Sequence[Path]) -> None:
        """Take files and folders; they are read when MLflow is there for them."""
        self._files("artifacts", [self._portable(path) for path in paths])

    def table(self, path: Path) -> None:
        """Take a Parquet file that is to be shown as a table."""
        self._files("tables", [self._portable(path)])

    def models(self, names: Sequence[Which]) -> None:
        """Take models that the run's folder holds, unless the settings leave them out."""
        if self._settings.models:
            self._files("models", names)

    def _files(self, field: _Files, names: Sequence[str]) -> None:
        if not self._settings.enabled:
            return
        with self._changed:
            waiting: list[str] = getattr(self._outbox, field)
            waiting += [name for name in names if name not in waiting]
            self._changed.notify()

    def tag(self, name: str, value: object) -> None:
        """Set a tag; the last value counts."""
        if not self._settings.enabled:
            return
        with self._changed:
            self._outbox.tags[taken_name(name)] = str(value)[:MAX_TAG]
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
        self._kept = self._read(KEPT_FILE, Kept) or self._kept
        self._outbox = self._read(UNDELIVERED_FILE, Outbox) or self._outbox
        outbox, delivered = self._outbox, self._kept.delivered
        outbox.status, outbox.trouble = None, ""
        outbox.points = [point for point in outbox.points if point.serial >= delivered]
        self._serial = self._first = first_serial
        self._named = {*self._kept.named, *(n for point in outbox.points for n in point.metrics)}
        self._wanted = outbox.points[-1].serial + 1 if outbox.points else delivered

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
                run_id = self._deliver()
                self._recover()
                if self._end(run_id):
                    return
                retry_s = _FIRST_RETRY_S
            except Exception as error:  # noqa: BLE001 - a sink never stops a run
                self._run_id = None
                with self._changed:
                    if self._closed.is_set():
                        return
                    self._outbox.trouble = without_password(f"{type(error).__name__}: {error}")
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

    def _deliver(self) -> str:
        """Send all that waits; return the run that has it."""
        run_id = self._run_id = self._run_id or self._connect()
        self._send_named(run_id, "params")
        self._send_named(run_id, "tags")
        self._send_data(run_id)
        self._send_points(run_id)
        self._send_finals(run_id)
        self._send_files("artifacts", lambda name: self._store.send_path(run_id, self._out / name))
        self._send_files("tables", lambda name: self._store.send_table(run_id, self._out / name))
        self._send_files("models", lambda name: self._store.send_model(run_id, self._out, name))
        return run_id

    def _end(self, run_id: str) -> bool:
        """Wait for more; if only the final status is left, send it and return that it is over."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._outbox))
            status = self._outbox.status
            if status is None or len(self._outbox) > 1:
                return False
        self._store.end_run(run_id, status, round(1000 * time.time()))
        with self._changed:
            if not self._closed.is_set():
                self._outbox.status = None
        return True

    def _connect(self) -> str:
        """Reach MLflow, and make or find the run there."""
        self._store.connect()
        run_id = self._kept.run_id and self._store.find_run(self._kept.run_id)
        if not run_id:
            with self._changed:
                if not self._closed.is_set():  # the key first: a run made is a run found
                    self._note_disk(self._keep_run)
            run_id = self._store.make_run(
                self._settings.experiment,
                key=self._kept.key,
                run_name=self._run_name,
                started_ms=self._kept.started_ms,
            )
        there, names = self._store.points(run_id), self._store.names(run_id)
        with self._changed:
            if not self._closed.is_set():
                self._kept.run_id = run_id
                self._catch_up(there, names)
                self._note_disk(self._keep_run)
        return run_id

    def _catch_up(self, there: set[int], names: set[str]) -> None:
        """Leave out what MLflow has already, though this folder may not know; hold the lock.

        Args:
            there: Versions whose points it has.
            names: Metrics that it has.
        """
        self._there = there
        self._named |= names
        points = [point for point in self._outbox.points if point.version not in there]
        for point in points:
            point.begun = [name for name in point.begun if name not in names]
        self._outbox.points = points
        known = max(self._wanted, len(there))
        if self._first > known:
            self._note(f"points {known} to {self._first - 1} were lost with a killed run")
        self._first = 0  # said once

    def _send_named(self, run_id: str, field: Literal["params", "tags"]) -> None:
        with self._changed:
            waiting: dict[str, str] = getattr(self._outbox, field)
            items = list(waiting.items())
        for part in chunks(items, MAX_NAMED):
            self._store.send_named(run_id, field, part)
            with self._changed:
                if self._closed.is_set():
                    return
                for key, value in part:
                    if waiting.get(key) == value:
                        del waiting[key]

    def _send_points(self, run_id: str) -> None:
        while True:
            with self._changed:
                points = first_points(self._outbox.points)
            if not points:
                return
            self._store.send_points(run_id, points, self._kept.started_ms)
            with self._changed:
                if self._closed.is_set():
                    return
                del self._outbox.points[: len(points)]
                self._kept.delivered = points[-1].serial + 1
                names = (name for point in points for name in point.metrics)
                self._kept.named = sorted({*self._kept.named, *names})
                self._note_disk(self._keep_run)

    def _send_data(self, run_id: str) -> None:
        with self._changed:
            data = self._outbox.data
        if data is None:
            return
        self._store.send_data(run_id, data)
        with self._changed:
            if not self._closed.is_set():
                self._outbox.data = None

    def _send_finals(self, run_id: str) -> None:
        with self._changed:
            finals = list(self._outbox.finals)
        if not finals:
            return
        self._store.send_points(run_id, finals, self._kept.started_ms)
        with self._changed:
            if not self._closed.is_set():
                self._outbox.finals = []

    def _send_files(self, field: _Files, send: Callable[[str], None]) -> None:
        with self._changed:
            waiting: list[str] = getattr(self._outbox, field)
            names = list(waiting)
        for name in names:
            send(name)
            with self._changed:
                if self._closed.is_set():
                    return
                waiting.remove(name)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
