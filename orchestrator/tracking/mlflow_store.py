"""How is MLflow reached, and what does a run look like there?

The only module that imports MLflow, and only when a run is under way: it takes seconds. Every
method may raise and may be called again. What is no setting and no figure is in `mlflow_things`.
"""

from __future__ import annotations

import contextlib
import difflib
import getpass
import hashlib
import math
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from filelock import FileLock

from orchestrator.tracking.mlflow_things import Things
from orchestrator.tracking.outbox import MAX_METRICS, Status, Waiting
from policies.types import ExperimentError

MAX_NAMED: Final = 100  # params or tags in one call
CLOCK: Final = "virtual_seconds"
"""The metric that every point has."""
_KEY_TAG: Final = "latecomer.key"
_EXPERIMENT: Final = "experiment:"
_PAGE: Final = 1000  # runs in one answer
_CALM: Final = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the outbox tries again, and stays awake meanwhile
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # the terminal belongs to the run
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Set for our client unless the user has set them."""
_IMPORT: Final = threading.Lock()


class Store(Things):
    """Where MLflow is, a server or a database file, and how it is written to.

    Args:
        uri: Of a server or a database; None takes `mlflow.db` in the working folder.
        note: Takes what a person should know.
    """

    def __init__(self, uri: str | None, note: Callable[[str], None]) -> None:
        self._note = note
        self._client: Any = None
        self._uri = uri or "sqlite:///mlflow.db"
        self._file: Path | None = None
        path = self._uri.removeprefix("sqlite:///")
        if path not in (self._uri, "", ":memory:"):
            self._file = Path(path).absolute()  # the working folder may change later
            self._uri = f"sqlite:///{self._file}"

    def connect(self) -> None:
        """Make a new client; a new database gets its tables (about 1.5 s)."""
        for name, value in _CALM.items():
            os.environ.setdefault(name, value)
        client, self._entities = _mlflow()
        with self._alone():
            self._client = client(self._uri)

    def find_run(self, run_id: str) -> str | None:
        """Set a run that exists to running again; None if MLflow does not know it."""
        try:
            info = self._client.get_run(run_id).info
        except Exception as error:
            if _code(error) != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._note(f"MLflow does not know run {run_id}; a new one continues it")
            return None
        if info.lifecycle_stage == "deleted":
            raise RuntimeError(f"MLflow run {run_id} was deleted. Restore it to get the figures.")
        if info.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        return run_id

    def make_run(self, experiment: str, *, key: str, run_name: str, started_ms: int) -> str:
        """Make the run that `key` marks, unless a call that seemed to fail has made it."""
        found = self._client.get_experiment_by_name(experiment)
        if found is None:
            place = self._artifact_location(experiment)
            where = self._client.create_experiment(experiment, artifact_location=place)
        else:
            where = found.experiment_id
            made = self._client.search_runs([where], f"tags.`{_KEY_TAG}` = '{key}'")
            if made:
                return str(made[0].info.run_id)
        tags = {_KEY_TAG: key, "mlflow.source.name": "latecomer", **_user()}
        run = self._client.create_run(where, start_time=started_ms, tags=tags, run_name=run_name)
        return str(run.info.run_id)

    def send_named(
        self, run_id: str, field: Literal["params", "tags"], items: Sequence[tuple[str, str]]
    ) -> None:
        """Send at most `MAX_NAMED` params or tags."""
        make = self._entities.Param if field == "params" else self._entities.RunTag
        self._log(run_id, field, [make(key, value) for key, value in items])

    def send_points(self, run_id: str, points: Sequence[Waiting], started_ms: int) -> None:
        """Send points; their time is the run's start plus virtual time.

        A chart's axis of time begins at a metric's first point, so that one that begins later than
        the run gets a point without a number at the run's start.
        """
        make = self._entities.Metric
        metrics = [make(name, math.nan, started_ms, 0) for p in points for name in p.begun]
        metrics += [
            make(name, value, started_ms + round(1000 * p.time_s), p.version)
            for p in points
            for name, value in p.metrics.items()
        ]
        for part in chunks(metrics, MAX_METRICS):
            self._log(run_id, "metrics", part)

    def points(self, run_id: str) -> set[int]:
        """Return the versions of which a run has the figures.

        The run's own time is the last of them that is sent: where it is, all of the point is.
        """
        history = self._client.get_metric_history(run_id, CLOCK)
        return {metric.step for metric in history if not math.isnan(metric.value)}

    def names(self, run_id: str) -> set[str]:
        """Return the names of a run's metrics."""
        return set(self._client.get_run(run_id).data.metrics)

    def send_path(self, run_id: str, path: Path) -> None:
        """Send a file or a folder; note one that is gone."""
        if path.is_dir():
            self._client.log_artifacts(run_id, str(path), artifact_path=path.name)
        elif path.exists():
            self._client.log_artifact(run_id, str(path))
        else:
            self._note(f"{path} is gone and was not sent to MLflow")

    def end_run(self, run_id: str, status: Status, ended_ms: int) -> None:
        """Set the final status."""
        self._client.set_terminated(run_id, status, ended_ms)

    def _log(self, run_id: str, field: str, items: Sequence[Any]) -> None:
        """Log a batch; what MLflow refuses for good is found by halving, and dropped."""
        try:
            self._client.log_batch(run_id, **{field: items})
        except Exception as error:
            if _code(error) != "INVALID_PARAMETER_VALUE":
                raise
            if self._client.get_run(run_id).info.lifecycle_stage == "deleted":
                raise
            if len(items) == 1:
                self._note(f"MLflow refused {items[0].key}: {without_password(str(error))}")
                return
            half = len(items) // 2
            self._log(run_id, field, items[:half])
            self._log(run_id, field, items[half:])

    def _artifact_location(self, experiment: str) -> str | None:
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


