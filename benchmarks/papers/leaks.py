"""What does the side that computes the encoder learn about clients of a split model?

    python benchmarks/papers/leaks.py [--quick] [--json FILE] [--markdown] [--pictures]

Fashion-MNIST through `vit-s14` (6 blocks, 42 px). The attacker is honest but curious: it computes
what it should, reads what it is sent, knows all that is published (encoder, tail, settings, how
strong the noise is) and has labelled images of the same kind, none of them a victim's. Whatever it
reads was written by a client's own code and read by the encoder's.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from attacks import Array, Scalars, by_gradient, clusters, follow, probe, psnr, rebuilt, ssim
from cells import CNN, IMAGES, Cell, Table, machine
from pictures import panels, save
from pydantic import TypeAdapter
from rich.console import Console
from safetensors.numpy import load_file
from torch import Tensor, nn

from actors.encoder import Encoder, Pass, Question
from actors.ends import EndsTrainer
from actors.learning.models import Model
from actors.learning.sources.fashion import FashionMnist
from actors.work import Assignment, Work
from orchestrator.request import Request
from orchestrator.run import run
from policies.splitting import Exchange
from policies.splitting.process import step_of
from policies.training import Member, Task
from policies.training.sgd_torch import batches
from policies.types import Address, Buffer, Vector, Version, stream, stream_seed
from policies.update import Base
from policies.wire import decode

ENCODER: Final = {"kind": "vit-s14", "blocks": 6, "pixels": 42}
CODINGS: Final = {
    "fp32": {"kind": "dense"},
    "int8": {"kind": "dense", "values": "int8"},
    "top-k 10 %": {"kind": "top-k", "density": 0.1},
}
NOISES: Final = (0.0, 0.03, 0.1, 0.3, 1.0)
CUTS: Final = (0, 2, 5)
FEW: Final = 100
"""Labelled images of the attacker that the probe of features learns from."""
GROUP: Final = 100
"""Examples of a client whose activations are rebuilt."""
RATE: Final = 0.01
"""Of clients' steps: the best of 0.003, 0.01 and 0.03 on a seed that no table shows."""
V0: Final = Version(0, 0)
NOTHING: Final[Buffer] = np.empty(0, dtype=np.uint8)
Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        victims: Images that are attacked, for each seed.
        public: Images of the attacker, for each seed.
        seeds: Choose images, batches, noise and directions.
        judge: Images that the classifier of rebuilt ones learns from.
        codings: Of activations.
        noises: Standard deviations.
        cuts: Places.
        batches: Batch sizes, and how many batches of each.
        directions: Numbers of directions.
        frozen: Seeds of the runs that train the tail alone.
        updates: Of each run that trains the tail alone.
    few: Of each run that trains layer norms.
        norms: Noises of the runs that train layer norms.
        tests: Examples that a version is tested on.
    """

    victims: int = 500
    public: int = 1500
    seeds: tuple[int, ...] = (0, 1, 2)
    judge: int = 6000
    codings: tuple[str, ...] = tuple(CODINGS)
    noises: tuple[float, ...] = NOISES
    cuts: tuple[int, ...] = CUTS
    batches: tuple[tuple[int, int], ...] = ((1, 100), (4, 40), (10, 20))
    directions: tuple[int, ...] = (1, 4, 16)
    frozen: tuple[int, ...] = (1, 2)
    updates: int = 300
    few: int = 60
    norms: tuple[float, ...] = (0.0, 0.03, 0.1, 0.3)
    tests: int = 1000


QUICK: Final = Size(
    victims=100, public=300, seeds=(0,), judge=1000, codings=("fp32", "top-k 10 %"),
    noises=(0.0, 0.3), cuts=(0, 5), batches=((1, 20), (10, 4)), directions=(1, 4), frozen=(1,),
    updates=8,
    few=8, norms=(0.0, 0.3), tests=100,
)  # fmt: skip


# ------------------------------------------------------------------ both sides


class Images(NamedTuple):
    """Images as a model takes them, as pixels from 0 to 1, and their labels."""

    x: Tensor
    pixels: Array
    y: Array

    def part(self, begin: int, end: int) -> Images:
        """Return some of them."""
        return Images(*(piece[begin:end] for piece in self))


class Chosen(NamedTuple):
    """Images of one seed: those attacked, and the attacker's own."""

    victims: Images
    public: Images


