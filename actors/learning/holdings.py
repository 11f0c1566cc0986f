"""Which examples can a process reach, and what is known of each client's?

In a simulation every process reads one copy of the whole data set, and a client's examples are
rows of it (`Dealt`). A real silo's examples are where the silo is: they are loaded by the user's
own function inside the client's own process, and only counts ever leave it (`Siloed`).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from actors.learning.examples import DataSet, DataShape, Labels
from actors.learning.shards import Indices, ListedShards, Shards
from actors.learning.sources.base import DataSettings
from actors.learning.sources.silos import Silos


class Examples(NamedTuple):
    """Examples as a model takes them.

    Attributes:
        x: Normalised inputs, shape (n, ...).
        y: Labels, shape (n,), int64.
    """

    x: npt.NDArray[Any]
    y: Labels


class Description(NamedTuple):
    """What is known of a client's examples outside its process.

    Attributes:
        train: Examples of one update.
        test: Test examples of its own; 0 if it has none.
        labels: Training examples of each class, shape (classes,).
        seconds: What loading them took.
        bytes: What they take in memory, as loaded.
    """

    train: int
    test: int
    labels: tuple[int, ...]
    seconds: float = 0.0
    bytes: int = 0


class Sizes(NamedTuple):
    """How many examples clients have.

    Attributes:
        train: Of one update, shape (clients,).
        test: Test examples of their own, shape (clients,).
    """

    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]


class Holdings(ABC):
    """The examples of all clients that a process can be asked to train."""

    shape: DataShape

    @abstractmethod
    def moments(self) -> tuple[float, float]:
        """Return mean and standard deviation of uint8 inputs, where 255 is 1."""

    @abstractmethod
    def __len__(self) -> int:
        """Count clients."""

    @abstractmethod
    def name_of(self, client: int) -> str:
        """Return what the source calls a client; its number if it has no name."""

    @abstractmethod
    def train(self, client: int, number: int) -> Examples:
        """Return what a client trains on in its update `number`."""

    @abstractmethod
    def test(self, client: int) -> Examples | None:
        """Return test examples of a client's own; None if it has none."""

    @abstractmethod
    def describe(self, client: int) -> Description:
        """Count a client's examples."""

    def sizes(self) -> Sizes | None:
        """Return what is known without asking clients; None if nothing is."""
        return None

    def public(self) -> Examples | None:
        """Return examples that are no client's, their inputs normalised; None if there are none."""
        return None

    def keeps(self) -> bool:
        """Say whether a client trains on the same examples every time."""
        return True

    def local(self) -> bool:
        """Say whether only a client's own process can reach its examples."""
        return False


