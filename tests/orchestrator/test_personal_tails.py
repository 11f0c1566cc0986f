"""Does each client of a split model keep its own tail, through all that may happen to a run?"""

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

from actors.client_state import StateCodec
from actors.learning.audience import on_labels
from actors.learning.evaluation_torch import evaluate
from actors.learning.holdings import hold
from orchestrator import checkpoint
from orchestrator.api import Run, load
from orchestrator.engine import Interrupted
from orchestrator.request import Request
from orchestrator.run import run
from orchestrator.tracking.trained import take_up
from orchestrator.views.fleet_view import look
from policies.types import ExperimentError, Version

HEADLESS = 'model={kind: "split_nets:Parts", width: 14, head: frozen, body: second}'
SPLIT = (
    'model={kind: "split_nets:Parts", width: 14}',
    "method.uplink.kind=dense",
    "method.training={kind: sgd, lr: 0.3, batch_size: 10}",
    "stop.versions=5",
)
SHARED = "topology={kind: split, rate: 0.05}"
PERSONAL = "topology={kind: split, rate: 0.05, tail: personal}"
HEAD, TAIL = 64 * 12 + 12, 3 * 10 + 10


def tails(engine: Any, experiment: Any) -> dict[int, bytes]:
    """Return the tails that stay, of the clients that have trained one."""
    work = experiment.work()
    shape = hold(experiment.data, experiment.fleet.clients, experiment.seed).shape
    codec = StateCodec(work, work.build(shape))
    return {
        client: codec.read(engine.runtime.fetch(place))[1].tobytes()
        for client, place in engine.state.client_states.committed()
    }


def finished(experiment: Any, folder: Path) -> Run:
    run(Request(experiment, folder, in_process=True), Console(file=StringIO()))
    return load(folder)


@pytest.mark.parametrize(
    "how", [(), ('model={kind: "split_nets:Parts", width: 14, body: frozen}', "topology.cut=all")]
)
def test_a_client_alone_shares_with_nobody(
    how: tuple[str, ...], small: Any, tmp_path: Path
) -> None:
    """Of one client, a personal tail learns what a shared one would; asking or all by itself."""
    alone = (
        *SPLIT,
        "fleet.clients=1",
        "method.concurrency=1",
        "method.aggregation={kind: fedavg, clients_per_round: 1}",
    )
    alone = (*alone, "method.staleness.kind=constant", "data.partition.kind=iid")
    shared = finished(small(*alone, SHARED, *how), tmp_path / "shared")
    personal = finished(small(*alone, PERSONAL, *how), tmp_path / "personal")
    models = [shared.model(), personal.model(client=0)]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert personal.summary.final_accuracy == pytest.approx(shared.summary.final_accuracy, abs=0.01)
    assert not torch.equal(personal.model().tail[0].weight, personal.model(client=0).tail[0].weight)


def test_only_the_head_crosses_the_network(small: Any, ran: Any) -> None:
    """Updates and versions are as long as the head is; without one, as their envelope."""
    runs = {
        "shared": ran(small(*SPLIT, SHARED)),
        "personal": ran(small(*SPLIT, PERSONAL)),
        "nothing": ran(small(*SPLIT, HEADLESS, PERSONAL)),
    }
    sizes = {
        name: (found.of("arrived")[0]["uplink_bytes"], found.of("dispatched")[0]["downlink_bytes"])
        for name, found in runs.items()
    }
    for at in (0, 1):
        assert sizes["shared"][at] - sizes["personal"][at] >= 4 * TAIL
        assert 4 * HEAD < sizes["personal"][at] < 4 * HEAD + 120
        assert sizes["nothing"][at] < 120
    names = {t.name.split(".")[0] for t in runs["personal"].engine.schema.tensors}
    assert names == {"embedding"}
    assert not runs["nothing"].engine.schema.tensors
    assert all(row["nonzeros"] == 0 for row in runs["nothing"].of("arrived"))


def test_what_is_planned_is_what_is_sent(small: Any, ran: Any) -> None:
    """`latecomer fleet` counts the bytes of the head."""
    for how, parameters in (((), HEAD), ((HEADLESS,), 0)):
        experiment = small(*SPLIT, PERSONAL, *how)
        view = look(experiment)
        sent = ran(experiment).of("dispatched")[0]["downlink_bytes"]
        assert (view.parameters, view.carried.down) == (parameters, sent)


