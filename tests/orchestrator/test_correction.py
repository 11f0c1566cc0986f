"""Does a run with a correction do what it says, and say what it did?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchestrator import people
from orchestrator.books import Kind
from orchestrator.mistakes import ExperimentFileError
from policies.types import Version

PUBLIC = "data={source: digits, train_examples: 240, holdout: 300}"
CORRECTED = "method.correction={kind: step-distillation, steps: 5, ramp: 6}"
OWN = "method.correction={kind: distillation, proxy: client, ramp: 6, steps: 3, batch: 32}"
READ = "guards.anomaly={kl: 8, window: 30}"


def figures(result: Any) -> dict[int, dict[str, float]]:
    """Return what was measured of each version."""
    found: dict[int, dict[str, float]] = {}
    for row in result.of("measured"):
        found.setdefault(row["version"], {})[row["measure"]] = row["value"]
    return found


def key(row: dict[str, Any]) -> tuple[int, int]:
    """Return which update a row is about."""
    return row["client"], row["number"]


def only(rows: list[dict[str, Any]]) -> dict[tuple[int, int], dict[str, Any]]:
    """Return rows by update, of which there is one each."""
    found = {key(row): row for row in rows}
    assert len(found) == len(rows)
    return found


def test_every_late_version_is_corrected(small: Any, ran: Any) -> None:
    """From the second version on, if an update in it is late; then it is nearer to the teacher."""
    result = ran(small(PUBLIC, CORRECTED))
    late = {row["version"] for row in result.of("committed") if row["staleness"]}
    told = figures(result)
    assert late
    assert set(told) == late - {1}
    for version, found in told.items():
        assert 0 <= found["correction_kl_after"] <= found["correction_kl_before"]
        assert found["correction_strength"] == pytest.approx(1 - np.exp(-3 * (version - 1) / 6))
    assert any(found["correction_length"] > 0 for found in told.values())


def test_it_changes_the_model_and_nothing_before_it(small: Any, ran: Any) -> None:
    """The same arrivals, another model; with a strength of 0 the same model bit for bit."""
    plain = ran(small(PUBLIC))
    corrected = ran(small(PUBLIC, CORRECTED, "server.profile=instant"))
    instant = ran(small(PUBLIC, "server.profile=instant"))
    none = ran(small(PUBLIC, "method.correction={kind: step-distillation, strength: 0}"))
    asked = [[row["client"] for row in one.of("arrived")] for one in (corrected, instant)]
    assert asked[0] == asked[1]
    hashes = [[row["hash"] for row in one.of("published")] for one in (plain, none)]
    assert hashes[0] == hashes[1]
    last = [one.of("published")[-1]["hash"] for one in (corrected, instant)]
    assert last[0] != last[1]


def test_its_time_is_the_servers(small: Any, ran: Any) -> None:
    """A slow server publishes a corrected version later, by what the steps take."""
    slow = (PUBLIC, "server.flops=1e6", "stop.versions=1", "method.concurrency=3")
    plain, corrected = ran(small(*slow)), ran(small(*slow, CORRECTED))
    at = [
        next(row["time_s"] for row in one.of("published") if row["version"] == 1)
        for one in (plain, corrected)
    ]
    plan = corrected.engine.plan
    assert at[1] - at[0] == pytest.approx(((2 + 3 * 5) * 64 + 3 * 64) * plan.forward_flops / 1e6)


def test_rounds_are_left_alone(small: Any, ran: Any) -> None:
    """In synchronous rounds no update is late."""
    rounds = (PUBLIC, "method.aggregation={kind: fedavg, clients_per_round: 3}")
    assert (
        ran(small(*rounds)).of("published")[-1]["hash"]
        == (ran(small(*rounds, CORRECTED)).of("published")[-1]["hash"])
    )


EACH = "method.correction={kind: distillation, ramp: 6, steps: 3, batch: 32}"


def test_every_late_update_is_corrected_by_itself(small: Any, ran: Any) -> None:
    """Each has its figures in the log right after `committed`, and versions their means."""
    result = ran(small(PUBLIC, EACH))
    late = {
        (row["client"], row["number"]): row
        for row in result.of("committed")
        if row["staleness"] and row["version"] > 1
    }
    corrected: dict[tuple[int, int], dict[str, float]] = {}
    for row in result.of("corrected"):
        key = (row["client"], row["number"])
        assert row["version"] == late[key]["version"]
        assert row["staleness"] == late[key]["staleness"]
        corrected.setdefault(key, {})[row["measure"]] = row["value"]
    assert corrected.keys() == late.keys()
    for key, found in corrected.items():
        stage = 1 - np.exp(-3 * (late[key]["version"] - 1) / 6)
        assert found["correction_strength"] == pytest.approx(0.5 * stage)
        assert 0 <= found["correction_kl_after"] <= found["correction_kl_before"]
    for version, told in figures(result).items():
        of_it = [corrected[key] for key, row in late.items() if row["version"] == version]
        assert told["correction_share"] == pytest.approx(len(of_it) / 3)
        for name in of_it[0]:
            assert told[name] == pytest.approx(np.mean([one[name] for one in of_it]))


def test_no_strength_is_the_uncorrected_method(small: Any, ran: Any) -> None:
    """Bit for bit; and with strength another model, from the same arrivals."""
    plain = ran(small(PUBLIC, "server.profile=instant"))
    hashes = {}
    for strength in (0, 0.5):
        correction = f"method.correction={{kind: distillation, ramp: 0, strength: {strength}}}"
        result = ran(small(PUBLIC, "data.holdout=400", "server.profile=instant", correction))
        hashes[strength] = [row["hash"] for row in result.of("published")]
    again = ran(small(PUBLIC, "data.holdout=400", "server.profile=instant"))
    expected = [row["hash"] for row in again.of("published")]
    assert hashes[0] == expected
    assert hashes[0.5][:2] == expected[:2]
    assert hashes[0.5][-1] != expected[-1]
    assert len(plain.of("published")) == len(expected)


def test_its_time_is_charged_where_updates_arrive(small: Any, ran: Any) -> None:
    """A slow server is busy with a late update for as long as its steps and checks take."""
    slow = (PUBLIC, "server.flops=1e6", "stop.versions=2", "method.concurrency=6")
    plain, corrected = ran(small(*slow)), ran(small(*slow, EACH))
    plan, policy = corrected.engine.plan, corrected.engine.plan.method.correction
    arrived = [row["staleness"] for row in corrected.of("arrived")]
    assert [row["staleness"] for row in plain.of("arrived")][:3] == arrived[:3] == [0, 0, 0]
    at = [
        [row["time_s"] for row in one.of("published") if row["version"]]
        for one in (plain, corrected)
    ]
    version_s = policy.version_flops(plan.forward_flops) / 1e6
    assert at[1][0] - at[0][0] == pytest.approx(version_s)
    late = [flops for d in arrived[3:] if (flops := policy.flops(d, plan.forward_flops))]
    assert late
    assert at[1][1] - at[0][1] >= version_s + late[0] / 1e6


@pytest.mark.parametrize(
    "method",
    [
        ("method.uplink={kind: top-k, density: 0.1}",),
        ("method.aggregation={kind: ca2fl, size: 3}",),
        ("method.aggregation={kind: fedasync}",),
        ("method.uplink={kind: qsgd}",),
        (
            "method.uplink={kind: sparse-weights, density: 0.2}",
            "method.training={kind: sparsyfed}",
            "method.aggregation={kind: fedbuff, size: 3, form: weights}",
            "method.downlink={kind: difference}",
        ),
        (
            "method.uplink={kind: packed}",
            "method.aggregation={kind: fedbuff, size: 3, form: weights}",
            "method.pruning={kind: fedmap, density: 0.3, every: 2}",
            "method.downlink={kind: difference}",
        ),
    ],
    ids=["top-k", "ca2fl", "fedasync", "qsgd", "sparsyfed", "fedmap"],
)
def test_with_what_it_goes(method: tuple[str, ...], small: Any, ran: Any) -> None:
    """Sparse and cached updates are corrected too, and the run is the same again."""
    made = small(PUBLIC, EACH, *method)
    result = ran(made)
    assert result.of("corrected")
    assert all(row["outcome"] == "accepted" for row in result.of("arrived"))
    assert [r["hash"] for r in ran(made).of("published")] == [
        r["hash"] for r in result.of("published")
    ]
    if "sparsyfed" in str(method) or "fedmap" in str(method):
        density = [row["value"] for row in result.of("measured") if row["measure"] == "density"]
        plain = ran(small(PUBLIC, *method))
        alone = [row["value"] for row in plain.of("measured") if row["measure"] == "density"]
        assert max(density) <= max(alone) + 0.05, "nothing pruned has come back"


@pytest.mark.parametrize("kind", ["step-distillation", "distillation"])
def test_generated_inputs(kind: str, small: Any, ran: Any) -> None:
    """No hold-out is needed: all examples are clients', and late updates are corrected still."""
    correction = f"method.correction={{kind: {kind}, proxy: generated, ramp: 6}}"
    made = small("data={source: digits, train_examples: 240}", correction)
    result = ran(made)
    late = {row["version"] for row in result.of("committed") if row["staleness"]} - {1}
    told = figures(result)
    assert set(told) == late
    assert any(found["correction_length"] > 0 for found in told.values())
    for found in told.values():
        assert 0 <= found["correction_kl_after"] <= found["correction_kl_before"]
    again = ran(made)
    assert [r["hash"] for r in again.of("published")] == [r["hash"] for r in result.of("published")]


