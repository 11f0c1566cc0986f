"""Is the best asynchronous method better with late updates corrected, and what does that cost?

    python benchmarks/correction.py [--quick] [--only NAME] [--budget-hours H] [--pictures]

Fashion-MNIST: 100 clients of 200 examples, an MLP 784-128-10 (a CNN in a scene of its own), one
epoch in batches of 20 at rate 0.05, 20 clients busy, buffers of 10, 1,000 updates for every method.
1,000 further images belong to no client; all methods leave them alone, corrections look at them
without labels. Scenes differ in how updates become late, and in who holds what; `flights` is
another data set, whose clients are carriers. The server's time is charged, corrections included.
Versions are tested every 20 updates; tail accuracy is the mean of the last tenth of the tests.

Every method has six tries, chosen by mean tail accuracy on two seeds of their own in the headline
scene, and takes these settings to all scenes. The best baseline is the one that is best on the
tuning seeds; rounds (FedAvg) are compared in time and are none. What it takes to reach an accuracy
is what it took until a test first found it, lucky tests included.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Final

import numpy as np
from correction_cells import (
    CA2FL,
    FEDAVG,
    FEDAVG_FAST,
    GROUPS_OF_CLASSES,
    HEADLINE,
    METHODS,
    MULTIPLES,
    ON_CA2FL,
    PLAIN,
    RARE,
    SCENES,
    TUNING_SEEDS,
    ablation,
    merit,
    of_part,
    of_proxy,
    of_row,
    of_step,
    plan,
    proxies,
    rows,
    scenes,
    stepping,
    tuned,
    tuning,
    winner,
)
from races import Mean, at, over
from racing import Study, main
from scipy import stats  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).resolve().parent / "papers"))

from cells import Book, Record, Table, tail
from pictures import MB, Line, draw, frame, panels, save

Pairs = list[tuple[Record, Record]]
LESSONS: Final = "correct late updates"
"""The server's stage."""
SHARE: Final = 0.95
"""Of FedAvg's tail accuracy: the goal in the table of times."""
MARGIN: Final = 1.0
"""Points that no scene may lose, and that the headline is to win."""


# ------------------------------------------------------------------ figures of a run


def count_of_tail(record: Record) -> int:
    """Return how many tests the last tenth is."""
    return math.ceil(len(record["curve"]) / 10)


def swing(record: Record) -> float:
    """Return the mean change from one test of the tail to the next, in points."""
    accuracies = [accuracy for _, accuracy in record["curve"][-count_of_tail(record) :]]
    changes = [abs(b - a) for a, b in pairwise(accuracies)]
    return 100 * fmean(changes) if changes else 0.0


def lateness(record: Record) -> tuple[float, float, float]:
    """Return the mean staleness of updates in versions, its 95 % quantile and its maximum."""
    _, high, most = record["staleness"]
    return record["summary"]["mean_staleness"], high, most


def worst_decile(record: Record) -> float:
    """Return the mean accuracy of the worst-served tenth of the clients, in per cent."""
    return 100 * float(record["summary"]["worst_decile_accuracy"])


def until(record: Record, time_s: float) -> float:
    """Return the mean of as many tests as the tail has, the newest ones by then, in per cent."""
    known = [accuracy for when, accuracy in record["curve"] if when <= time_s + 0.1]
    return 100 * fmean(known[-count_of_tail(record) :])


def recall(record: Record, *, rare: bool) -> float:
    """Return the mean recall of the rare classes or of the others, in the tail, in per cent."""
    return 100 * fmean(r for c, r in enumerate(record["recall"]) if (c in RARE) is rare)


def cpu_s(record: Record, who: str, stage: str = "") -> float:
    """Return the CPU seconds of those stages."""
    spent: dict[str, float] = record["stages_cpu_s"]
    return sum(s for name, s in spent.items() if name.startswith(f"{who}: {stage}"))


def correction_cpu(record: Record) -> float:
    """Return what the lessons took at the server, as a share of the clients' training."""
    return cpu_s(record, "parameter server", LESSONS) / cpu_s(record, "clients", "train")


# ------------------------------------------------------------------ figures of a row


def runs(book: Book, scene: str, label: str, quick: bool) -> list[Record]:
    """Return a row's finished runs."""
    row = rows(book, scene, quick).get(label)
    return [] if row is None else book.done(of_row(scene, row, quick))


def pairs(records: Sequence[Record], base: Sequence[Record]) -> Pairs:
    """Return runs of one seed side by side."""
    others = {r["seed"]: r for r in base}
    return [(r, others[r["seed"]]) for r in records if r["seed"] in others]


