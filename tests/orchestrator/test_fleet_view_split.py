"""A split model's fleet before anything runs: as the engine has it, and how it is shown."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from actors.learning.holdings import Sizes
from orchestrator.cuts import Job, shortest
from orchestrator.document import Document
from orchestrator.experiment import CHECKS, Experiment
from orchestrator.fleet import Fleet
from orchestrator.hosting import Node
from orchestrator.plan import Plan, SplitPlan
from orchestrator.portions import Portions
from orchestrator.stages import Ask, Compute, Download
from orchestrator.views.fleet_view import FleetView, look
from orchestrator.views.fleet_view_page import page
from orchestrator.views.fleet_view_show import as_json, show
from orchestrator.views.fleet_view_split import Exchanges
from orchestrator.views.fleet_view_tables import sheets
from orchestrator.views.fleet_view_walk import Hop, Start, Walk
from policies.types import ExperimentError

TINY = """
name: tiny
data: {source: digits, train_examples: 240}
model: {kind: "split_nets:Parts", width: 14}
topology: {kind: split, flops: 2e5}
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
    strong: {flops: 1e12, memory_bytes: 1 GB, compute_watts: 2, radio_watts: 1,
             uplink: 10 kbit/s, downlink: 10 kbit/s, latency_s: 0.05}
    weak: {flops: 1e3, memory_bytes: 1 GB, compute_watts: 2, radio_watts: 1,
           uplink: 1 Gbit/s, downlink: 1 Gbit/s, latency_s: 0.0001}
method: {concurrency: 1, training: {kind: sgd, lr: 0.1, batch_size: 25}}
stop: {versions: 9}
tracking: {enabled: false}
"""
HERE = ([Node("here", {"CPU": 2.0})], None)
FROZEN = 'model={kind: "split_nets:Parts", width: 14, head: frozen, body: frozen}'
HEADLESS = 'model={kind: "split_nets:Parts", width: 14, head: frozen, body: second}'
HEADED = 'model={kind: "split_nets:Parts", width: 14, body: frozen}'
TWO = "fleet.mix=[{profile: strong}, {profile: weak}]"


def made(*assignments: str) -> Experiment:
    document = Document.parse(TINY, "tiny.yaml")
    document.override(assignments, Experiment)
    return document.validate(Experiment, CHECKS)


def seen(*assignments: str) -> FleetView:
    return look(made(*assignments), HERE)


def exchanges(view: FleetView) -> Exchanges:
    (one,) = view.work
    assert one.exchanges is not None
    return one.exchanges


def gradient(kind: str, **settings: Any) -> str:
    said = "".join(f", {name}: {value}" for name, value in settings.items())
    return f"topology.gradient={{kind: {kind}{said}}}"


# ------------------------------------------------------------------ as the engine has it

RUNS: dict[str, tuple[str, ...]] = {
    "both trained": (),
    "frozen head": (HEADLESS,),
    "a block on the device": (HEADLESS, "topology.cut=1"),
    "kept features": (FROZEN,),
    "kept features, cut": (FROZEN, "topology.cut=2"),
    "all of the encoder": (FROZEN, "topology.cut=all"),
    "all behind a trained head": (HEADED, "topology.cut=all"),
    "forward": (gradient("forward-difference", directions=2),),
    "central": (gradient("central-difference", directions=2, head="parameters"),),
    "half precision": ("topology.activations={kind: dense, values: fp16}",),
    "in bytes": ("topology.activations={kind: dense, values: int8}",),
    "jitter": ("fleet.jitter={kind: lognormal}", "fleet.spread=0.5"),
}


@pytest.mark.parametrize("how", RUNS)
def test_assignments_take_what_they_take_in_a_run(how: str, ran: Any) -> None:
    """Seconds, joules and bytes of a client's first update, and the seconds of its second one."""
    clients = ("fleet.clients=1", "data.train_examples=60")
    view, found = seen(*RUNS[how], *clients), ran(made(*RUNS[how], *clients))
    one, (work,) = exchanges(view), view.work
    jitter = how == "jitter"

    def of(kind: str, number: int) -> list[dict[str, Any]]:
        return [row for row in found.of(kind) if row["number"] == number]

    def took_s(number: int) -> float:
        (begun,), (ended,) = of("dispatched", number), of("arrived", number)
        return float(ended["time_s"] - begun["time_s"])

    asked, replied, equipped = (of(kind, 0) for kind in ("asked", "replied", "equipped"))
    (arrived,) = of("arrived", 0)
    up, down = (sum(r["uplink_bytes"] for r in asked), sum(r["downlink_bytes"] for r in replied))
    once = sum(row["downlink_bytes"] for row in equipped)
    assert one.questions.median == len(asked)
    assert (one.asked_bytes.median, one.replied_bytes.median) == (up, down)
    assert one.once_bytes.median == once
    assert one.up_bytes.median == up + view.carried.least
    assert one.down_bytes.median == down + once + view.carried.down
    if not jitter:
        assert work.dense_total_s == pytest.approx((took_s(0), took_s(0)))
        assert work.dense_energy_j.median == pytest.approx(arrived["energy_j"])
        assert one.dense_later_s.median == pytest.approx(took_s(1))
    else:
        assert work.compute_s.median < work.compute_s.high