def test_it_sets_itself_in_cells_too(small: Any, ran: Any) -> None:
    """The signals of cells' updates are those that one server would hear."""
    aggregation = "method.aggregation={kind: fedbuff, size: 3}"
    cells = "fleet.regions={near: {cell: {latency_s: 0.0}}, far: {cell: {latency_s: 0.0}}}"
    result = ran(small(PUBLIC, CORRECTED, aggregation, cells))
    found = [one for one in figures(result).values() if "correction_stretch" in one]
    assert any(one["correction_stretch"] > 1 for one in found)
    assert all(one["correction_trust"] == 1 for one in found)
    assert all(one["correction_curvature"] > 0 for one in found)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            ("data.holdout=100", CORRECTED),
            (
                "data.holdout must be at least 128 for method.correction step-distillation, whose "
                "inputs are no client's, got 100. Raise it."
            ),
        ),
        (
            (
                "data.holdout=200",
                CORRECTED,
                "server.shards=2",
                "model={kind: mlp, hidden: [30000]}",
            ),
            "method.correction: step-distillation needs the whole model at one server",
        ),
        (
            (
                "data.holdout=400",
                EACH,
                "method.uplink={kind: signs}",
                "method.aggregation={kind: majority-vote, size: 3}",
            ),
            "method.correction: distillation corrects every update by itself, and the uplink signs",
        ),
        (
            (
                "data.holdout=400",
                "method.correction={kind: distillation, gates: [delay]}",
                "method.staleness={kind: constant}",
            ),
            "method.correction: the gate delay is 1 - s(d), and with method.staleness constant",
        ),
        (
            ("method.correction={kind: distillation, proxy: generated, anchor: labels}",),
            "method.correction.anchor: labels needs inputs that have some",
        ),
        (
            (
                "data={source: flights, partition: {kind: natural}}",
                "model={kind: tabular}",
                "fleet.clients=16",
                "method.correction={kind: step-distillation, proxy: generated}",
            ),
            "method.correction.proxy: generated draws images, and the data are a table with",
        ),
        ((READ,), "guards.anomaly.kl: reads how far late updates are from the newest model"),
        ((READ, OWN), "method.correction distillation does not have the server measure it"),
        (
            ("data.holdout=400", "method.correction={kind: distillation, gates: [doubt]}"),
            "method.correction.gates",
        ),
    ],
)
def test_refused_with_the_reason(changes: tuple[str, ...], text: str, small: Any) -> None:
    """Too few inputs; a model in parts; votes; gates that are shut or unknown."""
    with pytest.raises(ExperimentFileError) as caught:
        small(*changes)
    assert text in str(caught.value)


