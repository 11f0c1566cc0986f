"""Is what cannot work together refused, with the way out?"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import pytest
from pydantic import ValidationError

from policies.aggregation import (
    CA2FL,
    DCASGD,
    FADAS,
    AggregationPolicy,
    AsyncFedED,
    FedAsync,
    FedAvg,
    FedBuff,
    MajorityVote,
    Port,
)
from policies.correction import (
    CorrectionPolicy,
    Distillation,
    Newest,
    NoCorrection,
    StepDistillation,
)
from policies.method import (
    Method,
    absorption_misfits,
    cell_misfits,
    correction_misfits,
    lateness_misfits,
    mask_misfits,
    misfits,
    part_misfits,
    sparse_weights_misfits,
)
from policies.selection import Uniform
from policies.sparsity import (
    STC,
    DenseDownlink,
    DenseUplink,
    Difference,
    FedMap,
    NoPruning,
    Packed,
    PruningPolicy,
    Signs,
    SignSGD,
    SparseDownlink,
    SparseWeights,
    TopK,
    TopKDownlink,
    TopKPruning,
    UplinkPolicy,
)
from policies.staleness import Constant, Hinge, Polynomial
from policies.training import Sgd, SparsyFed
from policies.types import Address, PayloadKind, Vector, Version
from policies.update import Contribution, Dense, Update

DELTA, WEIGHTS = DenseUplink(), DenseUplink(content="weights")
STEP, MIX = FedAsync(), FedAsync(form="mix")


class Majority(FedBuff):
    """Somebody's own method, which counts votes."""

    kind: Literal["majority"] = "majority"  # type: ignore[assignment]

    def takes(self) -> frozenset[PayloadKind]:
        return frozenset({"votes"})


@pytest.mark.parametrize(
    ("uplink", "aggregation"),
    [
        (DELTA, STEP),
        (DELTA, FedBuff()),
        (DELTA, FedAvg()),
        (WEIGHTS, MIX),
        (WEIGHTS, FedAvg()),
        (TopK(), STEP),
        (TopK(), FedBuff()),
        (TopK(), FedAvg()),
    ],
    ids=repr,
)
def test_fits(uplink: UplinkPolicy, aggregation: AggregationPolicy) -> None:
    """What aggregates the kind that is sent is not complained about."""
    assert list(misfits(uplink, aggregation)) == []


@pytest.mark.parametrize(
    ("uplink", "aggregation", "message"),
    [
        (
            WEIGHTS,
            STEP,
            (
                "fedasync aggregates delta, but the uplink dense sends weights. "
                "Set method.uplink.content to delta."
            ),
        ),
        (
            WEIGHTS,
            FedBuff(),
            (
                "fedbuff aggregates delta, but the uplink dense sends weights. "
                "Set method.uplink.content to delta."
            ),
        ),
        (
            DELTA,
            MIX,
            (
                "fedasync aggregates weights, but the uplink dense sends delta. "
                "Set method.uplink.content to weights."
            ),
        ),
        (
            TopK(),
            MIX,
            (
                "fedasync aggregates weights, but the uplink top-k sends delta. "
                "Set method.aggregation.form to delta, or choose another uplink."
            ),
        ),
        (
            TopK(),
            Majority(),
            (
                "majority aggregates votes, but the uplink top-k sends delta. "
                "Set method.uplink.kind to signs or sign-sgd."
            ),
        ),
        (
            Signs(),
            FedBuff(),
            (
                "fedbuff aggregates delta, but the uplink signs sends votes. "
                "Set method.aggregation.kind to majority-vote, or choose another uplink."
            ),
        ),
        (
            SparseWeights(),
            FedBuff(),
            (
                "fedbuff aggregates delta, but the uplink sparse-weights sends weights. "
                "Set method.aggregation.form to weights, or choose another uplink."
            ),
        ),
        (
            STC(),
            MIX,
            (
                "fedasync aggregates weights, but the uplink stc sends delta. "
                "Set method.aggregation.form to delta, or choose another uplink."
            ),
        ),
    ],
    ids=repr,
)
def test_misfits(uplink: UplinkPolicy, aggregation: AggregationPolicy, message: str) -> None:
    """A combination whose kinds differ is refused once, with what to change."""
    assert list(misfits(uplink, aggregation)) == [message]


