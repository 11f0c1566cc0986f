"""Does a run with an encoder keep its order, its accounts, and nothing else?"""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file

from actors.learning.holdings import hold
from actors.server import whole_model
from orchestrator import checkpoint
from orchestrator.engine import Interrupted
from orchestrator.mistakes import ExperimentFileError
from orchestrator.request import Request
from orchestrator.run import run
from orchestrator.tracking.trained import take_up
from policies.types import Version

MODEL = 'model={kind: "split_nets:Parts", width: 14}'
FROZEN = 'model={kind: "split_nets:Parts", width: 14, head: frozen, body: frozen}'
HEADLESS = 'model={kind: "split_nets:Parts", width: 14, head: frozen, body: second}'
SPLIT = (
    MODEL,
    "topology={kind: split, rate: 0.05}",
    "method.uplink.kind=dense",
    "method.training={kind: sgd, lr: 0.1, batch_size: 10}",
    "stop.versions=4",
)
SHORT_STAYS = (
    ("fleet.profiles={slow: {flops: 2e6, memory_bytes: 1 GB, compute_watts: 2, radio_watts: 1, "
    "uplink: 1 Mbit/s, downlink: 100 kbit/s, latency_s: 0.05, on_leave: lost}}"),
    "fleet.mix=[{profile: slow}]",
    "fleet.availability={kind: churn, mean_on_s: 3, mean_off_s: 0.3}",
)  # fmt: skip
UNLIKE = (
    (
        "fleet.profiles={strong: {flops: 1e12, memory_bytes: 1 GB, compute_watts: 2, "
        "radio_watts: 1, uplink: 10 kbit/s, downlink: 10 kbit/s, latency_s: 0.05}, "
        "weak: {flops: 1e5, memory_bytes: 1 GB, compute_watts: 2, radio_watts: 1, "
        "uplink: 1 Gbit/s, downlink: 1 Gbit/s, latency_s: 0.0001}}"
    ),
    "fleet.mix=[{profile: strong}, {profile: weak}]",
)
GRADIENTS = {
    "forward": "{kind: forward-difference, directions: 2}",
    "central": "{kind: central-difference, directions: 2, head: parameters}",
}


def topology(**settings: Any) -> str:
    said = ", ".join(f"{name}: {value}" for name, value in settings.items())
    return f"topology={{kind: split, rate: 0.05, {said}}}"


VARIETY = {
    "both trained": (),
    "frozen head": (HEADLESS,),
    "known features": (FROZEN,),
    "forward": (topology(gradient=GRADIENTS["forward"]),),
    "central": (topology(gradient=GRADIENTS["central"]),),
    "busy encoder": (topology(flops="2e5", momentum=0.9),),
    "falling rate": (topology(rate_final=0.001, rate_versions=3, flops="2e5"),),
    "two encoders": (
        'model={kind: "split_nets:Parts", width: 14, body: frozen}',
        topology(replicas=2, flops="1e5"),
    ),
    "short stays": (*SHORT_STAYS, topology(flops="2e5")),
    "rounds": ("method.aggregation={kind: fedavg, clients_per_round: 3}",),
    "drop-outs": ("fleet.drop_out=0.3",),
    "half precision": (topology(activations="{kind: dense, values: fp16}", noise=0.1),),
    "cut by itself": (HEADLESS, topology(cut="auto")),
    "features of one's own": (FROZEN, *UNLIKE, topology(cut="auto", flops="1e6")),
    "all on the devices": (
        FROZEN,
        UNLIKE[0],
        "fleet.mix=[{profile: weak}]",
        topology(cut="all"),
    ),
    "a head before all of it": (
        'model={kind: "split_nets:Parts", width: 14, body: frozen}',
        *UNLIKE,
        topology(cut="auto", flops="1e6"),
    ),
    "timed": (
        "method.workload={kind: timed, seconds: 0.01}",
        (
            "fleet.profiles={slow: {flops: 2e6, "
            "memory_bytes: 1 GB, compute_watts: 2, radio_watts: 1, uplink: 1 Mbit/s, "
            "downlink: 1 Mbit/s, latency_s: 0.05}}"
        ),
        "fleet.mix=[{profile: slow}, {profile: flagship-phone}]",
    ),
    "personal tails": (topology(tail="personal"), "evaluate.every_versions=1"),
    "nothing but tails at clients": (HEADLESS, topology(tail="personal")),
    "small batches": (
        HEADLESS,
        "method.workload={kind: timed, seconds: 0.005, least: 2, least_batch: 2}",
        topology(cut="auto"),
        (
            "fleet.profiles={slow: {flops: 2e6, memory_bytes: 6 kB, compute_watts: 2, "
            "radio_watts: 1, uplink: 1 Mbit/s, downlink: 1 Mbit/s, latency_s: 0.05}}"
        ),
        "fleet.mix=[{profile: slow}, {profile: flagship-phone}]",
    ),
    "impatient": (*SHORT_STAYS[:2], topology(timeout=1.3, flops="2e5")),
}


