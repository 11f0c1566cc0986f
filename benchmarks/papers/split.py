"""What do clients gain from an encoder that learns with them, and what does it cost a device?

    python benchmarks/papers/split.py [--quick] [--only NAME] [--budget-hours H] [--pictures]
    python benchmarks/papers/split.py --throughput

Fashion-MNIST, 10,000 examples at 50 budget phones, Dirichlet 0.3 or two classes each; the first six
blocks of vit-s14 at 42 px; 400 updates of 5 steps with 10 examples, ten clients at a time, FedBuff
with buffers of 5.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import numpy as np
import torch
from cells import (
    CNN,
    TUNING_SEED,
    Book,
    Cell,
    Record,
    Study,
    Table,
    by_labels,
    dirichlet,
    falling,
    machine,
    main,
    noted,
    seeds,
    settings,
    spread,
    tail,
)
from pictures import MB, Line, draw, frame, mean_curve, panels, save
from torch.nn import functional

from actors.encoder import Encoder, Pass, Question
from actors.evaluator import Evaluator
from actors.learning.holdings import Dealt, hold
from actors.publisher import whole_message
from orchestrator.experiment import Experiment
from policies.sparsity import DenseDownlink
from policies.splitting import Exchange, Process, Split
from policies.training.flat_torch import FlatModel
from policies.types import Address, Version, stream
from policies.wire import Header, encode

CLIENTS, SIZE, CONCURRENCY = 50, 5, 10
STEPS, BATCH = 5, 10
VERSIONS, TUNING_VERSIONS, QUICK_VERSIONS = 60, 20, 2
LONGER: Final = 10
"""How many times as many updates frozen features get in a row of their own: they are cheap."""
TESTED, TUNING_TESTED = 2000, 1000
SEEDS: Final = (1, 2)
FACTOR: Final = 10.0
FLEET: Final = {"clients": CLIENTS, "mix": [{"profile": "budget-phone"}]}
SCENES: Final = {"dirichlet 0.3": dirichlet(0.3), "two classes a client": by_labels()}
FIRST: Final = next(iter(SCENES))
"""The scene that rates are chosen in."""
ENCODER: Final = {"kind": "vit-s14", "blocks": 6, "pixels": 42}
NONE: Final = {"kind": "none"}
LAST: Final = {"kind": "last-blocks"}
SMALL: Final = {"kind": "lora", "rank": 1}
ZEROTH: Final = {"kind": "forward-difference", "directions": 4, "step": 0.01}
GAINED, NEAR, KEPT_SHARE, MEMORY_SHARE = 2.0, (0.5, 3.0), 0.5, 0.2
"""Targets: points over frozen, points behind central by scene, share of a gain, of memory."""


@dataclass(frozen=True)
class Rate:
    """What is tuned.

    Attributes:
        lr: Of the tail, or of the whole model; it falls to a tenth.
        encoder: Of the encoder's part.
        server: What the mean of a buffer's updates is multiplied by.
    """

    lr: float
    encoder: float = 0.0
    server: float = 1.0

    def __str__(self) -> str:
        text = f"{self.lr:g}, {self.encoder:g}" if self.encoder else f"{self.lr:g}"
        return text if self.server == 1 else f"{text}, x {self.server:g}"


@dataclass(frozen=True)
class Arm:
    """A row.

    Attributes:
        label: Its name.
        rates: Those that are tried.
        trains: What of the encoder is trained; nothing for another model.
        gradient: How the encoder learns; exactly if left out.
        momentum: Of the encoder.
        longer: How many times as many updates it makes.
        central: Whether one machine has all examples.
        tuned_as: Whose rates it takes, if it is not tuned.
    """

    label: str
    rates: tuple[Rate, ...] = ()
    trains: Mapping[str, Any] = field(default_factory=lambda: NONE)
    gradient: Mapping[str, Any] | None = None
    momentum: float = 0.0
    longer: int = 1
    central: bool = False
    tuned_as: str = ""


ARMS: Final = {
    arm.label: arm
    for arm in (
        Arm("frozen", (Rate(0.003), Rate(0.01), Rate(0.03), Rate(0.1), Rate(0.01, server=5))),
        Arm("frozen, ten times as long", longer=LONGER, tuned_as="frozen"),
        Arm("fedv, last block", (Rate(0.01, 0.001), Rate(0.01, 0.003), Rate(0.003, 0.003),
             Rate(0.003, 0.001), Rate(0.001, 0.003), Rate(0.003, 0.001, 3), Rate(0.001, 0.001, 5),
             Rate(0.01, 0.0003)), LAST, momentum=0.9),
        Arm("fedv, lora 1", (Rate(0.003, 0.01), Rate(0.01, 0.001)), SMALL, momentum=0.9),
        Arm("fedvz, lora 1", (Rate(0.003, 0.001), Rate(0.01, 0.0003)), SMALL, ZEROTH),
        Arm("cnn, fedavg", (Rate(0.03), Rate(0.1), Rate(0.2))),
        Arm("central, last block", (Rate(0.003, 0.0003), Rate(0.003, 0.001), Rate(0.01, 0.001)),
            LAST, momentum=0.9, central=True),
    )
}  # fmt: skip
BEST, SAME, ESTIMATED = "fedv, last block", "fedv, lora 1", "fedvz, lora 1"
CENTRAL: Final = "central, last block"
QUICK: Final = ("frozen", BEST, ESTIMATED, CENTRAL)


# ------------------------------------------------------------------ cells


def asked(
    arm: Arm, rate: Rate, partition: dict[str, Any], versions: int, tested: int, every: int
) -> dict[str, Any]:
    """Return an experiment without name and seed."""
    cnn = arm.label.startswith("cnn")
    updates = versions * SIZE * arm.longer
    size = 2 * SIZE if cnn else SIZE
    training = falling(rate.lr, updates // size, factor=FACTOR, kind="sgd")
    method: dict[str, Any] = {
        "training": training | {"steps": STEPS, "batch_size": BATCH},
        "aggregation": {"kind": "fedavg", "clients_per_round": size}
        if cnn
        else {"kind": "fedbuff", "size": size},
    }
    if rate.server != 1:
        method["aggregation"]["rate"] = rate.server
    if not cnn:
        method["concurrency"] = CONCURRENCY
    model = CNN if cnn else {"kind": "pretrained", "encoder": ENCODER, "trains": dict(arm.trains)}
    whole = settings(
        method, partition=partition, model=model, stop={"versions": updates // size}, fleet=FLEET
    )
    whole["evaluate"] = {"every_versions": every * SIZE * arm.longer // size, "examples": tested}
    if not cnn:
        whole["topology"] = {
            "kind": "split",
            "rate": rate.encoder,
            "momentum": arm.momentum,
            "activations": {"kind": "dense", "values": "fp16"},
            **({"gradient": dict(arm.gradient)} if arm.gradient else {}),
        }
    return whole


@dataclass(frozen=True)
class Central(Cell):
    """A run on one machine that has all examples; `settings["central"]` is what `_train` takes."""

    def experiment(self, root: str | None = None) -> Experiment:
        """Return the federated experiment whose examples, model and tests it has."""
        rest = {key: value for key, value in self.settings.items() if key != "central"}
        return Cell(self.name, self.seed, rest).experiment(root)

    def measure(self, root: str | None) -> Record:
        """Train in this process; return what is kept of it."""
        began = time.process_time()
        experiment = self.experiment(root)
        accuracies = list(_train(experiment, **self.settings["central"]))
        final = accuracies[-1][1]
        return noted(
            self,
            began,
            failed="",
            parameters=experiment.model.parameters(experiment.data.shape()),
            summary={"tail_accuracy": final, "final_accuracy": final},
            curve=[[version, 0.0, 0, 0, accuracy, 0.0] for version, accuracy in accuracies],
        )


def _train(
    experiment: Experiment, *, lr: float, rate: float, momentum: float, visits: int, every: int
) -> list[tuple[int, float]]:
    """Train on the examples of all clients; return the accuracy after each `every` versions.

    A version stands for as many examples as a federated one. Both rates fall exponentially.
    """
    torch.set_num_threads(1)
    holdings = hold(experiment.data, experiment.fleet.clients, experiment.seed)
    assert isinstance(holdings, Dealt)  # noqa: S101  # silos alone are not
    work, data = experiment.work(), holdings.data
    x = torch.from_numpy(data.normalise(data.x_train))
    y = torch.from_numpy(data.y_train.astype(np.int64))
    ends, body = work.build_halves(holdings.shape)
    evaluator = Evaluator(work, holdings)
    rng, velocity = stream(experiment.seed, "central"), torch.zeros_like(body.params)
    rows = np.concatenate([rng.permutation(len(y)) for _ in range(-(-visits // len(y)))])
    steps, each = visits // BATCH, every * SIZE * STEPS
    found = []
    ends.module.train()
    for step, batch in enumerate(torch.from_numpy(rows[:visits]).split(BATCH), start=1):
        for half in (ends, body):
            half.grads.zero_()
        loss = functional.cross_entropy(ends.module(x[batch]), y[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        share = FACTOR ** (-step / steps)
        velocity.mul_(momentum).add_(body.grads)
        ends.params.sub_(ends.grads, alpha=lr * share)
        body.params.sub_(velocity, alpha=rate * share)
        if step % each == 0 or step == steps:
            found.append((step // (SIZE * STEPS), _tested(evaluator, ends, body)))
    return found


def _tested(evaluator: Evaluator, ends: FlatModel, body: FlatModel) -> float:
    """Return the accuracy that a federated version of these weights would have."""
    parts = (ends.schema, Version(0, 0), ends.params.numpy(), ends.buffers.numpy())
    message = whole_message(DenseDownlink(), *parts)
    return evaluator.evaluate(message, body.params.numpy().view(np.uint8)).accuracy


def cell(arm: Arm, rate: Rate, scene: str, seed: int, *, quick: bool = False) -> Cell:
    """Return one run of a table."""
    versions, tested = (QUICK_VERSIONS, 200) if quick else (VERSIONS, TESTED)
    return _cell(f"{scene}/{arm.label}", arm, rate, SCENES[scene], seed, (versions, tested))


def _cell(
    name: str, arm: Arm, rate: Rate, partition: dict[str, Any], seed: int, size: tuple[int, int]
) -> Cell:
    versions, tested = size
    every = versions // 2 if versions == VERSIONS else versions
    whole = asked(arm, rate, partition, versions, tested, every)
    if not arm.central:
        return Cell(name, seed, whole)
    whole["central"] = {
        "lr": rate.lr,
        "rate": rate.encoder,
        "momentum": arm.momentum,
        "visits": versions * SIZE * STEPS * BATCH,
        "every": every,
    }
    return Central(name, seed, whole)


def tuning(arm: Arm) -> dict[str, Cell]:
    """Return the runs that choose an arm's rates."""
    size = (TUNING_VERSIONS, TUNING_TESTED)
    return {
        str(rate): _cell(f"tuning/{arm.label}/{rate}", arm, rate, SCENES[FIRST], TUNING_SEED, size)
        for rate in arm.rates
    }


