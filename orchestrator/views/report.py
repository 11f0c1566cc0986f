"""What does one page say about a run?

`report.html` stands alone: its pictures are inline SVG, it loads nothing, and the same run writes
the same bytes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from orchestrator import people
from orchestrator.log import EVENTS_SCHEMA, ON_BACKHAULS, OPS_SCHEMA
from orchestrator.views import pictures
from orchestrator.views import report_parts as parts
from orchestrator.views.pages import Tile, render
from orchestrator.views.readable import (
    ACCURACY,
    BYTES,
    ENERGY,
    SHARE,
    TIME,
    Unit,
    count,
    human,
    plain,
)
from orchestrator.views.report_clients import clients as who_took_part
from orchestrator.views.report_usage import where_time_went
from orchestrator.yaml_source import NotYamlError, read_yaml
from policies.guards import Load

_UNUSUAL: Final = ("correction", "pruning")  # parts of a method that many do without


def write_report(out: Path) -> Path:
    """Write `report.html` from what a run left in its folder.

    Args:
        out: Holds the logs, `summary.json` and `experiment.yaml`; what is missing is left out of
            the page.

    Returns:
        The page.
    """
    events = _events(out / "events.parquet")
    summary = json.loads(_text(out / "summary.json") or "{}")
    experiment = _text(out / "experiment.yaml")
    settings = _settings(experiment)
    clients = _clients(out, events)
    with pictures.style():
        sections = [
            parts.kpis(summary.get("kpis")),
            parts.learning(events),
            parts.price(events),
            parts.spending(events),
            parts.staleness(events),
            parts.method(events),
            parts.hops(events),
            who_took_part(clients, _load(settings)),
            parts.outcomes(events),
            parts.guards(events),
            where_time_went(_used(out / "ops.parquet"), summary),
        ]
    names = ("digest", "numerics", "mlflow_run_id", *(["weights"] * bool(summary.get("weights"))))
    page = render(
        "report.html.j2",
        title=_title(summary, experiment, out),
        about=_about(settings),
        tiles=_tiles(summary),
        parts=[part for part in sections if part],
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
    clients = ~events["kind"].isin(ON_BACKHAULS)
    for name in ("uplink_bytes", "downlink_bytes", "energy_j"):
        events[f"all_{name}"] = events[name].where(clients).fillna(0).astype(float).cumsum()
    return events


def _clients(out: Path, events: pd.DataFrame) -> pd.DataFrame:
    """Return one row a client, or, of a run that left no table, a row a client that was asked."""
    file = out / people.FILE
    if file.exists():
        return pd.read_parquet(file).set_index("client")
    asked = events.loc[events["kind"] == "dispatched", "client"]
    unknown = np.full(0 if asked.empty else int(asked.max()) + 1, np.nan)
    about = {"memory_share": unknown, "accuracy": unknown}
    found = people.table(events, about, span_s=float(events["time_s"].max()))
    return found[found["asked"] > 0]


def _used(path: Path) -> pd.DataFrame:
    """Return what the processes' time went into; no rows of a run without `--profile`."""
    table = pq.read_table(path) if path.exists() else OPS_SCHEMA.empty_table()
    ops: pd.DataFrame = table.to_pandas()
    return ops[ops["kind"] == "used"]


def _settings(experiment: str) -> Mapping[str, Any]:
    """Return the resolved experiment, empty if there is none to be read."""
    try:
        settings, _ = read_yaml(experiment)
    except NotYamlError:
        return {}
    return settings if isinstance(settings, Mapping) else {}


def _load(settings: Mapping[str, Any]) -> Load:
    """Return the guard that raises the alarm, as the experiment has it."""
    try:
        return Load.model_validate(settings["guards"]["load"])
    except (LookupError, TypeError, ValueError):
        return Load()


def _title(summary: Mapping[str, Any], experiment: str, out: Path) -> str:
    named = re.search(r"^name:\s*[\"']?(.+?)[\"']?\s*$", experiment, re.MULTILINE)
    return str(summary.get("name") or (named.group(1) if named else out.name) or "A run")


def _about(settings: Mapping[str, Any]) -> str:
    """Say in a line which data, model, method and fleet the run had, as far as that is known."""

    def of(path: str) -> str:
        found: Any = settings
        for name in path.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return "" if found is None else str(found)

    clients = of("fleet.clients")
    kinds = [of(f"method.{part}.kind") for part in ("aggregation", "training", *_UNUSUAL)]
    uplink = of("method.uplink.kind")
    method = [kind for kind in kinds if kind not in {"", "none"}]
    method += [f"{uplink} uplink"] if uplink else []
    method += [f"split, {of('topology.gradient.kind')}"] * (of("topology.kind") == "split")
    method += ["personal tails"] * (of("topology.tail") == "personal")
    said = {
        "data": ", ".join(filter(None, (of("data.source"), of("data.partition.kind")))),
        "model": ", ".join(filter(None, (of("model.kind"), of("model.encoder.kind")))),
        "method": ", ".join(method),
        "": clients and ("1 client" if clients == "1" else f"{clients} clients"),
        "seed": of("seed"),
    }
    return " · ".join(f"{name} {text}".lstrip() for name, text in said.items() if text)


# The headline.


def _tiles(summary: Mapping[str, Any]) -> list[Tile]:
    """Return the headline figures that the summary knows."""

    def tile(name: str, key: str, units: Sequence[Unit] | None, note: str = "") -> Tile | None:
        value = summary.get(key)
        if not isinstance(value, int | float) or math.isnan(value):
            return None
        return Tile(name, count(value) if units is None else human(value, units), note)

    def beside(words: str, key: str, units: Sequence[Unit] | None = None) -> str:
        found = tile(words, key, units)
        return f"{words} {found.value}" if found else ""

    back = beside("back", "backhaul_downlink_bytes", BYTES)
    tiles = (
        tile(
            "Final accuracy",
            "final_accuracy",
            ACCURACY,
            beside("best", "best_accuracy", ACCURACY),
        ),
        tile("Accuracy of the last tenth", "tail_accuracy", ACCURACY, "mean of evaluations"),
        tile("Accuracy swing", "accuracy_swing", ACCURACY, "deviation over the last tenth"),
        tile("Mean of clients", "mean_client_accuracy", ACCURACY, "accuracy for each of them"),
        tile("Worst tenth of clients", "worst_decile_accuracy", ACCURACY, "accuracy"),
        tile("Spread between clients", "accuracy_spread", ACCURACY, "deviation of accuracies"),
        tile("Clients in the model", "participation", SHARE, "with an update in it"),
        tile("From asked to update", "cycle_seconds", TIME, "mean"),
        tile("Largest load", "most_load", None, "busy share x memory share of a device"),
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
        tile("From cells to the server", "backhaul_uplink_bytes", BYTES, back)
        if summary.get("backhaul_uplink_bytes")
        else None,
        tile(
            "Activations up",
            "activation_uplink_bytes",
            BYTES,
            beside("down", "activation_downlink_bytes", BYTES),
        )
        if summary.get("activation_uplink_bytes")
        else None,
        tile("Energy", "energy_joules", ENERGY),
        tile("Device time wasted", "wasted_device_seconds", TIME),
        tile("Bytes wasted", "wasted_bytes", BYTES, "sent for updates that came to nothing"),
        tile("Updates a second", "updates_per_second", None, "of wall time"),
        tile("Peak memory", "peak_pss_bytes", BYTES, "shared parts counted once"),
    )
    return [found for found in tiles if found]
