"""How is a user's own table read?"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from actors.learning.examples import DataSet, DataShape
from actors.learning.sources.base import DataSettings
from actors.learning.sources.columns import Form, to_data_set
from actors.learning.sources.places import locate
from actors.learning.sources.tabular_files import read_table
from policies.types import ExperimentError

if TYPE_CHECKING:
    import pandas as pd


class Table(DataSettings):
    """A CSV or Parquet file of the user's, a row an example.

    Columns of numbers are standardised; columns of text, of true and false, and those named as
    such become categories.

    Attributes:
        path: The file, from the experiment file's folder or the working folder.
        target: Column whose values are the classes, in their order.
        client: Column of the natural clients, which is no input; None if there is none.
        order: Column of numbers or dates that says when a row arose, which is no input; None if
            there is none.
        categorical: Columns of numbers that are codes.
        ignore: Columns that are not read.
        test_share: Share of the rows that is set aside.
    """

    source: Literal["table"] = "table"
    path: Path = Field()
    target: str = Field()
    client: str | None = None
    order: str | None = None
    categorical: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2

    @field_validator("client", "order")
    @classmethod
    def _is_not_the_target(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is not None and name == info.data.get("target"):
            raise PydanticCustomError(
                "target",
                "must be another column than data.target, got {name} for both: whoever knows it "
                "knows the class. Name another column, or leave it out.",
                {"name": name},
            )
        return name

    def whole_shape(self) -> DataShape:
        """Read the table, unless it was read before and has not changed."""
        file = self._path()
        return _shape_of(self, file, file.stat().st_mtime_ns)

    def where(self) -> str:
        """Return the setting that names the file."""
        return "data.path"

    def find(self) -> None:
        """Look for the file."""
        self._path()

    def read(self) -> DataSet:
        """Read the table and set the test split aside."""
        table = read_table(self._path())
        named = [self.target, *filter(None, (self.client, self.order))]
        _check_names([*named, *self.categorical, *self.ignore], table.columns, self._path())
        inputs = [c for c in table.columns if c not in {*named, *self.ignore}]
        if not inputs:
            raise ExperimentError(
                f"{self._path()} has no column left to learn from besides {', '.join(named)}. "
                "Shorten data.ignore."
            )
        numbers = [c for c in inputs if c not in self.categorical and _holds_numbers(table[c])]
        form = Form(
            "table",
            self.target,
            numbers,
            [c for c in inputs if c not in numbers],
            self.client,
            self.order,
            math.ceil(self.test_share * len(table)),
        )
        return to_data_set(table, form)

    def _path(self) -> Path:
        file = locate(self.path)
        if not file.is_file():
            raise ExperimentError(
                f"data.path {self.path} was looked for beside the experiment file and in "
                f"{Path.cwd()}, and is no file. Write where the table is."
            )
        return file


@lru_cache(maxsize=8)
def _shape_of(settings: Table, file: Path, changed_ns: int) -> DataShape:
    """Read a table once for all checks of an experiment file."""
    del file, changed_ns
    return settings.read().shape


def _holds_numbers(values: pd.Series[float]) -> bool:
    import pandas as pd  # noqa: PLC0415  validating needs no pandas

    types = pd.api.types
    return bool(types.is_numeric_dtype(values) and not types.is_bool_dtype(values))


def _check_names(wanted: Iterable[str], columns: Iterable[str], file: Path) -> None:
    """Refuse columns that are not there."""
    known = list(columns)
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"Did you mean '{near[0]}'?" if near else f"It has {', '.join(known[:20])}."
            raise ExperimentError(f"{file} has no column '{name}'. {hint}")