def rate_of(book: Book, arm: Arm, *, quick: bool) -> Rate | None:
    """Return an arm's rates, once they are known."""
    first = ARMS[arm.tuned_as] if arm.tuned_as else arm
    best = str(first.rates[0]) if quick else book.best(tuning(first))
    return next((rate for rate in first.rates if str(rate) == best), None)


def of_row(book: Book, scene: str, arm: Arm, *, quick: bool) -> list[Cell]:
    """Return a row's cells; those of one machine are the same in every scene."""
    rate = rate_of(book, arm, quick=quick)
    if rate is None:
        return []
    where = FIRST if arm.central else scene
    return [cell(arm, rate, where, seed, quick=quick) for seed in (SEEDS[:1] if quick else SEEDS)]


def plan(book: Book, quick: bool) -> list[Cell]:
    """Return what can be run, one seed after the other."""
    arms = [ARMS[label] for label in QUICK] if quick else list(ARMS.values())
    cells = [] if quick else [c for arm in arms for c in tuning(arm).values()]
    rows = [
        c
        for scene in (list(SCENES)[:1] if quick else SCENES)
        for arm in arms
        for c in of_row(book, scene, arm, quick=quick)
    ]
    found = {(c.name, c.seed): c for c in cells + rows}
    return sorted(found.values(), key=_turn)


