"""How is a result drawn so that it can be read without a legend?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import matplotlib as mpl
from cells import CURVE, Record
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

mpl.rcParams["svg.hashsalt"] = "latecomer"  # the same picture is the same file
mpl.rcParams["font.size"] = 9

COLOURS: Final = {
    "dense": "#444444",
    "top-k": "#1f77b4",
    "sparsyfed": "#d62728",
    "fedmap": "#2ca02c",
    "signs": "#9467bd",
    "sign-sgd": "#e08214",
}
"""One colour a method, in all pictures."""
MB: Final = 1e6


@dataclass(frozen=True)
class Line:
    """One line of a picture.

    Attributes:
        label: Stands at its right end.
        x: Where.
        y: What.
        colour: A name of `COLOURS`, or a colour.
        style: Of the line, as matplotlib writes it.
        marker: Of its points.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    style: str = "-"
    marker: str = ""


def mean_curve(records: Sequence[Record], column: str) -> tuple[list[float], list[float]]:
    """Return a column of the curve and the accuracy in per cent, each averaged over seeds.

    Args:
        records: Runs of one method.
        column: A name of `CURVE`, or `bytes` for both directions.
    """
    at = {name: place for place, name in enumerate(CURVE)}
    x: list[float] = []
    y: list[float] = []
    for points in zip(*(record["curve"] for record in records), strict=False):
        if column == "bytes":
            x.append(fmean(p[at["downlink_bytes"]] + p[at["uplink_bytes"]] for p in points))
        else:
            x.append(fmean(p[at[column]] for p in points))
        y.append(100 * fmean(p[at["accuracy"]] for p in points))
    return x, y


def panels(count: int, *, width: float = 4.8, height: float = 3.8) -> tuple[Figure, list[Axes]]:
    """Return a light figure with panels side by side."""
    figure = Figure(figsize=(width * count, height), layout="constrained", facecolor="white")
    axes: list[Axes] = list(figure.subplots(1, count, squeeze=False)[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(visible=True, color="#e6e6e6", linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes


def draw(axis: Axes, lines: Sequence[Line], *, x: str, y: str, log: bool = False) -> None:
    """Draw lines with their labels at their right ends, moved apart where they would overlap."""
    if log:
        axis.set_xscale("log", nonpositive="mask")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    for line in lines:
        axis.plot(
            line.x, line.y, line.style, color=_colour(line.colour), marker=line.marker or None,
            linewidth=1.6, markersize=4,
        )  # fmt: skip
    axis.set_xlabel(x)
    axis.set_ylabel(y)


def frame(axis: Axes, lines: Sequence[Line], *, least: float) -> None:
    """Cut the picture off below `least`, and write the labels into the right margin."""
    high = max((max(line.y) for line in lines if line.y), default=1.0)
    axis.set_ylim(least, high + 0.04 * (high - least))
    low, top = axis.get_ylim()
    room = 0.058 * (top - low)
    ends = [(max(line.y[-1], low), line) for line in lines if line.y]
    ends.sort(key=lambda end: end[0])
    placed: list[float] = []
    for y, _ in ends:
        placed.append(max(y, placed[-1] + room) if placed else y)
    over = max(placed[-1] - top, 0.0) if placed else 0.0
    for at, (y, line) in zip(placed, ends, strict=True):
        axis.annotate(
            line.label, (line.x[-1], y), xytext=(1.01, (at - over - low) / (top - low)),
            textcoords="axes fraction", color=_colour(line.colour), va="center", fontsize=8,
            arrowprops={"arrowstyle": "-", "color": _colour(line.colour), "alpha": 0.35,
                        "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip


def _colour(name: str) -> str:
    return COLOURS.get(name, name)


def save(figure: Figure, target: Path) -> Path:
    """Write an SVG whose bytes depend on what is drawn alone."""
    nothing: Any = None
    figure.savefig(target, format="svg", metadata={"Date": nothing})
    return target
