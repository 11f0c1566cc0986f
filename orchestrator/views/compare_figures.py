"""Which figures are compared, over which runs, and how sure are they?

Runs of one experiment that differ in their seed alone are one group: its figures are means with a
95 % interval of Student's t over the seeds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Final, Literal

from orchestrator.views.compare_runs import Run
from orchestrator.views.readable import (
    ACCURACY,
    BYTES,
    ENERGY,
    SHARE,
    TIME,
    Unit,
    count,
    human,
    unit_for,
)
from policies.types import ExperimentError

CONFIDENCE: Final = 0.95
TARGET_SHARE: Final = 0.95
"""The target where none is given: so much of the best tail accuracy."""
_LABEL: Final = 44
_APART: Final = ("tracking.", "checkpoint.")
"""Sections that change nothing in a run."""
_TAGS: Final = ("kind", "source")
"""Settings that say which others there are."""
_PLAIN: Final[Sequence[Unit]] = ((1, ""),)


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the runs of a group.

    Attributes:
        mean: Over the runs that have the figure; NaN if none has.
        half: Half the width of the interval around it; NaN for fewer than two runs.
        runs: How many have it.
        of: How many runs there are.
    """

    mean: float
    half: float
    runs: int
    of: int


def spread(values: Sequence[float]) -> Spread:
    """Return the mean and its 95 % interval; NaN is no value.

    Source:
        mean +- t(0.975, n - 1) s / sqrt(n), for figures that are normal over seeds.
    """
    known = [value for value in values if not math.isnan(value)]
    mean = fmean(known) if known else math.nan
    half = math.nan
    if len(known) > 1:
        half = student(len(known) - 1) * stdev(known) / math.sqrt(len(known))
    return Spread(mean, half, len(known), len(values))


@cache
def student(freedom: int) -> float:
    """Return how many standard errors the 95 % interval reaches to either side.

    Args:
        freedom: Degrees of freedom, >= 1.

    Source:
        Abramowitz & Stegun 26.7.3 and 26.7.4, solved by halving.
    """
    low, high = 0.0, 16.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < CONFIDENCE else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """Return the probability that Student's t lies in [-t, t]."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


# ------------------------------------------------------------------ groups


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        label: What the group is called; no two have the same.
        runs: At least one, in the order of their seeds.
        differs: The settings in which it differs from other groups, by dotted name.
    """

    label: str
    runs: Sequence[Run]
    differs: Mapping[str, str]


def group(runs: Sequence[Run]) -> list[Group]:
    """Put runs that differ in their seed alone together, in the order of their first run."""
    found: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        found.setdefault(tuple(sorted(_compared(run).items())), []).append(run)
    members = [sorted(some, key=lambda run: (_seed(run), run.name)) for some in found.values()]
    differs = _differing([_compared(some[0]) for some in members])
    if len({tuple(map(_seed, some)) for some in members}) > 1:
        for some, own in zip(members, differs, strict=True):
            own["seed"] = ", ".join(str(_seed(run)) for run in some)
    labels = _labels(members, differs)
    return [Group(*parts) for parts in zip(labels, members, differs, strict=True)]


def _seed(run: Run) -> int:
    text = run.settings.get("seed", "0")
    return int(text) if text.isdecimal() else 0


def _compared(run: Run) -> dict[str, str]:
    return {k: v for k, v in run.settings.items() if k != "seed" and not k.startswith(_APART)}


