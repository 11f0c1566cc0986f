"""Who gets first to 95 % of what synchronous FedAvg reaches, and with how many bytes and joules?

    python benchmarks/time_to_accuracy.py [--quick] [--only NAME] [--budget-hours H] [--pictures]

Fashion-MNIST, 10,000 examples; 100 clients with 100 of them each, a Dirichlet(0.3) mixture of
classes a client; an MLP 784-64-10, one epoch in batches of 20. Two fleets: devices whose speeds are
lognormal (sigma 1), an update on one of mean speed taking 100 s; and three kinds of device that
take 100, 200 and 400 s and 5 s of link. Every run ends after the same virtual time, and 20 clients
are busy (a round asks 20) in all methods. The server's time is charged, at the speed that
benchmarks/aggregation.py measures. Versions are tested every 20 updates, rounds every time.

Each method has nine tries on a seed of its own, three learning rates by three values of what else
it has (FedAvg that waits for all has three: there is nothing else), and takes the one that came
first to 95 % of the best tail accuracy of FedAvg's nine. The goal in the tables is 95 % of the mean
tail accuracy of that best FedAvg over the five seeds.

The first table is a check by arithmetic: 16 devices of the three kinds, ten synchronous rounds and
160 asynchronous updates. The script fails if a run takes another time.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final, NamedTuple

import numpy as np
from races import Mean, Race, at, over
from racing import Study, main

sys.path.insert(0, str(Path(__file__).resolve().parent / "papers"))

from cells import TUNING_SEED, Book, Cell, Record, Table, settings, tail
from pictures import MB, Line, draw, frame, panels, save

EACH, BUSY, SHARE = 100, 20, 0.95
SECONDS: Final = 30_000.0
QUICK_SECONDS: Final = 2_000.0
SEEDS: Final = (1, 2, 3, 4, 5)
QUICK_SEEDS: Final = (1, 2)
RATES: Final = (0.05, 0.1, 0.2)
MLP: Final = {"kind": "mlp", "hidden": [64]}
PRODUCTS: Final = 784 * 64 + 64 * 10
PARAMETERS: Final = PRODUCTS + 64 + 10
UPDATE_FLOPS: Final = EACH * 3 * 2 * PRODUCTS
"""A backward pass counts twice a forward pass."""
SERVER: Final = {"flops": 2.8e9}
"""7.1 ms for an addition of 10 million parameters (docs/results.md), two operations each."""
KINDS_S: Final = {100: 6, 200: 5, 400: 5}
"""Seconds of an update, and how many of 16 devices take that long."""
LINK_S: Final = 5.0
CLOSE_S: Final = 2e-6


# ------------------------------------------------------------------ fleets and methods


def _profile(seconds: float, *, bits_s: float, latency_s: float) -> dict[str, Any]:
    return {
        "flops": UPDATE_FLOPS / seconds,
        "memory_bytes": "1 GB",
        "compute_watts": 3.5,
        "radio_watts": 2.9,
        "uplink": bits_s,
        "downlink": bits_s,
        "latency_s": latency_s,
    }


def lognormal() -> dict[str, Any]:
    """Return devices of one profile; speeds have mean 1, so half of them take over 165 s."""
    profile = _profile(100.0, bits_s=10e6, latency_s=0.04)
    return {"mix": [{"profile": "device"}], "profiles": {"device": profile}, "spread": 1.0}


def three_kinds() -> dict[str, Any]:
    """Return three kinds in equal shares; a transfer takes 2.5 s, whatever its size."""
    profiles = {f"device-{s}": _profile(s, bits_s=1e18, latency_s=LINK_S / 2) for s in KINDS_S}
    return {"mix": [{"profile": name} for name in profiles], "profiles": profiles}


@dataclass(frozen=True)
class Fleet:
    """Devices, and the deadlines that are tried on them."""

    title: str
    section: Callable[[], dict[str, Any]]
    deadlines: tuple[float | None, ...]


FLEETS: Final = {
    "lognormal": Fleet("lognormal speeds, sigma 1", lognormal, (300.0, 150.0, 75.0)),
    "three kinds": Fleet("100, 200 and 400 s", three_kinds, (None, 210.0, 110.0)),
}


def fedavg(deadline_s: float | None) -> dict[str, Any]:
    """Return rounds that close at a deadline, or wait for all."""
    return {"kind": "fedavg", "clients_per_round": BUSY, "deadline_s": deadline_s}


def over_selected(factor: float | None) -> dict[str, Any]:
    """Return rounds that ask more clients than they wait for."""
    return {"kind": "fedavg", "clients_per_round": BUSY, "over_selection": factor}


def fedbuff(size: float | None) -> dict[str, Any]:
    """Return a buffer."""
    return {"kind": "fedbuff", "size": int(size or 1)}


def fedasync(rate: float | None) -> dict[str, Any]:
    """Return a version an update."""
    return {"kind": "fedasync", "rate": rate}


@dataclass(frozen=True)
class Method:
    """A row of a table.

    Attributes:
        about: What its second setting is called.
        values: What is tried of it; None for the fleet's deadlines.
        aggregation: Makes the section.
        colour: Of its line.
    """

    about: str
    values: tuple[float | None, ...] | None
    aggregation: Callable[[float | None], dict[str, Any]]
    colour: str


METHODS: Final = {
    "FedAvg": Method("deadline", None, fedavg, "#444444"),
    "FedAvg, waits for all": Method("deadline", (None,), fedavg, "#c49a6c"),
    "FedAvg, over-selection": Method("factor", (1.25, 1.5, 2.0), over_selected, "#a0a0a0"),
    "FedBuff": Method("size", (2, 5, 10), fedbuff, "#1f77b4"),
    "FedAsync": Method("rate", (0.2, 0.4, 0.8), fedasync, "#d62728"),
}
BASE: Final = "FedAvg"


class Try(NamedTuple):
    """Settings of a method: the learning rate, and the second one."""

    lr: float
    value: float | None

    def text(self, about: str) -> str:
        """Return them as they stand in a table."""
        value = "none" if self.value is None else f"{self.value:g}"
        return f"lr {self.lr:g}, {about} {value}"


def tries(fleet: str, method: str) -> list[Try]:
    """Return what a method may choose from."""
    values = METHODS[method].values or FLEETS[fleet].deadlines
    return [Try(lr, value) for lr in RATES for value in values]


def _middle(fleet: str, method: str) -> Try:
    """Return the settings that --quick takes."""
    found = tries(fleet, method)
    return found[len(found) // 2]


# ------------------------------------------------------------------ cells


def _settings(
    method: dict[str, Any], fleet: dict[str, Any], seconds: float, every: int
) -> dict[str, Any]:
    return settings(
        method,
        partition={"kind": "sampled", "examples": EACH, "alpha": 0.3},
        model=MLP,
        stop={"virtual_seconds": seconds},
        every_versions=every,
        fleet=fleet or None,
    ) | {"server": SERVER}


def cell(fleet: str, method: str, settled: Try, seed: int, quick: bool) -> Cell:
    """Return one run."""
    aggregation = METHODS[method].aggregation(settled.value)
    every = {"fedavg": 1, "fedasync": BUSY}.get(aggregation["kind"]) or BUSY // aggregation["size"]
    section = {
        "concurrency": BUSY,
        "training": {"kind": "sgd", "lr": settled.lr, "batch_size": 20},
        "aggregation": aggregation,
    }
    seconds = QUICK_SECONDS if quick else SECONDS
    whole = _settings(section, FLEETS[fleet].section(), seconds, every)
    return Cell(f"{fleet}/{method}/{settled.text(METHODS[method].about)}", seed, whole)


def tuning(fleet: str, method: str) -> dict[Try, Cell]:
    """Return the tries of a method on the seed for it."""
    return {t: cell(fleet, method, t, TUNING_SEED, quick=False) for t in tries(fleet, method)}


def reference(book: Book, fleet: str, quick: bool) -> Try | None:
    """Return the FedAvg of the best tail accuracy, which sets the goal, once it is known."""
    return _middle(fleet, BASE) if quick else book.best(tuning(fleet, BASE))


def goal(records: Sequence[Record]) -> float:
    """Return the accuracy to reach, as a share of 1."""
    return SHARE * fmean(map(tail, records)) / 100


def tuned(book: Book, fleet: str, method: str, quick: bool) -> Try | None:
    """Return the try that came to the tuning goal first; the best tail where none came to it."""
    if quick:
        return _middle(fleet, method)
    best = reference(book, fleet, quick)
    found = {t: book.find(c) for t, c in tuning(fleet, method).items()}
    if best is None or None in found.values():
        return None
    sets_it = book.done([tuning(fleet, BASE)[best]])
    records = {t: r for t, r in found.items() if r is not None and not r["failed"]}

    def merit(settled: Try) -> tuple[float, float]:
        point = at(records[settled], goal(sets_it))
        return (math.inf if point is None else point["time_s"], -tail(records[settled]))

    return min(records, key=merit) if records else None


def rows(book: Book, fleet: str, quick: bool) -> dict[str, tuple[str, Try]]:
    """Return the rows of a table as far as they are known: label to method and settings."""
    known = {m: (m, t) for m in METHODS if (t := tuned(book, fleet, m, quick)) is not None}
    best = reference(book, fleet, quick)
    if best is not None and BASE in known and known[BASE][1] != best:
        known["FedAvg that sets the goal"] = (BASE, best)
    return known


def seeds(quick: bool) -> tuple[int, ...]:
    """Return the seeds of the tables."""
    return QUICK_SEEDS if quick else SEEDS


def of_row(fleet: str, row: tuple[str, Try], quick: bool) -> list[Cell]:
    """Return a row's cells."""
    return [cell(fleet, *row, seed, quick) for seed in seeds(quick)]


