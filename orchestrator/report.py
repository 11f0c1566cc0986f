"""What does one page say about a run?

`report.html` stands alone: its pictures are inline SVG, it loads nothing, and the same run writes
the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2
import pandas as pd
import pyarrow.parquet as pq
from markupsafe import Markup

from orchestrator import pictures
from orchestrator.log import EVENTS_SCHEMA
from orchestrator.pictures import OUTCOMES, thin
from orchestrator.readable import ACCURACY, BYTES, ENERGY, TIME, Unit, count, human, plain

_ROWS: Final = 50  # of a table


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
    with pictures.style():
        parts = [
            _learning(events),
            _price(events),
            _spending(events),
            _staleness(events),
            _method(events),
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
        facts=[(name.replace("_", " "), plain(summary.get(name, "not known"))) for name in names],
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
    clients = clients.reindex(columns=list(OUTCOMES), fill_value=0)
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
        return _Tile(name, count(value) if units is None else human(value, units), note)

    def beside(words: str, key: str, units: Sequence[Unit] | None = None) -> str:
        found = tile(words, key, units)
        return f"{words} {found.value}" if found else ""

    tiles = (
        tile(
            "Final accuracy",
            "final_accuracy",
            ACCURACY,
            beside("best", "best_accuracy", ACCURACY),
        ),
        tile("Accuracy of the last tenth", "tail_accuracy", ACCURACY, "mean of evaluations"),
        tile("Worst tenth of clients", "worst_decile_accuracy", ACCURACY, "accuracy"),
        tile("Virtual time", "virtual_seconds", TIME, beside("wall", "wall_seconds", TIME)),
        tile("Versions", "versions", None),
        tile("Updates", "updates", None, beside("rejected:", "rejected_updates")),
        tile("Mean staleness", "mean_staleness", None, "versions"),
        tile("Sent up", "uplink_bytes", BYTES, beside("at best", "uplink_entropy_bytes", BYTES)),
        tile(
            "Sent down",
            "downlink_bytes",
            BYTES,
            beside("at best", "downlink_entropy_bytes", BYTES),
        ),
        tile("Energy", "energy_joules", ENERGY),
        tile("Device time wasted", "wasted_device_seconds", TIME),
        tile("Updates a second", "updates_per_second", None, "of wall time"),
        tile("Peak memory", "peak_pss_bytes", BYTES, "shared parts counted once"),
    )
    return [found for found in tiles if found]


# The sections.


def _learning(events: pd.DataFrame) -> _Part:
    """Accuracy and loss over virtual time."""
    title = "Accuracy over virtual time"
    tests = _tests(events)
    if tests.empty:
        return _Part(title, lead="The run ended before its first evaluation.")
    last, best = tests.iloc[-1], tests.iloc[int(tests["accuracy"].to_numpy().argmax())]
    rows = [
        [
            count(row["version"]),
            human(row["time_s"], TIME),
            f"{row['accuracy']:.4f}",
            "" if pd.isna(row["loss"]) else f"{row['loss']:.4f}",
            human(row["all_uplink_bytes"], BYTES),
            human(row["all_downlink_bytes"], BYTES),
        ]
        for _, row in thin(tests, _ROWS).iterrows()
    ]
    return _Part(
        title,
        lead=f"{last['accuracy']:.4f} at the end (version {count(last['version'])}), "
        f"{best['accuracy']:.4f} at best (version {count(best['version'])}, "
        f"after {human(best['time_s'], TIME)}).",
        picture=pictures.learning(tests),
        rows=_Rows(("version", "time", "accuracy", "loss", "sent up", "sent down"), rows),
        folded=f"{len(rows)} of {len(tests)} evaluations",
    )


def _price(events: pd.DataFrame) -> _Part | None:
    """Accuracy over the bytes that it cost."""
    tests = _tests(events)
    if tests.empty:
        return None
    return _Part("Accuracy over bytes", picture=pictures.price(tests))


def _spending(events: pd.DataFrame) -> _Part | None:
    """Bytes and energy over time."""
    if events.empty:
        return None
    up, down = events["all_uplink_bytes"].iloc[-1], events["all_downlink_bytes"].iloc[-1]
    return _Part(
        "Bytes and energy over time",
        lead=f"{human(up, BYTES)} up, {human(down, BYTES)} down, "
        f"{human(events['all_energy_j'].iloc[-1], ENERGY)} on the devices.",
        picture=pictures.spending(events),
    )


def _staleness(events: pd.DataFrame) -> _Part:
    """How late the updates were that became part of the model."""
    title = "Staleness"
    taken = events.loc[events["kind"] == "committed", "staleness"].dropna().astype(int)
    if taken.empty:
        return _Part(title, lead="No update became part of the model.")
    return _Part(
        title,
        lead=f"{count(len(taken))} updates were taken: median {count(taken.median())}, "
        f"mean {count(taken.mean())}, "
        f"at most {count(taken.max())} versions late.",
        picture=pictures.staleness(taken),
    )


def _method(events: pd.DataFrame) -> _Part | None:
    """The figures that the method itself is known by."""
    found = events[events["kind"] == "measured"].dropna(subset=["measure", "value"])
    if found.empty:
        return None
    table = found.pivot_table(index="version", columns="measure", values="value", aggfunc="last")
    rows = [
        [str(name).replace("_", " "), *(_figure(v) for v in (column.iloc[0], column.iloc[-1]))]
        for name, column in ((name, table[name].dropna()) for name in table.columns)
    ]
    return _Part(
        "What the method measures",
        picture=pictures.measures(table),
        rows=_Rows(("figure", "first version", "last version"), rows),
    )


def _figure(value: float) -> str:
    return count(value) if float(value).is_integer() else f"{value:.4g}"


def _people(clients: pd.DataFrame) -> _Part:
    """Who took part."""
    title = "Who took part"
    if clients.empty:
        return _Part(title, lead="No client was asked for an update.")
    gave = clients["accepted"].sort_values(ascending=False)
    tenth = max(1, round(len(gave) / 10))
    share = gave.iloc[:tenth].sum() / max(gave.sum(), 1)
    asked = "1 client was" if len(clients) == 1 else f"{count(len(clients))} clients were"
    lead = f"{asked} asked, {count((gave > 0).sum()) if gave.any() else 'none'} had an update "
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
            *(count(row[name]) for name in ("asked", *OUTCOMES)),
            human(row["device_s"], TIME),
            human(row["energy_j"], ENERGY),
            human(row["uplink_bytes"], BYTES),
            "" if pd.isna(row["staleness"]) else f"{row['staleness']:.1f}",
        ]
        for client, row in ordered.iterrows()
    ]
    columns = ("client", "asked", *OUTCOMES, "device time", "energy", "sent up", "mean staleness")
    words = (
        f"{len(rows)} clients"
        if len(rows) == len(clients)
        else (f"{len(rows)} of {len(clients)} clients, most accepted updates first")
    )
    return _Part(title, lead, pictures.people(clients), _Rows(columns, rows), folded=words)


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
            count(row["updates"]),
            f"{row['updates'] / len(updates):.1%}",
            human(row["uplink_bytes"], BYTES),
            human(row["device_s"], TIME),
            human(row["energy_j"], ENERGY),
        ]
        for _, row in groups.sort_values(["updates"], ascending=False, kind="stable").iterrows()
    ]
    under_way = int((events["kind"] == "dispatched").sum()) - len(updates)
    note = f"{count(under_way)} more were under way when the run ended." if under_way > 0 else ""
    columns = ("outcome", "reason", "updates", "share", "sent up", "device time", "energy")
    return _Part("What became of the updates", rows=_Rows(columns, rows, words=2), note=note)


def _guards(events: pd.DataFrame) -> _Part | None:
    """What the guards did."""
    fired = events[events["kind"] == "guard"]
    if fired.empty:
        return None
    rows = [
        [human(row["time_s"], TIME), str(row["detail"] or "")]
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
        [name, *(plain(value.get(key, "")) for key in keys)]
        if isinstance(value, Mapping)
        else [name, plain(value), *[""] * (len(keys) - 1)]
        for name, value in named
    ]
    columns = ("KPI", *(str(key).replace("_", " ") for key in keys or ["value"]))
    return _Part("What was asked of the run", rows=_Rows(columns, rows, words=len(columns)))


def _tests(events: pd.DataFrame) -> pd.DataFrame:
    """Return the evaluations that gave an accuracy."""
    return events[(events["kind"] == "evaluated") & events["accuracy"].notna()]


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")