class Heard(NamedTuple):
    """What the encoder's side has of one batch.

    Attributes:
        z: Features that it has sent, shape (copies + moves, n, features).
        gradient: dL/dz that came back, shape (n, features), or empty.
        scalars: Differences of the loss that came back, shape (q,), or empty.
        y: The labels, which it is to find.
    """

    z: Tensor
    gradient: Tensor
    scalars: Vector
    y: Array


DATA: Final = FashionMnist().load()
SHAPE: Final = DATA.shape


def images(places: Array) -> Images:
    """Return images of the training split."""
    raw = DATA.x_train[places]
    pixels = raw.reshape(len(raw), -1).astype(np.float32) / 255
    return Images(torch.from_numpy(DATA.normalise(raw)), pixels, DATA.y_train[places])


def choose(size: Size, seed: int) -> Chosen:
    """Draw a seed's images; those of the judge lie in the last tenth, which is nobody's."""
    order = stream(seed, "leaks").permutation(54_000)[: size.victims + size.public]
    return Chosen(images(order[: size.victims]), images(order[size.victims :]))


class Sides:
    """A client and an encoder that talk as they do in a run.

    Args:
        seed: Of the run.
        topology: The section `topology` without its kind.
        trains: What is trained of the encoder.
        batch_size: Examples a step.
        steps: Steps an assignment.
        tail: The published tail, by name; what the run begins with if None.
    """

    def __init__(
        self,
        seed: int,
        topology: dict[str, Any],
        *,
        trains: str = "none",
        batch_size: int = 10,
        steps: int = 1,
        tail: dict[str, Array] | None = None,
    ) -> None:
        self.work = Work.model_validate(
            {
                "seed": seed,
                "data": {"source": "fashion-mnist"},
                "model": _model(trains),
                "method": {"training": _training(batch_size, steps)},
                "topology": {"kind": "split", **topology},
            }
        )
        model = self.work.build(SHAPE)
        if tail is not None:
            pieces = [tail[tensor.name].reshape(-1) for tensor in model.schema.tensors]
            model.params.copy_(torch.from_numpy(np.concatenate(pieces)))
        self._base = Base(model.params.numpy().copy(), model.schema)
        self._ends = EndsTrainer(self.work, model, lambda b: self.work.model.ends(SHAPE, b))
        self.encoder = Encoder(self.work, SHAPE)
        published = self.work.build(SHAPE)
        published.load(self._base.values, np.zeros(0, dtype=np.float32))
        self.tail: nn.Module = published.module.get_submodule("tail")

    def sent(self, given: Images, cut: int, *, features: int) -> tuple[Array, Array]:
        """Let clients send activations.

        Args:
            given: All clients' images.
            cut: Blocks that run on the device.
            features: Of how many images the encoder's features are wanted.

        Returns:
            Activations as they were read, shape (n, d), and features, shape (features, width).
        """
        activations, found = [], []
        for client, begin in enumerate(range(0, len(given.y), GROUP)):
            mine = given.part(begin, begin + GROUP)
            assignment = Assignment(Address(client, 0), V0, cut=cut)
            member = self._member(assignment, mine)
            asked = self._ends.ask(assignment, self._base, member, NOTHING, NOTHING)
            process = self._ends.process(assignment, len(mine.y))
            schema = process.exchanges[0].question(process.ends)
            read = decode(asked.question, schema).content.densify(schema.parameters)
            activations.append(np.array(read).reshape(len(mine.y), -1))
            if begin < features:
                question = Question(
                    assignment.address, V0, process.exchanges[0], 0, cut,
                    (1, 0, asked.question.size),
                )  # fmt: skip
                reply, _ = self._computed(0, question, [asked.question])
                found.append(self._ends.features(assignment, len(mine.y), reply).numpy())
        return np.concatenate(activations), np.concatenate(found)[:features]

    def talk(self, client: int, given: Images) -> Iterator[Heard]:
        """Lead a client through an assignment; yield what the encoder's side has of each batch."""
        address = Address(client, 0)
        exchanges = self._ends.process(Assignment(address, V0), len(given.y)).exchanges
        ends = self.work.model.ends(SHAPE)
        rng = stream(self.work.seed, "batches", *address)
        order = list(batches(self.work.method.training, len(given.y), rng))
        carry, reply, before, brought = NOTHING, NOTHING, NOTHING, Exchange()
        weights = held = self.encoder.first_weights()
        z: Tensor | None = None
        for part, exchange in enumerate(exchanges):
            assignment = Assignment(address, V0, part=part)
            member = self._member(assignment, given)
            question, carry = self._ends.ask(assignment, self._base, member, carry, reply)
            schema = exchange.question(ends)
            message = decode(question, schema)
            values = np.array(message.content.densify(schema.parameters))
            step = step_of(exchanges, part)
            if exchange.answers and z is not None:
                told = values[len(values) - exchange.answered * ends.features :]
                gradient = torch.from_numpy(told.reshape(-1, ends.features))
                y = given.y[order[step - bool(exchange.rows)]]
                yield Heard(z, gradient, np.array(message.buffers), y)
            if not exchange.returns:
                return
            asked = Question(
                address, V0, exchange, step, 0, (1, 0, question.size),
                (2, 0, before.size) if exchange.answered else None, brought, 3,
            )  # fmt: skip
            reply, after = self._computed(part, asked, [question, before, held], weights)
            answer = exchange.reply(ends)
            numbers = np.array(decode(reply, answer).content.densify(answer.parameters))
            z = torch.from_numpy(numbers.reshape(-1, exchange.rows, ends.features))
            before, brought, held, weights = question, exchange, weights, after

    def _member(self, assignment: Assignment, given: Images) -> Member:
        task = Task(stream(self.work.seed, "batches", *assignment.address))
        return Member(given.x, torch.from_numpy(given.y), task)

    def _computed(
        self,
        number: int,
        question: Question,
        buffers: Sequence[Buffer],
        weights: Buffer | None = None,
    ) -> tuple[Buffer, Buffer]:
        """Return the encoder's reply, and its weights after that."""
        newest = self.encoder.first_weights() if weights is None else weights
        replies, after, receipt = self.encoder.compute(
            Pass(number, (question,)), [newest, *buffers]
        )
        return replies[slice(*receipt.places[0])], after


