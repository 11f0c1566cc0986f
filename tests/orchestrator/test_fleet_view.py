"""A fleet before anything runs: figures by hand, what cannot work, and how it is shown."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from orchestrator.document import Document
from orchestrator.engine import Interrupted
from orchestrator.experiment import CHECKS, Experiment
from orchestrator.hosting import Node
from orchestrator.stages import Compute, Download, Upload
from orchestrator.views.fleet_view import FleetView, look
from orchestrator.views.fleet_view_day import LOOKS
from orchestrator.views.fleet_view_findings import findings
from orchestrator.views.fleet_view_groups import DAY_S, Range, moments
from orchestrator.views.fleet_view_page import page
from orchestrator.views.fleet_view_show import as_json, show, write
from orchestrator.views.fleet_view_tables import sheets, spread
from orchestrator.views.readable import BYTES, TIME, human, share
from policies.types import ExperimentError

TINY = """
name: tiny
data: {source: digits, train_examples: 240}
model: {kind: logistic}
fleet:
  clients: 4
  mix: [{profile: slow}]
  profiles:
    slow:
      flops: 1e6
      memory_bytes: 1 MB
      compute_watts: 2
      radio_watts: 1
      uplink: 8 kbit/s
      downlink: 80 kbit/s
      latency_s: 0.5
