"""What does each section of a run's page say?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pandas as pd

from orchestrator import people
from orchestrator.kpis import FIGURES
from orchestrator.views import pictures
from orchestrator.views.pages import Part, Rows, coloured
from orchestrator.views.pictures import thin
from orchestrator.views.readable import BYTES, ENERGY, TIME, count, human
from policies.units import DURATION, SIZE

ROWS: Final = 50  # of a table


def learning(events: pd.DataFrame) -> Part:
    """Accuracy and loss over virtual time."""
    title = "Accuracy over virtual time"
    tests = _tests(events)
    if tests.empty:
        return Part(title, lead="The run ended before its first evaluation.")
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
        for _, row in thin(tests, ROWS).iterrows()
    ]
    return Part(
        title,
        lead=f"{last['accuracy']:.4f} at the end (version {count(last['version'])}), "
        f"{best['accuracy']:.4f} at best (version {count(best['version'])}, "
        f"after {human(best['time_s'], TIME)}).",
        picture=pictures.learning(tests),
        rows=Rows(("version", "time", "accuracy", "loss", "sent up", "sent down"), rows),
        folded=f"{len(rows)} of {len(tests)} evaluations",
    )


def price(events: pd.DataFrame) -> Part | None:
    """Accuracy over the bytes that it cost."""
    tests = _tests(events)
    if tests.empty:
        return None
    return Part("Accuracy over bytes", picture=pictures.price(tests))


def spending(events: pd.DataFrame) -> Part | None:
    """Bytes and energy over time."""
    if events.empty:
        return None
    up, down = events["all_uplink_bytes"].iloc[-1], events["all_downlink_bytes"].iloc[-1]
    return Part(
        "Bytes and energy over time",
        lead=f"{human(up, BYTES)} up, {human(down, BYTES)} down, "
        f"{human(events['all_energy_j'].iloc[-1], ENERGY)} on the devices.",
        picture=pictures.spending(events),
    )


def staleness(events: pd.DataFrame) -> Part:
    """How late the updates were that became part of the model."""
    title = "Staleness"
    taken = events.loc[events["kind"] == "committed", "staleness"].dropna().astype(int)
    if taken.empty:
        return Part(title, lead="No update became part of the model.")
    return Part(
        title,
        lead=f"{_were(len(taken))} taken: median {count(taken.median())}, "
        f"mean {count(taken.mean())}, at most {_versions(int(taken.max()))} late.",
        picture=pictures.staleness(taken),
    )


def _were(updates: int) -> str:
    return "1 update was" if updates == 1 else f"{count(updates)} updates were"


def _versions(number: int) -> str:
    return "1 version" if number == 1 else f"{count(number)} versions"


def method(events: pd.DataFrame) -> Part | None:
    """The figures that the method itself is known by."""
    found = events[events["kind"] == "measured"].dropna(subset=["measure", "value"])
    if found.empty:
        return None
    table = found.pivot_table(index="version", columns="measure", values="value", aggfunc="last")
    rows = [
        [str(name).replace("_", " "), *(_figure(v) for v in (column.iloc[0], column.iloc[-1]))]
        for name, column in ((name, table[name].dropna()) for name in table.columns)
    ]
    return Part(
        "What the method measures",
        picture=pictures.measures(table),
        rows=Rows(("figure", "first version", "last version"), rows),
    )


def _figure(value: float) -> str:
    return count(value) if float(value).is_integer() else f"{value:.4g}"


_HOPS: Final = (
    ("versions", "dispatched", "downlink_bytes"),
    ("the encoder's part that runs on devices, once", "equipped", "downlink_bytes"),
    ("activations and answers, up", "asked", "uplink_bytes"),
    ("features and gradients, down", "replied", "downlink_bytes"),
    ("updates, up", "arrived", "uplink_bytes"),
)
"""What crosses the network where an encoder computes part of the model."""


def hops(events: pd.DataFrame) -> Part | None:
    """What clients and the encoder have sent each other."""
    passes = events[events["kind"] == "served"]
    if passes.empty:
        return None
    committed = max(int((events["kind"] == "committed").sum()), 1)
    rows = []
    for what, kind, column in _HOPS:
        sent = events.loc[events["kind"] == kind, column].fillna(0)
        if len(sent):
            each = human(sent.sum() / committed, BYTES)
            rows.append([what, count(len(sent)), human(sent.sum(), BYTES), each])
    learnt = int((passes["hash"].fillna("") != "").sum())
    return Part(
        "What the encoder did",
        lead=f"{count(len(passes))} passes over {passes['examples'].mean():.3g} examples each on "
        f"average, {count(learnt)} of which it learnt from.",
        rows=Rows(("hop", "messages", "in all", "an update in the model"), rows),
    )


def outcomes(events: pd.DataFrame) -> Part | None:
    """What became of the updates, and what it cost."""
    updates = people.ended(events)
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
    return Part("What became of the updates", rows=Rows(columns, rows, words=2), note=note)


def guards(events: pd.DataFrame) -> Part | None:
    """What the guards did."""
    fired = events[events["kind"] == "guard"]
    if fired.empty:
        return None
    rows = [
        [human(row["time_s"], TIME), str(row["detail"] or "")]
        for _, row in fired.head(ROWS).iterrows()
    ]
    note = f"{len(fired) - len(rows)} more are in events.parquet." if len(fired) > ROWS else ""
    return Part("What the guards did", rows=Rows(("time", "what"), rows, words=2), note=note)


def kpis(found: object) -> Part | None:
    """What was asked of the run, and whether it kept it."""
    if not isinstance(found, Mapping) or not found:
        return None
    verdicts = {str(name): kpi for name, kpi in found.items() if isinstance(kpi, Mapping)}
    rows = [
        [
            name.replace("_", " "),
            FIGURES[name].meaning if name in FIGURES else "",
            str(kpi.get("asked", "")),
            _valued(name, kpi.get("value")),
            _verdict(kpi.get("met")),
        ]
        for name, kpi in verdicts.items()
    ]
    met = sum(kpi.get("met") is True for kpi in verdicts.values())
    return Part(
        "What was asked of the run",
        lead=f"{met} of {len(rows)} met.",
        rows=Rows(("KPI", "meaning", "asked", "came out", "verdict"), rows, words=2),
    )


def _verdict(met: object) -> str:
    """Return a KPI's verdict in its colour."""
    if met is True:
        return coloured("met", "good")
    return coloured("missed", "bad") if met is False else coloured("not known", "gone")


def _valued(name: str, value: object) -> str:
    """Write a figure in the unit of its kind."""
    if not isinstance(value, int | float):
        return "-"
    dimension = FIGURES[name].dimension if name in FIGURES else None
    units = {id(DURATION): TIME, id(SIZE): BYTES}.get(id(dimension))
    return human(value, units) if units else f"{value:.4g}"


def _tests(events: pd.DataFrame) -> pd.DataFrame:
    """Return the evaluations that gave an accuracy."""
    return events[(events["kind"] == "evaluated") & events["accuracy"].notna()]
