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
from policies.splitting import Division, Split, Topology, Whole
from policies.training import Portion, TrainingPolicy
from policies.types import Address, Version, stream_seed

if TYPE_CHECKING:
    from torch import nn

    from policies.training.flat_torch import FlatModel
    from policies.update import ModelSchema

__all__ = ["Assignment", "At", "GroupReceipt", "Order", "Shards", "Work", "packed", "unpacked"]


class Work(Settings):
    """The part of an experiment that actors need; it crosses processes as plain JSON.

    Attributes:
        shards: Servers that each hold a part of the model.
        tests: Of the test split, how many examples versions are tested on; all if None.
        lengths: Whether somebody wants to know how long updates are.
        timed: Whether somebody wants to know where each process's time goes.
    """

    seed: NonNegativeInt
    data: Data
    model: Model
    method: Method
    topology: Topology = Whole()
    shards: PositiveInt = 1
    tests: PositiveInt | None = None
    lengths: bool = False
    timed: bool = False

    def training(self, assignment: Assignment) -> TrainingPolicy:
        """Return how a client trains in an assignment."""
        return self.method.training.portion(assignment.portion)

    @property
    def split(self) -> Split | None:
        """How the model is split; None if clients compute all of it."""
        return self.topology if isinstance(self.topology, Split) else None

    def division(self, trained: ModelSchema) -> Division:
        """Return what of the tensors that clients train is shared, and what is their own."""
        return Division(trained, personal=self.split is not None and self.split.personal)

    def build(self, shape: DataShape) -> FlatModel:
        """Return what clients train, drawn from the experiment's seed: the model, or its two ends.

        Every process draws alike, what a module does not train included.
        """
        from policies.splitting.halves_torch import EndsModule  # noqa: PLC0415  # torch, late
        from policies.training.flat_torch import FlatModel  # noqa: PLC0415

        whole = self._whole(shape)
        return FlatModel(EndsModule(whole) if self.split else whole)

    def build_halves(self, shape: DataShape) -> tuple[FlatModel, FlatModel]:
        """Return what clients train and what the encoder does; together they are one module."""
        from policies.splitting.halves_torch import BodyModule, EndsModule  # noqa: PLC0415
        from policies.training.flat_torch import FlatModel  # noqa: PLC0415

        whole = self._whole(shape)
        return FlatModel(EndsModule(whole)), FlatModel(BodyModule(whole))

    def _whole(self, shape: DataShape) -> nn.Module:
        import torch  # noqa: PLC0415  # validating needs no torch

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stream_seed(self.seed, "init"))
            module = self.model.build(shape)
            self.method.training.prepare(module)
            return module


Figures = tuple[tuple[str, float], ...]
"""What was measured of an update, by name."""
At = tuple[int, int, int]
"""Which buffer, from where, to where."""


class Assignment(NamedTuple):
    """Asks a client for one update.

    Attributes:
        address: Names the update; asking again for the same address gives the same bytes.
        base: The version to train from.
        fault: A planned fault to act out, for drills; empty for none.
        strength: How strongly the client is to correct it, by the version that it is sent for
            that; 0 not at all.
        part: Which part of it is asked for, where it is cut into parts.
        cut: Of the encoder's blocks, how many the client computes.
        known: Whether the features of its examples are known, which are then its reply.
        asks: Whether the part ends with a question to the encoder, and not with an update.
        portion: How much of what training asks the client does.
    """

    address: Address
    base: Version
    fault: str = ""
    strength: float = 0.0
    part: int = 0
    cut: int = 0
    known: bool = False
    asks: bool = False
    portion: Portion = Portion()


class Order(NamedTuple):
    """Asks an actor for a group of updates, or of parts of them that end with a question.

    Attributes:
        group: What is asked for.
        base_at: For each, which of the buffers that come with it make up its base, in order.
        state_at: For each, which of them holds its state, and from where to where; None before a
            client's first update.
        teacher_at: For each, which of them make up the version that corrects it; none if nothing
            does.
        carry_at: For each, where what its last part left lies; None if there was none.
        reply_at: For each, where the encoder's reply to that lies; None if there is none.
    """

    group: Sequence[Assignment]
    base_at: Sequence[tuple[int, ...]]
    state_at: Sequence[At | None]
    teacher_at: Sequence[tuple[int, ...]]
    carry_at: Sequence[At | None] = ()
    reply_at: Sequence[At | None] = ()


class GroupReceipt(NamedTuple):
    """What a group's training took and where each payload lies in the group's buffer.

    Attributes:
        places: From where to where each payload or question lies.
        states: From where to where what each leaves for later does.
        durations_s: Wall seconds of each.
        cpu_s: CPU seconds of all.
        figures: What each client measured of its update, by name.
    """

    places: tuple[tuple[int, int], ...]
    states: tuple[tuple[int, int], ...]
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