method: {concurrency: 2}
stop: {versions: 2}
tracking: {enabled: false}
"""
HERE = ([Node("here", {"CPU": 2.0})], None)
COMPUTE_S = 3 * (2 * 64 * 10) * 60 / 1e6
"""A backward pass is two forward ones; 60 examples of 64 inputs and 10 classes."""


def made(*assignments: str) -> Experiment:
    document = Document.parse(TINY, "tiny.yaml")
    document.override(assignments, Experiment)
    return document.validate(Experiment, CHECKS)


def seen(*assignments: str) -> FleetView:
    return look(made(*assignments), HERE)


def shown(view: FleetView) -> str:
    text = io.StringIO()
    show(view, Console(file=text))
    return " ".join(text.getvalue().split())


def trace(folder: Path, *rows: str) -> str:
    file = folder / "presence.csv"
    file.write_text("\n".join(["client,start_s,end_s", *rows]), encoding="utf-8")
    return f"fleet.availability={{kind: trace, path: {file}}}"


HALVES = "fleet.mix=[{profile: slow, leaves_s: 12 h}, {profile: slow, joins_s: 12 h}]"
"""Two of four clients at a time."""


# ------------------------------------------------------------------ figures by hand


def test_an_assignment_by_hand() -> None:
    """Latency and bytes by bandwidth both ways, FLOPs by speed, watts by seconds."""
    view = seen()
    (one,), sent = view.work, view.carried
    down, up, dense = 0.5 + sent.down / 1e4, 0.5 + sent.least / 1e3, 0.5 + sent.dense / 1e3
    for typical, seconds in (
        (one.download_s, down),
        (one.compute_s, COMPUTE_S),
        (one.upload_s, up),
        (one.dense_upload_s, dense),
        (one.total_s, down + COMPUTE_S + up),
        (one.dense_total_s, down + COMPUTE_S + dense),
        (one.energy_j, 2 * COMPUTE_S + down + up),
        (one.dense_energy_j, 2 * COMPUTE_S + down + dense),
    ):
        assert typical == pytest.approx((seconds, seconds))
    assert one.an_hour == pytest.approx(3600 / (down + COMPUTE_S + up))
    assert one.dense_an_hour == pytest.approx(3600 / (down + COMPUTE_S + dense))


@pytest.mark.parametrize(
    "changes",
    [
        ["method.uplink={kind: top-k, density: 0.1}"],
        ["method.downlink={kind: dense, values: fp16}"],
        ["method.downlink={kind: difference}"],
        ["method.uplink={kind: packed, content: delta}", "method.pruning.kind=fedmap"],
        ["model={kind: mlp, hidden: [16]}"],
    ],
)
def test_bytes_are_those_of_the_engine(changes: list[str], build: Any) -> None:
    """What a newcomer is sent, and what no update goes below, is what a run counts."""

    def once_asked(engine: Any) -> None:
        if engine.state.flights:
            raise Interrupted

    view, engine = seen(*changes), build(made(*changes), between_events=once_asked)
    engine.begin()
    with pytest.raises(Interrupted):
        engine.run()
    state = engine.state
    assert view.carried.down == state.versions.published(state.head).whole.bytes
    assert state.flights
    for flight in state.flights.values():
        download, compute, upload = flight.stages
        assert (download, upload) == (Download(view.carried.down), Upload(view.carried.least))
        assert isinstance(compute, Compute)
    assert view.carried.least <= view.carried.dense


def test_a_dense_update_takes_what_it_takes_in_a_run(ran: Any) -> None:
    """The first update of a run arrives when the view says that a dense one does."""
    rows = ran(made()).of("arrived")
    assert rows[0]["time_s"] == pytest.approx(seen().work[0].dense_total_s.median)
    assert rows[0]["energy_j"] == pytest.approx(seen().work[0].dense_energy_j.median)


def test_regions_and_entries_are_rows() -> None:
    """A row an entry and region; a region scales the bandwidth and adds to the latency."""
    view = seen(
        "fleet.mix=[{profile: slow, share: 3}, {profile: slow, drop_out: 0.1}]",
        "fleet.clients=8",
        "fleet.regions={near: {share: 3}, far: {bandwidth: 0.5, latency_s: 1}}",
    )
    assert sum(group.members.size for group in view.groups) == 8
    assert {group.label for group in view.groups} <= {
        f"slow ({entry}), {region}" for entry in (1, 2) for region in ("near", "far")
    }
    near, far = (next(g for g in view.groups if g.region == r) for r in ("near", "far"))
    assert near.uplink == (8000, 8000, 8000)
    assert far.uplink == (4000, 4000, 4000)
    assert far.downlink.median == 40_000
    assert (near.latency_s, far.latency_s) == (0.5, 1.5)
    place = view.groups.index(far)
    assert view.work[place].download_s.median == pytest.approx(1.5 + view.carried.down / 5e3)
    assert "10 %" in shown(view)


CELLS = (
    "fleet.regions={oslo: {share: 3, cell: {uplink: 8 kbit/s, downlink: 80 kbit/s}}, "
    "rome: {cell: {latency_s: 2}}}"
)


def test_cells_by_hand() -> None:
    """Who has how many clients, and a dense model over each backhaul, both ways."""
    view = seen(CELLS)
    size = view.carried.dense
    oslo, rome = view.cells
    assert [(one.name, one.clients) for one in (oslo, rome)] == [("oslo", 3), ("rome", 1)]
    assert oslo.gather_s == pytest.approx(0.01 + size / 1e3)
    assert oslo.spread_s == pytest.approx(0.01 + size / 1e4)
    assert rome.gather_s == rome.spread_s == pytest.approx(2 + 8 * size / 1e9)
    (sheet,) = (sheet for sheet in sheets(view) if sheet.title == "Cells")
    seconds = [human(value, TIME) for value in (oslo.gather_s, oslo.spread_s)]
    assert sheet.columns[:5] == ("cell", "clients", "uplink", "downlink", "latency")
    assert sheet.cells[0] == ("oslo", "3", "8 kbit/s", "80 kbit/s", "0.0100 s", *seconds)
    assert sheet.cells[1][:5] == ("rome", "1", "1 Gbit/s", "1 Gbit/s", "2 s")
    assert "oslo 3 8 kbit/s 80 kbit/s 0.0100 s" in shown(view)
    assert "A cell sums the updates of its clients near them." in page(view)
    assert json.loads(as_json(view))["cells"][1] == {
        "name": "rome",
        "clients": 1,
        "uplink": 1e9,
        "downlink": 1e9,
        "latency_s": 2,
        "gather_s": rome.gather_s,
        "spread_s": rome.spread_s,
    }


def test_a_cell_without_clients_is_shown() -> None:
    """A share too small for a client leaves a cell that nobody sends to."""
    view = seen(CELLS.replace("share: 3", "share: 300"))
    assert [(one.name, one.clients) for one in view.cells] == [("oslo", 4), ("rome", 0)]


def test_nothing_is_said_of_cells_where_there_are_none() -> None:
    """No table, no part of the page, an empty list."""
    view = seen("fleet.regions={near: {share: 3}, far: {}}")
    assert "Cells" not in [sheet.title for sheet in sheets(view)]
    assert "A cell sums" not in page(view)
    assert json.loads(as_json(view))["cells"] == []


def test_spread_and_link_vary() -> None:
    """The least and most are over clients, the quantiles of a link over the day, too."""
    view = seen("fleet.spread=0.5", "fleet.link={kind: varying}", "fleet.jitter={kind: lognormal}")
    (group,), (one,) = view.groups, view.work
    assert group.flops.low < group.flops.median < group.flops.high
    assert group.uplink.low < group.uplink.median < group.uplink.high
    assert group.uplink.median / group.downlink.median == pytest.approx(0.1)
    assert one.compute_s.median < one.compute_s.high
    assert one.total_s.median < one.total_s.high


def test_memory_is_that_of_the_experiment() -> None:
    """Training's share of the device's memory."""
    view = seen()
    batch = made().method.training.batch_size
    assert view.training_bytes == made().memory(view.shape).bytes(batch)
    (kind,) = json.loads(as_json(view))["kinds"]
    assert kind["memory_share"] == view.training_bytes / 1e6


# ------------------------------------------------------------------ who is there


def test_a_day_by_hand(tmp_path: Path) -> None:
    """A quarter of the day, all of it, none, and the second half: counted at every moment."""
    view = seen(trace(tmp_path, "0,0,21600", "1,0,86400", "3,43200,86400"))
    quarter = LOOKS // 4
    expected = [2] * quarter + [1] * quarter + [2] * 2 * quarter
    assert view.day.there.tolist() == [expected]
    assert view.day.shares == pytest.approx([(0.25 + 1 + 0 + 0.5) / 4])
    assert (view.day.least, view.day.most, view.day.never.tolist()) == (1, 2, [1])
    assert not view.day.whole
    assert "Of 4 clients 1 to 2 are there at the same time" in shown(view)


def test_joining_and_leaving_count() -> None:
    """Half of the day each, and never the same half."""
    view = seen(HALVES)
    assert view.day.shares.tolist() == [0.5, 0.5]
    assert (view.day.least, view.day.most) == (2, 2)
    assert "12 h" in shown(view)


def test_absences_do_not_prolong_an_assignment() -> None:
    """What an assignment takes is told for a client that stays, whatever its profile."""
    away = "fleet.availability={kind: churn, mean_on_s: 1, mean_off_s: 1000}"
    paused = "fleet.profiles.slow.on_leave=paused"
    assert seen(away, paused).work[0].total_s == pytest.approx(seen().work[0].total_s)


def test_moments_are_one_a_part_and_at_no_fixed_phase() -> None:
    """A short day is seen at all its hours: a policy with a period of a part is averaged."""
    found = list(moments(LOOKS))
    assert [int(time_s // (DAY_S / LOOKS)) for time_s in found] == list(range(LOOKS))
    view = seen("fleet.availability={kind: diurnal, hours: 0.0625, centre_h: 0.1, period_s: 900}")
    assert view.day.shares[0] == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("{kind: always}", "always"),
        ("{kind: diurnal}", "8 h a day around 02:00, give or take 2 h"),
        ("{kind: diurnal, hours: 1, centre_h: 1.5, spread_h: 0, period_s: 2 h}",
         "60 min in 2 h around 01:30"),
        ("{kind: diurnal, hours: 24}", "always"),
        ("{kind: churn}", "comes and goes: 60 min there, 60 min away on average"),
    ],
)  # fmt: skip
def test_availability_in_words(policy: str, words: str) -> None:
    """Each policy is told in a phrase."""
    assert words in shown(seen(f"fleet.availability={policy}"))


# ------------------------------------------------------------------ data


def test_data_by_hand() -> None:
    """Examples over all clients, classes of each."""
    view = seen("data.partition={kind: pathological, classes_per_client: 1}")
    assert view.data is not None
    assert view.data.examples == (60, 60, 60)
    assert view.data.labels.sum() == 240
    counted = np.count_nonzero(view.data.labels, axis=1)
    assert view.data.classes == (counted.min(), np.median(counted), counted.max())
    assert view.data.whole


def test_natural_clients_have_names(tmp_path: Path) -> None:
    """The source's names, the window of a drift, and who has nothing to test on."""
    rows = [f"{x % 7},{x % 2},{'north' if x < 60 else 'south'},{x}" for x in range(80)]
    (tmp_path / "t.csv").write_text("\n".join(["a,y,who,day", *rows]), encoding="utf-8")
    view = seen(
        f"data={{source: table, path: {tmp_path}/t.csv, target: y, client: who, order: day, "
        "partition: {kind: natural, drift: {window: 0.5}}}",
        "fleet.clients=2",
        "evaluate.kind=federated",
    )
    assert view.data is not None
    assert set(view.data.names) == {"north", "south"}
    assert view.data.named
    assert view.data.moving
    assert view.data.untested == 0
    text = shown(view)
    assert re.search(r"from north \(\d+ examples\) to south \(\d+ examples\)", text)
    assert "An update sees a window" in text
    assert "0 of 2 clients have no test examples" in text
    assert "north" in page(view)