def test_masks_are_about_the_head(small: Any, ran: Any) -> None:
    """Where versions are pruned under a mask, tails learn as before, and are not pruned."""
    pruned = (
        "method.uplink={kind: packed, content: delta}",
        "method.pruning={kind: fedmap, density: 0.2, every: 1}",
        "method.downlink={kind: difference}",
    )
    experiment = small(*SPLIT, PERSONAL, *pruned)
    found = ran(experiment)
    assert found.of("published")[-1]["nonzeros"] < HEAD
    work, shape = experiment.work(), hold(experiment.data, 6, experiment.seed).shape
    first = work.build(shape).params.numpy()[HEAD:]
    kept = [
        np.frombuffer(own, dtype=np.float32) for own in tails(found.engine, experiment).values()
    ]
    assert len(kept) > 1
    assert all((own != 0).all() and (own != first).all() for own in kept)


def test_the_evaluator_is_charged_for_each_tail(small: Any, build: Any) -> None:
    """A test takes the whole model once, and each tail that is not the first one."""
    of_test = 360 * np.array([0, 1, 5])
    for topology, tail_flops in ((SHARED, 0), (PERSONAL, 2 * 3 * 10)):
        task = build(small(*SPLIT, topology)).plan.examination
        found = [task.central_flops([(client, None)] * client) for client in (0, 1, 5)]
        np.testing.assert_array_equal(np.diff(found), np.diff(tail_flops * of_test))
        assert found[0] == task.forward_flops * 360 > 0


def test_a_tail_counts_when_its_update_does(small: Any, ran: Any) -> None:
    """Clients whose updates are all in no version have the tail that the run began with."""
    experiment = small(*SPLIT, PERSONAL, "method.staleness={kind: constant, max_staleness: 0}",
                       "stop.versions=2")  # fmt: skip
    found = ran(experiment)
    committed = {row["client"] for row in found.of("committed")}
    arrived = {row["client"] for row in found.of("arrived")}
    assert committed < arrived
    assert set(tails(found.engine, experiment)) == committed


def test_a_test_under_way_is_of_the_tails_of_its_time(
    small: Any, build: Any, ran: Any, ended: Any, tmp_path: Path
) -> None:
    """Also after a checkpoint, with tails that their clients no longer have."""
    slow = ("server={flops: 3e5}", "evaluate.every_versions=1")
    experiment = small(*SPLIT, PERSONAL, *slow, "stop.versions=6")
    whole = ran(experiment)

    def stop(engine: Any) -> None:
        now = dict(engine.state.client_states.committed())
        for exam in engine.examiner._exams.values():
            if any(now[client] is not place for client, place in exam.states):
                raise Interrupted

    engine = build(experiment, folder=tmp_path / "log", between_events=stop)
    engine.begin()
    with pytest.raises(Interrupted):
        engine.run()
    saved_at = checkpoint.save(engine, tmp_path / "checkpoint")
    saved = checkpoint.load(tmp_path / "checkpoint")
    assert saved is not None
    kept = [state for *_, states in saved.state["exams"]["exams"] for _, state in states]
    assert {type(state) for state in kept} == {int, str}, saved_at
    again = build(experiment, begin_s=saved.state["time_s"], folder=tmp_path / "log")
    again.events.truncate(saved.state["events_rows"])
    checkpoint.restore(again, saved)
    again.run()
    assert ended(again).digest == whole.digest
    assert tails(again, experiment) == tails(whole.engine, experiment)


def test_a_rollback_leaves_tails_to_their_clients(small: Any, build: Any) -> None:
    """Head and encoder go back; a client goes on with the tail of its last update in a version."""
    experiment = small(*SPLIT, PERSONAL, "stop.versions=9", "evaluate.every_versions=1")
    seen: list[dict[int, bytes]] = []
    waiting: list[Any] = []

    def go_back(engine: Any) -> None:
        state = engine.state
        if seen or state.versions.newest.number < 4 or not state.buffer:
            return
        waiting.extend(state.buffer)
        seen.append(tails(engine, experiment))
        assert engine.rollback()
        seen.append(tails(engine, experiment))
        for address in waiting:
            first = state.client_states.current(address.client)
            kept = dict(state.client_states.committed()).get(address.client)
            assert first is kept

    engine = build(experiment, between_events=go_back)
    engine.begin()
    engine.run()
    before, after = seen
    assert waiting
    assert before == after
    assert len(set(before.values())) == len(before) > 1
    assert engine.state.versions.newest == Version(9, 1)


