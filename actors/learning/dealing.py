"""What does every partition have in common?"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple, Self

import numpy as np

from actors.learning.examples import DataShape, Rows
from actors.learning.shards import Indices, Shards
from policies.base import Policy
from policies.types import ExperimentError, stream


class Most(NamedTuple):
    """How many clients there can be, and of what there are no more.

    Attributes:
        clients: At most.
        what: Such as "training examples", "shares of min_examples = 10 training examples".
    """

    clients: int
    what: str

    @classmethod
    def shares(cls, shape: DataShape, setting: str, each: int) -> Self:
        """Return how many clients get `each` examples, which a setting of the partition asks."""
        return cls(shape.train // each, f"shares of {setting} = {each} training examples")


class PartitionPolicy(Policy):
    """Says what each client trains on.

    Most members divide the examples by their labels alone and define `split`. One that needs to
    know more, or does not list what each client has, overrides `deal`, too.
    """

    def deal(self, rows: Rows, clients: int, seed: int) -> Shards:
        """Return what each client holds: by default, what `split` makes of the labels.

        Args:
            rows: What is known of the training split.
            clients: How many clients there are, >= 1.
            seed: Of the experiment; equal seeds give equal shards.

        Raises:
            ExperimentError: If there is too little for so many clients.
        """
        return Shards.of(self.split(rows.labels, clients, stream(seed, "partition")))

    def most(self, shape: DataShape) -> Most | None:
        """Return how many clients data of that shape can have; None for any number.

        Raises:
            ExperimentError: If the source does not say what the partition needs.
        """
        return Most(shape.train, "training examples")

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
            ExperimentError: If there are too few examples for so many clients, or labels alone do
                not say who has what.
        """


def enough(labels: Indices, clients: int, *, each: int, way_out: str) -> None:
    """Refuse to deal out fewer than `each` examples a client."""
    if clients < 1:
        raise ExperimentError(f"fleet.clients must be at least 1, got {clients}.")
    if len(labels) < clients * each:
        raise ExperimentError(
            f"data.partition needs {each} or more examples for each of {clients} clients, "
            f"{clients * each} in all, but the training split has {len(labels)}. "
            f"{way_out}, or take more data (data.train_examples, data.source)."
        )