def plan(book: Book, quick: bool) -> list[Race]:
    """Return what can be run: the check, the tuning, and all methods one seed after the other."""
    first = [Race(c, curve=False) for c in (c.cell for c in CHECKS_OF_TIME)]
    if not quick:
        tried = [c for f in FLEETS for m in METHODS for c in tuning(f, m).values()]
        first += [Race(c, curve=False) for c in tried]
    found = [
        Race(c, curve=True)
        for fleet in FLEETS
        for row in rows(book, fleet, quick).values()
        for c in of_row(fleet, row, quick)
    ]
    return first + sorted(found, key=lambda race: race.cell.seed)


# ------------------------------------------------------------------ the check by arithmetic


class WrongTimeError(RuntimeError):
    """A run took another time than arithmetic says."""


class _Check(NamedTuple):
    """A run whose end is known beforehand, and what is known."""

    label: str
    cell: Cell
    expected_s: float


def _checks() -> list[_Check]:
    """Return ten rounds and 160 updates of 16 devices, without and with the server's time."""
    devices = sum(KINDS_S.values())
    rounds = {"kind": "fedavg", "clients_per_round": devices}
    found = []
    for name, server in (("instant", {"profile": "instant"}), ("charged", SERVER)):
        # The server takes an update with two operations a parameter, and publishes with as many.
        service_s = 0.0 if name == "instant" else 2 * PARAMETERS / SERVER["flops"]
        sync_s = 10 * (max(KINDS_S) + LINK_S + KINDS_S[max(KINDS_S)] * service_s + service_s)
        last_s, place = _in_when(10 * devices)
        async_s = last_s + place * 2 * service_s
        for label, aggregation, versions, every, expected_s in (
            (f"10 rounds, server {name}", rounds, 10, 10, sync_s),
            (f"{10 * devices} updates, server {name}", fedasync(0.4), 10 * devices, 160, async_s),
        ):
            method = {"concurrency": devices, "aggregation": aggregation}
            whole = _settings(method, three_kinds() | {"clients": devices}, 1.0, every)
            whole |= {"server": server, "stop": {"versions": versions}}
            found.append(_Check(label, Cell(f"check/{label}", 1, whole), expected_s))
    return found


