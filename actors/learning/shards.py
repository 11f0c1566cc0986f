"""Which examples does a client train on?

A small family with one interface: listed shards hold two arrays, moving ones a window that goes
through a client's examples as it is asked again, sampled ones nothing at all: they are computed
when they are asked for, for any number of clients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from policies.types import stream

Indices = npt.NDArray[np.int64]
"""Positions in the training split, shape (n,)."""


class Shards(ABC):
    """Which examples each client has."""

    __slots__ = ()
    moving: ClassVar[bool] = False
    """Whether what a client trains on depends on how often it was asked."""

    @staticmethod
    def of(parts: list[Indices]) -> ListedShards:
        """Lay a list of index arrays end to end."""
        bounds = np.cumsum([0, *(part.size for part in parts)], dtype=np.int64)
        order = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        return ListedShards(order, bounds)

    @abstractmethod
    def __len__(self) -> int:
        """Count clients."""

    @abstractmethod
    def __getitem__(self, client: int) -> Indices:
        """Return all examples that a client ever trains on."""

    def rows(self, client: int, number: int) -> Indices:
        """Return the examples of a client's update `number`, counted from 0."""
        del number
        return self[client]

    def examples(self, client: int) -> int:
        """Count the examples of one of a client's updates, the same for all of them."""
        return int(self.rows(client, 0).size)

    @abstractmethod
    def sizes(self) -> Indices:
        """Return `examples` of every client, shape (clients,)."""

    def counts(self, client: int, labels: Indices, classes: int) -> Indices:
        """Count the examples of each class among all that a client ever trains on.

        Args:
            client: Who.
            labels: Of every training example, shape (n,).
            classes: How many classes there are.

        Returns:
            Shape (classes,).
        """
        return np.bincount(labels[self[client]], minlength=classes)

    def owners(self, owners: Indices) -> Indices:
        """Return which of a source's clients each client is.

        Args:
            owners: The source's client of every training example, shape (n,), each >= 0.

        Returns:
            Shape (clients,); -1 for a client whose examples are of several, or that has none.
        """
        whose = (np.unique(owners[self[client]]) for client in range(len(self)))
        return np.array([one[0] if one.size == 1 else -1 for one in whose], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class ListedShards(Shards):
    """Written down, for any number of clients in two arrays.

    Attributes:
        order: All clients' example indices, end to end, shape (n,).
        bounds: Where each client's begin, shape (clients + 1,).
    """

    order: Indices
    bounds: Indices

    def __len__(self) -> int:
        """Count clients."""
        return self.bounds.size - 1

    def __getitem__(self, client: int) -> Indices:
        """Return a client's example indices."""
        return self.order[self.bounds[client] : self.bounds[client + 1]]

    def sizes(self) -> Indices:
        """Return how many examples each client has."""
        return np.diff(self.bounds)

    def owners(self, owners: Indices) -> Indices:
        """Return the one owner of each client's examples."""
        found = np.full(len(self), -1, dtype=np.int64)
        some = np.flatnonzero(self.sizes())
        if some.size:
            whose, begins = owners[self.order], self.bounds[some]
            least, most = (f.reduceat(whose, begins) for f in (np.minimum, np.maximum))
            found[some] = np.where(least == most, least, -1)
        return found


@dataclass(frozen=True, slots=True)
class MovingShards(Shards):
    """A window that moves through each client's examples, oldest first.

    Attributes:
        listed: Each client's examples in the order in which they arose.
        window: Share of a client's examples that an update sees, in (0, 1]; one at least.
        assignments: The update with this number sees the newest ones, and so do all later ones.
    """

    moving: ClassVar[bool] = True
    listed: ListedShards
    window: float
    assignments: int

    def __len__(self) -> int:
        """Count clients."""
        return len(self.listed)

    def __getitem__(self, client: int) -> Indices:
        """Return all of a client's examples."""
        return self.listed[client]

    def rows(self, client: int, number: int) -> Indices:
        """Return what the window shows at a client's update `number`."""
        rows = self.listed[client]
        width = int(self._widths(np.array(rows.size)))
        begin = min(number, self.assignments) * (rows.size - width) // self.assignments
        return rows[begin : begin + width]

    def sizes(self) -> Indices:
        """Return how wide each client's window is."""
        return self._widths(self.listed.sizes())

    def owners(self, owners: Indices) -> Indices:
        """Return the one owner of each client's examples."""
        return self.listed.owners(owners)

    def _widths(self, sizes: Indices) -> Indices:
        widths: Indices = np.ceil(self.window * sizes).astype(np.int64)
        return widths


@dataclass(frozen=True, slots=True)
class SampledShards(Shards):
    """Drawn when asked for, from (seed, client) alone; clients share examples.

    Attributes:
        members: Positions of the examples of each class, none of them empty.
        seed: Of the experiment.
        clients: How many there are; they take no memory.
        per_client: Examples of each.
        alpha: Concentration of the Dirichlet distribution of a client's mixture of classes.
    """

    members: tuple[Indices, ...]
    seed: int
    clients: int
    per_client: int
    alpha: float

    def __len__(self) -> int:
        """Count clients."""
        return self.clients

    def __getitem__(self, client: int) -> Indices:
        """Draw a client's examples: no example twice while its class has others.

        Cost:
            O(classes + examples).
        """
        rng, counts = self._drawn(client)
        drawn = [
            rng.choice(self.members[c], counts[c], replace=bool(counts[c] > self.members[c].size))
            for c in np.flatnonzero(counts)
        ]
        return np.sort(np.concatenate(drawn))

    def counts(self, client: int, labels: Indices, classes: int) -> Indices:
        """Return what the mixture of classes gives: which examples these are does not matter."""
        found = np.zeros(classes, dtype=np.int64)
        found[[labels[members[0]] for members in self.members]] = self._drawn(client)[1]
        return found

    def _drawn(self, client: int) -> tuple[np.random.Generator, Indices]:
        """Return how many examples of each of `members` a client has, and what draws them."""
        rng = stream(self.seed, "sampled", client)
        mixture = rng.dirichlet(np.full(len(self.members), self.alpha))
        return rng, rng.multinomial(self.per_client, mixture)

    def examples(self, client: int) -> int:
        """Return the same for every client."""
        del client
        return self.per_client

    def sizes(self) -> Indices:
        """Return the same number for every client."""
        return np.full(self.clients, self.per_client, dtype=np.int64)

    def owners(self, owners: Indices) -> Indices:
        """Return that clients draw from all that there is, whoever owns it."""
        del owners
        return np.full(self.clients, -1, dtype=np.int64)
