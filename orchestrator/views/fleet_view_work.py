"""How long does one assignment take each kind of client, and what does it cost?

As the engine counts it on the virtual clock, for a client that holds no model yet and stays until
it is done. What an update really takes on the uplink is known only once it is trained; it lies
between the least that the method can send and a dense payload.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from actors.learning.examples import DataShape
from actors.publisher import Publisher, whole_message
from orchestrator.experiment import Experiment
from orchestrator.fleet import Always, Fleet
from orchestrator.portions import Portions
from orchestrator.stages import plain_training
from orchestrator.views.fleet_view_groups import Group, Range, Reals, Typical, evenly, moments
from orchestrator.views.fleet_view_late import LATE_FIGURES, Late, Lessons
from orchestrator.views.fleet_view_split import FIGURES, Courses, Exchanges
from orchestrator.views.fleet_view_walk import Sizes, Start, Walk, typical
from policies.sparsity import Masks
from policies.training import TrainingPolicy
from policies.types import Address, Positions, Version
from policies.update import Dense
from policies.wire import Header, encode

_DRAWS: Final = 400  # assignments of a kind
_LEAST_DRAWS: Final = 60  # where there are many kinds
_ALL_DRAWS: Final = 2000


@dataclass(frozen=True, slots=True)
class Work:
    """One assignment of a kind of client. Silos keep secret what computing and the whole take.

    Attributes:
        download_s: Until the model is there, and what a device needs of the encoder.
        compute_s: Of the device, until it is trained.
        upload_s: Until the least payload is at the server.
        dense_upload_s: Until a dense one is.
        total_s: All three, and exchanges with an encoder, with the least payload.
        dense_total_s: The same with a dense one.
        energy_j: Of the device and its link, with the least payload.
        dense_energy_j: The same with a dense one.
        batches: That it takes; NaN where clients' examples are not known.
        batch_size: Examples of each: least, median, most.
        training_bytes: Memory that training takes on the device at the most; of a split model,
            with the blocks that it computes.
        exchanges: With the encoder; None where clients compute the whole model.
        late: What it takes if the update is late and its client corrects it; None where clients
            correct nothing.
    """

    download_s: Typical
    compute_s: Typical
    upload_s: Typical
    dense_upload_s: Typical
    total_s: Typical
    dense_total_s: Typical
    energy_j: Typical
    dense_energy_j: Typical
    batches: Typical
    batch_size: Range
    training_bytes: int
    exchanges: Exchanges | None = None
    late: Late | None = None

    @property
    def again_s(self) -> Typical:
        """What an assignment takes that is not a client's first, with the least payload."""
        return self.total_s if self.exchanges is None else self.exchanges.later_s

    @property
    def dense_again_s(self) -> Typical:
        """The same with a dense one."""
        return self.dense_total_s if self.exchanges is None else self.exchanges.dense_later_s

    @property
    def an_hour(self) -> float:
        """Updates of the median length that a client could make in an hour, with no break."""
        return 3600 / self.again_s.median if self.again_s.median else np.inf

    @property
    def dense_an_hour(self) -> float:
        """The same with dense payloads."""
        return 3600 / self.dense_again_s.median if self.dense_again_s.median else np.inf


class Load(NamedTuple):
    """What clients are asked for.

    Attributes:
        carried: What crosses a link.
        training: What is asked of all.
        portions: How much each does.
        examples: Of each client, shape (clients,); None if they are not known.
        flops: Work of one update of each client on a dense model, shape (clients,); None if it
            is not known, or the model is split.
        courses: Assignments of a split model; None where clients compute all of it.
        lessons: Corrections of late updates; None where clients correct nothing.
    """

    carried: Sizes
    training: TrainingPolicy
    portions: Portions
    examples: Positions | None
    flops: Reals | None
    courses: Courses | None = None
    lessons: Lessons | None = None


