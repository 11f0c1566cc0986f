"""What do the methods reach in equal time on slow phones, and with how many bytes both ways?

    python benchmarks/papers/asynchronous.py [--quick] [--only NAME] [--budget-hours H] [--pictures]

100 budget phones, lognormal between devices (sigma 0.5) and from one piece of work to the next
(0.5); 20 busy at a time, buffers of 10, staleness weight (1 + d)^-0.5. Fashion-MNIST, 10,000
examples, Dirichlet 1, the CNN of 215,370 parameters, one epoch in batches of 20, learning rates
that stay. Every run ends after the same virtual time, so that what is saved on the links becomes
updates. Clients that come back are sent the difference to what they hold, or the whole model if
that is shorter; all of it is counted.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any, Final

from cells import (
    Book,
    Cell,
    Record,
    Study,
    Table,
    dirichlet,
    main,
    payload_bytes,
    reached,
    seeds,
    settings,
    spread,
    tail,
    total_bytes,
)
from pictures import MB, Line, draw, frame, mean_curve, panels, save

SECONDS: Final = 60.0
GOALS: Final = (0.75, 0.80)
SEEDS: Final = (1, 2)
SIZE: Final = 10
FLEET: Final = {
    "mix": [{"profile": "budget-phone"}],
    "spread": 0.5,
    "jitter": {"kind": "lognormal", "sigma": 0.5},
}
SGD: Final = {"kind": "sgd", "lr": 0.1, "batch_size": 20}
POWER: Final = {"kind": "sparsyfed", "lr": 0.3, "batch_size": 20, "weight_decay": 1e-3}
BUFFER: Final[dict[str, Any]] = {"kind": "fedbuff", "size": SIZE}
DIFFERENCE: Final = {"kind": "difference"}
METHODS: Final[dict[str, dict[str, Any]]] = {
    "dense": {"training": SGD, "uplink": {"kind": "dense"}, "aggregation": BUFFER},
    "top-k 5 %": {
        "training": SGD,
        "uplink": {"kind": "top-k", "density": 0.05},
        "downlink": DIFFERENCE,
        "aggregation": BUFFER,
    },
    "sparsyfed 95 %": {
        "training": POWER,
        "uplink": {"kind": "sparse-weights", "density": 0.05},
        "downlink": DIFFERENCE,
        "aggregation": BUFFER | {"form": "weights"},
    },
    "fedmap 90 %": {
        "training": SGD,
        "uplink": {"kind": "packed", "content": "delta"},
        "downlink": DIFFERENCE,
        "pruning": {
            "kind": "fedmap",
            "density": 0.1,
            "schedule": {"kind": "geometric", "share": 0.2},
            "every": 10,
        },
        "aggregation": BUFFER,
    },
    "signs 10 %": {
        "training": SGD,
        "uplink": {"kind": "signs", "density": 0.1, "voters": SIZE},
        "downlink": DIFFERENCE,
        "aggregation": {"kind": "majority-vote", "voters": SIZE, "size": SIZE, "step": 1e-3},
    },
    "dense, fedasync": {
        "training": SGD,
        "uplink": {"kind": "dense"},
        "aggregation": {"kind": "fedasync", "form": "delta", "rate": 0.6},
    },
    "top-k 5 %, both ways": {
        "training": SGD,
        "uplink": {"kind": "top-k", "density": 0.05},
        "downlink": {"kind": "top-k", "density": 0.05},
        "aggregation": BUFFER,
    },
}
COLOURS: Final = {
    "dense, fedasync": "#999999",
    "top-k 5 %, both ways": "#17becf",
}


def cell(method: str, seed: int, quick: bool) -> Cell:
    """Return one run."""
    staleness = {"kind": "polynomial", "exponent": 0.5}
    part = METHODS[method] | {"concurrency": 20, "staleness": staleness}
    if quick and method.startswith("fedmap"):
        part["pruning"] = part["pruning"] | {"every": 2}
    every = 100 if method == "dense, fedasync" else 10
    whole = settings(
        part,
        partition=dirichlet(1.0),
        stop={"virtual_seconds": 4.0 if quick else SECONDS},
        every_versions=1000 if quick else every,
        fleet=FLEET,
    )
    return Cell(method, seed, whole)


def of_method(method: str, quick: bool) -> list[Cell]:
    """Return a method's cells."""
    return [cell(method, seed, quick) for seed in (SEEDS[:1] if quick else SEEDS)]