# ---------------------------------------------------------------- a guard that reads lessons

LONG = (PUBLIC, EACH, "stop.versions=30", "stop.no_progress=null")
WILD = ", ".join(f"{{fault: huge, client: 1, number: {number}}}" for number in range(4, 12))


def test_who_is_far_from_the_teacher_again_and_again_is_left_out(small: Any, ran: Any) -> None:
    """Each such update is in its version and speaks against its client; the others' do not."""
    result = ran(small(*LONG, READ, f"faults=[{WILD}]"))
    odd = only(result.of("suspected"))
    assert min(odd) == (1, 4)
    assert {client for client, _ in odd} == {1}
    assert all(row["reason"] == "anomalous" for row in odd.values())
    assert all("times the median" in row["detail"] for row in odd.values())
    committed = only(result.of("committed"))
    for name, row in odd.items():
        assert row["version"] == committed[name]["version"]
        assert row["staleness"] == committed[name]["staleness"] > 0
    (out,) = result.of("quarantined")
    assert (out["client"], out["reason"], out["detail"]) == (1, "anomalous", "3 in a row")
    third = result.rows.index(list(odd.values())[2])
    assert result.rows.index(out) == third + 1
    asked = [at for at, row in enumerate(result.rows) if row["kind"] == "dispatched"]
    assert not [at for at in asked if at > third and result.rows[at]["client"] == 1]
    assert len(odd) >= 3
    assert result.state.roster.strikes[1] == 3, "what was under way adds nothing"


