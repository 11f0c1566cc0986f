"""Where did the time of a run's processes go?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from orchestrator.runtime import TRAINER
from orchestrator.views import pictures
from orchestrator.views.pages import Part, Rows
from orchestrator.views.readable import TIME, count, human

_SORTS: Final = {
    "train": "training",
    "correct late updates": "training",
    "test": "tests",
    "read the base": "reading and writing payloads",
    "compress and encode": "reading and writing payloads",
    "gather payloads": "reading and writing payloads",
    "read payloads": "reading and writing payloads",
    "make versions": "versions",
    "count downloads": "versions",
    "send work": "calls",
    "take in answers": "calls",
    "wait": "calls",
    "the rest": "everything else",
}
"""What the stages of the ops log are drawn as; what is not here is an event of the engine."""
SORTS: Final = tuple(dict.fromkeys((*list(_SORTS.values())[:-1], "events", "everything else")))


def where_time_went(used: pd.DataFrame, summary: Mapping[str, Any]) -> Part | None:
    """CPU seconds by process and stage, of a run with `--profile`.

    Args:
        used: Rows of the ops log, one a process and stage.
        summary: Of the run.
    """
    if used.empty:
        return None
    rows = used.assign(
        process=used["actor"].map(_process),
        sort=used["detail"].map(_SORTS).fillna("events"),
    )
    spent = rows.pivot_table(
        index="process", columns="sort", values="cpu_s", aggfunc="sum", sort=False
    ).fillna(0.0)
    spent = spent.reindex(columns=[sort for sort in SORTS if sort in spent.columns])
    total, worked = float(spent.to_numpy().sum()), summary.get("working_seconds")
    lead = f"{human(total, TIME)} of CPU"
    if isinstance(worked, int | float) and worked > 0:
        lead += f" in {human(worked, TIME)} of work: {total / worked:.1f} CPUs were busy on average"
    updates = summary.get("updates")
    if isinstance(updates, int) and updates:
        lead += f", {1e3 * total / updates:.3g} ms of CPU an update"
    stages = rows.groupby(["process", "detail"], sort=False, as_index=False).agg(
        times=("number", "sum"), wall=("duration_s", "sum"), cpu=("cpu_s", "sum")
    )
    table = [
        [
            row["process"],
            row["detail"],
            count(row["times"]),
            human(row["wall"], TIME),
            human(row["cpu"], TIME),
            f"{row['cpu'] / total:.1%}" if total else "",
        ]
        for _, row in stages.iterrows()
    ]
    return Part(
        "Where the time went",
        lead=f"{lead}.",
        picture=pictures.usage(spent),
        rows=Rows(("process", "stage", "times", "wall", "CPU", "share"), table, words=2),
        folded=f"{len(table)} stages",
        note="Everything else is what Ray's calls, other threads and the interpreter take beside "
        "the stages; of a Ray that the run did not start, its own processes are not counted.",
    )


def _process(actor: str) -> str:
    """Return what a process is drawn as: client actors together, and processes that train."""
    if re.fullmatch(rf"{TRAINER} \d+", actor):
        return "trainers"
    return "client actors" if re.fullmatch(r"(client|worker)-\d+", actor) else actor
