"""How do updates become the next version?"""

from typing import Annotated

from pydantic import Field, SerializeAsAny, WrapValidator

from policies.aggregation.base import AggregationPolicy, Pacing, mean_buffers
from policies.aggregation.fedasync import FedAsync
from policies.aggregation.fedavg import FedAvg
from policies.aggregation.fedbuff import FedBuff
from policies.base import open_union

Aggregation = Annotated[
    Annotated[FedAsync | FedBuff | FedAvg, Field(discriminator="kind")],
    WrapValidator(open_union(AggregationPolicy)),
    SerializeAsAny(),
]

__all__ = [
    "Aggregation",
    "AggregationPolicy",
    "FedAsync",
    "FedAvg",
    "FedBuff",
    "Pacing",
    "mean_buffers",
]