def test_it_remembers_what_is_usual(small: Any, ran: Any) -> None:
    """Divergences of corrected updates, the last thirty, without those that were odd."""
    result = ran(small(*LONG, READ, f"faults=[{WILD}]"))
    odd = only(result.of("suspected"))
    told = [row for row in result.of("corrected") if row["measure"] == "correction_kl_before"]
    assert result.state.kls == [row["value"] for row in told if key(row) not in odd][-30:]


def test_sound_updates_clear_the_count_in_their_version(small: Any, build: Any) -> None:
    """Two bad payloads and a sound update: forgotten when that one is in a version, not before."""
    bad = "faults=[{fault: garbage, client: 2, number: 0}, {fault: garbage, client: 2, number: 1}]"
    seen: list[tuple[int, str]] = []

    def watch(engine: Any) -> None:
        flight = engine.state.flights.get((2, 2))
        asked = engine.state.roster.next_number.get(2, 0) > 2
        stands = "" if flight is None else "accepted" if flight.accepted else "under way"
        if asked:
            seen.append((engine.state.roster.strikes[2], stands))

    engine = build(small(*LONG, READ, bad, "stop.versions=9"), between_events=watch)
    engine.begin()
    engine.run()
    assert list(dict.fromkeys(seen)) == [(2, "under way"), (2, "accepted"), (0, "")]


def test_it_leaves_a_sound_run_alone(small: Any, ran: Any) -> None:
    """The same rows with it as without."""
    plain, guarded = ran(small(*LONG)), ran(small(*LONG, "guards.anomaly={kl: 50}"))
    assert plain.rows == guarded.rows
    assert guarded.state.kls


# ---------------------------------------------------------------- at the clients

CELLS = (
    "fleet.regions={near: {cell: {latency_s: 0.001}}, "
    "far: {cell: {uplink: 1e6, downlink: 1e6, latency_s: 0.01}}}"
)
EVEN = (
    (
        "fleet.profiles={slow: {flops: 2e6, memory_bytes: 1 GB, compute_watts: 3, radio_watts: 1, "
        "uplink: 1 Mbit/s, downlink: 100 kbit/s, latency_s: 0.05, on_leave: lost}}"
    ),
    "fleet.mix=[{profile: slow}]",
    "fleet.jitter={kind: none}",
)


def test_a_late_client_corrects_its_own_update(small: Any, ran: Any) -> None:
    """It fetches what was newest when its training ended; what it measured is in the log."""
    result = ran(small(OWN))
    fetched, committed = only(result.of("fetched")), only(result.of("committed"))
    assert 0 < len(fetched) < len(result.of("dispatched"))
    published = {row["version"]: row["time_s"] for row in result.of("published")}
    for row in fetched.values():
        assert row["version"] == max(v for v, at in published.items() if at < row["time_s"])
        assert row["held_version"] == row["base_version"] < row["version"]
        assert row["staleness"] == row["version"] - row["base_version"]
    told: dict[tuple[int, int], dict[str, float]] = {}
    for row in result.of("corrected"):
        told.setdefault(key(row), {})[row["measure"]] = row["value"]
        assert row["version"] == committed[key(row)]["version"]
    assert told.keys() == fetched.keys() & committed.keys()
    for name, found in told.items():
        stage = 1 - np.exp(-3 * fetched[name]["version"] / 6)  # three updates a version
        assert found["correction_strength"] == pytest.approx(0.5 * stage)
        assert 0 <= found["correction_kl_after"] <= found["correction_kl_before"]
    kept = [found for found in told.values() if found["correction_kept"]]
    assert kept
    assert all(found["correction_kl_after"] < found["correction_kl_before"] for found in kept)
    of_versions = figures(result)
    assert of_versions
    for version, means in of_versions.items():
        each = [told[name] for name in told if committed[name]["version"] == version]
        assert means["correction_share"] == pytest.approx(len(each) / 3)
        for name in each[0]:
            assert means[name] == pytest.approx(np.mean([one[name] for one in each]))


