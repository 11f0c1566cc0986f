"""Late updates stay as they came."""

from __future__ import annotations

from typing import Literal

from policies.correction.base import CorrectionPolicy


class NoCorrection(CorrectionPolicy):
    """Leave updates as they came: the baseline."""

    kind: Literal["none"] = "none"

    def elementwise(self) -> bool:
        """Say yes."""
        return True

    def flops(self, staleness: int, forward_flops: float) -> float:
        """Return 0."""
        del staleness, forward_flops
        return 0.0
