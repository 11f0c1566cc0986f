"""How close does SparsyFed come to dense training at 90, 95 and 99 % zeros, and in how many bytes?

    python benchmarks/papers/sparsyfed.py [--quick] [--only NAME] [--budget-hours H] [--pictures]

Fashion-MNIST, 10,000 examples at 100 clients, 10 a round, batches of 16, weight decay 1e-3,
Dirichlet alpha 1000, 1 and 0.1. The CNN trains one epoch a round, ResNet-8 five, which makes as
many steps a round as the paper's clients with 500 examples do. Learning rates fall exponentially
by a factor of 10; the paper's 50 is for 700 rounds. Dense FedAvg and top-k of the difference, with
error feedback and without, stand beside. Each method's learning rate is chosen from the same grid,
at alpha 1 and 95 % on a seed that no table shows, over fewer rounds: the smallest within half a
point of the best, since the largest may diverge on another seed; on ResNet-8 top-k takes the one of
dense training.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any, Final

from cells import (
    MODELS,
    TUNING_SEED,
    Book,
    Cell,
    Record,
    Study,
    Table,
    bound_bytes,
    dirichlet,
    falling,
    gap,
    main,
    measured,
    payload_bytes,
    seeds,
    settings,
    spread,
    tail,
    values_bytes,
)
from pictures import Line, draw, frame, mean_curve, panels, save

ROUNDS: Final = {"cnn": 200, "resnet8": 60}
TUNING_ROUNDS: Final = {"cnn": 60, "resnet8": 20}
EPOCHS: Final = {"cnn": 1, "resnet8": 5}
RATES: Final = {"cnn": (0.1, 0.2, 0.4), "resnet8": (0.05, 0.1, 0.3, 0.5)}
FACTOR: Final = 10.0
DENSITIES: Final = (0.05, 0.1, 0.01)
ALPHAS: Final = (1.0, 1000.0, 0.1)
HEADLINE: Final = ("dense", "sparsyfed 0.05", "top-k 0.05")
FORGETFUL: Final = "top-k 0.05, no feedback"
EVERY_METHOD: Final = (
    "dense",
    *(f"sparsyfed {density:g}" for density in DENSITIES),
    *(f"top-k {density:g}" for density in DENSITIES),
    FORGETFUL,
)


def family(method: str) -> str:
    """Return the method without its density."""
    return method.split(maxsplit=1)[0]


def density_of(method: str) -> float:
    """Return the density in a method's name; 1 for dense."""
    return float(method.split()[1].rstrip(",")) if " " in method else 1.0


def method_of(model: str, method: str, lr: float, rounds: int) -> dict[str, Any]:
    """Return the section `method`."""
    training = falling(lr, rounds, factor=FACTOR, batch_size=16, weight_decay=1e-3)
    training |= {"epochs": EPOCHS[model]}
    downlink = {"kind": "difference"}
    density = density_of(method)
    if family(method) == "sparsyfed":
        training |= {"kind": "sparsyfed", "beta": 1.25}
        uplink: dict[str, Any] = {"kind": "sparse-weights", "density": density}
    else:
        training |= {"kind": "sgd"}
        feedback = method != FORGETFUL
        uplink = {"kind": "top-k", "density": density, "error_feedback": feedback}
    if method == "dense":
        uplink, downlink = {"kind": "dense", "content": "weights"}, {"kind": "dense"}
    return {
        "training": training,
        "uplink": uplink,
        "downlink": downlink,
        "aggregation": {"kind": "fedavg", "clients_per_round": 10},
    }


def cell(model: str, alpha: float, method: str, seed: int, lr: float, quick: bool) -> Cell:
    """Return one run of a table."""
    rounds = _rounds(model, quick)
    whole = settings(
        method_of(model, method, lr, rounds),
        partition=dirichlet(alpha),
        model=MODELS[model],
        stop={"versions": rounds},
        every_versions=rounds if quick else 10,
    )
    return Cell(f"{model}/alpha {alpha:g}/{method}", seed, whole)


def _rounds(model: str, quick: bool) -> int:
    return (2 if model == "resnet8" else 6) if quick else ROUNDS[model]


