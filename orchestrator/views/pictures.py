"""What does a run look like?

Inline SVG, the same bytes for the same run. Colours are the page's CSS variables, so that pictures
follow light and dark.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from io import StringIO
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from orchestrator.people import OUTCOMES
from orchestrator.views.readable import BYTES, ENERGY, TIME, unit_for

_BARS: Final = 60  # clients that still get a bar each
_POINTS: Final = 800  # of a line
PAINT: Final = {
    name: f"#0000{place:02x}"  # stands for the page's CSS variable until the SVG is written
    for place, name in enumerate(
        ("ink", "soft", "rule", "card", "up", "down", "good", "bad", "old", "gone"), start=1
    )
}
_OUTCOME_PAINT: Final = dict(
    zip(OUTCOMES, (PAINT[name] for name in ("good", "bad", "old", "gone")), strict=True)
)
_STYLE: Final = {
    "svg.hashsalt": "latecomer",
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": PAINT["ink"],
    "axes.labelcolor": PAINT["soft"],
    "axes.edgecolor": PAINT["rule"],
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "grid.color": PAINT["rule"],
    "grid.linewidth": 0.6,
    "xtick.color": PAINT["rule"],
    "ytick.color": PAINT["rule"],
    "xtick.labelcolor": PAINT["soft"],
    "ytick.labelcolor": PAINT["soft"],
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "patch.linewidth": 0,
}


def style() -> AbstractContextManager[None]:
    """Return the context in which pictures are drawn."""
    return mpl.rc_context(_STYLE)


def learning(tests: pd.DataFrame) -> Markup:
    """Draw accuracy and loss over virtual time."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    scale, unit = unit_for(tests["time_s"].max(), TIME)
    times = tests["time_s"] / scale
    _line(upper, times, tests["accuracy"], "good")
    _line(lower, times, tests["loss"], "soft")
    upper.set_ylabel("accuracy")
    lower.set(ylabel="loss", xlabel=f"virtual time, {unit}")
    return svg(figure)


def price(tests: pd.DataFrame) -> Markup:
    """Draw accuracy over the bytes that it cost."""
    figure = Figure(figsize=(10, 2.7), layout="constrained")
    up, down = tests["all_uplink_bytes"], tests["all_downlink_bytes"]
    panels = (("up", up, "up"), ("down", down, "down"), ("both ways", up + down, "good"))
    all_axes = figure.subplots(1, 3, sharey=True, gridspec_kw={"wspace": 0.05})
    for axes, (words, spent, paint) in zip(all_axes, panels, strict=True):
        scale, unit = unit_for(spent.max(), BYTES)
        _line(axes, spent / scale, tests["accuracy"], paint)
        axes.set(xlabel=f"sent {words}, {unit}")
        axes.set_xlim(left=0)
    all_axes[0].set_ylabel("accuracy")
    return svg(figure)


def spending(events: pd.DataFrame) -> Markup:
    """Draw bytes and energy over time."""
    spent = thin(events, _POINTS)
    scale, unit = unit_for(spent["time_s"].max(), TIME)
    times = spent["time_s"] / scale
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.08})
    ways = (("down", spent["all_downlink_bytes"]), ("up", spent["all_uplink_bytes"]))
    byte_scale, byte_unit = unit_for(max(values.max() for _, values in ways), BYTES)
    for way, values in ways:
        left.plot(times, values / byte_scale, color=PAINT[way], drawstyle="steps-post", label=way)
    left.legend(loc="best")
    left.set(xlabel=f"virtual time, {unit}", ylabel=f"sent so far, {byte_unit}")
    joules = spent["all_energy_j"]
    energy_scale, energy_unit = unit_for(joules.max(), ENERGY)
    right.plot(times, joules / energy_scale, color=PAINT["old"], drawstyle="steps-post")
    right.set(xlabel=f"virtual time, {unit}", ylabel=f"energy so far, {energy_unit}")
    for axes in (left, right):
        axes.set_ylim(bottom=0)
    return svg(figure)


