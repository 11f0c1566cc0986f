"""The engine, in one process and with real training: order, time, accounts."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from policies.types import Address, RunError, Version
from policies.wire import HEADER_LEAST_BYTES

PER_FLEET = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FLEETS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "clients": st.integers(2, 6),
        "spread": st.sampled_from([0.0, 0.5, 2.0]),
        "sigma": st.sampled_from([0.0, 0.3, 1.5]),
        "versions": st.integers(1, 14),
    }
)


def assignments(fleet: dict[str, Any], *more: str) -> list[str]:
    """Return the overrides for a drawn fleet."""
    return [
        f"seed={fleet['seed']}",
        f"fleet.clients={fleet['clients']}",
        f"fleet.spread={fleet['spread']}",
        f"fleet.jitter.sigma={fleet['sigma']}",
        f"stop.versions={fleet['versions']}",
        f"method.concurrency={min(4, fleet['clients'])}",
        *more,
    ]


@PER_FLEET
@given(fleet=FLEETS)
def test_staleness_law(fleet: dict[str, Any], small: Any, build: Any, ended: Any) -> None:
    """With N clients always busy under FedAsync, each commit makes N - 1 others one staler."""
    count = fleet["clients"]
    experiment = small(
        *assignments(
            fleet,
            f"method.concurrency={count}",
            "method.aggregation.kind=fedasync",
            "server.profile=instant",
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        engine = build(experiment, folder=Path(folder))
        engine.begin()
        engine.run()
        state = engine.state
        under_way = sum(map(state.staleness, state.flights.values()))
        rows = ended(engine).of("committed")
    applied = sum(row["staleness"] for row in rows)
    # the last update's client is not asked again: the run has stopped
    assume(len({row["time_s"] for row in rows}) == len(rows))  # nor is who came with it
    assert len(rows) == fleet["versions"]
    assert applied + under_way == len(rows) * (count - 1)


@PER_FLEET
@given(fleet=FLEETS, kind=st.sampled_from(["fedasync", "fedbuff", "fedavg"]))
def test_causality(fleet: dict[str, Any], kind: str, small: Any, build: Any, ended: Any) -> None:
    """Time never runs back, and nothing happens before what causes it."""
    more = [f"method.aggregation.kind={kind}", "evaluate.every_versions=2"]
    if kind == "fedavg":
        more += ["method.aggregation.clients_per_round=2"]
    with tempfile.TemporaryDirectory() as folder:
        engine = build(small(*assignments(fleet, *more)), folder=Path(folder))
        engine.begin()
        engine.run()
        rows = ended(engine).rows
    times = [row["time_s"] for row in rows]
    assert times == sorted(times)
    published: dict[int, int] = {}
    seen: dict[tuple[str, int, int], int] = {}
    for place, row in enumerate(rows):
        address = (row["client"], row["number"])
        if row["kind"] == "published":
            published[row["version"]] = place
        elif row["kind"] == "dispatched":
            assert row["base_version"] == max(published), "clients get the newest version"
            seen["dispatched", *address] = place
        elif row["kind"] == "arrived":
            assert seen["dispatched", *address] < place
            assert row["base_version"] in published
            seen["arrived", *address] = place
        elif row["kind"] == "committed":
            assert seen["arrived", *address] < place
            assert row["version"] not in published, "an update comes before its version"
            assert row["staleness"] == row["version"] - 1 - row["base_version"] >= 0
        elif row["kind"] == "evaluated":
            assert row["version"] in published
    assert sorted(published) == list(range(fleet["versions"] + 1))


@PER_FLEET
@given(fleet=FLEETS, bad=st.sets(st.integers(0, 5), max_size=3))
def test_conservation(
    fleet: dict[str, Any], bad: set[int], small: Any, build: Any, ended: Any
) -> None:
    """Dispatched = committed + rejected + superseded + lost + in flight, from the log alone."""
    planned = ", ".join(
        f"{{fault: {'garbage' if c % 2 else 'not-finite'}, client: {c}}}"
        for c in sorted(bad)
        if c < fleet["clients"]
    )
    experiment = small(*assignments(fleet, f"faults=[{planned}]"))
    with tempfile.TemporaryDirectory() as folder:
        engine = build(experiment, folder=Path(folder))
        engine.begin()
        for _ in range(3):
            engine.rollback()
        engine.run()
        result = ended(engine)
    counts = Counter(row["kind"] for row in result.rows)
    verdicts = Counter(row["outcome"] for row in result.of("arrived"))
    ledger = engine.state.ledger
    assert counts["dispatched"] == ledger.dispatched
    assert counts["committed"] == ledger.committed
    assert verdicts["rejected"] == ledger.rejected
    assert verdicts["superseded"] + counts["superseded"] == ledger.superseded
    assert ledger.in_flight == len(engine.state.flights)
    assert ledger.dispatched == (
        ledger.committed + ledger.rejected + ledger.superseded + ledger.lost + ledger.in_flight
    )


def test_times_by_hand(small: Any, ran: Any) -> None:
    """One client, no jitter: each stage takes bytes over bandwidth or work over speed."""
    experiment = small(
        "fleet.clients=1",
        "fleet.mix=[{profile: own}]",
        "fleet.profiles={own: {flops: 1e6, memory_bytes: 1 GB, compute_watts: 2, radio_watts: 3, "
        "uplink: 8000, downlink: 80000, latency_s: 0.5}}",
        "fleet.jitter.kind=none",
        "method.concurrency=1",
        "method.uplink.kind=dense",
        "method.aggregation.kind=fedasync",
        "server.flops=1000",
        "stop.versions=2",
        "data.train_examples=100",
    )
    result = ran(experiment)
    first = result.of("arrived")[0]
    down = 0.5 + result.of("dispatched")[0]["downlink_bytes"] * 8 / 80000
    compute = 3 * (2 * 64 * 10) * 100 / 1e6
    up = 0.5 + first["uplink_bytes"] * 8 / 8000
    assert first["time_s"] == pytest.approx(down + compute + up)
    assert first["device_s"] == pytest.approx(down + compute + up)
    assert first["energy_j"] == pytest.approx(3 * (down + up) + 2 * compute)
    # the server takes 2 FLOPs a value to add and 2 to publish, at 1000 FLOP/s
    assert result.of("published")[1]["time_s"] == pytest.approx(first["time_s"] + 4 * 650 / 1000)
    # the client was asked again at once, and got the version before
    assert result.of("dispatched")[1]["time_s"] == first["time_s"]
    assert result.of("dispatched")[1]["base_version"] == 0


def test_server_is_a_queue(small: Any, ran: Any) -> None:
    """Updates that come faster than the server serves make versions one after the other."""
    experiment = small(
        "fleet.clients=4",
        "fleet.jitter.kind=none",
        "method.uplink.kind=dense",
        "method.aggregation.kind=fedasync",
        "server.flops=1e5",
        "stop.versions=6",
    )
    result = ran(experiment)
    service = 4 * 650 / 1e5
    times = [row["time_s"] for row in result.of("published")][1:]
    arrived = result.of("arrived")[0]["time_s"]
    assert times == pytest.approx([arrived + service * (i + 1) for i in range(6)])


def test_bytes_are_those_of_the_buffers(small: Any, ran: Any) -> None:
    """What the log counts is what was sent, and the bound lies below it."""
    result = ran(small())
    ledger = result.state.ledger
    assert ledger.uplink_bytes == sum(r["uplink_bytes"] for r in result.of("arrived"))
    assert ledger.downlink_bytes == sum(r["downlink_bytes"] for r in result.of("dispatched"))
    for row in result.of("arrived"):
        assert row["nonzeros"] == 65
        assert row["uplink_bytes"] - HEADER_LEAST_BYTES - 40 < row["uplink_entropy_bytes"]
        assert row["uplink_entropy_bytes"] < row["uplink_bytes"]


def test_equal_seeds_equal_digests(small: Any, ran: Any) -> None:
    """The same experiment gives the same digest; another seed, or any other setting, another."""
    reference = ran(small()).digest
    assert ran(small()).digest == reference
    for change in ("seed=8", "method.training.lr=0.11", "fleet.jitter.sigma=0.51"):
        assert ran(small(change)).digest != reference


def test_learns(small: Any, ran: Any) -> None:
    """Sixty versions learn the digits."""
    result = ran(
        small("stop.versions=60", "data.train_examples=1000", "evaluate.every_versions=30")
    )
    accuracies = result.state.ledger.accuracies
    assert accuracies[0] < 0.3
    assert accuracies[-1] > 0.8


@pytest.mark.parametrize("fault", ["garbage", "not-finite"])
def test_bad_payloads_are_rejected_and_their_client_left_out(
    fault: str, small: Any, ran: Any
) -> None:
    """Three bad payloads in a row put a client in quarantine; the run goes on without it."""
    planned = ", ".join(f"{{fault: {fault}, client: 2, number: {n}}}" for n in range(3))
    result = ran(small(f"faults=[{planned}]", "stop.versions=30"))
    rejected = [row for row in result.of("arrived") if row["outcome"] == "rejected"]
    assert [(row["client"], row["number"]) for row in rejected] == [(2, 0), (2, 1), (2, 2)]
    reasons = {"not_finite"} if fault == "not-finite" else {"malformed"}
    assert {row["reason"] for row in rejected} == reasons
    assert [row["client"] for row in result.of("quarantined")] == [2]
    assert max(r["number"] for r in result.of("dispatched") if r["client"] == 2) == 2
    assert result.state.ledger.wasted_device_s == pytest.approx(
        sum(row["device_s"] for row in rejected)
    )
    assert result.state.versions.newest.number == 30


def test_a_rejected_update_costs_its_client_no_state(small: Any, ran: Any) -> None:
    """After a rejection the client trains from the state before, as if it had sent nothing."""
    result = ran(small("faults=[{fault: not-finite, client: 2, number: 0}]"))
    states = result.state.client_states
    numbers = {client: number for client, number, committed, _ in states.items() if committed}
    assert 2 not in numbers or numbers[2] > 0


def test_nobody_left(small: Any, ran: Any) -> None:
    """When every client diverges the run ends with the reason and the way out."""
    with pytest.raises(RunError, match=r"nobody is left to ask.*not_finite.*learning rate"):
        ran(small("method.training.lr=1e38"))


def test_rounds_wait_for_their_cohort(small: Any, ran: Any) -> None:
    """A synchronous round asks its cohort on one version and takes the first that come."""
    result = ran(
        small(
            "method.aggregation={kind: fedavg, clients_per_round: 3, over_selection: 1.6}",
            "stop.versions=6",
            "evaluate.every_versions=1",
        )
    )
    for version in range(6):
        asked = [r for r in result.of("dispatched") if r["base_version"] == version]
        taken = [r for r in result.of("committed") if r["version"] == version + 1]
        assert len(taken) == 3
        assert len(asked) <= 5
        assert {r["staleness"] for r in taken} == {0}
    late = [r for r in result.of("arrived") if r["outcome"] == "rejected"]
    assert late
    assert {r["reason"] for r in late} == {"round_closed"}
    assert not result.of("quarantined"), "late is not hostile"


def test_rounds_close_at_the_deadline(small: Any, ran: Any) -> None:
    """A deadline takes what has come; with nothing there, the first update closes the round."""
    slow = ran(small("method.aggregation={kind: fedavg, clients_per_round: 4}", "stop.versions=3"))
    deadline = 0.6 * slow.of("published")[1]["time_s"]
    setting = f"{{kind: fedavg, clients_per_round: 4, deadline_s: {deadline}}}"
    result = ran(small(f"method.aggregation={setting}", "stop.versions=3"))
    first = [r for r in result.of("committed") if r["version"] == 1]
    assert 1 <= len(first) < 4
    assert result.of("published")[1]["time_s"] >= deadline
    tight = "{kind: fedavg, clients_per_round: 4, deadline_s: 1e-6}"
    result = ran(small(f"method.aggregation={tight}", "stop.versions=3"))
    assert len([r for r in result.of("committed") if r["version"] == 1]) == 1


def test_a_round_that_fails_is_asked_anew(small: Any, ran: Any) -> None:
    """If a whole cohort sends rubbish, others are asked on the same version."""
    planned = ", ".join(f"{{fault: garbage, client: {c}}}" for c in range(6))
    result = ran(
        small(
            "method.aggregation={kind: fedavg, clients_per_round: 2}",
            f"faults=[{planned}]",
            "stop.versions=2",
        )
    )
    assert result.state.ledger.rejected >= 2
    assert result.state.versions.newest.number == 2


def test_too_stale(small: Any, ran: Any) -> None:
    """Updates beyond the limit are rejected, and are not held against their client."""
    result = ran(
        small(
            "method.aggregation.kind=fedasync",
            "method.staleness={kind: constant, max_staleness: 1}",
            "stop.versions=30",
            "method.concurrency=6",
        )
    )
    late = [r for r in result.of("arrived") if r["reason"] == "too_stale"]
    assert late
    assert all(r["staleness"] > 1 for r in late)
    assert max(r["staleness"] for r in result.of("committed")) <= 1
    assert not result.of("quarantined")


class Orders:
    """Gives commands at certain looks, as people would."""

    def __init__(self, orders: dict[int, str]) -> None:
        self.orders = orders
        self.looks = 0
        self.waits = 0
        self.states: list[str] = []

    def poll(self, status: Any) -> list[str]:
        self.looks += 1
        self.states.append(status()["state"])
        order = self.orders.get(self.looks)
        return [order] if order else []

    def wait(self) -> None:
        self.waits += 1


def test_pause_and_resume_change_nothing(small: Any, ran: Any) -> None:
    """A paused run waits before its next event and then ends the same."""
    orders = Orders({20: "pause", 25: "resume"})
    result = ran(small(), control=orders)
    assert orders.waits == 5
    assert "paused" in orders.states
    assert result.digest == ran(small()).digest


def test_stop_ends_with_results(small: Any, ran: Any) -> None:
    """A stop evaluates the newest version and ends; what is in flight stays in flight."""
    result = ran(small("stop.versions=1000"), control=Orders({60: "stop"}))
    assert result.state.stopped.guard == "control"
    newest = result.state.versions.newest
    assert 0 < newest.number < 1000
    assert result.of("evaluated")[-1]["version"] == newest.number
    assert result.of("guard")[-1]["reason"] == "control"


def test_rollback(small: Any, ran: Any) -> None:
    """A rollback publishes the best version's weights as a new version of a new lineage."""
    result = ran(
        small("stop.versions=30", "evaluate.every_versions=2"), control=Orders({100: "rollback"})
    )
    (back,) = result.of("rolled_back")
    assert back["lineage"] == 1
    best = back["base_version"]
    published = {r["version"]: r for r in result.of("published")}
    assert published[back["version"]]["lineage"] == 1
    evaluated = [r for r in result.of("evaluated") if r["time_s"] <= back["time_s"]]
    assert best == max(evaluated, key=lambda r: (r["accuracy"], -r["version"]))["version"]
    superseded = [r for r in result.of("arrived") if r["outcome"] == "superseded"]
    assert superseded
    assert all(r["reason"] == "old_lineage" and r["lineage"] == 0 for r in superseded)
    after = [r for r in result.of("committed") if r["version"] > back["version"]]
    assert after
    assert {r["lineage"] for r in after} == {1}
    assert not [r for r in after if r["base_version"] < back["version"]]