def test_silos_tell_when_they_join() -> None:
    """What only the clients know is not made up, and their actors are their own."""
    changes = (
        "data={source: silos, call: 'json:loads', clients: [a, b], input: [4], classes: 2}",
        "evaluate.kind=federated",
        "fleet.clients=2",
    )
    view = seen(*changes)
    assert view.data is None
    assert view.work[0].download_s.median > 0.5
    assert math.isnan(view.work[0].total_s.median)
    assert "they tell when they join" in shown(view)
    assert "Not known before the silos join" in page(view)
    assert "dedicated, 2 client actors" in view.hosting.text
    small = ([Node("small", {"CPU": 1.0, "memory": 0.0})], None)
    wanting = (*changes, "fleet.mix=[{profile: slow, resources: {memory: 1 MB}}]")
    assert look(made(*wanting), small).hosting.level == "trouble"
    told = json.loads(as_json(view))
    assert told["data"] is None
    assert told["kinds"][0]["assignment"]["total_s"] == {"median": None, "high": None}


# ------------------------------------------------------------------ what cannot work

FEDAVG = "method.aggregation={kind: fedavg, clients_per_round: %d}"


def topics(view: FleetView) -> list[str]:
    return [finding.topic for finding in view.findings]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], []),
        (["fleet.profiles.slow.memory_bytes=HALF_FULL"], []),
        (["fleet.profiles.slow.memory_bytes=FULLER"], ["memory"]),
        ([FEDAVG % 4], []),
        ([FEDAVG % 2, HALVES], []),
        ([FEDAVG % 3, HALVES], ["cohort"]),
        ([HALVES], []),
        ([HALVES, "method.concurrency=3"], ["concurrency"]),
        ([FEDAVG % 4, "method.aggregation.deadline_s=AS_LONG"], []),
        ([FEDAVG % 4, "method.aggregation.deadline_s=SOONER"], ["deadline"]),
        (["method.training.batch_size=60"], []),
        (["method.training.batch_size=61"], ["batch size"]),
        (["fleet.mix=[{profile: slow}, {profile: mid-phone, share: 0.01}]"], ["mix"]),
    ],
)
def test_each_warning_fires_and_only_then(changes: list[str], expected: list[str]) -> None:
    """At its limit nothing is said; beyond it that one thing is."""
    plain = seen()
    total = plain.work[0].total_s.median
    limits = {
        "HALF_FULL": str(2 * plain.training_bytes),
        "FULLER": str(2 * plain.training_bytes - 1),
        "AS_LONG": repr(total * (1 + 1e-9)),
        "SOONER": repr(total * (1 - 1e-9)),
    }
    for word, limit in limits.items():
        changes = [change.replace(word, limit) for change in changes]
    view = seen(*changes)
    assert topics(view) == expected
    for finding in view.findings:
        assert finding.way_out
        assert f"{finding.level}: {finding.topic}: " in shown(view)


