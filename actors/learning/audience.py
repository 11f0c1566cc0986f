"""How good is a model for each client?

On test examples of the client's own where the source says whose they are. Otherwise the recall of
each class on the test split, weighted by how often the client has the class: what it would see on
new examples with its own mix of labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from actors.learning.evaluation_torch import Evaluation, Look
from actors.learning.holdings import Dealt

MOST_CLIENTS: Final = 10_000
"""Clients whose accuracy is worked out from their labels; of more, every so many."""


def looked_at(clients: int) -> range:
    """Return the clients whose accuracy is worked out from their labels."""
    return range(0, clients, -(-clients // MOST_CLIENTS))


def on_labels(recall: Sequence[float], labels: npt.NDArray[np.int64]) -> float:
    """Return the accuracy on new examples with a client's mix of labels.

    Args:
        recall: Of each class; one without test examples counts as 0.
        labels: How often the client has each class, shape (classes,).
    """
    known = np.nan_to_num(np.asarray(recall, dtype=np.float64))
    return float((labels * known).sum()) / max(int(labels.sum()), 1)


class Audience:
    """All clients of a data set, of which each may have a model of its own.

    Args:
        holdings: Their examples.
        y: Labels of the examples that are tested on, shape (n,).
        owners: Whose each of these is, shape (n,); None if the source names no clients.
    """

    def __init__(
        self, holdings: Dealt, y: torch.Tensor, owners: torch.Tensor | None = None
    ) -> None:
        self._holdings = holdings
        self._tested = len(y)
        self._support = tuple(torch.bincount(y, minlength=holdings.shape.classes).tolist())
        named = holdings.owners is not None and bool((holdings.owners >= 0).any())
        self._owners = owners if named else None
        self._labels: dict[int, npt.NDArray[np.int64]] = {}

    def __len__(self) -> int:
        """Count clients."""
        return len(self._holdings)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self._support)

    def evaluation(self, found: Iterable[tuple[Sequence[int], Look]]) -> Evaluation:
        """Return the mean over all clients of how good their models are, and each one's own.

        Args:
            found: Clients that have the same model, and a look at it; each client once.
        """
        clients, right, loss = len(self._holdings), 0, 0.0
        recall = np.zeros(len(self._support))
        by_client = np.full(clients, math.nan)
        for whose, look in found:
            right += len(whose) * int(look.hits.sum())
            loss += len(whose) * look.loss
            recall += len(whose) * np.asarray(look.recall)
            for client in whose:
                by_client[client] = self._for(client, look)
        return Evaluation(
            accuracy=right / (clients * self._tested),
            loss=loss / (clients * self._tested),
            recall=tuple((recall / clients).tolist()),
            support=self._support,
            by_client=tuple(by_client.tolist()),
        )

    def _for(self, client: int, look: Look) -> float:
        """Return how good a model is for a client; NaN if that is not known."""
        if self._owners is not None:
            owner = self._holdings.owner_of(client)
            mine = look.hits[self._owners == (-1 if owner is None else owner)]
            return float(mine.double().mean()) if len(mine) else math.nan
        if client not in looked_at(len(self._holdings)):
            return math.nan
        if client not in self._labels:
            labels = self._holdings.describe(client).labels
            self._labels[client] = np.array(labels, dtype=np.int64)
        return on_labels(look.recall, self._labels[client])
