"""How good are votes with few signs, for how many bits a parameter?

    python benchmarks/papers/signs.py [--quick] [--only NAME] [--budget-hours H] [--pictures]

Sparse-SignSGD with majority vote at shares 0.1, 0.05 and 0.01, against signSGD with majority vote,
top-k of the difference with FedAvg, and dense one-step FedAvg. Fashion-MNIST, 10,000 examples at
100 clients, a CNN of 215,370 parameters; M workers a round, each with one batch of 64; steps
fall exponentially to a tenth. The step of the votes, for sparse and full ones apart, and the rate
of the one-step FedAvgs are chosen at M = 15, IID, on a seed that no table shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
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
    by_labels,
    falling,
    gap,
    iid,
    main,
    measured,
    seeds,
    settings,
    spread,
    tail,
    uplink_bits,
)
from pictures import MB, Line, draw, frame, panels, save

ROUNDS: Final = {15: 400, 50: 100}
TUNING_ROUNDS: Final = {"dense": 100, "signs": 200, "sign-sgd": 200}
EVERY: Final = 20
RATES: Final = {
    "dense": (0.1, 0.3, 1.0),
    "signs": (2e-3, 4e-3, 8e-3, 1.6e-2),
    "sign-sgd": (2e-3, 4e-3, 8e-3, 1.6e-2),
}
"""Learning rates of one-step FedAvg, and steps of the votes."""
SCENES: Final = {"iid": iid(), "two labels": by_labels()}
VOTES: Final = ("signs 0.1", "sign-sgd", "signs 0.05", "signs 0.01")
OTHERS: Final = ("top-k 0.01", "dense")
"""Top-k at 1 % takes about as many bits as 5 % of the signs."""


def family(method: str) -> str:
    """Return the method without its share."""
    return method.split(maxsplit=1)[0]


def method_of(method: str, voters: int, rounds: int, lr: float) -> dict[str, Any]:
    """Return the section `method`; `lr` is the step of a vote."""
    if family(method) in {"signs", "sign-sgd"}:
        uplink: dict[str, Any] = {"kind": "sign-sgd"}
        if family(method) == "signs":
            uplink = {"kind": "signs", "density": float(method.split()[1]), "scope": "tensor"}
        return {
            # A rate of 1 keeps the difference closest to the gradient in float32.
            "training": {"kind": "sgd", "lr": 1.0, "steps": 1, "batch_size": 64},
            "uplink": uplink,
            "downlink": {"kind": "difference"},
            "aggregation": {
                "kind": "majority-vote",
                "voters": voters,
                "step": lr,
                "step_final": lr / 10,
                "step_versions": rounds,
            },
        }
    uplink, downlink = {"kind": "dense"}, {"kind": "dense"}
    if family(method) == "top-k":
        uplink = {"kind": "top-k", "density": float(method.split()[1])}
        downlink = {"kind": "difference"}
    return {
        "training": falling(lr, rounds, factor=10, kind="sgd", steps=1, batch_size=64),
        "uplink": uplink,
        "downlink": downlink,
        "aggregation": {"kind": "fedavg", "clients_per_round": voters},
    }


def cell(scene: str, voters: int, method: str, seed: int, lr: float, quick: bool) -> Cell:
    """Return one run of a table."""
    rounds = _rounds(voters, quick)
    whole = settings(
        method_of(method, voters, rounds, lr),
        partition=SCENES[scene],
        stop={"versions": rounds},
        every_versions=rounds if quick else EVERY,
    )
    return Cell(f"{scene}/M {voters}/{method}", seed, whole)


def _rounds(voters: int, quick: bool) -> int:
    return 6 if quick else ROUNDS[voters]


def tuned_as(method: str) -> str:
    """Return whose rate a method takes: its family's; top-k takes dense's."""
    return "dense" if family(method) == "top-k" else family(method)


def tuning(group: str) -> dict[float, Cell]:
    """Return the runs that choose the rate of a group of methods."""
    method, rounds = "signs 0.1" if group == "signs" else group, TUNING_ROUNDS[group]
    found = {}
    for lr in RATES[group]:
        part = method_of(method, 15, rounds, lr)
        whole = settings(part, partition=iid(), stop={"versions": rounds}, every_versions=EVERY)
        found[lr] = Cell(f"tuning/{group}/lr {lr:g}", TUNING_SEED, whole)
    return found


def rate(book: Book, method: str, quick: bool) -> float | None:
    """Return a method's rate, once it is known."""
    if quick:
        return 1e-3 if method in VOTES else 0.3
    return book.best(tuning(tuned_as(method)))


def wanted(scene: str, voters: int, quick: bool) -> dict[str, tuple[int, ...]]:
    """Return the seeds of each method, for a table: most where the headline is."""
    if quick:
        return dict.fromkeys((*VOTES[:2], *OTHERS) if (scene, voters) == ("iid", 15) else (), (1,))
    if voters == 50:
        return dict.fromkeys(VOTES if scene == "iid" else VOTES[:2], (1,))
    most = (1, 2, 3) if scene == "iid" else (1, 2)
    return {m: most if m in VOTES[:2] else (1,) for m in (*VOTES, *OTHERS)}


def of_table(book: Book, scene: str, voters: int, quick: bool) -> list[Cell]:
    """Return a table's cells as far as their rates are known."""
    return [
        cell(scene, voters, method, seed, lr, quick)
        for method, numbers in wanted(scene, voters, quick).items()
        if (lr := rate(book, method, quick)) is not None
        for seed in numbers
    ]


TABLES: Final = tuple((scene, voters) for voters in ROUNDS for scene in SCENES)