@pytest.mark.parametrize("how", [(), (HEADLESS,)])
def test_what_a_run_leaves(how: tuple[str, ...], small: Any, tmp_path: Path) -> None:
    """Every tail is kept, and with them the models do what events and summary say of them."""
    experiment = small(*SPLIT, PERSONAL, *how, "stop.versions=1")
    found = finished(experiment, tmp_path / "run")
    held = hold(experiment.data, 6, experiment.seed)
    data = held.data
    x, y = torch.from_numpy(data.normalise(data.x_test)), torch.from_numpy(data.y_test)
    tested = [evaluate(found.model(client=client), x, y, data.classes) for client in range(6)]
    accuracy = np.mean([one.accuracy for one in tested])
    assert found.summary.final_accuracy == pytest.approx(accuracy)
    own = [
        on_labels(one.recall, np.bincount(data.y_train[held.shards.rows(client, 0)], minlength=10))
        for client, one in enumerate(tested)
    ]
    np.testing.assert_allclose(found.clients["accuracy"], own, atol=1e-6)
    assert found.summary.mean_client_accuracy == pytest.approx(np.mean(own))
    events = found.events
    (said,) = events[(events["measure"] == "client_accuracy") & (events["version"] == 1)]["value"]
    assert said == pytest.approx(np.mean(own))
    committed = sorted(set(events[events["kind"] == "committed"]["client"].astype(int)))
    kept = load_file(found.folder / "model" / "tails.safetensors")
    assert sorted(kept) == ["client", "tail.0.bias", "tail.0.weight"]
    assert kept["client"].tolist() == committed
    assert len(committed) < 6
    never = next(client for client in range(6) if client not in committed)
    first = found.model().state_dict()
    other = found.model(client=never).state_dict()
    assert all(torch.equal(first[name], other[name]) for name in first)
    text = found.report.read_text(encoding="utf-8")
    assert "personal tails" in text
    assert "client accuracy" in text
    assert "Mean of clients" in text


@pytest.mark.parametrize("topology", [SHARED, PERSONAL])
def test_observers_are_told_with_every_test(topology: str, small: Any, ran: Any) -> None:
    """What MLflow gets as a curve is what the log has; with shared tails there is none."""
    points: list[Any] = []

    class Listening:
        def point(self, point: Any) -> None:
            points.append(point)

    found = ran(small(*SPLIT, topology, "evaluate.every_versions=1"), observers=(Listening(),))
    told = {p.version: p.metrics.get("client_accuracy") for p in points}
    written = {
        row["version"]: row["value"]
        for row in found.of("measured")
        if row["measure"] == "client_accuracy"
    }
    assert written == (told if topology == PERSONAL else {})
    assert set(told) == set(range(6))
    assert (None in told.values()) == (topology == SHARED)


def test_the_digest_has_the_tails(small: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """It is another one if a single tail is."""
    experiment = small(*SPLIT, PERSONAL, "stop.versions=1")
    whole = finished(experiment, tmp_path / "whole").summary.digest
    real = StateCodec.read

    def read(self: StateCodec, state: Any) -> Any:
        uplink, own = real(self, state)
        return uplink, own + np.float32(state.size > 0)

    from orchestrator import outcome

    kept = outcome.keep_models

    def spoil(*args: Any) -> Any:
        monkeypatch.setattr(StateCodec, "read", read)
        return kept(*args)

    monkeypatch.setattr(outcome, "keep_models", spoil)
    assert finished(experiment, tmp_path / "other").summary.digest != whole


def test_only_clients_with_tails_of_their_own_have_one(small: Any, tmp_path: Path) -> None:
    """Whoever asks for another's is told so."""
    shared = finished(small(*SPLIT, SHARED, "stop.versions=1"), tmp_path / "shared")
    with pytest.raises(ExperimentError, match=r"client 2 has no tail of its own.*Leave client out"):
        take_up(shared.folder / "model", client=2)
    assert pd.isna(shared.events["measure"]).all()
    personal = finished(small(*SPLIT, PERSONAL, "stop.versions=1"), tmp_path / "personal")
    with pytest.raises(ExperimentError, match=r"client must lie in \[0, 5\], got 6"):
        personal.model(client=6)