@dataclass(frozen=True, slots=True, eq=False)
class Dealt(Holdings):
    """Rows of one data set, which every process reads.

    Attributes:
        data: All examples.
        shards: Which are whose.
        owners: Which of the source's clients each client is, shape (clients,); -1 if its rows are
            of several; None if the source names no clients.
    """

    data: DataSet
    shards: Shards
    owners: npt.NDArray[np.int64] | None = field(init=False)
    _tests: ListedShards = field(init=False)

    def __post_init__(self) -> None:
        data = self.data
        whose, tested = data.clients_train, data.clients_test
        owners = None if whose is None else self.shards.owners(whose)
        if tested is None:
            tests = Shards.of([])
        else:
            counts = np.bincount(tested, minlength=len(data.client_names))
            bounds = np.cumsum([0, *counts], dtype=np.int64)
            tests = ListedShards(np.argsort(tested, kind="stable"), bounds)
        object.__setattr__(self, "owners", owners)
        object.__setattr__(self, "_tests", tests)

    @property
    def shape(self) -> DataShape:  # type: ignore[override]  # as good as an attribute
        """What the data set looks like."""
        return self.data.shape

    def moments(self) -> tuple[float, float]:
        """Return those of the training split."""
        return self.data.mean, self.data.std

    def __len__(self) -> int:
        """Count clients."""
        return len(self.shards)

    def name_of(self, client: int) -> str:
        """Return the source's own name of a client, if its shards follow the source's clients."""
        owner = self.owner_of(client)
        return str(client) if owner is None else self.data.client_names[owner]

    def owner_of(self, client: int) -> int | None:
        """Return which of the source's clients a client is; None if its rows are of several."""
        owner = -1 if self.owners is None else int(self.owners[client])
        return None if owner < 0 else owner

    def train(self, client: int, number: int) -> Examples:
        """Return a client's rows."""
        rows = self.shards.rows(client, number)
        data = self.data
        return Examples(data.normalise(data.x_train[rows]), data.y_train[rows].astype(np.int64))

    def test(self, client: int) -> Examples | None:
        """Return the test rows of the source's client that this one is."""
        rows = self._tested(client)
        if not rows.size:
            return None
        data = self.data
        return Examples(data.normalise(data.x_test[rows]), data.y_test[rows].astype(np.int64))

    def describe(self, client: int) -> Description:
        """Count a client's rows."""
        counts = self.shards.counts(client, self.data.y_train, self.data.classes)
        return Description(
            self.shards.examples(client), int(self._tested(client).size), tuple(counts.tolist())
        )

    def sizes(self) -> Sizes:
        """Count all clients' rows."""
        train = self.shards.sizes()
        test = np.zeros_like(train)
        if self.owners is not None and len(self._tests):
            named = self.owners >= 0
            test[named] = self._tests.sizes()[self.owners[named]]
        return Sizes(train, test)

    def public(self) -> Examples | None:
        """Return the hold-out."""
        x, y = self.data.x_public, self.data.y_public
        return None if x is None or y is None else Examples(self.data.normalise(x), y)

    def keeps(self) -> bool:
        """Say whether no window moves through the rows."""
        return not self.shards.moving

    def _tested(self, client: int) -> Indices:
        owner = self.owner_of(client)
        if owner is None or not len(self._tests):
            return np.empty(0, dtype=np.int64)
        return self._tests[owner]


@dataclass(slots=True, eq=False)
class Siloed(Holdings):
    """What a user's function loads for a client's name, in the process that asks for it.

    Attributes:
        settings: The section `data` of the experiment file.
    """

    settings: Silos
    _loaded: dict[int, tuple[DataSet, float]] = field(default_factory=dict)

    @property
    def shape(self) -> DataShape:  # type: ignore[override]  # as good as an attribute
        """What the file says that the data looks like."""
        return self.settings.shape()

    def moments(self) -> tuple[float, float]:
        """Return what the file says."""
        return self.settings.mean, self.settings.std

    def __len__(self) -> int:
        """Count clients."""
        return len(self.settings.clients)

    def name_of(self, client: int) -> str:
        """Return the name that the function is called with."""
        return self.settings.clients[client]

    def train(self, client: int, number: int) -> Examples:
        """Return all training examples of a client."""
        del number
        data = self._of(client)
        return Examples(data.normalise(data.x_train), data.y_train)

    def test(self, client: int) -> Examples | None:
        """Return all test examples of a client."""
        data = self._of(client)
        return Examples(data.normalise(data.x_test), data.y_test)

    def describe(self, client: int) -> Description:
        """Load a client's examples and count them."""
        data = self._of(client)
        counts = np.bincount(data.y_train, minlength=data.classes)
        size = data.x_train.nbytes + data.x_test.nbytes + data.y_train.nbytes + data.y_test.nbytes
        seconds = self._loaded[client][1]
        return Description(
            len(data.y_train), len(data.y_test), tuple(counts.tolist()), seconds, size
        )

    def local(self) -> bool:
        """Say yes."""
        return True

    def _of(self, client: int) -> DataSet:
        if client not in self._loaded:
            began = time.perf_counter()
            data = self.settings.load_for(self.name_of(client))
            self._loaded[client] = (data, time.perf_counter() - began)
        return self._loaded[client][0]


def hold(data: DataSettings, clients: int, seed: int) -> Holdings:
    """Load data and deal it out; a silo's stays where it is.

    Args:
        data: The section `data`.
        clients: How many there are.
        seed: Of the experiment.

    Raises:
        ExperimentError: If the data is not there, or too little for so many clients.
    """
    if isinstance(data, Silos):
        return Siloed(data)
    loaded = data.load()
    return Dealt(loaded, data.partition.deal(loaded.rows, clients, seed))