def test_an_assignment_by_hand() -> None:
    """A frozen head, one batch of 25 examples and one of 5: questions, passes, replies."""
    view = seen(HEADLESS, "fleet.clients=1", "data.train_examples=30", "topology.cut=1")
    one, (work,) = exchanges(view), view.work
    assert one.blocks == {"1": 1.0}
    assert one.questions.median == 3, "two batches, and the answer to the second"
    block, pool = 2 * 14 * 14, 2 * 14 * 3
    body, rows = block + pool, 30
    assert one.encoder_s.median == pytest.approx(body * (rows + 3 * 25) / 2e5)
    assert one.works_s.median == pytest.approx(body * (rows + 3 * rows) / 2e5)
    sent = 4 * (64 * 12 + 12 + 12 * 14 + 14)
    assert one.once_bytes == (sent, sent)
    assert one.once_s.median == pytest.approx(0.5 + sent / 1e4)
    head, tail = 2 * (64 * 12 + 12 * 14), 2 * 3 * 10
    assert work.compute_s.median == pytest.approx((head + 3 * tail) * rows / 1e6)
    assert work.download_s.median == pytest.approx(1 + (sent + view.carried.down) / 1e4)
    asks = 3 * 0.5 + one.asked_bytes.median / 1e3
    replies = 2 * 0.5 + one.replied_bytes.median / 1e4
    assert one.exchange_s.median == pytest.approx(asks + one.encoder_s.median + replies)
    total = sum(part.median for part in (work.download_s, work.compute_s, one.exchange_s))
    assert work.total_s.median == pytest.approx(total + work.upload_s.median)
    assert one.later_s.median == pytest.approx(work.total_s.median - one.once_s.median)
    assert work.an_hour == pytest.approx(3600 / one.later_s.median)


def test_features_are_asked_for_once() -> None:
    """Where nothing but the tail is trained a later assignment asks nothing."""
    one = exchanges(seen(FROZEN))
    assert one.questions == (1, 1)
    assert one.works_s == (0, 0)
    assert one.later_s.median < seen(FROZEN).work[0].total_s.median - one.exchange_s.median


def test_largest_activations_take_about_what_they_take(ran: Any) -> None:
    """Where positions are coded, lengths depend on the numbers: within a few per cent."""
    how = ("topology.activations={kind: top-k, density: 0.3}", "fleet.clients=1")
    asked = [r for r in ran(made(*how, "stop.versions=1")).of("asked") if r["number"] == 0]
    bytes_up = sum(row["uplink_bytes"] for row in asked)
    assert exchanges(seen(*how)).asked_bytes.median == pytest.approx(bytes_up, rel=0.05)


def test_huge_messages_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their bound stands for their length, and is close to it."""
    written = exchanges(seen())
    monkeypatch.setattr("orchestrator.views.fleet_view_split._MOST_WRITTEN", 0)
    bound = exchanges(seen())
    assert bound.asked_bytes.median == pytest.approx(written.asked_bytes.median, rel=0.01)
    assert bound.replied_bytes.median == pytest.approx(written.replied_bytes.median, rel=0.01)


def test_time_passes_in_every_stage() -> None:
    """What comes next begins when all before it is done, the encoder's work included."""
    fleet = Fleet.draw(made().fleet, 0)
    walk = Walk(fleet, Start(0, 0, 100.0))
    hops = (Hop(100, 7.0, 200), Hop(100, 7.0, 0))
    walk.through((Download(10), Compute(1e6), Ask(0), Compute(1e6), Ask(0)), hops)
    assert walk.seconds["encoder"] == 7.0, "nobody waits where there is no reply"
    assert walk.now_s == pytest.approx(100.0 + sum(walk.seconds.values()))


# ------------------------------------------------------------------ where to cut