def tuning(model: str, group: str) -> dict[float, Cell]:
    """Return the runs that choose the learning rate of a group of methods."""
    rounds = TUNING_ROUNDS[model]
    method = "dense" if group == "dense" else f"{group} 0.05"
    found = {}
    for lr in RATES[model]:
        whole = settings(
            method_of(model, method, lr, rounds),
            partition=dirichlet(1.0),
            model=MODELS[model],
            stop={"versions": rounds},
        )
        found[lr] = Cell(f"tuning/{model}/{group}/lr {lr:g}", TUNING_SEED, whole)
    return found


def rate(book: Book, model: str, method: str, quick: bool) -> float | None:
    """Return a method's learning rate, once it is known."""
    return 0.3 if quick else book.steady(tuning(model, tuned_as(model, method)))


def tuned_as(model: str, method: str) -> str:
    """Return whose learning rate a method takes: its family's; on ResNet-8 top-k takes dense's."""
    return "dense" if model == "resnet8" and family(method) == "top-k" else family(method)


def wanted(model: str, alpha: float, quick: bool) -> dict[str, tuple[int, ...]]:
    """Return the seeds of each method, for a table: most where the headline is."""
    at_one = alpha == 1.0
    methods = tuple(m for m in EVERY_METHOD if at_one or m != FORGETFUL)
    if model == "resnet8":
        methods = tuple(m for m in HEADLINE if at_one)
    if quick:
        count = 2 if model == "resnet8" else 3
        return dict.fromkeys(HEADLINE[:count] if at_one else (), (1,))
    counts = {m: 1 + (at_one and m in HEADLINE) + (at_one and m in HEADLINE[:2]) for m in methods}
    return {method: tuple(range(1, count + 1)) for method, count in counts.items()}


def plan(book: Book, quick: bool) -> list[Cell]:
    """Return what can be run: headline first, ResNet-8 before the CNN's other alphas."""
    cells: list[Cell] = []
    for model in MODELS:
        if not quick:
            groups = dict.fromkeys(tuned_as(model, m) for m in wanted(model, 1.0, quick))
            cells += [c for group in groups for c in tuning(model, group).values()]
    order = [("cnn", 1.0), ("resnet8", 1.0), ("cnn", 1000.0), ("cnn", 0.1)]
    found = [c for model, alpha in order for c in of_table(book, model, alpha, quick)]
    headline = [c for c in found if "alpha 1/" in c.name and c.name.split("/")[2] in HEADLINE]
    rest = sorted((c for c in found if c not in headline), key=lambda c: c.seed)
    return cells + headline + rest


def of_table(book: Book, model: str, alpha: float, quick: bool) -> list[Cell]:
    """Return a table's cells as far as their learning rates are known."""
    return [
        cell(model, alpha, method, seed, lr, quick)
        for method, numbers in wanted(model, alpha, quick).items()
        if (lr := rate(book, model, method, quick)) is not None
        for seed in numbers
    ]


def runs(book: Book, model: str, alpha: float, method: str, quick: bool) -> list[Record]:
    """Return the finished runs of a row."""
    cells = of_table(book, model, alpha, quick)
    return book.done(c for c in cells if c.name.endswith(f"/{method}"))


def tables(book: Book, quick: bool) -> list[Table]:
    """Return two tables a model and alpha, accuracy and masks, and the tuning."""
    made = []
    for model, alpha in (("cnn", 1.0), ("resnet8", 1.0), ("cnn", 1000.0), ("cnn", 0.1)):
        methods = wanted(model, alpha, quick)
        if methods:
            title = f"SparsyFed: {model}, Dirichlet {alpha:g}, {_rounds(model, quick)} rounds"
            rows = [_row(book, model, alpha, method, quick) for method in methods]
            made.append(Table(title, _COLUMNS, rows))
            sparse = [m for m in methods if family(m) == "sparsyfed"]
            rows = [_masks(runs(book, model, alpha, m, quick), m) for m in sparse]
            made.append(Table(f"Masks, {title}", _MASKS, rows))
    return made if quick else [*made, _tuning_table(book)]


_COLUMNS: Final = (
    "method", "lr", "seeds", "tail accuracy, %", "to dense", "kB an update", "values alone, kB",
    "bound, kB", "less than dense",
)  # fmt: skip
_MASKS: Final = (
    "method", "density of the model", "above the target", "most regrown in a round after the first",
    "alike masks (Jaccard), first round", "last round",
)  # fmt: skip


