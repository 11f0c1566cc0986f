"""What does a fleet look like?

A profile has the same colour in every picture. Colours are variables of `fleet.html.j2`, so that
pictures follow light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from orchestrator.views.fleet_view import FleetView
from orchestrator.views.fleet_view_data import Data
from orchestrator.views.fleet_view_day import LOOKS
from orchestrator.views.fleet_view_tables import LINK, SPEED
from orchestrator.views.pictures import PAINT, svg
from orchestrator.views.readable import TIME, Unit, human, unit_for
from policies.types import Positions

COLOURS: Final = 10
_STAND_INS: Final = tuple(f"#0002{place:02x}" for place in range(1, COLOURS + 1))
_MARKERS: Final = "os^DvP"
BARS: Final = 60  # clients that still get a bar each
ROWS: Final = 100  # classes of a heat map
_POINTS: Final = 800  # of a line
_HEAT: Final = (0.26, 0.56, 0.82)  # seen on light and dark; its opacity is the figure
_ROW: Final = 0.36  # inches
_NAMED: Final = 20  # classes of a heat map that have room for their names
_LONGEST: Final = 24  # letters of a class's name
_NARROW: Final = 200.0  # a logarithmic axis with more ticks


def profiles(view: FleetView) -> dict[str, int]:
    """Return the place of each profile's colour."""
    names = dict.fromkeys(group.profile.name for group in view.groups)
    return {name: place for place, name in enumerate(names)}


def speed_and_link(view: FleetView) -> Markup:
    """Draw a dot a client: speed over uplink, both logarithmic, its area the examples."""
    dots = view.dots
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots()
    areas = np.full(dots.clients.size, 30.0)
    if view.data is not None and view.data.sizes.min() < view.data.sizes.max():
        areas = 12 + 110 * view.data.sizes[dots.clients] / view.data.sizes.max()
    owners = np.array([group.profile.name for group in view.groups])[dots.kinds]
    for name, place in profiles(view).items():
        mine = owners == name
        axes.scatter(
            dots.uplink[mine],
            dots.flops[mine],
            s=areas[mine],
            color=_colour(place),
            marker=_MARKERS[place % len(_MARKERS)],
            alpha=0.6,
            label=name,
        )
    _logarithmic(axes.xaxis, dots.uplink, LINK)
    _logarithmic(axes.yaxis, dots.flops, SPEED)
    axes.set(xlabel="uplink (logarithmic)", ylabel="speed (logarithmic)")
    legend: Any = figure.legend(loc="outside right upper")
    for handle in legend.legend_handles:
        handle.set(sizes=[40])
    return _paint(figure)


def all_alike(view: FleetView) -> bool:
    """Say whether all clients would be drawn in one place."""
    return bool(np.ptp(view.dots.flops) == np.ptp(view.dots.uplink) == 0)


def _logarithmic(axis: Any, values: Any, units: Sequence[Unit]) -> None:
    """Make an axis logarithmic, with room around and words at its ticks."""
    name = axis.axis_name
    getattr(axis.axes, f"set_{name}scale")("log")
    middle = np.sqrt(values.min() * values.max())
    around = max(4.0, 1.6 * np.sqrt(values.max() / values.min()))
    low, high = middle / around, middle * around
    getattr(axis.axes, f"set_{name}lim")(low, high)
    steps = (1.0, 2.0, 5.0) if high / low < _NARROW else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: human(value, units)))
    axis.set_minor_formatter(NullFormatter())