def differences(records: Sequence[Record], base: Sequence[Record]) -> list[float]:
    """Return how far tail accuracies are above those of the same seeds, in points."""
    return [tail(a) - tail(b) for a, b in pairs(records, base)]


def shown(values: Sequence[float | None], form: str = "{:.1f}") -> str:
    """Return mean and interval; how many there are, where a seed has none; a dash for nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    if len(known) < len(values):
        return f"{len(known)} of {len(values)}"
    return Mean.of(known).text(form)


def ratios(values: Sequence[float | None]) -> str:
    """Return the mean of ratios by their logarithms, likewise."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return f"{len(known)} of {len(values)}" if values else "-"
    return Mean.of_ratios(known).text("{:.2f}")


def column(record: Record, accuracy: float, name: str) -> float | None:
    """Return what it took to an accuracy, as a share of 1; None if it was not reached."""
    point = at(record, accuracy)
    return None if point is None else float(point[name])


def quotient(a: float | None, b: float | None) -> float | None:
    """Return a / b, if both are known."""
    return None if a is None or b is None else a / b


def best(book: Book, quick: bool) -> str:
    """Return the best baseline; CA2FL until it is known."""
    return winner(book, "baseline", quick) or CA2FL


def correction(book: Book, quick: bool) -> str:
    """Return the best corrected method; that on CA2FL until it is known."""
    return winner(book, "corrected", quick) or ON_CA2FL


# ------------------------------------------------------------------ a table a scene

_COLUMNS: Final[tuple[str, ...]] = (
    "method", "settings", "tail accuracy, %", "to the best baseline", "at equal time, %",
    "swing, points", "worst decile, %", "virtual s to its tail", "MB to its tail",
    "staleness: mean, 95 %, most",
)  # fmt: skip


def scene_table(book: Book, scene: str, quick: bool) -> Table:
    """Return what every method reached in a scene."""
    known = rows(book, scene, quick)
    found = {label: book.done(of_row(scene, row, quick)) for label, row in known.items()}
    base = found.get(best(book, quick), [])
    goals = {r["seed"]: tail(r) / 100 for r in base}
    ends: dict[int, float] = {}
    for record in (r for records in found.values() for r in records):
        end = record["curve"][-1][0]
        ends[record["seed"]] = min(end, ends.get(record["seed"], math.inf))
    lines = [
        [label, known[label][1].text, *_row(records, base, ends, goals)]
        for label, records in found.items()
        if records
    ]
    columns = _COLUMNS
    if scene == GROUPS_OF_CLASSES:
        columns += ("recall, rare classes, %", "recall, others, %")
        for line in lines:
            for rare in (True, False):
                line.append(shown([recall(r, rare=rare) for r in found[line[0]]]))
    count = max(map(len, found.values()), default=0)
    return Table(f"{scene}: {SCENES[scene].about}; {count} seeds", columns, lines)


def _row(
    records: Sequence[Record],
    base: Sequence[Record],
    ends: dict[int, float],
    goals: dict[int, float],
) -> list[str]:
    aimed = [(r, goals[r["seed"]]) for r in records if r["seed"] in goals]
    gap = differences(records, base)
    sent = [column(r, goal, "bytes") for r, goal in aimed]
    return [
        shown([tail(r) for r in records]),
        "0" if list(records) == list(base) else shown(gap, "{:+.2f}"),
        shown([until(r, ends[r["seed"]]) for r in records]),
        shown([swing(r) for r in records], "{:.2f}"),
        shown([worst_decile(r) for r in records]),
        shown([column(r, goal, "time_s") for r, goal in aimed], "{:,.0f}"),
        shown([None if b is None else b / MB for b in sent], "{:,.0f}"),
        ", ".join(f"{fmean(values):.1f}" for values in zip(*map(lateness, records), strict=True)),
    ]


# ------------------------------------------------------------------ all scenes together


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for how many there are (Holm 1979)."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, largest = [0.0] * len(values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, values[index] * (len(values) - place)))
        adjusted[index] = largest
    return adjusted


def p_above(values: Sequence[float], least: float) -> float:
    """Return the one-sided p-value that the mean is not above `least`."""
    return float(stats.ttest_1samp(values, least, alternative="greater").pvalue)


def p_below(values: Sequence[float], most: float) -> float:
    """Return the one-sided p-value that the mean is not below `most`."""
    return float(stats.ttest_1samp(values, most, alternative="less").pvalue)


