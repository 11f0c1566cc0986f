"""Which client holds which training examples?

A partition looks at the labels alone. Whatever the policy, every example goes to exactly one
client and no client goes empty.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt, SerializeAsAny, WrapValidator

from policies.base import Policy, open_union
from policies.types import ExperimentError

Indices = npt.NDArray[np.int64]
"""Labels, or positions in the training split, shape (n,)."""


class PartitionPolicy(Policy):
    """Deals the training examples out to the clients."""

    @abstractmethod
    def split(self, labels: Indices, clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return what each client holds.

        Args:
            labels: Label of every training example, shape (n,), int64, each >= 0.
            clients: How many clients share them, >= 1.
            rng: Where the randomness comes from; equal generators give equal partitions.

        Returns:
            One sorted array of positions in `labels` a client: disjoint, covering all of them.

        Raises:
            ExperimentError: If there are too few examples for so many clients.
        """


class Iid(PartitionPolicy):
    """Shuffle and deal out evenly; the sizes differ by at most one. The baseline."""

    kind: Literal["iid"] = "iid"

    def split(self, labels: Indices, clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return even random shares."""
        _enough(labels, clients, each=1, way_out="Lower fleet.clients")
        return [np.sort(part) for part in np.array_split(rng.permutation(len(labels)), clients)]


class Dirichlet(PartitionPolicy):
    """Divide every class by its own draw from a symmetric Dirichlet distribution.

    Attributes:
        alpha: Concentration. 0.1 gives most clients one or two classes, 100 is nearly iid.
        min_examples: Every client gets at least that many.

    Source:
        Hsu, Qi and Brown 2019, arXiv:1909.06335, draw a mixture of classes for each client; like
        Yurochkin et al. 2019, arXiv:1905.12022, we draw a mixture of clients for each class, which
        uses every example once. The minimum is our choice: others draw again until it holds, which
        may never end; we draw once, then move random examples from the largest clients.
    """

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: Annotated[float, Field(gt=0, le=1e6)] = 0.5
    min_examples: PositiveInt = 10

    def split(self, labels: Indices, clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return skewed shares of at least `min_examples`.

        Cost:
            O(n log n), and O(clients) for every example moved, of which there are at most
            ``clients * min_examples``.
        """
        way_out = "Lower fleet.clients or data.partition.min_examples"
        _enough(labels, clients, each=self.min_examples, way_out=way_out)
        owner = np.empty(len(labels), dtype=np.int64)
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            shares = rng.dirichlet(np.full(clients, self.alpha))
            cuts = (np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
            for client, part in enumerate(np.split(members, cuts)):
                owner[part] = client
        _level(owner, clients, self.min_examples, rng)
        return _by_owner(owner, clients)


class Pathological(PartitionPolicy):
    """Sort by label, cut into equal shards, give every client `classes_per_client` of them.

    A client so sees few classes: fewer when two of its shards are alike, more when a shard
    straddles classes, which happens wherever the shards do not divide the classes evenly.

    Attributes:
        classes_per_client: Shards a client gets.

    Source:
        McMahan et al. 2017, arXiv:1602.05629: 200 shards of 300 examples for 100 clients. Shards
        that differ by one example, so that any n is covered, and a shuffle within each class are
        our choice.
    """

    kind: Literal["pathological"] = "pathological"
    classes_per_client: PositiveInt = 2

    def split(self, labels: Indices, clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return `classes_per_client` shards a client."""
        way_out = "Lower fleet.clients or data.partition.classes_per_client"
        _enough(labels, clients, each=self.classes_per_client, way_out=way_out)
        shuffled = rng.permutation(len(labels))
        in_order = shuffled[np.argsort(labels[shuffled], kind="stable")]
        shards = np.array_split(in_order, clients * self.classes_per_client)
        dealt = rng.permutation(len(shards)).reshape(clients, self.classes_per_client)
        return [np.sort(np.concatenate([shards[s] for s in hand])) for hand in dealt]


Partition = Annotated[
    Annotated[Iid | Dirichlet | Pathological, Field(discriminator="kind")],
    WrapValidator(open_union(PartitionPolicy)),
    SerializeAsAny(),  # a user's own member is written back with its own fields
]


def _enough(labels: Indices, clients: int, *, each: int, way_out: str) -> None:
    """Refuse to deal out fewer than `each` examples a client."""
    if clients < 1:
        raise ExperimentError(f"fleet.clients must be at least 1, got {clients}.")
    if len(labels) < clients * each:
        raise ExperimentError(
            f"data.partition needs {each} or more examples for each of {clients} clients, "
            f"{clients * each} in all, but the training split has {len(labels)}. "
            f"{way_out}, or take more data (data.train_examples, data.source)."
        )


def _level(owner: Indices, clients: int, least: int, rng: np.random.Generator) -> None:
    """Move random examples, in place, from the largest clients to those below `least`.

    Whoever gives has more than `least`, and there are enough for all, so this ends.
    """
    sizes = np.bincount(owner, minlength=clients)
    givable: dict[int, list[int]] = {}
    for client in np.flatnonzero(sizes < least):
        while sizes[client] < least:
            donor = int(sizes.argmax())
            if donor not in givable:
                givable[donor] = rng.permutation(np.flatnonzero(owner == donor)).tolist()
            owner[givable[donor].pop()] = client
            sizes[donor] -= 1
            sizes[client] += 1


def _by_owner(owner: Indices, clients: int) -> list[Indices]:
    """Return the sorted positions of each client's examples."""
    in_order = np.argsort(owner, kind="stable")
    return np.split(in_order, np.cumsum(np.bincount(owner, minlength=clients))[:-1])
