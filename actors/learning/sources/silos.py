"""How are examples taken in that never leave their owners?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import Field, PositiveInt, field_validator, model_validator
from pydantic_core import PydanticCustomError

from actors.learning.blame import blame
from actors.learning.examples import DataSet, DataShape
from actors.learning.sources.base import DataSettings
from actors.learning.sources.own import importable, of_mapping
from policies.base import own_function
from policies.types import ExperimentError


class Silos(DataSettings):
    """Call a function of the user's with a client's name, inside that client's own actor.

    The function returns what `source: "module:function"` returns: x_train, y_train, x_test,
    y_test. Its module must be importable where the actor runs. The driver never sees an example:
    it gets counts when the actors have started, and figures of the tests.

    Because nobody looks into the data beforehand, the file says what it looks like.

    Attributes:
        call: ``module:function``.
        clients: Names of the silos, in the order of the fleet's clients.
        input: Shape of one input.
        classes: How many classes there are.
        mean: Mean of uint8 inputs, where 255 is 1; the same for all silos.
        std: Their standard deviation, > 0.
        categories: Of a table, the number of codes of each column, 0 for a column of numbers.
        vocabulary: Of tokens, how many there are.
    """

    source: Literal["silos"] = "silos"
    call: str
    clients: Annotated[tuple[str, ...], Field(min_length=1)]
    input: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    classes: Annotated[int, Field(ge=2)]
    mean: float = 0.0
    std: Annotated[float, Field(gt=0)] = 1.0
    categories: tuple[int, ...] = ()
    vocabulary: Annotated[int, Field(ge=0)] = 0

    @field_validator("call")
    @classmethod
    def _can_be_imported(cls, path: str) -> str:
        return importable(path)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if len(set(self.clients)) < len(self.clients):
            raise PydanticCustomError("silos", "clients must be different names. Rename one.")
        if self.train_examples is not None:
            raise PydanticCustomError(
                "silos",
                "train_examples is for data that the driver sees; let the function return fewer.",
            )
        if self.holdout:
            raise PydanticCustomError(
                "silos",
                "holdout is for data that the driver sees, and silos keep theirs. Remove it.",
            )
        if self.partition.kind != "iid":
            raise PydanticCustomError(
                "silos", "silos are clients already and are not partitioned. Remove partition."
            )
        return self

    def whole_shape(self) -> DataShape:
        """Return what the file says; how many examples there are is not known."""
        return DataShape(
            0,
            0,
            self.input,
            self.classes,
            self.categories,
            self.vocabulary,
            len(self.clients),
            mean=self.mean,
            std=self.std,
        )

    def natural_clients(self) -> int:
        """Return how many silos there are."""
        return len(self.clients)

    def where(self) -> str:
        """Return the setting that names the function."""
        return "data.call"

    def find(self) -> None:
        """See whether the function can be imported here."""
        own_function(self.call)

    def read(self) -> NoReturn:
        """Refuse: nobody reads all of it."""
        raise ExperimentError("silos are loaded one by one, each in its own client's actor.")

    def load_for(self, name: str) -> DataSet:
        """Load the examples of a client; to be called where they are.

        Raises:
            ExperimentError: If the function raises, or they are not what the file says; names the
                silo.
        """
        call = f"{self.call}({name!r})"
        try:
            with blame(self.call, called=call):
                given = own_function(self.call)(name)
            return self._taken(given, call)
        except ExperimentError as error:
            raise ExperimentError(f"silo {name}: {error}") from error

    def _taken(self, given: Any, call: str) -> DataSet:
        """Turn what `call` returned into a data set that looks as the file says."""
        if isinstance(given, Mapping):
            told = ("classes", "mean", "std", "categories", "vocabulary")
            known = {name: getattr(self, name) for name in told}
            given = of_mapping({**known, **given}, call)
        if not isinstance(given, DataSet):
            raise ExperimentError(
                f"{call} must return a mapping with x_train, y_train, x_test and y_test, got "
                f"{type(given).__name__}."
            )
        found = given.shape
        for what in ("input", "classes", "categories", "vocabulary"):
            wanted, got = getattr(self.whole_shape(), what), getattr(found, what)
            if wanted != got:
                raise ExperimentError(
                    f"{call} returned {what} {got}, and data.{what} says {wanted}. "
                    "All silos must look alike: change one of the two."
                )
        return given
