"""Is a run the same, to the digest, whether versions are handed over whole or as changes?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors import changes
from orchestrator import checkpoint
from orchestrator.engine import Interrupted
from orchestrator.handed import Made, pieces
from orchestrator.runtime import Ready
from policies.types import ExperimentError

FEW = "method.uplink={kind: top-k, density: 0.01}"
METHODS = {
    "fedbuff": (FEW,),
    "fedasync": (FEW, "method.aggregation.kind=fedasync", "stop.versions=40"),
    "sparse": (FEW, "method.downlink.kind=sparse"),
    "votes": (
        "method.uplink={kind: signs, density: 0.01}",
        "method.aggregation={kind: majority-vote, voters: 4, size: 3}",
    ),
    "dense": (),
}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have small models handed over as changes, too; return how many pieces versions had."""
    monkeypatch.setattr(changes, "LEAST_PARAMETERS", 1)
    seen: list[int] = []

    def counted(version: Any) -> list[Any]:
        found = pieces(version)
        seen.append(len(found))
        return found

    monkeypatch.setattr("orchestrator.handed.pieces", counted)
    return seen


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_same_digest(
    method: tuple[str, ...], small: Any, ran: Any, request: pytest.FixtureRequest
) -> None:
    """What clients and the evaluator put together is the version."""
    whole = ran(small(*method))
    seen: list[int] = request.getfixturevalue("told")
    again = ran(small(*method))
    assert again.digest == whole.digest
    assert (max(seen) > 2) == bool(method)


def test_rolled_back(small: Any, ran: Any, request: pytest.FixtureRequest) -> None:
    """A rollback to a version that was a change begins a new chain."""

    class Back:
        def __init__(self) -> None:
            self.seen = 0

        def __call__(self, engine: Any) -> None:
            self.seen += 1
            if self.seen in {90, 150}:
                assert engine.rollback()

    experiment = small(*METHODS["fedasync"], "evaluate.every_versions=1")
    whole = ran(experiment, between_events=Back())
    seen: list[int] = request.getfixturevalue("told")
    again = ran(experiment, between_events=Back())
    assert again.digest == whole.digest
    assert again.state.head.lineage == 2
    assert max(seen) > 2


@pytest.mark.parametrize("at", [60, 101])
def test_resumed(
    at: int, small: Any, build: Any, ran: Any, ended: Any, told: list[int], tmp_path: Path
) -> None:
    """A checkpoint holds whole versions, and goes on to the same end."""
    experiment = small(*METHODS["fedasync"], "evaluate.every_versions=3")
    reference = ran(experiment)

    left = [None] * at

    def cut(_: Any) -> None:
        if not left:
            raise Interrupted
        left.pop()

    first = build(experiment, folder=tmp_path / "log", between_events=cut)
    first.begin()
    with pytest.raises(Interrupted):
        first.run()
    assert len(pieces(first.state.versions.handle(first.state.versions.newest))) > 1
    checkpoint.save(first, tmp_path / "checkpoint")
    saved = checkpoint.load(tmp_path / "checkpoint")
    assert saved is not None
    second = build(experiment, begin_s=saved.state["time_s"], folder=tmp_path / "log")
    second.events.truncate(saved.state["events_rows"])
    checkpoint.restore(second, saved)
    told.clear()
    second.run()
    assert ended(second).digest == reference.digest
    assert max(told) > 1


class Told:
    """A receipt as handles see it."""

    def __init__(self, *, changes: bool) -> None:
        self.changes = changes


def test_a_handle_keeps_what_it_builds_on() -> None:
    """A change's pieces reach back to the last whole version; a whole one lets go of the rest."""
    first = Made("1", "0", Ready(Told(changes=True)))  # type: ignore[arg-type]
    second = Made("2", first, Ready(Told(changes=True)))  # type: ignore[arg-type]
    third = Made("3", second, Ready(Told(changes=False)))  # type: ignore[arg-type]
    fourth = Made("4", third, Ready(Told(changes=True)))  # type: ignore[arg-type]
    assert pieces(second) == ["0", "1", "2"]
    assert pieces(fourth) == ["3", "4"]
    assert third.opened() == ("3", None)
    assert pieces("0") == ["0"]


SHARDED = {
    "fedbuff": (FEW,),
    "fedasync": ("method.aggregation={kind: fedasync, form: mix}", "method.uplink=WEIGHTS"),
    "fedavg": (
        "method.aggregation={kind: fedavg, clients_per_round: 3}",
        "faults=[{fault: garbage, client: 2}, {fault: not-finite, client: 3}]",
    ),
    "qsgd": ("method.uplink={kind: qsgd}",),
}


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small models be cut, too."""
    monkeypatch.setattr("policies.method.PART_BLOCK", 64)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("method", SHARDED.values(), ids=SHARDED)
def test_the_digest_of_one_server(method: tuple[str, ...], small: Any, ran: Any) -> None:
    """However many servers hold the model, the run is that of one."""
    settings = [m.replace("WEIGHTS", "{kind: dense, content: weights}") for m in method]
    alone = ran(small(*settings))
    for shards in (2, 3, 11):
        several = ran(small(*settings, f"server.shards={shards}"))
        assert several.digest == alone.digest
        handle = several.state.versions.handle(several.state.versions.newest)
        assert len(pieces(handle)) == shards


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("goes_on_with", [1, 2, 5])
def test_resumed_with_other_shards(
    goes_on_with: int, small: Any, build: Any, ran: Any, ended: Any, tmp_path: Path
) -> None:
    """A checkpoint says nothing of shards; a rollback meanwhile works as ever."""

    class Cut:
        def __init__(self, at: int) -> None:
            self.at = at
            self.seen = 0

        def __call__(self, engine: Any) -> None:
            self.seen += 1
            if self.seen == 70:
                assert engine.rollback()
            if self.seen == self.at:
                raise Interrupted

    settings = ("evaluate.every_versions=2", "stop.versions=20")
    reference = ran(small(*settings), between_events=Cut(10**6))
    first = build(
        small(*settings, "server.shards=3"), folder=tmp_path / "log", between_events=Cut(110)
    )
    first.begin()
    with pytest.raises(Interrupted):
        first.run()
    checkpoint.save(first, tmp_path / "checkpoint")
    saved = checkpoint.load(tmp_path / "checkpoint")
    assert saved is not None
    experiment = small(*settings, f"server.shards={goes_on_with}")
    second = build(experiment, begin_s=saved.state["time_s"], folder=tmp_path / "log")
    second.events.truncate(saved.state["events_rows"])
    checkpoint.restore(second, saved)
    second.run()
    assert ended(second).digest == reference.digest


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            (
                "method.aggregation={kind: majority-vote, voters: 4}",
                "method.uplink={kind: sign-sgd}",
            ),
            "majority-vote needs the whole model at one server",
        ),
        (("method.pruning={kind: top-k, density: 0.5}",), "top-k needs the whole model"),
        (("method.downlink={kind: difference}",), "difference needs the whole model"),
        (("method.downlink={kind: dense, values: fp16}",), "kind dense with values fp32"),
        (
            ("method.uplink={kind: sparse-weights}", "method.aggregation.form=weights"),
            "sparse-weights needs the whole model",
        ),
        ((), "must be at most 11, got 12: the model has 650 parameters"),
    ],
)
@pytest.mark.usefixtures("cut")
def test_what_cannot_be_cut(settings: tuple[str, ...], reason: str, small: Any) -> None:
    """It is refused when the file is read, with what to change."""
    small(*settings)
    with pytest.raises(ExperimentError, match=reason):
        small(*settings, "server.shards=12")
