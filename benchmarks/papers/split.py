"""What do clients gain from an encoder that learns with them, and what does it cost a device?

    python benchmarks/papers/split.py [--quick] [--only NAME] [--budget-hours H] [--pictures]
    python benchmarks/papers/split.py --throughput

Fashion-MNIST, 10,000 examples at 50 budget phones, Dirichlet 0.3 or two classes each; the first six
blocks of vit-s14 at 42 px, activations in 16 bits. 300 updates of 5 steps with 10 examples, which
is 15,000 looks at an example; ten clients at a time, FedBuff with buffers of 5. The tail's rate
falls to a tenth, the encoder's stays, but for the central run, where both fall. That run has the
pooled examples, the same model, the same tests and as many looks, in batches of 10. Every version
that is tested is tested on 2,000 examples, the same for all arms of a seed; accuracy is the last
version's. Rates are chosen on a seed of their own, over 100 updates.

Tried besides, in a plain loop of 300 central steps with 1,000 tests, tail at 0.003 or 0.01: of what
can be trained the last block learnt most (76.5 to 78.9 %), then lora of rank 1 (70.2, 73.0), layer
norms (60.7, 70.6) and a prompt of two tokens (55.5 to 57.8); the tail alone had 60.0 and 69.5. The
rates of layer norms and prompts were tried up to 0.1 and 0.3. Zeroth-order estimates with 4
directions and a step of 0.01, tail at 0.01, beside 69.5 for the tail alone: lora of rank 1 at rate
0.003 37.9, layer norms 69.3 (70.6 exactly), lora of the last block alone, 2,304 numbers, 67.6, 67.0
and 65.9 at rates 0.001, 0.0001 and 0.01 (70.7 exactly). In federated runs of 100 updates that lora
of the last block diverged at rates from 0.003 on with the tail at 0.01 or more, exact or estimated,
and was at 66.1 with 0.03 and 0.0003. A mean of updates taken three or five times lost 20 points.
Why FedV is behind: at 100 updates with examples dealt at random it has 69.3 %, not more than with
Dirichlet 0.3, and 84.5 % with one client at a time, where the central run has 84.8: steps that are
averaged and late are what is missing, hence the row with two clients at a time.

The preset's numbers, on the tuning seed, two at a time, adjusted, rates falling, 63.4 % frozen
(500 tests; 66.6 of 1,000): prompt, exact at 0.0002 and 0.0005 62.4 and 56.0; estimated, q 4, at
0.0002, 0.0001 and 0.00005 65.4, 61.8 and 63.2; of 1,000 tests, lora of rank 1 exact at 0.001 and
0.0003 78.8 and 76.8 (the first diverged on seed 2), estimated with q 4 at 0.00003 and 0.0001 67.9
and 38.6, with q 32 at 0.0001 and 0.0002 68.9 and 61.6; layer norms exact at 0.001 and 0.01 66.6
and 69.7. Without falling rates the prompt's estimates reached 52.0 after 80 updates and 14.0
after 120.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import numpy as np
import torch
from cells import (
    CNN,
    HERE,
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
from orchestrator.document import Document
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
PRESET: Final = HERE.parent.parent / "experiments" / "fedvz.yaml"


@dataclass(frozen=True)
class Few:
    """A row of the table of few numbers.

    Attributes:
        changes: To the preset.
        passes: How often the encoder computes a batch.
        against: Which row has exact gradients of the same numbers.
    """

    changes: tuple[str, ...] = ()
    passes: str = "-"
    against: str = ""


def _rates(rate: float) -> tuple[str, str]:
    return f"topology.rate={rate:g}", f"topology.rate_final={rate / FACTOR:g}"


_TESTS: Final = "evaluate.examples=1000"
_EXACT: Final = "topology.gradient={kind: exact}"
_LORA: Final = "model.trains={kind: lora, rank: 1}"
_MANY: Final = "topology.gradient={kind: forward-difference, step: 0.01, directions: 32}"
SUBSPACE: Final = {
    "frozen": Few(("model.trains={kind: none}",)),
    "FedV, prompt": Few((_EXACT,), "2, and back"),
    "FedVZ, prompt, q = 4": Few(passes="9", against="FedV, prompt"),
    "FedV, lora 1": Few((_LORA, _EXACT, *_rates(0.0003)), "2, and back"),
    "FedVZ, lora 1, q = 4": Few((_LORA, *_rates(0.00003)), "9", "FedV, lora 1"),
    "FedVZ, lora 1, q = 32": Few((_LORA, _MANY, *_rates(0.0001)), "33", "FedV, lora 1"),
}
SUBSPACE_SEEDS: Final = (1, 2)
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
        rates: Those that are tried, in the first scene.
        others: Those that are tried in the second; it takes those of the first if there are none.
        trains: What of the encoder is trained; nothing for another model.
        momentum: Of the encoder.
        longer: How many times as many updates it makes.
        flight: Clients at a time.
        size: Updates a version.
        rounds: Whether a client begins when the version with the last one's work is there.
        adjusted: Whether clients adjust logits by their labels, and the encoder's rate falls, too.
        central: Whether one machine has all examples.
        tuned_as: Whose rates it takes, if it is not tuned.
    """

    label: str
    rates: tuple[Rate, ...] = ()
    others: tuple[Rate, ...] = ()
    trains: Mapping[str, Any] = field(default_factory=lambda: NONE)
    momentum: float = 0.0
    longer: int = 1
    flight: int = CONCURRENCY
    size: int = SIZE
    rounds: bool = False
    adjusted: bool = False
    central: bool = False
    tuned_as: str = ""


