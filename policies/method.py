"""Which policies make up a method, and do they fit together?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, PositiveInt

from policies.aggregation import Aggregation, AggregationPolicy, FedBuff
from policies.base import Settings
from policies.correction import Correction, NoCorrection
from policies.selection import Selection, Uniform
from policies.sparsity import DenseDownlink, DenseUplink, Downlink, Uplink, UplinkPolicy
from policies.staleness import Polynomial, Staleness
from policies.training import Sgd, Training


class Method(Settings):
    """One member of each family.

    Attributes:
        concurrency: Clients kept busy at a time; synchronous rounds set their own cohort.
    """

    concurrency: PositiveInt = 4
    selection: Annotated[Selection, Field(default_factory=Uniform)]
    training: Annotated[Training, Field(default_factory=Sgd)]
    uplink: Annotated[Uplink, Field(default_factory=DenseUplink)]
    downlink: Annotated[Downlink, Field(default_factory=DenseDownlink)]
    staleness: Annotated[Staleness, Field(default_factory=Polynomial)]
    correction: Annotated[Correction, Field(default_factory=NoCorrection)]
    aggregation: Annotated[Aggregation, Field(default_factory=FedBuff)]


def misfits(uplink: UplinkPolicy, aggregation: AggregationPolicy) -> Iterator[str]:
    """Yield why an uplink and an aggregation cannot work together, from their payload types."""
    if uplink.sends() not in aggregation.takes():
        takes = " or ".join(sorted(aggregation.takes()))
        way_out = "Choose another uplink or another aggregation."
        if isinstance(uplink, DenseUplink) and aggregation.takes() & {"delta", "weights"}:
            way_out = f"Set method.uplink.content to {takes}."
        elif aggregation.kind == "fedasync":
            way_out = "Set method.aggregation.form to delta, or method.uplink to dense weights."
        yield (
            f"{aggregation.kind} aggregates {takes}, but the uplink {uplink.kind} sends "
            f"{uplink.sends()}. {way_out}"
        )
