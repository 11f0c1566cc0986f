"""Does a slow device get less to do, and is what it does the beginning of the whole?"""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.mistakes import ExperimentFileError
from orchestrator.portions import Portions
from orchestrator.request import Request
from orchestrator.run import run
from orchestrator.views.fleet_view import look
from orchestrator.views.fleet_view_show import as_json
from orchestrator.views.fleet_view_tables import sheets
from orchestrator.views.readable import count
from policies.training import Portion, Sgd
from policies.training.workload import EqualWorkload, TimedWorkload
from policies.types import RunError

SLOW = (
    "fleet.profiles={slow: {flops: 1e6, memory_bytes: 1 GB, compute_watts: 2, radio_watts: 1, "
    "uplink: 10 Mbit/s, downlink: 10 Mbit/s, latency_s: 0.01}, "
    "fast: {flops: 1e9, memory_bytes: 1 GB, compute_watts: 2, radio_watts: 1, "
    "uplink: 10 Mbit/s, downlink: 10 Mbit/s, latency_s: 0.01}}"
)
TIMED = (
    SLOW,
    "fleet.mix=[{profile: slow}, {profile: fast}]",
    "fleet.jitter.kind=none",
    "method.training={kind: sgd, lr: 0.1, batch_size: 5, epochs: 2}",
    "method.workload={kind: timed, seconds: 0.1, least: 2}",
)


FULL = (
    (
        "fleet.profiles={tiny: {flops: 1e8, memory_bytes: 12.7 kB, compute_watts: 2, "
        "radio_watts: 1, uplink: 10 Mbit/s, downlink: 10 Mbit/s, latency_s: 0.01}, "
        "fast: {flops: 1e9, memory_bytes: 1 GB, compute_watts: 2, radio_watts: 1, "
        "uplink: 10 Mbit/s, downlink: 10 Mbit/s, latency_s: 0.01}}"
    ),
    "fleet.mix=[{profile: tiny}, {profile: fast}]",
    "method.training={kind: sgd, lr: 0.1, batch_size: 20}",
    "method.workload={kind: equal, least_batch: 4}",
    "model={kind: mlp, hidden: [8]}",
    "stop.versions=6",
)


@given(st.integers(1, 1000), st.floats(0, 100), st.floats(1e-3, 100), st.integers(1, 50))
def test_between_the_least_and_all(asked: int, batch_s: float, seconds: float, least: int) -> None:
    """What fits is taken, never less than `least` or all, and never more than is asked."""
    taken = TimedWorkload(seconds=seconds, least=least).batches(asked, batch_s)
    assert min(least, asked) <= taken <= asked
    if taken > least:
        assert taken * batch_s <= seconds * (1 + 1e-9)


def test_by_hand() -> None:
    """Three tenths of a second for batches of a tenth are three of ten."""
    assert TimedWorkload(seconds=0.35).batches(10, 0.1) == 3
    assert TimedWorkload(seconds=0.05, least=2).batches(10, 0.1) == 2
    assert EqualWorkload().batches(10, 1e9) == 10


@pytest.mark.parametrize("asked", [{"epochs": 2}, {"steps": 7}])
def test_a_shortened_training_is_the_beginning(asked: dict[str, Any]) -> None:
    """So many of its batches come first, in the same order, and cost as much less."""
    whole = Sgd(batch_size=10, **asked)
    short = whole.portion(Portion(batches=3))
    assert whole.batches(45) in (10, 7)
    assert short.batches(45) == 3
    assert short.passes(45) == [3]
    assert short.examples_seen(45) == 30
    assert short.flops(45, 2.0) == 3 * 2.0 * 30


def test_smaller_batches_by_hand() -> None:
    """What memory holds, no less than the least, no more than is asked; and then what time does."""
    assert EqualWorkload().batch_size(20, 3, 1e9) == 20
    equal = EqualWorkload(least_batch=4)
    assert [equal.batch_size(20, fitting, 1e9) for fitting in (0, 3, 7, 20)] == [4, 4, 7, 20]
    assert equal.batch_size(3, 0, 1e9) == 3
    assert TimedWorkload(seconds=0.1).batch_size(20, 3, 1e9) == 20
    timed = TimedWorkload(seconds=1.0, least=2, least_batch=4)
    assert [timed.batch_size(20, 20, s) for s in (0, 0.01, 0.05, 0.1, 9)] == [20, 20, 10, 5, 4]
    assert timed.batch_size(20, 7, 0.05) == 7