_ADJUSTED: Final = (
    *(Rate(0.003, 0.0003), Rate(0.003, 0.001), Rate(0.003, 0.003)),
    *(Rate(0.01, 0.0003), Rate(0.01, 0.001), Rate(0.01, 0.003), Rate(0.03, 0.001)),
)

ARMS: Final = {
    arm.label: arm
    for arm in (
        Arm(
            "frozen",
            (Rate(0.003), Rate(0.01), Rate(0.03), Rate(0.1), Rate(0.01, server=5)),
        ),
        Arm("frozen, ten times as long", longer=LONGER, tuned_as="frozen"),
        Arm(
            "fedv, last block",
            (
                *(Rate(0.01, 0.001), Rate(0.01, 0.003), Rate(0.01, 0.0003)),
                *(Rate(0.003, 0.001), Rate(0.003, 0.003)),
                *(Rate(0.001, 0.001), Rate(0.001, 0.003)),
                *(Rate(0.003, 0.001, 3), Rate(0.001, 0.001, 5)),
            ),
            (
                *(Rate(0.001, 0.001), Rate(0.0003, 0.001)),
                *(Rate(0.003, 0.0003), Rate(0.01, 0.0003), Rate(0.01, 0.0001), Rate(0.03, 0.0001)),
            ),
            LAST,
            momentum=0.9,
        ),
        Arm("frozen, two at a time", flight=2, size=1, tuned_as="frozen"),
        Arm(
            "fedv, last block, two at a time",
            trains=LAST,
            momentum=0.9,
            flight=2,
            size=1,
            tuned_as="fedv, last block",
        ),
        Arm(
            "fedv, last block, one at a time",
            trains=LAST,
            momentum=0.9,
            size=1,
            rounds=True,
            tuned_as="fedv, last block",
        ),
        Arm(
            "frozen, one at a time, adjusted",
            (Rate(0.003), Rate(0.01), Rate(0.03), Rate(0.1)),
            (Rate(0.003), Rate(0.01), Rate(0.03), Rate(0.1)),
            size=1,
            rounds=True,
            adjusted=True,
        ),
        Arm(
            "fedv, last block, two at a time, adjusted",
            trains=LAST,
            momentum=0.9,
            flight=2,
            size=1,
            adjusted=True,
            tuned_as="fedv, last block, one at a time, adjusted",
        ),
        Arm(
            "fedv, last block, one at a time, adjusted",
            _ADJUSTED,
            _ADJUSTED,
            trains=LAST,
            momentum=0.9,
            size=1,
            rounds=True,
            adjusted=True,
        ),
        Arm("cnn, fedavg", (Rate(0.03), Rate(0.1), Rate(0.2))),
        Arm(
            "central, last block",
            (Rate(0.003, 0.0003), Rate(0.003, 0.001), Rate(0.01, 0.001)),
            trains=LAST,
            momentum=0.9,
            central=True,
        ),
    )
}
BEST: Final = "fedv, last block"
CENTRAL: Final = "central, last block"
TWO: Final = "fedv, last block, two at a time"
ONE: Final = "fedv, last block, one at a time"
ADJUSTED: Final = "fedv, last block, two at a time, adjusted"
PAIRS: Final = {
    BEST: "frozen",
    TWO: "frozen, two at a time",
    ONE: "frozen, two at a time",
    ADJUSTED: "frozen, one at a time, adjusted",
}
"""What is compared with which frozen features."""
QUICK: Final = ("frozen", BEST, CENTRAL)