def _model(trains: str) -> dict[str, Any]:
    return {"kind": "pretrained", "encoder": ENCODER, "trains": {"kind": trains}}


def _training(batch_size: int, steps: int) -> dict[str, Any]:
    return {"kind": "sgd", "lr": RATE, "steps": steps, "batch_size": batch_size}


# ------------------------------------------------------------------ rebuilding


class Judge:
    """A small convolutional network, trained on real images, that says what an image shows."""

    def __init__(self, count: int) -> None:
        given = images(np.arange(60_000 - count, 60_000))
        self._seed = stream_seed(0, "judge")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._seed)
            self._net = TypeAdapter(Model).validate_python(CNN).build(SHAPE)
            self._train(given)
        self._net.eval()

    def _train(self, given: Images, epochs: int = 6) -> None:
        y = torch.from_numpy(given.y)
        steps = torch.optim.Adam(self._net.parameters(), lr=1e-3)
        self._net.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(y)).split(50):
                steps.zero_grad()
                nn.functional.cross_entropy(self._net(given.x[rows]), y[rows]).backward()
                steps.step()

    def right(self, pixels: Array, y: Array) -> float:
        """Return the share of images, given as pixels from 0 to 1, that it takes for theirs."""
        x = (pixels.astype(np.float32) - np.float32(DATA.mean)) / np.float32(DATA.std)
        with torch.no_grad():
            said = self._net(torch.from_numpy(x).reshape(-1, 1, 28, 28)).argmax(dim=1).numpy()
        return float((said == y).mean())