def of_scenes(book: Book, label: str, base: str, quick: bool) -> dict[str, list[float]]:
    """Return the differences of two rows in each scene that has two pairs or more."""
    found = {scene: _differences(book, scene, label, base, quick) for scene in scenes(quick)}
    return {scene: values for scene, values in found.items() if len(values) > 1}


def tests_table(book: Book, label: str, base: str, quick: bool) -> Table:
    """Return paired differences with their p-values, and the mean of the scenes."""
    found = of_scenes(book, label, base, quick)
    better = holm([p_above(v, 0.0) for v in found.values()])
    close = holm([p_above(v, -MARGIN) for v in found.values()])
    worse = holm([p_below(v, -MARGIN) for v in found.values()])
    lines = [
        [scene, str(len(v)), Mean.of(v).text("{:+.2f}"), f"{a:.3f}", f"{b:.3f}", f"{c:.3f}"]
        for (scene, v), a, b, c in zip(found.items(), better, close, worse, strict=True)
    ]
    means = [fmean(v) for v in found.values()]
    if means:
        count = sum(map(len, found.values()))
        lines.append(["mean of the scenes", f"{count}", Mean.of(means).text("{:+.2f}"), "", "", ""])
    columns = (
        "scene", "pairs", "difference, points", "better: p", f"less than {MARGIN:g} point worse: p",
        f"more than {MARGIN:g} point worse: p",
    )  # fmt: skip
    return Table(
        f"{label} against {base}; how likely by chance alone, one-sided, Holm over the scenes",
        columns,
        lines,
    )


def differences_table(book: Book, quick: bool) -> Table:
    """Return how far every row is above the best baseline, a column a scene."""
    base = best(book, quick)
    labels = list(rows(book, HEADLINE, quick))
    lines = [
        [
            label,
            *(shown(_differences(book, s, label, base, quick), "{:+.2f}") for s in scenes(quick)),
        ]
        for label in labels
        if label != base
    ]
    title = f"To {base}, the best baseline, in points of tail accuracy"
    return Table(title, ("method", *scenes(quick)), lines)


def _differences(book: Book, scene: str, label: str, base: str, quick: bool) -> list[float]:
    return differences(runs(book, scene, label, quick), runs(book, scene, base, quick))


# ------------------------------------------------------------------ time, steps, parts, cost


def goal_of_rounds(book: Book, quick: bool) -> float | None:
    """Return the accuracy to reach, as a share of 1: that of the tuned FedAvg's seeds."""
    found = runs(book, HEADLINE, FEDAVG, quick)
    return SHARE * fmean(map(tail, found)) / 100 if found else None


def time_table(book: Book, quick: bool) -> Table:
    """Return what it takes to come to nearly what FedAvg reaches, in the headline scene."""
    columns = (
        "method", "settings", "reached", "virtual s", "of FedAvg's time", "of its fastest's",
        "MB both ways", "updates",
    )  # fmt: skip
    goal = goal_of_rounds(book, quick)
    if goal is None:
        return Table("Time to FedAvg's accuracy: not yet", columns, [])
    known = rows(book, HEADLINE, quick)
    fast = FEDAVG_FAST if FEDAVG_FAST in known else FEDAVG
    lines = []
    for label, (_, settled) in known.items():
        records = runs(book, HEADLINE, label, quick)
        if not records:
            continue
        take = partial(_taken, records, goal)
        lines.append(
            [
                label,
                settled.text,
                f"{sum(t is not None for t in take('time_s'))} of {len(records)}",
                shown(take("time_s"), "{:,.0f}"),
                *(ratios(times_of(book, label, other, goal, quick)) for other in (FEDAVG, fast)),
                shown([None if b is None else b / MB for b in take("bytes")], "{:,.0f}"),
                shown(take("updates"), "{:,.0f}"),
            ]
        )
    title = (
        f"{HEADLINE}: to {100 * goal:.1f} %, {100 * SHARE:.0f} % of tuned FedAvg's tail accuracy"
    )
    return Table(title, columns, lines)


def _taken(records: Sequence[Record], goal: float, name: str) -> list[float | None]:
    return [column(r, goal, name) for r in records]


def times_of(book: Book, label: str, base: str, goal: float, quick: bool) -> list[float | None]:
    """Return the share of another row's virtual time to an accuracy, by seed."""
    both = pairs(runs(book, HEADLINE, label, quick), runs(book, HEADLINE, base, quick))
    return [quotient(column(a, goal, "time_s"), column(b, goal, "time_s")) for a, b in both]


