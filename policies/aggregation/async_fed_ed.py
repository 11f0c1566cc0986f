"""The further the model has moved, the less an update counts (Wang et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveFloat

from policies.aggregation.base import AggregationPolicy, Applied, Pacing, base_of, touched
from policies.distances import distance, length
from policies.types import Arrays, PayloadKind, Vector
from policies.units import Bytes
from policies.update import Contribution


class AsyncFedED(AggregationPolicy):
    """Step by each update as far as the model has stayed near its base.

    ``w += rate / (gamma + epsilon) * D_k`` with ``gamma = ||w_t - w_tau|| / ||D_k||``: lateness is
    how far the model has moved since, in lengths of the update, and not a count of versions. An
    update of the newest version has gamma 0 and takes the longest step, rate / epsilon. Every
    update makes a version.

    Distances are over the parameters, without normalisation buffers. These move by
    ``rate / epsilon / (1 + d)``, at most all the way (our choice; the source has none). An update
    of zeros changes nothing. With a downlink that is not lossless, w_tau is the model that the
    client was sent, and w_t the server's own (our choice).

    Left out: the source also lets the server set each client's number of local epochs by gamma.
    An assignment here names a version and no work; epochs are the training policy's.

    Attributes:
        rate: Their lambda.
        epsilon: Their epsilon; 1 with rate 1, so that a fresh update counts once, is our choice.
        bases: How much of past models the server keeps. An update of a version that is no longer
            kept is measured from the oldest one that is, which counts it as less late than it is
            (our choice); the measure `bases_lacking` says how often.

    Source:
        Wang et al. 2022, arXiv:2205.13797.

    Cost:
        Two passes over the model for each update.
    """

    kind: Literal["async-fed-ed"] = "async-fed-ed"
    rate: PositiveFloat = 1.0
    epsilon: PositiveFloat = 1.0
    bases: Annotated[Bytes, Field(gt=0)] = 512_000_000

    def takes(self) -> frozenset[PayloadKind]:
        """Deltas."""
        return frozenset({"delta"})

    def pacing(self) -> Pacing:
        """Every accepted update is a version."""
        return Pacing(size=1)

    def weighs_lateness(self) -> bool:
        """Say no: the distance does."""
        return False

    def bases_bytes(self) -> int:
        """Return `bases`."""
        return self.bases

    def apply(
        self, model: Vector, memory: Arrays, batch: Sequence[Contribution], version: int
    ) -> Applied:
        """Take one step per update, each from where the one before has led."""
        del version
        gammas, steps = [], []
        for contribution in batch:
            content = contribution.content
            own = length(content.values)
            if own == 0:
                continue
            gammas.append(distance(model, base_of(contribution)) / own)
            steps.append(self.rate / (gammas[-1] + self.epsilon))
            content.add_to(model, steps[-1])
        figures = {"gamma": gammas, "applied_rate": steps}
        measures = {name: float(np.mean(values)) for name, values in figures.items() if values}
        return Applied(memory, touched(batch), measures=measures)

    def buffer_rate(self, batch: Sequence[Contribution]) -> float:
        """Move buffers less the more versions the update is late."""
        return min(1.0, self.rate / self.epsilon / (1 + batch[-1].staleness))

    def flops(self, nonzeros: int) -> float:
        """Return 7 a value: two norms and the step; right for updates of all parameters."""
        return 7.0 * nonzeros
