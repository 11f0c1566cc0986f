"""Who trains next?"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import SerializeAsAny, WrapValidator

from policies.base import Policy, open_union


class IdleClients(Protocol):
    """What a selection may look at: the fleet's size and who is idle, which is who can be asked."""

    @property
    def size(self) -> int:
        """Clients in the fleet, idle or not; their names are 0 .. size - 1."""

    @property
    def idle(self) -> int:
        """How many are idle."""

    def is_idle(self, client: int) -> bool:
        """Whether this one can be asked now."""

    def askable(self) -> npt.NDArray[np.bool_]:
        """Return which ones can be asked now, shape (size,)."""


class SelectionPolicy(Policy):
    """Chooses among idle clients."""

    @abstractmethod
    def choose(self, clients: IdleClients, count: int, rng: np.random.Generator) -> list[int]:
        """Return up to `count` different idle clients, in the order they are asked."""


class Uniform(SelectionPolicy):
    """Choose uniformly at random, without replacement.

    Cost:
        O(count) while at least a quarter of the fleet is idle, whatever its size.
    """

    kind: Literal["uniform"] = "uniform"

    def choose(self, clients: IdleClients, count: int, rng: np.random.Generator) -> list[int]:
        """Return up to `count` idle clients."""
        count = min(count, clients.idle)
        if 4 * clients.idle < clients.size or 2 * count > clients.idle:
            everyone = np.flatnonzero(clients.askable())
            return [int(c) for c in rng.choice(everyone, count, replace=False)] if count else []
        chosen: dict[int, None] = {}
        while len(chosen) < count:
            client = int(rng.integers(clients.size))
            if clients.is_idle(client):
                chosen[client] = None
        return list(chosen)


Selection = Annotated[Uniform, WrapValidator(open_union(SelectionPolicy)), SerializeAsAny()]
