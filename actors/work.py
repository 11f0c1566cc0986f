"""What is an actor told about the experiment when it is made?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeInt

from actors.learning.data import DataSettings
from actors.learning.examples import DataShape
from actors.learning.models import Model
from policies.base import Settings
from policies.method import Method
from policies.types import Address, Version, stream_seed

if TYPE_CHECKING:
    from policies.training.flat_torch import FlatModel


class Work(Settings):
    """The part of an experiment that actors need; it crosses processes as plain JSON."""

    seed: NonNegativeInt
    data: DataSettings
    model: Model
    method: Method

    def build(self, shape: DataShape) -> FlatModel:
        """Return the model as the method trains it, drawn from the experiment's seed.

        Every process draws alike, what a module does not train included.
        """
        import torch  # noqa: PLC0415  validating needs no torch

        from policies.training.flat_torch import FlatModel  # noqa: PLC0415

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stream_seed(self.seed, "init"))
            module = self.model.build(shape)
            self.method.training.prepare(module)
            return FlatModel(module)


class Assignment(NamedTuple):
    """Asks a client for one update.

    Attributes:
        address: Names the update; asking again for the same address gives the same bytes.
        base: The version to train from.
        fault: A planned fault to act out, for drills; empty for none.
    """

    address: Address
    base: Version
    fault: str = ""


class GroupReceipt(NamedTuple):
    """What a group's training took and where each payload lies in the group's buffer.

    Attributes:
        places: From where to where each payload lies.
        durations_s: Wall seconds of each.
        cpu_s: CPU seconds of all.
    """

    places: tuple[tuple[int, int], ...]
    durations_s: tuple[float, ...]
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Shards:
    """Which examples each client has, for any number of clients in two arrays.

    Attributes:
        order: All clients' example indices, end to end, shape (n,).
        bounds: Where each client's begin, shape (clients + 1,).
    """

    order: npt.NDArray[np.int64]
    bounds: npt.NDArray[np.int64]

    @classmethod
    def of(cls, parts: list[npt.NDArray[np.int64]]) -> Shards:
        """Lay a list of index arrays end to end."""
        bounds = np.cumsum([0, *(part.size for part in parts)], dtype=np.int64)
        order = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        return cls(order, bounds)

    def __len__(self) -> int:
        """Count clients."""
        return self.bounds.size - 1

    def __getitem__(self, client: int) -> npt.NDArray[np.int64]:
        """Return a client's example indices."""
        return self.order[self.bounds[client] : self.bounds[client + 1]]

    def examples(self, client: int) -> int:
        """Count a client's examples."""
        return int(self.bounds[client + 1] - self.bounds[client])