def test_clients_that_never_come(tmp_path: Path) -> None:
    """They are counted; a round of all clients is smaller; and if nobody comes, that is said."""
    some = trace(tmp_path, "0,0,86400", "1,0,86400", "2,0,86400")
    assert topics(seen(some)) == ["never there"]
    cohort, never = seen(some, FEDAVG % 4).findings
    assert (cohort.topic, cohort.level) == ("cohort", "note")
    assert "rounds are smaller" in cohort.text
    assert never.text == "1 of 4 clients never comes."
    nobody = trace(tmp_path, "9,0,86400")
    found = seen(nobody).findings
    assert [finding.level for finding in found] == ["note", "trouble"]
    assert "none of 4 clients ever comes" in found[1].text


def test_rounds_that_cannot_begin_are_trouble() -> None:
    """A cohort that is never there together, though everybody comes, is more than a note."""
    (finding,) = seen(FEDAVG % 3, HALVES).findings
    assert finding.level == "trouble"
    assert "asks 3 clients, but of 4 clients at most 2 are there" in finding.text


def test_federated_evaluation_needs_somebody_to_test() -> None:
    """Trouble if no client has a test example, nothing if one has."""
    view = seen()
    assert view.data is not None
    for untested, expected in ((4, ["tests"]), (3, []), (None, [])):
        data = replace(view.data, untested=untested)
        said = findings(view.experiment, view.groups, view.day, view.work, data)
        assert [finding.topic for finding in said] == expected


