"""What does the engine need of an experiment, and what does it keep of an assignment?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.learning.examples import DataShape
from actors.learning.holdings import Sizes
from actors.work import Figures
from orchestrator.examiner import Task
from orchestrator.experiment import Experiment
from orchestrator.fleet import ServerSettings
from orchestrator.runtime import Finished, Pending, Place
from orchestrator.stages import Compute, Download, Stage
from orchestrator.timetable import Leg
from policies.guards import Anomaly, Quarantine, Stop
from policies.method import Method
from policies.types import Address, Version


@dataclass(frozen=True, slots=True)
class Plan:
    """What the engine needs of an experiment.

    Attributes:
        seed: Names all random streams.
        method: The policies.
        stop: When the run has done enough.
        quarantine: When a client is no longer asked.
        anomaly: When an update is not like the others.
        server: The modelled server.
        examination: How versions are tested.
        examples: Training examples of each client, shape (clients,).
        forward_flops: Of one example.
        delays: Whether modelled times pass (always, on the virtual clock).
        faults: Planned faults by address.
    """

    seed: int
    method: Method
    stop: Stop
    quarantine: Quarantine
    anomaly: Anomaly
    server: ServerSettings
    examination: Task
    examples: np.ndarray[Any, np.dtype[np.int64]]
    forward_flops: float
    delays: bool = True
    faults: Mapping[Address, str] = field(default_factory=dict)

    @classmethod
    def of(cls, experiment: Experiment, shape: DataShape, sizes: Sizes) -> Plan:
        """Take from an experiment and its data what the engine needs."""
        forward_flops = float(experiment.model.forward_flops(shape))
        return cls(
            seed=experiment.seed,
            method=experiment.method,
            stop=experiment.stop,
            quarantine=experiment.guards.quarantine,
            anomaly=experiment.guards.anomaly,
            server=experiment.server,
            examination=Task(
                settings=experiment.evaluate,
                seed=experiment.seed,
                forward_flops=forward_flops,
                test_examples=shape.test,
                own_examples=sizes.test,
                classes=shape.classes,
            ),
            examples=sizes.train,
            forward_flops=forward_flops,
            delays=experiment.clock == "virtual" or experiment.wall.delays,
            faults={Address(f.client, f.number): f.fault for f in experiment.faults},
        )

    def publishing_flops(self, size: int) -> float:
        """Return what making and publishing a version of `size` values takes."""
        return 2.0 * size + self.method.correction.version_flops(self.forward_flops)

    @property
    def evaluation_flops(self) -> float:
        """Return what testing on the test split takes."""
        return self.forward_flops * self.examination.test_examples


@dataclass(slots=True)
class Flight:
    """An assignment under way, until its update is committed or has come to nothing.

    Attributes:
        state: What the client trains with; None before its first update.
        held: What the client had before it was sent the version that it was sent last.
        density: Share of the base's parameters that are not zero.
        stages: Its process.
        legs: When each stage begins and ends, as far as known; of an upload, the shortest.
        at: Which stage it is in.
        trained_s: When the last compute stage ended.
        device_s: Seconds of the device and its links so far.
        energy_j: Joules of them.
        payload_bytes: Length of its payload, once that is known.
        uplink_bytes: Bytes that it has sent.
        accepted: Whether it waits for its version.
        teacher: The version that the client corrects its update by; None if it does not.
        strength: How strongly.
        corrected: What the client measured of that, by name, once it has arrived.
        finished: What came of the job, once that is known.
        job: The job itself; not part of a checkpoint.
    """

    address: Address
    base: Version
    state: Place | None
    held: Version | None
    density: float
    stages: tuple[Stage, ...]
    legs: tuple[Leg, ...]
    at: int = 0
    trained_s: float = 0.0
    device_s: float = 0.0
    energy_j: float = 0.0
    payload_bytes: int | None = None
    uplink_bytes: int = 0
    accepted: bool = False
    teacher: Version | None = None
    strength: float = 0.0
    corrected: Figures = ()
    finished: Finished | None = None
    job: Pending[Finished] | None = None

    @property
    def doomed(self) -> bool:
        """Whether its client is known to be lost before its work is done."""
        return bool(self.legs[-1].lost)

    @property
    def trained(self) -> bool:
        """Whether its training has ended."""
        return any(isinstance(stage, Compute) for stage in self.stages[: self.at])

    @property
    def bytes(self) -> int:
        """Bytes that moved, both ways."""
        begun = zip(self.stages, self.legs, strict=False)
        down = sum(int(leg.done * s.bytes) for s, leg in begun if isinstance(s, Download))
        return down + self.uplink_bytes


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
