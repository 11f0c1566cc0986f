"""What if slow clients hold classes that nobody else has?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal, NamedTuple

import numpy as np
from pydantic import Field, PositiveInt

from actors.learning.dealing import PartitionPolicy
from actors.learning.examples import DataShape
from actors.learning.partition import Indices


class _Group(NamedTuple):
    clients: int
    classes: tuple[int, ...]


KIND: Final = "rare_classes:RareClasses"


class RareClasses(PartitionPolicy):
    """Give the first clients the rare classes and nothing else, and the others all but these.

    Each client draws its own mixture of its group's classes, as the partition `sampled` does, and
    then its examples, none twice; clients share examples. With `fleet.order: listed` the first
    clients are the devices of the mix's first entry.

    Attributes:
        holders: How many clients hold the rare classes.
        rare: Those classes.
        examples: Of each client.
        alpha: Concentration of the Dirichlet distribution of the mixtures.
    """

    kind: Literal["rare_classes:RareClasses"] = "rare_classes:RareClasses"
    holders: PositiveInt = 20
    rare: tuple[int, ...] = (6, 8)
    examples: PositiveInt = 200
    alpha: Annotated[float, Field(gt=0)] = 0.1

    def most(self, shape: DataShape) -> None:
        """Return that there can be any number of clients."""
        del shape

    def split(self, labels: Indices, clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return each client's examples; each class must have as many as a client draws."""
        known = np.unique(labels).tolist()
        common = tuple(c for c in known if c not in self.rare)
        groups = (_Group(self.holders, self.rare), _Group(clients - self.holders, common))
        members = {c: np.flatnonzero(labels == c) for c in known}
        return [
            self._draw([members[c] for c in group.classes], rng)
            for group in groups
            for _ in range(group.clients)
        ]

    def _draw(self, members: Sequence[Indices], rng: np.random.Generator) -> Indices:
        """Return a client's examples, sorted."""
        mixture = rng.dirichlet(np.full(len(members), self.alpha))
        counts = rng.multinomial(self.examples, mixture)
        return np.sort(
            np.concatenate(
                [rng.choice(m, n, replace=False) for m, n in zip(members, counts, strict=True)]
            )
        )