def test_auto_is_what_the_engine_chooses(ran: Any) -> None:
    """Each kind computes the blocks that a run gives it."""
    how = (TWO, FROZEN, "topology.cut=auto", "topology.flops=1e4", "fleet.clients=4")
    view, found = seen(*how), ran(made(*how, "stop.versions=12"))
    names = found.engine.fleet.profile_names()
    told = {
        (names[row["client"]], row["detail"].split()[0])
        for row in found.of("equipped")
    }  # fmt: skip
    assert told == {
        (group.profile.name, cut)
        for group, one in zip(view.groups, view.work, strict=True)
        if one.exchanges is not None
        for cut in one.exchanges.blocks
    }
    assert told == {("strong", "all"), ("weak", "0")}


def test_a_cut_that_does_not_fit_is_not_chosen() -> None:
    """The shortest of those whose memory the device has, and the least if it has none."""
    plan_of = made(TWO, FROZEN, "topology.cut=auto", "topology.flops=1e4")
    shape = seen(FROZEN).shape
    split = SplitPlan.of(plan_of, shape)
    assert split is not None
    needed = [split.process(60, cut, known=False).memory.bytes(25) for cut in range(4)]
    assert needed == sorted(needed)
    for memory, cut in (
        (needed[3], 3),
        (needed[3] - 1, 2),
        (needed[2], 2),
        (needed[2] - 1, 1),
        (needed[1] - 1, 0),
        (1, 0),
    ):
        profile = plan_of.fleet.profiles["strong"].model_copy(update={"memory_bytes": memory})
        settings = plan_of.fleet.model_copy(update={"profiles": {
            **plan_of.fleet.profiles, "strong": profile}})  # fmt: skip
        fleet = Fleet.draw(settings, 0)
        client = fleet.profile_names().index("strong")
        portions = Portions.asked_by(Plan.of(plan_of, shape, Sizes(np.array([60]), np.zeros(1))))
        assert shortest(split, portions, fleet, Job(client, 60, 0.0)) == cut


def chosen(*how: str, examples: int = 60) -> int:
    """Return where `auto` cuts for the first client."""
    experiment = made(*how, "topology.cut=auto")
    view = look(experiment, HERE)
    plan = Plan.of(experiment, view.shape, Sizes(np.array([examples]), np.zeros(1)))
    assert plan.split is not None
    fleet = Fleet.draw(experiment.fleet, 0)
    return shortest(plan.split, Portions.asked_by(plan), fleet, Job(0, examples, 0.0))


def test_what_must_be_sent_counts_where_all_is_done_once() -> None:
    """Over a slow downlink features are shorter than what computes them; kept weights are not."""
    device = (
        "fleet.profiles.slow={flops: 1e12, memory_bytes: 1 GB, compute_watts: 2, radio_watts: 1, "
        "uplink: 1 Gbit/s, downlink: %s, latency_s: 0.1}"
    )
    assert chosen(FROZEN, device % "1 kbit/s", "topology.flops=1e9") == 0
    assert chosen(FROZEN, device % "1 Gbit/s", "topology.flops=1e9") == 3


def test_batches_that_fit_are_compared_by_their_examples() -> None:
    """A cut that leaves room for two examples a batch is no shorter than one for four."""
    least = "method.workload={kind: equal, least_batch: 2}"
    device = (
        "fleet.profiles.slow={flops: 1e12, memory_bytes: %d B, compute_watts: 2, radio_watts: 1, "
        "uplink: 1 Mbit/s, downlink: 1 Mbit/s, latency_s: 0.1}"
    )
    view = seen(HEADLESS, "topology.cut=auto")
    split = SplitPlan.of(view.experiment, view.shape)
    assert split is not None
    near, far = (split.process(60, cut, known=False).memory for cut in (0, 1))
    between = far.bytes(2)
    assert (near.most(between, 25), far.most(between, 25)) == (4, 2)
    how = (HEADLESS, least, "topology.flops=1e5")
    assert chosen(*how, device % between) == 0
    assert chosen(*how, device % 10**9) == 1


def test_memory_is_that_of_the_blocks_on_the_device() -> None:
    """Each kind's share of its own device, by the blocks that it computes."""
    view = seen(TWO, FROZEN, "topology.cut=auto", "topology.flops=1e4")
    split = SplitPlan.of(view.experiment, view.shape)
    assert split is not None
    assert view.data is not None
    shares = [kind["memory_share"] for kind in json.loads(as_json(view))["kinds"]]
    for group, one, share in zip(view.groups, view.work, shares, strict=True):
        assert one.exchanges is not None
        (runs,) = one.exchanges.blocks
        (cut,) = (cut for cut, ends in split.ends.items() if ends.runs == runs)
        examples = int(view.data.sizes[group.members].max())
        needed = split.process(examples, cut, known=False).memory.bytes(25)
        assert one.training_bytes == needed
        assert share == needed / 1e9
    assert view.training_bytes == max(one.training_bytes for one in view.work)
    assert view.parameters == split.ends[0].parameters


