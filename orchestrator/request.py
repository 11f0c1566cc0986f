"""What is to be run, and in which folder?"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from actors.identity import join_paths
from orchestrator.document import to_yaml
from orchestrator.experiment import Experiment, read
from orchestrator.tracking.tracker import TrackingSettings
from policies.types import ExperimentError


@dataclass(frozen=True, slots=True)
class Request:
    """One run.

    Attributes:
        experiment: The experiment.
        out: The run's folder.
        address: Of a running Ray; None starts one.
        workers: Pooled actors; None takes one a CPU.
        resume: Go on from the folder's newest checkpoint.
        profile: Note where the time of every process went.
        in_process: Do everything in this process, without Ray.
        paths: Folders of the user's own modules.
    """

    experiment: Experiment
    out: Path
    address: str | None = None
    workers: int | None = None
    resume: bool = False
    profile: bool = False
    in_process: bool = False
    paths: Sequence[str] = ()

    @property
    def run_id(self) -> str:
        """Names the run on its Ray and in MLflow: the folder's name."""
        return self.out.resolve().name

    def prepare(self) -> None:
        """Make the run's folder, or see that it can be resumed.

        Raises:
            ExperimentError: If a new run's folder holds one already, or a resumed one is finished.
        """
        out = self.out
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


def new(
    file: Path,
    assignments: Sequence[str],
    out: Path | None,
) -> tuple[Request, list[str]]:
    """Ask for a new run of an experiment file.

    Returns:
        The request, and notes on what the assignments dropped.

    Raises:
        ExperimentError: With every mistake in the file, or if a Ray job could not keep its results.
    """
    experiment, notes = read(file, tuple(assignments))
    _check_job(out, experiment.tracking)
    folder = out or fresh_folder(experiment)
    paths = (str(file.resolve().parent),)
    return Request(experiment, folder, paths=paths), notes


def again(out: Path) -> Request:
    """Ask for a run to go on.

    Raises:
        ExperimentError: If the folder holds no run.
    """
    file = out / "experiment.yaml"
    if not file.exists():
        raise ExperimentError(f"{out} holds no run: there is no experiment.yaml in it.")
    paths: list[str] = json.loads((out / "paths.json").read_text(encoding="utf-8"))
    join_paths(paths)
    experiment, _ = read(file)
    _check_job(out, experiment.tracking)
    return Request(experiment, out, resume=True, paths=paths)


def fresh_folder(experiment: Experiment, base: Path = Path("runs")) -> Path:
    """Return a new folder's path for a run, named by the experiment and the time."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    wanted = base / f"{experiment.name}-{stamp}"
    number = 1
    while wanted.exists():
        number += 1
        wanted = base / f"{experiment.name}-{stamp}-{number}"
    return wanted


def _check_job(out: Path | None, tracking: TrackingSettings) -> None:
    """Refuse locations that go with a Ray job's working folder."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return
    if out is None or not out.is_absolute():
        raise ExperimentError(
            "in a Ray job --out and --resume must be absolute: the job's working folder goes with "
            f"it. Got {out}."
        )
    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    relative = uri is None or (uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"))
    if tracking.enabled and relative:
        raise ExperimentError(
            "in a Ray job MLflow must be a server or an absolute sqlite path: the job's working "
            f"folder goes with it. Got {uri}. Give MLFLOW_TRACKING_URI in --runtime-env-json."
        )
