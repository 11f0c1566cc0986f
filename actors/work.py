"""What is an actor told about the experiment when it is made?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import NonNegativeInt

from actors.learning.data import Data
from actors.learning.examples import DataShape
from actors.learning.models import Model
from actors.learning.shards import Shards
from policies.base import Settings
from policies.method import Method
from policies.types import Address, Version, stream_seed

if TYPE_CHECKING:
    from policies.training.flat_torch import FlatModel

__all__ = ["Assignment", "GroupReceipt", "Shards", "Work"]


class Work(Settings):
    """The part of an experiment that actors need; it crosses processes as plain JSON."""

    seed: NonNegativeInt
    data: Data
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