def of_steps(book: Book, method: str, quick: bool) -> dict[float, list[Record]]:
    """Return the runs of each multiple of a method's tuned step."""
    multiples = sorted((*MULTIPLES, 1.0))
    found = {x: book.done(of_step(book, method, x, quick)) for x in multiples}
    return {x: records for x, records in found.items() if records}


def lost_by(book: Book, method: str, multiple: float, quick: bool) -> list[float]:
    """Return what a longer step costs, in points of tail accuracy, by seed."""
    found = of_steps(book, method, quick)
    return differences(found.get(1.0, []), found.get(multiple, []))


def steps_table(book: Book, quick: bool) -> Table:
    """Return tail accuracy by the server's step."""
    multiples = sorted((*MULTIPLES, 1.0))
    lines = []
    for method in stepping(book, quick):
        found = of_steps(book, method, quick)
        tails = [shown([tail(r) for r in found.get(x, [])]) for x in multiples]
        lost = shown(lost_by(book, method, 2.0, quick), "{:.2f}")
        lines.append([method, *tails, lost])
    columns = ("method", *(f"step x {x:g}" for x in multiples), "lost at x 2, points")
    return Table(f"{HEADLINE}: tail accuracy in % by the server's step", columns, lines)


def parts_table(book: Book, quick: bool) -> Table:
    """Return what is left without one part after the other."""
    found = {part: book.done(of_part(t, quick)) for part, t in ablation(book, quick).items()}
    whole = found.get("as tuned", [])
    lines = [
        [
            part,
            shown([tail(r) for r in records]),
            "0" if records == whole else shown(differences(records, whole), "{:+.2f}"),
            shown([swing(r) for r in records], "{:.2f}"),
            shown([worst_decile(r) for r in records]),
        ]
        for part, records in found.items()
    ]
    columns = ("what", "tail accuracy, %", "to as tuned", "swing, points", "worst decile, %")
    return Table(f"{HEADLINE}: which part of {ON_CA2FL} does the work", columns, lines)


def proxies_table(book: Book, quick: bool) -> Table:
    """Return what corrections are worth by whose inputs they look at."""
    base = runs(book, HEADLINE, best(book, quick), quick)
    lines = []
    for (method, proxy), settled in proxies(book, quick).items():
        records = book.done(of_proxy(method, settled, quick))
        lines.append(
            [
                method,
                proxy,
                shown([tail(r) for r in records]),
                shown(differences(records, base), "{:+.2f}"),
                shown([swing(r) for r in records], "{:.2f}"),
                shown([worst_decile(r) for r in records]),
            ]
        )
    columns = (
        "method", "inputs", "tail accuracy, %", "to the best baseline", "swing, points",
        "worst decile, %",
    )  # fmt: skip
    return Table(f"{HEADLINE}: whose inputs corrections look at", columns, lines)


def costs(book: Book, scene: str, label: str, quick: bool) -> list[float]:
    """Return the correction's share of the clients' training, in per cent, by seed."""
    return [100 * correction_cpu(record) for record in runs(book, scene, label, quick)]


def cost_table(book: Book, quick: bool) -> Table:
    """Return the CPU seconds of training, the server and the correction."""
    lines = []
    for scene in scenes(quick):
        for label in (m for m in METHODS if METHODS[m].sort == "corrected"):
            records = runs(book, scene, label, quick)
            if not records:
                continue
            lines.append(
                [
                    scene,
                    label,
                    shown([cpu_s(r, "clients", "train") for r in records], "{:.2f}"),
                    shown([cpu_s(r, "parameter server", LESSONS) for r in records], "{:.2f}"),
                    shown(costs(book, scene, label, quick), "{:.0f}"),
                ]
            )
    columns = (
        "scene", "method", "training, CPU s", "correction, CPU s", "correction, % of training",
    )  # fmt: skip
    return Table("What the correction costs, CPU seconds of a run in one process", columns, lines)


def tuning_table(book: Book) -> Table:
    """Return all tries, the chosen ones in bold."""
    lines = []
    for method in METHODS:
        chosen = tuned(book, method, quick=False)
        for settled in METHODS[method].tries:
            found = [book.find(c) for c in tuning(method)[settled.text]]
            score = merit(found)
            text = "-" if score is None else f"{score:.1f}"
            each = [
                "-" if r is None else "failed" if r["failed"] else f"{tail(r):.1f}" for r in found
            ]
            bold = f"**{text}**" if chosen is not None and settled.text == chosen.text else text
            lines.append([method, settled.text, bold, *each])
    columns = ("method", "settings", "mean", *(f"seed {seed}" for seed in TUNING_SEEDS))
    return Table(f"Tuning, {HEADLINE}: tail accuracy in %", columns, lines)


