"""Does a run with a correction do what it says, and say what it did?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orchestrator.mistakes import ExperimentFileError

PUBLIC = "data={source: digits, train_examples: 240, holdout: 300}"
CORRECTED = "method.correction={kind: step-distillation, steps: 5, ramp: 6}"


def figures(result: Any) -> dict[int, dict[str, float]]:
    """Return what was measured of each version."""
    found: dict[int, dict[str, float]] = {}
    for row in result.of("measured"):
        found.setdefault(row["version"], {})[row["measure"]] = row["value"]
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
    assert at[1] - at[0] == pytest.approx(((2 + 3 * 5) * 64 + 4 * 64) * plan.forward_flops / 1e6)


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
