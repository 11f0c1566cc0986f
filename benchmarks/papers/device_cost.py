"""What does a local epoch cost a device, method by method, on this CPU and in theory?

    python benchmarks/papers/device_cost.py [--quick] [--json FILE] [--markdown] [--repeats N]

100 examples of Fashion-MNIST in batches of 20, one epoch. FLOPs are those that torch's FLOP counter
sees of convolutions and matrix products, peak memory is what torch's own allocator had out at once
above what it held before (weights, gradients and examples), and wall time is the median of turns in
which all methods take part. None of these falls by itself because values are zero: torch computes
densely. What kernels that skip zeros would save stands apart, as arithmetic on the weights' zeros.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from cells import EXAMPLES, IMAGES, MODELS, Table, machine
from pictures import COLOURS, panels, save
from pydantic import TypeAdapter
from rich.console import Console
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from actors.learning.data import DataShape
from actors.learning.models import Model
from actors.learning.sources.fashion import FashionMnist
from policies.sparsity import Uplink, top_k
from policies.training import SparsyFed, Task, Training
from policies.training.flat_torch import FlatModel, layer_weights
from policies.types import Address, Version, stream, stream_seed
from policies.update import FIRST, Base, Mask
from policies.wire import Header, encode

SAMPLES: Final = 100
BATCH: Final = 20
SGD: Final = {"kind": "sgd", "lr": 0.05, "batch_size": BATCH}
POWER: Final = {"kind": "sparsyfed", "lr": 0.05, "batch_size": BATCH}


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        label: Its name.
        training: The section `training`.
        uplink: The section `uplink`.
        density: Share of the prunable weights that are not zero in the base.
        masked: Whether a mask holds the others at zero.
    """

    label: str
    training: dict[str, Any]
    uplink: dict[str, Any]
    density: float = 1.0
    masked: bool = False


METHODS: Final = (
    Method("dense", SGD, {"kind": "dense"}),
    Method("top-k 5 %", SGD, {"kind": "top-k", "density": 0.05}),
    Method("signs 10 %", SGD, {"kind": "signs", "density": 0.1}),
    Method("sparsyfed, first round", POWER, {"kind": "sparse-weights", "density": 0.05}),
    Method("sparsyfed 95 %", POWER, {"kind": "sparse-weights", "density": 0.05}, 0.05),
    Method(
        "sparsyfed 95 %, activations whole",
        POWER | {"prune_activations": False},
        {"kind": "sparse-weights", "density": 0.05},
        0.05,
    ),
    Method("fedmap 90 %", SGD, {"kind": "packed"}, 0.1, masked=True),
)


