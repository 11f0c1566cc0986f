"""Which client holds which training examples?

Most partitions look at the labels alone and give every example to exactly one client. `natural`
follows the clients that the source itself names, and `sampled` lets any number of clients share
the examples. No client goes empty.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveInt, SerializeAsAny, WrapValidator

from actors.learning.dealing import Most, PartitionPolicy, enough
from actors.learning.examples import DataShape, Rows
from actors.learning.natural import Drift, Natural
from actors.learning.shards import Indices, SampledShards
from policies.base import open_union

__all__ = [
    "Dirichlet",
    "Drift",
    "Iid",
    "Indices",
    "Most",
    "Natural",
    "Partition",
    "PartitionPolicy",
    "Pathological",
    "Quantity",
    "Sampled",
]


class Iid(PartitionPolicy):
    """Shuffle and deal out evenly; the sizes differ by at most one. The baseline."""

    kind: Literal["iid"] = "iid"

    def split(self, labels: Indices, clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return even random shares."""
        enough(labels, clients, each=1, way_out="Lower fleet.clients")
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

    def most(self, shape: DataShape) -> Most:
        """Return how many clients get `min_examples` examples."""
        return Most.shares(shape, "min_examples", self.min_examples)

    def split(self, labels: Indices, clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return skewed shares of at least `min_examples`.

        Cost:
            O(n log n), and O(clients) for every example moved, of which there are at most
            ``clients * min_examples``.
        """
        way_out = "Lower fleet.clients or data.partition.min_examples"
        enough(labels, clients, each=self.min_examples, way_out=way_out)
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

    def most(self, shape: DataShape) -> Most:
        """Return how many clients get `classes_per_client` examples."""
        return Most.shares(shape, "classes_per_client", self.classes_per_client)

    def split(self, labels: Indices, clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return `classes_per_client` shards a client."""
        way_out = "Lower fleet.clients or data.partition.classes_per_client"
        enough(labels, clients, each=self.classes_per_client, way_out=way_out)
        shuffled = rng.permutation(len(labels))
        in_order = shuffled[np.argsort(labels[shuffled], kind="stable")]
        shards = np.array_split(in_order, clients * self.classes_per_client)
        dealt = rng.permutation(len(shards)).reshape(clients, self.classes_per_client)
        return [np.sort(np.concatenate([shards[s] for s in hand])) for hand in dealt]


class Quantity(PartitionPolicy):
    """Deal out at random in shares of very different size; the mixtures of labels are alike.

    Attributes:
        alpha: Concentration of the Dirichlet distribution of the shares. 0.3 gives a few clients
            nearly everything, 100 is nearly even.
        min_examples: Every client gets at least that many.

    Source:
        Li et al. 2022, arXiv:2102.02079, "quantity skew": shares q ~ Dir(alpha), their beta. The
        minimum is our choice: everybody has it first, and the shares divide what is left.
    """

    kind: Literal["quantity"] = "quantity"
    alpha: Annotated[float, Field(gt=0, le=1e6)] = 0.5
    min_examples: PositiveInt = 10

    def most(self, shape: DataShape) -> Most:
        """Return how many clients get `min_examples` examples."""
        return Most.shares(shape, "min_examples", self.min_examples)

    def split(self, labels: Indices, clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return random shares of uneven size."""
        way_out = "Lower fleet.clients or data.partition.min_examples"
        enough(labels, clients, each=self.min_examples, way_out=way_out)
        spare = len(labels) - clients * self.min_examples
        shares = rng.dirichlet(np.full(clients, self.alpha))
        ends = (np.cumsum(shares)[:-1] * spare).astype(np.int64)
        cuts = ends + self.min_examples * np.arange(1, clients)
        return [np.sort(part) for part in np.split(rng.permutation(len(labels)), cuts)]


class Sampled(PartitionPolicy):
    """Draw every client's examples when they are asked for: clients without number, small data.

    A client draws its own mixture of classes and then its examples. Clients share examples, and
    most of a large fleet is never looked at, so that 100,000 clients take no more memory than 10.

    Attributes:
        examples: Of each client.
        alpha: Concentration of the mixtures of classes; 0.1 gives most clients one or two classes,
            100 is nearly iid.

    Source:
        Hsu, Qi and Brown 2019, arXiv:1909.06335: a mixture q ~ Dir(alpha) a client. Theirs take
        examples away from each other; that clients share them is our choice.
    """

    kind: Literal["sampled"] = "sampled"
    examples: PositiveInt = 50
    alpha: Annotated[float, Field(gt=0, le=1e6)] = 0.3

    def deal(self, rows: Rows, clients: int, seed: int) -> SampledShards:
        """Return shards that take no memory a client."""
        enough(rows.labels, min(clients, 1), each=1, way_out="Take another source")
        members = (np.flatnonzero(rows.labels == label) for label in np.unique(rows.labels))
        return SampledShards(tuple(members), seed, clients, self.examples, self.alpha)

    def split(self, labels: Indices, clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return what `deal` gives each client, written down; clients share examples."""
        shards = self.deal(Rows(labels), clients, int(rng.integers(2**63)))
        return [shards[client] for client in range(clients)]

    def most(self, shape: DataShape) -> None:
        """Return that there can be any number of clients."""
        del shape


Partition = Annotated[
    Annotated[
        Iid | Dirichlet | Pathological | Quantity | Natural | Sampled, Field(discriminator="kind")
    ],
    WrapValidator(open_union(PartitionPolicy)),
    SerializeAsAny(),  # a user's own member is written back with its own fields
]


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
