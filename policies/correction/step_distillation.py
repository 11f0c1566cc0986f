"""A version's step is distilled from the newest model (after Lu et al. 2025)."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt

from policies.correction.base import CHECKED, Amended, Making, Tutor
from policies.correction.stages import Distilling, measured


class StepDistillation(Distilling):
    """Let a version that late updates are in answer as the newest one does, on unlabelled inputs.

    The aggregation's result is the student, the newest version the teacher, and the gradient steps

        lambda T^2 KL(teacher || student) + (1 - lambda) T^2 KL(aggregated || student)

    go down on `batch` inputs that are drawn anew for every version from the data's hold-out, which
    is no client's and has no labels. What a late step breaks in answers that the newest model
    gives is taken back, what it adds elsewhere stays; so the server can take longer steps than it
    could otherwise, and does: before the lesson the step is lengthened by the factor
    ``1 + (stretch - 1) * lambda / strength``. lambda grows with the stage of training
    (`policies/correction/stages.py`).

    A version whose updates are all fresh is left alone. The correction is kept if the mean KL from
    the teacher fell on inputs that are always the same, else a half or a quarter of it; else the
    version is as the aggregation made it. Weights that a sparse method holds at zero stay there,
    and those that no update of a sparse version moved stay where they are.

    Attributes:
        strength: Largest lambda.
        stage: How lambda grows.
        ramp: Updates that this takes; 0 for all of it at once, from the second version.
        stretch: How many times as long a step is as the aggregation made it, at the largest lambda.
            The larger the aggregation's own rate, the smaller.
        temperature: T.
        steps: Gradient steps a version.
        rate: Their length.
        batch: Inputs a version.

    Source:
        Distillation from the newest global model, stronger with the stage of training: FedADT, Lu
        et al. 2025, arXiv:2504.04081, which corrects each update before it is aggregated
        (`distillation`). To correct the step of a version instead, and to lengthen it, is our
        choice: a lesson costs as much for a buffer as for an update.
    """

    kind: Literal["step-distillation"] = "step-distillation"
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    ramp: NonNegativeFloat = 0.0
    steps: PositiveInt = 10
    stretch: Annotated[float, Field(ge=1)] = 3.0

    def rows(self) -> int:
        """Return the inputs of a version, and those that are always the same."""
        return self.batch + CHECKED

    def amend(self, making: Making, tutor: Tutor | None, rng: np.random.Generator) -> Amended:
        """Distil the step, unless lambda is 0 or no update in it is late."""
        strength, newest, model = self.at(making.newest.updates), making.newest, making.model
        if not strength or not making.late:
            return Amended()
        plain = model.copy()
        factor = np.float32(1 + (self.stretch - 1) * strength / self.strength)
        np.subtract(model, newest.model, out=model)
        np.multiply(model, factor, out=model)
        np.add(model, newest.model, out=model)
        if making.where is not None:  # also where the step was rounded
            np.copyto(model, plain, where=~making.where)
        students, where = model.reshape(1, -1), [making.where]
        (taught,) = self.taught_by(tutor).teach(
            students, [strength], newest, self.lesson(), rng, where
        )
        if not taught.kept:
            np.copyto(model, plain)
        stretch = float(factor) if taught.kept else 1.0
        measures = measured(strength, taught) | {"correction_stretch": stretch}
        return Amended(taught.kept > 0, measures)

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
