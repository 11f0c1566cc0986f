"""How is a grid of experiments run once, kept, and made into tables?

A cell is an experiment with a seed. Cells run in this process's children without Ray, which gives
the same digests as Ray does. Each result is one line of a file under results/, named by a hash of
what the cell asks for, so that a script goes on where it stopped and never runs a cell twice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any, Final, TypeVar

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table as RichTable

from actors.identity import numerics
from orchestrator.document import Document
from orchestrator.experiment import CHECKS, Experiment
from orchestrator.request import Request
from orchestrator.run import run
from policies.types import RunError

HERE: Final = Path(__file__).resolve().parent
IMAGES: Final = HERE.parent.parent / "docs" / "images"

CLIENTS, EXAMPLES = 100, 10_000
CNN: Final = {"kind": "cnn", "channels": [16, 32], "kernel": 5, "hidden": 128}
RESNET8: Final = {"kind": "resnet", "depth": 8, "norm": "group"}
MODELS: Final = {"cnn": CNN, "resnet8": RESNET8}
SLACK: Final = 0.5
"""Points of accuracy that a smaller rate may be behind."""
TUNING_SEED: Final = 100
"""Rates are chosen on a seed that no table shows."""

CURVE: Final = ("version", "time_s", "downlink_bytes", "uplink_bytes", "accuracy", "loss")
"""What is kept of each evaluation; bytes are cumulative."""
KEPT: Final = (
    "digest", "stopped_by", "final_accuracy", "tail_accuracy", "best_accuracy",
    "worst_decile_accuracy", "versions", "updates", "dispatched_updates", "in_flight_updates",
    "virtual_seconds", "uplink_bytes", "downlink_bytes", "uplink_entropy_bytes",
    "downlink_entropy_bytes", "mean_staleness", "energy_joules",
)  # fmt: skip
"""What is kept of a run's summary."""
Record = dict[str, Any]
T = TypeVar("T", float, str)


def iid() -> dict[str, Any]:
    """Return the partition that deals examples out evenly."""
    return {"kind": "iid"}


def dirichlet(alpha: float) -> dict[str, Any]:
    """Return the partition by a Dirichlet distribution."""
    return {"kind": "dirichlet", "alpha": alpha}


def by_labels() -> dict[str, Any]:
    """Return the partition that gives each client two classes."""
    return {"kind": "pathological", "classes_per_client": 2}


def settings(
    method: dict[str, Any],
    *,
    partition: dict[str, Any],
    model: dict[str, Any] = CNN,
    stop: dict[str, Any],
    every_versions: int = 10,
    fleet: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return an experiment without name and seed: Fashion-MNIST at 100 clients of 100 examples.

    Args:
        method: The section `method`.
        partition: Who holds what.
        model: What is trained.
        stop: When it ends.
        every_versions: How often a version is tested.
        fleet: Devices, besides their number; workstations if left out.
    """
    return {
        "data": {"source": "fashion-mnist", "train_examples": EXAMPLES, "partition": partition},
        "model": model,
        "fleet": {"clients": CLIENTS, **(fleet or {"mix": [{"profile": "workstation"}]})},
        "method": method,
        "stop": stop,
        "evaluate": {"every_versions": every_versions},
        "checkpoint": {"every_s": 86_400},
        "tracking": {"enabled": False},
    }


def falling(lr: float, versions: int, *, factor: float, **more: Any) -> dict[str, Any]:
    """Return a learning rate that falls exponentially to `lr / factor`, for `training`."""
    return {"lr": lr, "lr_final": lr / factor, "lr_versions": versions, **more}


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        name: Says what is measured, from the general to the special, with slashes.
        seed: Of the experiment.
        settings: The experiment without name and seed.
    """

    name: str
    seed: int
    settings: dict[str, Any]

    def experiment(self, root: str | None = None) -> Experiment:
        """Return the experiment with every default filled in, checked as a file is.

        Args:
            root: Folder of Fashion-MNIST, where it is not in its usual place.
        """
        whole = {"name": self.name.replace("/", " "), "seed": self.seed, **self.settings}
        if root is not None and whole["data"]["source"] == "fashion-mnist":
            whole["data"] = whole["data"] | {"root": root}
        return Document.parse(json.dumps(whole), self.name).validate(Experiment, CHECKS)

    def key(self) -> str:
        """Return 16 hex digits that name what was asked for and the numerics.

        Defaults count by the version of the package alone, so that a new setting with a default
        that changes nothing makes no result void.
        """
        found = [self.seed, self.settings, numerics(), metadata.version("latecomer")]
        return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]

    def measure(self, root: str | None) -> Record:
        """Run it in this process; return what is kept of it."""
        return measure(self, root)


