"""How strong is a correction by distillation, and when?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from statistics import fmean
from typing import Annotated, Final, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from policies.correction.base import CorrectionPolicy, Taught, Tutor
from policies.types import RunError

Stage = Literal["saturating", "linear", "sigmoid"]
_STEEPNESS: Final = 4.0
"""The sigmoid rises from 27 to 73 % of what it comes to between 3/4 and 5/4 of `ramp`."""


class Distilling(CorrectionPolicy):
    """What all corrections by distillation have in common; no member by itself.

    The strength lambda grows with the stage of training, counted in updates: the first models are
    no teachers. With u updates in all versions so far it is `strength` times

        saturating   1 - exp(-u / ramp)
        linear       min(1, u / ramp)
        sigmoid      (S(4 (u / ramp - 1)) - S(-4)) / (1 - S(-4)),  S(z) = 1 / (1 + exp(-z))

    so it is 0 at the start and never falls; with a ramp of 0 all of it at once, from the second
    version.
    """

    strength: Annotated[float, Field(ge=0, le=1)] = 0.5
    stage: Stage = "saturating"
    ramp: NonNegativeFloat = 300.0
    temperature: PositiveFloat = 2.0
    steps: PositiveInt = 5
    batch: PositiveInt = 64

    def at(self, updates: int) -> float:
        """Return lambda after so many updates."""
        if not updates:
            return 0.0
        if not self.ramp:
            return self.strength
        return self.strength * _SHAPES[self.stage](updates / self.ramp)

    def taught_by(self, tutor: Tutor | None) -> Tutor:
        """Return the tutor.

        Raises:
            RunError: If there is none.
        """
        if tutor is None:
            raise RunError(f"{self.kind} has no model to teach, and no inputs")
        return tutor


def _saturating(ramps: float) -> float:
    return 1 - exp(-ramps)


def _linear(ramps: float) -> float:
    return min(1.0, ramps)


def _sigmoid(ramps: float) -> float:
    def logistic(z: float) -> float:
        return 1 / (1 + exp(-z))

    begin = logistic(-_STEEPNESS)
    return (logistic(_STEEPNESS * (ramps - 1)) - begin) / (1 - begin)


_SHAPES: Final = {"saturating": _saturating, "linear": _linear, "sigmoid": _sigmoid}


def means(each: Sequence[Mapping[str, float]], updates: int) -> dict[str, float]:
    """Return the figures of a version, given those of its corrected updates; none without any.

    Args:
        each: What `measured` returned.
        updates: How many are in the version, corrected or not.
    """
    if not each:
        return {}
    found = {name: fmean(one[name] for one in each) for name in each[0]}
    return found | {"correction_share": len(each) / updates}


KL_BEFORE: Final = "correction_kl_before"
"""The figure of how far a student was from its teacher."""


def measured(strength: float, taught: Taught) -> dict[str, float]:
    """Return what came of a lesson as figures."""
    return {
        "correction_strength": strength,
        KL_BEFORE: taught.kl_before,
        "correction_kl_after": taught.kl_after,
        "correction_length": taught.length,
        "correction_kept": taught.kept,
    }