def _differing(settings: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return of each what not all have alike; the experiment's name is no setting.

    Where kinds differ, what belongs to one kind alone is left out unless its values differ, too.
    """
    names = dict.fromkeys(name for some in settings for name in some if name != "name")
    values = {name: {some[name] for some in settings if name in some} for name in names}
    tags = {name for name in names if name.rpartition(".")[2] in _TAGS and len(values[name]) > 1}
    shown = []
    for name in names:
        lacking = any(name not in some for some in settings)
        above = name.rpartition(".")[0]
        explained = any(f"{above}.{tag}" in tags for tag in _TAGS)
        if len(values[name]) > 1 or (lacking and not explained):
            shown.append(name)
    return [{name: some[name] for name in shown if name in some} for some in settings]


def _labels(members: Sequence[Sequence[Run]], differs: Sequence[Mapping[str, str]]) -> list[str]:
    """Name each group by its experiment, and by what it has that is not usual for that name."""
    names = [some[0].experiment for some in members]
    labels: list[str] = []
    for name, own in zip(names, differs, strict=True):
        alike = [other for other, called in zip(differs, names, strict=True) if called == name]
        said = [
            _short(key, own[key]) for key in own if key != "seed" and not _usual(key, own, alike)
        ]
        label = f"{name}: {', '.join(said)}" if said and len(alike) > 1 else name
        label = label if len(label) <= _LABEL else label[: _LABEL - 1].rstrip(" ,:") + "…"
        earlier = sum(known == label or known.startswith(f"{label} #") for known in labels)
        labels.append(f"{label} #{earlier + 1}" if earlier else label)
    return labels


def _usual(key: str, own: Mapping[str, str], alike: Sequence[Mapping[str, str]]) -> bool:
    """Say whether more groups have this value of a setting than have any other one."""
    counts = Counter(other.get(key) for other in alike)
    mine = counts.pop(own[key])
    return mine > max(counts.values(), default=0)


def _short(name: str, value: str) -> str:
    last = name.rpartition(".")[2]
    return value if last == "kind" else f"{last} {value}"


# ------------------------------------------------------------------ figures


@dataclass(frozen=True, slots=True)
class Figure:
    """What is compared.

    Attributes:
        key: For `--sort`.
        title: Of its column.
        units: How it is written.
        of: Takes a run; NaN if the run has no such figure.
        best: Which end comes first.
    """

    key: str
    title: str
    units: Sequence[Unit]
    of: Callable[[Run], float]
    best: Literal["high", "low"] = "low"

    def over(self, runs: Sequence[Run]) -> Spread:
        """Return it over the runs of a group."""
        return spread([self.of(run) for run in runs])


def _number(
    key: str, name: str, title: str, units: Sequence[Unit], best: Literal["high", "low"] = "low"
) -> Figure:
    return Figure(key, title, units, lambda run: run.numbers[name], best)


def _met(kpis: Mapping[str, bool | None]) -> float:
    """Return the share of the KPIs that are met; what is not known is not."""
    return fmean(met is True for met in kpis.values()) if kpis else math.nan


LEARNED: Final = (
    _number("final", "final_accuracy", "final", ACCURACY, "high"),
    _number("tail", "tail_accuracy", "last tenth", ACCURACY, "high"),
    _number("best", "best_accuracy", "best", ACCURACY, "high"),
)
PEOPLE: Final = (
    _number("mean", "mean_client_accuracy", "mean of clients", ACCURACY, "high"),
    _number("worst", "worst_decile_accuracy", "worst tenth", ACCURACY, "high"),
    _number("spread", "accuracy_spread", "spread", ACCURACY),
    _number("participation", "participation", "participation", SHARE, "high"),
    _number("cycle", "cycle_seconds", "cycle", TIME),
    _number("load", "most_load", "most load", _PLAIN),
    _number("swing", "accuracy_swing", "swing", ACCURACY),
    Figure("kpis", "KPIs met", SHARE, lambda run: _met(run.kpis), "high"),
)
TIMED: Final = (
    _number("versions", "versions", "versions", _PLAIN),
    _number("updates", "updates", "updates", _PLAIN),
    _number("staleness", "mean_staleness", "mean staleness", _PLAIN),
    _number("time", "virtual_seconds", "virtual time", TIME),
)
SPENT: Final = (
    _number("up", "uplink_bytes", "sent up", BYTES),
    _number("down", "downlink_bytes", "sent down", BYTES),
    _number("energy", "energy_joules", "energy", ENERGY),
    _number("wasted", "wasted_device_seconds", "wasted device time", TIME),
)


def reaching(accuracy: float) -> tuple[Figure, ...]:
    """Return the figures of reaching an accuracy; NaN for a run that never does."""

    def reach(column: str) -> Callable[[Run], float]:
        return lambda run: run.reach(accuracy)[column]

    return (
        Figure("target-time", "virtual time", TIME, reach("seconds")),
        Figure("target-bytes", "bytes both ways", BYTES, reach("bytes")),
        Figure("target-energy", "energy", ENERGY, reach("joules")),
    )


def usual_target(runs: Sequence[Run]) -> float:
    """Return 95 % of the best tail accuracy among the runs.

    Raises:
        ExperimentError: If no run has an accuracy.
    """
    known = [run.numbers["tail_accuracy"] for run in runs]
    known = [value for value in known if not math.isnan(value)]
    if not known:
        raise ExperimentError("none of the runs has an accuracy; there is nothing to compare.")
    return TARGET_SHARE * max(known)


def kpis_met(runs: Sequence[Run]) -> str:
    """Write how many KPIs are met, over all runs of a group."""
    verdicts = [met for run in runs for met in run.kpis.values()]
    return f"{verdicts.count(True)} of {len(verdicts)}" if verdicts else "-"


def kpis_missed(one: Group) -> str:
    """Name the KPIs that some run of a group missed; empty if none did."""
    counts = Counter(name for run in one.runs for name, met in run.kpis.items() if met is False)
    of = len(one.runs)
    named = [name if often == of else f"{name} ({often} of {of})" for name, often in counts.items()]
    return f"{one.label} missed {', '.join(named)}." if named else ""


def ranked(groups: Sequence[Group], figure: Figure) -> list[Group]:
    """Return the groups, best first; those without the figure last."""
    sign = -1 if figure.best == "high" else 1

    def place(one: Group) -> tuple[bool, float]:
        mean = figure.over(one.runs).mean
        return math.isnan(mean), 0.0 if math.isnan(mean) else sign * mean

    return sorted(groups, key=place)


def written(value: Spread, units: Sequence[Unit], *, lacking: str = "-") -> str:
    """Write a figure with its interval, and how many runs have it if not all do."""
    if math.isnan(value.mean):
        return lacking
    some = f" ({value.runs} of {value.of})" if value.runs < value.of else ""
    if math.isnan(value.half) or value.half == 0:
        return human(value.mean, units).rstrip() + some
    if units is ACCURACY:
        return f"{value.mean:.4f} ± {value.half:.4f}{some}"
    scale, unit = unit_for(abs(value.mean), units)
    half = f"± {_half(value.half / scale)} {unit}".rstrip()
    return f"{count(value.mean / scale)} {half}{some}"


def _half(value: float) -> str:
    """Write half an interval, above 0, with two digits."""
    return f"{value:,.{max(0, 1 - math.floor(math.log10(value)))}f}"