@pytest.mark.parametrize(
    ("stop", "guard"),
    [
        ("{versions: 5}", "versions"),
        ("{virtual_seconds: 0.2}", "virtual_seconds"),
        ("{bytes: 60 kB}", "bytes"),
        ("{accuracy: 0.3}", "accuracy"),
        ("{no_progress: {evaluations: 2, by: 0.9}}", "no_progress"),
    ],
)
def test_guards(stop: str, guard: str, small: Any, ran: Any) -> None:
    """Each guard ends the run at its limit, with the last version evaluated."""
    result = ran(small(f"stop={stop}", "evaluate.every_versions=1"))
    (row,) = result.of("guard")
    assert row["reason"] == guard
    newest = result.state.versions.newest.number
    assert result.of("evaluated")[-1]["version"] == newest
    if guard == "versions":
        assert newest == 5
    if guard == "virtual_seconds":
        assert row["time_s"] == 0.2
    if guard == "bytes":
        assert result.state.ledger.bytes >= 60_000
    if guard == "accuracy":
        assert result.state.best is not None
        assert result.state.best[0] >= 0.3


def test_a_broken_model_stops_the_run(small: Any, ran: Any) -> None:
    """A server step that blows the model up is seen by the evaluation, whatever else is asked."""
    result = ran(
        small(
            "method.aggregation={kind: fedbuff, size: 3, rate: 3e38}", "evaluate.every_versions=1"
        )
    )
    assert result.state.stopped.guard == "not_finite"