def _in_when(count: int) -> tuple[float, int]:
    """Return when so many updates are in if all devices go on and on, and its place then.

    A device of `s` seconds delivers at every multiple of s + LINK_S. The place is that among the
    updates of the same moment, which the server takes one after the other.
    """
    moments = sorted(
        turn * (s + LINK_S)
        for s, devices in KINDS_S.items()
        for _ in range(devices)
        for turn in range(1, count + 1)
    )
    last_s = moments[count - 1]
    return last_s, count - moments.index(last_s)


CHECKS_OF_TIME: Final = _checks()


def check(book: Book) -> Table:
    """Return expected and measured times.

    Raises:
        WrongTimeError: If they differ.
    """
    lines, wrong = [], []
    for label, one, expected_s in CHECKS_OF_TIME:
        for record in book.done([one]):
            version, time_s, *_ = record["climb"][-1]
            updates = record["summary"]["updates"]
            count = int(label.split()[0])
            exact = record["parameters"] == PARAMETERS and updates == 160 and version == count
            if not exact or abs(time_s - expected_s) > CLOSE_S:
                wrong.append(f"{label}: {time_s} s, {updates} updates instead of {expected_s} s")
            lines.append([label, f"{updates}", f"{expected_s:.6f}", f"{time_s:.6f}"])
    if wrong:
        raise WrongTimeError("; ".join(wrong))
    title = "Check: 16 devices of 100, 200 and 400 s and 5 s of link"
    return Table(title, ("run", "updates", "expected, s", "measured, s"), lines)