# ------------------------------------------------------------------ cells


def asked(
    arm: Arm, rate: Rate, partition: dict[str, Any], versions: int, tested: int, every: int
) -> dict[str, Any]:
    """Return an experiment without name and seed."""
    cnn = arm.label.startswith("cnn")
    rounds = cnn or arm.rounds
    updates = versions * SIZE * arm.longer
    size = 2 * SIZE if cnn else arm.size
    training = falling(rate.lr, updates // size, factor=FACTOR, kind="sgd")
    method: dict[str, Any] = {
        "training": training | {"steps": STEPS, "batch_size": BATCH},
        "aggregation": {"kind": "fedavg", "clients_per_round": size}
        if rounds
        else {"kind": "fedbuff", "size": size},
    }
    if arm.adjusted:
        method["training"]["logit_adjustment"] = 1.0
    if rate.server != 1:
        method["aggregation"]["rate"] = rate.server
    if not rounds:
        method["concurrency"] = arm.flight
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
        }
    if arm.adjusted and rate.encoder:
        whole["topology"] |= {"rate_final": rate.encoder / FACTOR, "rate_versions": updates // size}
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
    looks = torch.from_numpy(rows[:visits]).reshape(-1, BATCH)
    for step, batch in enumerate(looks, start=1):
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


def tuning(arm: Arm, scene: str) -> dict[str, Cell]:
    """Return the runs that choose an arm's rates in a scene."""
    where, rates = (scene, arm.others) if scene != FIRST and arm.others else (FIRST, arm.rates)
    if len(rates) == 1:
        return {}
    size = (TUNING_VERSIONS, TUNING_TESTED)
    return {
        str(rate): _cell(
            f"tuning/{where}/{arm.label}/{rate}", arm, rate, SCENES[where], TUNING_SEED, size
        )
        for rate in rates
    }


def rate_of(book: Book, arm: Arm, scene: str, *, quick: bool) -> Rate | None:
    """Return an arm's rates in a scene, once they are known."""
    first = ARMS[arm.tuned_as] if arm.tuned_as else arm
    if quick or len(first.rates) == 1:
        return first.rates[0]
    best = book.best(tuning(first, scene))
    return next((r for r in (*first.rates, *first.others) if str(r) == best), None)


def of_row(book: Book, scene: str, arm: Arm, *, quick: bool) -> list[Cell]:
    """Return a row's cells; those of one machine are the same in every scene."""
    where = FIRST if arm.central else scene
    rate = rate_of(book, arm, where, quick=quick)
    if rate is None:
        return []
    return [cell(arm, rate, where, seed, quick=quick) for seed in (SEEDS[:1] if quick else SEEDS)]


def plan(book: Book, quick: bool) -> list[Cell]:
    """Return what can be run, one seed after the other."""
    arms = [ARMS[label] for label in QUICK] if quick else list(ARMS.values())
    cells = (
        []
        if quick
        else [c for scene in SCENES for arm in arms for c in tuning(arm, scene).values()]
    )
    rows = [
        c
        for scene in (list(SCENES)[:1] if quick else SCENES)
        for arm in arms
        for c in of_row(book, scene, arm, quick=quick)
    ]
    if not quick:
        rows += [c for label in SUBSPACE for c in subspace(label)]
    found = {(c.name, c.seed): c for c in cells + rows}
    return sorted(found.values(), key=_turn)


def _turn(one: Cell) -> tuple[bool, bool, int]:
    """Return when a cell's turn is: tuning first, and all that is dear or beside the point last."""
    late = "times" in one.name
    return late, one.seed != TUNING_SEED, one.seed


def subspace(label: str) -> list[Cell]:
    """Return the preset's runs with few numbers frozen, trained exactly, or by estimates."""
    return [_preset(label, (*SUBSPACE[label].changes, _TESTS), s) for s in SUBSPACE_SEEDS]


def _preset(label: str, changes: tuple[str, ...], seed: int) -> Cell:
    preset = Document.read(PRESET)
    preset.override(changes, Experiment)
    left = {key: value for key, value in preset.data.items() if key not in {"name", "seed"}}
    left |= {"checkpoint": {"every_s": 86_400}, "tracking": {"enabled": False}}
    return Cell(f"{PRESET.stem}/{label}", seed, left)


def subspace_runs(book: Book, label: str) -> list[Record]:
    """Return the finished ones."""
    return book.done(subspace(label))


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
            [
                _row(book, scene, label, quick)
                for label in labels
                if runs(book, scene, label, quick)
            ],
        )
        for scene in scenes
    ]
    remote = [label for label in labels if not ARMS[label].central]
    rows = [_hops(book, label, quick) for label in remote if runs(book, FIRST, label, quick)]
    found.append(Table(f"kB an update by hop: {FIRST}", _HOPS, rows))
    found.append(Table(
        "What a device spends: arithmetic", _SPENT, [_spent(ARMS[label]) for label in remote]
    ))  # fmt: skip
    if quick:
        return found
    targets = Table("Targets", _GOALS, _goals(book))
    return [*found, _subspace(book), targets, _tuning_table(book)]


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
_SUBSPACE: Final = (
    "arm", "numbers", "passes a batch", "seeds", "accuracy, %", "to frozen",
    "of FedV's gain", "kB up an update", "kB down", "virtual s",
)  # fmt: skip