def test_versions_are_let_go(small: Any, ran: Any) -> None:
    """Only versions that somebody still needs are kept, however long the run."""
    result = ran(small("stop.versions=40"))
    state = result.state
    needed = {f.base for f in state.flights.values() if not f.accepted}
    needed |= {state.versions.newest, state.best[1]}
    assert {v for v, *_ in state.versions.items()} == needed


def test_selection_is_fair(small: Any, ran: Any) -> None:
    """Every client takes part when many are asked."""
    result = ran(small("stop.versions=40", "method.concurrency=2"))
    asked = Counter(row["client"] for row in result.of("dispatched"))
    assert set(asked) == set(range(6))


def test_wall_clock_has_the_same_order(small: Any, ran: Any) -> None:
    """A well-separated fleet gives the same order of events under both clocks."""
    fleet = (
        "fleet={clients: 3, mix: [{profile: a}, {profile: b}, {profile: c}], profiles: {"
        + ", ".join(
            f"{n}: {{flops: {f}, memory_bytes: 1 GB, compute_watts: 1, radio_watts: 1, "
            "uplink: 1e9, downlink: 1e9, latency_s: 0.001}"
            for n, f in (("a", 3.1e5), ("b", 1.07e5), ("c", 0.37e5))
        )
        + "}}"
    )
    same = (
        fleet,
        "data.partition.kind=iid",
        "method.concurrency=3",
        "method.aggregation.kind=fedasync",
        "stop.versions=8",
        "evaluate.every_versions=100",
        "server.profile=instant",
    )
    virtual = ran(small(*same))
    wall = ran(small(*same, "clock=wall", "wall.time_scale=20"))

    def order(result: Any) -> list[tuple[Any, ...]]:
        kinds = ("dispatched", "arrived", "committed")
        return [
            (r["kind"], r["client"], r["number"], r["base_version"])
            for r in result.rows
            if r["kind"] in kinds
        ]

    assert order(wall) == order(virtual)
    arrived = [
        (w["time_s"], v["time_s"])
        for w, v in zip(wall.of("arrived"), virtual.of("arrived"), strict=True)
    ]
    assert all(w >= v - 1e-6 for w, v in arrived), "nothing comes before its modelled time"