# ------------------------------------------------------------------ tables

_COLUMNS: Final = (
    "method", "settings", "reached", "virtual s", "faster than FedAvg", "MB both ways", "kJ",
    "tail accuracy, %", "updates in all",
)  # fmt: skip


def tables(book: Book, quick: bool) -> list[Table]:
    """Return the check, a table a fleet, and the tuning."""
    made = [check(book)]
    made += [_fleet_table(book, fleet, quick) for fleet in FLEETS]
    return made if quick else made + [_tuning_table(book, fleet) for fleet in FLEETS]


def fleet_goal(book: Book, fleet: str, quick: bool) -> float | None:
    """Return the accuracy to reach, once a run that sets it is done."""
    best = reference(book, fleet, quick)
    found = [] if best is None else book.done(of_row(fleet, (BASE, best), quick))
    return goal(found) if found else None


def _fleet_table(book: Book, fleet: str, quick: bool) -> Table:
    aim = fleet_goal(book, fleet, quick)
    if aim is None:
        return Table(f"{FLEETS[fleet].title}: not yet", _COLUMNS, [])
    known = rows(book, fleet, quick)
    found = {label: book.done(of_row(fleet, row, quick)) for label, row in known.items()}
    base = found.get(BASE, [])
    lines = [
        [label, known[label][1].text(METHODS[known[label][0]].about), *_row(records, base, aim)]
        for label, records in found.items()
        if records
    ]
    seconds = QUICK_SECONDS if quick else SECONDS
    title = f"{FLEETS[fleet].title}: to {100 * aim:.1f} %, runs of {seconds:,.0f} virtual s"
    return Table(title, _COLUMNS, lines)


def _row(records: Sequence[Record], base: Sequence[Record], aim: float) -> list[str]:
    points = {r["seed"]: point for r in records if (point := at(r, aim)) is not None}
    first = {r["seed"]: point for r in base if (point := at(r, aim)) is not None}
    both = sorted(points.keys() & first.keys())
    ratios = [first[seed]["time_s"] / points[seed]["time_s"] for seed in both]
    everybody = len(points) == len(records)
    return [
        f"{len(points)} of {len(records)}",
        _mean([p["time_s"] for p in points.values()], everybody, "{:,.0f}"),
        "1" if records == base else _ratio(ratios, len(both) == len(records)),
        _mean([p["bytes"] / MB for p in points.values()], everybody, "{:,.0f}"),
        _mean([p["energy_j"] / 1e3 for p in points.values()], everybody, "{:,.0f}"),
        Mean.of([tail(r) for r in records]).text("{:.1f}"),
        f"{fmean(r['summary']['updates'] for r in records):,.0f}",
    ]


