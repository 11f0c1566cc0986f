"""Signs are counted, and the majority moves the model (Bernstein et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Annotated, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from policies.adding import add_each
from policies.aggregation.base import AggregationPolicy, Applied, Pacing
from policies.decay import exponential
from policies.types import Arrays, PayloadKind, Vector
from policies.units import Seconds
from policies.update import Contribution, ModelSchema, Quantised, Sparse

GROUPS: Final = 64
"""Clients are told apart by their number modulo this when minorities are tracked."""
MOST_BALLOTS: Final = 32_767
"""Heads are counted in 16 bits with a sign."""
WHOLE_VOTE: Final = 1 << 15
"""What a vote counts whose weight is 1; votes are whole numbers, so that a tie is a tie."""
CONTESTS: Final = 3
"""So many contested votes a coordinate needs before its minority is judged."""


class MajorityVote(AggregationPolicy):
    """Step against the sign of the sum of the votes: ``w -= step * sign(sum s(d_i) v_i)``.

    The votes are signs of gradients; a coordinate without a vote, with a tie, or with fewer than
    `quorum` voters stays as it is.

    Without `size` a version is a synchronous round of `voters` clients. With `size` it is a
    buffer of so many votes, one a client (the latest counts), each weighted by its staleness in
    whole 32,768ths, so that a tie is a tie whatever the order. The quorum counts heads; the step
    is scaled by size / voters, so that as many votes move the model as far (our choice).

    Attributes:
        voters: M, clients of a round.
        size: Votes in a buffer; None for rounds.
        step: Their delta, at version 0.
        step_final: Step from version `step_versions` on, reached exponentially; None keeps `step`.
        step_versions: How many versions that takes.
        quorum: Votes that a coordinate needs (our choice: a cheap defence against a few).
        over_selection: A round asks so many times `voters` and takes the first that come.
        deadline_s: A round closes with what has come, at least one vote.
        minorities: Whether to track which coordinates always overrule the same clients; takes 17
            bytes of the server's memory a parameter.

    Source:
        S3GD-MV, Park and Lee 2023, arXiv:2302.07475, and its code for step 1e-3 and M = 15;
        signSGD with majority vote, Bernstein et al. 2019, arXiv:1810.05291.
    """

    kind: Literal["majority-vote"] = "majority-vote"
    voters: Annotated[PositiveInt, Field(le=MOST_BALLOTS)] = 15
    size: Annotated[PositiveInt, Field(le=MOST_BALLOTS)] | None = None
    step: PositiveFloat = 1e-3
    step_final: PositiveFloat | None = None
    step_versions: PositiveInt = 100
    quorum: PositiveInt = 1
    over_selection: float = Field(default=1.0, ge=1)
    deadline_s: Annotated[Seconds, Field(gt=0)] | None = None
    minorities: bool = True

    @model_validator(mode="after")
    def _rounds_are_rounds(self) -> Self:
        if self.size is not None and (self.over_selection > 1 or self.deadline_s is not None):
            raise PydanticCustomError(
                "no_rounds",
                "over_selection and deadline_s are for rounds, and with size there are none. "
                "Leave them out, or leave size out.",
            )
        return self

    def takes(self) -> frozenset[PayloadKind]:
        """Votes."""
        return frozenset({"votes"})

    def pacing(self) -> Pacing:
        """A round or a full buffer is a version."""
        if self.size is not None:
            return Pacing(size=self.size)
        cohort = ceil(self.voters * self.over_selection - 1e-9)
        return Pacing(size=self.voters, cohort=cohort, deadline_s=self.deadline_s)

    def start(self, schema: ModelSchema) -> Arrays:
        """Remember who was overruled where."""
        if not self.minorities:
            return {}
        return {
            "overruled": np.zeros(schema.parameters, dtype=np.uint64),
            "prevailed": np.zeros(schema.parameters, dtype=np.uint64),
            "contests": np.zeros(schema.parameters, dtype=np.uint8),
        }

    def reach(self, version: int) -> float:
        """Return how far a version moves a coordinate."""
        step = exponential(self.step, self.step_final, self.step_versions, version)
        return step if self.size is None else step * self.size / self.voters

    def apply(
        self, model: Vector, memory: Arrays, batch: Sequence[Contribution], version: int
    ) -> Applied:
        """Count, and step."""
        ballots = _one_each(batch)
        tally = np.full(model.size, 0, dtype=np.int32)  # unlike zeros, in large pages
        heads = np.full(model.size, 0, dtype=np.int16)
        for positions, signs, weight, _ in ballots:
            add_each(tally, positions, signs * np.int32(round(min(weight, 1.0) * WHOLE_VOTE)))
            add_each(heads, positions, np.ones(positions.size, dtype=np.int16))
        voted = np.flatnonzero(heads)  # from here on nothing is as long as the model
        here = heads[voted]
        result = np.sign(tally[voted]).astype(np.int8)
        result[here < self.quorum] = 0
        moves = result != 0
        moved = voted[moves]
        # One scale for the whole model; a block as long as the model names it once.
        reach = np.float32(self.reach(version - 1))
        scales = np.full(min(model.size, 1), reach)
        code = Quantised("level", -result[moves], scales, block=model.size)
        step = Sparse(moved, code.codes.astype(np.float32) * reach, code)
        step.add_to(model, 1.0)
        measures = {
            "coverage": voted.size / max(model.size, 1),
            "ballot_density": float(here.sum(dtype=np.int64)) / len(ballots) / max(model.size, 1),
            "votes": float(here.sum(dtype=np.int64)) / max(voted.size, 1),
            "ties": (voted.size - moved.size) / max(voted.size, 1),
        }
        if self.minorities:
            memory = _follow(memory, ballots, moved, result[moves])
            measures |= _judge(memory)
        return Applied(memory, [moved], step, measures)


_Ballot = tuple[npt.NDArray[np.int64], npt.NDArray[np.int8], float, int]


def _one_each(batch: Sequence[Contribution]) -> list[_Ballot]:
    """Return positions, signs, weight and client of each client's latest votes."""
    latest = {c.update.address.client: c for c in sorted(batch, key=lambda c: c.update.address)}
    ballots: list[_Ballot] = []
    for contribution in batch:
        update = contribution.update
        if latest[update.address.client] is not contribution:
            continue
        content = update.content
        given = content.touches()
        positions = np.arange(content.values.size) if given is None else given
        cast = content.values != 0  # an exact 0 abstains, sent or not
        signs = np.sign(content.values[cast]).astype(np.int8)
        ballots.append((positions[cast], signs, contribution.weight, update.address.client))
    return ballots