# ------------------------------------------------------------------ one cell


class MiscountError(RuntimeError):
    """A run made more or fewer updates than it should have."""


def measure(cell: Cell, root: str | None) -> Record:
    """Run a cell in this process; return what is kept of it.

    Raises:
        MiscountError: If the updates are not those that were asked for.
    """
    began = time.process_time()
    experiment = cell.experiment(root)
    failed = ""
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        out = Path(folder) / "run"
        try:
            summary = run(Request(experiment, out, in_process=True), Console(file=nowhere))
        except RunError as error:
            return noted(cell, began, failed=str(error))
        rows = pq.read_table(out / "events.parquet").to_pylist()
    not_finite = sum(row["reason"] == "not_finite" for row in rows if row["kind"] == "arrived")
    if not_finite or summary.stopped_by == "not_finite":
        failed = f"diverged: {not_finite} updates that are not finite"
    else:
        size = experiment.method.aggregation.pacing().size
        refused = summary.rejected_updates + summary.lost_updates + summary.superseded_updates
        if summary.updates != summary.versions * size or refused:
            raise MiscountError(
                f"{cell.name}: {summary.updates} updates in {summary.versions} versions of {size}, "
                f"{refused} refused"
            )
    shape = experiment.data.shape()
    return noted(
        cell,
        began,
        failed=failed,
        parameters=experiment.model.parameters(shape),
        summary={name: _short(getattr(summary, name)) for name in KEPT},
        payloads=_payloads(rows),
        hops=_hops(rows),
        curve=_curve(rows),
        measures=_measures(rows),
    )


def noted(cell: Cell, began: float, **more: Any) -> Record:
    """Return a line of results.

    Args:
        cell: What was asked for.
        began: This process's CPU seconds before.
        more: What was found; `failed` is a reason, or empty.
    """
    return {
        "key": cell.key(),
        "cell": cell.name,
        "seed": cell.seed,
        "numerics": numerics(),
        "cpu_s": round(time.process_time() - began, 1),
        **more,
    }


def _short(value: Any) -> Any:
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _curve(rows: Iterable[dict[str, Any]]) -> list[list[Any]]:
    """Return `CURVE` at each evaluated version.

    Time and bytes are those when the version was published: its evaluation takes time of its own.
    """
    curve, down, up = [], 0, 0
    published: dict[int, tuple[float, int, int]] = {}
    for row in rows:
        down += row["downlink_bytes"] or 0
        up += row["uplink_bytes"] or 0
        if row["kind"] == "published":
            published[row["version"]] = (row["time_s"], down, up)
        if row["kind"] == "evaluated":
            version = row["version"]
            point = (version, *published[version], row["accuracy"], row["loss"])
            curve.append([_short(value) for value in point])
    return curve


