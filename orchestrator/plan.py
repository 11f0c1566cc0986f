"""What does the engine need of an experiment, and what does it keep of an assignment?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np

from actors.learning.examples import DataShape
from actors.learning.holdings import Sizes
from actors.work import Figures
from orchestrator.examiner import Task
from orchestrator.experiment import Experiment
from orchestrator.fleet import ServerSettings
from orchestrator.runtime import Finished, Pending, Place, Weights
from orchestrator.stages import Compute, Download, Stage
from orchestrator.timetable import Leg
from policies.guards import Anomaly, Quarantine, Stop
from policies.memory import Memory
from policies.method import Method
from policies.splitting import Ends, Exchange, Process, Split
from policies.training import Portion, TrainingPolicy
from policies.types import Address, Version

_ALL: Final = Portion()


@dataclass(frozen=True)
class SplitPlan:
    """What the engine needs of a split model.

    Attributes:
        settings: The topology.
        training: How clients train.
        ends: How the model is cut behind so many of the encoder's blocks, by that number.
        seconds_of: What the encoder takes for some FLOPs.
    """

    settings: Split
    training: TrainingPolicy
    ends: Mapping[int, Ends]
    seconds_of: Callable[[float], float]

    @classmethod
    def of(cls, experiment: Experiment, shape: DataShape) -> SplitPlan | None:
        """Return it; None if clients compute the whole model."""
        split = experiment.topology
        if not isinstance(split, Split):
            return None
        return cls(
            split,
            experiment.method.training,
            experiment.ends(shape),
            experiment.server.seconds_at(split.flops),
        )

    @property
    def caches(self) -> bool:
        """Whether an example's features never change."""
        return not any(ends.learns for ends in self.ends.values())

    @property
    def own_tail_flops(self) -> float:
        """Work of one example's pass through a client's own tail; 0 where all have the same."""
        return self.ends[min(self.ends)].tail_flops if self.settings.personal else 0.0

    @cached_property
    def _processes(self) -> dict[tuple[int, int, bool, Portion], Process]:
        return {}

    def process(self, examples: int, cut: int, *, known: bool, portion: Portion = _ALL) -> Process:
        """Return the parts of an assignment.

        Args:
            examples: How many the client has.
            cut: Blocks of the encoder that run on its device.
            known: Whether it has their features.
            portion: How much of what training asks it does.
        """
        key = (examples, cut, known, portion)
        if key not in self._processes:
            training = self.training.portion(portion)
            self._processes[key] = Process(self.settings, self.ends[cut], training, examples, known)
        return self._processes[key]


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
        memory: What training the whole model takes on a device.
        delays: Whether modelled times pass (always, on the virtual clock).
        faults: Planned faults by address.
        split: How the model is split; None if clients compute all of it.
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
    memory: Memory
    delays: bool = True
    faults: Mapping[Address, str] = field(default_factory=dict)
    split: SplitPlan | None = None

    @classmethod
    def of(cls, experiment: Experiment, shape: DataShape, sizes: Sizes) -> Plan:
        """Take from an experiment and its data what the engine needs."""
        forward_flops = float(experiment.model.forward_flops(shape))
        split = SplitPlan.of(experiment, shape)
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
                test_examples=min(shape.test, experiment.evaluate.examples or shape.test),
                own_examples=sizes.test,
                classes=shape.classes,
                tail_flops=0.0 if split is None else split.own_tail_flops,
            ),
            examples=sizes.train,
            forward_flops=forward_flops,
            memory=experiment.memory(shape),
            delays=experiment.clock == "virtual" or experiment.wall.delays,
            faults={Address(f.client, f.number): f.fault for f in experiment.faults},
            split=split,
        )

    def publishing_flops(self, size: int) -> float:
        """Return what making and publishing a version of `size` values takes."""
        return 2.0 * size + self.method.correction.version_flops(self.forward_flops)


@dataclass(slots=True)
class Talk:
    """How far an assignment has come in its exchanges with the encoder.

    Attributes:
        process: Its parts.
        part: The one that is under way, or whose question is.
        carry: What the part before has left.
        reply: What that one's question was answered with.
        question: The last question that brought a batch whose gradients are to be told.
        brought: What that question was.
        weights: What has computed that batch.
        until_s: When the encoder forgets it; None while it is not waiting for an answer.
        held: Blocks of the encoder that the client had before; None if it had nothing of it.
        waits: Whether its question has come and the reply is not on its way yet.
        forgotten: Whether the encoder has given up waiting for its gradients.
    """

    process: Process
    part: int = 0
    carry: Place | None = None
    reply: Place | None = None
    question: Place | None = None
    brought: Exchange = field(default_factory=Exchange)
    weights: Weights | None = None
    until_s: float | None = None
    held: int | None = None
    waits: bool = False
    forgotten: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether the batch of the question under way is kept: its gradients come next."""
        following = self.process.exchanges[self.part + 1 :]
        return bool(following and following[0].answered)

    @property
    def exchange(self) -> Exchange:
        """The question that ends the part under way."""
        return self.process.exchanges[self.part]


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
        talk: What it has exchanged with the encoder; None where it computes the whole model.
        portion: How much of what training asks it does.
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
    talk: Talk | None = None
    portion: Portion = _ALL
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
