"""How does a fleet reach a terminal, a program or a page?"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from orchestrator.doctor.findings import Finding
from orchestrator.views.fleet_view import FleetView
from orchestrator.views.fleet_view_cells import CellView
from orchestrator.views.fleet_view_data import Data
from orchestrator.views.fleet_view_day import in_words
from orchestrator.views.fleet_view_groups import Range, Typical
from orchestrator.views.fleet_view_tables import drop_out, sentences, sheets
from orchestrator.views.sheets import put

_PIPE_COLUMNS: Final = 180  # where there is no terminal to be as wide as
_STYLES: Final = {"ok": "green", "note": "yellow", "trouble": "red"}
_NAMED: Final = 60  # clients that JSON names one by one


def show(view: FleetView, console: Console) -> None:
    """Print a fleet; where there is no terminal, as wide as it needs."""
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_COLUMNS)
    for sheet in sheets(view):
        put(sheet, console)
    for text in sentences(view):
        console.print(Text(text), soft_wrap=True)
    if view.hosting.level == "ok":
        console.print(Text(f"{view.hosting.text}, on this machine"), soft_wrap=True)
    for finding in (*view.findings, *_troubles(view)):
        line = Text(f"{finding.level}: ", style=_STYLES[finding.level])
        line.append(f"{finding.topic}: {finding.text} ", style="default")
        line.append(finding.way_out, style="dim")
        console.print(line, soft_wrap=True)


def _troubles(view: FleetView) -> Sequence[Finding]:
    """Return what keeps this machine from hosting the fleet."""
    return (view.hosting,) if view.hosting.level == "trouble" else ()


def as_json(view: FleetView) -> str:
    """Return the same figures for programs; what is not known is null."""
    found = {
        "experiment": view.experiment.name,
        "clients": view.clients,
        "parameters": view.parameters,
        "training_bytes": view.training_bytes,
        "bytes": view.carried._asdict(),
        "there": {"least": view.day.least, "most": view.day.most},
        "cells": [_cell(one) for one in view.cells],
        "kinds": [_kind(view, at) for at in range(len(view.groups))],
        "data": None if view.data is None else _data(view.data),
        "hosting": asdict(view.hosting),
        "findings": [asdict(finding) for finding in view.findings],
    }
    return json.dumps(_known(found), indent=2) + "\n"


def _cell(one: CellView) -> dict[str, Any]:
    return {
        "name": one.name,
        "clients": one.clients,
        "uplink": one.cell.uplink,
        "downlink": one.cell.downlink,
        "latency_s": one.cell.latency_s,
        "gather_s": one.gather_s,
        "spread_s": one.spread_s,
    }


def _kind(view: FleetView, at: int) -> dict[str, Any]:
    group, work, day = view.groups[at], view.work[at], view.day
    profile, entry = group.profile, group.entry
    return {
        "label": group.label,
        "profile": profile.name,
        "region": group.region,
        "clients": int(group.members.size),
        "flops": group.flops._asdict(),
        "memory_bytes": profile.memory_bytes,
        "memory_share": work.training_bytes / profile.memory_bytes,
        "downlink": group.downlink._asdict(),
        "uplink": group.uplink._asdict(),
        "latency_s": group.latency_s,
        "compute_watts": profile.compute_watts,
        "radio_watts": profile.radio_watts,
        "availability": in_words(view.experiment.fleet, entry),
        "share_of_day": float(day.shares[at]),
        "there": day.there[at].tolist(),
        "never": int(day.never[at]),
        "on_leave": profile.on_leave,
        "drop_out": drop_out(view, group),
        "joins_s": entry.joins_s,
        "leaves_s": entry.leaves_s,
        "assignment": {
            **_figures(work),
            "updates_an_hour": work.an_hour,
            "dense_updates_an_hour": work.dense_an_hour,
        },
    }


def _figures(found: Any) -> dict[str, Any]:
    """Return figures by name, and those of a part of them by its name."""
    told: dict[str, Any] = {}
    for name in (field.name for field in fields(found)):
        value = getattr(found, name)
        if isinstance(value, Range | Typical):
            value = value._asdict()
        elif is_dataclass(value):
            value = _figures(value)
        told[name] = value
    return told


def _data(data: Data) -> dict[str, Any]:
    few = data.whole and data.sizes.size <= _NAMED
    by_client = zip(data.names, data.sizes.tolist(), data.labels.tolist(), strict=False)
    return {
        "examples": data.examples._asdict(),
        "classes": data.classes._asdict(),
        "sampled": int(data.sampled.size),
        "class_names": list(data.class_names),
        "moving": data.moving,
        "without_tests": data.untested,
        "clients": [
            {"name": name, "examples": size, "by_class": labels} for name, size, labels in by_client
        ]
        if few
        else None,
    }


def _known(value: Any) -> Any:
    """Replace what is no number by null, as JSON has no word for it."""
    if isinstance(value, Mapping):
        return {key: _known(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_known(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(view: FleetView, file: Path) -> None:
    """Write a fleet as a page.

    Raises:
        ExperimentError: If the file cannot be written.
    """
    from orchestrator.views.fleet_view_page import page  # noqa: PLC0415  # Matplotlib, late
    from orchestrator.views.pages import save  # noqa: PLC0415  # Jinja, late

    save(page(view), file)