REFUSED = (
    (("model.kind=mlp",), "model mlp is in one piece.*pretrained"),
    ((topology(cut=1),), "block 1 is trained"),
    (('method.training={kind: "split_nets:OwnTraining"}',), "trains a model that is all there"),
    ((topology(replicas=2),), "replicas must be 1 where the encoder is trained"),
    (
        (
            "data={source: digits, train_examples: 240, holdout: 200}",
            "method.correction={kind: step-distillation, steps: 3}",
        ),
        "step-distillation computes the whole model",
    ),
    (("fleet.regions={near: {cell: {latency_s: 0.001}}}",), "clients ask one encoder"),
    (
        ("data={source: movielens, partition: {kind: natural}}", "evaluate.kind=federated"),
        "federated tests the whole model",
    ),
    ((FROZEN, topology(tail="personal")), "tail: personal leaves nothing to learn together"),
    (
        (HEADLESS, topology(tail="personal"), "server.shards=2"),
        "shards must be 1, got 2: with topology.tail personal and a frozen head",
    ),
    (
        (HEADLESS, topology(tail="personal"), "faults=[{fault: huge, client: 1}]"),
        "huge spoils the numbers of an update",
    ),
    (("topology={kind: whole, tail: personal}",), "tail"),
    ((topology(step=2),), "step"),
    (
        (
            FROZEN,
            "data={source: movielens, partition: {kind: natural, drift: {window: 0.5}}}",
        ),
        "features are computed once where nothing but the tail is trained",
    ),
    ((topology(cut="all"),), "cut all runs all of the encoder on the devices"),
    (
        (
            'model={kind: "split_nets:Parts", width: 14, body: frozen}',
            topology(cut=3, gradient=GRADIENTS["forward"]),
        ),
        "cut 3 runs all .* Take auto or a lower number",
    ),
    (("topology={kind: split, rate: 0, rate_final: 0.1}",), "a rate above 0 to begin with"),
    ((topology(cut="none"),), "cut"),
)


@pytest.mark.parametrize(("how", "says"), REFUSED)
def test_what_cannot_be_is_refused(small: Any, how: tuple[str, ...], says: str) -> None:
    """The message names the place, the rule and the way out."""
    with pytest.raises(ExperimentFileError, match=says):
        small(*SPLIT, *how)


def test_a_word_stands_for_the_defaults(small: Any) -> None:
    """`topology: split` is a topology with its defaults."""
    assert (
        small(MODEL, "topology=split").topology == small(MODEL, "topology={kind: split}").topology
    )


@pytest.mark.parametrize("kind", ["exact", "forward-difference"])
def test_on_the_wall(small: Any, ran: Any, kind: str) -> None:
    """On the wall clock the same exchanges happen when they happen."""
    how = ("clock=wall", "wall.delays=false", topology(gradient=f"{{kind: {kind}}}"))
    found = ran(small(*SPLIT, *how, "stop.versions=3"))
    balances(found.engine, found.rows)
    assert found.state.versions.newest.number == 3
    assert found.of("served")