def test_zeros_that_would_never_arrive() -> None:
    """Sparse weights need a model that is replaced, or pruned again at every version."""
    (refusal,) = sparse_weights_misfits(SparseWeights(), MIX, NoPruning())
    assert "keeps part of the old model at every version" in refusal
    assert "method.pruning.kind top-k" in refusal
    for aggregation, pruning in (
        (FedAvg(), NoPruning()),
        (FedBuff(form="weights"), NoPruning()),
        (MIX, TopKPruning()),
    ):
        assert list(sparse_weights_misfits(SparseWeights(), aggregation, pruning)) == []
    assert list(sparse_weights_misfits(WEIGHTS, MIX, NoPruning())) == []


def test_pruned_weights_that_would_grow_back() -> None:
    """SparsyFed's zeros stay only if nobody remembers, votes on or holds back what was pruned."""
    for uplink, words in ((Signs(), "a vote moves"), (TopK(), "keeps what it did not send")):
        (refusal,) = absorption_misfits(SparsyFed(), uplink, DenseDownlink(), FedAvg())
        assert words in refusal
        assert list(absorption_misfits(Sgd(), uplink, DenseDownlink(), FADAS())) == []
        assert list(absorption_misfits(SparsyFed(beta=1), uplink, DenseDownlink(), FADAS())) == []
    (refusal,) = absorption_misfits(SparsyFed(), SparseWeights(), TopKDownlink(), FedAvg())
    assert "several versions" in refusal
    for uplink in (SparseWeights(), WEIGHTS, TopK(error_feedback=False)):
        assert list(absorption_misfits(SparsyFed(), uplink, Difference(), FedAvg())) == []
    for aggregation in (FADAS(), CA2FL()):
        (refusal,) = absorption_misfits(SparsyFed(), DELTA, Difference(), aggregation)
        assert "lets older updates move them again" in refusal
    for aggregation in (DCASGD(), AsyncFedED(), Port()):
        assert list(absorption_misfits(SparsyFed(), DELTA, Difference(), aggregation)) == []


OWN_LATENESS: list[AggregationPolicy] = [AsyncFedED(), FADAS(), DCASGD(), Port()]


@pytest.mark.parametrize("aggregation", OWN_LATENESS, ids=lambda policy: policy.kind)
def test_lateness_is_not_weighed_twice(aggregation: AggregationPolicy) -> None:
    """What judges lateness itself takes constant weights, which are its default, and no others."""
    for staleness in (Polynomial(), Hinge()):
        (refusal,) = lateness_misfits(staleness, aggregation)
        assert refusal.startswith(f"{aggregation.kind} judges lateness by itself and would not")
        assert "Set method.staleness.kind to constant" in refusal
        assert list(lateness_misfits(staleness, FedBuff())) == []
    assert list(lateness_misfits(Constant(max_staleness=3), aggregation)) == []
    method = Method.model_validate({"aggregation": {"kind": aggregation.kind}})
    assert method.staleness == Constant()
    assert Method.model_validate_json(method.model_dump_json()) == method


def test_ca2fl_takes_weights_and_has_none_by_itself() -> None:
    """As published all updates weigh the same; that they need not is our choice."""
    assert Method.model_validate({"aggregation": {"kind": "ca2fl"}}).staleness == Constant()
    assert list(lateness_misfits(Polynomial(), CA2FL())) == []