def _hops(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return all bytes by the kind of event that counts them."""
    found: dict[str, int] = {}
    for row in rows:
        for column in ("downlink_bytes", "uplink_bytes"):
            if row[column]:
                name = f"{row['kind']}/{column.removesuffix('_bytes')}"
                found[name] = found.get(name, 0) + row[column]
    return found


def _payloads(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return how many payloads arrived, and how many values they held together."""
    arrived = [row for row in rows if row["kind"] == "arrived"]
    return {"count": len(arrived), "values": sum(row["nonzeros"] or 0 for row in arrived)}


def _measures(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return what versions were measured at: first, last, mean, and largest after the first."""
    series: dict[str, list[float]] = {}
    for row in rows:
        if row["kind"] == "measured":
            series.setdefault(row["measure"], []).append(row["value"])
    return {
        name: {
            "first": _short(values[0]),
            "last": _short(values[-1]),
            "mean": _short(fmean(values)),
            "later_max": _short(max(values[1:], default=values[0])),
        }
        for name, values in series.items()
    }


# ------------------------------------------------------------------ what is known


class Book:
    """Results by cell, in a file of one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, Record] = {}
        self._keys: dict[tuple[str, int], str] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                self.records[record["key"]] = record

    def find(self, cell: Cell) -> Record | None:
        """Return a cell's result, if there is one."""
        where = (cell.name, cell.seed)
        if where not in self._keys:
            self._keys[where] = cell.key()
        return self.records.get(self._keys[where])

    def add(self, record: Record) -> None:
        """Keep a result, on disk at once."""
        self.records[record["key"]] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def done(self, cells: Iterable[Cell]) -> list[Record]:
        """Return the results that there are and that did not fail."""
        found = [self.find(cell) for cell in cells]
        return [record for record in found if record is not None and not record["failed"]]

    def best(self, candidates: dict[T, Cell]) -> T | None:
        """Return the candidate of the largest tail accuracy once all have run."""
        scores = self._scores(candidates)
        return max(scores, key=scores.__getitem__) if scores else None

    def steady(self, candidates: dict[float, Cell]) -> float | None:
        """Return the smallest candidate within `SLACK` of the best once all have run.

        The largest rate that goes well on one seed may diverge on another.
        """
        scores = self._scores(candidates)
        least = max(scores.values(), default=0.0) - SLACK
        return min((value for value, score in scores.items() if score >= least), default=None)

    def _scores(self, candidates: dict[T, Cell]) -> dict[T, float]:
        """Return the tail accuracies of those that went well; nothing before all have run."""
        scores: dict[T, float] = {}
        for value, cell in candidates.items():
            record = self.find(cell)
            if record is None:
                return {}
            if not record["failed"]:
                scores[value] = tail(record)
        return scores


def tail(record: Record) -> float:
    """Return the mean accuracy of the last tenth of the evaluations, in per cent."""
    return 100 * float(record["summary"]["tail_accuracy"])


def total_bytes(record: Record) -> float:
    """Return the bytes of both directions."""
    return float(record["summary"]["uplink_bytes"] + record["summary"]["downlink_bytes"])


def uplink_bits(record: Record, which: str = "uplink_bytes") -> float:
    """Return bits a parameter and update: of what was sent, or `uplink_entropy_bytes`."""
    sent = 8 * record["summary"][which]
    return float(sent / record["payloads"]["count"] / record["parameters"])


def payload_bytes(record: Record) -> float:
    """Return the mean bytes of a payload."""
    return float(record["summary"]["uplink_bytes"] / record["payloads"]["count"])


def values_bytes(record: Record) -> float:
    """Return the mean bytes of a payload's values alone, 32 bits each, positions left out."""
    return float(4 * record["payloads"]["values"] / record["payloads"]["count"])


def bound_bytes(record: Record) -> float:
    """Return the mean entropy bound of a payload."""
    return float(record["summary"]["uplink_entropy_bytes"] / record["payloads"]["count"])


def measured(record: Record, name: str, what: str) -> float | None:
    """Return a figure of the method: its `first`, `last`, `mean` or `later_max`."""
    series = record["measures"].get(name)
    return None if series is None else float(series[what])


def reached(record: Record, accuracy: float, column: str) -> float | None:
    """Return a column of the curve where an accuracy was first reached; None if it was not."""
    at = {name: place for place, name in enumerate(CURVE)}
    for point in record["curve"]:
        if point[at["accuracy"]] >= accuracy:
            if column == "bytes":
                return float(point[at["uplink_bytes"]] + point[at["downlink_bytes"]])
            return float(point[at[column]])
    return None


# ------------------------------------------------------------------ tables


@dataclass(frozen=True)
class Table:
    """A table of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return it as it stands in docs/results.md."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def rich(self) -> RichTable:
        """Return it for a terminal."""
        table = RichTable(*self.columns, title=self.title)
        for row in self.rows:
            table.add_row(*row)
        return table


def spread(
    records: Sequence[Record], figure: Callable[[Record], float | None], form: str = "{:.1f}"
) -> str:
    """Return mean and range over the seeds as text; a dash if there is nothing."""
    values = [value for value in map(figure, records) if value is not None]
    if not values:
        return "-"
    text = form.format(fmean(values))
    if len(values) == 1 or min(values) == max(values):
        return text
    return f"{text} ({form.format(min(values))} to {form.format(max(values))})"


def gap(records: Sequence[Record], baseline: Sequence[Record]) -> str:
    """Return how far a mean tail accuracy is above (+) or below (-) a baseline's, in points."""
    if not records or not baseline:
        return "-"
    return f"{fmean(map(tail, records)) - fmean(map(tail, baseline)):+.1f}"


def seeds(records: Sequence[Record]) -> str:
    """Return how many runs stand behind a row."""
    return str(len(records))


# ------------------------------------------------------------------ running


@dataclass(frozen=True)
class Study:
    """What a script measures.

    Attributes:
        name: Of the script.
        about: One line.
        plan: Returns the cells that can be run as far as is known, headline ones first; called
            again when they are done, since rates are chosen by the first ones.
        tables: Makes the tables.
        pictures: Draws into a folder; returns the files.
    """

    name: str
    about: str
    plan: Callable[[Book, bool], list[Cell]]
    tables: Callable[[Book, bool], list[Table]]
    pictures: Callable[[Book, bool, Path], list[Path]]


def main(study: Study) -> None:
    """Run what is missing, and show what there is."""
    arguments = _arguments(study)
    suffix = "-quick" if arguments.quick else ""
    path = arguments.results or HERE / "results" / f"{study.name}{suffix}.jsonl"
    book = Book(path)
    began = time.monotonic()
    spent = _work_off(study, book, arguments)
    if arguments.list:
        return
    console = Console(width=None if sys.stdout.isatty() else 150)
    if arguments.quick:
        print("QUICK: a few versions and one seed; this shows that it runs and is no result.\n")
    tables = study.tables(book, arguments.quick)
    for table in tables:
        if arguments.markdown:
            print(f"{table.title}\n\n{table.markdown()}\n")
        else:
            console.print(table.rich())
    for line in _footer(study, book, arguments, spent, time.monotonic() - began):
        print(line)
    if arguments.json:
        whole = {
            "quick": arguments.quick,
            "tables": [
                {"title": t.title, "columns": list(t.columns), "rows": [list(r) for r in t.rows]}
                for t in tables
            ],
            "records": _used(study, book, arguments),
        }
        arguments.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    if arguments.pictures:
        arguments.images.mkdir(parents=True, exist_ok=True)
        for file in study.pictures(book, arguments.quick, arguments.images):
            print(f"wrote {file}")


def _arguments(study: Study) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=study.about)
    parser.add_argument("--quick", action="store_true", help="under two minutes; no result")
    parser.add_argument("--processes", type=int, default=2, help="cells at a time")
    parser.add_argument("--budget-hours", type=float, help="start no cell after so many CPU hours")
    parser.add_argument("--only", default="", help="only cells whose name holds this")
    parser.add_argument("--list", action="store_true", help="name the cells, run nothing")
    parser.add_argument("--show", action="store_true", help="show what there is, run nothing")
    parser.add_argument("--results", type=Path, help="another file of results")
    parser.add_argument("--root", help="folder of Fashion-MNIST, if not in its usual place")
    parser.add_argument("--json", type=Path, help="also write tables and results to this file")
    parser.add_argument("--markdown", action="store_true", help="tables as in docs/results.md")
    parser.add_argument("--pictures", action="store_true", help="also draw the pictures")
    parser.add_argument("--images", type=Path, default=IMAGES, help="where pictures go")
    return parser.parse_args()


