"""Which coordinates are sent, and what stays behind?"""

from typing import Annotated

from pydantic import Field, SerializeAsAny, WrapValidator

from policies.base import open_union
from policies.sparsity.base import DownlinkPolicy, UplinkPolicy
from policies.sparsity.dense import DenseDownlink, DenseUplink
from policies.sparsity.topk import TopK, top_k

Uplink = Annotated[
    Annotated[DenseUplink | TopK, Field(discriminator="kind")],
    WrapValidator(open_union(UplinkPolicy)),
    SerializeAsAny(),
]
Downlink = Annotated[DenseDownlink, WrapValidator(open_union(DownlinkPolicy)), SerializeAsAny()]

__all__ = [
    "DenseDownlink",
    "DenseUplink",
    "Downlink",
    "DownlinkPolicy",
    "TopK",
    "Uplink",
    "UplinkPolicy",
    "top_k",
]