def sizes(experiment: Experiment, shape: DataShape) -> Sizes:
    """Return what crosses a link, in bytes.

    Cost:
        Builds the model and writes it twice.
    """
    method = experiment.method
    model = experiment.work().build(shape)
    division = experiment.work().division(model.schema)
    schema = division.shared
    values, buffers = division.shared_of(model.params.numpy(), model.buffers.numpy())
    mask = Masks.start(schema.parameters).newest if method.pruning.masks() else None
    asked = method.uplink.asks(0.0, method.aggregation.pacing().size, {})
    first = Version(0, 0)
    message = whole_message(method.downlink, schema, first, values, buffers, mask, asked)
    header = Header("delta", Address(0, 0), first, 0, 0.0)
    return Sizes(
        down=Publisher(method.downlink, schema, message).quote(None, first).bytes,
        least=method.least_bytes(schema),
        dense=int(encode(header, Dense(values), buffers, schema).size),
    )


def work(fleet: Fleet, groups: Sequence[Group], load: Load) -> list[Work]:
    """Return what an assignment takes, a row a kind."""
    calm = _undisturbed(fleet)
    draws = int(np.clip(_ALL_DRAWS // len(groups), _LEAST_DRAWS, _DRAWS))
    return [_of_group(calm, group.members, load, draws) for group in groups]


def _undisturbed(fleet: Fleet) -> Fleet:
    """Return the same devices and links if nobody ever went away."""
    stays = {"availability": None, "joins_s": 0.0, "leaves_s": None}
    mix = tuple(entry.model_copy(update=stays) for entry in fleet.settings.mix)
    settings = fleet.settings.model_copy(update={"mix": mix, "availability": Always()})
    return Fleet(settings, fleet.seed, fleet.entries, fleet.regions, fleet.speeds)


def _of_group(fleet: Fleet, members: Positions, load: Load, draws: int) -> Work:
    clients = evenly(members, draws)
    numbers = -(-draws // len(clients))
    starts = [
        Start(clients[at % len(clients)], at // len(clients), start_s)
        for at, start_s in enumerate(moments(numbers * len(clients)))
    ]
    if load.courses is None:
        return _of_whole(fleet, starts, load)
    courses = [load.courses.of(fleet, start) for start in starts]
    found = typical(
        [
            load.courses.taken(fleet, start, *pair)
            for start, pair in zip(starts, courses, strict=True)
        ]
    )
    own = {name: found.pop(name) for name in FIGURES}
    cuts = [first.cut for first, _ in courses]
    told: dict[str, Any] = {**found, **_portions(fleet, starts, cuts, load)}
    return Work(**told, exchanges=load.courses.exchanges(cuts, own), late=None)


def _portions(
    fleet: Fleet, starts: Sequence[Start], cuts: Sequence[int], load: Load
) -> dict[str, Any]:
    """Return how much clients do with so many blocks on the device, and in what memory."""
    known, portions, training = load.examples, load.portions, load.training
    jobs = dict.fromkeys(
        (start.client, training.batch_size if known is None else int(known[start.client]), cut)
        for start, cut in zip(starts, cuts, strict=True)
    )
    parts = [training.portion(portions.of(fleet, *job)) for job in jobs]
    counts = [part.batches(examples) for part, (_, examples, _) in zip(parts, jobs, strict=True)]
    return {
        "batches": Typical(math.nan, math.nan) if known is None else Typical.of(counts),
        "batch_size": Range.whole(np.array([part.batch_size for part in parts])),
        "training_bytes": max(portions.training_bytes(fleet, *job) for job in jobs),
    }


def _of_whole(fleet: Fleet, starts: Sequence[Start], load: Load) -> Work:
    """Return what assignments take where clients compute the whole model."""
    found = typical([_whole(fleet, start, load) for start in starts])
    late = {name: found.pop(name) for name in LATE_FIGURES if name in found}
    told: dict[str, Any] = {**found, **_portions(fleet, starts, [0] * len(starts), load)}
    return Work(**told, exchanges=None, late=Late(**late) if late else None)


def _whole(fleet: Fleet, start: Start, load: Load) -> dict[str, float]:
    """Return what an assignment takes a client that computes the whole model."""
    known = load.flops is not None
    flops = 0.0 if load.flops is None else float(load.flops[start.client])
    walk = Walk(fleet, start)
    walk.through(plain_training(load.carried.down, flops, load.carried.least), known=known)
    found = walk.figures(load.carried)
    if load.lessons is not None:
        found |= load.lessons.taken(fleet, start, walk, load.carried)
    return found
