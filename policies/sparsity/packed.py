"""Send what lives under the mask that both sides know, without saying where."""

from __future__ import annotations

from typing import Literal

from policies.sparsity.dense import DenseUplink


class Packed(DenseUplink):
    """Send the values that live under the base's mask, in its order; no positions.

    What `dense` does under a mask, with weights unless told otherwise. Where the base has no mask,
    because nothing has been pruned yet, all values are sent.

    Attributes:
        content: The weights, or the difference to the base.
        values: How a value is written; with fewer bits the rounding is lost.

    Source:
        Herzog et al. 2024, arXiv:2406.19050 (FedMap), who send weights. Differences and coded
        values are our choice.
    """

    kind: Literal["packed"] = "packed"  # type: ignore[assignment]
    content: Literal["delta", "weights"] = "weights"