def balances(engine: Any, rows: list[dict[str, Any]]) -> None:
    """Check that nothing is lost and nothing stays behind."""
    state, ledger = engine.state, engine.state.ledger
    ended = ledger.committed + ledger.rejected + ledger.superseded + ledger.lost
    assert ledger.dispatched == ended + len(state.flights)
    up = sum(row["uplink_bytes"] or 0 for row in rows)
    down = sum(row["downlink_bytes"] or 0 for row in rows)
    assert (up, down) == (ledger.uplink_bytes, ledger.downlink_bytes)
    asked = sum(row["uplink_bytes"] for row in rows if row["kind"] == "asked")
    replied = sum(row["downlink_bytes"] for row in rows if row["kind"] == "replied")
    assert replied == ledger.activation_downlink_bytes
    lost = [row for row in rows if row["kind"] == "lost" and row["detail"] == "in its ask"]
    assert asked + sum(row["uplink_bytes"] for row in lost) == ledger.activation_uplink_bytes
    waits = {w.address for w in state.encoder.queue}
    waits |= {w.address for u in state.encoder.passes.values() for w in u.members}
    for flight in state.flights.values():
        if flight.talk.waits:
            assert flight.address in waits


@pytest.mark.parametrize("how", VARIETY)
def test_a_run_ends_with_its_accounts_in_order(small: Any, ran: Any, how: str) -> None:
    """Every byte is in the log and in the ledger, and what was asked was answered or given up."""
    found = ran(small(*SPLIT, *VARIETY[how]))
    balances(found.engine, found.rows)
    assert found.state.versions.newest.number == 4
    assert found.state.last_evaluation is not None
    assert bool(found.of("served")) is (how != "all on the devices")


@pytest.mark.parametrize("how", VARIETY)
def test_cut_anywhere_it_goes_on_to_the_same_end(
    small: Any, build: Any, ran: Any, ended: Any, tmp_path: Path, how: str
) -> None:
    """A run that is interrupted between any two events, and resumed, has the same digest."""
    experiment = small(*SPLIT, *VARIETY[how])
    seen = 0

    def count(_: Any) -> None:
        nonlocal seen
        seen += 1

    whole = ran(experiment, between_events=count)
    total = seen
    for share in (0.37, 0.81):
        at, seen = int(share * total), 0

        def stop(_: Any, at: int = at) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                raise Interrupted

        folder = tmp_path / f"{share}"
        engine = build(experiment, folder=folder / "log", between_events=stop)
        engine.begin()
        with pytest.raises(Interrupted):
            engine.run()
        checkpoint.save(engine, folder / "checkpoint")
        saved = checkpoint.load(folder / "checkpoint")
        assert saved is not None
        again = build(experiment, begin_s=saved.state["time_s"], folder=folder / "log")
        again.events.truncate(saved.state["events_rows"])
        checkpoint.restore(again, saved)
        again.run()
        assert ended(again).digest == whole.digest


def test_the_encoder_learns(small: Any, ran: Any) -> None:
    """Its weights move with what clients tell, and a version is tested with those of its time."""
    found = ran(small(*SPLIT))
    encoder = found.state.encoder
    first, newest = found.engine.runtime.encoder_weights(), encoder.weights.handle
    assert encoder.weights.version == sum(row["hash"] != "" for row in found.of("served"))
    assert np.abs(newest.view(np.float32) - first.view(np.float32)).max() > 1e-3
    newest_version = found.state.versions.published(found.state.versions.newest)
    assert 0 < newest_version.encoder.version <= encoder.weights.version


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ((), {"embedding", "blocks", "pool", "tail"}),
        ((HEADLESS,), {"blocks", "tail"}),
        ((FROZEN,), {"tail"}),
    ],
)
def test_what_the_encoder_has_learnt_is_kept(
    how: tuple[str, ...], parts: set[str], small: Any, tmp_path: Path
) -> None:
    """The model that a run leaves is whole: taken up, it is as good as its last test found."""
    experiment = small(*SPLIT, topology(momentum=0.5), *how, "evaluate.every_versions=3")
    summary = run(Request(experiment, tmp_path / "run", in_process=True), Console(file=StringIO()))
    module = take_up(tmp_path / "run" / "model")
    data = hold(experiment.data, 6, experiment.seed).data
    logits = module(torch.from_numpy(data.normalise(data.x_test).copy()))
    right = logits.argmax(dim=1).numpy() == data.y_test
    assert right.mean() == pytest.approx(summary.final_accuracy)
    found = load_file(tmp_path / "run" / "model" / "final.safetensors")
    assert {name.split(".")[0] for name in found} == parts