# ------------------------------------------------------------------ what was asked

_Check = Callable[[Book, bool], tuple[str, bool] | None]


def _wins(book: Book, quick: bool) -> tuple[str, bool] | None:
    label, base = correction(book, quick), best(book, quick)
    values = differences(runs(book, HEADLINE, label, quick), runs(book, HEADLINE, base, quick))
    if len(values) < 2:
        return None
    mean = Mean.of(values)
    return mean.text("{:+.2f}"), mean.value >= MARGIN and mean.low > 0


def _stands_longer_steps(book: Book, quick: bool) -> tuple[str, bool] | None:
    label = correction(book, quick)
    lost = lost_by(book, label, 2.0, quick)
    plain = lost_by(book, PLAIN[label], 2.0, quick)
    if not lost or not plain:
        return None
    with_it, without = fmean(lost), fmean(plain)
    return f"{with_it:.2f} against {without:.2f}", with_it <= 2.0 and without > with_it


def _loses_nowhere(book: Book, quick: bool) -> tuple[str, bool] | None:
    found = of_scenes(book, correction(book, quick), best(book, quick), quick)
    if len(found) < len(scenes(quick)):
        return None
    p = holm([p_below(v, -MARGIN) for v in found.values()])
    means = {scene: fmean(v) for scene, v in found.items()}
    least = min(means, key=means.__getitem__)
    text = f"mean {fmean(means.values()):+.2f}, least {means[least]:+.2f} ({least})"
    return text, min(p) >= 0.05 and fmean(means.values()) > 0


def _is_fast(book: Book, quick: bool) -> tuple[str, bool] | None:
    goal = goal_of_rounds(book, quick)
    if goal is None:
        return None
    values = times_of(book, correction(book, quick), FEDAVG, goal, quick)
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    mean = Mean.of_ratios(known)
    return mean.text("{:.2f}"), mean.value <= 0.6


def _is_cheap(book: Book, quick: bool) -> tuple[str, bool] | None:
    found = costs(book, HEADLINE, correction(book, quick), quick)
    return (f"{fmean(found):.0f} %", fmean(found) <= 30.0) if found else None


_CHECKS: Final[dict[str, _Check]] = {
    "headline: 1 point above the best baseline, interval above 0": _wins,
    "at twice its step it loses at most 2 points, the uncorrected one more": _stands_longer_steps,
    "no scene worse by 1 point (Holm), mean of the scenes above 0": _loses_nowhere,
    "95 % of FedAvg's tail accuracy in at most 0.6 of its virtual time": _is_fast,
    "at most 30 % of the clients' CPU seconds": _is_cheap,
}


def reach_table(book: Book, quick: bool) -> Table:
    """Return what was asked, and what was found."""
    lines = []
    for asked, check in _CHECKS.items():
        found = check(book, quick)
        text, met = ("-", "not yet") if found is None else (found[0], "yes" if found[1] else "no")
        lines.append([asked, text, met])
    title = f"{correction(book, quick)} against {best(book, quick)}: what was asked"
    return Table(title, ("asked", "found", "met"), lines)


def tables(book: Book, quick: bool) -> list[Table]:
    """Return all tables, the summary first."""
    label, base = correction(book, quick), best(book, quick)
    made = [reach_table(book, quick), differences_table(book, quick)]
    made += [scene_table(book, scene, quick) for scene in scenes(quick)]
    made += [
        tests_table(book, label, other, quick) for other in dict.fromkeys((base, PLAIN[label]))
    ]
    made += [time_table(book, quick), cost_table(book, quick)]
    if quick:
        return made
    more = (steps_table, parts_table, proxies_table)
    return [*made, *(table(book, quick) for table in more), tuning_table(book)]


# ------------------------------------------------------------------ pictures


def pictures(book: Book, quick: bool, folder: Path) -> list[Path]:
    """Draw the climb in the headline scene, the differences, and how steps bear being longer."""
    return [
        _climbs(book, quick, folder / "correction-time.svg"),
        _forest(book, quick, folder / "correction-scenes.svg"),
        _steps(book, quick, folder / "correction-steps.svg"),
    ]


