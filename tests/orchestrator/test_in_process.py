"""Does it matter in what groups, or on how many threads, one process trains?"""

from __future__ import annotations

import gc
import io
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from actors.client import Client
from actors.faults import PlannedError
from actors.work import Work
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


def threaded(experiment: Any, out: Path, workers: int = 2, **more: Any) -> tuple[Any, str]:
    """Run in this process on some threads; return the summary and what was printed."""
    text = io.StringIO()
    request = Request(experiment, out, in_process=True, workers=workers, **more)
    return run(request, Console(file=text, width=200)), text.getvalue()


@pytest.mark.parametrize(
    "method",
    [
        ("model={kind: mlp, hidden: [8]}", "method.training.momentum=0.9"),
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
    ids=["mlp", "cnn", "sparsyfed", "own correction", "cells", "federated"],
)
def test_threads_change_no_bit(
    method: tuple[str, ...], small: Any, ran: Any, tmp_path: Path
) -> None:
    """Two or three of them, in groups or one by one, give the digest of one."""
    experiment = small(*method)
    digest = ran(experiment).digest
    for threads in (2, 3):
        summary, text = threaded(experiment, tmp_path / str(threads), threads)
        assert summary.digest == digest
        assert (summary.hosting, summary.client_actors) == ("in-process", threads)
        assert f"hosting: in-process, {threads} threads (--workers asks for it)" in text


def test_models_are_made_on_the_main_thread(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are drawn from torch's global generator, which threads share."""
    real, made = Work._whole, list[bool]()

    def whole(self: Work, shape: Any) -> Any:
        made.append(threading.current_thread() is threading.main_thread())
        return real(self, shape)

    monkeypatch.setattr(Work, "_whole", whole)
    own = "method.correction={kind: distillation, proxy: client, ramp: 6, steps: 3, batch: 32}"
    summary, _ = threaded(small(own), tmp_path / "run")
    assert summary.client_actors == 2
    assert len(made) > 4
    assert all(made)


def test_threads_share_the_work(small: Any, tmp_path: Path) -> None:
    """Each of them trains, and the profile says what."""
    experiment = small("model={kind: cnn, channels: [2, 2], hidden: 4}")
    summary, _ = threaded(experiment, tmp_path / "run", profile=True)
    ops = pq.read_table(tmp_path / "run" / "ops.parquet").to_pylist()
    trained = {row["actor"]: row["number"] for row in ops if row["detail"] == "train"}
    assert set(trained) == {"thread 0", "thread 1"}
    assert sum(trained.values()) >= summary.updates
    assert min(trained.values()) > summary.updates // 5
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "thread 0" not in report, "threads are shown together"


def test_threads_and_resume(small: Any, ran: Any, saving: str, tmp_path: Path) -> None:
    """A run that is cut on two threads goes on on one, or on three, to the same end."""
    experiment = small(saving, "model={kind: mlp, hidden: [8]}", "stop.versions=10")
    real, looks = _Run._between_events, count(1)

    def cut(self: Any, engine: Any) -> None:
        real(self, engine)
        if next(looks) % 60 == 0:
            raise Interrupted

    out, ends = tmp_path / "run", 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "_between_events", cut)
        for threads in (2, 1, 3, 2, 2, 2):
            try:
                summary, _ = threaded(experiment, out, threads, resume=out.exists())
                break
            except Killed:
                ends += 1
    assert ends >= 2
    assert summary.digest == ran(experiment).digest


def test_what_draws_trains_on_one_thread(small: Any, ran: Any, tmp_path: Path) -> None:
    """Dropout draws from a generator that threads share: it is said, and the digest is the same."""
    experiment = small(
        "data={source: sotu, train_examples: 240}",
        "model={kind: transformer, width: 8, heads: 2, layers: 1, dropout: 0.1}",
        "stop.versions=2",
    )
    summary, text = threaded(experiment, tmp_path / "run")
    assert summary.digest == ran(experiment).digest
    assert "hosting: in-process, 1 thread (training may draw from torch's global" in text


def test_what_draws_unseen_ends_the_run(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was overlooked is noticed before it can spoil a result."""
    monkeypatch.setattr(Client, "may_draw", False)
    experiment = small(
        "data={source: sotu, train_examples: 240}",
        "model={kind: transformer, width: 8, heads: 2, layers: 1, dropout: 0.1}",
    )
    with pytest.raises(RunError, match=r"drawn from torch's global .* Run it without --workers"):
        threaded(experiment, tmp_path / "run")


def test_an_error_on_a_thread_ends_the_run(small: Any, tmp_path: Path) -> None:
    """It is the one that was raised there."""
    experiment = small("model={kind: mlp, hidden: [8]}", "faults=[{fault: error, client: 0}]")
    with pytest.raises(PlannedError):
        threaded(experiment, tmp_path / "run")


def test_a_finished_run_holds_nothing(small: Any, tmp_path: Path) -> None:
    """What a run held is free when it returns, for the next one in this process."""

    def states() -> int:
        return sum(type(thing) is State for thing in gc.get_objects())

    gc.collect()
    before = states()
    run(Request(small(), tmp_path / "run", in_process=True), Console(file=io.StringIO()))
    assert states() == before