class Bench:
    """A client with one method, its base pruned as far as the method prunes."""

    def __init__(
        self, method: Method, model: dict[str, Any], x: torch.Tensor, y: torch.Tensor
    ) -> None:
        self.method = method
        self._x, self._y = x, y
        self.training = TypeAdapter(Training).validate_python(method.training)
        self._uplink = TypeAdapter(Uplink).validate_python(method.uplink)
        shape = DataShape(SAMPLES, 1, tuple(x.shape[1:]), 10)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stream_seed(0, "device-cost"))
            module = TypeAdapter(Model).validate_python(model).build(shape)
            self.training.prepare(module)
            self.model = FlatModel(module)
        self._buffers = self.model.buffers.numpy().copy()
        self._values = self.model.params.numpy().copy()
        self._mask: Mask | None = None
        self._task = Task(stream(0, "device-cost"))
        self.epoch()  # where zeros are depends on what was learned
        self._prune()

    def _prune(self) -> None:
        """Keep the largest prunable weights of what one epoch has made."""
        prunable = self.model.schema.prunable
        values = self.model.params.numpy().copy()
        kept = ~prunable
        largest = np.where(prunable, values, np.float32(0))
        kept[top_k(largest, round(self.method.density * int(prunable.sum())))] = True
        self._values = np.where(kept, values, np.float32(0))
        if self.method.masked:
            self._mask = Mask(1, np.flatnonzero(kept))

    def epoch(self) -> None:
        """Train an epoch from the base."""
        mask = None
        if self._mask is not None:
            mask = torch.zeros(self.model.params.shape)
            mask[torch.from_numpy(self._mask.positions)] = 1.0
        self.model.load(self._values, self._buffers)
        task = Task(stream(0, "device-cost"), mask=mask)
        self.training.train(self.model, self._x, self._y, task)

    def payload(self) -> int:
        """Turn what an epoch has made into a payload; return its bytes."""
        schema = self.model.schema
        base = Base(self._values, schema, FIRST, self._mask)
        state = self._uplink.start(schema)
        weights = self.model.params.numpy()
        content, _ = self._uplink.compress(weights, base, state, stream(0, "compress"))
        header = Header(self._uplink.sends(), Address(0, 0), Version(0, 0), SAMPLES, 0.0)
        return int(encode(header, content, self._buffers, schema, self._mask).size)

    def flops(self) -> int:
        """Return what torch's counter sees in an epoch."""
        with FlopCounterMode(display=False) as counter:
            self.epoch()
        return int(counter.get_total_flops())

    def peak_bytes(self) -> int:
        """Return the most that torch's allocator had out at once, above the start."""
        activities = [ProfilerActivity.CPU]
        with (
            _without_notes(),
            profile(activities=activities, profile_memory=True, acc_events=True) as profiler,
        ):
            self.epoch()
        found = profiler.profiler.kineto_results.events()
        events = [event for event in found if event.name() == "[memory]"]
        events.sort(key=lambda event: event.start_ns())
        held = np.cumsum([event.nbytes() for event in events], dtype=np.int64)
        return int(held.max(initial=0))

    def skipping_flops(self) -> float:
        """Return the FLOPs of an epoch in kernels that skip zeros: arithmetic, no measurement.

        Forward, and the gradient of inputs: each layer by its own density of weights. The gradient
        of weights is needed where a weight is not zero, if zeros are held, by mask or by power;
        SparsyFed computes it from as small a share of the activations. Where nothing is zero this
        is dense.
        """
        held = self.method.masked or isinstance(self.training, SparsyFed)
        prunes = isinstance(self.training, SparsyFed) and self.training.prune_activations
        total = 0.0
        with _layer_flops(self.model.module) as flops:
            self.model.load(self._values, self._buffers)
            self.model.module.eval()
            with torch.no_grad():
                self.model.module(self._x)
        for place, (layer, forward) in enumerate(flops):
            stored = layer_weights(layer)["weight"]
            share = int(torch.count_nonzero(stored)) / stored.numel()
            gradient = (share if held else 1.0) * (share if prunes else 1.0)
            inputs = share if place else 0.0  # the first layer's inputs need no gradient
            total += forward * (share + gradient + inputs)
        return total


@contextmanager
def _without_notes() -> Iterator[None]:
    """Drop what the profiler's library writes to the error output."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def _layer_flops(module: nn.Module) -> Iterator[list[tuple[nn.Module, int]]]:
    """Collect each linear layer's and convolution's forward FLOPs, in the order of their use."""
    found: list[tuple[nn.Module, int]] = []

    def note(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        weight = layer_weights(layer)["weight"]
        uses = output.numel() // weight.shape[0]
        found.append((layer, 2 * weight.numel() * uses))

    hooks = [m.register_forward_hook(note) for m in module.modules() if layer_weights(m)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def examples() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first 100 examples."""
    data = FashionMnist(train_examples=EXAMPLES).load()
    x = torch.from_numpy(data.normalise(data.x_train[:SAMPLES]))
    return x, torch.from_numpy(data.y_train[:SAMPLES].astype(np.int64))


def turns(benches: Sequence[Bench], repeats: int, what: Callable[[Bench], object]) -> list[Any]:
    """Time something of all methods in turns; return milliseconds, shape (methods, repeats)."""
    times: list[list[float]] = [[] for _ in benches]
    for _ in range(repeats + 1):
        for bench, mine in zip(benches, times, strict=True):
            began = time.perf_counter()
            what(bench)
            mine.append(1e3 * (time.perf_counter() - began))
    return [mine[1:] for mine in times]  # the first turn warms up


def measure(name: str, repeats: int) -> list[dict[str, Any]]:
    """Measure all methods on a model."""
    x, y = examples()
    benches = [Bench(method, MODELS[name], x, y) for method in METHODS]
    epochs = turns(benches, repeats, Bench.epoch)
    payloads = turns(benches, repeats, Bench.payload)
    return [
        {
            "model": name,
            "method": bench.method.label,
            "density": bench.method.density,
            "flops": bench.flops(),
            "skipping_flops": bench.skipping_flops(),
            "peak_bytes": bench.peak_bytes(),
            "epoch_ms": epoch,
            "payload_ms": payload,
            "payload_bytes": bench.payload(),
        }
        for bench, epoch, payload in zip(benches, epochs, payloads, strict=True)
    ]


