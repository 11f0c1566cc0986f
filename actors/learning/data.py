"""Which examples are there to learn from, and what do they look like?

What a source looks like is known without reading it, so that a file is checked in no time.
"""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from actors.learning.examples import DataSet, DataShape
from actors.learning.partition import Iid, Partition
from actors.learning.sources import (
    SHAPES,
    TABLES,
    idx_files,
    idx_sizes,
    own_data,
    read_fashion_mnist,
    read_table,
    table_file,
)
from policies.base import Settings, own_function
from policies.types import ExperimentError, stream

__all__ = ["DataSet", "DataSettings", "DataShape"]


def _known(source: str) -> str:
    """Let known names and functions that can be imported pass."""
    if ":" in source:
        try:
            own_function(source)
        except ExperimentError as error:
            raise PydanticCustomError("own_source", "{error}", {"error": str(error)}) from error
    elif source not in SHAPES:
        near = difflib.get_close_matches(source, SHAPES, n=1, cutoff=0.4)
        raise PydanticCustomError(
            "unknown_source",
            "unknown data source '{source}'.{near} Known are {known}, or 'module:function'.",
            {
                "source": source,
                "near": f" Did you mean '{near[0]}'?" if near else "",
                "known": ", ".join(SHAPES),
            },
        )
    return source


class DataSettings(Settings):
    """Where the examples come from and how the clients share them.

    Attributes:
        source: ``mnist5k``, ``digits``, ``fashion-mnist``, or ``module:function``, which returns a
            `DataSet` or a mapping with x_train, y_train, x_test, y_test and, if they are not to be
            worked out from these, classes, mean and std.
        root: Folder of a fashion-mnist that is not Debian's: the four idx files, gzipped or not,
            there or in FashionMNIST/raw as torchvision leaves them.
        partition: Who holds which examples.
        train_examples: Use that many of the training split, always the same; None takes all.
    """

    source: Annotated[str, AfterValidator(_known)] = "mnist5k"
    root: Path | None = None
    partition: Partition = Iid()
    train_examples: PositiveInt | None = None

    @model_validator(mode="after")
    def _root_is_read(self) -> Self:
        if self.root is not None and self.source != "fashion-mnist":
            raise PydanticCustomError(
                "root_unread",
                "root is for fashion-mnist; {source} does not read it. Remove it.",
                {"source": self.source},
            )
        return self

    def shape(self) -> DataShape:
        """Return the shape of what `load` returns.

        Raises:
            ExperimentError: If `train_examples` exceeds the training split, or `root` holds no
                fashion-mnist.

        Cost:
            Nothing is read but the headers in `root`. A user's own source is loaded.
        """
        if self.source not in SHAPES:
            return self.load().shape
        shape = SHAPES[self.source]
        if self.root is not None:
            (train, *image), _, (test, *_), _ = (idx_sizes(f) for f in idx_files(self.root))
            shape = DataShape(train, test, (1, *image), shape.classes)
        return dataclasses.replace(shape, train=self._used(shape.train))

    def load(self) -> DataSet:
        """Read the data.

        Raises:
            ExperimentError: If it is not there, is damaged, or does not fit together.
        """
        if self.source in TABLES:
            data = read_table(self.source)
        elif self.source in SHAPES:
            data = read_fashion_mnist(self.root)
        else:
            data = own_data(self.source)
        used = self._used(len(data.y_train))
        if used == len(data.y_train):
            return data
        # No seed of the experiment's here: runs that differ in their seed learn from the same data.
        order = stream(0, f"train-subset/{self.source}").permutation(len(data.y_train))[:used]
        return dataclasses.replace(data, x_train=data.x_train[order], y_train=data.y_train[order])

    def missing(self) -> str | None:
        """Return None if the data is there, else what was looked for, where, and the way out."""
        try:
            if self.source in TABLES:
                table_file(self.source)
            elif self.source in SHAPES:
                idx_files(self.root)
            else:
                own_function(self.source)
        except ExperimentError as error:
            return str(error)
        return None

    def _used(self, train: int) -> int:
        """Return how many of `train` examples are used."""
        if self.train_examples is not None and self.train_examples > train:
            raise ExperimentError(
                f"data.train_examples must not exceed the {train} training examples of "
                f"{self.source}, got {self.train_examples}. Lower it or leave it out."
            )
        return self.train_examples or train
