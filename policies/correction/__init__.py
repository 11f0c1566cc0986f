"""What makes a late update good again?"""

from typing import Annotated

from pydantic import Field, SerializeAsAny, WrapValidator

from policies.base import open_union
from policies.correction.base import (
    Amended,
    Corrected,
    CorrectionPolicy,
    Lesson,
    Making,
    Newest,
    Own,
    Quality,
    Signals,
    Taught,
    Tutor,
)
from policies.correction.distillation import Distillation
from policies.correction.none import NoCorrection
from policies.correction.stages import KL_BEFORE, means
from policies.correction.step_distillation import StepDistillation

Correction = Annotated[
    Annotated[NoCorrection | Distillation | StepDistillation, Field(discriminator="kind")],
    WrapValidator(open_union(CorrectionPolicy)),
    SerializeAsAny(),
]

__all__ = [
    "KL_BEFORE",
    "Amended",
    "Corrected",
    "Correction",
    "CorrectionPolicy",
    "Distillation",
    "Lesson",
    "Making",
    "Newest",
    "NoCorrection",
    "Own",
    "Quality",
    "Signals",
    "StepDistillation",
    "Taught",
    "Tutor",
    "means",
]