def tables(rows: Sequence[dict[str, Any]], repeats: int) -> list[Table]:
    """Return what was measured and, apart, what was worked out."""
    made = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        title = f"A local epoch, {model}: measured here, medians of {repeats} turns (lowest to"
        made.append(Table(f"{title} highest)", _MEASURED, [_measured_row(r) for r in mine]))
        title = f"A local epoch, {model}: what kernels that skip zeros would do, by arithmetic"
        made.append(Table(title, _THEORY, [_theory_row(r, mine[0]) for r in mine]))
    return made


_MEASURED: Final = (
    "method", "GFLOP", "peak memory, MB", "epoch, ms", "payload, ms", "kB an update",
)  # fmt: skip
_THEORY: Final = ("method", "weights not zero", "GFLOP", "of dense")


def _measured_row(row: dict[str, Any]) -> list[str]:
    return [
        row["method"],
        f"{row['flops'] / 1e9:.3f}",
        f"{row['peak_bytes'] / 1e6:.2f}",
        *(
            f"{median(times):.1f} ({min(times):.1f} to {max(times):.1f})"
            for times in (row["epoch_ms"], row["payload_ms"])
        ),
        f"{row['payload_bytes'] / 1e3:.1f}",
    ]


def _theory_row(row: dict[str, Any], dense: dict[str, Any]) -> list[str]:
    return [
        row["method"],
        f"{100 * row['density']:g} %",
        f"{row['skipping_flops'] / 1e9:.4f}",
        f"{100 * row['skipping_flops'] / dense['skipping_flops']:.1f} %",
    ]


def pictures(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw, a panel a model, what an epoch takes here beside what it could take."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, axes = panels(len(models), width=5.4, height=3.4)
    for axis, model in zip(axes, models, strict=True):
        mine = [row for row in rows if row["model"] == model][::-1]
        dense_ms, dense_flops = median(mine[-1]["epoch_ms"]), mine[-1]["skipping_flops"]
        for at, row in enumerate(mine):
            colour = COLOURS[row["method"].split()[0].rstrip(",")]
            here = 100 * median(row["epoch_ms"]) / dense_ms
            theory = 100 * row["skipping_flops"] / dense_flops
            axis.barh(at + 0.2, here, 0.36, color=colour)
            axis.barh(at - 0.2, theory, 0.36, color=colour, alpha=0.35)
            axis.text(here + 2, at + 0.2, f"{here:.0f} % of the time here", va="center", size=7)
            axis.text(theory + 2, at - 0.2, f"{theory:.0f} % in theory", va="center", size=7)
        axis.set_yticks(range(len(mine)), [row["method"] for row in mine])
        longest = max(median(row["epoch_ms"]) for row in mine) / dense_ms
        axis.set_xlim(0, 100 * longest + 70)
        axis.set_xlabel("a local epoch, in % of the dense one")
        axis.set_title(model, loc="left", fontsize=9)
    return [save(figure, folder / "papers-device-cost.svg")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few turns, the CNN alone")
    parser.add_argument("--repeats", type=int, default=25, help="turns; medians are shown")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--markdown", action="store_true", help="tables as in docs/results.md")
    parser.add_argument("--pictures", action="store_true", help="also draw the picture")
    parser.add_argument("--images", type=Path, default=IMAGES, help="where pictures go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    repeats = min(arguments.repeats, 3) if arguments.quick else arguments.repeats
    names = ["cnn"] if arguments.quick else list(MODELS)
    rows = [row for name in names for row in measure(name, repeats)]
    if arguments.quick:
        print("QUICK: few turns; this shows that it runs and is no result.\n")
    console = Console(width=None if sys.stdout.isatty() else 150)
    for table in tables(rows, repeats):
        if arguments.markdown:
            print(f"{table.title}\n\n{table.markdown()}\n")
        else:
            console.print(table.rich())
    print(f"one thread, {(time.process_time() - began) / 3600:.3f} CPU hours; {machine()}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if arguments.pictures:
        arguments.images.mkdir(parents=True, exist_ok=True)
        for file in pictures(rows, arguments.images):
            print(f"wrote {file}")


if __name__ == "__main__":
    main()
