"""How does a run go on in one process?"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

from actors.changes import may_change
from actors.client import Client
from actors.encoder import Encoder, Pass
from actors.evaluator import Evaluator
from actors.first_version import first_version
from actors.identity import identify, pss_bytes
from actors.intake import Delivery
from actors.learning.evaluation_torch import Evaluation, Score
from actors.learning.holdings import Description, Holdings
from actors.parts import PartServers
from actors.pieces import join
from actors.publisher import Shipment
from actors.server import Receipt, Server, Snapshot
from actors.stopwatch import Stopwatch, Usage
from actors.tutor import public_of, tutor_for
from actors.work import Work
from orchestrator.cells import CelledServer, Cells
from orchestrator.handed import Made, Parts, Settling, exam_of, kept_at, order_of, pieces
from orchestrator.runtime import (
    MOST_IN_GROUP,
    Finished,
    First,
    Handle,
    Job,
    Passed,
    Pending,
    Place,
    Ready,
    States,
    Task,
)
from orchestrator.trainers import CAN_FORK, Trained, Trainers
from policies.types import Address, Buffer, ExperimentError, Version

T = TypeVar("T")


class InProcessRuntime:
    """Everything in this process, one thing after the other, or training in others beside it.

    Args:
        work: What is to be done.
        holdings: The clients' examples.
        cells: Of the fleet, where updates are summed near their clients.
        trainers: Processes that train; one is this one, which trains what it is asked for and when.

    Attributes:
        trainers: Processes that train: one where no others can be forked.
    """

    def __init__(
        self, work: Work, holdings: Holdings, cells: Cells | None = None, trainers: int = 1
    ) -> None:
        self._client = Client(work, holdings)
        self._evaluator = Evaluator(work, holdings)
        self._watch = Stopwatch(on=work.timed)
        self._waiting: list[Task] = []
        self._serial = 0
        self._most = MOST_IN_GROUP if self._client.has_cohorts else 1
        self.trainers = trainers if CAN_FORK else 1
        self._beside: Trainers | None = None
        if self.trainers > 1:
            self._beside = Trainers(work, holdings, trainers, self._most, self._take)
        self._first = first_version(work, holdings.shape)
        schema, message, *_ = self._first
        tutor = tutor_for(work, public_of(work, holdings), self._watch)
        self._server: Server | PartServers | CelledServer
        if cells is not None:
            self._server = CelledServer(work, schema, message, cells, tutor)
        elif work.shards > 1:
            self._server = PartServers(work, schema, message, work.shards)
        else:
            self._server = Server(work, schema, message, tutor=tutor)
        self._encoder = None if work.split is None else Encoder(work, holdings.shape)
        self._changes = work.shards == 1 and may_change(work.method, schema)
        self._newest: Handle = self._first.message

    @property
    def numerics(self) -> str:
        """What equality of digests is promised for."""
        return identify().numerics

    def initial(self) -> First:
        """Return version 0."""
        return First(self._first.schema, self._first.message, self._first.whole)

    def begin(self) -> None:
        """Do nothing: this process can train."""

    def submit(self, job: Job) -> Pending[Finished]:
        """Train when the result is asked for, side by side with others if the model allows.

        Other processes begin full groups at once.
        """
        if job.assignment.fault in {"crash", "hang"}:
            raise ExperimentError(
                f"faults: {job.assignment.fault} ends a process, and an in-process run has no "
                "other. Run it on Ray."
            )
        task = Task(job, self._serial)
        self._serial += 1
        if self._beside is None:
            heapq.heappush(self._waiting, task)
        else:
            self._beside.add(task)
        return _Deferred(lambda: self._finished(task))

    def _finished(self, task: Task) -> Finished:
        """Train groups, the earliest needed first, until a task is done."""
        if self._beside is not None:
            self._beside.train(task)
        while task.result is None:
            count = min(self._most, len(self._waiting))
            tasks = [heapq.heappop(self._waiting) for _ in range(count)]
            self._take(tasks, self._client.train_group(*order_of(tasks)))
        return task.result

    def _take(self, tasks: Sequence[Task], trained: Trained) -> None:
        """Hand a group's payloads to the server."""
        payloads, states, receipt = trained
        for index, (task, (start, stop)) in enumerate(zip(tasks, receipt.places, strict=True)):
            assignment = task.job.assignment
            delivery = Delivery(assignment.address, assignment.base, start, stop)
            admission = None
            if not assignment.asks:
                with self._watch("read payloads"):
                    for _ in range(1 + (assignment.fault == "duplicate")):
                        admission = self._server.admit(delivery, payloads[start:stop])
            state = kept_at(states, receipt, index)
            figures = receipt.figures[index]
            task.result = Finished(admission, Place(payloads, start, stop), state, figures)

    def pump(self, timeout_s: float) -> None:
        """Let the time pass: nothing goes on meanwhile."""
        time.sleep(timeout_s)

    def deliver(self, deliveries: Sequence[Delivery], payloads: Buffer) -> None:
        """Admit payloads again."""
        self._server.admit_group(deliveries, payloads)

    def commit(
        self, addresses: Sequence[Address], expected: Version
    ) -> tuple[Pending[Receipt], Handle]:
        """Make the next version."""
        with self._watch("make versions"):
            receipt, piece = self._server.commit(addresses, expected)
        pending: Pending[Receipt] = Ready(receipt)
        if isinstance(piece, tuple):
            return pending, Parts(piece)
        if not self._changes:
            return pending, piece
        self._newest = made = Made(piece, self._newest, pending)
        return Settling(pending, made), made

    def rollback(self, expected: Version, target: Handle) -> tuple[Pending[Receipt], Handle]:
        """Publish `target` again."""
        whole = join(pieces(target), self._first.schema)
        receipt, made = self._server.rollback(whole, expected)
        self._newest = Parts(made) if isinstance(made, tuple) else made
        return Ready(receipt), self._newest

    def encoder_weights(self) -> Handle:
        """Return the weights that the encoder begins with."""
        return self._own_encoder().first_weights()

    def compute(self, asked: Pass, buffers: Sequence[Handle], replica: int) -> Pending[Passed]:
        """Compute a pass when its result is asked for."""
        del replica  # all of them are one here
        encoder = self._own_encoder()
        return _Deferred(lambda: Passed(*encoder.compute(asked, buffers)))

    def _own_encoder(self) -> Encoder:
        if self._encoder is None:
            raise TypeError("this model has no encoder of its own")
        return self._encoder

    def discard(self, addresses: Sequence[Address]) -> None:
        """Let the server forget updates."""
        self._server.discard(addresses)

    def evaluate(
        self, version: Handle, encoder: Handle | None = None, states: States = ()
    ) -> Pending[Evaluation]:
        """Test a version when the result is asked for."""
        return _Deferred(lambda: self._evaluator.examine(*exam_of(version, encoder, states)))

    def evaluate_at(self, version: Handle, clients: Sequence[int]) -> Pending[list[Score]]:
        """Test a version at clients when the result is asked for."""
        return _Deferred(lambda: self._client.evaluate(clients, pieces(version)))

    def describe(self, clients: Sequence[int]) -> list[Description]:
        """Count clients' examples."""
        return self._client.describe(clients)

    def snapshot(self, expected: Version) -> Snapshot:
        """Return the server's state."""
        snapshot = self._server.snapshot()
        if snapshot.version != expected:
            raise ValueError(f"the server is at {snapshot.version}, not at {expected}")
        return snapshot

    def quote(self, held: Sequence[Version | None], to: Version) -> list[Shipment]:
        """Return what clients' messages take."""
        return self._server.quote(held, to)

    def restore(self, snapshot: Snapshot, versions: Sequence[Handle]) -> None:
        """Let the server go on from a snapshot."""
        self._server.restore(snapshot, versions)
        self._newest = versions[-1]

    def put(self, buffer: Buffer) -> Handle:
        """Keep a buffer."""
        return buffer

    def fetch(self, what: Handle | Place) -> Buffer:
        """Return the bytes themselves."""
        if isinstance(what, Place):
            return np.asarray(what.handle)[what.start : what.stop]
        return np.asarray(join(pieces(what), self._first.schema))

    def usage(self) -> dict[str, Usage]:
        """Return what training, the server and tests took of this process, and of others."""
        watches = {
            "clients": self._client.watch,
            "parameter server": self._watch,
            "evaluator": self._evaluator.watch,
            **({} if self._encoder is None else {"encoder": self._encoder.watch}),
        }
        found = {name: watch.usage().stages for name, watch in watches.items()}
        here = {name: Usage(stages, sum(s.cpu_s for s in stages)) for name, stages in found.items()}
        return here if self._beside is None else here | self._beside.usage()

    def memory(self) -> dict[str, int]:
        """Return this process's memory, and that of those that train."""
        return {"driver": pss_bytes()} | ({} if self._beside is None else self._beside.memory())

    def close(self) -> None:
        """End the processes that train, if there are any."""
        if self._beside is not None:
            self._beside.close()


class _Deferred(Generic[T]):
    """Computes once, when asked."""

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute: Callable[[], T] | None = compute
        self._value: T | None = None

    def done(self) -> bool:
        return True

    def result(self) -> T:
        if self._compute is not None:
            self._value = self._compute()
            self._compute = None
        return self._value  # type: ignore[return-value]  # computed above
