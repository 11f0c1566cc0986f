"""How do the clients that a source itself names become the clients of a fleet?"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field, PositiveInt

from actors.learning.dealing import Most, PartitionPolicy
from actors.learning.examples import DataShape, Rows
from actors.learning.shards import Indices, MovingShards, Shards
from policies.base import Settings
from policies.types import ExperimentError, stream

_NO_CLIENTS: Final = (
    "data.partition natural follows the clients that a source names, and this one names none. "
    "Name the column of a table in data.client, return clients_train from a function of yours, "
    "take a source such as flights, movielens, instructor-ratings or sotu, or take "
    "data.partition.kind dirichlet."
)
_NO_ORDER: Final = (
    "data.partition.drift needs to know when examples arose, and this source does not say. Take "
    "movielens, flights or sotu, name data.order of a table, or remove drift."
)


class Drift(Settings):
    """A window that moves through a client's examples, in the order in which they arose.

    Attributes:
        window: Share of a client's examples that one update sees.
        assignments: A client's update with this number sees its newest examples, and so do all
            later ones; update 0 sees the oldest ones.
    """

    window: Annotated[float, Field(gt=0, le=1)] = 0.3
    assignments: PositiveInt = 20


class Natural(PartitionPolicy):
    """Follow the clients that the source itself names: carriers, users, presidents.

    Attributes:
        choose: Who takes part if there are fewer clients than the source has: those with the
            most examples, or some at random.
        drift: How a client's examples change from update to update; None for not at all.
    """

    kind: Literal["natural"] = "natural"
    choose: Literal["largest", "random"] = "largest"
    drift: Drift | None = None

    def deal(self, rows: Rows, clients: int, seed: int) -> Shards:
        """Return the examples of each client that takes part, in the source's order of clients.

        Clients without a training example never take part.
        """
        if rows.owners is None:
            raise ExperimentError(_NO_CLIENTS)
        counts = np.bincount(rows.owners)
        chosen = self._chosen(counts, clients, seed)
        in_order = np.argsort(rows.owners, kind="stable")
        if self.drift is not None:
            if rows.years is None:
                raise ExperimentError(_NO_ORDER)
            in_order = np.lexsort((rows.years, rows.owners))  # stable, owners first
        ends = np.cumsum(counts)
        listed = Shards.of([in_order[ends[c] - counts[c] : ends[c]] for c in chosen])
        if self.drift is None:
            return listed
        return MovingShards(listed, self.drift.window, self.drift.assignments)

    def split(self, labels: Indices, clients: int, rng: np.random.Generator) -> list[Indices]:
        """Raise: labels alone name no clients."""
        del labels, clients, rng
        raise ExperimentError(_NO_CLIENTS)

    def most(self, shape: DataShape) -> Most:
        """Return how many clients the source names."""
        if shape.clients is None:
            raise ExperimentError(_NO_CLIENTS)
        if self.drift is not None and not shape.ordered:
            raise ExperimentError(_NO_ORDER)
        return Most(shape.clients, "clients")

    def _chosen(self, counts: Indices, clients: int, seed: int) -> Indices:
        """Return the numbers, in the source, of those that take part."""
        present = np.flatnonzero(counts)
        if not 1 <= clients <= present.size:
            raise ExperimentError(
                f"fleet.clients must lie in [1, {present.size}], the clients with training "
                f"examples that the source names, got {clients}. Change it, or take another "
                "data.partition."
            )
        if self.choose == "random":
            rng = stream(seed, "partition")
            return np.sort(rng.choice(present, clients, replace=False))
        by_size = present[np.argsort(-counts[present], kind="stable")]
        return np.sort(by_size[:clients])
