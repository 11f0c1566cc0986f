"""How many client updates a second, against a bare torch loop that does the same client work?

    python benchmarks/throughput.py [--quick] [--json FILE] [--repeats N]

100 clients of 100 samples of 28x28, batch 20, one local epoch; concurrency 32, buffer 10, no
evaluation but the first and the last, virtual clock. The bare loop loads the weights, trains and
hands the weights (or their largest changes) back, in as many processes as there are workers, with
no server, no clock and no log. latecomer runs on Ray, with as many pooled actors, and without Ray,
`--in-process`, in one process and with as many beside it that train. They run in turns; the table
shows medians and spread. The loop's networks are written as usual; in one row more it has
latecomer's own CNN, which keeps a pixel's channels side by side. Start-up is a column of its own.
Every row checks how many updates were made, so that none wins by doing less.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from actors.identity import numerics
from actors.learning import models_torch
from orchestrator.document import Document
from orchestrator.experiment import CHECKS, Experiment
from orchestrator.request import Request
from orchestrator.run import run

CLIENTS, SAMPLES, BATCH, LR = 100, 100, 20, 0.05

MODELS = {
    "mlp": "{kind: mlp, hidden: [64]}",
    "cnn": "{kind: cnn, channels: [16, 32], kernel: 5, hidden: 128}",
    "mlp-10m": "{kind: mlp, hidden: [2700, 2950]}",
}

EXPERIMENT = """
name: throughput
seed: 1
data: {{source: "throughput_data:load", partition: {{kind: iid}}}}
model: {model}
fleet: {{clients: {clients}, mix: [{{profile: workstation}}], jitter: {{kind: lognormal}}}}
hosting: pooled
method:
  concurrency: 32
  training: {{kind: sgd, lr: {lr}, batch_size: {batch}}}
  uplink: {uplink}
  aggregation: {{kind: fedbuff, size: 10}}
stop: {{versions: {versions}}}
evaluate: {{every_versions: 1000000}}
tracking: {{enabled: false}}
"""

DATA = f"""
import numpy as np

def load():
    rng = np.random.default_rng(0)
    n = {CLIENTS * SAMPLES}
    x = rng.standard_normal((n + 100, 1, 28, 28)).astype(np.float32)
    y = rng.integers(0, 10, n + 100)
    return {{"x_train": x[:n], "y_train": y[:n], "x_test": x[n:], "y_test": y[n:], "classes": 10}}
"""


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        model: What is trained.
        density: Of an update.
        versions: How many are made.
        same: Whether the bare loop has latecomer's own network, not one written as usual.
    """

    model: str
    density: float
    versions: int
    same: bool = False

    @property
    def title(self) -> str:
        """The model, in words."""
        return f"{self.model}, the same network in the loop" if self.same else self.model

    @property
    def uplink(self) -> str:
        """What is sent, in words."""
        return "dense" if self.density == 1 else f"top-k {self.density:.0%}"

    @property
    def updates(self) -> int:
        """Updates in all."""
        return 10 * self.versions


def ours(
    case: Case, workers: int, folder: Path, *, in_process: bool = False
) -> tuple[float, float]:
    """Run latecomer; return updates a second and the start-up in seconds."""
    text = EXPERIMENT.format(
        model=MODELS[case.model],
        uplink="{kind: dense}"
        if case.density == 1
        else f"{{kind: top-k, density: {case.density}}}",
        clients=CLIENTS,
        lr=LR,
        batch=BATCH,
        versions=case.versions,
    )
    experiment = Document.parse(text, "throughput.yaml").validate(Experiment, CHECKS)
    out = folder / f"{case.model}-{case.density}-{time.monotonic_ns()}"
    devnull = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  # closed below
    with devnull:
        request = Request(
            experiment, out, workers=workers, in_process=in_process, paths=[str(folder)]
        )
        summary = run(request, Console(file=devnull))
    if summary.updates != case.updates or summary.rejected_updates:
        raise SystemExit(f"{case}: {summary.updates} updates, {summary.rejected_updates} rejected")
    return summary.updates_per_second, summary.startup_seconds