@given(
    st.integers(1, 500), st.integers(0, 500), st.floats(0, 100), st.integers(1, 50),
    st.sampled_from([None, 1, 3, 8]),
)  # fmt: skip
def test_between_the_least_batch_and_the_asked_one(
    asked: int, fitting: int, example_s: float, least: int, least_batch: int | None
) -> None:
    """Whatever device it is, a batch has between one example and as many as are asked."""
    policy = TimedWorkload(least=least, least_batch=least_batch)
    taken = policy.batch_size(asked, min(fitting, asked), example_s)
    assert 1 <= taken <= asked
    if least_batch is None:
        assert taken == asked
    elif taken > least_batch:
        assert taken <= fitting
        assert taken * least * example_s <= policy.seconds * (1 + 1e-9)


def test_a_portion_of_smaller_batches_sees_all_examples() -> None:
    """Epochs stay epochs, in more steps; so many steps stay so many, of fewer examples."""
    assert Sgd(batch_size=20, epochs=2).portion(Portion()) == Sgd(batch_size=20, epochs=2)
    epochs = Sgd(batch_size=20, epochs=2).portion(Portion(batch_size=6))
    assert (epochs.passes(45), epochs.examples_seen(45)) == ([8, 8], 90)
    steps = Sgd(batch_size=20, steps=3).portion(Portion(batch_size=6))
    assert (steps.passes(45), steps.examples_seen(45)) == ([3], 18)


def test_devices_without_the_memory_take_smaller_batches(small: Any, ran: Any) -> None:
    """As large as they hold; the log says so, others train as before, and all see everything."""
    found = ran(small(*FULL))
    names, plan = found.engine.fleet.profile_names(), found.engine.plan
    most = plan.memory.most(12_700, 20)
    assert 4 < most < 20
    assert plan.memory.bytes(most) <= 12_700 < plan.memory.bytes(most + 1)
    told = {(names[row["client"]], row["detail"]) for row in found.of("dispatched")}
    assert told == {("tiny", f"batches of {most}"), ("fast", None)}
    rows = [row for row in found.of("arrived") if row["outcome"] == "accepted"]
    assert all(row["examples"] == plan.examples[row["client"]] for row in rows)
    large = ran(small(*FULL, "fleet.profiles.tiny.memory_bytes=1 GB"))
    assert {row["detail"] for row in large.of("dispatched")} == {None}
    equal = ran(small(*FULL, "fleet.profiles.tiny.memory_bytes=1 GB", "method.workload.kind=equal"))
    assert large.digest == equal.digest != found.digest


def test_devices_without_the_memory_are_refused(small: Any) -> None:
    """Without smaller batches, or if even the smallest does not fit; a larger one is wrong."""
    with pytest.raises(ExperimentFileError, match=r"Lower batch_size to \d+ or set method"):
        small(*FULL, "method.workload={kind: equal}")
    with pytest.raises(ExperimentFileError, match=r"Lower method.workload.least_batch to \d+"):
        small(*FULL, "method.workload.least_batch=20")
    with pytest.raises(ExperimentFileError, match=r"least_batch must not exceed .* = 20, got 21"):
        small(*FULL, "method.workload.least_batch=21")


def test_how_many_smaller_batches_fit(small: Any, build: Any) -> None:
    """Of 10 examples each, as memory has it, an epoch of 40 has four; two of them fit the time."""
    engine = build(small(*FULL, "method.training.epochs=2"))
    plan, fleet = engine.plan, engine.fleet
    tiny = fleet.profile_names().index("tiny")
    example_s = fleet.nominal_s(tiny, 3 * plan.forward_flops)
    portions = Portions.asked_by(plan)
    portions._workload = TimedWorkload(seconds=25 * example_s, least_batch=4)
    assert portions.of(fleet, tiny, 40) == Portion(batches=2, batch_size=10)
    portions._workload = TimedWorkload(seconds=6 * example_s, least_batch=4)
    assert portions.of(fleet, tiny, 40) == Portion(batches=1, batch_size=6)
    portions._workload = TimedWorkload(seconds=100 * example_s, least_batch=4)
    assert portions.of(fleet, tiny, 40) == Portion(batch_size=10)


def test_a_workload_that_asks_for_too_much_is_told(small: Any, build: Any) -> None:
    """A number that cannot be is a mistake of the policy, with its name."""
    engine = build(small(*FULL))
    portions = Portions.asked_by(engine.plan)
    for name, what in (("batch_size", "20 examples of a batch"), ("batches", "2 batches")):
        wrong = type("Wrong", (EqualWorkload,), {name: lambda *_: 99})
        portions._workload = wrong(least_batch=1)
        with pytest.raises(RunError, match=f"between 1 and the {what} .* got 99"):
            portions.of(engine.fleet, 0, 40)


