"""Send some changes, drawn by lot."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from policies.sparsity.base import UplinkPolicy
from policies.sparsity.coded import BITS, Coding, coded_at
from policies.sparsity.feedback import left_over, nothing_left, wanted
from policies.sparsity.topk import share, top_k
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Base, Content, ModelSchema


def _unless_fed_back(fields: dict[str, Any]) -> bool:
    return not fields.get("error_feedback", False)


class RandomK(UplinkPolicy):
    """Send `k = ceil(density * P)` entries of the difference, drawn without replacement.

    Either they are scaled by P / k, so that their mean over all draws is the difference, or error
    feedback adds what is not sent to the next difference. Both together are refused: scaling
    sends more than there is, and the residual grows. Of a difference that is not finite the
    largest entries are sent instead, so that the server sees it.

    Attributes:
        density: Share of the entries that is sent.
        error_feedback: Whether the rest is kept for the next time.
        scaled: Whether values are multiplied by P / k; by default, without error feedback.
        values: How a value is written.

    Source:
        Wangni et al. 2018, arXiv:1710.09854, scaled, with equal probabilities; Stich et al. 2018,
        arXiv:1809.07599, with error feedback. A fixed k is the latter's.
    """

    kind: Literal["random-k"] = "random-k"
    density: float = Field(default=0.05, gt=0, le=1)
    error_feedback: bool = False
    scaled: bool = Field(default_factory=_unless_fed_back)
    values: Coding = "fp32"

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.scaled and self.error_feedback:
            raise ValueError(
                "scaled must be false with error_feedback, which makes up for what is not sent, "
                "got true. Leave scaled out or set error_feedback to false"
            )
        return self

    def sends(self) -> PayloadKind:
        """Send a difference."""
        return "delta"

    def start(self, schema: ModelSchema) -> Arrays:
        """Start with nothing left over."""
        return nothing_left(schema) if self.error_feedback else {}

    def compress(
        self, weights: Vector, base: Base, state: Arrays, rng: np.random.Generator
    ) -> tuple[Content, Arrays]:
        """Draw, send, and keep the rest."""
        total = wanted(weights, base, state)
        living = None if base.mask is None else base.mask.positions
        pool = total if living is None else total[living]
        count = share(self.density, pool.size)
        if np.isfinite(pool).all():
            drawn = np.sort(rng.choice(pool.size, count, replace=False, shuffle=False))
        else:
            drawn = top_k(pool, count)
        values, positions = pool[drawn], drawn if living is None else living[drawn]
        if self.scaled:
            with np.errstate(over="ignore"):
                values *= np.float32(pool.size / max(count, 1))
        sent = coded_at(values, positions, self.values, base.schema)
        return sent, left_over(total, sent, state)

    def least_bits(self, schema: ModelSchema) -> float:
        """Return k values' bits."""
        return float(BITS[self.values] * share(self.density, schema.parameters))