def network(model: str, *, same: bool = False) -> nn.Module:
    """Build the same network in plain torch, or latecomer's own CNN."""
    if same:
        return models_torch.cnn((1, 16, 32), (32 * 49, 128, 10), kernel=5, group_norm=False)
    if model == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    if model == "mlp-10m":
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(784, 2700),
            nn.ReLU(),
            nn.Linear(2700, 2950),
            nn.ReLU(),
            nn.Linear(2950, 10),
        )
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 49, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def bare_worker(case: Case, updates: int, ready: Any, go: Any, done: Any) -> None:
    """Load weights, train, hand weights back; nothing else."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = network(case.model, same=case.same)
    base = [p.detach().clone() for p in model.parameters()]
    x = torch.randn(CLIENTS, SAMPLES, 1, 28, 28)
    y = torch.randint(0, 10, (CLIENTS, SAMPLES))
    loss_of = nn.CrossEntropyLoss()
    k = int(case.density * sum(p.numel() for p in base))
    handed = 0
    ready.put(None)
    go.wait()
    for update in range(updates):
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), base, strict=True):
                parameter.copy_(value)
        optimiser = torch.optim.SGD(model.parameters(), lr=LR)
        client = update % CLIENTS
        order = torch.randperm(SAMPLES)
        for start in range(0, SAMPLES, BATCH):
            rows = order[start : start + BATCH]
            optimiser.zero_grad()
            loss_of(model(x[client][rows]), y[client][rows]).backward()
            optimiser.step()
        with torch.no_grad():
            result = torch.cat([p.reshape(-1) for p in model.parameters()])
            if case.density < 1:
                delta = result - torch.cat([b.reshape(-1) for b in base])
                positions = torch.topk(delta.abs(), k, sorted=False).indices
                handed += int(positions.numel() > 0 and delta[positions].numel() == k)
            else:
                handed += int(result.numel() > 0)
    done.put(handed)


def bare(case: Case, workers: int) -> float:
    """Run the bare loop; return updates a second."""
    context = multiprocessing.get_context("spawn")
    ready, done, go = context.Queue(), context.Queue(), context.Event()
    share = -(-case.updates // workers)
    processes = [
        context.Process(target=bare_worker, args=(case, share, ready, go, done))
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        ready.get()
    began = time.perf_counter()
    go.set()
    handed = sum(done.get() for _ in processes)
    elapsed = time.perf_counter() - began
    for process in processes:
        process.join()
    if handed != share * workers:
        raise SystemExit(f"{case}: the bare loop handed {handed} updates back")
    return handed / elapsed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the MLP alone, under two minutes")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each; medians are shown")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args()
    versions = 500 if arguments.quick else 3000
    cases = [Case("mlp", 1, versions), Case("mlp", 0.05, versions)]
    repeats = arguments.repeats
    if arguments.quick:
        repeats = min(repeats, 2)
    else:
        cases += [Case("cnn", 1, 150), Case("cnn", 1, 150, same=True), Case("cnn", 0.05, 150)]
        cases += [Case("mlp-10m", 0.01, 10)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "throughput_data.py").write_text(DATA, encoding="utf-8")
        sys.path.append(name)
        rows = [measure(case, arguments.workers, folder, repeats) for case in cases]
    show(rows, arguments.workers, repeats)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def measure(case: Case, workers: int, folder: Path, repeats: int) -> dict[str, Any]:
    """Take turns."""
    mine: list[float] = []
    alone: list[float] = []
    beside: list[float] = []
    theirs: list[float] = []
    starts: list[float] = []
    for _ in range(repeats):
        theirs.append(bare(case, workers))
        rate, start = ours(case, workers, folder)
        mine.append(rate)
        starts.append(start)
        alone.append(ours(case, 1, folder, in_process=True)[0])
        beside.append(ours(case, workers, folder, in_process=True)[0])
    return {
        "model": case.title,
        "uplink": case.uplink,
        "updates": case.updates,
        "bare": theirs,
        "latecomer": mine,
        "ratio": _ratio(mine, theirs),
        "startup_s": median(starts),
        "alone": alone,
        "alone_ratio": _ratio(alone, theirs),
        "beside": beside,
        "beside_ratio": _ratio(beside, theirs),
    }


def _ratio(mine: list[float], theirs: list[float]) -> float:
    """Return the median of the turns' own ratios."""
    return median(a / b for a, b in zip(mine, theirs, strict=True))


def show(rows: list[dict[str, Any]], workers: int, repeats: int) -> None:
    """Print the table, with the machine and the spread."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {numerics()}")
    print(f"{workers} worker processes; medians of {repeats} turns, (lowest to highest)\n")
    print(
        "| model | uplink | bare loop, updates/s | on Ray, updates/s | ratio | start-up, s "
        f"| without Ray, one process, updates/s | ratio | {workers} trainers, updates/s | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [
            f"{median(v):.0f} ({min(v):.0f} to {max(v):.0f})"
            for v in (row["bare"], row["latecomer"], row["alone"], row["beside"])
        ]
        print(
            f"| {row['model']} | {row['uplink']} | {cells[0]} | {cells[1]} "
            f"| {row['ratio']:.2f} | {row['startup_s']:.1f} "
            f"| {cells[2]} | {row['alone_ratio']:.2f} | {cells[3]} | {row['beside_ratio']:.2f} |"
        )
    print(
        f"\nnumpy {np.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
