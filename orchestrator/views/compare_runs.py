"""What did finished runs leave, read alike from folders and from MLflow?

A run that cannot be compared is a value with the reason, and stops nothing.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.document import Document
from orchestrator.experiment import Experiment
from orchestrator.log import ON_BACKHAULS
from orchestrator.tracking.mlflow_store import Shelf
from orchestrator.tracking.outbox import flatten
from orchestrator.yaml_source import NotYamlError, read_yaml
from policies.types import ExperimentError

FILES: Final = ("summary.json", "experiment.yaml", "events.parquet")
"""What a comparison reads of a run."""
NUMBERS: Final = (
    "final_accuracy", "tail_accuracy", "best_accuracy", "worst_decile_accuracy", "versions",
    "updates", "mean_staleness", "virtual_seconds", "uplink_bytes", "downlink_bytes",
    "energy_joules", "wasted_device_seconds",
)  # fmt: skip
"""What it reads of every summary."""
OF_PEOPLE: Final = (
    "mean_client_accuracy", "accuracy_spread", "accuracy_swing", "participation", "cycle_seconds",
    "most_load",
)  # fmt: skip
"""What it reads besides; summaries of older runs lack it."""
_COLUMNS: Final = (
    "time_s", "kind", "version", "staleness", "accuracy",
    "uplink_bytes", "downlink_bytes", "energy_j",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A run that cannot be compared, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        name: Of its folder, or in MLflow.
        digest: What it is known by; two runs of one digest and the same settings are one.
        numbers: `NUMBERS` and `OF_PEOPLE` of the summary; NaN where it has none.
        kpis: Whether each KPI was met; None where that was not known.
        settings: The resolved experiment, under dotted names.
        curve: A row an evaluation: `seconds`, `bytes` (both ways) and `joules` when the version
            was published, and its `accuracy`.
        staleness: Of each committed update, in versions.
    """

    name: str
    digest: str
    numbers: Mapping[str, float]
    kpis: Mapping[str, bool | None]
    settings: Mapping[str, str]
    curve: pd.DataFrame
    staleness: npt.NDArray[np.int64]

    @cached_property
    def experiment(self) -> str:
        """The experiment's name."""
        return self.settings.get("name", self.name)

    def reach(self, accuracy: float) -> Mapping[str, float]:
        """Return the first row of the curve that has an accuracy, NaN if none has."""
        rows = self.curve[self.curve["accuracy"] >= accuracy]
        if rows.empty:
            return dict.fromkeys(map(str, self.curve.columns), math.nan)
        return {str(name): float(value) for name, value in rows.iloc[0].items()}


Found = Run | LeftOut


def gather(wanted: Sequence[str], uri: str | None) -> tuple[list[Run], list[LeftOut]]:
    """Read runs, each once however often it is named.

    Args:
        wanted: Folders of runs, folders that hold such, MLflow run ids or names, or
            `experiment:NAME` for all runs of an MLflow experiment.
        uri: Of the MLflow store; by default MLFLOW_TRACKING_URI, else `mlflow.db`.

    Raises:
        ExperimentError: If something is neither a folder nor known to MLflow.
    """
    runs: list[Run] = []
    left: list[LeftOut] = []
    for found in _all(wanted, uri):
        if isinstance(found, LeftOut):
            left += [found] if found not in left else []
            continue
        same = [run for run in runs if (run.digest, run.settings) == (found.digest, found.settings)]
        if not same:
            runs.append(found)
        elif same[0].name != found.name:
            reason = f"is the run {same[0].name} again: same settings, same digest"
            left.append(LeftOut(found.name, reason))
    return runs, left


def _all(wanted: Iterable[str], uri: str | None) -> Iterator[Found]:
    shelf: Shelf | None = None
    for word in wanted:
        if Path(word).exists():
            yield from _folders(Path(word))
            continue
        if shelf is None:
            shelf = Shelf(uri or os.environ.get("MLFLOW_TRACKING_URI"))
            shelf.open(word)
        for run_id, name in shelf.find(word):
            with tempfile.TemporaryDirectory(prefix="latecomer-") as folder:
                shelf.fetch(run_id, FILES, Path(folder))
                yield read(Path(folder), name)


def _folders(folder: Path) -> Iterator[Found]:
    if _holds_run(folder):
        yield read(folder)
        return
    inside = sorted(filter(_holds_run, folder.iterdir())) if folder.is_dir() else []
    if not inside:
        yield LeftOut(str(folder), "holds no run: no experiment.yaml in it or in a folder of it")
    yield from map(read, inside)


