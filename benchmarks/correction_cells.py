"""Which runs does the benchmark of corrections make, and with which settings?

A scene is data and devices, a method a row of the tables with six tries. Settings are chosen in the
headline scene on seeds of their own, by mean tail accuracy, and taken everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Literal, NamedTuple

from pydantic import ValidationError
from races import Race, at
from rare_classes import KIND

from policies.method import Method as Policies
from policies.method import lateness_misfits

sys.path.insert(0, str(Path(__file__).resolve().parent / "papers"))

from cells import CNN, TUNING_SEED, Book, Cell, Record, settings, tail

UPDATES: Final = 1_000
QUICK_UPDATES: Final = 200
CLIENTS, EACH, BUSY, BUFFER = 100, 200, 20, 10
TESTED: Final = 2
"""Buffers from one test to the next; rounds are tested every time."""
HOLDOUT: Final = 1_000
TUNING_SEEDS: Final = (TUNING_SEED, TUNING_SEED + 1)
SEEDS: Final = (1, 2, 3)
SCENE_SEEDS: Final = (1, 2, 3, 4, 5)
HEADLINE_SEEDS: Final = (1, 2, 3, 4, 5, 6)
RARE_SEEDS: Final = (1, 2, 3, 4, 5, 6, 7, 8)
QUICK_SEEDS: Final = (1, 2)
MULTIPLES: Final = (0.5, 2.0, 3.0)
"""Server steps as multiples of the tuned one."""
SERVER: Final = {"flops": 2.8e9}
"""As in time_to_accuracy.py."""
RARE: Final = (6, 8)
"""Shirts and bags: the one class is easily taken for others, the other is not."""


# ------------------------------------------------------------------ scenes

MLP: Final = {"kind": "mlp", "hidden": [128]}
TABULAR: Final = {"kind": "tabular", "embedding": 8, "hidden": [64, 32]}
PRODUCTS: Final = {
    "mlp": 784 * 128 + 128 * 10,
    "cnn": 28**2 * 25 * 16 + 14**2 * 25 * 16 * 32 + 7**2 * 32 * 128 + 128 * 10,
    "tabular": 40 * 64 + 64 * 32 + 32 * 2,
}
"""Multiplications of an answer."""
NOISE: Final = {"kind": "lognormal", "sigma": 0.5}
SGD: Final = {"kind": "sgd", "lr": 0.05, "batch_size": 20}
FLIGHTS_SGD: Final = {"kind": "sgd", "lr": 0.05, "steps": 50, "batch_size": 128, "momentum": 0.9}


def _fleet(model: str, examples: int, seconds: Mapping[float, float], **more: Any) -> Any:
    """Return devices on which an update takes so many seconds (to the share of them)."""
    flops = 6 * PRODUCTS[model] * examples  # a backward pass counts twice a forward pass
    mix = [{"profile": f"device-{s:g}", "share": share} for s, share in seconds.items()]
    on_leave = more.pop("on_leave", "lost")
    profiles = {
        f"device-{s:g}": {
            "flops": flops / s,
            "memory_bytes": "1 GB",
            "compute_watts": 3.5,
            "radio_watts": 2.9,
            "uplink": 10e6,
            "downlink": 10e6,
            "latency_s": 0.04,
            "on_leave": on_leave,
        }
        for s in seconds
    }
    return {"mix": mix, "profiles": profiles, "jitter": NOISE, **more}


def _clothes(partition: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "source": "fashion-mnist",
        "train_examples": CLIENTS * EACH,
        "holdout": HOLDOUT,
        "partition": dict(partition),
    }


def _mixtures(alpha: float) -> dict[str, Any]:
    return _clothes({"kind": "sampled", "examples": EACH, "alpha": alpha})


@dataclass(frozen=True)
class Scene:
    """Data and devices.

    Attributes:
        about: One line.
        fleet: The section `fleet` without the number of clients.
        data: The section `data`.
        model: The section `model`.
        training: The section `method.training`.
        clients: How many there are.
        busy: How many train at a time.
        buffer: Updates that make a version.
        seeds: Those that are judged.
    """

    about: str
    fleet: dict[str, Any]
    data: dict[str, Any] = field(default_factory=lambda: _mixtures(0.1))
    model: dict[str, Any] = field(default_factory=lambda: dict(MLP))
    training: dict[str, Any] = field(default_factory=lambda: dict(SGD))
    clients: int = CLIENTS
    busy: int = BUSY
    buffer: int = BUFFER
    seeds: tuple[int, ...] = SCENE_SEEDS


LOGNORMAL: Final = _fleet("mlp", EACH, {100: 1}, spread=0.5)
HEADLINE: Final = "lognormal"
WITH_CNN: Final = "headline CNN"
GROUPS_OF_CLASSES: Final = "slow hold rare"
SCENES: Final = {
    HEADLINE: Scene("speeds lognormal (0.5), Dirichlet 0.1", LOGNORMAL, seeds=HEADLINE_SEEDS),
    "dirichlet 0.5": Scene("speeds lognormal, Dirichlet 0.5", LOGNORMAL, _mixtures(0.5)),
    "three groups": Scene(
        "50 clients take 100 s, 30 take 300 s, 20 take 1,000 s",
        _fleet("mlp", EACH, {100: 50, 300: 30, 1000: 20}),
    ),
    "pareto": Scene(
        "times with a heavy tail, Pareto 1.2 between devices",
        _fleet("mlp", EACH, {100: 1}, spread={"kind": "pareto", "alpha": 1.2}),
    ),
    "diurnal": Scene(
        "an hour an update; there 10 hours a day, else they pause; days shifted (6 h)",
        _fleet(
            "mlp",
            EACH,
            {3600: 1},
            spread=0.5,
            on_leave="paused",
            availability={"kind": "diurnal", "hours": 10, "centre_h": 2, "spread_h": 6},
        ),
    ),
    GROUPS_OF_CLASSES: Scene(
        "20 clients, six times as slow, hold two classes that nobody else has",
        _fleet("mlp", EACH, {600: 20, 100: 80}, spread=0.3, order="listed"),
        _clothes({"kind": KIND, "holders": 20, "rare": list(RARE), "examples": EACH, "alpha": 0.1}),
        seeds=RARE_SEEDS,
    ),
    "flights": Scene(
        "late flights, 16 carriers, 8 in flight, a buffer of 8",
        _fleet("tabular", 50 * 128, {100: 1}, spread=0.5),
        {"source": "flights", "holdout": HOLDOUT, "partition": {"kind": "natural"}},
        TABULAR,
        FLIGHTS_SGD,
        clients=16,
        busy=8,
        buffer=8,
    ),
    WITH_CNN: Scene(
        "the first scene with a CNN",
        _fleet("cnn", EACH, {100: 1}, spread=0.5),
        model=CNN,
        seeds=SEEDS,
    ),
}


# ------------------------------------------------------------------ methods


class Try(NamedTuple):
    """Settings that a method may choose.

    Attributes:
        text: As they stand in a table.
        section: Parts of the section `method`.
    """

    text: str
    section: dict[str, Any]


def _weight(exponent: float) -> dict[str, Any]:
    """Return the section `staleness`."""
    if not exponent:
        return {"kind": "constant"}
    return {"kind": "polynomial", "exponent": exponent}


def _buffered(kind: str, rate: float, exponent: float, **more: Any) -> Try:
    """Return a buffer whose updates are weighed by their lateness."""
    text = f"rate {rate:g}, exponent {exponent:g}"
    aggregation = {"kind": kind, "size": BUFFER, "rate": rate}
    return Try(text, {"aggregation": aggregation, "staleness": _weight(exponent), **more})


def works(section: Mapping[str, Any]) -> bool:
    """Say whether this version of the product has such a method."""
    try:
        method = Policies.model_validate(section)
    except ValidationError:
        return False
    return not list(lateness_misfits(method.staleness, method.aggregation))


CA2FL_WEIGHS: Final = works(_buffered("ca2fl", 1.0, 0.5).section)
"""Whether `ca2fl` goes with weights by lateness."""


def _fedbuff() -> tuple[Try, ...]:
    return tuple(_buffered("fedbuff", r, e) for e in (0.5, 1.0) for r in (0.7, 1.0, 1.5))


def _ca2fl() -> tuple[Try, ...]:
    if CA2FL_WEIGHS:
        pairs = ((0.0, 1.0), (0.5, 1.0), (0.5, 1.5), (1.0, 1.5), (1.0, 2.0), (1.0, 3.0))
        return tuple(_buffered("ca2fl", rate, exponent) for exponent, rate in pairs)
    return tuple(_buffered("ca2fl", rate, 0.0) for rate in (0.5, 0.7, 1.0, 1.2, 1.5, 2.0))


def _fedasync() -> tuple[Try, ...]:
    def one(text: str, rate: float, form: str = "delta", **more: Any) -> Try:
        uplink = {"kind": "dense", "content": "weights" if form == "mix" else "delta"}
        aggregation = {"kind": "fedasync", "form": form, "rate": rate}
        section = {"uplink": uplink, "aggregation": aggregation, "staleness": _weight(0.5)}
        return Try(f"{text}, rate {rate:g}", section | more)

    hinge = {"kind": "hinge", "tolerance": 10, "slope": 0.5}
    proximal = {"kind": "proximal", "mu": 0.005}
    return (
        one("polynomial", 0.2),
        one("polynomial", 0.3),
        one("hinge", 0.2, staleness=hinge),
        one("constant", 0.06, staleness=_weight(0)),
        one("proximal, polynomial", 0.3, training=proximal),
        one("weights mixed, polynomial", 0.3, "mix"),
    )


def _async_fed_ed() -> tuple[Try, ...]:
    return tuple(
        Try(
            f"rate {rate:g}, epsilon {epsilon:g}",
            {"aggregation": {"kind": "async-fed-ed", "rate": rate, "epsilon": epsilon}},
        )
        for epsilon, rates in ((1.0, (0.07, 0.1, 0.15)), (3.0, (0.15, 0.2, 0.3)))
        for rate in rates
    )


def _fadas() -> tuple[Try, ...]:
    def one(rate: float, tolerance: int) -> Try:
        aggregation = {"kind": "fadas", "size": BUFFER, "rate": rate, "tolerance": tolerance}
        return Try(f"rate {rate:g}, tolerance {tolerance}", {"aggregation": aggregation})

    pairs = ((0.001, 1), (0.002, 1), (0.003, 1), (0.005, 1), (0.0005, 4), (0.001, 4))
    return tuple(one(*pair) for pair in pairs)


def _dc_asgd() -> tuple[Try, ...]:
    def one(form: str, strength: float, rate: float, size: int) -> Try:
        fields = {"form": form, "strength": strength, "rate": rate, "size": size}
        text = f"{form} {strength:g}, rate {rate:g}, size {size}"
        return Try(text, {"aggregation": {"kind": "dc-asgd", **fields}})

    return (
        one("adaptive", 2.0, 0.5, BUFFER),
        one("adaptive", 2.0, 0.03, 1),
        one("adaptive", 2.0, 0.05, 1),
        one("constant", 0.8, 0.5, BUFFER),  # 0.04 / the learning rate
        one("constant", 0.8, 0.03, 1),
        one("constant", 0.8, 0.05, 1),
    )


def _port() -> tuple[Try, ...]:
    def one(similarity: float, staleness: float, bound: float) -> Try:
        fields = {"similarity_weight": similarity, "staleness_weight": staleness, "bound": bound}
        text = f"similarity {similarity:g}, staleness {staleness:g}, bound {bound:g}"
        return Try(text, {"aggregation": {"kind": "port", "size": BUFFER, **fields}})

    bounds = ((1, 1, 10), (1, 1, 1), (0, 1, 10), (0, 1, 1), (0, 1, 0.3), (1, 0, 1))
    return tuple(one(*fields) for fields in bounds)


def _oort() -> tuple[Try, ...]:
    def one(penalty: float, rate: float) -> Try:
        text, section = _buffered("fedbuff", rate, 0.5)
        return Try(
            f"penalty {penalty:g}, {text}",
            {**section, "selection": {"kind": "oort", "penalty": penalty}},
        )

    return tuple(one(penalty, rate) for penalty in (0.5, 2.0) for rate in (0.5, 0.7, 1.0))


def _pisces() -> tuple[Try, ...]:
    def one(beta: float, rate: float) -> Try:
        text, section = _buffered("fedbuff", rate, 0.5)
        return Try(
            f"beta {beta:g}, {text}", {**section, "selection": {"kind": "pisces", "beta": beta}}
        )

    return tuple(one(beta, rate) for beta in (0.5, 1.0) for rate in (0.5, 0.7, 1.0))


def _fedavg() -> tuple[Try, ...]:
    def one(deadline_s: float | None) -> Try:
        aggregation = {"kind": "fedavg", "clients_per_round": BUSY, "deadline_s": deadline_s}
        text = "waits for all" if deadline_s is None else f"deadline {deadline_s:g} s"
        return Try(text, {"aggregation": aggregation})

    return tuple(one(deadline) for deadline in (None, 300.0, 200.0, 150.0, 125.0, 100.0))


STEP: Final = "step-distillation"
STRETCH: Final = 3.0
"""What `auto` comes to in the middle of a run, about."""


def _stepped(kind: str) -> tuple[Try, ...]:
    """Return corrections that set themselves: how updates are weighed, how far steps may go."""

    def one(exponent: float, longest: float) -> Try:
        correction = {"kind": STEP, "longest": longest}
        text, section = _buffered(kind, 1.0, exponent, correction=correction)
        return Try(f"{text}, at most {longest:g} times", section)

    exponents = (0.0, 0.5, 1.0)
    return tuple(one(exponent, longest) for exponent in exponents for longest in (4.0, 6.0))


def _each(kind: str) -> tuple[Try, ...]:
    """Return corrections of each update before it is aggregated."""

    def one(strength: float, rate: float, exponent: float) -> Try:
        correction = {"kind": "distillation", "strength": strength}
        text, section = _buffered(kind, rate, exponent, correction=correction)
        return Try(f"{text}, strength {strength:g}", section)

    pairs = ((1.0, 0.5), (1.5, 0.5), (1.5, 1.0))
    if kind == "ca2fl":
        weighed, alike = ((1.5, 0.5), (2.0, 1.0), (3.0, 1.0)), ((0.7, 0.0), (1.0, 0.0), (1.5, 0.0))
        pairs = weighed if CA2FL_WEIGHS else alike
    return tuple(one(strength, *pair) for strength in (0.3, 0.6) for pair in pairs)


@dataclass(frozen=True)
class Method:
    """A row of the tables.

    Attributes:
        tries: What it may choose from.
        colour: Of its line.
        sort: Rounds are a `reference`: they are compared in time and are no baseline.
    """

    tries: tuple[Try, ...]
    colour: str
    sort: Literal["baseline", "corrected", "reference"] = "baseline"


FEDAVG, FEDBUFF, CA2FL, FEDASYNC = "FedAvg", "FedBuff", "CA2FL", "FedAsync"
FEDAVG_FAST: Final = "FedAvg, fastest"
ON_CA2FL, ON_FEDBUFF = "CA2FL + step", "FedBuff + step"
EACH_CA2FL: Final = "CA2FL + each update"
_ALL: Final = {
    FEDBUFF: Method(_fedbuff(), "#1f77b4"),
    CA2FL: Method(_ca2fl(), "#2ca02c"),
    FEDASYNC: Method(_fedasync(), "#e08214"),
    "AsyncFedED": Method(_async_fed_ed(), "#8c564b"),
    "FADAS": Method(_fadas(), "#9467bd"),
    "DC-ASGD": Method(_dc_asgd(), "#bcbd22"),
    "Port": Method(_port(), "#17becf"),
    "FedBuff, Oort": Method(_oort(), "#7f7f7f"),
    "FedBuff, Pisces": Method(_pisces(), "#c49a6c"),
    FEDAVG: Method(_fedavg(), "#444444", "reference"),
    ON_CA2FL: Method(_stepped("ca2fl"), "#d62728", "corrected"),
    ON_FEDBUFF: Method(_stepped("fedbuff"), "#e377c2", "corrected"),
    EACH_CA2FL: Method(_each("ca2fl"), "#ff9896", "corrected"),
    "FedBuff + each update": Method(_each("fedbuff"), "#c5b0d5", "corrected"),
}
METHODS: Final = {n: m for n, m in _ALL.items() if all(works(t.section) for t in m.tries)}
"""Those that this version of the product has."""
PLAIN: Final = {name: name.partition(" + ")[0] for name in METHODS}
"""What each method is without its correction."""


def of_sort(sort: str) -> list[str]:
    """Return the methods of a sort."""
    return [name for name, method in METHODS.items() if method.sort == sort]


# ------------------------------------------------------------------ cells


def whole(scene: Scene, section: Mapping[str, Any], updates: int = UPDATES) -> dict[str, Any]:
    """Return the settings of a run."""
    aggregation = dict(section["aggregation"])
    if aggregation.get("size") == BUFFER:
        aggregation["size"] = scene.buffer
    size = aggregation.get("size", 1)
    rounds = aggregation["kind"] == "fedavg"
    every = 1 if rounds else TESTED * scene.buffer // size
    made = {
        **section,
        "concurrency": scene.busy,
        "training": scene.training | section.get("training", {}),
        "aggregation": aggregation,
    }
    found = settings(
        made,
        partition={},
        model=scene.model,
        stop={"versions": updates // (BUSY if rounds else size)},
        every_versions=every,
        fleet={**scene.fleet, "clients": scene.clients},
    )
    return found | {"data": scene.data, "server": SERVER}


def cell(scene: str, method: str, settled: Try, seed: int, quick: bool) -> Cell:
    """Return a run of a method."""
    updates = QUICK_UPDATES if quick else UPDATES
    settings_ = whole(SCENES[scene], settled.section, updates)
    return Cell(f"{scene}/{method}/{settled.text}", seed, settings_)


def tuning(method: str) -> dict[str, list[Cell]]:
    """Return the runs of each try, by its text."""
    return {
        t.text: [cell(HEADLINE, method, t, seed, quick=False) for seed in TUNING_SEEDS]
        for t in METHODS[method].tries
    }


def merit(records: Sequence[Record | None]) -> float | None:
    """Return the mean tail accuracy, 0 for a run that failed; None while one is missing."""
    if any(record is None for record in records):
        return None
    return fmean(0.0 if r is None or r["failed"] else tail(r) for r in records)


def tuned(book: Book, method: str, quick: bool) -> Try | None:
    """Return the try of the largest mean tail accuracy, once all have run."""
    tries = METHODS[method].tries
    if quick:
        return tries[len(tries) // 2]
    found = {text: merit([book.find(c) for c in cells]) for text, cells in tuning(method).items()}
    scores = {text: score for text, score in found.items() if score is not None}
    if len(scores) < len(found):
        return None
    best = max(scores, key=scores.__getitem__)
    return next(t for t in tries if t.text == best)


def fastest(book: Book, quick: bool) -> Try | None:
    """Return the FedAvg that came first to 95 % of what the best one reaches."""
    best = tuned(book, FEDAVG, quick)
    if quick or best is None:
        return best
    runs = tuning(FEDAVG)
    goal = 0.95 * fmean(tail(r) for r in book.done(runs[best.text])) / 100

    def time_s(settled: Try) -> float:
        points = [at(r, goal) for r in book.done(runs[settled.text])]
        known = [p["time_s"] for p in points if p is not None]
        return fmean(known) if len(known) == len(TUNING_SEEDS) else float("inf")

    return min(METHODS[FEDAVG].tries, key=time_s)


def winner(book: Book, sort: str, quick: bool) -> str | None:
    """Return the method of a sort that is best on the tuning seeds, once all are tuned."""
    if quick:
        return {"baseline": CA2FL, "corrected": ON_CA2FL}[sort]
    scores: dict[str, float] = {}
    for method in of_sort(sort):
        settled = tuned(book, method, quick)
        if settled is None:
            return None
        found = merit([book.find(c) for c in tuning(method)[settled.text]])
        scores[method] = found or 0.0
    return max(scores, key=scores.__getitem__)


def seeds(scene: str, quick: bool) -> tuple[int, ...]:
    """Return the seeds that are judged."""
    if quick:
        return QUICK_SEEDS if scene == HEADLINE else QUICK_SEEDS[:1]
    return SCENES[scene].seeds


def rows(book: Book, scene: str, quick: bool) -> dict[str, tuple[str, Try]]:
    """Return the rows of a scene's table as far as they are known: label to method and settings."""
    best = winner(book, "baseline", quick)
    names = [best, FEDBUFF, CA2FL, FEDASYNC, *of_sort("corrected")]
    if scene == HEADLINE:
        names += [FEDAVG]
    known = {m: (m, t) for m in names if m is not None and (t := tuned(book, m, quick)) is not None}
    fast = fastest(book, quick) if scene == HEADLINE else None
    if fast is not None and fast != known[FEDAVG][1]:
        known[FEDAVG_FAST] = (FEDAVG, fast)
    return known


