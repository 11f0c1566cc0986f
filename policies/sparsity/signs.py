"""Vote with the signs of the largest changes, and remember the rest."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, sqrt
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt

from policies.sparsity.base import UplinkPolicy
from policies.sparsity.coded import not_finite
from policies.sparsity.feedback import alive, difference
from policies.sparsity.topk import Scope, select
from policies.types import Arrays, PayloadKind, Positions, Vector
from policies.update import Base, Content, ModelSchema, Quantised, Sparse

PUBLISHED_VOTERS: Final = 15
"""Workers in the published experiments."""
FURTHEST: Final = 3.0
"""How many times the rule's density `auto` may be, and how small a part of it."""
_Share = Annotated[float, Field(gt=0, le=1)]


def votes(values: Vector, positions: Positions) -> Sparse:
    """Return the signs of `values`, shape (P,), at `positions`; an exact 0 abstains."""
    chosen = values[positions]
    for_or_against = chosen != 0
    codes = np.where(chosen[for_or_against] < 0, -1, 1).astype(np.int8)
    return Sparse(positions[for_or_against], codes.astype(np.float32), Quantised("sign", codes))


class Signs(UplinkPolicy):
    """Vote for the sign of the largest entries of the gradient; abstain elsewhere.

    ``a = memory * e + g``; the signs of the `ceil(density * n)` largest entries of each tensor are
    sent; ``e = a`` with the sent entries reset to 0. That differs from error feedback, which would
    keep ``a - sent``. The majority vote of the server makes the step. With density 1 and memory 0
    it is `sign-sgd`.

    `auto` takes the density that the server names with each version, which may follow the
    coverage it sees. Where it names none, it is ``ln(1 / uncovered) / voters``: with so many votes
    at random places a share `uncovered` of the parameters gets none.

    Attributes:
        density: Share of the entries that is voted on, or `auto`.
        scope: The largest of each tensor, or of the model.
        memory: Weight of what was not sent before.
        uncovered: Share of parameters without a vote that `auto` aims at.
        voters: Clients whose votes make a version, for `auto`; what the aggregation waits for if
            left out.
        least_density: What `auto` does not go below.

    Source:
        Park and Lee 2023, arXiv:2302.07475; their eta is `memory`, s `density`, M `voters`. Our
        choice: the gradient is the pseudo-gradient, base - weights (one step gives lr times the
        gradient, whose signs are the same); `auto`; scope `model`.
    """

    kind: Literal["signs"] = "signs"
    density: _Share | Literal["auto"] = 0.1
    scope: Scope = "tensor"
    memory: NonNegativeFloat = 1.0
    uncovered: float = Field(default=0.05, gt=0, lt=1)
    voters: PositiveInt | None = None
    least_density: _Share = 0.001

    def sends(self) -> PayloadKind:
        """Send votes."""
        return "votes"

    def start(self, schema: ModelSchema) -> Arrays:
        """Remember nothing yet."""
        return {"memory": np.zeros(schema.parameters, dtype=np.float32)}

    def auto_density(self, voters: int) -> float:
        """Return the density at which `voters` leave a share `uncovered` without a vote."""
        return max(self.least_density, min(1.0, log(1 / self.uncovered) / voters))

    def density_for(self, base: Base) -> float:
        """Return the share that is voted on, from this base."""
        if isinstance(self.density, float):
            return self.density
        return min(1.0, base.density) or self.auto_density(self.voters or PUBLISHED_VOTERS)

    def asks(self, asked: float, voters: int, measures: Mapping[str, float]) -> float:
        """Ask for the density that left the wanted share without a vote, had it been asked before.

        Votes at random places leave ``exp(-c * density)`` of the parameters without one; what a
        version measured, coverage and the density that its ballots really had, gives c. Half of
        the way is gone at a time (the geometric mean), and never further than `FURTHEST` times
        from the rule: parameters that get no gradient at all, such as those of inputs that are
        always 0, cannot be covered by any density. Without those measures it stays as it was.
        """
        if self.density != "auto":
            return 0.0
        rule = self.auto_density(self.voters or voters)
        if not asked:
            return rule
        cast, covered = measures.get("ballot_density", 0.0), measures.get("coverage", 0.0)
        if not cast or not covered:
            return asked
        reached = log(1.0 / (1.0 - min(covered, 1.0 - 1e-6)))
        wanted = sqrt(asked * cast * log(1.0 / self.uncovered) / reached)
        least = max(self.least_density, rule / FURTHEST)
        return max(least, min(1.0, rule * FURTHEST, wanted))

    def compress(
        self, weights: Vector, base: Base, state: Arrays, rng: np.random.Generator
    ) -> tuple[Content, Arrays]:
        """Vote on the largest; remember the others."""
        del rng
        total = difference(base.values, weights)
        with np.errstate(invalid="ignore", over="ignore"):
            total += np.float32(self.memory) * state["memory"]
        alive(total, base)
        broken = not_finite(total)
        if broken is not None:
            return broken, state
        sent = votes(total, select(total, self.density_for(base), self.scope, base))
        total[sent.positions] = 0
        return sent, {"memory": total}