def test_wall_clock_without_delays(small: Any, ran: Any) -> None:
    """Without delays a wall run is as fast as its work."""
    result = ran(small("clock=wall", "wall.delays=false", "stop.versions=5"))
    assert result.state.versions.newest == Version(5, 0)
    assert all(row["device_s"] == 0 for row in result.of("arrived"))


def test_an_in_process_run_refuses_to_kill_itself(small: Any, ran: Any) -> None:
    """A crash drill without a process to crash is refused with the way out."""
    from policies.types import ExperimentError

    with pytest.raises(ExperimentError, match="Run it on Ray"):
        ran(
            small(
                "faults=[{fault: crash, client: 0}, {fault: crash, client: 1}, "
                "{fault: crash, client: 2}, {fault: crash, client: 3}]"
            )
        )


def test_state_is_used(small: Any, ran: Any) -> None:
    """Error feedback carries residuals from update to update: without it the run is another."""
    result = ran(small())
    other = ran(small("method.uplink.error_feedback=false"))
    assert result.digest != other.digest
    committed = {c for c, _, done, _ in result.state.client_states.items() if done}
    assert committed
    assert not list(other.state.client_states.items())
    for _, _, _, place in result.state.client_states.items():
        residual = np.asarray(place.handle)[place.start : place.stop].view(np.float32)
        assert residual.size == 650
        assert np.count_nonzero(residual) > 0
    assert Address(0, 0) == (0, 0)