def _turn(one: Cell) -> tuple[bool, bool, int]:
    """Return when a cell's turn is: tuning first, and all that is dear or beside the point last."""
    late = any(word in one.name for word in ("lora", "longer", "times"))
    return late, one.seed != TUNING_SEED, one.seed


def runs(book: Book, scene: str, label: str, quick: bool) -> list[Record]:
    """Return the finished runs of a row."""
    return book.done(of_row(book, scene, ARMS[label], quick=quick))


# ------------------------------------------------------------------ tables


def tables(book: Book, quick: bool) -> list[Table]:
    """Return accuracies, bytes, what a device spends, targets, and the tuning."""
    scenes = list(SCENES)[:1] if quick else list(SCENES)
    versions = QUICK_VERSIONS if quick else VERSIONS
    labels = QUICK if quick else tuple(ARMS)
    found = [
        Table(
            f"Split: {scene}, {versions * SIZE} updates of {STEPS} x {BATCH} examples",
            _COLUMNS,
            [_row(book, scene, label, quick) for label in labels],
        )
        for scene in scenes
    ]
    remote = [label for label in labels if not ARMS[label].central]
    found.append(Table(
        f"kB an update by hop: {FIRST}", _HOPS, [_hops(book, label, quick) for label in remote]
    ))  # fmt: skip
    found.append(Table(
        "What a device spends: arithmetic", _SPENT, [_spent(ARMS[label]) for label in remote]
    ))  # fmt: skip
    if quick:
        return found
    return [*found, Table("Targets", _GOALS, _goals(book)), _tuning_table(book)]


