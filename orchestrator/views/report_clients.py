"""Who took part in a run, as a section of its page?"""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress
from typing import Any, Final

import pandas as pd

from orchestrator import people
from orchestrator.people import OUTCOMES
from orchestrator.views import pictures
from orchestrator.views.pages import Part, Rows, coloured
from orchestrator.views.readable import ACCURACY, BYTES, ENERGY, TIME, count, human
from policies.guards import Load

ROWS: Final = 50  # of the table


def clients(table: pd.DataFrame, load: Load) -> Part:
    """Who took part, how it fared, and whose device was worn."""
    title = "Who took part"
    if table.empty:
        return Part(title, lead="No client was asked for an update.")
    worn = table[table["load"].map(load.alarms)]
    known = table["accuracy"].dropna().sort_values(kind="stable")
    columns, rows = _client_rows(table, load)
    words = "1 client" if len(rows) == 1 else f"{len(rows)} clients"
    if len(rows) < len(table):
        words = f"{len(rows)} of {count(len(table))} clients, most accepted updates first"
    return Part(
        title,
        lead=_taken_part(table),
        picture=pictures.people(table),
        caption=_served(known),
        second=pictures.accuracies(known) if len(known) else None,
        rows=Rows(columns, rows, words=1 + ("device" in columns)),
        folded=words,
        note=_alarm(worn, load),
    )


def _taken_part(table: pd.DataFrame) -> str:
    """Say how many clients were asked, how many gave, and how evenly."""
    gave = table["accepted"].sort_values(ascending=False)
    asked = int((table["asked"] > 0).sum())
    were = "1 client was" if asked == 1 else f"{count(asked)} clients were"
    lead = f"{were} asked, {count((gave > 0).sum()) if gave.any() else 'none'} had an update "
    lead += "accepted."
    if gave.any():
        tenth = max(1, round(len(gave) / 10))
        share = gave.iloc[:tenth].sum() / gave.sum()
        busiest = "The busiest client" if tenth == 1 else f"The {count(tenth)} busiest clients"
        lead += f" {busiest} gave {share:.0%} of what was accepted."
    found = people.figures(table)
    lead += f" {found['participation']:.0%} of the clients have an update in the model."
    if not pd.isna(found["cycle_seconds"]):
        lead += f" From being asked to the update it took {human(found['cycle_seconds'], TIME)}"
        lead += " on average."
    return lead


def _served(known: pd.Series[float]) -> str:
    """Say how evenly the model serves the clients."""
    if known.empty:
        return ""
    worst = known.iloc[: pictures.worst_tenth(len(known))]
    return (
        f"The model's accuracy for each client, sorted: {known.mean():.4f} on average, "
        f"{worst.mean():.4f} for the worst tenth."
    )


def _alarm(worn: pd.DataFrame, load: Load) -> str:
    """Name those that are above the alarm."""
    if worn.empty:
        return ""
    first = worn.sort_values("load", ascending=False, kind="stable").head(10)
    named = ", ".join(
        f"{_named(client, row)} ({row['load']:.2g})" for client, row in first.iterrows()
    )
    more = f" and {count(len(worn) - 10)} more" if len(worn) > 10 else ""
    is_are = "client is" if len(worn) == 1 else "clients are"
    return coloured(
        f"Load alarm: {count(len(worn))} {is_are} above {load.most:g} (busy share x memory share): "
        f"{named}{more}.",
        "bad",
    )


def _client_rows(table: pd.DataFrame, load: Load) -> tuple[list[str], list[list[str]]]:
    """Return a row a client, the busiest if there are many."""
    shown, differ = table, len(set(table.get("batch_size", ()))) > 1
    if len(table) > ROWS:
        shown = table.sort_values("accepted", ascending=False, kind="stable").head(ROWS)

    def cells(client: object, row: pd.Series[Any]) -> list[str]:
        worn = _known(row["load"], count)
        return [
            _called(client, row),
            str(row.get("profile", "")),
            count(row["batch_size"]) if differ else "",
            *(count(row[name]) for name in ("asked", *OUTCOMES)),
            _known(row["staleness"], lambda value: f"{value:.1f}"),
            _known(row["cycle_s"], lambda value: human(value, TIME)),
            _known(row["accuracy"], lambda value: human(value, ACCURACY)),
            human(row["device_s"], TIME),
            human(row["energy_j"], ENERGY),
            human(row["uplink_bytes"], BYTES),
            coloured(worn, "bad") if load.alarms(row["load"]) else worn,
        ]

    columns = ["client", "device", "batch size", "asked", *OUTCOMES, "mean staleness", "cycle"]
    columns += ["accuracy", "device time", "energy", "sent up", "load"]
    rows = [cells(client, row) for client, row in shown.iterrows()]
    known = [any(row[place] for row in rows) for place in range(len(columns))]
    return list(compress(columns, known)), [list(compress(row, known)) for row in rows]


def _known(value: float, write: Callable[[float], str]) -> str:
    return "" if pd.isna(value) else write(value)


def _named(client: object, row: pd.Series[Any]) -> str:
    """Return what a client is called in a sentence: a number alone is no name."""
    name = str(row.get("name", client))
    return f"client {client}" if name == str(client) else name


def _called(client: object, row: pd.Series[Any]) -> str:
    name = str(row.get("name", client))
    return str(client) if name == str(client) else f"{client} {name}"