def _climbs(book: Book, quick: bool, target: Path) -> Path:
    """Draw accuracy over virtual time: median and range over the seeds."""
    figure, (axis,) = panels(1, width=7.0, height=4.4)
    found = {label: runs(book, HEADLINE, label, quick) for label in rows(book, HEADLINE, quick)}
    found = {label: records for label, records in found.items() if records}
    end = max((r["curve"][-1][0] for records in found.values() for r in records), default=1_000.0)
    grid = np.geomspace(200.0, end, 160)
    lines = []
    for label, records in found.items():
        colour = METHODS[label].colour if label in METHODS else "#a0a0a0"
        tested = np.array([over(record, grid) for record in records])
        last = min(record["curve"][-1][0] for record in records)
        tested = tested[:, grid <= last]
        x = grid[grid <= last]
        axis.fill_between(
            x, tested.min(axis=0), tested.max(axis=0), color=colour, alpha=0.12, linewidth=0
        )
        median = np.median(tested, axis=0)
        lines.append(Line(label, x.tolist(), median.tolist(), colour))
    draw(axis, lines, x="virtual seconds (log)", y="test accuracy, %", log=True)
    if lines:
        frame(axis, lines, least=40.0)
    axis.set_title(f"{HEADLINE}: {SCENES[HEADLINE].about}", loc="left", fontsize=9)
    return save(figure, target)


def _forest(book: Book, quick: bool, target: Path) -> Path:
    """Draw the paired differences to the best baseline with their intervals, a line a scene."""
    figure, (axis,) = panels(1, width=7.0, height=4.0)
    label, base = correction(book, quick), best(book, quick)
    found = of_scenes(book, label, base, quick)
    colour = METHODS[label].colour
    for place, (_, values) in enumerate(found.items()):
        mean = Mean.of(values)
        axis.plot([mean.low, mean.high], [place, place], color=colour, linewidth=1.6)
        axis.plot(values, [place] * len(values), "|", color=colour, alpha=0.5, markersize=7)
        axis.plot([mean.value], [place], "o", color=colour, markersize=5)
    names = list(found)
    if found:
        mean = Mean.of([fmean(values) for values in found.values()])
        below = len(found) + 0.3
        axis.plot([mean.low, mean.high], [below, below], color="#222222", linewidth=1.6)
        axis.plot([mean.value], [below], "D", color="#222222", markersize=6)
        names.append("mean of the scenes")
    axis.set_yticks([*range(len(found)), *([len(found) + 0.3] if found else [])], names)
    axis.invert_yaxis()
    axis.axvline(0, color="#777777", linewidth=0.8)
    axis.axvline(-MARGIN, color="#777777", linewidth=0.8, linestyle="--")
    axis.set_xlabel("points of tail accuracy, 95 % interval; ticks are seeds")
    axis.set_title(f"{label} less {base}, the best baseline", loc="left", fontsize=9)
    return save(figure, target)


def _steps(book: Book, quick: bool, target: Path) -> Path:
    """Draw tail accuracy over the server's step."""
    figure, (axis,) = panels(1, width=6.0, height=4.0)
    lines = []
    for method in stepping(book, quick):
        found = of_steps(book, method, quick)
        x = list(found)
        y = [fmean(map(tail, records)) for records in found.values()]
        colour = METHODS[method].colour
        for multiple, records in found.items():
            tails = [tail(r) for r in records]
            axis.plot([multiple] * 2, [min(tails), max(tails)], color=colour, alpha=0.3)
        style = "-" if METHODS[method].sort == "corrected" else "--"
        lines.append(Line(method, x, y, colour, style, marker="o"))
    draw(axis, lines, x="server's step, as a multiple of the tuned one", y="tail accuracy, %")
    if lines:
        frame(axis, lines, least=min(min(line.y) for line in lines if line.y) - 2)
    axis.set_title(f"{HEADLINE}: how long may a step be?", loc="left", fontsize=9)
    return save(figure, target)


STUDY: Final = Study(
    name="correction",
    about=(__doc__ or "").splitlines()[0],
    plan=plan,
    tables=tables,
    pictures=pictures,
    quick="QUICK: no tuning, a seed or two, two scenes and 200 updates; this is no result.",
    note=(
        "Means (95 % interval by Student's t), by seed: differences are paired. At equal time: by "
        "the earliest end of all methods on that seed. Its tail: that of the best baseline's run "
        "on the same seed. CPU seconds depend on the machine and on what else it does."
    ),
)

if __name__ == "__main__":
    main(STUDY)