_COLUMNS: Final = (
    "arm", "encoder's numbers trained", "seeds", "accuracy, %", "to frozen", "to central",
    "updates", "staleness", "virtual s",
)  # fmt: skip
_HOPS: Final = (
    "arm", "model down", "activations and answers up", "replies down", "update up", "in all",
    "frozen part, once a client", "MB both ways, whole run",
)  # fmt: skip
_SPENT: Final = (
    "arm", "MFLOP an update", "memory, MB", "the same whole: MFLOP", "memory, MB",
    "share of memory",
)  # fmt: skip
_GOALS: Final = ("target", *SCENES)


def _row(book: Book, scene: str, label: str, quick: bool) -> list[str]:
    found, arm = runs(book, scene, label, quick), ARMS[label]
    return [
        label,
        "-" if label.startswith("cnn") else f"{_encoder_numbers(arm):,}",
        seeds(found),
        spread(found, tail),
        _apart(book, scene, label, "frozen", quick),
        _apart(book, scene, label, CENTRAL, quick),
        spread(found, lambda r: r["summary"].get("updates"), "{:.0f}"),
        spread(found, lambda r: r["summary"].get("mean_staleness")),
        spread(found, lambda r: r["summary"].get("virtual_seconds"), "{:.0f}"),
    ]


def difference(book: Book, scene: str, label: str, other: str, *, quick: bool) -> list[float]:
    """Return by how many points an arm is above another, for each seed that both have."""
    mine, theirs = (
        {r["seed"]: tail(r) for r in runs(book, scene, name, quick)} for name in (label, other)
    )
    return [mine[seed] - theirs[seed] for seed in mine if seed in theirs]


