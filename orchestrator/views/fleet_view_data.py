"""What data do clients have?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from actors.learning.holdings import Dealt, Holdings
from orchestrator.views.fleet_view_groups import Range, evenly
from policies.types import ExperimentError, Positions

MOST: Final = 1000
"""Clients whose classes are counted; of more, every so many."""


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Who has how much of what.

    Attributes:
        sizes: Training examples of one update, shape (clients,).
        sampled: Clients whose classes were counted, shape (n,); all of them if they are few.
        labels: Their training examples of each class, shape (n, classes).
        class_names: What each class is called, shape (classes,); () if nobody says.
        names: What the source calls them, or their numbers.
        named: Whether the source has names for them.
        untested: Clients without test examples of their own; None where nobody asks.
        moving: Whether an update sees but a window of a client's examples.
    """

    sizes: Positions
    sampled: Positions
    labels: Positions
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    named: bool
    untested: int | None
    moving: bool

    @property
    def examples(self) -> Range:
        """Examples of an update, over all clients."""
        return Range.whole(self.sizes)

    @property
    def classes(self) -> Range:
        """Different classes that a client has, over those that were counted."""
        return Range.whole(np.count_nonzero(self.labels, axis=1))

    @property
    def whole(self) -> bool:
        """Whether the classes of all clients were counted."""
        return self.sampled.size == self.sizes.size


def data(holdings: Holdings, *, federated: bool) -> Data | None:
    """Look at what clients have; None for silos, which tell when they join.

    Args:
        holdings: The examples.
        federated: Whether clients test on examples of their own.

    Raises:
        ExperimentError: If a client has none to train on.
    """
    if not isinstance(holdings, Dealt):
        return None
    sizes = holdings.shards.sizes()
    if not sizes.all():
        client = int(np.flatnonzero(sizes == 0)[0])
        raise ExperimentError(
            f"client {client} ({holdings.name_of(client)}) has no example to train on. "
            "Leave it out."
        )
    untested = None
    if federated:
        known = holdings.sizes()
        untested = 0 if known is None else int(np.count_nonzero(known.test == 0))
    sampled = evenly(np.arange(len(holdings)), MOST)
    labels = np.array([holdings.describe(client).labels for client in sampled], dtype=np.int64)
    names = tuple(holdings.name_of(client) for client in sampled)
    return Data(
        sizes=sizes,
        sampled=np.array(sampled, dtype=np.int64),
        labels=labels,
        class_names=holdings.shape.class_names,
        names=names,
        named=any(name != str(client) for name, client in zip(names, sampled, strict=True)),
        untested=untested,
        moving=not holdings.keeps(),
    )
