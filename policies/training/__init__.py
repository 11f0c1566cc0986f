"""How does a client train?"""

from typing import Annotated

from pydantic import Field, SerializeAsAny, WrapValidator

from policies.base import open_union
from policies.training.base import Trained, TrainingPolicy
from policies.training.sgd import Proximal, Sgd

Training = Annotated[
    Annotated[Sgd | Proximal, Field(discriminator="kind")],
    WrapValidator(open_union(TrainingPolicy)),
    SerializeAsAny(),
]

__all__ = ["Proximal", "Sgd", "Trained", "Training", "TrainingPolicy"]
