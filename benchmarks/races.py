"""What had a run taken, and what had it reached, when each of its versions appeared?

A race is a cell (papers/cells.py) whose rounds may close at a deadline or without their slowest
clients, so that updates are refused and versions are not of one size. It runs in a child process
without Ray, its counts are checked against its event log, and what is kept is one line of a file.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final
from unittest import mock

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from rich.console import Console

from actors.identity import numerics
from actors.learning.evaluation_torch import Evaluation, evaluate
from orchestrator.experiment import Experiment
from orchestrator.request import Request
from orchestrator.run import run
from policies.types import Reason, RunError

sys.path.insert(0, str(Path(__file__).resolve().parent / "papers"))

from cells import KEPT, Book, Cell, MiscountError, Record

COLUMNS: Final = ("version", "time_s", "updates", "bytes", "energy_j", "accuracy")
"""What is kept of an evaluated version: all as it was when the version was published.

`updates` are those that had arrived, refused ones among them, `bytes` those of both directions,
`energy_j` that of the updates that had arrived.
"""
T_95: Final = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}
"""Student's t, 97.5 %, by degrees of freedom."""
Row = dict[str, Any]


# ------------------------------------------------------------------ one run


def measure(cell: Cell, root: str | None, *, curve: bool, close: bool = False) -> Record:
    """Run a cell in this process; return what is kept of it.

    Args:
        cell: What to run.
        root: Folder of Fashion-MNIST, where it is not in its usual place.
        curve: Whether to keep every evaluation, and not only those that were the best so far.
        close: Whether to look closely: the recall of each class, averaged over the last tenth of
            the evaluations, the CPU seconds of each stage, and staleness: median, 95 %, largest.

    Raises:
        MiscountError: If the updates are not those that were asked for.
    """
    began = time.process_time()
    experiment = cell.experiment(root)
    record: Record = {
        "key": cell.key(),
        "cell": cell.name,
        "seed": cell.seed,
        "numerics": numerics(),
        "failed": "",
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as nowhere,
        _overheard() as tests,
    ):
        out = Path(folder) / "run"
        request = Request(experiment, out, in_process=True, profile=close)
        try:
            summary = run(request, Console(file=nowhere))
        except RunError as error:
            record["failed"] = str(error)
        else:
            rows = pq.read_table(out / "events.parquet").to_pylist()
            used = _used(out) if close else {}
    if not record["failed"]:
        record["failed"] = _diverged(rows, summary.stopped_by)
    if not record["failed"]:
        _count(cell.name, experiment, rows, summary.stopped_by)
        points = list(_points(rows))
        record |= {
            "parameters": experiment.model.parameters(experiment.data.shape()),
            "summary": {name: _rounded(getattr(summary, name)) for name in KEPT},
            "climb": _climb(points),
            "curve": [[round(p[1], 1), p[-1]] for p in points] if curve else [],
        }
        if close:
            late = _lateness(rows)
            record |= {"recall": _recall(tests), "stages_cpu_s": used, "staleness": late}
    return record | {"cpu_s": round(time.process_time() - began, 1)}


@contextmanager
def _overheard() -> Iterator[list[Evaluation]]:
    """Give what central tests find, in their order: the logs have no recall of a class."""
    found: list[Evaluation] = []

    def listening(*inputs: Any, **more: Any) -> Evaluation:
        found.append(evaluate(*inputs, **more))
        return found[-1]

    with mock.patch("actors.evaluator.evaluate", listening):
        yield found


def _recall(tests: Sequence[Evaluation]) -> list[float]:
    """Return the recall of each class, averaged over the last tenth of the tests."""
    last = tests[-math.ceil(len(tests) / 10) :]
    return [round(fmean(values), 5) for values in zip(*(t.recall for t in last), strict=True)]


def _lateness(rows: Iterable[Row]) -> list[float]:
    """Return median, 95 % quantile and maximum of the staleness of updates in versions."""
    values = [row["staleness"] for row in rows if row["kind"] == "committed"]
    return [float(value) for value in np.quantile(values, (0.5, 0.95, 1.0))]


def _used(out: Path) -> dict[str, float]:
    """Return the CPU seconds of each stage, by who went through it."""
    rows = pq.read_table(out / "ops.parquet").to_pylist()
    return {
        f"{row['actor']}: {row['detail']}": round(row["cpu_s"], 3)
        for row in rows
        if row["kind"] == "used"
    }


def _diverged(rows: Iterable[Row], stopped_by: str) -> str:
    count = sum(row["kind"] == "arrived" and row["reason"] == "not_finite" for row in rows)
    if count or stopped_by == "not_finite":
        return f"diverged: {count} updates that are not finite"
    return ""