def _apart(book: Book, scene: str, label: str, other: str, quick: bool) -> str:
    found = difference(book, scene, label, other, quick=quick)
    if not found:
        return "-"
    text = f"{fmean(found):+.1f}"
    same = len(found) == 1 or min(found) == max(found)
    return text if same else f"{text} ({min(found):+.1f} to {max(found):+.1f})"


def _hops(book: Book, label: str, quick: bool) -> list[str]:
    found = runs(book, FIRST, label, quick)

    def kilobytes(*names: str) -> str:
        return spread(
            found,
            lambda r: sum(r["hops"].get(n, 0) for n in names) / r["payloads"]["count"] / 1e3,
        )

    experiment = cell(ARMS[label], _any_rate(label), FIRST, 1).experiment()
    ends = experiment.ends(experiment.data.shape()).values()
    hops = ("dispatched/downlink", "asked/uplink", "replied/downlink", "arrived/uplink")
    return [
        label,
        *map(kilobytes, hops),
        kilobytes(*hops),
        "".join(f"{end.equipment_bytes / 1e3:.1f}" for end in ends) or "-",
        spread(found, lambda r: sum(r["hops"].values()) / MB),
    ]


def _any_rate(label: str) -> Rate:
    arm = ARMS[label]
    return (ARMS[arm.tuned_as] if arm.tuned_as else arm).rates[0]


def _encoder_numbers(arm: Arm) -> int:
    """Return how many of the encoder's numbers are trained."""
    experiment = cell(arm, _any_rate(arm.label), FIRST, 1).experiment()
    shape = experiment.data.shape()
    ends = next(iter(experiment.ends(shape).values()))
    return experiment.model.parameters(shape) - ends.parameters


def costs(arm: Arm, *, known: bool = False) -> tuple[float, int, float, int]:
    """Return FLOPs and bytes of a device, and those of training the same model whole.

    Args:
        arm: Which.
        known: Whether a client has the features of its examples, where they never change.
    """
    experiment = cell(arm, _any_rate(arm.label), FIRST, 1).experiment()
    shape, training = experiment.data.shape(), experiment.method.training
    examples = experiment.data.shape().train // CLIENTS
    whole = training.flops(examples, experiment.model.forward_flops(shape))
    memory = experiment.training_bytes(shape)
    split = experiment.topology
    if not isinstance(split, Split):
        return whole, memory, whole, memory
    ends = next(iter(experiment.ends(shape).values()))
    process = Process(split, ends, training, examples, known)
    flops = sum(process.device_flops(part) for part in range(len(process.exchanges) + 1))
    return flops, ends.device_bytes(training.batch_size), whole, memory


def _spent(arm: Arm) -> list[str]:
    flops, memory, whole_flops, whole_memory = costs(arm)
    later = costs(arm, known=True)[0]
    again = f", then {later / 1e6:,.1f}" if arm.trains == NONE and later < flops else ""
    return [
        arm.label,
        f"{flops / 1e6:,.1f}{again}",
        f"{memory / MB:.2f}",
        f"{whole_flops / 1e6:,.0f}",
        f"{whole_memory / MB:.1f}",
        f"{100 * memory / whole_memory:.1f} %",
    ]


def _goals(book: Book) -> list[list[str]]:
    """Return what was asked and what came of it, a scene a column."""
    rows = [
        [f"{BEST}: {GAINED:g} points over frozen"],
        [f"{BEST}: within {NEAR[0]:g} ({FIRST}), {NEAR[1]:g} points of central"],
        [f"{ESTIMATED}: {KEPT_SHARE:g} of the gain of {SAME}"],
        [f"{BEST}: {100 * MEMORY_SHARE:g} % of the memory of training it on the device"],
    ]
    _, memory, _, whole = costs(ARMS[BEST])
    for scene, near in zip(SCENES, NEAR, strict=True):
        gained = difference(book, scene, BEST, "frozen", quick=False)
        behind = difference(book, scene, BEST, CENTRAL, quick=False)
        rows[0].append(_said(fmean(gained), GAINED) if gained else "-")
        rows[1].append(_said(fmean(behind), -near) if behind else "-")
        rows[2].append(_kept(book, scene))
        met = "met" if memory <= MEMORY_SHARE * whole else "missed"
        rows[3].append(f"{100 * memory / whole:.1f} %: {met}")
    return rows


