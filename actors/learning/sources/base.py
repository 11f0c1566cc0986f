"""What does every source of examples have in common?"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from actors.learning.blame import blame
from actors.learning.examples import DataSet, DataShape
from actors.learning.natural import Natural
from actors.learning.partition import Iid, Partition
from policies.base import Settings
from policies.types import ExperimentError, stream


class DataSettings(Settings):
    """Where the examples come from and how the clients share them.

    Members are told apart by `source`; the fields of a member are its settings.

    Attributes:
        source: Names the member, or a function of the user's.
        partition: Who holds which examples.
        train_examples: Use that many of the training split, always the same; None takes all.
        holdout: That many others of the training split, always the same, belong to no client: the
            server knows their inputs, and nobody their labels.
    """

    source: str
    partition: Partition = Iid()
    train_examples: PositiveInt | None = None
    holdout: NonNegativeInt = 0

    @abstractmethod
    def whole_shape(self) -> DataShape:
        """Return the shape of what `read` returns, without reading it if that can be."""

    @abstractmethod
    def read(self) -> DataSet:
        """Read the whole data set."""

    @abstractmethod
    def find(self) -> None:
        """Raise an `ExperimentError` if the data is not there: what, where, and the way out."""

    def where(self) -> str:
        """Return the setting that leads to the data, in dotted form."""
        return "data.source"

    def shape(self) -> DataShape:
        """Return the shape of what `load` returns.

        Raises:
            ExperimentError: If `train_examples` and `holdout` exceed the training split, or the
                data is not there or not what it should be.

        Cost:
            Sources that come with a package are not read, nor more than headers of images. A table
            and a user's own source are.
        """
        with self._blamed():
            whole = self.whole_shape()
        return dataclasses.replace(whole, train=self._used(whole.train))

    def load(self) -> DataSet:
        """Read the data.

        Raises:
            ExperimentError: If it is not there, is damaged, or does not fit together.
        """
        with self._blamed():
            data = self.read()
        used = self._used(len(data.y_train))
        if used == len(data.y_train):
            return data
        # No seed of the experiment's here: runs that differ in their seed learn from the same data.
        order = stream(0, f"train-subset/{self.source}").permutation(len(data.y_train))
        kept = order[:used] if self.train_examples is not None else np.sort(order[:used])
        taken = data.take(kept)
        if not self.holdout:
            return taken
        held = order[used : used + self.holdout]
        return dataclasses.replace(taken, x_public=data.x_train[held], y_public=data.y_train[held])

    def missing(self) -> str | None:
        """Return None if the data is there, else what was looked for, where, and the way out."""
        try:
            with self._blamed():
                self.find()
        except ExperimentError as error:
            return str(error)
        return None

    def trouble(self) -> tuple[str, str] | None:
        """Return the setting at fault and what is wrong with it; None if all is well.

        All is well if the data is there, is what it should be as far as `shape` looks, has as many
        examples as are asked for, and says what the partition needs to know.

        Cost:
            That of `shape`; of `load` where a natural partition uses `train_examples`.
        """
        setting = self.where()
        try:
            with self._blamed():
                self.find()
                whole = self.whole_shape()
            setting = "data.holdout" if self.holdout else "data.train_examples"
            used = dataclasses.replace(whole, train=self._used(whole.train))
            setting = "data.partition"
            self.partition.most(used)
            setting = self.where()
            self._count_clients()
        except ExperimentError as error:
            return setting, str(error)
        return None

    def natural_clients(self) -> int | None:
        """Return how many clients a natural partition has in all; None for other partitions.

        None too where the data is missing or names no clients, which other checks say.
        """
        if not isinstance(self.partition, Natural) or self.missing() is not None:
            return None
        try:
            return self._count_clients()
        except ExperimentError:
            return None

    def _count_clients(self) -> int | None:
        """Count the clients of a natural partition that have one of the examples that are used."""
        if not isinstance(self.partition, Natural):
            return None
        if self.train_examples is None and not self.holdout:
            return self.shape().clients
        owners = self.load().clients_train
        return None if owners is None else len(set(owners.tolist()))

    def _blamed(self) -> AbstractContextManager[None]:
        """Return what says where a user's own source raised; ours raise what they mean."""
        return blame(self.source) if ":" in self.source else nullcontext()

    def _used(self, train: int) -> int:
        """Return how many of `train` examples are dealt to clients."""
        if self.train_examples is not None and self.train_examples > train:
            raise ExperimentError(
                f"data.train_examples must not exceed the {train} training examples of "
                f"{self.source}, got {self.train_examples}. Lower it or leave it out."
            )
        if self.holdout and self.holdout + (self.train_examples or 1) > train:
            raise ExperimentError(
                f"data.holdout must leave {self.train_examples or 1} of the {train} training "
                f"examples of {self.source} to the clients, got {self.holdout}. Lower it or "
                "data.train_examples."
            )
        return self.train_examples or train - self.holdout