def of_row(scene: str, row: tuple[str, Try], quick: bool) -> list[Cell]:
    """Return a row's runs."""
    return [cell(scene, *row, seed, quick) for seed in seeds(scene, quick)]


# ------------------------------------------------------------------ step sizes and parts


def stepping(book: Book, quick: bool) -> list[str]:
    """Return the methods whose steps are made longer and shorter."""
    best = winner(book, "baseline", quick)
    names = (FEDBUFF, CA2FL, best, ON_FEDBUFF, ON_CA2FL)
    return [m for m in dict.fromkeys(names) if m is not None and _has_rate(book, m, quick)]


def _has_rate(book: Book, method: str, quick: bool) -> bool:
    settled = tuned(book, method, quick)
    return settled is not None and "rate" in settled.section["aggregation"]


def longer(settled: Try, multiple: float) -> Try:
    """Return the settings with a server's step so many times as long."""
    if multiple == 1:
        return settled
    aggregation = settled.section["aggregation"]
    aggregation = aggregation | {"rate": aggregation["rate"] * multiple}
    return Try(
        f"{settled.text}, step x {multiple:g}", settled.section | {"aggregation": aggregation}
    )


def of_step(book: Book, method: str, multiple: float, quick: bool) -> list[Cell]:
    """Return the runs with another step, in the headline scene."""
    settled = tuned(book, method, quick)
    if settled is None:
        return []
    made = longer(settled, multiple)
    return [cell(HEADLINE, method, made, seed, quick) for seed in _few(quick)]


