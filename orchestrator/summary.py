"""What came out of a run, in one stable file?

`summary.json` is a contract: its keys are documented in docs/summary.md and keep their meaning.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from math import isfinite, nan
from pathlib import Path
from typing import Any

from orchestrator.books import Ledger


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a finished run; docs/summary.md says what each means."""

    name: str
    digest: str
    numerics: str
    stopped_by: str
    final_accuracy: float
    tail_accuracy: float
    best_accuracy: float
    accuracy_swing: float
    worst_decile_accuracy: float
    accuracy_spread: float
    participation: float
    cycle_seconds: float
    most_load: float
    versions: int
    updates: int
    rejected_updates: int
    superseded_updates: int
    lost_updates: int
    in_flight_updates: int
    dispatched_updates: int
    virtual_seconds: float
    wall_seconds: float
    startup_seconds: float
    working_seconds: float
    updates_per_second: float
    uplink_bytes: int
    downlink_bytes: int
    uplink_entropy_bytes: float
    downlink_entropy_bytes: float
    mean_staleness: float
    energy_joules: float
    device_seconds: float
    wasted_device_seconds: float
    wasted_bytes: int
    peak_pss_bytes: int
    hosting: str
    client_actors: int
    kpis: dict[str, Any]
    mlflow_run_id: str | None
    activation_uplink_bytes: int = 0
    activation_downlink_bytes: int = 0
    backhaul_uplink_bytes: int = 0
    backhaul_downlink_bytes: int = 0
    weights: str = ""
    mean_client_accuracy: float = nan
    setbacks: int = 0

    def write(self, out: Path) -> Path:
        """Write `summary.json` into a run's folder, whole or not at all."""
        target = out / "summary.json"
        partial = target.with_suffix(".tmp")
        found = {name: _known(value) for name, value in asdict(self).items()}
        text = json.dumps(found, indent=2, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(target)
        return target

    @classmethod
    def read(cls, folder: Path) -> Summary:
        """Read a run's `summary.json`; names that this version does not know are left out."""
        found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        fields_ = {field.name: field.type for field in fields(cls)}
        known = {name: value for name, value in found.items() if name in fields_}
        unknown = {n: nan for n, value in known.items() if value is None and fields_[n] == "float"}
        return cls(**known | unknown)


def _known(value: Any) -> Any:
    """Return a figure as JSON can hold it: null if it is not known."""
    return None if isinstance(value, float) and not isfinite(value) else value


def of_ledger(ledger: Ledger) -> dict[str, Any]:
    """Return the figures that the ledger holds, under their names in the summary."""
    return {
        "final_accuracy": ledger.accuracies[-1] if ledger.accuracies else nan,
        "in_flight_updates": ledger.in_flight,
        "dispatched_updates": ledger.dispatched,
        **ledger.figures(),
    }
