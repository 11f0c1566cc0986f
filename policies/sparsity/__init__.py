"""Which coordinates are sent, and what stays behind?"""

from typing import Annotated

from pydantic import Field, SerializeAsAny, WrapValidator

from policies.base import open_union
from policies.sparsity.base import UplinkPolicy
from policies.sparsity.dense import DenseUplink
from policies.sparsity.downlink import (
    DenseDownlink,
    Difference,
    Downlink,
    DownlinkPolicy,
    LaggingDownlink,
    SparseDownlink,
    TopKDownlink,
)
from policies.sparsity.masks import LIVE, Masks
from policies.sparsity.packed import Packed
from policies.sparsity.pruning import (
    FedMap,
    NoPruning,
    Pruning,
    PruningPolicy,
    Stage,
    TopKPruning,
)
from policies.sparsity.qsgd import QSGD
from policies.sparsity.random_k import RandomK
from policies.sparsity.sign_sgd import SignSGD
from policies.sparsity.signs import Signs
from policies.sparsity.sparse_weights import SparseWeights
from policies.sparsity.stc import STC, golomb_bits
from policies.sparsity.threshold import Threshold
from policies.sparsity.topk import TopK, top_k

Uplink = Annotated[
    Annotated[
        DenseUplink
        | TopK
        | RandomK
        | Threshold
        | STC
        | QSGD
        | Signs
        | SignSGD
        | SparseWeights
        | Packed,
        Field(discriminator="kind"),
    ],
    WrapValidator(open_union(UplinkPolicy)),
    SerializeAsAny(),
]

__all__ = [
    "LIVE",
    "QSGD",
    "STC",
    "DenseDownlink",
    "DenseUplink",
    "Difference",
    "Downlink",
    "DownlinkPolicy",
    "FedMap",
    "LaggingDownlink",
    "Masks",
    "NoPruning",
    "Packed",
    "Pruning",
    "PruningPolicy",
    "RandomK",
    "SignSGD",
    "Signs",
    "SparseDownlink",
    "SparseWeights",
    "Stage",
    "Threshold",
    "TopK",
    "TopKDownlink",
    "TopKPruning",
    "Uplink",
    "UplinkPolicy",
    "golomb_bits",
    "top_k",
]
