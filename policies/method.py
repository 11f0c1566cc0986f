"""Which policies make up a method, and do they fit together?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Self

from pydantic import Field, PositiveInt

from policies.aggregation import Aggregation, AggregationPolicy, FedAsync, FedBuff
from policies.base import Settings
from policies.correction import Correction, CorrectionPolicy, NoCorrection
from policies.selection import Selection, Uniform
from policies.sparsity import (
    DenseDownlink,
    DenseUplink,
    Downlink,
    DownlinkPolicy,
    NoPruning,
    Pruning,
    PruningPolicy,
    Uplink,
    UplinkPolicy,
)
from policies.staleness import Constant, Polynomial, Staleness, StalenessPolicy
from policies.training import Sgd, Training, TrainingPolicy
from policies.training.workload import EqualWorkload, Workload
from policies.update import ModelSchema
from policies.wire import least_bytes


def _usual_staleness(fields: dict[str, Any]) -> StalenessPolicy:
    """Return what lateness costs where nothing is said of it."""
    aggregation = fields.get("aggregation")
    weighs = not isinstance(aggregation, AggregationPolicy) or not aggregation.judges_lateness()
    return Polynomial() if weighs else Constant()


class Method(Settings):
    """One member of each family.

    Attributes:
        concurrency: Clients kept busy at a time; synchronous rounds set their own cohort.
        staleness: By default polynomial; constant where the aggregation judges lateness itself.
    """

    concurrency: PositiveInt = 4
    selection: Annotated[Selection, Field(default_factory=Uniform)]
    training: Annotated[Training, Field(default_factory=Sgd)]
    uplink: Annotated[Uplink, Field(default_factory=DenseUplink)]
    downlink: Annotated[Downlink, Field(default_factory=DenseDownlink)]
    aggregation: Annotated[Aggregation, Field(default_factory=FedBuff)]
    staleness: Annotated[Staleness, Field(default_factory=_usual_staleness)]
    correction: Annotated[Correction, Field(default_factory=NoCorrection)]
    pruning: Annotated[Pruning, Field(default_factory=NoPruning)]
    workload: Workload = EqualWorkload()

    def among(self, clients: int) -> Self:
        """Return this method as it is in a fleet of so many clients."""
        return self.model_copy(update={"aggregation": self.aggregation.among(clients)})

    def least_bytes(self, schema: ModelSchema) -> int:
        """Return a length that no update's payload goes below.

        Of a model with masks nobody knows how few values will live.
        """
        bits = 0.0 if self.pruning.masks() else self.uplink.least_bits(schema)
        return least_bytes(bits, schema)


def misfits(uplink: UplinkPolicy, aggregation: AggregationPolicy) -> Iterator[str]:
    """Yield why an uplink and an aggregation cannot work together, from their payload types."""
    if uplink.sends() not in aggregation.takes():
        yield (
            f"{aggregation.kind} aggregates {' or '.join(sorted(aggregation.takes()))}, but the "
            f"uplink {uplink.kind} sends {uplink.sends()}. {_way_out(uplink, aggregation)}"
        )


def _way_out(uplink: UplinkPolicy, aggregation: AggregationPolicy) -> str:
    takes, sends = aggregation.takes(), uplink.sends()
    if takes == {"votes"}:
        return "Set method.uplink.kind to signs or sign-sgd."
    if sends == "votes":
        return "Set method.aggregation.kind to majority-vote, or choose another uplink."
    if "content" in type(uplink).model_fields:
        return f"Set method.uplink.content to {' or '.join(sorted(takes - {'votes'}))}."
    if type(aggregation) is FedAsync:
        form = "mix" if sends == "weights" else "delta"
        return f"Set method.aggregation.form to {form}, or choose another uplink."
    if type(aggregation) is FedBuff:
        return f"Set method.aggregation.form to {sends}, or choose another uplink."
    return "Choose another uplink or another aggregation."


def sparse_weights_misfits(
    uplink: UplinkPolicy, aggregation: AggregationPolicy, pruning: PruningPolicy
) -> Iterator[str]:
    """Yield why sparse weights would never become a sparse model."""
    if not uplink.zeros_count() or aggregation.keeps_zeros() or not isinstance(pruning, NoPruning):
        return
    if uplink.sends() in aggregation.takes():
        yield (
            f"the uplink {uplink.kind} sends weights whose zeros count, but {aggregation.kind} "
            "keeps part of the old model at every version, so no zero of a client would ever "
            "reach it. Set method.aggregation to fedavg or to fedbuff with form weights, or prune "
            "every version again with method.pruning.kind top-k."
        )


def correction_misfits(
    correction: CorrectionPolicy, uplink: UplinkPolicy, staleness: StalenessPolicy
) -> Iterator[str]:
    """Yield why updates cannot be corrected, or never would be."""
    if not correction.takes(uplink.sends()):
        yield (
            f"{correction.kind} corrects every update by itself, and the uplink {uplink.kind} "
            f"sends {uplink.sends()}: a corrected vote is no vote any more. Take "
            "method.correction.kind step-distillation, which corrects what votes come to, or proxy "
            "client: then votes are cast afterwards."
        )
    if correction.weighs_delay() and isinstance(staleness, Constant):
        yield (
            "the gate delay is 1 - s(d), and with method.staleness constant s(d) is always 1: "
            "nothing would ever be corrected. Remove the gate, or set method.staleness.kind to "
            "polynomial."
        )


def lateness_misfits(staleness: StalenessPolicy, aggregation: AggregationPolicy) -> Iterator[str]:
    """Yield why an update's lateness would be weighed in vain."""
    if not aggregation.weighs_lateness() and not isinstance(staleness, Constant):
        yield (
            f"{aggregation.kind} judges lateness by itself and would not read the weights of "
            f"{staleness.kind}. Set method.staleness.kind to constant, or leave it out; "
            "max_staleness goes with either."
        )