def plan(book: Book, quick: bool) -> list[Cell]:
    """Return all cells, one seed after the other."""
    del book
    cells = [c for method in METHODS for c in of_method(method, quick)]
    return sorted(cells, key=lambda c: c.seed)


def runs(book: Book, method: str, quick: bool) -> list[Record]:
    """Return the finished runs of a row."""
    return book.done(of_method(method, quick))


def tables(book: Book, quick: bool) -> list[Table]:
    """Return what was reached in the time, and when and with how many bytes the goals were."""
    title = f"Asynchronous, {4.0 if quick else SECONDS:g} virtual seconds on 100 budget phones"
    first = Table(title, _COLUMNS, [_row(book, m, quick) for m in METHODS])
    second = Table("What it takes to reach an accuracy", _TO_GOAL, [
        _to_goal(book, m, quick) for m in METHODS
    ])  # fmt: skip
    return [first, second]


_COLUMNS: Final = (
    "method", "seeds", "tail accuracy, %", "updates", "staleness", "MB up", "MB down",
    "MB both", "kB an update", "kJ",
)  # fmt: skip
_TO_GOAL: Final = (
    "method",
    *(f"{unit} to {100 * goal:.0f} %" for goal in GOALS for unit in ("s", "MB both", "MB up")),
)


def _row(book: Book, method: str, quick: bool) -> list[str]:
    found = runs(book, method, quick)
    return [
        method,
        seeds(found),
        spread(found, tail),
        spread(found, lambda r: r["summary"]["updates"], "{:.0f}"),
        spread(found, lambda r: r["summary"]["mean_staleness"]),
        spread(found, lambda r: r["summary"]["uplink_bytes"] / MB, "{:.0f}"),
        spread(found, lambda r: r["summary"]["downlink_bytes"] / MB, "{:.0f}"),
        spread(found, lambda r: total_bytes(r) / MB, "{:.0f}"),
        spread(found, lambda r: payload_bytes(r) / 1e3),
        spread(found, lambda r: r["summary"]["energy_joules"] / 1e3),
    ]


def _to_goal(book: Book, method: str, quick: bool) -> list[str]:
    found = runs(book, method, quick)
    cells = [method]
    for goal in GOALS:
        for column, unit in (("time_s", 1.0), ("bytes", MB), ("uplink_bytes", MB)):
            cells.append(_all_reached(found, goal, column, unit))
    return cells


def _all_reached(found: list[Record], goal: float, column: str, unit: float) -> str:
    """Return mean and range where every seed reached the goal; else how many did."""
    values = [reached(record, goal, column) for record in found]
    there = sum(value is not None for value in values)
    if there < len(values):
        return f"{there} of {len(values)} did"
    return spread(found, lambda r: (reached(r, goal, column) or 0.0) / unit)


def pictures(book: Book, quick: bool, folder: Path) -> list[Path]:
    """Draw accuracy over bytes both ways and over virtual time, all methods in one picture."""
    figure, axes = panels(2, width=5.2, height=4.2)
    found = {method: records for method in METHODS if (records := runs(book, method, quick))}
    tops = []
    for axis, column, unit, label in (
        (axes[0], "bytes", MB, "MB sent both ways (log)"),
        (axes[1], "time_s", 1.0, "virtual seconds"),
    ):
        lines = []
        for method, records in found.items():
            x, y = mean_curve(records, column)
            colour = COLOURS.get(method, method.split()[0])
            lines.append(Line(method, [value / unit for value in x], y, colour))
        tops = [fmean(line.y[-3:]) for line in lines]
        draw(axis, lines, x=label, y="test accuracy, %", log=column == "bytes")
        frame(axis, lines, least=max(min(tops, default=10) - 15, 0))
    return [save(figure, folder / "papers-asynchronous.svg")]


STUDY: Final = Study("asynchronous", (__doc__ or "").splitlines()[0], plan, tables, pictures)

if __name__ == "__main__":
    main(STUDY)
