"""Which examples are there to learn from, and what do they look like?

What a source looks like is known without reading it, so that a file is checked in no time.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, SerializeAsAny, WrapValidator

from actors.learning.examples import DataSet, DataShape
from actors.learning.sources.base import DataSettings
from actors.learning.sources.cifar import Cifar10, Cifar100
from actors.learning.sources.fashion import FashionMnist
from actors.learning.sources.images import Folder, TinyImageNet
from actors.learning.sources.own import OwnSource
from actors.learning.sources.packaged import Digits, Mnist5k
from actors.learning.sources.silos import Silos
from actors.learning.sources.sotu import Sotu
from actors.learning.sources.table import Table
from actors.learning.sources.tables import Flights, InstructorRatings, MovieLens
from policies.base import own_function
from policies.types import ExperimentError

__all__ = ["Data", "DataSet", "DataSettings", "DataShape"]

DEFAULT: Final = "mnist5k"


def _own(source: str) -> type[DataSettings]:
    """Return the class that ``module:name`` names, or the one that calls a function."""
    with suppress(ExperimentError):  # OwnSource says what is wrong
        found = own_function(source)
        if isinstance(found, type) and issubclass(found, DataSettings):
            return found
    return OwnSource


def _own_or_known(value: Any, handler: Any) -> Any:
    """Let `source: "module:function"` into the union, and take the default for no source."""
    if isinstance(value, DataSettings):
        return value
    if isinstance(value, dict):
        value = {"source": DEFAULT} | value
        source = value["source"]
        if isinstance(source, str) and ":" in source:
            return _own(source).model_validate(value)
    return handler(value)


@dataclass(frozen=True)
class _Open:
    """Says to whoever reads the annotation what a tag means that no member has.

    Attributes:
        silent: The tag where the file names none.
    """

    silent: str

    def own_member(self, tag: str) -> type[BaseModel]:
        """Return the model behind ``module:name``."""
        return _own(tag)


Data = Annotated[
    Annotated[
        Mnist5k
        | Digits
        | FashionMnist
        | Cifar10
        | Cifar100
        | TinyImageNet
        | Flights
        | MovieLens
        | InstructorRatings
        | Sotu
        | Table
        | Folder
        | Silos,
        Field(discriminator="source"),
    ],
    WrapValidator(_own_or_known),
    SerializeAsAny(),  # a user's own member is written back with its own fields
    _Open(DEFAULT),
]