def over_the_day(view: FleetView) -> Markup:
    """Draw the share of the clients that is there over a day, a layer a profile."""
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    axes = figure.subplots()
    hours = np.linspace(0, 24, LOOKS + 1)
    floor = np.zeros(LOOKS + 1)
    owners = np.array([group.profile.name for group in view.groups])
    for name, place in profiles(view).items():
        there = view.day.there[owners == name].sum(axis=0) / view.clients
        top = floor + np.append(there, there[-1])
        axes.fill_between(
            hours, floor, top, step="post", color=_colour(place), label=name, linewidth=0
        )
        floor = top
    axes.set(xlim=(0, 24), ylim=(0, 1), xlabel="hour of the first day", ylabel="clients there")
    axes.set_xticks(range(0, 25, 3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    figure.legend(loc="outside right upper", reverse=True)
    return _paint(figure)


def by_class(data: Data) -> Markup:
    """Draw how many examples of which class clients have, or the shares of classes of many."""
    if data.whole and data.sizes.size <= BARS:
        return _bars(data)
    return _heat(data)


def _bars(data: Data) -> Markup:
    labels, order = data.labels, _frequent(data.labels)
    named = np.sort(order[: COLOURS if order.size <= COLOURS else COLOURS - 1])
    layers = [
        (_class(data, int(at)), labels[:, at], _colour(place)) for place, at in enumerate(named)
    ]
    others = np.delete(labels, named, axis=1)
    if others.size:
        layers.append((f"{others.shape[1]:,} others", others.sum(axis=1), PAINT["gone"]))
    figure = Figure(figsize=(10, 4.4 if data.named else 3.4), layout="constrained")
    axes = figure.subplots()
    places, floor = np.arange(len(labels)), np.zeros(len(labels))
    for label, heights, colour in layers:
        axes.bar(places, heights, bottom=floor, width=0.8, color=colour, label=label)
        floor += heights
    every = 1 if data.named else -(-len(labels) // 30)
    turn: dict[str, Any] = {"rotation": 90, "fontsize": 7} if data.named else {}
    axes.set_xticks(places[::every], data.names[::every], **turn)
    axes.set(xlabel="client", ylabel="training examples")
    axes.margins(x=0.01)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside right upper", reverse=True)
    return _paint(figure)


def _class(data: Data, at: int) -> str:
    """Return what a class is called."""
    if not data.class_names:
        return f"class {at}"
    name = data.class_names[at]
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1].rstrip()}…"


def _heat(data: Data) -> Markup:
    shown = np.sort(_frequent(data.labels)[:ROWS])
    labels = data.labels[:, shown]
    shares = labels / np.maximum(data.labels.sum(axis=1, keepdims=True), 1)
    main = shares.argmax(axis=1)
    shares = shares[np.lexsort((-shares.max(axis=1), main))]
    cells = np.empty((shares.shape[1], len(shares), 4))
    cells[..., :3] = _HEAT
    cells[..., 3] = shares.T
    uneven = data.sizes.min() < data.sizes.max()
    figure = Figure(figsize=(10, 5 if uneven else 3.4), layout="constrained")
    panels = figure.subplots(1 + uneven, 1, squeeze=False).ravel()
    axes = panels[0]
    axes.imshow(cells, aspect="auto", interpolation="none")
    axes.set(xlabel="clients, sorted by their most frequent class", ylabel="class")
    if data.class_names and shown.size <= _NAMED:
        axes.set_yticks(range(shown.size), [_class(data, int(at)) for at in shown])
    else:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False)
    if uneven:
        _sizes(panels[1], data)
    return _paint(figure)


def _sizes(axes: Any, data: Data) -> None:
    """Draw all clients' examples, from the least to the most."""
    shown = np.linspace(0, data.sizes.size - 1, min(_POINTS, data.sizes.size)).round()
    axes.fill_between(shown + 1, np.sort(data.sizes)[shown.astype(int)], color=PAINT["up"])
    axes.set(xlabel="all clients, sorted by examples", ylabel="training examples")
    axes.set_ylim(bottom=0)
    axes.margins(x=0)


def _frequent(labels: Positions) -> Positions:
    """Return the classes, the most frequent first."""
    order: Positions = np.argsort(-labels.sum(axis=0), kind="stable")
    return order


def assignments(view: FleetView) -> Markup:
    """Draw a row a kind: download, compute and upload, the dense one behind the least.

    Exchanges of a split model, which come between pieces of computing, are one bar behind them.
    """
    figure = Figure(figsize=(10, 0.9 + _ROW * len(view.groups)), layout="constrained")
    axes = figure.subplots()
    ends = [one.dense_total_s.median for one in view.work]
    largest = max([end for end in ends if end == end], default=1.0)  # noqa: PLR0124  # no NaN
    scale, unit = unit_for(largest, TIME)
    labels = []
    for y, (group, one) in enumerate(zip(view.groups, view.work, strict=True)):
        asked = 0.0 if one.exchanges is None else one.exchanges.exchange_s.median
        parts = [one.download_s.median, one.compute_s.median, asked, one.upload_s.median]
        down, compute, asked, up = np.nan_to_num(parts) / scale
        trained = down + compute + asked
        dense = one.dense_upload_s.median / scale
        for left, width, paint, alpha in (
            (trained, dense, "up", 0.3),
            (0.0, down, "down", 1.0),
            (down, compute, "good", 1.0),
            (down + compute, asked, "old", 1.0),
            (trained, up, "up", 1.0),
        ):
            axes.barh(y, width, left=left, height=0.6, color=PAINT[paint], alpha=alpha)
        said = f"{human(one.total_s.median, TIME)}, 95 %: {human(one.total_s.high, TIME)}"
        at = (trained + max(up, dense), y)
        place: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate("training: not known" if np.isnan(one.total_s.median) else said, at, **place)
        labels.append(group.label)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0, labelcolor=PAINT["ink"])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.margins(x=0.22)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"median, {unit}")
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    words = [("download", "down", 1.0), ("compute", "good", 1.0)]
    words += [("exchanges", "old", 1.0)] * view.split
    words += [("upload, least", "up", 1.0), ("upload, dense", "up", 0.3)]
    for word, paint, alpha in words:
        axes.barh(0, 0, color=PAINT[paint], alpha=alpha, label=word)
    figure.legend(loc="outside upper right", ncols=len(words))
    return _paint(figure)


def _colour(place: int) -> str:
    """Return what stands for the page's variable until the SVG is written."""
    return _STAND_INS[place % COLOURS]


def _paint(figure: Figure) -> Markup:
    """Write a figure as SVG in the page's colours."""
    written = str(svg(figure))
    for place, stand_in in enumerate(_STAND_INS, start=1):
        written = written.replace(stand_in, f"var(--c{place})")
    return Markup(written)  # noqa: S704 - matplotlib has escaped the texts
