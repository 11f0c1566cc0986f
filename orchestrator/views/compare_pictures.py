"""What do runs look like side by side?

A group has the same colour, dash and marker in every picture and in the tables, so that none has
to be told by its colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from orchestrator.views.compare_figures import LEARNED, PEOPLE, Group
from orchestrator.views.pictures import PAINT, svg
from orchestrator.views.readable import BYTES, ENERGY, TIME, Unit, unit_for

COLOURS: Final = 6  # the page's CSS variables --s1 to --s6
_DASHES: Final = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2))
_MARKERS: Final = "os^DvP"
_STAND_INS: Final = tuple(f"#0001{place:02x}" for place in range(1, COLOURS + 1))
_HALF_BAR: Final = 0.3  # versions
_APART: Final = 5.0  # a logarithmic axis where the ends of the lines lie so far apart
_MARKED: Final = 8  # markers on a line
_ROW: Final = 0.36  # inches
_BESIDE: Final = 0.2  # of a row

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Look:
    """How a group is drawn."""

    place: int

    @property
    def colour(self) -> str:
        """Return what stands for the page's variable until the SVG is written."""
        return _STAND_INS[self.place % COLOURS]

    @property
    def dash(self) -> tuple[float, ...]:
        """Return lengths of line and gap in points; a whole line has none."""
        return _DASHES[self.place // COLOURS % len(_DASHES)]

    @property
    def marker(self) -> str:
        """Return the marker's name."""
        return _MARKERS[self.place % len(_MARKERS)]

    def line(self) -> dict[str, Any]:
        """Return how its line is drawn."""
        dash = {"dashes": self.dash} if self.dash else {}
        return {"color": self.colour, "marker": self.marker, **dash}

    def key(self) -> Markup:
        """Draw it as it stands before a label in a table."""
        drawing = Drawing(figsize=(0.42, 0.16))
        axes = drawing.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.plot([0.04, 0.5, 0.96], [0.5] * 3, markevery=[1], markersize=5, **self.line())
        key = str(_paint(drawing)).replace("<svg", '<svg class="key" aria-hidden="true"', 1)
        return Markup(key)  # noqa: S704 - as above


def over_time(groups: Sequence[Group]) -> Markup:
    """Draw accuracy over virtual time."""
    return _curves(groups, "seconds", "virtual time", TIME)


def over_bytes(groups: Sequence[Group]) -> Markup:
    """Draw accuracy over the bytes of both directions."""
    return _curves(groups, "bytes", "sent up and down", BYTES)


def over_energy(groups: Sequence[Group]) -> Markup:
    """Draw accuracy over the energy of the devices."""
    return _curves(groups, "joules", "energy of the devices", ENERGY)


def band(one: Group, column: str, *, positive: bool) -> tuple[Reals, Reals, Reals, Reals]:
    """Return the accuracy of a group over what a column of the curves counts.

    Args:
        one: The group.
        column: Of `Run.curve`.
        positive: Leave out what cost nothing, for a logarithmic axis.

    Returns:
        Where, lowest, median and highest over the runs, each of shape (n,). They go as far as
        all runs do; between two evaluations a run's accuracy lies on a straight line.
    """
    curves = [run.curve[run.curve[column] > 0] if positive else run.curve for run in one.runs]
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return (np.empty(0),) * 4
    xs = [curve[column].to_numpy(float) for curve in curves]
    first, last = max(x[0] for x in xs), min(x[-1] for x in xs)
    every = np.unique(np.concatenate(xs))
    where = every[(every >= first) & (every <= last)]
    ys = [np.interp(where, x, c["accuracy"]) for x, c in zip(xs, curves, strict=True)]
    return where, np.min(ys, axis=0), np.median(ys, axis=0), np.max(ys, axis=0)


def _curves(groups: Sequence[Group], column: str, words: str, units: Sequence[Unit]) -> Markup:
    """Draw a line a group, and the range of its runs around it."""
    ends = [float(one.runs[0].curve[column].max()) for one in groups if len(one.runs[0].curve)]
    ends = [end for end in ends if end > 0] or [1.0]
    logarithmic = max(ends) / min(ends) > _APART
    scale, unit = unit_for(max(ends), units)
    drawing = Drawing(figsize=(10, 3.9), layout="constrained")
    axes = drawing.subplots()
    for place, one in enumerate(groups):
        look = Look(place)
        where, low, middle, high = band(one, column, positive=logarithmic)
        every = max(1, -(-len(where) // _MARKED))
        marks = slice(place * every // max(len(groups), 1), None, every)
        axes.plot(where / scale, middle, label=one.label, markevery=marks, **look.line())
        if len(one.runs) > 1:
            axes.fill_between(where / scale, low, high, color=look.colour, alpha=0.16)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        words = f"{words} (logarithmic)"
    else:
        axes.set_xlim(left=0)
    axes.set(xlabel=f"{words}, {unit}", ylabel="accuracy")
    drawing.legend(loc="outside right upper", handlelength=3.2)
    return _paint(drawing)


def staleness(groups: Sequence[Group]) -> Markup:
    """Draw where the middle half and nine tenths of each group's committed updates lie."""

    def draw(axes: Any, y: int, one: Group, look: Look) -> None:
        late = np.concatenate([run.staleness for run in one.runs])
        if not late.size:
            return
        low, left, middle, right, high = np.quantile(late, [0.05, 0.25, 0.5, 0.75, 0.95])
        axes.plot([low, high], [y, y], color=look.colour, linewidth=1.2)
        wide = [left - _HALF_BAR, right + _HALF_BAR]  # seen where all of them are one number
        axes.plot(wide, [y, y], color=look.colour, linewidth=8, alpha=0.55, solid_capstyle="butt")
        card = PAINT["card"]
        axes.plot(middle, y, "D", color=card, markersize=5, markeredgecolor=look.colour, zorder=3)
        axes.plot(late.mean(), y, "|", color=PAINT["ink"], markersize=11, zorder=4)

    return _rows(groups, "versions made since the client got its model", draw, whole=True)


def fairness(groups: Sequence[Group]) -> Markup:
    """Draw the accuracy of the worst tenth of the clients beside that of the whole test split."""
    final, worst = (
        next(f for f in (*LEARNED, *PEOPLE) if f.key == key) for key in ("final", "worst")
    )

    def draw(axes: Any, y: int, one: Group, look: Look) -> None:
        ends = [figure.over(one.runs) for figure in (worst, final)]
        axes.plot([end.mean for end in ends], [y, y], color=look.colour, linewidth=1.2)
        for end, face, beside in zip(ends, (look.colour, PAINT["card"]), (-1, 1), strict=True):
            edges = {"markeredgecolor": look.colour, "markeredgewidth": 1.6}
            axes.plot(end.mean, y, "o", markersize=6.5, markerfacecolor=face, zorder=3, **edges)
            reach = np.clip([end.mean - end.half, end.mean + end.half], 0, 1)
            axes.plot(reach, [y + _BESIDE * beside] * 2, color=look.colour, linewidth=3, alpha=0.4)

    return _rows(groups, "accuracy", draw, whole=False)


def _rows(
    groups: Sequence[Group],
    words: str,
    draw: Callable[[Any, int, Group, Look], None],
    *,
    whole: bool,
) -> Markup:
    """Draw a row a group, the first on top, its label at the left."""
    drawing = Drawing(figsize=(10, 0.75 + _ROW * len(groups)), layout="constrained")
    axes = drawing.subplots()
    for y, one in enumerate(groups):
        draw(axes, y, one, Look(y))
    axes.set_yticks(range(len(groups)), [one.label for one in groups])
    axes.tick_params(axis="y", length=0, labelcolor=PAINT["ink"])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlabel(words)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(left=-0.6)
    return _paint(drawing)


def _paint(drawing: Drawing) -> Markup:
    """Write a drawing as SVG in the page's colours."""
    written = str(svg(drawing))
    for place, stand_in in enumerate(_STAND_INS, start=1):
        written = written.replace(stand_in, f"var(--s{place})")
    return Markup(written)  # noqa: S704 - matplotlib has escaped the texts