def staleness(taken: pd.Series[int]) -> Markup:
    """Draw how many updates were how late."""
    step = max(1, -(-(int(taken.max()) + 1) // _BARS))
    counts = (taken // step * step).value_counts().sort_index()
    figure = Figure(figsize=(10, 2.5), layout="constrained")
    axes = figure.subplots()
    axes.bar(counts.index + (step - 1) / 2, counts, width=0.85 * step, color=PAINT["up"])
    axes.set(xlabel="versions published since the client got its model", ylabel="updates")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")
    return svg(figure)


def measures(table: pd.DataFrame) -> Markup:
    """Draw each figure of the method over versions, one column of `table` a panel."""
    columns = min(3, len(table.columns))
    rows = -(-len(table.columns) // columns)
    figure = Figure(figsize=(10, 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    versions = pd.Series(table.index.to_numpy(float), index=table.index)
    for axes, name in zip(panels, table.columns, strict=False):
        _line(axes, versions, table[name], "up")
        axes.set_title(str(name).replace("_", " "))
        axes.set(xlabel="version")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels[len(table.columns) :]:
        axes.set_axis_off()
    return svg(figure)


def people(clients: pd.DataFrame) -> Markup:
    """Draw a bar a client, or how many clients gave how many updates if there are many."""
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    axes = figure.subplots()
    if len(clients) <= _BARS:
        places = np.arange(len(clients), dtype=float)
        floor = np.zeros(len(clients), float)
        for outcome in OUTCOMES:
            heights = clients[outcome].to_numpy(float)
            if heights.any():
                paint = _OUTCOME_PAINT[outcome]
                axes.bar(places, heights, bottom=floor, width=0.8, color=paint, label=outcome)
            floor += heights
        every = -(-len(clients) // 30)
        axes.set_xticks(places[::every], [str(client) for client in clients.index[::every]])
        axes.set(xlabel="client", ylabel="updates")
        if floor.any():
            figure.legend(loc="outside upper right", ncols=4)
    else:
        gave = clients["accepted"].astype(int)
        step = max(1, -(-(int(gave.max()) + 1) // _BARS))
        counts = (gave // step * step).value_counts().sort_index()
        places = counts.index.to_numpy() + (step - 1) / 2
        axes.bar(places, counts, width=0.85 * step, color=PAINT["good"])
        axes.set(xlabel="updates accepted from one client", ylabel="clients")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")
    return svg(figure)


def accuracies(known: pd.Series[float]) -> Markup:
    """Draw the clients' accuracies from the worst to the best, the worst tenth in its own colour.

    Args:
        known: Sorted, one a client.
    """
    figure = Figure(figsize=(10, 2.5), layout="constrained")
    axes = figure.subplots()
    worst = worst_tenth(len(known))
    places = np.arange(1, len(known) + 1, dtype=float)
    paints = (("the worst tenth", "bad", slice(0, worst)), ("", "up", slice(worst, None)))
    for label, paint, part in paints:
        if len(known) <= _BARS:
            axes.bar(places[part], known.iloc[part], color=PAINT[paint], label=label or None)
            continue
        shown = thin(pd.DataFrame({"x": places[part], "y": known.iloc[part]}), _POINTS)
        axes.fill_between(shown["x"], shown["y"], color=PAINT[paint], label=label or None)
    axes.axhline(float(known.mean()), color=PAINT["ink"], linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set(xlabel="clients, sorted", ylabel="accuracy", ylim=(0, 1))
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside upper right")
    return svg(figure)


def usage(spent: pd.DataFrame) -> Markup:
    """Draw a bar a process, cut into what its CPU seconds went into.

    Args:
        spent: CPU seconds, a row a process, a column a sort of work.
    """
    paints = ("good", "up", "down", "old", "soft", "bad", "rule")
    figure = Figure(figsize=(10, 0.9 + 0.42 * len(spent)), layout="constrained")
    axes = figure.subplots()
    scale, unit = unit_for(spent.sum(axis=1).max(), TIME)
    places = np.arange(len(spent), dtype=float)[::-1]
    begin = np.zeros(len(spent))
    for paint, (sort, seconds) in zip(paints, spent.items(), strict=False):
        axes.barh(places, seconds / scale, left=begin, height=0.7, color=PAINT[paint], label=sort)
        begin += seconds.to_numpy() / scale
    axes.set_yticks(places, list(spent.index))
    axes.set(xlabel=f"CPU time, {unit}")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper right", ncols=4)
    return svg(figure)


def worst_tenth(clients: int) -> int:
    """Return how many clients the worst-served tenth are, at least one."""
    return -(-clients // 10)


def _line(axes: Any, x: pd.Series[float], y: pd.Series[float], paint: str) -> None:
    """Draw a line that says its last value."""
    points = thin(pd.DataFrame({"x": x, "y": y}).dropna(), _POINTS)
    marker = "o" if len(points) <= _BARS else None
    axes.plot(points["x"], points["y"], color=PAINT[paint], marker=marker)
    axes.margins(x=0.02, y=0.12)
    if len(points):
        last = points.iloc[-1]
        place = {"xytext": (0, 5), "textcoords": "offset points", "ha": "right", "va": "bottom"}
        axes.annotate(f"{last['y']:.3f}", (last["x"], last["y"]), color=PAINT["ink"], **place)


def thin(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """Keep at most so many rows, evenly spread, the first and last among them."""
    if len(frame) <= most:
        return frame
    return frame.iloc[np.unique(np.linspace(0, len(frame) - 1, most).round().astype(int))]


def svg(figure: Figure) -> Markup:
    """Write a figure as an SVG element in the page's own colours."""
    text = StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(text, metadata=nothing)
    written = text.getvalue()
    written = written[written.index("<svg") :]
    written = re.sub(r"<metadata>.*?</metadata>", "", written, flags=re.DOTALL)
    written = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", written, count=1)
    written = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", written, count=1)
    for name, stand_in in PAINT.items():
        written = written.replace(stand_in, f"var(--{name})")
    return Markup(written)  # noqa: S704 - matplotlib has escaped the texts