def absorption_misfits(
    training: TrainingPolicy,
    uplink: UplinkPolicy,
    downlink: DownlinkPolicy,
    aggregation: AggregationPolicy,
) -> Iterator[str]:
    """Yield why weights that a client has pruned would grow back, though it trains them not to."""
    if not training.zeros_absorb:
        return
    if uplink.sends() == "votes":
        yield (
            f"{training.kind} keeps pruned weights at zero, but a vote moves whatever it is cast "
            "on. Set method.uplink.kind to sparse-weights, or method.training.kind to sgd."
        )
    elif uplink.start(ModelSchema(())):
        yield (
            f"{training.kind} keeps pruned weights at zero, but the uplink {uplink.kind} keeps "
            "what it did not send and would bring them back. Set method.uplink.kind to "
            "sparse-weights, or method.uplink.error_feedback to false."
        )
    if downlink.lags():
        yield (
            f"{training.kind} keeps pruned weights at zero, but the downlink {downlink.kind} takes "
            "several versions to let clients know. Set method.downlink.kind to sparse or "
            "difference."
        )
    if aggregation.echoes():
        yield (
            f"{training.kind} keeps pruned weights at zero, but {aggregation.kind} lets older "
            "updates move them again. Set method.aggregation.kind to fedavg or fedbuff, or "
            "method.training.kind to sgd."
        )


PART_BLOCK: Final = 1 << 20
"""Parameters; where several servers hold a model, a part begins at a multiple of it."""
_FOR_PARTS: Final = {
    "aggregation": "kind fedbuff, fedasync, fedavg, fedadam or fadas",
    "correction": "kind none",
    "pruning": "kind none",
    "uplink": "a kind without figures of its own, such as dense or top-k",
    "downlink": "kind dense with values fp32",
}


def most_parts(parameters: int) -> int:
    """Return how many servers can hold a part of a model each."""
    return max(1, -(-parameters // PART_BLOCK))


def part_misfits(
    aggregation: AggregationPolicy,
    correction: CorrectionPolicy,
    pruning: PruningPolicy,
    uplink: UplinkPolicy,
    downlink: DownlinkPolicy,
) -> Iterator[tuple[str, str]]:
    """Yield (family, reason) of what needs the whole model at one server."""
    whole = {
        "aggregation": None
        if aggregation.elementwise() and not aggregation.bases_bytes()
        else aggregation.kind,
        "correction": None if correction.elementwise() else correction.kind,
        "pruning": None if pruning.elementwise() else pruning.kind,
        "uplink": None if uplink.elementwise() else uplink.kind,
        "downlink": None if downlink.elementwise() else downlink.kind,
    }
    for family, kind in whole.items():
        if kind is not None:
            yield (
                family,
                (
                    f"{kind} needs the whole model at one server, and server.shards cuts "
                    f"it. Set server.shards to 1, or take {_FOR_PARTS[family]}."
                ),
            )


_FOR_SUMS: Final = {
    "aggregation": "kind fedbuff or fedavg",
    "correction": "kind none",
    "pruning": "kind none or top-k",
    "uplink": "a kind without figures of its own, such as dense or top-k",
}


def cell_misfits(
    aggregation: AggregationPolicy,
    correction: CorrectionPolicy,
    pruning: PruningPolicy,
    uplink: UplinkPolicy,
) -> Iterator[tuple[str, str]]:
    """Yield (family, reason) of what needs single updates, where cells hand on sums."""
    single = {
        "aggregation": None
        if aggregation.adds() and not aggregation.bases_bytes()
        else aggregation.kind,
        "correction": None if correction.adds() else correction.kind,
        "pruning": None if pruning.adds() else pruning.kind,
        "uplink": None if uplink.elementwise() else uplink.kind,
    }
    for family, kind in single.items():
        if kind is not None:
            yield (
                family,
                (
                    f"{kind} needs single updates, and the cells of fleet.regions hand on nothing "
                    f"but their sum. Remove the cells, or take {_FOR_SUMS[family]}."
                ),
            )


def mask_misfits(
    pruning: PruningPolicy, downlink: DownlinkPolicy, uplink: UplinkPolicy
) -> Iterator[str]:
    """Yield why masks cannot work with a downlink or an uplink."""
    if not pruning.masks():
        return
    if not downlink.lossless():
        yield (
            f"{pruning.kind} lets every client know the same mask of the same model, but the "
            f"downlink {downlink.kind} sends another model than the server's. "
            "Set method.downlink.kind to difference, or to sparse or dense with values fp32."
        )
    if uplink.sends() == "votes":
        yield (
            f"{pruning.kind} keeps masks, and votes are counted over all parameters. "
            "Set method.uplink.kind to packed, or method.pruning.kind to none."
        )
    if uplink.zeros_count():
        yield (
            f"the uplink {uplink.kind} prunes at each client, and {pruning.kind} prunes the global "
            "model. Choose one: method.uplink.kind packed, or method.pruning.kind none."
        )