def likeness(found: Array, victims: Images, judge: Judge) -> Row:
    """Return how like the victims' images rebuilt ones are."""
    return {
        "psnr": psnr(found, victims.pixels),
        "ssim": ssim(found, victims.pixels),
        "class": judge.right(found, victims.y),
    }


def rebuild(size: Size, judge: Judge) -> tuple[list[Row], list[Row], dict[str, Array]]:
    """Rebuild images behind each cut, coded or with noise.

    Returns:
        A row for each cut, coding, noise and seed; floor and ceiling for each seed; and, of the
        first seed, some images by what they were rebuilt from.
    """
    rows: list[Row] = []
    bounds: list[Row] = []
    shown: dict[str, Array] = {}
    ways = [(coding, 0.0) for coding in size.codings]
    ways += [("fp32", noise) for noise in size.noises if noise]
    for seed in size.seeds:
        victims, public = choose(size, seed)
        floor = np.broadcast_to(public.pixels.mean(axis=0), victims.pixels.shape)
        bounds.append(likeness(floor, victims, judge) | {"what": "mean image", "seed": seed})
        bounds.append(likeness(victims.pixels, victims, judge) | {"what": "itself", "seed": seed})
        shown.setdefault("itself", victims.pixels[:SHOWN])
        together = Images(torch.cat([victims.x, public.x]), public.pixels,
                          np.concatenate([victims.y, public.y]))  # fmt: skip
        for cut in size.cuts:
            for coding, noise in ways:
                sides = Sides(seed, {"activations": CODINGS[coding], "noise": noise})
                seen, z = sides.sent(together, cut, features=size.victims + FEW)
                found = rebuilt(seen[size.victims :], public.pixels, seen[: size.victims])
                row = {"cut": cut, "coding": coding, "noise": noise, "seed": seed}
                row |= {"spread": float(seen[: size.victims].std(axis=0).mean())}
                row |= likeness(found, victims, judge) | _by_features(z, victims, public, seed)
                rows.append(row)
                shown.setdefault(f"{cut}/{coding}/{noise:g}", found[:SHOWN])
            _say(f"seed {seed}, cut {cut}: rebuilt")
    return rows, bounds, shown


SHOWN: Final = 8
"""Images in the picture."""


def _by_features(z: Array, victims: Images, public: Images, seed: int) -> Row:
    """Return how many labels features give away to one who has few labelled images."""
    seen, known, labels = z[: len(victims.y)], z[len(victims.y) :], public.y[:FEW]
    return {
        "probe": float((probe(known, labels).predict(seen) == victims.y).mean()),
        "clusters": float((clusters(known, labels, seen, seed) == victims.y).mean()),
    }


# ------------------------------------------------------------------ labels


class Tally(NamedTuple):
    """Labels found, batch by batch: the share that is right in each."""

    shares: Sequence[float]

    def row(self) -> Row:
        """Return mean, standard error over batches, and the share of batches read whole."""
        error = float(np.std(self.shares) / np.sqrt(len(self.shares)))
        whole = float(np.mean([share == 1 for share in self.shares]))
        return {"right": fmean(self.shares), "error": error, "whole": whole}


def gradients(
    size: Size,
    tail: dict[str, Array] | None,
    *,
    coding: str = "fp32",
    noise: float = 0.0,
    batch: tuple[int, int],
    steps: int = 1,
) -> list[Row]:
    """Find labels in the gradients of FedV; a row for each step of an assignment."""
    n, count = batch
    topology = {"rate": 0.05, "activations": CODINGS[coding], "noise": noise}
    sides = Sides(size.seeds[0], topology, trains="layer-norms", batch_size=n, steps=steps,
                  tail=tail)  # fmt: skip
    victims = choose(size, size.seeds[0]).victims
    shares: list[list[float]] = [[] for _ in range(steps)]
    stale: list[list[float]] = [[] for _ in range(steps)]
    for client, begin in zip(range(count), _begins(n * steps, size.victims), strict=False):
        mine, tail_now = victims.part(begin, begin + n * steps), copy.deepcopy(sides.tail)
        for step, heard in enumerate(sides.talk(client, mine)):
            found = by_gradient(tail_now, heard.z[0], heard.gradient)
            follow(tail_now, RATE, heard.z[0], found)
            shares[step].append(float((found == heard.y).mean()))
            by_old = by_gradient(sides.tail, heard.z[0], heard.gradient)
            stale[step].append(float((by_old == heard.y).mean()))
    about = {"coding": coding, "noise": noise, "batch": n, "tail": _named(tail)}
    return [
        about | {"step": step, "stale": Tally(old).row()} | Tally(mine).row()
        for step, (mine, old) in enumerate(zip(shares, stale, strict=True), 1)
    ]