@pytest.mark.parametrize("kind", ["fedasync", "fedbuff"])
@pytest.mark.parametrize(
    "stop",
    ["{virtual_seconds: 0.5}", "{bytes: 200 kB}", "{accuracy: 0.12, versions: 9}"],
)
def test_the_last_version_is_evaluated_behind_a_slow_server(
    kind: str, stop: str, small: Any, ran: Any
) -> None:
    """A run that stops while versions are on their way publishes and evaluates the last of them."""
    for seed in range(2):
        result = ran(
            small(
                f"seed={seed}",
                f"method.aggregation.kind={kind}",
                "server.flops=1e4",
                f"stop={stop}",
                "evaluate.every_versions=2",
            )
        )
        newest = result.state.versions.newest
        assert newest == result.state.head
        assert result.state.last_evaluation[0] == newest
        assert not result.state.receipts


def test_no_rollback_once_the_last_version_is_made(small: Any, build: Any, ended: Any) -> None:
    """What people ask for after the end changes nothing."""
    engine = build(small())
    engine.begin()
    engine.run()
    assert not engine.rollback()
    assert ended(engine).state.versions.newest.number == 12


class Slow:
    """A result that shows itself at the n-th look."""

    def __init__(self, value: Any, looks: int) -> None:
        self.value = value
        self.looks = looks

    def done(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    def result(self) -> Any:
        self.looks = -1
        return self.value


def test_versions_never_overtake_on_the_wall(small: Any, build: Any, ended: Any) -> None:
    """Receipts that come in any order and late are published in the order of their versions."""
    engine = build(
        small(
            "clock=wall",
            "wall.delays=false",
            "method.aggregation.kind=fedasync",
            "stop.versions=30",
            "evaluate.every_versions=100",
        )
    )
    commit = engine.runtime.commit

    def late(addresses: Any, expected: Version) -> Any:
        receipt, handle = commit(addresses, expected)
        return Slow(receipt.result(), (7 * expected.number) % 5), handle

    engine.runtime.commit = late
    engine.begin()
    engine.run()
    versions = [row["version"] for row in ended(engine).of("published")]
    assert versions == list(range(31))


def test_more_examples_than_there_are(small: Any, build: Any, ended: Any) -> None:
    """An update that claims more examples than its client has is refused and held against it."""
    engine = build(small("stop.versions=10"))
    submit = engine.runtime.submit

    def boasting(job: Any) -> Any:
        finished = submit(job).result()
        if job.assignment.address.client == 1:
            admission = finished.admission._replace(examples=2**62)
            finished = finished._replace(admission=admission)
        return Slow(finished, 0)

    engine.runtime.submit = boasting
    engine.begin()
    engine.run()
    result = ended(engine)
    refused = [row for row in result.of("arrived") if row["client"] == 1]
    assert refused
    assert {row["reason"] for row in refused} == {"wrong_examples"}


def test_a_client_that_holds_the_version_is_sent_nearly_nothing(small: Any, ran: Any) -> None:
    """Under `difference` a client that trains again from its version pays for a header alone."""
    result = ran(small("method.downlink.kind=difference", "method.aggregation.size=6"))
    rows = result.of("dispatched")
    again = [r for r in rows if r["held_version"] == r["base_version"]]
    first = [r for r in rows if r["held_version"] is None]
    assert len(first) == 6
    assert {row["base_version"] for row in again} >= {0, 1}
    assert max(row["downlink_bytes"] for row in again) < 60
    assert min(row["downlink_bytes"] for row in first) > 1000


def test_the_asked_density_reaches_the_clients(small: Any, ran: Any) -> None:
    """With `auto` a ballot has as many votes as the server asked for with its base version."""
    result = ran(
        small(
            "method.uplink={kind: signs, density: auto, uncovered: 0.5, scope: model}",
            "method.aggregation={kind: majority-vote, voters: 4, size: 4}",
        )
    )
    parameters = result.engine.schema.parameters
    first = [row["nonzeros"] for row in result.of("arrived") if row["base_version"] == 0]
    assert max(first) == -(-parameters * np.log(2) // 4)
    assert min(first) > 0.5 * max(first)  # pixels that are always 0 abstain


def test_measures_go_to_the_version_that_was_tested(small: Any, ran: Any) -> None:
    """With a slow evaluator, MLflow's figures are of the tested version, not of the newest."""

    class Points:
        def __init__(self) -> None:
            self.seen: dict[int, dict[str, float]] = {}

        def point(self, point: Any) -> None:
            self.seen[point.version] = point.metrics

    points = Points()
    pruning = "method.pruning={kind: fedmap, density: 0.1, schedule: {kind: linear, until: 12}}"
    experiment = small(pruning, "method.uplink={kind: packed, content: delta}", "server.flops=2e4")
    result = ran(experiment, observers=(points,))
    measured = {
        row["version"]: row["value"] for row in result.of("measured") if row["measure"] == "density"
    }
    assert len(points.seen) > 3
    for version, metrics in points.seen.items():
        assert metrics.get("density") == measured.get(version)


HUGE = "faults=[{fault: huge, client: 2, number: 4}, {fault: huge, client: 1, number: 5}]"
GUARDED = "guards.anomaly={length: 10, loss: 10, window: 20}"


def test_what_is_unlike_the_others_is_rejected(small: Any, ran: Any) -> None:
    """An update a thousand times as long is in no version, and speaks against its client."""
    many = ("stop.versions=14", "stop.no_progress=null")
    result = ran(small(HUGE, GUARDED, *many))
    odd = [row for row in result.of("arrived") if row["reason"] == "anomalous"]
    assert {(row["client"], row["number"]) for row in odd} == {(2, 4), (1, 5)}
    assert all("times the median" in row["detail"] for row in odd)
    assert all(row["outcome"] == "rejected" for row in odd)
    hurt = ran(small(HUGE, *many))
    assert not [row for row in hurt.of("arrived") if row["reason"] == "anomalous"]
    accuracies = [one.of("evaluated")[-1]["accuracy"] for one in (result, hurt)]
    assert accuracies[0] > accuracies[1] + 0.1
    strict = ran(small(HUGE, GUARDED, "guards.quarantine.after=1", *many))
    assert {row["client"] for row in strict.of("quarantined")} == {1, 2}


def test_the_guard_leaves_a_sound_run_alone(small: Any, ran: Any) -> None:
    """The same versions with it as without."""
    plain, guarded = ran(small()), ran(small(GUARDED))
    hashes = [[row["hash"] for row in one.of("published")] for one in (plain, guarded)]
    assert hashes[0] == hashes[1]
