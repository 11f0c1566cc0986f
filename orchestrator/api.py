"""How is a run asked for from Python?

What the command does, as functions: `run(Experiment(...))` in a script or a notebook gives a `Run`
with its figures and tables. A run that the command made is opened by `load`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import ValidationError
from rich.console import Console

from actors.identity import join_paths
from orchestrator import experiment as files
from orchestrator import people
from orchestrator.document import Document
from orchestrator.experiment import CHECKS, read
from orchestrator.log import ON_BACKHAULS
from orchestrator.request import Request, fresh_folder, located
from orchestrator.summary import Summary
from orchestrator.tracking import trained
from orchestrator.views.readable import plain
from policies.types import ExperimentError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Experiment", "Run", "load", "read", "run"]


class Experiment(files.Experiment):
    """An experiment, made from what its file would hold; docs/experiment-file.md has every field.

    Raises:
        ExperimentError: With every mistake in it.
    """

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            Document("", values).validate(files.Experiment, CHECKS)
            raise ExperimentError(str(error)) from error


_SHOWN = (
    "final_accuracy", "tail_accuracy", "worst_decile_accuracy", "versions", "updates",
    "mean_staleness", "virtual_seconds", "uplink_bytes", "downlink_bytes", "energy_joules",
    "digest",
)  # fmt: skip
"""What a notebook shows of a run."""


class Run:
    """A finished run.

    Attributes:
        folder: Holds its files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def summary(self) -> Summary:
        """The figures; docs/summary.md says what each means."""
        return Summary.read(self.folder)

    @cached_property
    def experiment(self) -> files.Experiment:
        """The experiment, with every default filled in."""
        join_paths(json.loads((self.folder / "paths.json").read_text(encoding="utf-8")))
        return read(self.folder / "experiment.yaml")[0]

    @property
    def events(self) -> pd.DataFrame:
        """What happened, a row an event; docs/logs.md says what each column means."""
        return pd.read_parquet(self.folder / "events.parquet")

    @property
    def ops(self) -> pd.DataFrame:
        """What it took: actors, restarts, durations."""
        return pd.read_parquet(self.folder / "ops.parquet")

    @property
    def clients(self) -> pd.DataFrame:
        """How each client fared, by its number; docs/clients.md says what each column means."""
        return pd.read_parquet(self.folder / people.FILE).set_index("client")

    @property
    def evaluations(self) -> pd.DataFrame:
        """The tests: version, time, accuracy, loss, and the bytes both ways up to there."""
        events = self.events
        clients = ~events["kind"].isin(ON_BACKHAULS)
        for name in ("uplink_bytes", "downlink_bytes"):
            events[name] = events[name].where(clients).fillna(0).astype("int64").cumsum()
        tested = events[events["kind"] == "evaluated"]
        names = ["version", "time_s", "accuracy", "loss", "uplink_bytes", "downlink_bytes"]
        return tested[names].astype({"version": "int64"}).set_index("version")

    def model(self, which: str = "final", client: int | None = None) -> nn.Module:
        """Return a trained model as a torch module in eval mode.

        Args:
            which: `final`, or `best` for the version of the highest accuracy.
            client: Whose tail it has, where tails are personal; see docs/splitting.md.

        Returns:
            Takes normalised inputs (`experiment.data.load().normalise`), shape (n, ...), and
            returns logits, shape (n, classes).

        Raises:
            ExperimentError: If the run has left none, or `client` no tail of its own.
        """
        if (paths := self.folder / "paths.json").exists():
            join_paths(json.loads(paths.read_text(encoding="utf-8")))  # of a model of one's own
        return trained.take_up(self.folder / trained.FOLDER, which, client)

    @property
    def report(self) -> Path:
        """The page with pictures."""
        return self.folder / "report.html"

    def __repr__(self) -> str:
        figures = self.summary
        return (
            f"Run({figures.name!r}, accuracy {figures.final_accuracy:.4f} after "
            f"{figures.versions} versions, {self.folder})"
        )

    def _repr_html_(self) -> str:
        """Return a small table, for notebooks."""
        rows = "".join(
            f"<tr><td>{name.replace('_', ' ')}</td>"
            f"<td>{escape(plain(getattr(self.summary, name)))}</td></tr>"
            for name in _SHOWN
        )
        title = f"{escape(self.summary.name)}, {escape(str(self.folder))}"
        return f"<table><caption>{title}</caption>{rows}</table>"


def run(
    experiment: files.Experiment | Mapping[str, Any],
    *,
    out: Path | str | None = None,
    address: str | None = None,
    workers: int | None = None,
    in_process: bool = False,
    profile: bool = False,
    console: Console | None = None,
) -> Run:
    """Run an experiment to its end, with the command's progress line.

    Args:
        experiment: An `Experiment`, or the mapping that its file would hold.
        out: The run's folder, here or as a URL of `fsspec`; a new one under ``runs`` by default.
        address: Of a running Ray; without it one is started, and ended with the run.
        workers: Pooled actors; one a CPU by default. Without Ray, processes that train; this one
            alone by default.
        in_process: Do all of it in this process, without Ray, or train in others forked from it.
            The digest is the same.
        profile: Show in the report where the time of every process went.
        console: Where progress goes; the notebook or terminal by default.

    Raises:
        ExperimentError: With every mistake in it; nothing has been started then.
        RunError: If the run cannot go on.
    """
    from orchestrator import run as runs  # noqa: PLC0415  # Arrow and Matplotlib, late

    checked = check(experiment)
    folder, elsewhere = (fresh_folder(checked), None) if out is None else located(str(out))
    paths = (str(Path.cwd()),)
    request = Request(
        checked,
        folder,
        address=address,
        workers=workers,
        profile=profile,
        in_process=in_process,
        paths=paths,
        elsewhere=elsewhere,
    )
    runs.run(request, console)
    return Run(folder)


def check(experiment: files.Experiment | Mapping[str, Any]) -> files.Experiment:
    """Return an experiment whose parts fit together.

    Raises:
        ExperimentError: With every mistake in it.
    """
    data = experiment
    if isinstance(experiment, files.Experiment):
        data = experiment.model_dump(by_alias=True, serialize_as_any=True, round_trip=True)
    return Document("", dict(data)).validate(files.Experiment, CHECKS)


def load(folder: Path | str) -> Run:
    """Open a finished run.

    Raises:
        ExperimentError: If the folder holds none.
    """
    found = Path(folder)
    if not (found / "summary.json").exists():
        raise ExperimentError(
            f"{found} holds no finished run: there is no summary.json in it. Go on with a run that "
            f"was interrupted by: latecomer run --resume {found}"
        )
    return Run(found)
