"""How does a client train?"""

from typing import Annotated

from pydantic import Field, SerializeAsAny, WrapValidator

from policies.base import open_union
from policies.training.base import Member, Portion, Task, Trained, TrainingPolicy
from policies.training.sgd import Proximal, Sgd
from policies.training.sparsyfed import SparsyFed

Training = Annotated[
    Annotated[Sgd | Proximal | SparsyFed, Field(discriminator="kind")],
    WrapValidator(open_union(TrainingPolicy)),
    SerializeAsAny(),
]

__all__ = [
    "Member",
    "Portion",
    "Proximal",
    "Sgd",
    "SparsyFed",
    "Task",
    "Trained",
    "Training",
    "TrainingPolicy",
]
