"""What is an actor told about the experiment when it is made?"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import NonNegativeInt, PositiveInt

from actors.learning.data import Data
from actors.learning.examples import DataShape
from actors.learning.models import Model
from actors.learning.shards import Shards
from policies.base import Settings
from policies.method import Method
from policies.types import Address, Version, stream_seed

if TYPE_CHECKING:
    from policies.training.flat_torch import FlatModel

__all__ = ["Assignment", "GroupReceipt", "Order", "Shards", "Work", "packed", "unpacked"]


class Work(Settings):
    """The part of an experiment that actors need; it crosses processes as plain JSON.

    Attributes:
        shards: Servers that each hold a part of the model.
        lengths: Whether somebody wants to know how long updates are.
    """

    seed: NonNegativeInt
    data: Data
    model: Model
    method: Method
    shards: PositiveInt = 1
    lengths: bool = False

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


Figures = tuple[tuple[str, float], ...]
"""What was measured of an update, by name."""


class Assignment(NamedTuple):
    """Asks a client for one update.

    Attributes:
        address: Names the update; asking again for the same address gives the same bytes.
        base: The version to train from.
        fault: A planned fault to act out, for drills; empty for none.
        strength: How strongly the client is to correct it, by the version that it is sent for
            that; 0 not at all.
    """

    address: Address
    base: Version
    fault: str = ""
    strength: float = 0.0


class Order(NamedTuple):
    """Asks an actor for a group of updates.

    Attributes:
        group: What is asked for.
        base_at: For each, which of the buffers that come with it make up its base, in order.
        state_at: For each, which of them holds its state, and from where to where; None before a
            client's first update.
        teacher_at: For each, which of them make up the version that corrects it; none if nothing
            does.
    """

    group: Sequence[Assignment]
    base_at: Sequence[tuple[int, ...]]
    state_at: Sequence[tuple[int, int, int] | None]
    teacher_at: Sequence[tuple[int, ...]]


class GroupReceipt(NamedTuple):
    """What a group's training took and where each payload lies in the group's buffer.

    Attributes:
        places: From where to where each payload lies.
        durations_s: Wall seconds of each.
        cpu_s: CPU seconds of all.
        figures: What each client measured of its update, by name.
    """

    places: tuple[tuple[int, int], ...]
    durations_s: tuple[float, ...]
    cpu_s: float
    figures: tuple[Figures, ...] = ()


def packed(value: Any) -> bytes:
    """Pickle what a call takes or gives besides buffers.

    Ray would do it too, in a tenth of a millisecond for each argument, which is as long as a small
    network trains.
    """
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def unpacked(value: bytes) -> Any:
    """Read what another actor of the same run has packed."""
    return pickle.loads(value)  # noqa: S301  # Ray's own domain of trust; payloads never come here
