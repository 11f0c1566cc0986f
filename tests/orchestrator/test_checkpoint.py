"""A run that was cut anywhere goes on to the same end."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.learning.evaluation_torch import Evaluation
from orchestrator import checkpoint
from orchestrator.engine import Interrupted, State
from policies.types import ExperimentError

CELLS = (
    "fleet.regions={near: {cell: {latency_s: 0.001}}, "
    "far: {cell: {uplink: 1e5, downlink: 1e5, latency_s: 0.2}}}"
)
OWN = (
    "method.correction={kind: distillation, proxy: client, steps: 2, ramp: 4, "
    "gates: [delay, quality]}"
)
SHORT_STAYS = (
    (
        "fleet.profiles={slow: {flops: 2e6, memory_bytes: 1 GB, compute_watts: 2, radio_watts: 1, "
        "uplink: 1 Mbit/s, downlink: 100 kbit/s, latency_s: 0.05, on_leave: lost}}"
    ),
    "fleet.mix=[{profile: slow}]",
    "fleet.availability={kind: churn, mean_on_s: 3, mean_off_s: 0.3}",
    "method.downlink={kind: difference, ring: 1 MB}",
)
VARIETY = (
    (),
    ("method.aggregation.kind=fedasync",),
    ("method.aggregation={kind: fedavg, clients_per_round: 3, over_selection: 1.4}",),
    ("server.flops=2e4", "evaluate.every_versions=1"),
    (
        "guards.anomaly={length: 4, loss: 3, window: 12}",
        "faults=[{fault: huge, client: 1, number: 3}, {fault: huge, client: 2, number: 2}]",
    ),
    ("faults=[{fault: garbage, client: 2}, {fault: not-finite, client: 3}]",),
    ("clock=virtual", "method.uplink.kind=dense", "method.concurrency=6"),
    ("method.selection={kind: oort, pacer_window: 2}",),
    (
        "fleet.mix=[{profile: flagship-phone}, {profile: budget-phone}]",
        "method.training={kind: sgd, batch_size: 5, epochs: 2}",
        "method.workload={kind: timed, seconds: 2us, least: 2}",
    ),
    (
        "fleet.mix=[{profile: flagship-phone}, {profile: budget-phone}]",
        "method.training={kind: sgd, batch_size: 9, epochs: 2}",
        "method.workload={kind: timed, seconds: 2us, least: 3, least_batch: 2}",
    ),
    ("method.selection.kind=pisces", "method.aggregation.size=2"),
    (
        "data={source: digits, train_examples: 240, holdout: 200}",
        "method.correction={kind: step-distillation, steps: 3, ramp: 10}",
    ),
    (
        "data={source: digits, train_examples: 240, holdout: 200}",
        "method.correction={kind: distillation, steps: 2, ramp: 10, gates: [delay, quality]}",
        "guards.anomaly={kl: 1.5, window: 12}",
        "server.flops=2e7",
    ),
    (
        OWN,
        "method.downlink={kind: difference, ring: 1 MB}",
        "server.flops=2e4",
    ),
    (CELLS, "server.flops=2e5", "method.downlink.kind=difference"),
    (CELLS, "method.aggregation={kind: fedavg, clients_per_round: 3}"),
    (*SHORT_STAYS, OWN),
    *(
        (
            (
                f"fleet.profiles={{slow: {{flops: 1e6, memory_bytes: 1 GB, compute_watts: 2, "
                "radio_watts: 1, uplink: 1 Mbit/s, downlink: 1 Mbit/s, latency_s: 0.05, "
                f"on_leave: {on_leave}}}}}"
            ),
            "fleet.mix=[{profile: slow}]",
            "fleet.availability={kind: churn, mean_on_s: 0.4, mean_off_s: 0.3}",
            "fleet.drop_out=0.2",
            "method.downlink={kind: difference, ring: 1 MB}",
        )
        for on_leave in ("lost", "paused", "late")
    ),
)
GONE_WHILE_SENDING = (
    (
        "fleet.profiles={slow: {flops: 1e6, memory_bytes: 1 GB, compute_watts: 2, radio_watts: 1, "
        "uplink: 20 kbit/s, downlink: 1 Mbit/s, latency_s: 0.05, on_leave: lost}}"
    ),
    "fleet.mix=[{profile: slow}]",
    "fleet.availability={kind: churn, mean_on_s: 2, mean_off_s: 0.4}",
    "method.uplink={kind: packed, content: delta}",
    "method.pruning={kind: fedmap, density: 0.2, every: 2, schedule: {kind: recovered}}",
    "method.downlink.kind=difference",
    "stop.versions=5",
)
SPARSE = {
    "sparsyfed": (
        "method.training={kind: sparsyfed, lr: 0.3}",
        "method.uplink={kind: sparse-weights, density: 0.1}",
        "method.aggregation={kind: fedbuff, form: weights, size: 3}",
        "method.downlink.kind=sparse",
    ),
    "fedmap": (
        "method.uplink={kind: packed, content: delta}",
        "method.pruning={kind: fedmap, density: 0.2, every: 2, schedule: {kind: recovered}}",
        "method.downlink.kind=difference",
    ),
    "signs": (
        "method.uplink={kind: signs, density: auto}",
        "method.aggregation={kind: majority-vote, voters: 4, size: 3}",
        "method.downlink.kind=difference",
    ),
    "stc": (
        "method.uplink={kind: stc, density: 0.1}",
        "method.downlink={kind: top-k, values: level, scope: tensor, ring: 2000}",
    ),
    "rounded": (
        "method.uplink={kind: qsgd}",
        "method.downlink={kind: dense, values: int8}",
    ),
    "ring": ("method.downlink={kind: difference, ring: 3000}",),
}


class Cut:
    """Ends a run before event number `at`."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.seen = 0
        self.busy = 0

    def __call__(self, engine: Any) -> None:
        self.seen += 1
        if self.seen == self.at:
            self.busy = len(engine.state.flights)
            raise Interrupted