def _few(quick: bool) -> tuple[int, ...]:
    return QUICK_SEEDS if quick else SEEDS


def ablation(book: Book, quick: bool) -> dict[str, Try]:
    """Return the correction of the step and what is left of it without one part after the other."""
    settled = tuned(book, ON_CA2FL, quick)
    if settled is None:
        return {}
    section, correction = settled.section, settled.section["correction"]

    def but(**fields: Any) -> dict[str, Any]:
        return section | {"correction": correction | fields}

    aggregation = section["aggregation"] | {"rate": section["aggregation"]["rate"] * STRETCH}
    alone = {k: v for k, v in section.items() if k != "correction"} | {"aggregation": aggregation}
    parts = {
        "as tuned": section,
        "the longer step alone": alone,
        "distillation alone, no stretch": but(stretch=1.0),
        f"stretch {STRETCH:g} at all times": but(stretch=STRETCH),
        "gradient steps of 0.05": but(rate=0.05),
        "half the rows": but(batch=32),
        "4 gradient steps": but(steps=4),
        "10 gradient steps": but(steps=10),
        "ramp 300": but(ramp=300.0),
        "strength 0.5": but(strength=0.5),
        "no weights by lateness": section | {"staleness": _weight(0)},
    }
    if section["staleness"] == _weight(0):
        del parts["no weights by lateness"]
    return {part: Try(part, made) for part, made in parts.items()}