def test_the_fleet_view_shows_batches(small: Any) -> None:
    """How many, of how many examples, in what memory: as a table and for programs."""
    view = look(small(*FULL))
    (sheet,) = (sheet for sheet in sheets(view) if sheet.title == "One assignment")
    at = sheet.columns.index("batches")
    assert sheet.columns[at + 1] == "of"
    shown = {row[0]: row[at : at + 2] for row in sheet.cells}
    most = view.experiment.memory(view.shape).most(12_700, 20)
    by_name = {g.profile.name: work for g, work in zip(view.groups, view.work, strict=True)}
    tiny = by_name["tiny"]
    assert tiny.batch_size == (most, most, most)
    assert tiny.training_bytes <= 12_700
    assert by_name["fast"].batch_size == (20, 20, 20)
    assert shown["tiny"] == (count(tiny.batches.median), str(most))
    assert shown["fast"][1] == "20"
    found = json.loads(as_json(view))["kinds"][0]["assignment"]
    assert found["batch_size"] == {"low": most, "median": most, "high": most}
    plain = look(small(*FULL, "method.workload={kind: equal}", "method.training.batch_size=5"))
    assert "batches" not in next(s for s in sheets(plain) if s.title == "One assignment").columns


@pytest.mark.parametrize("body", ["second", "frozen"])
def test_split_models_too(small: Any, ran: Any, body: str) -> None:
    """A device of too little memory asks about smaller batches, or trains its tail on such."""
    model = f'model={{kind: "split_nets:Parts", width: 14, head: frozen, body: {body}}}'
    split = (*FULL, model, "topology=split", "method.uplink.kind=dense",
             "fleet.profiles.tiny.memory_bytes=9 kB")  # fmt: skip
    found = ran(small(*split))
    names = found.engine.fleet.profile_names()
    told = {row["detail"] for row in found.of("dispatched") if names[row["client"]] == "tiny"}
    portions = Portions.asked_by(found.engine.plan)
    for client, name in enumerate(names):
        examples = int(found.engine.plan.examples[client])
        size = portions.batch_size(found.engine.fleet, client, examples)
        needs = portions.memory(examples)
        assert size == (needs.most(9_000, 20) if name == "tiny" else 20)
        if name == "tiny":
            assert f"batches of {size}" in told
            assert needs.bytes(size) <= 9_000 < needs.bytes(size + 1)
    assert found.state.versions.newest.number == 6


def test_the_table_of_clients_has_the_batches(small: Any, tmp_path: Path) -> None:
    """And the report, where they differ."""
    how = small(*FULL)
    run(Request(how, tmp_path / "run", in_process=True), Console(file=StringIO()))
    clients = pd.read_parquet(tmp_path / "run" / "clients.parquet")
    sizes = clients.groupby("profile")["batch_size"].unique()
    assert (len(sizes["tiny"]), sizes["fast"].tolist()) == (1, [20])
    tiny = clients[clients["profile"] == "tiny"]
    assert (tiny["memory_share"] <= 1).all()
    assert (tiny["memory_share"] > 0.9).all()
    assert "batch size" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_slow_devices_do_less(small: Any, ran: Any) -> None:
    """Nobody computes much longer than the time, and who is fast does all."""
    found = ran(small(*TIMED))
    names = found.engine.fleet.profile_names()
    examples = found.engine.plan.examples
    rows = [row for row in found.of("arrived") if row["outcome"] == "accepted"]
    trained = {names[row["client"]]: [] for row in rows}
    for row in rows:
        trained[names[row["client"]]].append(row["examples"] / examples[row["client"]])
    assert set(trained["fast"]) == {1.0}
    assert max(trained["slow"]) < 1.0
    whole = ran(small(*TIMED, "method.workload.kind=equal"))
    slow = [names[row["client"]] == "slow" for row in rows]
    took = np.array([row["device_s"] for row in rows])[slow]
    long = [r["device_s"] for r in whole.of("arrived") if names[r["client"]] == "slow"]
    assert took.mean() < 0.6 * np.mean(long)
    assert found.digest != whole.digest


def test_the_fleet_view_counts_on_it(small: Any) -> None:
    """A slow kind of client is forecast to compute about the time, a fast one all its work."""
    timed, whole = look(small(*TIMED)), look(small(*TIMED, "method.workload.kind=equal"))
    by_name = {
        group.profile.name: took for group, took in zip(timed.groups, timed.work, strict=True)
    }
    before = {
        group.profile.name: took for group, took in zip(whole.groups, whole.work, strict=True)
    }
    assert by_name["slow"].compute_s.median <= 0.1 < before["slow"].compute_s.median
    assert by_name["fast"].compute_s.median == before["fast"].compute_s.median