def _said(points: float, least: float) -> str:
    return f"{points:+.1f}: {'met' if points >= least else 'missed'}"


def _kept(book: Book, scene: str) -> str:
    """Return what of the gain in the small subspace is left without gradients."""
    exact, guessed = (
        difference(book, scene, label, "frozen", quick=False) for label in (SAME, ESTIMATED)
    )
    if not exact or not guessed:
        return "-"
    met = fmean(exact) > 0 and fmean(guessed) >= KEPT_SHARE * fmean(exact)
    return f"{fmean(guessed):+.1f} of {fmean(exact):+.1f}: {'met' if met else 'missed'}"


def _tuning_table(book: Book) -> Table:
    """Return the tail accuracy at each rate."""
    tuned = [arm for arm in ARMS.values() if arm.rates]
    most = max(len(arm.rates) for arm in tuned)
    rows = []
    for arm in tuned:
        found = {rate: book.find(c) for rate, c in tuning(arm).items()}
        texts = [f"{rate}: {_score(r)}" for rate, r in found.items()]
        rows.append([arm.label, *texts, *[""] * (most - len(texts))])
    title = (
        f"Tuning: {FIRST}, {TUNING_VERSIONS * SIZE} updates, one seed of its own; rate of the "
        "tail, of the encoder: accuracy in %"
    )
    return Table(title, ("arm", *[""] * most), rows)


def _score(found: Record | None) -> str:
    return "-" if found is None else "diverged" if found["failed"] else f"{tail(found):.1f}"


# ------------------------------------------------------------------ throughput

WAITING: Final = 16
ROWS: Final = (1, 2, 4)
SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
TURNS: Final = 7


def throughput() -> None:
    """Measure an encoder with and without putting questions into one pass."""
    arm = ARMS["frozen"]
    experiment = cell(arm, _any_rate("frozen"), FIRST, 1).experiment()
    waiting = Waiting(experiment)
    rows = [waiting.row(count) for count in ROWS]
    made = [
        Table(f"{WAITING} clients that wait: images a second", _PASSES, rows),
        Table("One pass of the body, no messages: ms a row", _SIZES, [waiting.by_size()]),
    ]
    for table in made:
        print(f"{table.title}\n\n{table.markdown()}\n")
    print(f"Medians of {TURNS} turns (lowest to highest), one thread, CPU time.\n{machine()}")


_PASSES: Final = (
    "rows a client", "one at a time", f"{WAITING} in one pass", "ratio", "ms one at a time",
    "ms in one pass",
)  # fmt: skip
_SIZES: Final = tuple(f"{size} rows" for size in SIZES)