def _work_off(study: Study, book: Book, arguments: argparse.Namespace) -> float:
    """Run the cells that are missing; return the CPU seconds that they took."""
    spent = 0.0
    tried: set[tuple[str, int]] = set()
    while True:
        known = [c for c in study.plan(book, arguments.quick) if arguments.only in c.name]
        missing = [c for c in known if book.find(c) is None and (c.name, c.seed) not in tried]
        if arguments.list:
            for cell in known:
                state = "done" if book.find(cell) else "to do"
                print(f"{cell.name} seed {cell.seed}: {state}")
        if arguments.list or arguments.show or not missing:
            return spent
        budget = None if arguments.budget_hours is None else 3600 * arguments.budget_hours
        tried |= {(c.name, c.seed) for c in missing}
        spent += _run_all(missing, book, arguments, None if budget is None else budget - spent)
        if budget is not None and spent >= budget:
            print(f"the budget of {arguments.budget_hours:g} CPU hours is used up")
            return spent


def _run_all(
    cells: Sequence[Cell], book: Book, arguments: argparse.Namespace, budget_s: float | None
) -> float:
    """Run cells in their order, a few at a time; return the CPU seconds."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    waiting, running = list(cells), dict[Future[Record], Cell]()
    spent, finished = 0.0, 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, mp_context=context) as pool:
        while waiting or running:
            while waiting and len(running) < arguments.processes:
                if budget_s is not None and spent >= budget_s:
                    waiting.clear()
                    break
                cell = waiting.pop(0)
                running[pool.submit(cell.measure, arguments.root)] = cell
            done, _ = wait(running, return_when=FIRST_COMPLETED) if running else (set(), set())
            for future in done:
                cell, record = running.pop(future), future.result()
                book.add(record)
                spent, finished = spent + record["cpu_s"], finished + 1
                result = record["failed"] or f"{tail(record):.1f} %"
                print(
                    f"{finished}/{len(cells)} {cell.name} seed {cell.seed}: {result}, "
                    f"{record['cpu_s']:.0f} CPU s",
                    flush=True,
                )
    return spent


def _used(study: Study, book: Book, arguments: argparse.Namespace) -> list[Record]:
    found = [book.find(c) for c in study.plan(book, arguments.quick) if arguments.only in c.name]
    return [record for record in found if record is not None]


def _footer(
    study: Study, book: Book, arguments: argparse.Namespace, spent: float, wall_s: float
) -> list[str]:
    used = _used(study, book, arguments)
    failed = [f"{r['cell']} seed {r['seed']}: {r['failed']}" for r in used if r["failed"]]
    hours = sum(record["cpu_s"] for record in used) / 3600
    return [
        "Tail accuracy: mean of the last tenth of the evaluations. Means (lowest to highest).",
        *(f"Failed: {line}" for line in failed),
        f"{len(used)} cells, {hours:.2f} CPU hours; {spent / 3600:.2f} now, {wall_s / 60:.1f} min.",
        machine(),
    ]


def machine() -> str:
    """Return the machine and the versions."""
    packages = ", ".join(f"{n} {metadata.version(n)}" for n in ("torch", "numpy", "latecomer"))
    return (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {numerics()}; "
        f"{packages}, Python {platform.python_version()}"
    )
