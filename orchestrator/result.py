"""What does a finished run print?"""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from orchestrator.experiment import Experiment
from orchestrator.kpis import Verdict
from orchestrator.progress import seconds, size
from orchestrator.summary import Summary
from orchestrator.views.readable import ACCURACY, ENERGY, SHARE, TIME, count, human


def show(summary: Summary, where: str, experiment: Experiment, console: Console) -> None:
    """Print the figures and where to look further."""
    table = Table(title=f"{summary.name}: stopped by {summary.stopped_by}", title_justify="left")
    table.add_column("figure", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    for name, value in rows(summary).items():
        table.add_row(name, value)
    console.print(table)
    for text in (
        f"digest   {summary.digest}",
        f"numerics {summary.numerics}",
        f"report   {where}/report.html",
    ):
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    if experiment.tracking.enabled:
        for text in mlflow_lines(experiment):
            console.print(text, highlight=False, markup=False, soft_wrap=True)


def rows(summary: Summary) -> dict[str, str]:
    """Return the figures as people read them, by their names; the KPIs come last."""
    found = {
        "final accuracy": human(summary.final_accuracy, ACCURACY),
        "mean of the last tenth": human(summary.tail_accuracy, ACCURACY),
        "swing in the last tenth": human(summary.accuracy_swing, ACCURACY),
        "mean of clients": human(summary.mean_client_accuracy, ACCURACY),
        "worst tenth of clients": human(summary.worst_decile_accuracy, ACCURACY),
        "spread between clients": human(summary.accuracy_spread, ACCURACY),
        "clients in the model": human(summary.participation, SHARE),
        "from asked to update": human(summary.cycle_seconds, TIME),
        "largest load of a device": count(summary.most_load),
        "versions": f"{summary.versions:,}",
        "updates": f"{summary.updates:,} ({summary.rejected_updates} rejected)",
        "mean staleness": f"{summary.mean_staleness:.2f} versions",
        "virtual time": seconds(summary.virtual_seconds),
        "wall time": f"{seconds(summary.wall_seconds)} ({summary.startup_seconds:.1f} s to start)",
        "updates a second": f"{summary.updates_per_second:.1f}",
        "uplink": _beside(summary.uplink_bytes, summary.uplink_entropy_bytes),
        "downlink": _beside(summary.downlink_bytes, summary.downlink_entropy_bytes),
        **_activations(summary),
        **_backhaul(summary),
        "energy of the devices": human(summary.energy_joules, ENERGY),
        "memory of all processes": size(summary.peak_pss_bytes),
        **({"set back to a checkpoint": f"{summary.setbacks:,} times"} if summary.setbacks else {}),
    }
    kpis = {name: Verdict(**kpi).text(name) for name, kpi in summary.kpis.items()}
    return found | {f"KPI {name}": text for name, text in kpis.items()}


def _activations(summary: Summary) -> dict[str, str]:
    up, down = summary.activation_uplink_bytes, summary.activation_downlink_bytes
    return {"of it to and from the encoder": f"{size(up)} up, {size(down)} down"} if up else {}


def _backhaul(summary: Summary) -> dict[str, str]:
    up, down = summary.backhaul_uplink_bytes, summary.backhaul_downlink_bytes
    return {"between cells and server": f"{size(up)} up, {size(down)} down"} if up or down else {}


def _beside(sent: int, bound: float) -> str:
    return f"{size(sent)} (bound {bound / sent if sent else 1.0:.1%} of it)"


def mlflow_lines(experiment: Experiment) -> list[str]:
    """Return how to open the MLflow UI on this run: a server's address, or a command first."""
    uri = experiment.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    page = "#/experiments?workflowType=machine_learning"
    if uri is not None and not uri.startswith("sqlite:"):
        return [f"MLflow   {uri.rstrip('/')}/{page}"]
    mlflow = Path(sys.executable).with_name("mlflow")
    with suppress(ValueError):
        mlflow = mlflow.relative_to(Path.cwd())
    store = shlex.quote(uri or "sqlite:///mlflow.db")
    return [
        f"MLflow   {shlex.quote(str(mlflow))} ui --backend-store-uri {store}",
        f"         then open http://127.0.0.1:5000/{page}",
    ]