class Waiting:
    """Clients whose questions wait at an encoder."""

    def __init__(self, experiment: Experiment) -> None:
        self._work, self._shape = experiment.work(), experiment.data.shape()
        self._encoder = Encoder(self._work, self._shape)
        self._ends = experiment.model.ends(self._shape)
        self._rng = stream(experiment.seed, "throughput")

    def row(self, count: int) -> list[str]:
        """Measure clients that bring so many examples each; both ways take turns."""
        questions, buffers = self._asked(count)
        apart, together = [], []
        for _ in range(TURNS):
            apart.append(_seconds(lambda: self._one_by_one(questions, buffers)))
            together.append(_seconds(lambda: self._at_once(questions, buffers)))
        images = WAITING * count
        ratios = [a / b for a, b in zip(apart, together, strict=True)]
        return [
            str(count),
            _middle([images / s for s in apart], "{:.0f}"),
            _middle([images / s for s in together], "{:.0f}"),
            _middle(ratios, "{:.2f}"),
            _middle([1e3 * s for s in apart], "{:.0f}"),
            _middle([1e3 * s for s in together], "{:.0f}"),
        ]

    def _asked(self, count: int) -> tuple[list[Question], list[np.ndarray[Any, Any]]]:
        """Return questions of so many examples each, and the buffers that hold them."""
        exchange, base = Exchange(count, returns="features"), Version(0, 0)
        schema, split = exchange.question(self._ends), self._work.split
        assert split is not None  # noqa: S101  # this study's are
        questions, buffers = [], [self._encoder.first_weights()]
        for client in range(WAITING):
            values = self._rng.standard_normal(schema.parameters, dtype=np.float32)
            header = Header("activations", Address(client, 0), base, count, 0.0)
            content = split.activations.write(values, schema)
            message = encode(header, content, np.empty(0, dtype=np.float32), schema)
            at = (len(buffers), 0, message.size)
            questions.append(Question(header.address, base, exchange, 0, 0, at))
            buffers.append(message)
        return questions, buffers

    def _one_by_one(self, questions: list[Question], buffers: list[np.ndarray[Any, Any]]) -> None:
        for number, question in enumerate(questions):
            self._encoder.compute(Pass(number, (question,)), buffers)

    def _at_once(self, questions: list[Question], buffers: list[np.ndarray[Any, Any]]) -> None:
        self._encoder.compute(Pass(0, tuple(questions)), buffers)

    def by_size(self) -> list[str]:
        """Return what a row takes in the body alone, by the rows of a pass; sizes take turns."""
        _, body = self._work.build_halves(self._shape)
        found: dict[int, list[float]] = {size: [] for size in SIZES}
        with torch.no_grad():
            for _ in range(TURNS):
                for size in SIZES:
                    s = torch.zeros(size, *self._ends.smashed)
                    found[size].append(1e3 * _seconds(lambda s=s: body.module(s)) / size)
        return [_middle(found[size], "{:.2f}") for size in SIZES]


def _seconds(work: Callable[[], Any]) -> float:
    """Return the CPU seconds of this process: others are on the machine."""
    began = time.process_time()
    work()
    return time.process_time() - began


def _middle(values: list[float], form: str) -> str:
    """Return median, lowest and highest."""
    low, high = form.format(min(values)), form.format(max(values))
    return f"{form.format(median(values))} ({low} to {high})"


# ------------------------------------------------------------------ pictures


COLOURS: Final = {
    "frozen": "#444444",
    BEST: "#d62728",
    SAME: "#1f77b4",
    ESTIMATED: "#9467bd",
    "cnn, fedavg": "#2ca02c",
    CENTRAL: "#e08214",
}


def pictures(book: Book, quick: bool, folder: Path) -> list[Path]:
    """Draw accuracy over updates, a panel a scene."""
    figure, axes = panels(len(SCENES))
    for axis, scene in zip(axes, SCENES, strict=True):
        lines = []
        for label, colour in COLOURS.items():
            found = [] if quick and label not in QUICK else runs(book, scene, label, quick)
            if found:
                versions, y = mean_curve(found, "version")
                size = 2 * SIZE if label.startswith("cnn") else SIZE
                x = [version * size for version in versions]
                lines.append(Line(label, x, y, colour, "--" if label == CENTRAL else "-", "o"))
        draw(axis, lines, x=f"updates of {STEPS * BATCH} examples", y="test accuracy, %")
        frame(axis, lines, least=40)
        axis.set_title(scene, loc="left", fontsize=9)
    return [save(figure, folder / "papers-split.svg")]


STUDY: Final = Study("split", (__doc__ or "").splitlines()[0], plan, tables, pictures)

if __name__ == "__main__":
    if "--throughput" in sys.argv:
        throughput()
    else:
        main(STUDY)