def test_a_machine_that_cannot_host_it_is_trouble() -> None:
    """The decision of a run, with its reason."""
    assert "hosting: dedicated, 4 client actors" in shown(seen())
    view = look(made("hosting=dedicated"), ([Node("small", {"CPU": 0.1})], None))
    assert "trouble: fleet: hosting: dedicated does not fit" in shown(view)


# ------------------------------------------------------------------ sizes


def test_one_client() -> None:
    """The smallest fleet has all figures and all pictures."""
    view = seen("fleet.clients=1", "method.concurrency=1")
    assert view.clients == view.day.most == 1
    assert view.dots.clients.tolist() == [0]
    assert "of one profile" in page(view)


def test_a_hundred_thousand_clients() -> None:
    """All of them are counted, and samples are taken of what costs time, and said so."""
    view = seen(
        "fleet.clients=100000",
        "fleet.spread=0.3",
        "fleet.availability={kind: diurnal, hours: 6}",
        "data.partition={kind: sampled, examples: 30}",
        "fleet.mix=[{profile: slow, share: 9999}, {profile: mid-phone}]",
    )
    assert view.data is not None
    assert [group.members.size for group in view.groups] == [99_990, 10]
    assert view.day.shares[0] == pytest.approx(0.25, abs=1e-3)
    assert view.data.sizes.shape == (100_000,)
    assert view.data.labels.shape == (1000, 10)
    assert np.bincount(view.dots.kinds).tolist() == [600, 10]
    assert "Classes were counted of 1,000 of 100,000 clients" in shown(view)
    assert "hosting: pooled, 2 client actors" in view.hosting.text
    assert "610 of 100,000 are drawn" in page(view)
    assert len(page(view)) < 1_000_000
    assert json.loads(as_json(view))["data"]["clients"] is None


# ------------------------------------------------------------------ how it is shown


@pytest.mark.parametrize(
    ("part", "words"),
    [(0, "0 %"), (0.0004, "under 0.1 %"), (0.001, "0.100 %"), (0.375, "37.5 %"), (1, "100 %")],
)
def test_shares_in_words(part: float, words: str) -> None:
    """Three digits, and no long row of zeros."""
    assert share(part) == words


def test_ranges_in_words() -> None:
    """Both ends in the unit of the median; nothing beside a figure that all have."""
    assert spread(Range(500, 2000, 3500), BYTES) == "2 kB (0.500 to 3.50)"
    assert spread(Range(2000, 2000, 2000), BYTES) == "2 kB"