def test_silos_are_refused_here_too() -> None:
    """Who leaves out the checks of a file is told why nothing can be forecast."""
    document = Document.parse(TINY, "tiny.yaml")
    silos = "data={source: silos, call: 'json:loads', clients: [a], input: [1, 8, 8], classes: 10}"
    document.override([silos, "fleet.clients=1"], Experiment)
    with pytest.raises(ExperimentError, match="topology split needs clients whose examples are"):
        look(document.validate(Experiment, ()), HERE)


# ------------------------------------------------------------------ how it is shown


def terminal(view: FleetView, width: int) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)
    with console.capture() as captured:
        show(view, console)
    return captured.get()


@pytest.mark.parametrize("width", [80, 132])
def test_no_number_is_broken_in_a_narrow_terminal(width: int) -> None:
    """Every figure stands whole on one line, and no line of a table is wider than the terminal."""
    view = seen(TWO, FROZEN, "topology.cut=auto", "fleet.link={kind: varying}")
    lines = terminal(view, width).split("A client that holds no model")[0].splitlines()
    assert max(map(len, lines)) <= width
    whole = {cell for line in lines for cell in re.split(r"\s{2,}", line.strip())}
    figures = {cell for sheet in sheets(view) for row in sheet.cells for cell in row[sheet.words :]}
    assert figures <= whole


def test_the_encoders_load_by_hand() -> None:
    """So many clients, an assignment's passes by an assignment's length; replicas share them."""
    frozen_body = 'model={kind: "split_nets:Parts", width: 14, body: frozen}'
    for replicas, words in ((1, "an encoder"), (2, "2 encoders")):
        view = seen(frozen_body, "method.concurrency=3", f"topology.replicas={replicas}")
        one = exchanges(view)
        load = 3 * one.works_s.median / one.later_s.median / replicas
        text = " ".join(terminal(view, 300).split())
        found = re.search(r"3 clients at work ask for ([\d.]+) % of what (.*) can compute", text)
        assert found is not None
        assert float(found[1]) == pytest.approx(100 * load, rel=0.01)
        assert found[2] == words
    assert "waits in line" not in terminal(seen(FROZEN), 300), "they ask once"
    assert "waits in line" not in terminal(seen("topology=whole"), 300)


def test_columns_are_for_split_models_alone() -> None:
    """A whole model has no exchanges, and nothing of its tables changes."""
    columns = {sheet.title: sheet.columns for sheet in sheets(seen("topology=whole"))}
    assert "Exchanges with the encoder" not in columns
    assert "exchanges" not in columns["One assignment"]
    assert (
        json.loads(as_json(seen("topology=whole")))["kinds"][0]["assignment"]["exchanges"] is None
    )
    columns = {sheet.title: sheet.columns for sheet in sheets(seen())}
    assert "blocks on the device" in columns["Exchanges with the encoder"]
    assert "exchanges" in columns["One assignment"]


def test_the_page_and_json_show_the_exchanges() -> None:
    """A table, a bar, and the same figures for programs."""
    view = seen(TWO, FROZEN, "topology.cut=auto", "topology.flops=1e4")
    text = page(view)
    assert "Exchanges with the encoder" in text
    assert ">exchanges<" in text
    assert ">exchanges<" not in page(seen("topology=whole"))
    kinds = json.loads(as_json(view))["kinds"]
    assert [kind["assignment"]["exchanges"]["blocks"] for kind in kinds] == [
        {"all": 1.0},
        {"0": 1.0},
    ]
    found = kinds[0]["assignment"]["exchanges"]["later_s"]["median"]
    assert view.work[0].exchanges is not None
    assert found == view.work[0].exchanges.later_s.median


def test_deadlines_are_those_of_later_assignments() -> None:
    """What is sent once delays one round; a deadline that each assignment misses is a mistake."""
    rounds = "method.aggregation={kind: fedavg, clients_per_round: 4, deadline_s: %r}"
    one = exchanges(seen(HEADLESS))
    for limit, topics in ((1 + 1e-9, []), (1 - 1e-9, ["deadline"])):
        view = seen(HEADLESS, rounds % (one.later_s.median * limit))
        assert [finding.topic for finding in view.findings] == topics