def test_corrections_that_cannot_be() -> None:
    """Votes one by one; a gate that is always shut."""
    for uplink in (Signs(), SignSGD()):
        (refusal,) = correction_misfits(Distillation(), uplink, Polynomial())
        assert "sends votes: a corrected vote is no vote any more. Take method.corr" in refusal
        assert list(correction_misfits(StepDistillation(), uplink, Polynomial())) == []
    (refusal,) = correction_misfits(Distillation(gates=("delay",)), DELTA, Constant())
    assert "s(d) is always 1: nothing would ever be corrected" in refusal
    assert list(correction_misfits(Distillation(gates=("delay",)), DELTA, Polynomial())) == []
    for uplink in (DELTA, SparseWeights(), Packed()):
        assert list(correction_misfits(Distillation(), uplink, Polynomial())) == []


class Everything(FedBuff):
    """Somebody's own method, which promises all and still wants past models."""

    kind: Literal["everything"] = "everything"  # type: ignore[assignment]

    def bases_bytes(self) -> int:
        return 1000


def test_past_models_are_at_one_server() -> None:
    """Neither cells nor servers of parts have them, whatever else a policy promises."""
    for aggregation in (AsyncFedED(), DCASGD(), Port(), Everything()):
        ((family, reason),) = part_misfits(
            aggregation, NoCorrection(), NoPruning(), DELTA, DenseDownlink()
        )
        assert family == "aggregation"
        assert reason.startswith(f"{aggregation.kind} needs the whole model at one server")
        ((family, reason),) = cell_misfits(aggregation, NoCorrection(), NoPruning(), DELTA)
        assert family == "aggregation"
        assert reason.startswith(f"{aggregation.kind} needs single updates")
    assert not list(part_misfits(FADAS(), NoCorrection(), NoPruning(), DELTA, DenseDownlink()))


def test_a_method_knows_its_fleet() -> None:
    """What is a mean over all clients is told how many there are, unless the file says so."""
    assert Method(aggregation=CA2FL()).among(7).aggregation == CA2FL(clients=7)
    assert Method(aggregation=CA2FL(clients=9)).among(7).aggregation == CA2FL(clients=9)
    assert Method(aggregation=FedBuff()).among(7) == Method(aggregation=FedBuff())


def test_masks_need_a_model_that_all_know() -> None:
    """A lossy downlink would let every client compute another mask; weights may prune once."""
    for downlink in (TopKDownlink(), DenseDownlink(values="fp16")):
        (refusal,) = mask_misfits(FedMap(), downlink, Packed())
        assert f"the downlink {downlink.kind} sends another model" in refusal
        assert list(mask_misfits(NoPruning(), downlink, Packed())) == []
    for lossless in (Difference(), SparseDownlink(), DenseDownlink()):
        assert list(mask_misfits(FedMap(), lossless, Packed())) == []
    (refusal,) = mask_misfits(FedMap(), Difference(), Signs())
    assert "votes are counted over all" in refusal
    (refusal,) = mask_misfits(FedMap(), Difference(), SparseWeights())
    assert "Choose one" in refusal


class Halved(CorrectionPolicy):
    """Somebody's own correction, which says nothing of sums."""

    kind: Literal["halved"] = "halved"

    def correct(self, batch: list[Contribution], model: Vector) -> list[Contribution]:
        del model
        return batch

    def flops(self, staleness: int) -> float:
        return float(staleness)


BUT_THEIR_SUM = (
    "needs single updates, and the cells of fleet.regions hand on nothing but their sum. Remove "
    "the cells, or take"
)
NO_FIGURES = "a kind without figures of its own, such as dense or top-k."