def scalars(
    size: Size,
    tail: dict[str, Array] | None,
    *,
    directions: int,
    noise: float = 0.0,
    batch: tuple[int, int],
) -> Row:
    """Find labels in the differences of FedVZ: by these alone, by features, and by both."""
    n, count = batch
    gradient = {"kind": "forward-difference", "directions": directions}
    topology = {"rate": 0.05, "noise": noise, "gradient": gradient}
    seed = size.seeds[0]
    sides = Sides(seed, topology, trains="layer-norms", batch_size=n, tail=tail)
    victims, public = choose(size, seed)
    _, z = Sides(seed, {"noise": noise}).sent(public.part(0, FEW), 0, features=FEW)
    guess = probe(z, public.y[:FEW])
    shares: dict[str, list[float]] = {"alone": [], "features": [], "both": []}
    for client, begin in zip(range(count), _begins(n, size.victims), strict=False):
        for heard in sides.talk(client, victims.part(begin, begin + n)):
            prior = guess.predict_log_proba(heard.z[0].numpy())
            attack = Scalars(sides.tail, heard.z, heard.scalars, prior)
            found = {"alone": attack.alone(), "features": prior.argmax(axis=1),
                     "both": attack.together()}  # fmt: skip
            for name, labels in found.items():
                shares[name].append(float((labels == heard.y).mean()))
    about = {"directions": directions, "noise": noise, "batch": n, "tail": _named(tail)}
    return about | {name: Tally(mine).row() for name, mine in shares.items()}


def _begins(width: int, total: int) -> Iterator[int]:
    """Yield where batches of victims begin; over again, shifted, where there are too few."""
    shift = 0
    while True:
        yield from range(shift, total - width + 1, width)
        shift += 1


def _named(tail: dict[str, Array] | None) -> str:
    return "first" if tail is None else "trained"