def test_the_log_says_how_the_rate_falls(small: Any, ran: Any) -> None:
    """From pass to pass it is never higher, and ends where it should; a plain one is not told."""
    found = ran(small(*SPLIT, topology(rate_final=0.001, rate_versions=2)))
    details = [row["detail"] for row in found.of("served") if row["hash"]]
    rates = [float(detail.partition(" at rate ")[2]) for detail in details]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[-1]) == (0.05, 0.001)
    plain = ran(small(*SPLIT))
    assert not any("rate" in row["detail"] for row in plain.of("served"))
    assert plain.digest != found.digest


def test_waiting_questions_go_in_one_pass(small: Any, ran: Any) -> None:
    """What queued while the encoder was busy is computed together, up to `batch` examples."""
    slow = ran(small(*SPLIT, topology(flops="2e4")))
    sizes = [row["examples"] for row in slow.of("served")]
    assert max(sizes) > 20
    capped = ran(small(*SPLIT, topology(flops="2e4", batch=20)))
    assert max(row["examples"] for row in capped.of("served")) == 20
    assert slow.digest != capped.digest


def test_features_are_computed_once(small: Any, ran: Any) -> None:
    """With only the tail to train each client asks once, and the log says that it is kept."""
    found = ran(small(*SPLIT, FROZEN, "stop.versions=20"))
    asked = [row["client"] for row in found.of("asked")]
    assert sorted(asked) == sorted(set(asked))
    assert len(asked) == 6
    assert all("kept" in row["detail"] for row in found.of("replied"))
    assert found.state.ledger.committed == 60


def test_a_device_is_sent_its_blocks_once(small: Any, ran: Any) -> None:
    """What runs on a device and is not trained is sent with its first assignment."""
    found = ran(small(*SPLIT, HEADLESS, topology(cut=1), "stop.versions=20"))
    sent = found.of("equipped")
    assert sorted(row["client"] for row in sent) == list(range(6))
    head, block = 64 * 12 + 12, 12 * 14 + 14
    assert {row["downlink_bytes"] for row in sent} == {4 * (head + block)}


@pytest.mark.parametrize("head", ["frozen", "trained"])
def test_all_of_the_encoder_can_run_on_the_devices(small: Any, ran: Any, head: str) -> None:
    """Nothing is asked, what is frozen is sent once, and the run is that of the whole model."""
    model = f'model={{kind: "split_nets:Parts", width: 14, head: {head}, body: frozen}}'
    alone = (*SPLIT, model, UNLIKE[0], "fleet.mix=[{profile: weak}]", "fleet.jitter.kind=none",
             "fleet.clients=1", "method.concurrency=1", "stop.versions=6",
             "method.aggregation.size=1")  # fmt: skip
    found = ran(small(*alone, topology(cut="all")))
    for kind in ("asked", "replied", "served"):
        assert not found.of(kind)
    ((sent,), whole) = found.of("equipped"), ran(small(*alone, "topology=whole"))
    inside, before = (12 + 1) * 14 + (14 + 1) * 14 + (14 + 1) * 3, (64 + 1) * 12
    assert sent["detail"] == "all of the encoder"
    assert sent["downlink_bytes"] == 4 * (inside + before * (head == "frozen"))
    first, second, *_ = (row["device_s"] for row in found.of("arrived"))
    share = second / first
    assert share < 0.5 if head == "frozen" else share > 0.9, "features are computed once"
    tail = slice(-(3 + 1) * 10, None)
    ends = [one.engine.runtime.fetch(one.state.versions.handle(one.state.versions.newest))
            for one in (found, whole)]  # fmt: skip
    tails = [
        whole_model(end, one.engine.schema)[tail]
        for end, one in zip(ends, (found, whole), strict=True)
    ]
    np.testing.assert_allclose(*tails, atol=1e-5)
    balances(found.engine, found.rows)