@pytest.mark.parametrize(
    ("aggregation", "correction", "pruning", "uplink", "expected"),
    [
        (FedBuff(), NoCorrection(), NoPruning(), TopK(), []),
        (FedBuff(form="weights"), NoCorrection(), TopKPruning(), WEIGHTS, []),
        (FedAvg(), NoCorrection(), NoPruning(), STC(), []),
        (
            STEP,
            NoCorrection(),
            NoPruning(),
            DELTA,
            [("aggregation", f"fedasync {BUT_THEIR_SUM} kind fedbuff or fedavg.")],
        ),
        (
            MIX,
            NoCorrection(),
            NoPruning(),
            WEIGHTS,
            [("aggregation", f"fedasync {BUT_THEIR_SUM} kind fedbuff or fedavg.")],
        ),
        (
            MajorityVote(),
            NoCorrection(),
            NoPruning(),
            SignSGD(),
            [("aggregation", f"majority-vote {BUT_THEIR_SUM} kind fedbuff or fedavg.")],
        ),
        (
            FedBuff(),
            Halved(),
            NoPruning(),
            DELTA,
            [("correction", f"halved {BUT_THEIR_SUM} kind none.")],
        ),
        (
            FedBuff(),
            NoCorrection(),
            FedMap(),
            Packed(content="delta"),
            [("pruning", f"fedmap {BUT_THEIR_SUM} kind none or top-k.")],
        ),
        (
            FedAvg(),
            NoCorrection(),
            NoPruning(),
            SparseWeights(),
            [("uplink", f"sparse-weights {BUT_THEIR_SUM} {NO_FIGURES}")],
        ),
        (
            MajorityVote(),
            Halved(),
            FedMap(),
            Signs(),
            [
                ("aggregation", f"majority-vote {BUT_THEIR_SUM} kind fedbuff or fedavg."),
                ("correction", f"halved {BUT_THEIR_SUM} kind none."),
                ("pruning", f"fedmap {BUT_THEIR_SUM} kind none or top-k."),
                ("uplink", f"signs {BUT_THEIR_SUM} {NO_FIGURES}"),
            ],
        ),
    ],
    ids=repr,
)
def test_cells_hand_on_sums(
    aggregation: AggregationPolicy,
    correction: CorrectionPolicy,
    pruning: PruningPolicy,
    uplink: UplinkPolicy,
    expected: list[tuple[str, str]],
) -> None:
    """Each family that needs single updates is named with what would do, and nothing else is."""
    assert list(cell_misfits(aggregation, correction, pruning, uplink)) == expected


def test_defaults() -> None:
    """A method of which nothing is said is dense FedBuff on plain SGD, four clients at a time."""
    method = Method.model_validate({})
    assert method == Method(
        concurrency=4,
        selection=Uniform(),
        training=Sgd(),
        uplink=DELTA,
        downlink=DenseDownlink(),
        staleness=Polynomial(),
        correction=NoCorrection(),
        aggregation=FedBuff(),
        pruning=NoPruning(),
    )
    assert list(misfits(method.uplink, method.aggregation)) == []


def test_written_back() -> None:
    """What is written of a method, members and all, makes an equal one."""
    method = Method.model_validate(
        {
            "concurrency": 9,
            "uplink": {"kind": "top-k", "density": 0.2},
            "aggregation": {"kind": "fedasync", "form": "mix"},
            "staleness": {"kind": "hinge", "slope": 3},
        }
    )
    assert Method.model_validate_json(method.model_dump_json()) == method
    assert (method.uplink, method.aggregation) == (TopK(density=0.2), MIX)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"aggregation": {"kind": "fedbuf"}}, "'fedasync', 'fedbuff', 'fedavg'"),
        ({"concurrency": 0}, "greater than 0"),
        ({"agregation": {}}, "Extra inputs are not permitted"),
        ({"uplink": {"kind": "dense", "content": "votes"}}, "'delta' or 'weights'"),
    ],
)
def test_refused(settings: dict[str, object], complaint: str) -> None:
    """A wrong name or value is told with what is known."""
    with pytest.raises(ValidationError, match=re.escape(complaint)):
        Method.model_validate(settings)


def test_no_correction() -> None:
    """The baseline returns the very updates it was given, and costs the server nothing."""
    one = np.ones(1, dtype=np.float32)
    update = Update(Address(0, 0), Version(0, 0), "delta", Dense(one), one[:0], 1, 0.0)
    batch = [Contribution(update, 3, 0.5)]
    newest = Newest(one, one[:0], 5)
    found = NoCorrection().correct(batch, newest, None, np.random.default_rng(0))
    assert found.batch is batch
    assert NoCorrection().flops(3, 10.0) == 0