def test_json_has_the_same_figures() -> None:
    """What the tables are made of, for programs."""
    view = seen()
    found = json.loads(as_json(view))
    (kind,) = found["kinds"]
    assert kind["clients"] == found["clients"] == 4
    assert kind["assignment"]["total_s"]["median"] == view.work[0].total_s.median
    assert kind["there"] == [4] * LOOKS
    assert found["bytes"] == view.carried._asdict()
    assert [len(c["by_class"]) for c in found["data"]["clients"]] == [10] * 4
    assert sum(sum(c["by_class"]) for c in found["data"]["clients"]) == 240


def test_the_page_stands_alone(tmp_path: Path) -> None:
    """It loads nothing, escapes names, draws what there is and follows light and dark."""
    some = trace(tmp_path, "0,0,21600", "1,0,86400", "3,43200,86400")
    text = page(seen(some, "name='<b>'", "fleet.spread=0.3"))
    assert "<b>" not in text
    assert text.count("<svg") == 4
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)[^\"]*\"", text)
    assert not re.findall(r"#000[0-9a-f]{3}\b", text)
    assert set(re.findall(r"var\(--(\w+)\)", text)) <= set(re.findall(r"--(\w+):", text))


def test_clients_that_are_all_alike_are_not_drawn() -> None:
    """A picture of dots in one place says nothing; one that differs is drawn with them."""
    text = page(seen())
    assert "All clients are alike in speed and link." in text
    assert text.count("<svg") == 2
    for change in ("fleet.spread=0.1", "fleet.regions={near: {}, far: {bandwidth: 0.5}}"):
        assert "A dot is a client." in page(seen(change))


def test_classes_have_names() -> None:
    """Where the data names its classes the page does, too, and numbers them where it does not."""
    view = seen()
    assert view.data is not None
    assert "class 3" in page(view)
    names = tuple(f"kind <{at}>" if at else "a name that is much too long" for at in range(10))
    named = replace(view, data=replace(view.data, class_names=names))
    text = page(named)
    assert "kind &lt;3&gt;" in text
    assert "a name that is much too…" in text
    assert "class 3" not in text
    assert json.loads(as_json(named))["data"]["class_names"] == list(names)
    many = replace(view.data, class_names=names, sampled=view.data.sampled[:2])
    assert "kind &lt;3&gt;" in page(replace(view, data=many)), "also in a heat map"


@pytest.mark.parametrize("width", [80, 90, 132])
def test_no_number_is_broken_in_a_narrow_terminal(width: int) -> None:
    """Every figure stands whole on one line, and no line of a table is wider than the terminal."""
    view = seen(
        "fleet.mix=[{profile: single-board-computer}, {profile: slow, joins_s: 12 h}]",
        "fleet.clients=8",
        "fleet.spread=0.5",
        "fleet.regions={near: {share: 3}, far: {bandwidth: 0.5, latency_s: 1}}",
        "fleet.availability={kind: churn}",
    )
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)
    with console.capture() as captured:
        show(view, console)
    lines = captured.get().split("A client that holds no model")[0].splitlines()
    assert max(map(len, lines)) <= width
    whole = {cell for line in lines for cell in re.split(r"\s{2,}", line.strip())}
    figures = {cell for sheet in sheets(view) for row in sheet.cells for cell in row[sheet.words :]}
    assert any(cell.startswith("0.0") for cell in figures)
    assert figures <= whole


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    """A folder that is not there is said, with the option's name."""
    with pytest.raises(ExperimentError, match=r"--html .* cannot be written: No such file"):
        write(seen(), tmp_path / "nowhere" / "page.html")


def test_the_command(tmp_path: Path) -> None:
    """Options are taken, and a fresh process with another hash seed writes the same page."""
    file, html = tmp_path / "tiny.yaml", tmp_path / "page.html"
    file.write_text(TINY, encoding="utf-8")
    words = ["fleet", str(file), "--set", "fleet.spread=0.5", "--json", "--html", str(html)]
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": "4242"},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    view = seen("fleet.spread=0.5")
    assert json.loads(done.stdout)["kinds"] == json.loads(as_json(view))["kinds"]
    assert html.read_text(encoding="utf-8") == page(view)
