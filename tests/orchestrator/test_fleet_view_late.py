"""What correcting its own late update takes a client, before anything runs."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from orchestrator.document import Document
from orchestrator.experiment import CHECKS, Experiment
from orchestrator.hosting import Node
from orchestrator.views.fleet_view import FleetView, look
from orchestrator.views.fleet_view_page import page
from orchestrator.views.fleet_view_show import as_json, show
from orchestrator.views.fleet_view_tables import sheets

TINY = """
name: tiny
data: {source: digits, train_examples: 240}
model: {kind: logistic}
fleet:
  clients: 4
  mix: [{profile: slow}]
  profiles:
    slow: {flops: 1e6, memory_bytes: 1 MB, compute_watts: 2, radio_watts: 1,
           uplink: 8 kbit/s, downlink: 80 kbit/s, latency_s: 0.5}
    fast: {flops: 1e8, memory_bytes: 1 MB, compute_watts: 2, radio_watts: 1,
           uplink: 8 Mbit/s, downlink: 80 Mbit/s, latency_s: 0.01}
method:
  concurrency: 2
  training: {kind: sgd, lr: 0.1}
  aggregation: {kind: fedbuff, size: 1}
stop: {versions: 2}
tracking: {enabled: false}
"""
HERE = ([Node("here", {"CPU": 2.0})], None)
OWN = "method.correction={kind: distillation, proxy: client, steps: 3, batch: 32}"
TITLE = "One assignment if it is late"


def made(*assignments: str) -> Experiment:
    document = Document.parse(TINY, "tiny.yaml")
    document.override(assignments, Experiment)
    return document.validate(Experiment, CHECKS)


def seen(*assignments: str) -> FleetView:
    return look(made(*assignments), HERE)


def test_a_late_assignment_by_hand() -> None:
    """The model once more, the teacher's answers, steps and checks, and the same upload."""
    view = seen(OWN)
    (work,), late = view.work, view.work[0].late
    assert late is not None
    fetch_s = 0.5 + view.carried.down / 1e4
    answers = 4 * 3 * 32 + 2 * 15 + 3 * 32 + 15  # 60 examples, of which 15 check
    correct_s = answers * 2 * 64 * 10 / 1e6
    more_s, more_j = fetch_s + correct_s, fetch_s + 2 * correct_s
    for typical, value in (
        (late.fetch_s, fetch_s),
        (late.correct_s, correct_s),
        (late.late_total_s, work.total_s.median + more_s),
        (late.late_dense_total_s, work.dense_total_s.median + more_s),
        (late.late_energy_j, work.energy_j.median + more_j),
        (late.late_dense_energy_j, work.dense_energy_j.median + more_j),
    ):
        assert typical == pytest.approx((value, value))


def test_a_late_client_takes_what_it_takes_in_a_run(ran: Any) -> None:
    """A slow client among a fast one's versions fetches, works once more, and then uploads."""
    how = (OWN, "fleet.clients=2", "fleet.mix=[{profile: slow}, {profile: fast}]")
    view, found = seen(*how), ran(made(*how, "stop.versions=500"))
    names = found.engine.fleet.profile_names()
    (late,) = (
        one.late
        for group, one in zip(view.groups, view.work, strict=True)
        if group.profile.name == "slow"
    )
    first = {
        kind: next(
            row for row in found.of(kind) if names[row["client"]] == "slow" and row["number"] == 0
        )
        for kind in ("dispatched", "fetched", "arrived")
    }
    assert late is not None
    took_s = first["arrived"]["time_s"] - first["dispatched"]["time_s"]
    assert late.late_dense_total_s.median == pytest.approx(took_s)
    assert late.late_dense_energy_j.median == pytest.approx(first["arrived"]["energy_j"])
    assert first["fetched"]["downlink_bytes"] == view.carried.down


def test_nothing_else_changes() -> None:
    """Whoever is on time takes what it takes without a correction, whatever the jitter."""
    how = ("fleet.jitter={kind: lognormal}", "fleet.link={kind: varying}", "fleet.spread=0.3")
    plain, own = seen(*how), seen(*how, OWN)
    assert own.work[0].late is not None
    assert own.work[0].late.correct_s.median < own.work[0].late.correct_s.high
    assert replace(own.work[0], late=None) == plain.work[0]
    assert own.findings == plain.findings


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("method.correction={kind: distillation}", "data.holdout=400"),
        (OWN.replace("steps", "strength: 0, steps"),),
        (OWN, "method.aggregation={kind: fedavg, clients_per_round: 2}"),
        (OWN, "method.staleness={kind: constant, max_staleness: 0}"),
    ],
    ids=["none", "at the server", "no strength", "in rounds", "never late"],
)
def test_nothing_is_said_where_no_client_corrects(changes: tuple[str, ...]) -> None:
    """No table, no part of the page, and null."""
    view = seen(*changes)
    assert not view.corrects
    assert TITLE not in [sheet.title for sheet in sheets(view)]
    assert TITLE not in page(view)
    assert json.loads(as_json(view))["kinds"][0]["assignment"]["late"] is None


def test_who_has_too_few_examples_uploads_at_once() -> None:
    """With three examples nothing can be checked, so nothing is fetched."""
    few = "data={source: digits, train_examples: 12}"
    view = seen(OWN, few)
    (work,), late = view.work, view.work[0].late
    assert late is not None
    assert late.fetch_s == late.correct_s == (0, 0)
    assert late.late_total_s == work.total_s


def test_silos_know_the_second_download_alone() -> None:
    """How long a client is at work with it nobody knows before it has joined."""
    silos = "data={source: silos, call: 'json:loads', clients: [a, b], input: [4], classes: 2}"
    view = seen(OWN, silos, "evaluate.kind=federated", "fleet.clients=2")
    late = view.work[0].late
    assert late is not None
    assert late.fetch_s.median == pytest.approx(0.5 + view.carried.down / 1e4)
    assert math.isnan(late.correct_s.median)
    assert math.isnan(late.late_total_s.median)


@pytest.mark.parametrize("width", [80, 132])
def test_it_is_shown(width: int) -> None:
    """A table that breaks no number, a part of the page, and the same figures for programs."""
    view = seen(OWN, "fleet.mix=[{profile: single-board-computer}, {profile: slow}]")
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)
    with console.capture() as captured:
        show(view, console)
    lines = captured.get().split("A client that holds no model")[0].splitlines()
    assert max(map(len, lines)) <= width
    whole = {cell for line in lines for cell in re.split(r"\s{2,}", line.strip())}
    (sheet,) = (sheet for sheet in sheets(view) if sheet.title == TITLE)
    assert {cell for row in sheet.cells for cell in row[1:]} <= whole
    assert TITLE in page(view)
    assert view.work[0].late is not None
    told = json.loads(as_json(view))["kinds"][0]["assignment"]["late"]
    assert told["late_total_s"]["median"] == view.work[0].late.late_total_s.median
