"""A version's step is distilled from the newest model (after Lu et al. 2025)."""

from __future__ import annotations

from math import isfinite, sqrt
from typing import Annotated, Final, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from policies.correction.base import CHECKED, Amended, Lesson, Making, Signals, Tutor
from policies.correction.stages import Distilling, measured
from policies.types import Arrays

Auto = Literal["auto"]
LEAST: Final = 0.02
"""Below this share of the teacher a lesson is left out."""
SURE: Final = 2.0
"""A teacher half-way between guessing and certainty is sure enough; below, the square counts."""
_CALM: Final = 0.8
"""What is left, from one version to the next, of clients' older losses in their mean."""
_MARGIN, _WIDTH = 0.25, 0.5
"""Trust falls when that mean is a quarter above its lowest, and is gone at three quarters."""
_AT_FIRST: Final = 3
"""Versions until a lowest mean counts."""


class _Memory(NamedTuple):
    """What is known from the versions before.

    Attributes:
        weight: Of the clients' losses in their moving mean; 1 in the long run.
        loss: Sum of the same.
        lowest: The lowest mean so far.
        seen: Versions with losses.
        curvature: Along the lessons' steps.
    """

    weight: float = 0.0
    loss: float = 0.0
    lowest: float = 0.0
    seen: float = 0.0
    curvature: float = 0.0

    @classmethod
    def of(cls, memory: Arrays) -> Self:
        return cls(*memory["seen"].tolist())

    def arrays(self) -> Arrays:
        return {"seen": np.array(self)}

    def hear(self, loss: float) -> Self:
        """Return what is known after the losses of another version."""
        if not isfinite(loss):
            return self
        weight = _CALM * self.weight + 1 - _CALM
        total = _CALM * self.loss + (1 - _CALM) * loss
        seen, mean = self.seen + 1, total / weight
        lowest = mean if seen <= _AT_FIRST else min(self.lowest, mean)
        return self._replace(weight=weight, loss=total, lowest=lowest, seen=seen)

    def trust(self) -> float:
        """Return 1 while clients' losses fall or stay, 0 when they have risen too far."""
        if self.lowest <= 0:
            return 1.0
        rise = self.loss / self.weight / self.lowest - 1
        return min(max(1 - (rise - _MARGIN) / _WIDTH, 0.0), 1.0)