def cut_and_resumed(experiment: Any, at: int, build: Any, ended: Any, folder: Path) -> Any:
    """Run up to event `at`, save, and let a fresh engine with fresh actors go on."""
    cut = Cut(at)
    first = build(experiment, folder=folder / "log", between_events=cut)
    first.begin()
    with pytest.raises(Interrupted):
        first.run()
    checkpoint.save(first, folder / "checkpoint")
    first.events.append("lost", time_s=0.0)  # what comes after a checkpoint must go
    first.events.flush()
    return resumed(experiment, build, ended, folder), cut.busy


def resumed(experiment: Any, build: Any, ended: Any, folder: Path) -> Any:
    """Let a fresh engine go on from the checkpoint in a folder to its end."""
    saved = checkpoint.load(folder / "checkpoint")
    assert saved is not None
    second = build(experiment, begin_s=saved.state["time_s"], folder=folder / "log")
    second.events.truncate(saved.state["events_rows"])
    checkpoint.restore(second, saved)
    second.run()
    return ended(second)


@pytest.mark.parametrize(
    "changes", [*VARIETY, *SPARSE.values()], ids=lambda c: "+".join(c) or "plain"
)
def test_same_digest_wherever_it_was_cut(
    changes: tuple[str, ...], small: Any, ran: Any, build: Any, ended: Any, tmp_path: Path
) -> None:
    """Cut at many events, with work in flight, and resumed: always the uncut run's digest."""
    experiment = small(*changes)
    count = Cut(10**9)
    reference = ran(experiment, between_events=count)
    busy = 0
    for at in range(1, count.seen, max(count.seen // 9, 1)):
        result, in_flight = cut_and_resumed(experiment, at, build, ended, tmp_path / str(at))
        assert result.digest == reference.digest, f"cut before event {at} of {count.seen}"
        assert result.rows == reference.rows
        busy += in_flight
    assert busy > 9, "the cuts met work in flight"


def test_an_upload_that_was_broken_off_counts_once(
    small: Any, ran: Any, build: Any, ended: Any, tmp_path: Path
) -> None:
    """Also if the run was cut between learning the payload's size and its client's leaving."""
    experiment = small(*GONE_WHILE_SENDING)
    cuts = []

    def watch(engine: Any) -> None:
        watch.looks += 1
        flights = engine.state.flights.values()
        if any(f.payload_bytes is not None and f.doomed for f in flights):
            cuts.append(watch.looks)

    watch.looks = 0
    reference = ran(experiment, between_events=watch)
    assert [row for row in reference.of("lost") if row["uplink_bytes"] > 100]
    for at in cuts[:: max(len(cuts) // 4, 1)]:
        result, _ = cut_and_resumed(experiment, at, build, ended, tmp_path / str(at))
        assert result.rows == reference.rows
        assert result.state.ledger == reference.state.ledger


@pytest.mark.parametrize(
    "changes",
    [(), (CELLS,), (OWN, "method.downlink.kind=difference"), *SPARSE.values()],
    ids=["plain", "cells", "own", *SPARSE],
)
def test_cut_after_a_rollback(
    changes: tuple[str, ...], small: Any, ran: Any, build: Any, ended: Any, tmp_path: Path
) -> None:
    """Lineages, superseded updates and states taken back survive a checkpoint; masks do, too."""

    class Back:
        def __init__(self) -> None:
            self.looks = 0

        def __call__(self, engine: Any) -> None:
            self.looks += 1
            if self.looks == 40:
                engine.rollback()

    experiment = small("evaluate.every_versions=1", *changes)
    reference = ran(experiment, between_events=Back())
    assert reference.of("rolled_back")

    class BackThenCut(Back):
        def __call__(self, engine: Any) -> None:
            super().__call__(engine)
            if self.looks == 44:
                raise Interrupted

    first = build(experiment, folder=tmp_path / "log", between_events=BackThenCut())
    first.begin()
    with pytest.raises(Interrupted):
        first.run()
    checkpoint.save(first, tmp_path / "checkpoint")
    assert resumed(experiment, build, ended, tmp_path).digest == reference.digest


@pytest.mark.parametrize("call", [1, 2, 5, 8, 11])
@pytest.mark.parametrize(
    "changes",
    [
        ("method.aggregation={kind: fedbuff, size: 3}",),
        ("method.aggregation={kind: fedavg, clients_per_round: 3}",),
        (OWN,),
    ],
    ids=["fedbuff", "fedavg", "own"],
)
def test_interrupted_while_asking_the_server(
    changes: tuple[str, ...],
    call: int,
    small: Any,
    ran: Any,
    build: Any,
    ended: Any,
    tmp_path: Path,
) -> None:
    """A signal that comes while the engine waits for quotes leaves it between two events."""
    experiment = small("method.downlink.kind=difference", *changes)
    reference = ran(experiment)
    first = build(experiment, folder=tmp_path / "log")
    first.begin()
    calls, real = [], first.runtime.quote

    def quote(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == call:
            raise Interrupted
        return real(*arguments)

    first.runtime.quote = quote
    with pytest.raises(Interrupted):
        first.run()
    checkpoint.save(first, tmp_path / "checkpoint")
    assert resumed(experiment, build, ended, tmp_path).digest == reference.digest


@pytest.mark.parametrize("changes", [(), (CELLS,)], ids=["plain", "cells"])
def test_the_whole_state_is_in_it(
    changes: tuple[str, ...], small: Any, build: Any, tmp_path: Path
) -> None:
    """A field that is added to the state of a run is saved, and comes back as it was."""
    settings = ("evaluate.every_versions=1", "server.flops=2e4", "method.selection.kind=oort")
    experiment = small(*settings, *changes)
    first = build(experiment, between_events=Cut(90))
    first.begin()
    with pytest.raises(Interrupted):
        first.run()
    checkpoint.save(first, tmp_path)
    saved = checkpoint.load(tmp_path)
    assert saved is not None
    names = {field.name for field in fields(State)}
    assert names - {"client_states", "held", "paused"} <= set(saved.state)
    second = build(experiment, begin_s=saved.state["time_s"])
    checkpoint.restore(second, saved)
    dumped = {"roster", "resources", "client_states", "versions", "flights", "receipts"}
    dumped |= {"past", "selection"}
    for name in names - dumped:
        assert getattr(second.state, name) == getattr(first.state, name), name
    np.testing.assert_equal(second.state.selection, first.state.selection)
    np.testing.assert_equal(asdict(second.state.past), asdict(first.state.past))
    assert second.state.roster.dump() == first.state.roster.dump()
    assert list(second.state.flights) == list(first.state.flights)
    assert list(second.state.receipts) == list(first.state.receipts)


def test_keeps_a_number_and_nothing_half_written(small: Any, build: Any, tmp_path: Path) -> None:
    """Old checkpoints go, and what a crash left half written is not read."""
    engine = build(small())
    engine.begin()
    folder = tmp_path / "checkpoint"
    for _ in range(4):
        newest = checkpoint.save(engine, folder, keep=2)
    assert sorted(p.name for p in folder.iterdir()) == ["00000002", "00000003"]
    (folder / "partial-4").mkdir()
    (folder / "partial-4" / "state.json").write_text("{", encoding="utf-8")
    saved = checkpoint.load(folder)
    assert saved is not None
    assert newest.name == "00000003"
    assert checkpoint.save(engine, folder).name == "00000004"


def test_nothing_in_it_is_pickled(small: Any, build: Any, tmp_path: Path) -> None:
    """A checkpoint is a JSON file and safetensors files."""
    engine = build(small())
    engine.begin()
    target = checkpoint.save(engine, tmp_path)
    names = sorted(p.name for p in target.iterdir())
    assert names == ["arrays.safetensors", "state.json", "states.safetensors"]
    json.loads((target / "state.json").read_text(encoding="utf-8"))


def test_what_is_the_same_is_not_written_again(small: Any, build: Any, tmp_path: Path) -> None:
    """Clients' states of the last checkpoint are linked; none of them is even fetched."""
    engine = build(small("method.concurrency=2"), between_events=Cut(90))
    engine.begin()
    with pytest.raises(Interrupted):
        engine.run()
    first = checkpoint.save(engine, tmp_path)
    fetched, fetch = [], engine.runtime.fetch

    def watched(what: Any) -> Any:
        fetched.append(what)
        return fetch(what)

    engine.runtime.fetch = watched
    second = checkpoint.save(engine, tmp_path)
    places = [place for *_, place in engine.state.client_states.items()]
    assert len(places) > 3
    assert not [what for what in fetched if any(what is place for place in places)]
    files = [sorted(folder.glob("states-*")) for folder in (first, second)]
    assert files[0]
    assert [f.stat().st_ino for f in files[0]] == [f.stat().st_ino for f in files[1]]


def test_the_json_has_no_row_a_client(small: Any, build: Any, tmp_path: Path) -> None:
    """What there is of every client that took part is arrays; the JSON is of those under way."""
    engine = build(small())
    engine.begin()
    before = checkpoint.save(engine, tmp_path)
    state = engine.state
    for client in range(6, 10_006):
        state.held[client] = state.head
        state.roster.next_number[client] = 1
        state.roster.strikes[client] = 1
    accuracy = (*np.linspace(0, 1, 10_000).tolist(), math.nan)
    found = Evaluation(0.5, 1.0, (0.5, math.nan), (3, 0), accuracy, accuracy[::-1])
    state.last_evaluation = (state.head, found)
    after = checkpoint.save(engine, tmp_path)
    sizes = [(folder / "state.json").stat().st_size for folder in (before, after)]
    assert sizes[1] < sizes[0] + 300
    saved = checkpoint.load(tmp_path)
    assert saved is not None
    assert saved.arrays["by-client/held"].shape == (10_000, 3)
    again = build(small())
    checkpoint.restore(again, saved)
    assert again.state.roster.dump() == state.roster.dump()
    assert again.state.held == state.held
    np.testing.assert_equal(again.state.last_evaluation[1].by_owner, accuracy)
    np.testing.assert_equal(again.state.last_evaluation[1].by_client, accuracy[::-1])


def test_another_format_is_refused(small: Any, build: Any, tmp_path: Path) -> None:
    """A checkpoint of another format says so, and which version reads it."""
    engine = build(small())
    engine.begin()
    target = checkpoint.save(engine, tmp_path)
    state = json.loads((target / "state.json").read_text(encoding="utf-8"))
    (target / "state.json").write_text(json.dumps(state | {"format": 99}), encoding="utf-8")
    with pytest.raises(ExperimentError, match=r"format 99.*reads 9"):
        checkpoint.load(tmp_path)


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    """A folder without a checkpoint has none."""
    assert checkpoint.load(tmp_path / "checkpoint") is None