def labels(size: Size, tail: dict[str, Array]) -> tuple[list[Row], list[Row]]:
    """Find labels in all ways; return those of gradients and those of scalars."""
    told: list[Row] = []
    for tail_of in (None, tail):
        for batch in size.batches:
            told += gradients(size, tail_of, batch=batch)
    last = size.batches[-1]
    for coding in size.codings[1:]:
        told += gradients(size, tail, coding=coding, batch=last)
    told += gradients(size, tail, batch=(last[0], last[1] // 4 + 1), steps=5)
    _say("labels by gradients")
    apart = [
        scalars(size, tail_of, directions=q, batch=batch)
        for tail_of in (None, tail)
        for batch in size.batches
        for q in size.directions
    ]
    _say("labels by differences")
    return told, apart


# ------------------------------------------------------------------ what noise costs


def trained(
    size: Size, seed: int, noise: float, trains: str, cut: int
) -> tuple[float, dict[str, Array]]:
    """Run the product; return the accuracy of the last version and its tail."""
    versions = (size.updates if trains == "none" else size.few) // 4
    settings = {
        "data": {
            "source": "fashion-mnist",
            "train_examples": 1000,
            "partition": {"kind": "dirichlet", "alpha": 0.3},
        },
        "model": _model(trains),
        "topology": {"kind": "split", "rate": 0.05, "noise": noise, "cut": cut},
        "fleet": {"clients": 10, "mix": [{"profile": "budget-phone"}]},
        "method": {
            "concurrency": 4,
            "training": _training(10, 5),
            "aggregation": {"kind": "fedbuff", "size": 4},
        },
        "stop": {"versions": versions},
        "evaluate": {"every_versions": versions, "examples": size.tests},
        "tracking": {"enabled": False},
    }
    experiment = Cell(f"leaks/{trains}", seed, settings).experiment()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        summary = run(Request(experiment, out, in_process=True), Console(quiet=True))
        return summary.final_accuracy, load_file(out / "model" / "final.safetensors")


def costs(size: Size) -> tuple[list[Row], dict[str, Array]]:
    """Train with noise of each strength; return a row a run, and a tail trained without noise."""
    rows: list[Row] = []
    tail: dict[str, Array] = {}
    for cut in size.cuts:
        for noise in size.noises:
            for seed in size.frozen:
                accuracy, found = trained(size, seed, noise, "none", cut)
                tail = tail or found
                rows.append({"trains": "none", "cut": cut, "noise": noise, "seed": seed,
                             "accuracy": accuracy})  # fmt: skip
        _say(f"trained the tail with noise, cut {cut}")
    for noise in size.norms:
        accuracy, _ = trained(size, size.frozen[0], noise, "layer-norms", 0)
        rows.append({"trains": "layer-norms", "cut": 0, "noise": noise, "seed": size.frozen[0],
                     "accuracy": accuracy})  # fmt: skip
    _say("trained layer norms with noise")
    return rows, tail


def under_noise(size: Size, tail: dict[str, Array]) -> list[Row]:
    """Find labels in what noise does not cover: gradients and differences, each strength."""
    n, count = size.batches[-1]
    few = replace(size, batches=((n, max(count // 2, 2)),)).batches[0]
    q = size.directions[min(1, len(size.directions) - 1)]
    rows = []
    for noise in size.noises:
        (told,) = gradients(size, tail, noise=noise, batch=few)
        apart = scalars(size, tail, directions=q, noise=noise, batch=few)
        rows.append({"noise": noise, "gradients": told, "scalars": apart, "directions": q})
    _say("labels under noise")
    return rows


# ------------------------------------------------------------------ tables


def _say(text: str) -> None:
    print(f"  {text}, {time.process_time() / 60:.1f} CPU min", file=sys.stderr, flush=True)


def _over(rows: Sequence[Row], name: str, form: str = "{:.1f}", by: float = 1.0) -> str:
    values = [by * row[name] for row in rows]
    low, high = form.format(min(values)), form.format(max(values))
    text = form.format(fmean(values))
    return text if low == high else f"{text} ({low} to {high})"


def _likeness_cells(rows: Sequence[Row]) -> list[str]:
    return [_over(rows, "psnr"), _over(rows, "ssim", "{:.2f}"), _over(rows, "class", "{:.0f}", 100)]


def rebuilt_table(size: Size, rows: Sequence[Row], bounds: Sequence[Row]) -> Table:
    """Return how like rebuilt images are."""
    made: list[list[str]] = []
    for what, label in (
        ("mean image", "floor: the mean image"),
        ("itself", "the images themselves"),
    ):
        mine = [row for row in bounds if row["what"] == what]
        cells = _likeness_cells(mine)
        made.append([label, "-", "-", *(cells if what == "mean image" else ["-", "-", cells[2]]),
                     "-", "-"])  # fmt: skip
    for cut in size.cuts:
        ways = dict.fromkeys((r["coding"], r["noise"]) for r in rows if r["cut"] == cut)
        for coding, noise in ways:
            mine = [r for r in rows if (r["cut"], r["coding"], r["noise"]) == (cut, coding, noise)]
            labels_found = [_over(mine, name, "{:.0f}", 100) for name in ("probe", "clusters")]
            made.append([str(cut), coding, f"{noise:g}", *_likeness_cells(mine), *labels_found])
    columns = (
        "blocks before the cut", "coding", "noise", "PSNR, dB", "SSIM", "shows its class, %",
        "label by features, %", "by clusters, %",
    )  # fmt: skip
    title = (
        f"Rebuilt from activations: {size.victims} images of victims, {size.public} of the "
        f"attacker's, {len(size.seeds)} seeds (lowest to highest):"
    )
    return Table(title, columns, made)


def _found(row: Row) -> str:
    return f"{100 * row['right']:.0f} ± {100 * row['error']:.0f}"


def gradient_table(rows: Sequence[Row]) -> Table:
    """Return how many labels gradients give away."""
    made = [
        [row["tail"], row["coding"], str(row["batch"]), str(row["step"]), _found(row["stale"]),
         _found(row), f"{100 * row['whole']:.0f}"]
        for row in rows
    ]  # fmt: skip
    columns = ("published tail", "coding", "batch", "local step", "by the published tail, %",
               "following the client's tail, %", "batches read whole, %")  # fmt: skip
    return Table("Labels from gradients (FedV); chance is 10 %:", columns, made)


def scalar_table(rows: Sequence[Row]) -> Table:
    """Return how many labels differences give away."""
    made = [
        [row["tail"], str(row["batch"]), str(row["directions"]), _found(row["alone"]),
         _found(row["features"]), _found(row["both"]), f"{100 * row['both']['whole']:.0f}"]
        for row in rows
    ]  # fmt: skip
    columns = ("published tail", "batch", "directions", "differences alone, %",
               "features alone, %", "both, %", "batches read whole by both, %")  # fmt: skip
    return Table("Labels from differences of the loss (FedVZ); chance is 10 %:", columns, made)


def noise_table(size: Size, found: Row) -> Table:
    """Return what noise hides beside what it costs."""
    made = []
    for cut in size.cuts:
        for noise in size.noises:
            seen = [r for r in found["rebuilt"]
                    if (r["cut"], r["coding"], r["noise"]) == (cut, "fp32", noise)]  # fmt: skip
            runs = [r for r in found["costs"] if (r["cut"], r["noise"]) == (cut, noise)]
            tails, norms = ([r for r in runs if r["trains"] == t] for t in ("none", "layer-norms"))
            told = next(r for r in found["under noise"] if r["noise"] == noise)
            made.append(
                [
                    str(cut), f"{noise:g}", *_likeness_cells(seen)[::2],
                    _over(seen, "probe", "{:.0f}", 100),
                    *((_found(told["gradients"]), _found(told["scalars"]["both"])) if cut == 0
                      else ("-", "-")),
                    _over(tails, "accuracy", "{:.1f}", 100),
                    _over(norms, "accuracy", "{:.1f}", 100) if norms else "-",
                ]
            )  # fmt: skip
    q, n = found["under noise"][0]["directions"], size.batches[-1][0]
    columns = (
        "blocks before the cut", "noise", "PSNR, dB", "shows its class, %", "label by features, %",
        f"label by gradients, batch {n}, %", f"by {q} differences, batch {n}, %",
        "accuracy, tail trained, %", "accuracy, layer norms trained, %",
    )  # fmt: skip
    title = (
        f"What noise hides and costs; {size.updates} updates of the tail, "
        f"{len(size.frozen)} seeds; {size.few} updates with layer norms, one seed:"
    )
    return Table(title, columns, made)


def tables(size: Size, found: Row) -> list[Table]:
    """Return all tables."""
    return [
        rebuilt_table(size, found["rebuilt"], found["bounds"]),
        gradient_table(found["gradients"]),
        scalar_table(found["scalars"]),
        noise_table(size, found),
    ]


# ------------------------------------------------------------------ the picture

CUT_COLOURS: Final = ("#d62728", "#1f77b4", "#2ca02c")


def pictures(size: Size, found: Row, shown: dict[str, Array], folder: Path) -> list[Path]:
    """Draw accuracy over how well images are rebuilt, a line a cut; and a few rebuilt images."""
    figure, (left, right) = panels(2, width=4.8, height=3.9)
    for cut, colour in zip(size.cuts, CUT_COLOURS, strict=False):
        seen = [r for r in found["rebuilt"] if r["cut"] == cut and r["coding"] == "fp32"]
        x = [fmean(r["psnr"] for r in seen if r["noise"] == noise) for noise in size.noises]
        runs = [r for r in found["costs"] if r["cut"] == cut and r["trains"] == "none"]
        y = [100 * fmean(r["accuracy"] for r in runs if r["noise"] == n) for n in size.noises]
        left.plot(x, y, "-o", color=colour, linewidth=1.6, markersize=4, label=f"cut {cut}")
        for noise, at_x, at_y in zip(size.noises, x, y, strict=True):
            left.annotate(f"{noise:g}", (at_x, at_y), xytext=(3, -10), fontsize=7, color=colour,
                          textcoords="offset points")  # fmt: skip
    floor = fmean(r["psnr"] for r in found["bounds"] if r["what"] == "mean image")
    left.axvline(floor, color="#444444", linestyle=":", linewidth=1)
    left.annotate("mean image", (floor, 0.02), xycoords=("data", "axes fraction"), fontsize=7,
                  rotation=90, xytext=(-9, 0), textcoords="offset points")  # fmt: skip
    left.set_xscale("log")
    left.set_xticks([10, 15, 20, 30, 40, 60], ["10", "15", "20", "30", "40", "60"])
    left.minorticks_off()
    left.set_xlabel("images rebuilt, PSNR in dB (left hides more)")
    left.set_ylabel("accuracy of the run, %")
    left.set_title("noise: its strength beside each point", loc="left", fontsize=9)
    left.legend(frameon=False, fontsize=8, loc="lower right")
    _draw_images(right, size, shown)
    return [save(figure, folder / "papers-leaks.svg")]


def _draw_images(axis: Any, size: Size, shown: dict[str, Array]) -> None:
    """Draw images, and below them what they were rebuilt as."""
    rows = [("the images", shown["itself"])]
    for cut in (size.cuts[0], size.cuts[-1]):
        for noise in (0.0, 0.1, 0.3, 1.0):
            found = shown.get(f"{cut}/fp32/{noise:g}")
            if found is not None:
                rows.append((f"cut {cut}, noise {noise:g}", found))
    sheet = np.concatenate([np.hstack(list(r.reshape(-1, 28, 28))) for _, r in rows])
    axis.imshow(np.round(1 - sheet, 2), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_yticks([14 + 28 * at for at in range(len(rows))], [name for name, _ in rows])
    axis.set_xticks([])
    axis.grid(visible=False)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(length=0, labelsize=8)


# ------------------------------------------------------------------ the command


def measure(size: Size) -> tuple[Row, dict[str, Array]]:
    """Measure all there is."""
    rows, bounds, shown = rebuild(size, Judge(size.judge))
    runs, tail = costs(size)
    told, apart = labels(size, tail)
    found = {
        "rebuilt": rows,
        "bounds": bounds,
        "gradients": told,
        "scalars": apart,
        "costs": runs,
        "under noise": under_noise(size, tail),
    }
    return found, shown


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few images; under two minutes")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--markdown", action="store_true", help="tables as in docs/results.md")
    parser.add_argument("--pictures", action="store_true", help="also draw the picture")
    parser.add_argument("--images", type=Path, default=IMAGES, help="where pictures go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = QUICK if arguments.quick else Size()
    found, shown = measure(size)
    if arguments.quick:
        print("QUICK: few images and updates; this shows that it runs and is no result.\n")
    console = Console(width=None if sys.stdout.isatty() else 150)
    for table in tables(size, found):
        if arguments.markdown:
            print(f"{table.title}\n\n{table.markdown()}\n")
        else:
            console.print(table.rich())
    print(f"seeds {size.seeds}; one torch thread, {time.process_time() / 60:.1f} CPU minutes; "
          f"{machine()}")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if arguments.pictures:
        arguments.images.mkdir(parents=True, exist_ok=True)
        for file in pictures(size, found, shown, arguments.images):
            print(f"wrote {file}")


if __name__ == "__main__":
    main()