def _mean(values: Sequence[float], everybody: bool, form: str) -> str:
    """Return a mean; nothing where a seed is missing, since the others alone would flatter."""
    return Mean.of(values).text(form) if everybody else "-"


def _ratio(values: Sequence[float], everybody: bool) -> str:
    return Mean.of_ratios(values).text("{:.2f}") if everybody else "-"


def _tuning_table(book: Book, fleet: str) -> Table:
    """Return time to the tuning goal and tail accuracy of every try."""
    best = reference(book, fleet, quick=False)
    sets_it = [] if best is None else book.done([tuning(fleet, BASE)[best]])
    aim = goal(sets_it) if sets_it else None
    lines = []
    for method, about in METHODS.items():
        chosen = tuned(book, fleet, method, quick=False)
        for value in about.values or FLEETS[fleet].deadlines:
            line = [method, Try(0.0, value).text(about.about).partition(", ")[2]]
            for lr in RATES:
                text = _tried(book.find(tuning(fleet, method)[Try(lr, value)]), aim)
                line.append(f"**{text}**" if Try(lr, value) == chosen else text)
            lines.append(line)
    told = "not yet" if aim is None else f"to {100 * aim:.1f} %"
    title = f"Tuning, {FLEETS[fleet].title}, one seed: virtual s {told}, and tail accuracy in %"
    return Table(title, ("method", "setting", *(f"lr {lr:g}" for lr in RATES)), lines)


def _tried(record: Record | None, aim: float | None) -> str:
    if record is None or aim is None:
        return "-"
    if record["failed"]:
        return "diverged"
    point = at(record, aim)
    return f"{'never' if point is None else format(point['time_s'], ',.0f')}, {tail(record):.1f}"


# ------------------------------------------------------------------ the picture


def pictures(book: Book, quick: bool, folder: Path) -> list[Path]:
    """Draw accuracy over virtual time, a panel a fleet: median and range over the seeds."""
    figure, axes = panels(len(FLEETS), width=5.4, height=4.0)
    for axis, fleet in zip(axes, FLEETS, strict=True):
        grid = np.geomspace(100.0, QUICK_SECONDS if quick else SECONDS, 160)
        lines = []
        for label, row in rows(book, fleet, quick).items():
            records = book.done(of_row(fleet, row, quick))
            if not records or label not in METHODS:
                continue
            runs = np.array([over(record, grid) for record in records])
            colour = METHODS[label].colour
            axis.fill_between(
                grid, runs.min(axis=0), runs.max(axis=0), color=colour, alpha=0.13, linewidth=0
            )
            median = np.median(runs, axis=0)
            lines.append(Line(label, grid.tolist(), median.tolist(), colour))
        draw(axis, lines, x="virtual seconds (log)", y="test accuracy, %", log=True)
        aim = fleet_goal(book, fleet, quick)
        if aim is not None:
            axis.axhline(100 * aim, color="#777777", linewidth=0.8, linestyle="--")
            axis.annotate(
                f"goal, {100 * aim:.1f} %", (grid[0], 100 * aim), xytext=(2, 3),
                textcoords="offset points", color="#777777", fontsize=8,
            )  # fmt: skip
        if lines:
            frame(axis, lines, least=30.0)
        axis.set_title(FLEETS[fleet].title, loc="left", fontsize=9)
    return [save(figure, folder / "time-to-accuracy.svg")]


# ------------------------------------------------------------------ the command

STUDY: Final = Study(
    name="time_to_accuracy",
    about=(__doc__ or "").splitlines()[0],
    plan=plan,
    tables=tables,
    pictures=pictures,
    quick="QUICK: no tuning, two seeds and little time; this is no result.",
    note="Means (95 % interval by Student's t). Faster: geometric mean of the seeds' own ratios.",
)

if __name__ == "__main__":
    main(STUDY)