def test_an_answer_that_does_not_come_is_not_waited_for(small: Any, ran: Any) -> None:
    """After the timeout a client's update is lost with its reason, and nothing is kept of it."""
    near = (
        "fleet.profiles={far: {flops: 1e9, memory_bytes: 1 GB, compute_watts: 2, radio_watts: 1, "
        "uplink: 1 Mbit/s, downlink: 1 Mbit/s, latency_s: 0.2}, "
        "near: {flops: 1e9, memory_bytes: 1 GB, compute_watts: 2, radio_watts: 1, "
        "uplink: 1 Mbit/s, downlink: 1 Mbit/s, latency_s: 0.001}}"
    )
    found = ran(small(*SPLIT, near, "fleet.mix=[{profile: far}, {profile: near}]",
                      topology(timeout=0.3)))  # fmt: skip
    names = found.engine.fleet.profile_names()
    lost = found.of("lost")
    assert {(names[row["client"]], row["reason"]) for row in lost} == {("far", "timed_out")}
    assert {names[row["client"]] for row in found.of("committed")} == {"near"}
    assert all(row["device_s"] > 0 for row in lost)
    forgotten = {(row["client"], row["number"]) for row in found.of("forgotten")}
    assert {(row["client"], row["number"]) for row in lost} <= forgotten
    for flight in found.state.flights.values():
        if flight.talk.forgotten:
            assert flight.talk.weights is flight.talk.question is None
    balances(found.engine, found.rows)


def test_auto_cuts_by_device_and_link(small: Any, ran: Any) -> None:
    """A device faster than the encoder computes blocks itself; a slower one does not."""
    found = ran(small(*SPLIT, *UNLIKE, FROZEN, topology(cut="auto", flops="1e6")))
    blocks = {
        found.engine.fleet.profile_names()[row["client"]]: row["detail"]
        for row in found.of("equipped")
    }
    assert blocks["weak"] == "0 blocks"
    assert blocks["strong"] == "all of the encoder"


def test_the_table_of_clients_has_the_memory_of_their_blocks(small: Any, tmp_path: Path) -> None:
    """A device that `auto` gave the whole encoder is as full as that makes it."""
    how = small(*SPLIT, *UNLIKE, FROZEN, topology(cut="auto", flops="1e6"), "stop.versions=6")
    run(Request(how, tmp_path / "run", in_process=True), Console(file=StringIO()))
    clients = pd.read_parquet(tmp_path / "run" / "clients.parquet")
    frozen = (64 + 1) * 12 + (12 + 1) * 14 + (14 + 1) * 14 + (14 + 1) * 3
    for row in clients.itertuples():
        if row.profile == "strong":
            inputs, sent, kept = 64 + 12 + 14 + 14 + 3, frozen, row.examples * 3
        else:
            inputs, sent, kept = 64 + 12, (64 + 1) * 12, row.examples * 3
        once = 0 if row.profile == "strong" else row.examples * 12
        needed = 16 * 40 + 4 * sent + 4 * max(once, kept + 10 * inputs)
        assert row.memory_share == needed / 1e9, row.profile


def test_a_rollback_takes_the_encoder_back(small: Any, build: Any, ended: Any) -> None:
    """The best version comes back with the encoder of its time; older work teaches nothing."""
    experiment = small(*SPLIT, "stop.versions=9", "evaluate.every_versions=1")
    done = []

    def go_back(engine: Any) -> None:
        if not done and engine.state.versions.newest.number == 4 and engine.rollback():
            done.append(engine.state.best[1])

    engine = build(experiment, between_events=go_back)
    engine.begin()
    engine.run()
    found = ended(engine)
    assert done
    (back,) = found.of("rolled_back")
    before = [r for r in found.of("served") if r["time_s"] <= back["time_s"]]
    after = [r for r in found.of("served") if r["time_s"] > back["time_s"]]
    assert after[-1]["version"] > before[-1]["version"]
    assert found.state.versions.newest == Version(9, 1)
    balances(engine, found.rows)