def _holds_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in FILES)


def read(folder: Path, name: str | None = None) -> Found:
    """Read what a run left in a folder."""
    name = name or folder.resolve().name
    if (folder / "experiment.yaml").exists() and not (folder / "summary.json").exists():
        return LeftOut(name, "is unfinished: there is no summary.json")
    missing = [file for file in FILES if not (folder / file).exists()]
    if missing:
        return LeftOut(name, f"is not whole: there is no {' and no '.join(missing)}")
    try:
        summary = _summary(folder / "summary.json")
        numbers, kpis = _numbers(summary), _kpis(summary)
        settings, _ = read_yaml((folder / "experiment.yaml").read_text(encoding="utf-8"))
        curve, staleness = _events(folder / "events.parquet")
    except (OSError, ValueError, NotYamlError, pa.ArrowException) as error:
        return LeftOut(name, f"is damaged: {_first_line(error)}")
    if not isinstance(settings, dict):
        return LeftOut(name, "is damaged: experiment.yaml holds no settings")
    digest = str(summary.get("digest", ""))
    return Run(name, digest, numbers, kpis, flatten(_resolved(settings)), curve, staleness)


def _resolved(settings: dict[str, Any]) -> Mapping[str, Any]:
    """Fill in the defaults that came after the run, or return the settings as they stand.

    They stand as they are if they name modules that cannot be imported here, or if this version
    does not understand them.
    """
    try:
        return Document("experiment.yaml", settings).validate(Experiment).model_dump(mode="json")
    except ExperimentError:
        return settings


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _summary(path: Path) -> dict[str, Any]:
    try:
        summary: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"summary.json is no JSON ({error})") from error
    if not isinstance(summary, dict):
        raise ValueError("summary.json holds no figures")  # noqa: TRY004 - as any other damage
    return summary


def _numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures that are compared; see `Run`."""
    lacking = [n for n in NUMBERS if not isinstance(summary.get(n, ""), float | int | None)]
    if lacking:
        raise ValueError(f"summary.json lacks {', '.join(lacking)}")
    found = {name: summary.get(name) for name in (*NUMBERS, *OF_PEOPLE)}
    return {name: math.nan if value is None else float(value) for name, value in found.items()}


def _kpis(summary: Mapping[str, Any]) -> dict[str, bool | None]:
    """Return how each KPI came out; see `Run`."""
    found = summary.get("kpis")
    if not isinstance(found, Mapping):
        return {}
    return {str(name): kpi.get("met") for name, kpi in found.items() if isinstance(kpi, Mapping)}


def _events(path: Path) -> tuple[pd.DataFrame, npt.NDArray[np.int64]]:
    """Return the curve and the stalenesses; see `Run`."""
    rows = pq.read_table(path, columns=list(_COLUMNS))
    lacking = set(_COLUMNS) - set(rows.column_names)
    if lacking:
        raise ValueError(f"events.parquet lacks {', '.join(sorted(lacking))}")
    events = rows.to_pandas()
    sent = events["uplink_bytes"].fillna(0).astype(float) + events["downlink_bytes"].fillna(0)
    events["bytes"] = sent.where(~events["kind"].isin(ON_BACKHAULS), 0).cumsum()
    events["joules"] = events["energy_j"].fillna(0).cumsum()
    events["seconds"] = events["time_s"]
    made = events[events["kind"] == "published"].set_index("version")
    tests = events[(events["kind"] == "evaluated") & events["accuracy"].notna()]
    tests = tests.set_index("version")[["seconds", "bytes", "joules", "accuracy"]]
    tests = tests[~tests.index.duplicated(keep="last")]
    # What a version cost is what had been spent when it was published; its test spends nothing.
    tests.update(made.loc[~made.index.duplicated(), ["seconds", "bytes", "joules"]])
    taken = events.loc[events["kind"] == "committed", "staleness"].dropna()
    return tests.reset_index(drop=True), taken.to_numpy(np.int64)


def no_runs(left: Sequence[LeftOut]) -> ExperimentError:
    """Return the error for when nothing is left to compare."""
    lines = [f"  {run.name} {run.reason}" for run in left]
    return ExperimentError("\n".join(["there is nothing to compare:", *lines]))
