"""How fast is latecomer, noted as the other frameworks are?

FedBuff of ten; clock, checks and logs as they come. First and last update are read from the run's
log of operations, which says when a training was done; with one process everything runs in it,
without Ray, and its server's admissions are counted. Some updates more are trained than committed;
they take time and are not counted.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from throughput import DATA, EXPERIMENT, MODELS
from work import BATCH, COHORT, LR, SHARDS, Marks, Task, asked

from actors.server import Server
from orchestrator.document import Document
from orchestrator.experiment import CHECKS, Experiment
from orchestrator.request import Request
from orchestrator.run import run

DEALT = "{kind: iid}"
SHARED = "{kind: sampled, examples: 100, alpha: 1000}"
"""More clients than shards share examples."""
GROUP_S = 0.005
"""Updates come in groups; the first one belongs to the start-up."""


def settings(task: Task) -> str:
    """Return the experiment of benchmarks/throughput.py, for this task."""
    text: str = EXPERIMENT.format(
        model=MODELS[task.model],
        uplink="{kind: dense}",
        clients=task.clients,
        lr=LR,
        batch=BATCH,
        versions=task.updates // COHORT,
    )
    busy = text.replace("concurrency: 32", f"concurrency: {task.in_flight}")
    return busy if task.clients == SHARDS else busy.replace(DEALT, SHARED)


def ran(task: Task, folder: Path) -> Path:
    """Run in `folder`; return the run's own folder.

    Raises:
        SystemExit: If it did not make the updates that were asked for.
    """
    (folder / "throughput_data.py").write_text(DATA, encoding="utf-8")
    sys.path.append(str(folder))
    experiment = Document.parse(settings(task), "peers.yaml").validate(Experiment, CHECKS)
    request = Request(
        experiment,
        folder / "run",
        workers=task.processes * task.trainers,
        in_process=task.processes == 1,
        paths=[str(folder)],
    )
    with Path(os.devnull).open("w", encoding="utf-8") as devnull:
        summary = run(request, Console(file=devnull))
    if summary.updates != task.updates or summary.rejected_updates:
        raise SystemExit(f"{summary.updates} updates, {summary.rejected_updates} rejected")
    return request.out


def alone(task: Task, folder: Path) -> Marks:
    """Run in this process, and note what its server admits."""
    marks, admit = Marks(), Server.admit

    def admitted(server: Server, *arguments: Any) -> Any:
        verdict = admit(server, *arguments)
        marks.made()
        return verdict

    Server.admit = admitted  # type: ignore[method-assign, assignment]
    ran(task, folder)
    return marks


def on_ray(task: Task, folder: Path) -> Marks:
    """Run on a Ray, and read from its log when updates came."""
    began = time.monotonic()
    ops = pq.read_table(ran(task, folder) / "ops.parquet")
    came = sorted(ops.filter(pc.equal(ops["kind"], "trained"))["wall_s"].to_pylist())
    if len(came) < task.updates:
        raise SystemExit(f"{len(came)} updates in the log of {task.updates}")
    at_once = sum(when - came[0] < GROUP_S for when in came)
    return Marks(task.updates, at_once, began + came[0], began + came[-1])


def main() -> None:
    """Run."""
    task = asked()
    with tempfile.TemporaryDirectory() as name:
        how = alone if task.processes == 1 else on_ray
        how(task, Path(name)).report(task.processes)


if __name__ == "__main__":
    main()
