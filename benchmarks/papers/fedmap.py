"""How close does FedMap come to dense training at 90 % (IID) and 80 % (Dirichlet 0.5) pruned?

    python benchmarks/papers/fedmap.py [--quick] [--only NAME] [--budget-hours H] [--pictures]

Fashion-MNIST, 10,000 examples at 100 clients, 10 a round, one epoch in batches of 20, a CNN of
215,370 parameters, 200 rounds. Four schedules start from the dense model; the last mask is reached
near half of the rounds. Each has one seed, the best one and dense training three. Bytes are those
of both directions from version 0 on, the dense start and the masks counted.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any, Final

from cells import (
    TUNING_SEED,
    Book,
    Cell,
    Record,
    Study,
    Table,
    dirichlet,
    falling,
    gap,
    iid,
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

ROUNDS: Final = 200
TUNING_ROUNDS: Final = 60
UNTIL: Final = 100
RATES: Final = (0.05, 0.1, 0.2)
FACTOR: Final = 10.0
SCENES: Final = {"iid 90 %": (iid(), 0.1), "dirichlet 0.5 80 %": (dirichlet(0.5), 0.2)}
SCHEDULES: Final[dict[str, dict[str, Any]]] = {
    "linear": {"schedule": {"kind": "linear", "until": UNTIL}, "every": 5},
    "cubic": {"schedule": {"kind": "cubic", "until": UNTIL}, "every": 5},
    "geometric": {"schedule": {"kind": "geometric", "share": 0.2}, "every": 10},
    "recovered": {"schedule": {"kind": "recovered", "share": 0.2, "tolerance": 0.02}, "every": 5},
}
METHODS: Final = ("dense", *SCHEDULES)
QUICK: Final = ("dense", "linear", "recovered")
GOAL: Final = 0.85
STYLES: Final = {"linear": "#2ca02c", "cubic": "#1f77b4", "geometric": "#e08214"}


def method_of(method: str, lr: float, density: float, rounds: int) -> dict[str, Any]:
    """Return the section `method`."""
    common: dict[str, Any] = {
        "training": falling(lr, rounds, factor=FACTOR, kind="sgd", batch_size=20),
        "aggregation": {"kind": "fedavg", "clients_per_round": 10},
    }
    if method == "dense":
        return common | {"uplink": {"kind": "dense", "content": "weights"}}
    return common | {
        "uplink": {"kind": "packed", "content": "weights"},
        "downlink": {"kind": "difference"},
        "pruning": {"kind": "fedmap", "density": density, **SCHEDULES[method]},
    }


def cell(scene: str, method: str, seed: int, lr: float, quick: bool) -> Cell:
    """Return one run of a table."""
    partition, density = SCENES[scene]
    rounds = _rounds(quick)
    part = method_of(method, lr, density, rounds)
    if quick and method != "dense":
        part["pruning"]["every"] = 1
        if "until" in part["pruning"]["schedule"]:
            part["pruning"]["schedule"] = part["pruning"]["schedule"] | {"until": 3}
    whole = settings(
        part,
        partition=partition,
        stop={"versions": rounds},
        every_versions=rounds if quick else 10,
    )
    return Cell(f"{scene}/{method}", seed, whole)


def _rounds(quick: bool) -> int:
    return 6 if quick else ROUNDS


def tuning() -> dict[float, Cell]:
    """Return the runs that choose the learning rate of all methods: dense ones."""
    found = {}
    for lr in RATES:
        part = method_of("dense", lr, 1.0, TUNING_ROUNDS)
        whole = settings(part, partition=dirichlet(0.5), stop={"versions": TUNING_ROUNDS})
        found[lr] = Cell(f"tuning/dense/lr {lr:g}", TUNING_SEED, whole)
    return found


def rate(book: Book, quick: bool) -> float | None:
    """Return the learning rate, once it is known."""
    return 0.1 if quick else book.best(tuning())


def of_scene(book: Book, scene: str, quick: bool) -> list[Cell]:
    """Return a scene's cells: all methods once, then the best schedule and dense again."""
    lr = rate(book, quick)
    if lr is None:
        return []
    first = [cell(scene, method, 1, lr, quick) for method in (QUICK if quick else METHODS)]
    best = None if quick else best_schedule(book, scene)
    if best is None:
        return first
    return first + [cell(scene, m, seed, lr, quick) for seed in (2, 3) for m in (best, "dense")]