def _row(book: Book, scene: str, label: str, quick: bool) -> list[str]:
    found = runs(book, scene, label, quick)
    return [
        label,
        "-" if label.startswith("cnn") else f"{_encoder_numbers(_first(label)):,}",
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

    experiment = _first(label)
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


def _first(label: str) -> Experiment:
    """Return a row's experiment in the first scene."""
    return cell(ARMS[label], _any_rate(label), FIRST, 1).experiment()


def _encoder_numbers(experiment: Experiment) -> int:
    """Return how many of the encoder's numbers are trained."""
    shape = experiment.data.shape()
    ends = next(iter(experiment.ends(shape).values()))
    return experiment.model.parameters(shape) - ends.parameters


def costs(arm: Arm, *, known: bool = False) -> tuple[float, int, float, int]:
    """Return FLOPs and bytes of a device, and those of training the same model whole.

    Args:
        arm: Which.
        known: Whether a client has the features of its examples, where they never change.
    """
    experiment = _first(arm.label)
    shape, training = experiment.data.shape(), experiment.method.training
    examples = experiment.data.shape().train // CLIENTS
    whole = training.flops(examples, experiment.model.forward_flops(shape))
    memory = experiment.memory(shape).bytes(training.batch_size)
    split = experiment.topology
    if not isinstance(split, Split):
        return whole, memory, whole, memory
    ends = next(iter(experiment.ends(shape).values()))
    process = Process(split, ends, training, examples, known)
    flops = sum(process.device_flops(part) for part in range(len(process.exchanges) + 1))
    return flops, process.memory.bytes(training.batch_size), whole, memory


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
    rows = []
    for label, frozen in PAIRS.items():
        gains = [difference(book, scene, label, frozen, quick=False) for scene in SCENES]
        behind = [difference(book, scene, label, CENTRAL, quick=False) for scene in SCENES]
        near = " and ".join(f"{points:g}" for points in NEAR)
        rows.append(
            [f"{label}: {GAINED:g} points over {frozen}", *(_said(g, GAINED) for g in gains)]
        )
        rows.append([
            f"{label}: within {near} points of central",
            *(_said(b, -points) for b, points in zip(behind, NEAR, strict=True)),
        ])  # fmt: skip
    _, memory, _, whole = costs(ARMS[BEST])
    share = f"{100 * memory / whole:.1f} %: {_met(memory <= MEMORY_SHARE * whole)}"
    memories = f"{BEST}: {100 * MEMORY_SHARE:g} % of the memory of training it on the device"
    return [*rows, [memories, *[share] * len(SCENES)]]


def _said(points: list[float], least: float) -> str:
    return f"{fmean(points):+.1f}: {_met(fmean(points) >= least)}" if points else "-"


def _met(yes: bool) -> str:
    return "met" if yes else "missed"


def _subspace(book: Book) -> Table:
    """Return what estimates keep of what exact gradients gain in the same few numbers."""
    found = {label: subspace_runs(book, label) for label in SUBSPACE}
    gains = {label: _gains(rows, found["frozen"]) for label, rows in found.items()}
    rows = []
    for label, runs_ in found.items():
        few, gained = SUBSPACE[label], gains[label]
        most = fmean(gains[few.against]) if gains.get(few.against) else 0.0
        kept = f"{100 * fmean(gained) / most:.0f} %" if gained and most > 0 else "-"
        count = sum(r["payloads"]["count"] for r in runs_)
        sent = (
            sum(size for r in runs_ for hop, size in r["hops"].items() if hop.endswith(way)) / 1e3
            for way in ("uplink", "downlink")
        )
        rows.append([
            label,
            f"{_encoder_numbers(subspace(label)[0].experiment()):,}",
            few.passes,
            seeds(runs_),
            spread(runs_, tail),
            *(("-", "-") if label == "frozen" else (_interval(gained), kept)),
            *(f"{kilobytes / count:.0f}" if count else "-" for kilobytes in sent),
            spread(runs_, lambda r: r["summary"].get("virtual_seconds"), "{:.0f}"),
        ])  # fmt: skip
    title = (
        f"{PRESET.name}, 120 updates of 5 x 10 examples, 1,000 tests; asked of FedVZ is "
        f"{KEPT_SHARE:.0%} of FedV's gain"
    )
    return Table(title, _SUBSPACE, rows)


def _gains(rows: list[Record], frozen: list[Record]) -> list[float]:
    """Return points over frozen features for each seed that both have."""
    theirs = {r["seed"]: tail(r) for r in frozen}
    return [tail(r) - theirs[r["seed"]] for r in rows if r["seed"] in theirs]


def _interval(points: list[float]) -> str:
    """Return mean, lowest and highest."""
    if not points:
        return "-"
    return f"{fmean(points):+.1f} ({min(points):+.1f} to {max(points):+.1f})"


def _tuning_table(book: Book) -> Table:
    """Return the accuracy at each rate."""
    rows = []
    for scene in SCENES:
        for arm in ARMS.values():
            if len(arm.rates if scene == FIRST else arm.others) > 1:
                found = {rate: book.find(c) for rate, c in tuning(arm, scene).items()}
                texts = "; ".join(f"{rate}: {_score(r)}" for rate, r in found.items())
                rows.append([scene, arm.label, texts])
    title = f"Tuning: {TUNING_VERSIONS * SIZE} updates, one seed of its own"
    return Table(title, ("clients' classes", "arm", "rate of tail, encoder: accuracy, %"), rows)


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
                    shape = (size, *self._ends.smashed)
                    s = torch.from_numpy(self._rng.standard_normal(shape, dtype=np.float32))
                    found[size].append(1e3 * _seconds(partial(body.module, s)) / size)
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
    TWO: "#17becf",
    ONE: "#1f77b4",
    ADJUSTED: "#9467bd",
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
                size = 2 * SIZE if label.startswith("cnn") else ARMS[label].size
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