def test_who_is_on_time_uploads_at_once(small: Any, ran: Any) -> None:
    """Up to the first fetch all is as without, and other payloads come of it afterwards."""
    plain, own = ran(small()), ran(small(OWN))
    begins = next(at for at, row in enumerate(own.rows) if row["kind"] == "fetched")
    assert begins > 3
    assert own.rows[:begins] == plain.rows[:begins]
    first = key(own.rows[begins])
    hashes = [only(one.of("arrived"))[first]["hash"] for one in (plain, own)]
    assert hashes[0] != hashes[1], "what is sent is the corrected update"


@pytest.mark.parametrize(
    "changes",
    [
        ("method.correction={kind: distillation, proxy: client, strength: 0}",),
        (
            OWN,
            "method.aggregation={kind: fedavg, clients_per_round: 2, over_selection: 2}",
            *EVEN,
            "fleet.jitter={kind: lognormal, sigma: 2}",
        ),
        (OWN, "method.staleness={kind: constant, max_staleness: 0}"),
    ],
    ids=["strength", "rounds", "too-stale"],
)
def test_nothing_without_a_use(changes: tuple[str, ...], small: Any, ran: Any) -> None:
    """Without strength, in rounds, or where it would be too late anyhow: the plain method."""
    corrected = ran(small(*changes))
    plain = ran(small(*changes, "method.correction={kind: none}"))
    assert corrected.digest == plain.digest
    assert corrected.rows == plain.rows


def test_the_second_download_is_counted(small: Any, ran: Any) -> None:
    """In the ledger, at its client, and at the price of what the client lacks; held afterwards."""
    result = ran(small(OWN, "method.downlink={kind: difference}"))
    fetched, asked = result.of("fetched"), result.of("dispatched")
    whole = result.engine.state.versions.published(result.state.versions.newest).whole
    assert all(0 < row["downlink_bytes"] < whole.bytes for row in fetched), "the model is not new"
    ledger = result.state.ledger
    assert ledger.downlink_bytes == sum(row["downlink_bytes"] for row in (*asked, *fetched))
    least = sum(row["downlink_entropy_bytes"] for row in (*asked, *fetched))
    assert ledger.downlink_entropy_bytes == pytest.approx(least)
    events = pd.DataFrame(result.rows)
    table = people.table(events, {"memory_share": np.full(6, 0.1)}, span_s=1.0)
    assert table["downlink_bytes"].sum() == ledger.downlink_bytes
    holds: dict[int, int] = {}
    for row in result.rows:
        if row["kind"] in {"dispatched", "fetched"}:
            assert row["held_version"] == holds.get(row["client"])
            fetches = row["kind"] == "fetched"
            holds[row["client"]] = row["version"] if fetches else row["base_version"]
    assert result.state.held == {client: Version(number, 0) for client, number in holds.items()}


