"""What is to be run, and in which folder?"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from actors.identity import join_paths
from orchestrator.document import to_yaml
from orchestrator.elsewhere import Elsewhere, is_url
from orchestrator.experiment import Experiment, read
from orchestrator.tracking.tracker import TrackingSettings
from policies.types import ExperimentError, LatecomerError


@dataclass(frozen=True, slots=True)
class Request:
    """One run.

    Attributes:
        experiment: The experiment.
        out: The run's folder.
        address: Of a running Ray; None starts one.
        workers: Pooled actors; None takes one a CPU. Without Ray, processes that train; None
            takes this one.
        resume: Go on from the folder's newest checkpoint.
        profile: Note where the time of every process went.
        in_process: Do everything in this process, without Ray; others may train beside it.
        paths: Folders of the user's own modules.
        elsewhere: Where the folder is kept, if not on this machine.
    """

    experiment: Experiment
    out: Path
    address: str | None = None
    workers: int | None = None
    resume: bool = False
    profile: bool = False
    in_process: bool = False
    paths: Sequence[str] = ()
    elsewhere: Elsewhere | None = None

    @property
    def where(self) -> str:
        """The run's location, as a person would give it."""
        return self.elsewhere.url if self.elsewhere else str(self.out)

    @property
    def run_id(self) -> str:
        """Names the run on its Ray and in MLflow: the folder's name."""
        return self.out.resolve().name

    def prepare(self) -> None:
        """Make the run's folder, or see that it can be resumed.

        Raises:
            ExperimentError: If a new run's folder holds one already, or a resumed one is finished.
        """
        out, elsewhere = self.out, self.elsewhere
        if elsewhere is not None:
            self._look_elsewhere(elsewhere)
        if self.resume:
            if (out / "summary.json").exists():
                raise ExperimentError(
                    f"the run in {out} is finished; {out / 'summary.json'} has its figures."
                )
            return
        if (out / "experiment.yaml").exists():
            raise ExperimentError(
                f"{out} holds a run already. Go on with it by --resume {out}, or name another "
                "--out."
            )
        out.mkdir(parents=True, exist_ok=True)
        (out / "experiment.yaml").write_text(to_yaml(self.experiment), encoding="utf-8")
        (out / "paths.json").write_text(json.dumps(list(self.paths)), encoding="utf-8")

    def _look_elsewhere(self, elsewhere: Elsewhere) -> None:
        """Refuse a URL where something else is."""
        with _nothing_left(self.out.parent):
            if elsewhere.finished():
                raise ExperimentError(f"{self.where} holds a finished run. Name another --out.")
            if elsewhere.going() and not self.resume:
                raise ExperimentError(
                    f"{self.where} holds a run already. Go on with it by --resume {self.where}, or "
                    "name another --out."
                )


@contextmanager
def _nothing_left(folder: Path) -> Iterator[None]:
    """Remove a folder if what it was made for is refused."""
    try:
        yield
    except LatecomerError:
        shutil.rmtree(folder)
        raise


def new(
    file: Path,
    assignments: Sequence[str],
    out: str | None,
) -> tuple[Request, list[str]]:
    """Ask for a new run of an experiment file.

    Args:
        file: The experiment file.
        assignments: Values that override it.
        out: The run's folder, here or as a URL; a new one by default.

    Returns:
        The request, and notes on what the assignments dropped.

    Raises:
        ExperimentError: With every mistake in the file, or if a Ray job could not keep its results.
    """
    experiment, notes = read(file, tuple(assignments))
    _check_job(out, experiment.tracking)
    paths = (str(file.resolve().parent),)
    folder, elsewhere = located(out) if out else (fresh_folder(experiment), None)
    return Request(experiment, folder, paths=paths, elsewhere=elsewhere), notes


def located(out: str) -> tuple[Path, Elsewhere | None]:
    """Return the folder that a run works in, and where that is kept if elsewhere.

    Raises:
        ExperimentError: If it is a URL that cannot be used.
    """
    if not is_url(out):
        return Path(out), None
    elsewhere = Elsewhere(out)
    return elsewhere.scratch(), elsewhere


def again(location: str) -> Request:
    """Ask for a run to go on.

    Args:
        location: The run's folder, here or as a URL.

    Raises:
        ExperimentError: If the folder holds no run.
    """
    _check_job(location, None)
    out, elsewhere = located(location)
    if elsewhere is not None:
        with _nothing_left(out.parent):
            if elsewhere.finished():
                raise ExperimentError(f"the run in {location} is finished.")
            elsewhere.fetch(out)
    file = out / "experiment.yaml"
    if not file.exists():
        raise ExperimentError(f"{out} holds no run: there is no experiment.yaml in it.")
    paths: list[str] = json.loads((out / "paths.json").read_text(encoding="utf-8"))
    join_paths(paths)
    experiment, _ = read(file)
    _check_job(location, experiment.tracking)
    return Request(experiment, out, resume=True, paths=paths, elsewhere=elsewhere)


def fresh_folder(experiment: Experiment, base: Path = Path("runs")) -> Path:
    """Return a new folder's path for a run, named by the experiment and the time."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    wanted = base / f"{experiment.name}-{stamp}"
    number = 1
    while wanted.exists():
        number += 1
        wanted = base / f"{experiment.name}-{stamp}-{number}"
    return wanted


def _check_job(out: str | None, tracking: TrackingSettings | None) -> None:
    """Refuse locations that go with a Ray job's working folder."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return
    if out is None or not (is_url(out) or Path(out).is_absolute()):
        raise ExperimentError(
            "in a Ray job --out and --resume must be absolute: the job's working folder goes with "
            f"it. Got {out}. A URL such as s3://bucket/run outlives the cluster, too."
        )
    if tracking is None:
        return
    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    relative = uri is None or (uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"))
    if tracking.enabled and relative:
        raise ExperimentError(
            "in a Ray job MLflow must be a server or an absolute sqlite path: the job's working "
            f"folder goes with it. Got {uri}. Give MLFLOW_TRACKING_URI in --runtime-env-json."
        )
