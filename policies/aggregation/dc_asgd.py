"""Late updates are brought up to date along the curvature (Zheng et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from policies.aggregation.base import AggregationPolicy, Applied, Pacing, base_of, touched
from policies.distances import length
from policies.types import Arrays, PayloadKind, Vector
from policies.units import Bytes
from policies.update import Content, Contribution, ModelSchema


class DCASGD(AggregationPolicy):
    """Estimate what an update would have been on the newest model, and add that.

    The source corrects a gradient by a Taylor expansion whose Hessian is approximated by the
    outer product of the gradient with itself, of which the diagonal is kept:

        g'(w_t) = g(w_tau) + lambda * g * g * (w_t - w_tau)        (element by element)

    An update is a step *against* the gradient. With ``D = -eta * g``, eta being what the client
    has multiplied its gradient by, ``D' = -eta * g'`` becomes

        D' = D - (lambda / eta) * D * D * (w_t - w_tau)

    with a minus sign: where the model has moved in the direction of the update already, the
    update shrinks, and where it has moved against it, it grows. A version adds the mean of
    `size` such updates, ``w += rate / size * sum D'_i``, all corrected towards the model before
    it. One update a version is the source's; buffers are our choice, and so is taking the whole
    of several local steps for one gradient.

    Form `constant`: lambda / eta is `strength`, in one number, since the server does not know
    eta (the client's learning rate times its steps, more or less). The source takes lambda 0.04
    for gradients.

    Form `adaptive`: lambda is `strength` / sqrt(mean square of g + epsilon), element by element,
    with ``mean_square = momentum * mean_square + (1 - momentum) * g * g``, which the update itself
    has entered. In D in place of g, eta cancels out: ``D' = D - strength * D * D / sqrt(mean
    square of D + epsilon) * (w_t - w_tau)``. Only epsilon has another unit than theirs. The mean
    square starts at 0, as the source's, and is of all clients together.

    With a strength of 0 this is FedAsync on deltas (`size` 1) or FedBuff, with constant weights.

    Attributes:
        form: How lambda is found.
        strength: See above; 2 and momentum 0.95 are the source's for `adaptive`.
        momentum: Of the mean square.
        epsilon: Keeps the division finite (our choice: 1e-10, for squares of differences).
        rate: The server's; 1 is the source's once the client has multiplied by eta.
        size: Updates that make a version.
        bases: How much of past models the server keeps. An update of a version that is no longer
            kept is corrected from the oldest one that is (our choice); the measure
            `bases_lacking` says how often.

    Source:
        Zheng et al. 2017, arXiv:1609.08326: DC-ASGD-c and DC-ASGD-a.
    """

    kind: Literal["dc-asgd"] = "dc-asgd"
    form: Literal["adaptive", "constant"] = "adaptive"
    strength: NonNegativeFloat = 2.0
    momentum: float = Field(default=0.95, ge=0, lt=1)
    epsilon: PositiveFloat = 1e-10
    rate: PositiveFloat = 1.0
    size: PositiveInt = 1
    bases: Annotated[Bytes, Field(gt=0)] = 512_000_000

    def takes(self) -> frozenset[PayloadKind]:
        """Deltas."""
        return frozenset({"delta"})

    def pacing(self) -> Pacing:
        """A full buffer is a version."""
        return Pacing(size=self.size)

    def weighs_lateness(self) -> bool:
        """Say no: late updates are corrected and not weighed."""
        return False

    def bases_bytes(self) -> int:
        """Return `bases`."""
        return self.bases

    def start(self, schema: ModelSchema) -> Arrays:
        """Remember the mean square of the updates, in form `adaptive`."""
        if self.form == "constant":
            return {}
        return {"mean_square": np.zeros(schema.parameters, dtype=np.float32)}

    def apply(
        self, model: Vector, memory: Arrays, batch: Sequence[Contribution], version: int
    ) -> Applied:
        """Correct all, then add them in the order of arrival."""
        del version
        square = memory["mean_square"].copy() if self.form == "adaptive" else None
        corrected: list[Content] = []
        sizes, changes = 0.0, 0.0
        for contribution in batch:
            content = contribution.content
            change = self._change(content, model, base_of(contribution), square)
            corrected.append(replace(content, values=content.values - change, code=None))
            sizes += length(content.values) ** 2
            changes += length(change) ** 2
        for content in corrected:
            content.add_to(model, self.rate / len(batch))
        if square is not None:
            memory = {**memory, "mean_square": square}
        measures = {"compensation": math.sqrt(changes / sizes)} if sizes else {}
        return Applied(memory, touched(batch), measures=measures)

    def _change(
        self, content: Content, model: Vector, base: Vector, square: Vector | None
    ) -> Vector:
        """Return what is taken off an update's values; bring `square` on in place."""
        values, places = content.values, content.touches()
        at = slice(None) if places is None else places
        products = values * values
        scale = np.float32(self.strength)
        if square is not None:
            square *= np.float32(self.momentum)
            square[at] += np.float32(1 - self.momentum) * products
            products /= np.sqrt(square[at] + np.float32(self.epsilon))
        found: Vector = scale * products * (model[at] - base[at])
        return found

    def buffer_rate(self, batch: Sequence[Contribution]) -> float:
        """Move buffers as far as the weights, at most all the way."""
        del batch
        return min(1.0, self.rate)

    def flops(self, nonzeros: int) -> float:
        """Return 12 a value; the decay of the mean square elsewhere is not counted."""
        return 12.0 * nonzeros
