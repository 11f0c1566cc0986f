"""What does the driver know of the clients' examples?

Never the examples of silos: counts, names, and how well a model does on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.learning.audience import looked_at, on_labels
from actors.learning.evaluation_torch import Evaluation
from actors.learning.examples import DataShape
from actors.learning.holdings import Dealt, Description, Holdings, Sizes
from policies.types import ExperimentError


class Told:
    """What clients, or their examples, tell.

    Args:
        holdings: The examples, as far as the driver has them.
        descriptions: What silos said when they joined.
    """

    def __init__(self, holdings: Holdings, descriptions: Sequence[Description] = ()) -> None:
        self._holdings = holdings
        self._descriptions = descriptions

    def __len__(self) -> int:
        """Count clients."""
        return len(self._holdings)

    @cached_property
    def shape(self) -> DataShape:
        """What the data looks like."""
        return self._holdings.shape

    @property
    def names(self) -> list[str]:
        """What the source calls each client."""
        return [self._holdings.name_of(client) for client in range(len(self))]

    @cached_property
    def sizes(self) -> Sizes:
        """How many examples each client has.

        Raises:
            ExperimentError: If a client has none to train on.
        """
        found = self._holdings.sizes()
        if found is None:
            train, test = ([getattr(d, name) for d in self._descriptions] for name in Sizes._fields)
            found = Sizes(np.array(train, dtype=np.int64), np.array(test, dtype=np.int64))
        if not found.train.all():
            client = int(np.flatnonzero(found.train == 0)[0])
            raise ExperimentError(
                f"client {client} ({self._holdings.name_of(client)}) has no example to train on. "
                "Leave it out."
            )
        return found

    def labels(self, client: int) -> npt.NDArray[np.int64]:
        """Return how many training examples of each class a client has, shape (classes,)."""
        described = self._descriptions or ()
        found = described[client] if described else self._holdings.describe(client)
        return np.array(found.labels, dtype=np.int64)

    def accuracies(self, evaluation: Evaluation) -> npt.NDArray[np.float64]:
        """Return how well a model does for each client, shape (clients,); NaN if not known.

        `actors/learning/audience.py` says on which examples.
        """
        if evaluation.by_client:
            return np.array(evaluation.by_client, dtype=np.float64)
        found = np.full(len(self), np.nan)
        holdings = self._holdings
        if evaluation.by_owner and isinstance(holdings, Dealt):
            owners = holdings.owners
            if owners is not None and (owners >= 0).any():
                by_owner = np.asarray(evaluation.by_owner)
                known = np.flatnonzero((owners >= 0) & (owners < by_owner.size))
                found[known] = by_owner[owners[known]]
                return found
        for client in looked_at(len(self)):
            found[client] = on_labels(evaluation.recall, self.labels(client))
        return found


def tested(events: Any) -> dict[int, float]:
    """Return each client's accuracy in its newest test of a federated evaluation.

    Args:
        events: The event log.
    """
    rows = events[events["kind"] == "tested"].dropna(subset=["accuracy"])
    newest = rows.groupby(rows["client"].astype("int64"))["accuracy"].last()
    return {int(client): float(value) for client, value in newest.items()}