def _follow(
    memory: Arrays,
    ballots: Sequence[_Ballot],
    moved: npt.NDArray[np.int64],
    result: npt.NDArray[np.int8],
) -> Arrays:
    """Note on which side of each contested coordinate every voter stood."""
    winner = np.zeros(memory["contests"].size, dtype=np.int8)
    winner[moved] = result
    against = np.zeros(winner.size, dtype=np.bool_)
    for positions, signs, *_ in ballots:
        against[positions[signs == -winner[positions]]] = True
    overruled, prevailed = memory["overruled"].copy(), memory["prevailed"].copy()
    for positions, signs, _, client in ballots:
        contested = against[positions]
        places, agrees = positions[contested], signs[contested] == winner[positions[contested]]
        bit = np.uint64(1 << client % GROUPS)
        overruled[places[~agrees]] |= bit
        prevailed[places[agrees]] |= bit
    contests = memory["contests"] + (against & (memory["contests"] < 255))
    return {"overruled": overruled, "prevailed": prevailed, "contests": contests}


def _judge(memory: Arrays) -> dict[str, float]:
    """Return the share of often contested coordinates where nobody was ever on both sides."""
    often = memory["contests"] >= CONTESTS
    count = int(np.count_nonzero(often))
    apart = (memory["overruled"] & memory["prevailed"]) == 0
    return {"systematic_minorities": int(np.count_nonzero(apart & often)) / max(count, 1)}