def proxies(book: Book, quick: bool) -> dict[tuple[str, str], Try]:
    """Return corrections by method and by whose inputs they look at."""
    found = {}
    for method, others in {ON_CA2FL: ("generated",), EACH_CA2FL: ("client", "generated")}.items():
        settled = tuned(book, method, quick)
        if settled is None:
            continue
        found[(method, "holdout")] = settled
        for proxy in others:
            correction = settled.section["correction"] | {"proxy": proxy}
            made = settled.section | {"correction": correction}
            found[(method, proxy)] = Try(f"{settled.text}, {proxy}", made)
    return found


def of_proxy(method: str, settled: Try, quick: bool) -> list[Cell]:
    """Return the runs with a proxy, in the headline scene."""
    return [cell(HEADLINE, method, settled, seed, quick) for seed in _few(quick)]


def of_part(settled: Try, quick: bool) -> list[Cell]:
    """Return the runs of a part of the ablation."""
    return [cell(HEADLINE, f"ablation of {ON_CA2FL}", settled, s, quick) for s in _few(quick)]


def scenes(quick: bool) -> tuple[str, ...]:
    """Return the scenes that are shown."""
    return (HEADLINE, GROUPS_OF_CLASSES) if quick else tuple(SCENES)


def plan(book: Book, quick: bool) -> list[Race]:
    """Return what can be run: the tuning, then all methods one seed after the other."""
    tried = [] if quick else [c for m in METHODS for t in tuning(m).values() for c in t]
    judged = [
        c
        for s in scenes(quick)
        for row in rows(book, s, quick).values()
        for c in of_row(s, row, quick)
    ]
    if not quick:
        judged += [
            c for m in stepping(book, quick) for x in MULTIPLES for c in of_step(book, m, x, quick)
        ]
        judged += [c for t in ablation(book, quick).values() for c in of_part(t, quick)]
        judged += [c for (m, _), t in proxies(book, quick).items() for c in of_proxy(m, t, quick)]
    judged.sort(key=lambda c: (c.name.startswith(WITH_CNN), c.seed))  # that one takes the longest
    return [Race(c, curve=True, close=True) for c in (*tried, *judged)]
