"""Does it matter in what groups, or in how many processes, a run without Ray trains?"""

from __future__ import annotations

import gc
import io
import multiprocessing
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from actors.client import Client
from actors.faults import PlannedError
from orchestrator import in_process
from orchestrator.engine import Interrupted
from orchestrator.engine.state import State
from orchestrator.request import Request
from orchestrator.run import Killed, _Run, run
from policies.types import RunError


@pytest.mark.parametrize(
    "method", [(), ("method.uplink={kind: top-k, density: 0.1}", "method.training.momentum=0.9")]
)
def test_groups_change_no_bit(
    method: tuple[str, ...], small: Any, ran: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, in pairs or in groups of sixteen, the digest is the same."""
    sizes: list[int] = []
    real = Client.train_group

    def seen(self: Client, order: Any, buffers: Any) -> Any:
        sizes.append(len(order.group))
        return real(self, order, buffers)

    monkeypatch.setattr(Client, "train_group", seen)
    found, largest = set(), []
    for most in (1, 2, 16):
        sizes.clear()
        monkeypatch.setattr(in_process, "MOST_IN_GROUP", most)
        found.add(ran(small("model={kind: mlp, hidden: [8]}", *method)).digest)
        largest.append(max(sizes))
    assert len(found) == 1
    assert largest[:2] == [1, 2]
    assert largest[2] > 2


def test_a_model_without_cohorts_trains_when_it_is_asked(
    small: Any, tmp_path: Path, build: Any
) -> None:
    """What one after the other would train in vain at the end of a run is left out."""
    engine = build(small("model={kind: cnn, channels: [2, 2], hidden: 4}"), folder=tmp_path)
    engine.begin()
    engine.run()
    trained = {stage.stage: stage.times for stage in engine.runtime.usage()["clients"].stages}
    assert trained["train"] == engine.state.ledger.committed


def beside(experiment: Any, out: Path, workers: int = 2, **more: Any) -> tuple[Any, str]:
    """Run without Ray in some processes; return the summary and what was printed."""
    text = io.StringIO()
    request = Request(experiment, out, in_process=True, workers=workers, **more)
    return run(request, Console(file=text, width=200)), text.getvalue()


@pytest.mark.parametrize(
    "method",
    [
        ("model={kind: mlp, hidden: [8]}", "method.training.momentum=0.9"),
        (
            "data={source: sotu, train_examples: 240}",
            "model={kind: transformer, width: 8, heads: 2, layers: 1, dropout: 0.1}",
            "stop.versions=2",
        ),
        (
            'model={kind: "split_nets:Parts", width: 14}',
            "topology={kind: split, rate: 0.05, momentum: 0.9, flops: 2e5}",
            "method.training={kind: sgd, lr: 0.1, batch_size: 10}",
            "stop.versions=4",
        ),
        ("model={kind: cnn, channels: [2, 2], hidden: 4}",),
        (
            "method.training={kind: sparsyfed, lr: 0.3}",
            "method.uplink={kind: sparse-weights, density: 0.1}",
            "method.aggregation={kind: fedavg, clients_per_round: 3}",
            "method.downlink={kind: sparse}",
        ),
        ("method.correction={kind: distillation, proxy: client, ramp: 6, steps: 3, batch: 32}",),
        ("fleet.regions={near: {cell: {}}, far: {share: 2, cell: {uplink: 1e6, latency_s: 0.1}}}",),
        (
            "data={source: flights, train_examples: 2000, partition: {kind: natural}}",
            "model={kind: tabular}",
            "evaluate={kind: federated, every_versions: 4}",
        ),
    ],
    ids=["mlp", "drawing", "split", "cnn", "sparsyfed", "own correction", "cells", "federated"],
)
def test_processes_change_no_bit(method: tuple[str, ...], small: Any, tmp_path: Path) -> None:
    """Several of them, in groups or one by one, give the digest of one."""
    experiment = small(*method)
    digest = beside(experiment, tmp_path / "1", 1)[0].digest
    summary, text = beside(experiment, tmp_path / "3", 3)
    assert summary.digest == digest
    assert (summary.hosting, summary.client_actors) == ("in-process", 3)
    assert "hosting: in-process, 3 trainers (--workers asks for it)" in text


def test_processes_share_the_work(small: Any, tmp_path: Path) -> None:
    """Each of them trains, and the profile says what."""
    experiment = small("model={kind: cnn, channels: [2, 2], hidden: 4}")
    summary, _ = beside(experiment, tmp_path / "run", profile=True)
    ops = pq.read_table(tmp_path / "run" / "ops.parquet").to_pylist()
    trained = {row["actor"]: row["number"] for row in ops if row["detail"] == "train"}
    assert set(trained) == {"trainer 0", "trainer 1"}
    assert sum(trained.values()) >= summary.updates
    assert min(trained.values()) > summary.updates // 5
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "thread 0" not in report, "threads are shown together"


def test_processes_and_resume(small: Any, ran: Any, saving: str, tmp_path: Path) -> None:
    """A run that is cut in two processes goes on in one, or in three, to the same end."""
    experiment = small(saving, "model={kind: mlp, hidden: [8]}", "stop.versions=10")
    real, looks = _Run._between_events, count(1)

    def cut(self: Any, engine: Any) -> None:
        real(self, engine)
        if next(looks) % 60 == 0:
            raise Interrupted

    out, ends = tmp_path / "run", 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "_between_events", cut)
        for number in (2, 1, 3, 2, 2, 2):
            try:
                summary, _ = beside(experiment, out, number, resume=out.exists())
                break
            except Killed:
                ends += 1
    assert ends >= 2
    assert summary.digest == ran(experiment).digest


def test_an_error_in_another_process_ends_the_run(small: Any, tmp_path: Path) -> None:
    """It is the one that was raised there, and nobody is left behind."""
    experiment = small("model={kind: mlp, hidden: [8]}", "faults=[{fault: error, client: 0}]")
    with pytest.raises(PlannedError):
        beside(experiment, tmp_path / "run")
    assert not multiprocessing.active_children()


def test_the_end_of_another_process_ends_the_run(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory may have run out: who it was is said, and its folder can be gone on with."""
    real, looks = _Run._between_events, count(1)

    def end_one(self: Any, engine: Any) -> None:
        real(self, engine)
        if next(looks) == 40:
            (process, _) = multiprocessing.active_children()
            process.kill()
            process.join()

    monkeypatch.setattr(_Run, "_between_events", end_one)
    experiment = small("model={kind: mlp, hidden: [8]}")
    with pytest.raises(RunError, match=r"trainer \d.* has ended with -9.* fewer --workers"):
        beside(experiment, tmp_path / "run")
    assert not multiprocessing.active_children()


def test_where_no_process_can_be_forked_one_trains(
    small: Any, ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is said; the digest is the same."""
    monkeypatch.setattr(in_process, "CAN_FORK", False)
    summary, text = beside(small(), tmp_path / "run")
    assert summary.digest == ran(small()).digest
    assert "hosting: in-process, 1 trainer (this system cannot fork" in text


def test_a_finished_run_holds_nothing(small: Any, tmp_path: Path) -> None:
    """What a run held is free when it returns, for the next one in this process."""

    def states() -> int:
        return sum(type(thing) is State for thing in gc.get_objects())

    gc.collect()
    before = states()
    run(Request(small(), tmp_path / "run", in_process=True), Console(file=io.StringIO()))
    assert states() == before
