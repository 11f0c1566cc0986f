"""What does the engine need of an experiment, and what does it keep of an assignment?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.learning.data import DataSet
from actors.work import Shards
from orchestrator.experiment import Experiment
from orchestrator.fleet import Fleet, ServerSettings
from orchestrator.runtime import Finished, Pending, Place
from orchestrator.stages import Stage
from policies.guards import Quarantine, Stop
from policies.method import Method
from policies.types import Address, Version, stream


def deal(experiment: Experiment) -> tuple[DataSet, Shards, Fleet]:
    """Load the data, deal it out to the clients, and draw their devices."""
    data = experiment.data.load()
    parts = experiment.data.partition.split(
        data.y_train, experiment.fleet.clients, stream(experiment.seed, "partition")
    )
    return data, Shards.of(parts), Fleet.draw(experiment.fleet, experiment.seed)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the engine needs of an experiment.

    Attributes:
        seed: Names all random streams.
        method: The policies.
        stop: When the run has done enough.
        quarantine: When a client is no longer asked.
        server: The modelled server.
        every_versions: Evaluate every so many versions; version 0 and the last one always.
        examples: Training examples of each client, shape (clients,).
        forward_flops: Of one example.
        test_examples: How many an evaluation takes.
        delays: Whether modelled times pass (always, on the virtual clock).
        faults: Planned faults by address.
    """

    seed: int
    method: Method
    stop: Stop
    quarantine: Quarantine
    server: ServerSettings
    every_versions: int
    examples: np.ndarray[Any, np.dtype[np.int64]]
    forward_flops: float
    test_examples: int
    delays: bool = True
    faults: Mapping[Address, str] = field(default_factory=dict)

    @classmethod
    def of(cls, experiment: Experiment, data: DataSet, shards: Shards) -> Plan:
        """Take from an experiment and its data what the engine needs."""
        return cls(
            seed=experiment.seed,
            method=experiment.method,
            stop=experiment.stop,
            quarantine=experiment.guards.quarantine,
            server=experiment.server,
            every_versions=experiment.evaluate.every_versions,
            examples=np.diff(shards.bounds),
            forward_flops=float(experiment.model.forward_flops(data.shape)),
            test_examples=data.shape.test,
            delays=experiment.clock == "virtual" or experiment.wall.delays,
            faults={Address(f.client, f.number): f.fault for f in experiment.faults},
        )


@dataclass(slots=True)
class Flight:
    """An assignment under way, until its update is committed or has come to nothing.

    Attributes:
        stages: Its process.
        seconds: What each stage takes by itself; of an upload, the least.
        at: Which stage it is in.
        trained_s: When the last compute stage ended.
        device_s: Seconds of the device and its links so far.
        energy_j: Joules of them.
        accepted: Whether it waits for its version.
        finished: What came of the job, once that is known.
        job: The job itself; not part of a checkpoint.
    """

    address: Address
    base: Version
    state: Place | None
    stages: tuple[Stage, ...]
    seconds: tuple[float, ...]
    at: int = 0
    trained_s: float = 0.0
    device_s: float = 0.0
    energy_j: float = 0.0
    accepted: bool = False
    finished: Finished | None = None
    job: Pending[Finished] | None = None


@dataclass(slots=True)
class Round:
    """A synchronous round: open until its version is due.

    Attributes:
        members: Clients under way on the newest version.
    """

    number: int = -1
    open: bool = False
    overdue: bool = False
    members: int = 0