class StepDistillation(Distilling):
    """Let a version that late updates are in answer as the newest one does, on unlabelled inputs.

    The aggregation's result is the student, the newest version the teacher, and the gradient steps

        lambda T^2 KL(teacher || student) + (1 - lambda) T^2 KL(aggregated || student)

    go down on `batch` inputs that are drawn anew for every version from the data's hold-out, which
    is no client's and has no labels. What a late step breaks in answers that the newest model
    gives is taken back, what it adds elsewhere stays; so the server can take longer steps than it
    could otherwise, and does. Before the lesson a step g is lengthened to s g,

        auto      s = 1 + (r - 1) min((2 q)^2, 1) e v
                  r = mean length of the updates / length of g, from 1 to min(longest, 2 sqrt(K))
        a number  s = 1 + (stretch - 1) lambda / strength

    With updates that agree r is 1, with K that have nothing in common about sqrt(K): what they
    lose by cancelling each other is given back. q says how far the teacher is from guessing, and e
    how many of the classes it finds among the inputs (`Quality`). v is the trust in it, 1 until the
    training losses that clients report rise by a quarter above their lowest mean, and 0 at three
    quarters; lambda is multiplied by it too, so that the correction lets go of a teacher that gets
    worse. Steps of weights and votes are not lengthened by `auto`.

    With `rate: auto` gradient steps are 1 / L long, L the curvature between the first two of them,
    in a moving mean over the versions.

    lambda grows with the stage of training (`policies/correction/stages.py`). A version whose
    updates are all fresh is left alone. The correction is kept if the mean KL from the teacher fell
    on inputs that are always the same, else a half or a quarter of it; else the version is as the
    aggregation made it. Weights that a sparse method holds at zero stay there, and those that no
    update of a sparse version moved stay where they are.

    Attributes:
        strength: Largest lambda.
        stage: How lambda grows.
        ramp: Updates that this takes; 0 for all of it at once, from the second version.
        stretch: How many times as long a step is as the aggregation made it; `auto` sets itself,
            a number holds at the largest lambda.
        longest: Where `auto` ends.
        temperature: T.
        steps: Gradient steps a version.
        rate: Their length.
        batch: Inputs a version.
        proxy: Whether these are the data's hold-out, or generated: smooth noise, which needs images
            and no data at all (`actors/learning/generated.py`). Leave `stretch` to set itself
            then: it is q and e that know how little such inputs say.

    Source:
        Distillation from the newest global model, stronger with the stage of training: FedADT, Lu
        et al. 2025, arXiv:2504.04081, which corrects each update before it is aggregated
        (`distillation`). To correct the step of a version instead, and to lengthen it, is our
        choice: a lesson costs as much for a buffer as for an update. So are r, which FedExP
        (Jhunjhunwala et al. 2023, arXiv:2301.09604) forms of squares and uses without a lesson, q,
        e, v and the steps of 1 / L.
    """

    kind: Literal["step-distillation"] = "step-distillation"
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    ramp: NonNegativeFloat = 0.0
    stretch: Auto | Annotated[float, Field(ge=1)] = "auto"
    longest: Annotated[float, Field(ge=1)] = 4.0
    rate: Auto | PositiveFloat = "auto"
    steps: PositiveInt = 7
    proxy: Literal["holdout", "generated"] = "holdout"

    def draws(self) -> bool:
        """Say yes where the inputs are generated."""
        return self.proxy == "generated"

    def hears(self) -> bool:
        """Say whether stretch and trust set themselves."""
        return self.stretch == "auto"

    def start(self) -> Arrays:
        """Remember nothing."""
        return _Memory().arrays()

    def rows(self) -> int:
        """Return the inputs of a version, and those that are always the same."""
        return self.batch + CHECKED

    def amend(self, making: Making, tutor: Tutor | None, rng: np.random.Generator) -> Amended:
        """Distil the step, unless lambda is next to nothing or no update in it is late."""
        memory, signals = _Memory.of(making.memory), making.signals
        if signals is not None:
            memory = memory.hear(signals.loss)
        trust, newest, model = memory.trust(), making.newest, making.model
        strength = trust * self.at(newest.updates)
        if strength <= LEAST * self.strength or not making.late:
            return Amended(memory=memory.arrays())
        teacher = self.taught_by(tutor)
        plain = model.copy()
        np.subtract(model, newest.model, out=model)
        factor, told = self._stretch(making, signals, strength, trust, teacher)
        np.multiply(model, np.float32(factor), out=model)
        np.add(model, newest.model, out=model)
        if making.where is not None:  # also where the step was rounded
            np.copyto(model, plain, where=~making.where)
        (taught,) = teacher.teach(
            model.reshape(1, -1), [strength], newest, self._lesson(memory), rng, [making.where]
        )
        if not taught.kept:
            np.copyto(model, plain)
            factor = 1.0
        if self.rate == "auto":
            memory = memory._replace(curvature=taught.curvature)
            told["correction_curvature"] = taught.curvature
        measures = measured(strength, taught) | told | {"correction_stretch": factor}
        return Amended(taught.kept > 0, measures, memory.arrays())

    def _lesson(self, memory: _Memory) -> Lesson:
        rate = None if self.rate == "auto" else self.rate
        return Lesson(self.temperature, self.steps, rate, self.batch, curvature=memory.curvature)

    def _stretch(
        self,
        making: Making,
        signals: Signals | None,
        strength: float,
        trust: float,
        teacher: Tutor,
    ) -> tuple[float, dict[str, float]]:
        """Return s and the figures behind it; what is being made is the step alone."""
        if self.stretch != "auto":
            return 1 + (self.stretch - 1) * strength / self.strength, {}
        quality = teacher.quality(making.newest)
        told = {
            "correction_sure": quality.sure,
            "correction_even": quality.even,
            "correction_trust": trust,
        }
        share = min((SURE * quality.sure) ** 2, 1.0) * quality.even * trust
        return 1 + share * (self._ratio(making, signals) - 1), told

    def _ratio(self, making: Making, signals: Signals | None) -> float:
        """Return r."""
        length = float(np.linalg.norm(making.model))
        if signals is None or not isfinite(signals.length) or not 0 < length < np.inf:
            return 1.0
        most = min(self.longest, 2 * sqrt(making.updates))
        return min(max(signals.length / length, 1.0), max(most, 1.0))

    def flops(self, staleness: int, forward_flops: float) -> float:
        """Return 0: it is a version's step that costs something."""
        del staleness, forward_flops
        return 0.0

    def version_flops(self, forward_flops: float) -> float:
        """Return what steps and checks take; a step is three times as much as an answer."""
        if not self.strength:
            return 0.0
        answers = (2 + 3 * self.steps) * self.batch + 3 * CHECKED
        return answers * forward_flops