def test_its_time_and_energy_by_hand(small: Any, ran: Any) -> None:
    """Latency and bytes down, teacher's answers, steps and checks, latency and bytes up."""
    result = ran(small(OWN, *EVEN, "server.profile=instant"))
    plan, arrived = result.engine.plan, only(result.of("arrived"))
    begun = {key(row): row for row in result.of("dispatched")}
    fetched = only(result.of("fetched"))
    assert fetched.keys() & arrived.keys()
    for name in arrived:
        examples = int(plan.examples[name[0]])
        train_s = 3 * examples * plan.forward_flops / 2e6
        down_s = 0.05 + 8 * begun[name]["downlink_bytes"] / 1e5
        up_s = 0.05 + 8 * arrived[name]["uplink_bytes"] / 1e6
        radio_s, busy_s = down_s + up_s, train_s
        if name in fetched:
            at_s = fetched[name]["time_s"]
            assert at_s == pytest.approx(begun[name]["time_s"] + down_s + train_s)
            checked = min(64, examples // 4)
            rows = min(32, examples - checked)
            answers = 4 * 3 * rows + 2 * checked + (3 * rows + checked)
            busy_s += answers * plan.forward_flops / 2e6
            radio_s += 0.05 + 8 * fetched[name]["downlink_bytes"] / 1e5
        row = arrived[name]
        assert row["time_s"] - begun[name]["time_s"] == pytest.approx(radio_s + busy_s)
        assert row["device_s"] == pytest.approx(radio_s + busy_s)
        assert row["energy_j"] == pytest.approx(radio_s + 3 * busy_s)


def test_its_draws_are_its_own(small: Any, ran: Any) -> None:
    """The jitter of a lesson is not that of the training before it."""
    jitter = "fleet.jitter={kind: lognormal, sigma: 1}"
    result = ran(small(OWN, *EVEN, jitter, "server.profile=instant"))
    plan, begun = result.engine.plan, only(result.of("dispatched"))
    factors = []
    for name, row in only(result.of("arrived")).items():
        if name not in (fetched := only(result.of("fetched"))):
            continue
        down_s, again_s = (
            0.05 + 8 * sent[name]["downlink_bytes"] / 1e5 for sent in (begun, fetched)
        )
        train_s = fetched[name]["time_s"] - begun[name]["time_s"] - down_s
        up_s = 0.05 + 8 * row["uplink_bytes"] / 1e6
        lesson_s = row["time_s"] - fetched[name]["time_s"] - again_s - up_s
        examples = int(plan.examples[name[0]])
        flops = plan.method.correction.own_flops(examples, plan.forward_flops)
        factors.append((train_s / (3 * examples * plan.forward_flops), lesson_s / flops))
    assert len(factors) > 4
    assert all(one != pytest.approx(other, rel=0.01) for one, other in factors)


def test_the_server_takes_no_time_for_it(small: Any, ran: Any) -> None:
    """The first version appears as late as without any correction."""
    slow = ("server.flops=1e6", "stop.versions=2")
    times = [
        next(row["time_s"] for row in ran(small(*slow, *more)).of("published") if row["version"])
        for more in ((), (OWN,))
    ]
    assert times[0] == times[1]


def test_clients_that_are_lost_on_the_way(small: Any, ran: Any) -> None:
    """A broken download leaves the old version with the client, and no version is kept for it."""
    stays = "fleet.availability={kind: churn, mean_on_s: 2, mean_off_s: 0.3}"
    ring = "method.downlink={kind: difference, ring: 1 MB}"
    result = ran(small(OWN, *EVEN, stays, ring, "stop.versions=40", "evaluate.every_versions=40"))
    fetched, lost = only(result.of("fetched")), only(result.of("lost"))
    broken = fetched.keys() & lost.keys()
    assert {lost[name]["detail"] for name in broken} >= {"in its download", "in its compute"}
    holds: dict[int, int] = {}
    for row in result.rows:
        if row["kind"] in {"dispatched", "fetched"}:
            before = holds.get(row["client"])
            assert row["held_version"] == before
            fetches = row["kind"] == "fetched"
            holds[row["client"]] = row["version"] if fetches else row["base_version"]
        elif row["kind"] == "lost" and row["detail"] == "in its download":
            if key(row) in fetched:
                holds[row["client"]] = row["base_version"]
            else:
                began = next(r for r in result.of("dispatched") if key(r) == key(row))
                holds[row["client"]] = began["held_version"]
    nobody_leaks(result.state)


def test_rollbacks_on_the_way(small: Any, build: Any, ended: Any) -> None:
    """Nobody learns from another lineage, and what was held for lessons is let go.

    Nor is anything fetched while the server, a slow one, is about to publish a new lineage.
    """
    moments = iter((4, 20, 10**6))  # versions
    least = next(moments)

    def before_a_lesson(engine: Any) -> None:
        nonlocal least
        state, event = engine.state, engine.turns._queue.peek()
        if event is None or event.kind is not Kind.STAGE or state.head.number < least:
            return
        flight = state.flights[event.address]
        late = flight.base < state.versions.newest == state.head
        if late and flight.at == 1 and flight.base.lineage == state.head.lineage:
            assert engine.rollback()
            least = next(moments)

    slow = ("method.downlink={kind: difference}", "server.flops=1e4")
    made = small(OWN, *EVEN, *slow, "stop.versions=40", "evaluate.every_versions=2")
    engine = build(made, between_events=before_a_lesson)
    engine.begin()
    engine.run()
    result = ended(engine)
    assert len(result.of("rolled_back")) == 2
    turning = False
    for row in result.rows:
        turning = row["kind"] == "rolled_back" or (turning and row["kind"] != "published")
        assert not (turning and row["kind"] == "fetched")
    lineages = {key(row): row["lineage"] for row in result.of("dispatched")}
    fetched = result.of("fetched")
    assert {row["lineage"] for row in fetched} == {0, 1, 2}
    assert all(row["lineage"] == lineages[key(row)] for row in fetched)
    ends = {key(row): row["outcome"] for row in result.of("arrived")}
    assert "superseded" in {ends.get(key(row)) for row in fetched}
    nobody_leaks(result.state)


def nobody_leaks(state: Any) -> None:
    """See to it that each version that is kept is the newest, the best, or in use."""
    flights = [flight for flight in state.flights.values() if not flight.accepted]
    used = {flight.base for flight in flights} | {flight.teacher for flight in flights}
    used |= {state.versions.newest, state.best[1]}
    assert {version for version, *_ in state.versions.items()} <= used


@pytest.mark.parametrize(
    "method",
    [
        ("method.uplink={kind: dense}", "model={kind: mlp}"),
        ("method.aggregation={kind: ca2fl, size: 3}",),
        ("method.aggregation={kind: fedasync}", "method.uplink={kind: qsgd}"),
        ("method.aggregation={kind: dc-asgd, size: 3}",),
        (
            "method.uplink={kind: signs, density: 0.3}",
            "method.aggregation={kind: majority-vote, voters: 4, size: 3}",
        ),
        (
            "method.uplink={kind: sparse-weights, density: 0.2}",
            "method.training={kind: sparsyfed}",
            "method.aggregation={kind: fedbuff, size: 3, form: weights}",
            "method.downlink={kind: difference}",
        ),
        (
            "method.uplink={kind: packed}",
            "method.aggregation={kind: fedbuff, size: 3, form: weights}",
            "method.pruning={kind: fedmap, density: 0.3, every: 2}",
            "method.downlink={kind: difference}",
        ),
        (
            "method.uplink={kind: packed, content: delta}",
            "method.pruning={kind: fedmap, density: 0.3, every: 2}",
        ),
        (CELLS, *EVEN),
        (OWN.replace("ramp: 6", "ramp: 0, anchor: labels, gates: [quality, delay]"),),
    ],
    ids=[
        "cohorts", "ca2fl", "fedasync", "dc-asgd", "signs", "sparsyfed", "fedmap-weights",
        "fedmap-delta", "cells", "labels",
    ],
)  # fmt: skip
def test_own_updates_with_what_they_go(method: tuple[str, ...], small: Any, ran: Any) -> None:
    """Whatever is sent of it is sent of the corrected update; zeros stay, and so do the books."""
    result = ran(small(OWN, *method))
    assert result.of("corrected")
    assert all(row["outcome"] == "accepted" for row in result.of("arrived"))
    assert ran(small(OWN, *method)).digest == result.digest
    density = [row["value"] for row in result.of("measured") if row["measure"] == "density"]
    if density:
        plain = ran(small(*method))
        alone = [row["value"] for row in plain.of("measured") if row["measure"] == "density"]
        assert max(density) <= max(alone) + 0.05, "nothing pruned has come back"


def test_own_updates_in_parts(small: Any, ran: Any) -> None:
    """Several servers that hold the model give the digest of one."""
    large = (OWN, "model={kind: mlp, hidden: [30000]}", "stop.versions=3")
    whole, parts = (ran(small(*large, f"server.shards={shards}")) for shards in (1, 2))
    assert whole.of("fetched")
    assert parts.digest == whole.digest


def test_too_few_examples(small: Any, ran: Any) -> None:
    """Whoever has three cannot check what it has learned: it uploads, and the log says why."""
    skewed = "data.partition={kind: dirichlet, alpha: 0.1, min_examples: 1}"
    result = ran(small(OWN, skewed, "fleet.clients=40"))
    few = result.of("uncorrected")
    assert few
    assert result.of("fetched")
    assert all(row["examples"] < 4 for row in few)
    assert not {key(row) for row in few} & {key(row) for row in result.of("fetched")}


def test_no_holdout_is_asked_for(small: Any) -> None:
    """The inputs are the client's own; on the wall the teacher is known too late."""
    small(OWN)
    with pytest.raises(ExperimentFileError, match="on the wall clock that begins before"):
        small(OWN, "clock=wall")
    with pytest.raises(ExperimentFileError, match=r"method\.correction\.proxy"):
        small("method.correction={kind: distillation, proxy: nobody}")