class Shelf(Store):
    """Runs in MLflow, to be read; nothing is made or changed there.

    Args:
        uri: Of a server or a database; None takes `mlflow.db` in the working folder.
    """

    def __init__(self, uri: str | None) -> None:
        super().__init__(uri, note=lambda _: None)

    def open(self, why: str) -> None:
        """Connect.

        Args:
            why: What is looked for, for the message.

        Raises:
            ExperimentError: If there is no such database, or MLflow does not answer.
        """
        if self._file is not None and not self._file.exists():
            raise ExperimentError(
                f"{why} is no folder, and there is no MLflow database {self._file} to look it up "
                "in. Name a run's folder, or give --mlflow-uri."
            )
        with self._told():
            self.connect()

    def find(self, wanted: str) -> list[tuple[str, str]]:
        """Return (id, name) of the runs that are meant, in the order of their start.

        Args:
            wanted: A run's id or name, or `experiment:NAME` for all of an experiment.

        Raises:
            ExperimentError: If MLflow knows nothing of that name, or does not answer.
        """
        with self._told():
            experiments = {e.name: e.experiment_id for e in self._client.search_experiments()}
            if wanted.startswith(_EXPERIMENT):
                name = wanted.removeprefix(_EXPERIMENT)
                ids = [experiments[name]] if name in experiments else []
                known, what = list(experiments), f"experiment {name}"
            else:
                name, ids, known, what = wanted, list(experiments.values()), [], f"run {wanted}"
            runs = [run.info for run in self._search(ids)]
        if wanted.startswith(_EXPERIMENT):
            named = runs
        else:
            named = [run for run in runs if wanted in (run.run_id, run.run_name)]
            known = [run.run_name for run in runs]
        if not named:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ExperimentError(
                f"there is no folder {wanted}, and MLflow at {without_password(self._uri)} has no "
                f"{what} with runs.{hint} Name a run's folder, an MLflow run's id or name, or "
                "experiment:NAME; --mlflow-uri names another store."
            )
        return [(run.run_id, run.run_name or run.run_id) for run in named]

    def fetch(self, run_id: str, names: Sequence[str], folder: Path) -> None:
        """Download those of a run's artifacts that are there.

        Raises:
            ExperimentError: If MLflow does not give them.
        """
        with self._told():
            there = {item.path for item in self._client.list_artifacts(run_id)}
            for name in names:
                if name in there:
                    self._client.download_artifacts(run_id, name, str(folder))

    def refusal(self) -> str | None:
        """Say why a server takes no figures, or return None; nothing is written.

        Asks it to log to a run that cannot exist: whoever may write is told that there is no such
        run.
        """
        try:
            self.connect()
            self._client.set_tag("0" * 32, "latecomer", "asked")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            if _code(error) == "RESOURCE_DOES_NOT_EXIST":
                return None
            return without_password(f"{type(error).__name__}: {error}")
        return None

    def _search(self, experiments: Sequence[str]) -> Iterator[Any]:
        """Yield all runs of experiments, page by page."""
        token: str | None = None
        while experiments:
            page = self._client.search_runs(
                experiments, max_results=_PAGE, order_by=["start_time ASC"], page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what goes wrong in MLflow into our own words."""
        try:
            yield
        except Exception as error:
            raise ExperimentError(
                f"MLflow at {without_password(self._uri)} cannot be read: "
                f"{without_password(str(error))}. Is it there? --mlflow-uri names another store."
            ) from error


def _mlflow() -> tuple[Any, Any]:
    """Import MLflow whole, or leave nothing of it behind; return its client and its entities.

    Python forgets a package whose import failed but keeps those of its modules that were done.
    MLflow's modules import each other, so that what is left of a first try makes every later one
    fail, too, for as long as the process lives.
    """
    with _IMPORT:
        try:
            from mlflow import MlflowClient, entities  # noqa: PLC0415
        except BaseException:
            for name in [name for name in sys.modules if name.split(".")[0] == "mlflow"]:
                del sys.modules[name]
            raise
    return MlflowClient, entities


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Cut a sequence into parts of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _code(error: Exception) -> str:
    return str(getattr(error, "error_code", ""))


def without_password(text: str) -> str:
    """Return the text of an error without the password that a URI in it may hold."""
    return re.sub(r"//[^/@\s]+@", "//", text)[:1000]


def _user() -> dict[str, str]:
    try:
        return {"mlflow.user": getpass.getuser()}
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return {}
