"""How did each client fare?

One row a client of the fleet, asked or not, from the event log and from what is known of the
clients before a run: `clients.parquet`. docs/clients.md says what each column means.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

OUTCOMES: Final = ("accepted", "rejected", "superseded", "lost")
FILE: Final = "clients.parquet"
SENT: Final = ("dispatched", "equipped", "fetched", "replied", "tested")
"""Kinds of events with which a client is sent something."""


def ended(events: pd.DataFrame) -> pd.DataFrame:
    """Return one row an update that came to an end, with the last word on it."""
    rows = events[events["kind"].isin(["arrived", "lost", "superseded"])].copy()
    own_word = rows["kind"].where(rows["kind"] != "arrived")
    rows["outcome"] = own_word.fillna(rows["outcome"])
    rows["reason"] = rows["reason"].fillna("")
    rows = rows.astype({"client": "int64", "number": "int64"})
    rows["ended_s"] = rows["time_s"].where(rows["kind"] == "arrived")
    return rows.groupby(["client", "number"], as_index=False, sort=True).agg(
        outcome=("outcome", "last"),
        reason=("reason", "last"),
        uplink_bytes=("uplink_bytes", "max"),
        device_s=("device_s", "max"),
        energy_j=("energy_j", "max"),
        arrived_s=("ended_s", "max"),
    )


def table(events: pd.DataFrame, about: Mapping[str, Any], *, span_s: float) -> pd.DataFrame:
    """Return one row a client, by its number.

    Args:
        events: The event log.
        span_s: How long the run took, in its own time.
        about: Columns that are known without it, each of shape (clients,): `examples`,
            `memory_share`, `accuracy` and what else there is; they come first.

    Returns:
        The columns of `about`, then `asked`, the four outcomes, `committed`, `share` of all
        committed updates, `staleness` and `cycle_s` (means), `downlink_bytes`, `uplink_bytes`,
        `device_s`, `energy_j`, `busy_share` and `load`.
    """
    clients = pd.DataFrame(dict(about))
    clients.index.name = "client"
    asked = events[events["kind"] == "dispatched"].astype({"client": "int64", "number": "int64"})
    updates = ended(events).merge(
        asked[["client", "number", "time_s"]], on=["client", "number"], how="left"
    )
    updates["cycle_s"] = updates["arrived_s"] - updates["time_s"]
    taken = events[events["kind"] == "committed"]
    taken = taken.assign(client=taken["client"].astype("int64"))
    by_client = updates.groupby("client")
    tested = events[events["kind"] == "tested"]
    of_tests = tested.groupby(tested["client"].astype("Int64"))
    clients["asked"] = asked["client"].value_counts()
    outcomes = pd.crosstab(updates["client"], updates["outcome"])
    for outcome in OUTCOMES:
        clients[outcome] = outcomes.get(outcome)
    clients["committed"] = taken["client"].value_counts()
    clients["share"] = clients["committed"] / max(len(taken), 1)
    clients["staleness"] = taken.groupby("client")["staleness"].mean()
    clients["cycle_s"] = by_client["cycle_s"].mean()
    sent = events[events["kind"].isin(SENT)].astype({"client": "int64"})
    clients["downlink_bytes"] = sent.groupby("client")["downlink_bytes"].sum()
    for name in ("uplink_bytes", "device_s", "energy_j"):
        clients[name] = by_client[name].sum().add(of_tests[name].sum(), fill_value=0)
    told = events[events["kind"] == "asked"]
    questions = told.groupby(told["client"].astype("Int64"))["uplink_bytes"].sum()
    clients["uplink_bytes"] = clients["uplink_bytes"].add(questions, fill_value=0)
    counted = ["asked", *OUTCOMES, "committed", "share", "downlink_bytes"]
    counted += ["uplink_bytes", "device_s", "energy_j"]
    clients[counted] = clients[counted].astype(float).fillna(0)
    whole = ["asked", *OUTCOMES, "committed", "downlink_bytes", "uplink_bytes"]
    clients[whole] = clients[whole].astype("int64")
    clients["busy_share"] = clients["device_s"] / span_s if span_s > 0 else 0.0
    clients["load"] = clients["busy_share"] * clients["memory_share"]
    return clients


def measured(
    clients: pd.DataFrame, trained_s: pd.Series[float], scale: float, span_s: float
) -> pd.DataFrame:
    """Return the table of a run in which no modelled times pass: what training really took.

    Args:
        clients: What `table` returned.
        trained_s: Seconds on the wall that each client's updates trained.
        scale: Seconds of the run in one on the wall.
        span_s: How long the run took, in its own time.

    Returns:
        The same columns; joules are not known.
    """
    busy = (scale * trained_s).reindex(clients.index).fillna(0.0)
    share = busy / span_s if span_s > 0 else 0.0 * busy
    load = share * clients["memory_share"]
    return clients.assign(device_s=busy, energy_j=np.nan, busy_share=share, load=load)


def write(clients: pd.DataFrame, folder: Path) -> Path:
    """Write the table beside the logs."""
    target = folder / FILE
    clients.reset_index().to_parquet(target, index=False)
    return target


def figures(clients: pd.DataFrame) -> dict[str, float]:
    """Return what a summary says about the clients.

    A client without an accuracy (none was measured) counts in no figure of accuracy.
    """
    accuracy = np.sort(clients["accuracy"].dropna().to_numpy())
    worst = accuracy[: ceil(len(accuracy) / 10)]
    arrived = clients["accepted"] + clients["rejected"] + clients["superseded"]
    return {
        "mean_client_accuracy": float(accuracy.mean()) if len(accuracy) else float("nan"),
        "worst_decile_accuracy": float(worst.mean()) if len(worst) else float("nan"),
        "accuracy_spread": float(accuracy.std()) if len(accuracy) else float("nan"),
        "participation": float((clients["committed"] > 0).mean()),
        "cycle_seconds": _mean(clients["cycle_s"], arrived),
        "most_load": float(clients["load"].max()),
    }


def _mean(values: pd.Series[float], weights: pd.Series[int]) -> float:
    """Average over updates, not over clients."""
    known = values.notna() & (weights > 0)
    if not known.any():
        return float("nan")
    return float(np.average(values[known], weights=weights[known]))