def _row(book: Book, model: str, alpha: float, method: str, quick: bool) -> list[str]:
    found = runs(book, model, alpha, method, quick)
    dense = runs(book, model, alpha, "dense", quick)
    lr = rate(book, model, method, quick)
    less = "-"
    if found and dense:
        less = f"{fmean(map(payload_bytes, dense)) / fmean(map(payload_bytes, found)):.1f} x"
    return [
        method,
        "-" if lr is None else f"{lr:g}",
        seeds(found),
        spread(found, tail),
        gap(found, dense),
        spread(found, lambda r: payload_bytes(r) / 1e3),
        spread(found, lambda r: values_bytes(r) / 1e3),
        spread(found, lambda r: bound_bytes(r) / 1e3),
        less,
    ]


def _masks(found: list[Record], method: str) -> list[str]:
    return [
        method,
        spread(found, lambda r: measured(r, "density", "last"), "{:.4f}"),
        spread(found, lambda r: measured(r, "excess_density", "last"), "{:+.4f}"),
        spread(found, lambda r: measured(r, "regrowth", "later_max"), "{:.0f}"),
        spread(found, lambda r: measured(r, "mask_jaccard", "first"), "{:.3f}"),
        spread(found, lambda r: measured(r, "mask_jaccard", "last"), "{:.3f}"),
    ]


def _tuning_table(book: Book) -> Table:
    rows = []
    for model in MODELS:
        for group in dict.fromkeys(tuned_as(model, m) for m in wanted(model, 1.0, quick=False)):
            found = {lr: book.find(c) for lr, c in tuning(model, group).items()}
            shown = [f"lr {lr:g}: {_tried(record)}" for lr, record in found.items()]
            rows.append([model, group, str(TUNING_ROUNDS[model]), *shown])
    columns = ("model", "method", "rounds", "", "", "")
    return Table("Tuning: tail accuracy in %, one seed of its own, alpha 1, 95 %", columns, rows)


def _tried(record: Record | None) -> str:
    if record is None:
        return "-"
    return "diverged" if record["failed"] else f"{tail(record):.1f}"


def pictures(book: Book, quick: bool, folder: Path) -> list[Path]:
    """Draw accuracy over rounds at 95 %, and accuracy over bytes of an update at alpha 1."""
    figure, axes = panels(2)
    for axis, model in zip(axes, MODELS, strict=True):
        lines = []
        for method, style in (("dense", "-"), ("top-k 0.05", "-"), ("sparsyfed 0.05", "-")):
            found = runs(book, model, 1.0, method, quick)
            if found:
                x, y = mean_curve(found, "version")
                label = method.replace(" 0.05", ", 95 %")
                lines.append(Line(label, x, y, family(method), style))
        draw(axis, lines, x="round", y="test accuracy, %")
        frame(axis, lines, least=50)
        axis.set_title(f"{model}, Dirichlet 1", loc="left", fontsize=9)
    curves = save(figure, folder / "papers-sparsyfed-rounds.svg")
    figure, axes = panels(1, width=6.5, height=4.0)
    lines = []
    for group in ("dense", "top-k", "sparsyfed"):
        shown = [m for m in EVERY_METHOD if family(m) == group and m != FORGETFUL]
        points = sorted(
            (fmean(map(payload_bytes, found)) / 1e3, fmean(map(tail, found)))
            for method in shown
            if (found := runs(book, "cnn", 1.0, method, quick))
        )
        if points:
            x, y = (list(values) for values in zip(*points, strict=True))
            lines.append(Line(group, x, y, group, marker="o"))
    x_label = "kB an update, as sent (log); left to right 99, 95, 90 % zeros"
    draw(axes[0], lines, x=x_label, y="tail accuracy, %", log=True)
    low = min((min(line.y) for line in lines), default=1.0)
    frame(axes[0], lines, least=low - 2)
    axes[0].set_title("cnn, Dirichlet 1", loc="left", fontsize=9)
    return [curves, save(figure, folder / "papers-sparsyfed-bytes.svg")]


STUDY: Final = Study("sparsyfed", (__doc__ or "").splitlines()[0], plan, tables, pictures)

if __name__ == "__main__":
    main(STUDY)