def plan(book: Book, quick: bool) -> list[Cell]:
    """Return what can be run: the tuning, then the headline, then by seed."""
    found = [c for scene, voters in TABLES for c in of_table(book, scene, voters, quick)]
    headline = [c for c in found if c.name in {f"iid/M 15/{m}" for m in VOTES[:2]}]
    rest = sorted((c for c in found if c not in headline), key=lambda c: c.seed)
    rates = [c for group in RATES for c in tuning(group).values()]
    return ([] if quick else rates) + headline + rest


def runs(book: Book, scene: str, voters: int, method: str, quick: bool) -> list[Record]:
    """Return the finished runs of a row."""
    name = f"{scene}/M {voters}/{method}"
    return book.done(c for c in of_table(book, scene, voters, quick) if c.name == name)


def tables(book: Book, quick: bool) -> list[Table]:
    """Return two tables a scene and M: accuracy against bits, and the votes."""
    made = []
    for scene, voters in TABLES:
        methods = wanted(scene, voters, quick)
        if not methods:
            continue
        title = f"{scene}, M = {voters}, {_rounds(voters, quick)} rounds"
        rows = [_row(book, scene, voters, method, quick) for method in methods]
        made.append(Table(f"Votes: {title}", _COLUMNS, rows))
        rows = [_votes(book, scene, voters, method, quick) for method in methods if method in VOTES]
        made.append(Table(f"How they voted: {title}", _VOTING, rows))
    return made if quick else [*made, _tuning_table(book)]


_COLUMNS: Final = (
    "method", "seeds", "tail accuracy, %", "to signSGD-MV", "bits a parameter up, sent",
    "bound", "H(s) + s", "MB up", "MB down",
)  # fmt: skip
_VOTING: Final = (
    "method", "coverage", "votes a covered parameter", "ties", "systematic minorities",
)  # fmt: skip


def _row(book: Book, scene: str, voters: int, method: str, quick: bool) -> list[str]:
    found = runs(book, scene, voters, method, quick)
    return [
        method,
        seeds(found),
        spread(found, tail),
        gap(found, runs(book, scene, voters, "sign-sgd", quick)),
        spread(found, uplink_bits, "{:.3f}"),
        spread(found, lambda r: uplink_bits(r, "uplink_entropy_bytes"), "{:.3f}"),
        _by_formula(method),
        spread(found, lambda r: r["summary"]["uplink_bytes"] / MB),
        spread(found, lambda r: r["summary"]["downlink_bytes"] / MB),
    ]


def _by_formula(method: str) -> str:
    """Return the entropy of a vote at share s and its sign, in bits a parameter."""
    if family(method) != "signs":
        return "1" if method == "sign-sgd" else "-"
    s = float(method.split()[1])
    return f"{-s * log2(s) - (1 - s) * log2(1 - s) + s:.3f}"


def _votes(book: Book, scene: str, voters: int, method: str, quick: bool) -> list[str]:
    found = runs(book, scene, voters, method, quick)
    return [
        method,
        spread(found, lambda r: measured(r, "coverage", "mean"), "{:.3f}"),
        spread(found, lambda r: measured(r, "votes", "mean"), "{:.2f}"),
        spread(found, lambda r: measured(r, "ties", "mean"), "{:.3f}"),
        spread(found, lambda r: measured(r, "systematic_minorities", "last"), "{:.3f}"),
    ]


def _tuning_table(book: Book) -> Table:
    rows = []
    for group in RATES:
        found = {lr: book.find(c) for lr, c in tuning(group).items()}
        shown = [f"{lr:g}: {_tried(record)}" for lr, record in found.items()]
        shown += [""] * (max(map(len, RATES.values())) - len(shown))
        rows.append([group, str(TUNING_ROUNDS[group]), *shown])
    title = "Tuning at M = 15, IID, one seed of its own; rate or step: tail accuracy in %"
    return Table(title, ("method", "rounds", "", "", "", ""), rows)


def _tried(record: Record | None) -> str:
    if record is None:
        return "-"
    return "diverged" if record["failed"] else f"{tail(record):.1f}"


def pictures(book: Book, quick: bool, folder: Path) -> list[Path]:
    """Draw accuracy over bits a parameter, a panel a partition, at M = 15."""
    figure, axes = panels(2)
    for axis, scene in zip(axes, SCENES, strict=True):
        points = {m: runs(book, scene, 15, m, quick) for m in wanted(scene, 15, quick)}
        lines = [
            _line("signs", [found for m, found in points.items() if family(m) == "signs"]),
            *(_line(m, [found]) for m, found in points.items() if family(m) != "signs"),
        ]
        lines = [line for line in lines if line.x]
        draw(axis, lines, x="bits a parameter up, as sent (log)", y="tail accuracy, %", log=True)
        frame(axis, lines, least=min((min(line.y) for line in lines), default=1.0) - 2)
        axis.set_title(f"{scene}, M = 15", loc="left", fontsize=9)
    return [save(figure, folder / "papers-signs-bits.svg")]


def _line(label: str, groups: Sequence[Sequence[Record]]) -> Line:
    points = sorted((fmean(map(uplink_bits, g)), fmean(map(tail, g))) for g in groups if g)
    if label == "signs":
        label = "signs, 1, 5, 10 %"
    x, y = [p[0] for p in points], [p[1] for p in points]
    return Line(label, x, y, family(label.replace(",", "")), marker="o")


STUDY: Final = Study("signs", (__doc__ or "").splitlines()[0], plan, tables, pictures)

if __name__ == "__main__":
    main(STUDY)