def _count(name: str, experiment: Experiment, rows: Sequence[Row], stopped_by: str) -> None:
    """Check that a run made the updates that its method asks for, of the right size each."""
    pacing = experiment.method.aggregation.pacing()
    sizes = Counter(row["version"] for row in rows if row["kind"] == "committed")
    arrived = [row for row in rows if row["kind"] == "arrived"]
    asked = sum(row["kind"] == "dispatched" for row in rows)
    refused = Counter(row["reason"] for row in arrived if row["outcome"] != "accepted")
    least = pacing.size if pacing.deadline_s is None else 1
    wrong = [f"version {v} of {n}" for v, n in sizes.items() if not least <= n <= pacing.size]
    if list(sizes) != list(range(1, len(sizes) + 1)):
        wrong.append("versions are missing")
    if pacing.cohort is None:
        if refused:
            wrong.append(f"refused: {dict(refused)}")
        under_way = asked - len(arrived) - sum(row["kind"] == "lost" for row in rows)
        if stopped_by == "virtual_seconds" and under_way != experiment.method.concurrency:
            wrong.append(f"{under_way} under way in the end")
    else:
        refused.pop(Reason.ROUND_CLOSED.value, 0)
        if refused:
            wrong.append(f"refused: {dict(refused)}")
        if asked not in {pacing.cohort * rounds for rounds in (len(sizes), len(sizes) + 1)}:
            wrong.append(f"{asked} asked in {len(sizes)} rounds")
    each = getattr(experiment.data.partition, "examples", None)
    if each is not None and any(row["examples"] != each for row in arrived):
        wrong.append(f"not all updates are of {each} examples")
    if wrong:
        raise MiscountError(f"{name}: {'; '.join(wrong[:3])}")


def _points(rows: Iterable[Row]) -> Iterable[list[Any]]:
    """Yield `COLUMNS` of each evaluated version, exact."""
    updates, sent, joules = 0, 0, 0.0
    published: dict[int, list[Any]] = {}
    for row in rows:
        sent += (row["downlink_bytes"] or 0) + (row["uplink_bytes"] or 0)
        joules += row["energy_j"] or 0.0
        updates += row["kind"] == "arrived"
        if row["kind"] == "published":
            time_s = round(row["time_s"], 6)
            published[row["version"]] = [row["version"], time_s, updates, sent, round(joules, 1)]
        if row["kind"] == "evaluated":
            yield [*published[row["version"]], round(row["accuracy"], 5)]


def _climb(points: Sequence[list[Any]]) -> list[list[Any]]:
    """Return the points that were better than all before, and the last one."""
    best, found = -1.0, []
    for point in points:
        if point[-1] > best or point is points[-1]:
            best = max(best, point[-1])
            found.append(point)
    return found


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


# ------------------------------------------------------------------ what is known of it


def at(record: Record, accuracy: float) -> dict[str, float] | None:
    """Return `COLUMNS` of the first evaluated version of that accuracy; None without one."""
    for point in record["climb"]:
        if point[-1] >= accuracy:
            return dict(zip(COLUMNS, point, strict=True))
    return None


def over(record: Record, grid: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the accuracy in per cent of the newest tested version at each moment."""
    times, accuracies = np.array(record["curve"]).T
    newest = np.searchsorted(times, grid, side="right") - 1
    found: npt.NDArray[np.float64] = 100 * accuracies[np.maximum(newest, 0)]
    return found


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval by Student's t; without one below two values."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Average values, at least one."""
        centre = fmean(values)
        if len(values) == 1:
            return cls(centre, centre, centre)
        half = T_95[len(values) - 1] * stdev(values) / math.sqrt(len(values))
        return cls(centre, centre - half, centre + half)

    @classmethod
    def of_ratios(cls, values: Sequence[float]) -> Mean:
        """Average ratios by their logarithms."""
        found = cls.of([math.log(value) for value in values])
        return cls(math.exp(found.value), math.exp(found.low), math.exp(found.high))

    def text(self, form: str) -> str:
        """Return mean and interval as text."""
        if self.low == self.high:
            return form.format(self.value)
        return form.format(self.value) + f" ({form.format(self.low)} to {form.format(self.high)})"


# ------------------------------------------------------------------ running


@dataclass(frozen=True)
class Race:
    """A cell, and what is kept of it; see `measure`."""

    cell: Cell
    curve: bool
    close: bool = False


def run_all(
    races: Sequence[Race], book: Book, *, processes: int, root: str | None, budget_s: float
) -> float:
    """Run races in their order, a few at a time; return the CPU seconds."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    waiting, running = list(races), dict[Future[Record], Race]()
    spent, finished = 0.0, 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        while waiting or running:
            while waiting and len(running) < processes:
                if spent >= budget_s:
                    waiting.clear()
                    break
                race = waiting.pop(0)
                task = pool.submit(measure, race.cell, root, curve=race.curve, close=race.close)
                running[task] = race
            done, _ = wait(running, return_when=FIRST_COMPLETED) if running else (set(), set())
            for future in done:
                cell, record = running.pop(future).cell, future.result()
                book.add(record)
                spent, finished = spent + record["cpu_s"], finished + 1
                print(
                    f"{finished}/{len(races)} {cell.name} seed {cell.seed}: {_result(record)}, "
                    f"{record['cpu_s']:.0f} CPU s",
                    flush=True,
                )
    return spent


def _result(record: Record) -> str:
    if record["failed"]:
        return str(record["failed"])
    summary = record["summary"]
    return f"{100 * summary['tail_accuracy']:.1f} %, {summary['updates']} updates"
