"""What does one page say about a run?

`report.html` stands alone: its pictures are inline SVG, it loads nothing, and the same run writes
the same bytes. Colours are the page's CSS variables, so that pictures follow light and dark.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from orchestrator.log import EVENTS_SCHEMA

_BARS: Final = 60  # clients that still get a bar each
_ROWS: Final = 50  # of a table
_POINTS: Final = 800  # of a line
_OUTCOMES: Final = ("accepted", "rejected", "superseded", "lost")
_PAINT: Final = {
    name: f"#0000{place:02x}"  # stands for the page's CSS variable until the SVG is written
    for place, name in enumerate(
        ("ink", "soft", "rule", "card", "up", "down", "good", "bad", "old", "gone"), start=1
    )
}
_OUTCOME_PAINT: Final = dict(
    zip(_OUTCOMES, (_PAINT[name] for name in ("good", "bad", "old", "gone")), strict=True)
)
_STYLE: Final = {
    "svg.hashsalt": "latecomer",
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": _PAINT["ink"],
    "axes.labelcolor": _PAINT["soft"],
    "axes.edgecolor": _PAINT["rule"],
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
    "grid.color": _PAINT["rule"],
    "grid.linewidth": 0.6,
    "xtick.color": _PAINT["rule"],
    "ytick.color": _PAINT["rule"],
    "xtick.labelcolor": _PAINT["soft"],
    "ytick.labelcolor": _PAINT["soft"],
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "patch.linewidth": 0,
}

Unit = tuple[float, str]
_TIME: Final[Sequence[Unit]] = ((1, "s"), (60, "min"), (3600, "h"), (86400, "days"))
_BYTES: Final[Sequence[Unit]] = ((1, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"))
_ENERGY: Final[Sequence[Unit]] = ((1, "J"), (1e3, "kJ"), (1e6, "MJ"), (1e9, "GJ"))
_ACCURACY: Final[Sequence[Unit]] = ((1, ""),)


@dataclass(frozen=True, slots=True)
class _Rows:
    """A table, its cells written out."""

    columns: Sequence[str]
    cells: Sequence[Sequence[str]]
    words: int = 1  # so many columns in front hold words, the others numbers


@dataclass(frozen=True, slots=True)
class _Part:
    """A section of the page."""

    title: str
    lead: str = ""
    picture: Markup | None = None
    rows: _Rows | None = None
    folded: str = ""  # the table hides behind these words
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Tile:
    """A headline figure."""

    name: str
    value: str
    note: str = ""


def write_report(out: Path) -> Path:
    """Write `report.html` from what a run left in its folder.

    Args:
        out: Holds `events.parquet`, `summary.json` and `experiment.yaml`; what is missing is left
            out of the page.

    Returns:
        The page.
    """
    events = _events(out / "events.parquet")
    summary = json.loads(_text(out / "summary.json") or "{}")
    experiment = _text(out / "experiment.yaml")
    clients = _clients(events)
    with mpl.rc_context(_STYLE):
        parts = [
            _learning(events),
            _price(events),
            _spending(events),
            _staleness(events),
            _people(clients),
            _outcomes(events),
            _guards(events),
            _kpis(summary.get("kpis")),
        ]
    names = ("digest", "numerics", "mlflow_run_id")
    page = _template().render(
        title=_title(summary, experiment, out),
        tiles=_tiles(summary),
        parts=[part for part in parts if part],
        facts=[(name.replace("_", " "), _plain(summary.get(name, "not known"))) for name in names],
        experiment=experiment,
    )
    target = out / "report.html"
    partial = out / "report.tmp"
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    return target


# What the run left.


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _events(path: Path) -> pd.DataFrame:
    """Return the events in the order of time, with the bytes and energy spent so far."""
    table = pq.read_table(path) if path.exists() else EVENTS_SCHEMA.empty_table()
    events: pd.DataFrame = table.to_pandas().sort_values("time_s", kind="stable")
    for name in ("uplink_bytes", "downlink_bytes", "energy_j"):
        events[f"all_{name}"] = events[name].fillna(0).astype(float).cumsum()
    return events


def _updates(events: pd.DataFrame) -> pd.DataFrame:
    """Return one row an update that came to an end, with the last word on it."""
    ended = events[events["kind"].isin(["arrived", "lost", "superseded"])].copy()
    own_word = ended["kind"].where(ended["kind"] != "arrived")
    ended["outcome"] = own_word.fillna(ended["outcome"])
    ended["reason"] = ended["reason"].fillna("")
    ended = ended.astype({"client": "int64", "number": "int64"})
    return ended.groupby(["client", "number"], as_index=False, sort=True).agg(
        outcome=("outcome", "last"),
        reason=("reason", "last"),
        uplink_bytes=("uplink_bytes", "max"),
        device_s=("device_s", "max"),
        energy_j=("energy_j", "max"),
    )


def _clients(events: pd.DataFrame) -> pd.DataFrame:
    """Return one row a client that was ever asked."""
    updates = _updates(events)
    by_client = updates.groupby("client")
    clients = pd.crosstab(updates["client"], updates["outcome"])
    clients = clients.reindex(columns=list(_OUTCOMES), fill_value=0)
    clients["device_s"] = by_client["device_s"].sum()
    clients["energy_j"] = by_client["energy_j"].sum()
    clients["uplink_bytes"] = by_client["uplink_bytes"].sum()
    asked = events.loc[events["kind"] == "dispatched", "client"].astype("int64").value_counts()
    clients = clients.reindex(clients.index.union(asked.index)).fillna(0)
    clients["asked"] = asked.reindex(clients.index).fillna(0)
    taken = events[events["kind"] == "committed"]
    clients["staleness"] = taken.groupby("client")["staleness"].mean().reindex(clients.index)
    return clients.sort_index()


def _title(summary: Mapping[str, Any], experiment: str, out: Path) -> str:
    named = re.search(r"^name:\s*[\"']?(.+?)[\"']?\s*$", experiment, re.MULTILINE)
    return str(summary.get("name") or (named.group(1) if named else out.name) or "A run")


# The headline.


def _tiles(summary: Mapping[str, Any]) -> list[_Tile]:
    """Return the headline figures that the summary knows."""

    def tile(name: str, key: str, units: Sequence[Unit] | None, note: str = "") -> _Tile | None:
        value = summary.get(key)
        if not isinstance(value, int | float):
            return None
        return _Tile(name, _count(value) if units is None else _human(value, units), note)

    def beside(words: str, key: str, units: Sequence[Unit] | None = None) -> str:
        found = tile(words, key, units)
        return f"{words} {found.value}" if found else ""

    tiles = (
        tile(
            "Final accuracy",
            "final_accuracy",
            _ACCURACY,
            beside("best", "best_accuracy", _ACCURACY),
        ),
        tile("Accuracy of the last tenth", "tail_accuracy", _ACCURACY, "mean of evaluations"),
        tile("Worst tenth of clients", "worst_decile_accuracy", _ACCURACY, "accuracy"),
        tile("Virtual time", "virtual_seconds", _TIME, beside("wall", "wall_seconds", _TIME)),
        tile("Versions", "versions", None),
        tile("Updates", "updates", None, beside("rejected:", "rejected_updates")),
        tile("Mean staleness", "mean_staleness", None, "versions"),
        tile("Sent up", "uplink_bytes", _BYTES, beside("at best", "uplink_entropy_bytes", _BYTES)),
        tile("Sent down", "downlink_bytes", _BYTES),
        tile("Energy", "energy_joules", _ENERGY),
        tile("Device time wasted", "wasted_device_seconds", _TIME),
        tile("Updates a second", "updates_per_second", None, "of wall time"),
        tile("Peak memory", "peak_pss_bytes", _BYTES, "shared parts counted once"),
    )
    return [found for found in tiles if found]


# The sections.


def _learning(events: pd.DataFrame) -> _Part:
    """Accuracy and loss over virtual time."""
    title = "Accuracy over virtual time"
    tests = _tests(events)
    if tests.empty:
        return _Part(title, lead="The run ended before its first evaluation.")
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    scale, unit = _unit(tests["time_s"].max(), _TIME)
    times = tests["time_s"] / scale
    _line(upper, times, tests["accuracy"], "good")
    _line(lower, times, tests["loss"], "soft")
    upper.set_ylabel("accuracy")
    lower.set(ylabel="loss", xlabel=f"virtual time, {unit}")
    last, best = tests.iloc[-1], tests.iloc[int(tests["accuracy"].to_numpy().argmax())]
    rows = [
        [
            _count(row["version"]),
            _human(row["time_s"], _TIME),
            f"{row['accuracy']:.4f}",
            "" if pd.isna(row["loss"]) else f"{row['loss']:.4f}",
            _human(row["all_uplink_bytes"], _BYTES),
            _human(row["all_downlink_bytes"], _BYTES),
        ]
        for _, row in _thin(tests, _ROWS).iterrows()
    ]
    return _Part(
        title,
        lead=f"{last['accuracy']:.4f} at the end (version {_count(last['version'])}), "
        f"{best['accuracy']:.4f} at best (version {_count(best['version'])}, "
        f"after {_human(best['time_s'], _TIME)}).",
        picture=_svg(figure),
        rows=_Rows(("version", "time", "accuracy", "loss", "sent up", "sent down"), rows),
        folded=f"{len(rows)} of {len(tests)} evaluations",
    )


def _price(events: pd.DataFrame) -> _Part | None:
    """Accuracy over the bytes that it cost."""
    tests = _tests(events)
    if tests.empty:
        return None
    figure = Figure(figsize=(10, 2.7), layout="constrained")
    up, down = tests["all_uplink_bytes"], tests["all_downlink_bytes"]
    panels = (("up", up, "up"), ("down", down, "down"), ("both ways", up + down, "good"))
    all_axes = figure.subplots(1, 3, sharey=True)
    for axes, (words, spent, paint) in zip(all_axes, panels, strict=True):
        scale, unit = _unit(spent.max(), _BYTES)
        _line(axes, spent / scale, tests["accuracy"], paint)
        axes.set(xlabel=f"sent {words}, {unit}")
        axes.set_xlim(left=0)
    all_axes[0].set_ylabel("accuracy")
    return _Part("Accuracy over bytes", picture=_svg(figure))


def _spending(events: pd.DataFrame) -> _Part | None:
    """Bytes and energy over time."""
    if events.empty:
        return None
    spent = _thin(events, _POINTS)
    scale, unit = _unit(spent["time_s"].max(), _TIME)
    times = spent["time_s"] / scale
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.08})
    ways = (("down", spent["all_downlink_bytes"]), ("up", spent["all_uplink_bytes"]))
    byte_scale, byte_unit = _unit(max(values.max() for _, values in ways), _BYTES)
    for way, values in ways:
        left.plot(times, values / byte_scale, color=_PAINT[way], drawstyle="steps-post", label=way)
    left.legend(loc="best")
    left.set(xlabel=f"virtual time, {unit}", ylabel=f"sent so far, {byte_unit}")
    joules = spent["all_energy_j"]
    energy_scale, energy_unit = _unit(joules.max(), _ENERGY)
    right.plot(times, joules / energy_scale, color=_PAINT["old"], drawstyle="steps-post")
    right.set(xlabel=f"virtual time, {unit}", ylabel=f"energy so far, {energy_unit}")
    for axes in (left, right):
        axes.set_ylim(bottom=0)
    up, down = events["all_uplink_bytes"].iloc[-1], events["all_downlink_bytes"].iloc[-1]
    return _Part(
        "Bytes and energy over time",
        lead=f"{_human(up, _BYTES)} up, {_human(down, _BYTES)} down, "
        f"{_human(events['all_energy_j'].iloc[-1], _ENERGY)} on the devices.",
        picture=_svg(figure),
    )


def _staleness(events: pd.DataFrame) -> _Part:
    """How late the updates were that became part of the model."""
    title = "Staleness"
    taken = events.loc[events["kind"] == "committed", "staleness"].dropna().astype(int)
    if taken.empty:
        return _Part(title, lead="No update became part of the model.")
    step = max(1, -(-(int(taken.max()) + 1) // _BARS))
    counts = (taken // step * step).value_counts().sort_index()
    figure = Figure(figsize=(10, 2.5), layout="constrained")
    axes = figure.subplots()
    axes.bar(counts.index + (step - 1) / 2, counts, width=0.85 * step, color=_PAINT["up"])
    axes.set(xlabel="versions published since the client got its model", ylabel="updates")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")
    return _Part(
        title,
        lead=f"{_count(len(taken))} updates were taken: median {_count(taken.median())}, "
        f"mean {_count(taken.mean())}, "
        f"at most {_count(taken.max())} versions late.",
        picture=_svg(figure),
    )


def _people(clients: pd.DataFrame) -> _Part:
    """Who took part."""
    title = "Who took part"
    if clients.empty:
        return _Part(title, lead="No client was asked for an update.")
    gave = clients["accepted"].sort_values(ascending=False)
    tenth = max(1, round(len(gave) / 10))
    share = gave.iloc[:tenth].sum() / max(gave.sum(), 1)
    asked = "1 client was" if len(clients) == 1 else f"{_count(len(clients))} clients were"
    lead = f"{asked} asked, {_count((gave > 0).sum()) if gave.any() else 'none'} had an update "
    lead += "accepted."
    if gave.any():
        busiest = "The busiest client" if tenth == 1 else f"The {tenth} busiest clients"
        lead += f" {busiest} gave {share:.0%} of what was accepted."
    ordered = clients
    if len(clients) > _ROWS:
        ordered = clients.sort_values("accepted", ascending=False, kind="stable").head(_ROWS)
    rows = [
        [
            str(client),
            *(_count(row[name]) for name in ("asked", *_OUTCOMES)),
            _human(row["device_s"], _TIME),
            _human(row["energy_j"], _ENERGY),
            _human(row["uplink_bytes"], _BYTES),
            "" if pd.isna(row["staleness"]) else f"{row['staleness']:.1f}",
        ]
        for client, row in ordered.iterrows()
    ]
    columns = ("client", "asked", *_OUTCOMES, "device time", "energy", "sent up", "mean staleness")
    words = (
        f"{len(rows)} clients"
        if len(rows) == len(clients)
        else (f"{len(rows)} of {len(clients)} clients, most accepted updates first")
    )
    return _Part(title, lead, _people_picture(clients), _Rows(columns, rows), folded=words)


def _people_picture(clients: pd.DataFrame) -> Markup:
    """Draw a bar a client, or how many clients gave how many updates if there are many."""
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    axes = figure.subplots()
    if len(clients) <= _BARS:
        places = np.arange(len(clients), dtype=float)
        floor = np.zeros(len(clients), float)
        for outcome in _OUTCOMES:
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
        axes.bar(places, counts, width=0.85 * step, color=_PAINT["good"])
        axes.set(xlabel="updates accepted from one client", ylabel="clients")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="x")
    return _svg(figure)


def _outcomes(events: pd.DataFrame) -> _Part | None:
    """What became of the updates, and what it cost."""
    updates = _updates(events)
    if updates.empty:
        return None
    groups = updates.groupby(["outcome", "reason"], sort=False, as_index=False).agg(
        updates=("client", "size"),
        uplink_bytes=("uplink_bytes", "sum"),
        device_s=("device_s", "sum"),
        energy_j=("energy_j", "sum"),
    )
    rows = [
        [
            row["outcome"],
            row["reason"].replace("_", " "),
            _count(row["updates"]),
            f"{row['updates'] / len(updates):.1%}",
            _human(row["uplink_bytes"], _BYTES),
            _human(row["device_s"], _TIME),
            _human(row["energy_j"], _ENERGY),
        ]
        for _, row in groups.sort_values(["updates"], ascending=False, kind="stable").iterrows()
    ]
    under_way = int((events["kind"] == "dispatched").sum()) - len(updates)
    note = f"{_count(under_way)} more were under way when the run ended." if under_way > 0 else ""
    columns = ("outcome", "reason", "updates", "share", "sent up", "device time", "energy")
    return _Part("What became of the updates", rows=_Rows(columns, rows, words=2), note=note)


def _guards(events: pd.DataFrame) -> _Part | None:
    """What the guards did."""
    fired = events[events["kind"] == "guard"]
    if fired.empty:
        return None
    rows = [
        [_human(row["time_s"], _TIME), str(row["detail"] or "")]
        for _, row in fired.head(_ROWS).iterrows()
    ]
    note = f"{len(fired) - len(rows)} more are in events.parquet." if len(fired) > _ROWS else ""
    return _Part("What the guards did", rows=_Rows(("time", "what"), rows, words=2), note=note)


def _kpis(kpis: object) -> _Part | None:
    """What was asked of the run, and whether it kept it."""
    if not kpis:
        return None
    if isinstance(kpis, Mapping):
        named = [(str(name), value) for name, value in kpis.items()]
    elif isinstance(kpis, Sequence) and not isinstance(kpis, str):
        named = [
            (str(kpi.get("name", place)), {k: v for k, v in kpi.items() if k != "name"})
            if isinstance(kpi, Mapping)
            else (str(place), kpi)
            for place, kpi in enumerate(kpis)
        ]
    else:
        named = [("", kpis)]
    known = [value for _, value in named if isinstance(value, Mapping)]
    keys = list(dict.fromkeys(key for value in known for key in value))
    rows = [
        [name, *(_plain(value.get(key, "")) for key in keys)]
        if isinstance(value, Mapping)
        else [name, _plain(value), *[""] * (len(keys) - 1)]
        for name, value in named
    ]
    columns = ("KPI", *(str(key).replace("_", " ") for key in keys or ["value"]))
    return _Part("What was asked of the run", rows=_Rows(columns, rows, words=len(columns)))


# Pictures.


def _tests(events: pd.DataFrame) -> pd.DataFrame:
    """Return the evaluations that gave an accuracy."""
    return events[(events["kind"] == "evaluated") & events["accuracy"].notna()]


def _line(axes: Any, x: pd.Series[float], y: pd.Series[float], paint: str) -> None:
    """Draw a line that says its last value."""
    points = _thin(pd.DataFrame({"x": x, "y": y}).dropna(), _POINTS)
    marker = "o" if len(points) <= _BARS else None
    axes.plot(points["x"], points["y"], color=_PAINT[paint], marker=marker)
    axes.margins(x=0.02, y=0.12)
    if len(points):
        last = points.iloc[-1]
        place = {"xytext": (0, 5), "textcoords": "offset points", "ha": "right", "va": "bottom"}
        axes.annotate(f"{last['y']:.3f}", (last["x"], last["y"]), color=_PAINT["ink"], **place)


def _thin(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """Keep at most so many rows, evenly spread, the first and last among them."""
    if len(frame) <= most:
        return frame
    return frame.iloc[np.unique(np.linspace(0, len(frame) - 1, most).round().astype(int))]


def _svg(figure: Figure) -> Markup:
    """Write a figure as an SVG element in the page's own colours."""
    text = StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(text, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for name, stand_in in _PAINT.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return Markup(svg)  # noqa: S704 - matplotlib has escaped the texts


# Words and numbers.


def _unit(largest: float, units: Sequence[Unit]) -> Unit:
    """Return the unit in which the largest value reads best (two minutes are 120 s)."""
    roomy = 2.0 if units is _TIME else 1.0
    return max((unit for unit in units if unit[0] * roomy <= largest), default=units[0])


def _human(value: float, units: Sequence[Unit]) -> str:
    """Write a value with three significant digits in a fitting unit."""
    if math.isnan(value):
        return "-"
    if units is _ACCURACY:
        return f"{value:.4f}"
    scale, unit = _unit(abs(value), units)
    return f"{_count(value / scale)} {unit}"


def _count(value: float) -> str:
    """Write a whole number in full, another with three significant digits."""
    if math.isnan(value):
        return "-"
    if abs(value) >= 1000 or float(value).is_integer():
        return f"{value:,.0f}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:.{digits}f}"


def _plain(value: object) -> str:
    """Write a value of the summary as a person would."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _count(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(item) for item in value)
    return "-" if value is None else str(value)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")
