"""Send everything: the baseline."""

from __future__ import annotations

from typing import Literal

import numpy as np

from policies.sparsity.base import DownlinkPolicy, UplinkPolicy
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Content, Dense, ModelSchema


class DenseUplink(UplinkPolicy):
    """Send every value, as the difference to the base or as it is."""

    kind: Literal["dense"] = "dense"
    content: Literal["delta", "weights"] = "delta"

    def sends(self) -> PayloadKind:
        """Return `content`."""
        return self.content

    def compress(self, weights: Vector, base: Vector, state: Arrays) -> tuple[Content, Arrays]:
        """Send all of it; keep nothing."""
        values = np.subtract(weights, base) if self.content == "delta" else weights
        return Dense(values), state

    def least_nonzeros(self, schema: ModelSchema) -> int:
        """Return P."""
        return schema.parameters


class DenseDownlink(DownlinkPolicy):
    """Send the whole model, whatever the client still holds."""

    kind: Literal["dense"] = "dense"