def best_schedule(book: Book, scene: str) -> str | None:
    """Return the schedule with the best tail accuracy on seed 1, once all have run."""
    lr = rate(book, quick=False)
    if lr is None:
        return None
    return book.best({name: cell(scene, name, 1, lr, quick=False) for name in SCHEDULES})


def plan(book: Book, quick: bool) -> list[Cell]:
    """Return what can be run: tuning, all schedules once, the best ones again."""
    cells = [] if quick else list(tuning().values())
    found = [c for scene in SCENES for c in of_scene(book, scene, quick)]
    return cells + sorted(found, key=lambda c: c.seed)


def runs(book: Book, scene: str, method: str, quick: bool) -> list[Record]:
    """Return the finished runs of a row."""
    name = f"{scene}/{method}"
    return book.done(c for c in of_scene(book, scene, quick) if c.name == name)


def tables(book: Book, quick: bool) -> list[Table]:
    """Return a table a scene, and the tuning."""
    made = []
    for scene in SCENES:
        best = None if quick else best_schedule(book, scene)
        methods = QUICK if quick else METHODS
        rows = [_row(book, scene, method, best, quick) for method in methods]
        made.append(Table(f"FedMap: {scene}, {_rounds(quick)} rounds", _COLUMNS, rows))
    return made if quick else [*made, _tuning_table(book)]


_COLUMNS: Final = (
    "method", "seeds", "tail accuracy, %", "to dense", "MB up", "MB down", "MB both",
    f"MB both to {100 * GOAL:.0f} %", "kB a last update",
)  # fmt: skip


def _row(book: Book, scene: str, method: str, best: str | None, quick: bool) -> list[str]:
    found = runs(book, scene, method, quick)
    return [
        f"{method} (best on seed 1)" if method == best else method,
        seeds(found),
        spread(found, tail),
        gap(found, runs(book, scene, "dense", quick)),
        spread(found, lambda r: r["summary"]["uplink_bytes"] / MB),
        spread(found, lambda r: r["summary"]["downlink_bytes"] / MB),
        spread(found, lambda r: total_bytes(r) / MB),
        spread(found, lambda r: _mb(reached(r, GOAL, "bytes"))),
        spread(found, lambda r: _last_payload(r) / 1e3),
    ]


def _mb(count: float | None) -> float | None:
    return None if count is None else count / MB


def _last_payload(record: Record) -> float:
    """Return the mean bytes of an update between the last two evaluations."""
    (before, _, _, up_before, *_), (after, _, _, up_after, *_) = record["curve"][-2:]
    updates = record["payloads"]["count"] * (after - before) / record["summary"]["versions"]
    return float((up_after - up_before) / updates) if updates else payload_bytes(record)


def _tuning_table(book: Book) -> Table:
    found = {lr: book.find(c) for lr, c in tuning().items()}
    row = ["-" if r is None else "diverged" if r["failed"] else f"{tail(r):.1f}"
           for r in found.values()]  # fmt: skip
    title = f"Tuning: dense, {TUNING_ROUNDS} rounds, one seed of its own; tail accuracy in %"
    return Table(title, [f"lr {lr:g}" for lr in found], [row])


def pictures(book: Book, quick: bool, folder: Path) -> list[Path]:
    """Draw accuracy over the bytes of both directions, a panel a scene."""
    figure, axes = panels(2)
    for axis, scene in zip(axes, SCENES, strict=True):
        lines = []
        for method in METHODS:
            found = runs(book, scene, method, quick)
            if found:
                x, y = mean_curve(found, "bytes")
                megabytes = [value / MB for value in x]
                colour = "dense" if method == "dense" else STYLES.get(method, "#9467bd")
                lines.append(Line(method, megabytes, y, colour))
        draw(axis, lines, x="MB sent both ways", y="test accuracy, %")
        tops = [fmean(line.y[-3:]) for line in lines]
        frame(axis, lines, least=min(tops, default=10) - 15)
        axis.set_title(scene, loc="left", fontsize=9)
    return [save(figure, folder / "papers-fedmap-bytes.svg")]


STUDY: Final = Study("fedmap", (__doc__ or "").splitlines()[0], plan, tables, pictures)

if __name__ == "__main__":
    main(STUDY)
