"""How do client actors get work, and what if one dies?

Jobs wait here, the earliest needed first. A worker gets a group at a time: large enough that calls
cost little beside the training, and one more behind it once that is as large. A group's payloads
come back as one buffer, which goes to the server without passing the driver. An actor that dies or
overruns its deadline is restarted by Ray, wherever there is room. What it had to do is sent again,
to itself if it hosts one client, and else to whoever is free.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import ceil
from typing import Any, Final

import ray
from ray import exceptions as ray_errors

from actors.identity import Identity
from actors.intake import Admission
from actors.lane import Answer, Broken, CallError, Lane
from actors.work import GroupReceipt, Order, packed, unpacked
from orchestrator.handed import kept_at, order_of
from orchestrator.on_ray.lanes import Lanes, stored
from orchestrator.on_ray.waiting import (
    FAILED,
    LOST_ACTOR,
    LOST_BUFFER,
    SLICE_S,
    cause,
    first_line,
    in_constructor,
    is_here,
    taken,
)
from orchestrator.runtime import MOST_IN_GROUP, Finished, Handle, Job, Place, Setback, Task
from orchestrator.sections import Limits
from policies.types import RunError

GROUP_S: Final = 0.1
"""How long a group's training is to take, so that a call's few milliseconds do not matter."""
MOST_GROUP_BYTES: Final = 2**28
"""Payloads of a group in one buffer, at the most."""
MOST_STATE_BYTES: Final = 16 * 2**20
"""States of a group in one buffer, which lives as long as one of them is current."""


@dataclass(slots=True)
class _Group:
    """Tasks in training together on one worker.

    Attributes:
        tasks: What they are.
        receipt: Where the actor's receipt will be: Ray's reference, or a lane's answer.
        payloads: What it has made; through a lane None until the receipt is here.
        states: What it has left for later; as the payloads.
        admissions: Where the server's will be; None until it has been sent the payloads.
    """

    tasks: list[Task]
    receipt: Any
    payloads: Handle = None
    states: Handle = None
    admissions: Any = None

    def awaited(self) -> Any:
        """Return what is to come next."""
        return self.receipt if self.admissions is None else self.admissions


@dataclass(slots=True)
class Worker:
    """A client actor, with what it has to do.

    Attributes:
        name: Of the actor, for people.
        actor: Its handle.
        ready_by: When it must have started, on the monotonic clock.
        there: Whether it has, and has not been lost since.
        ready: Answers when it has; None when it need not be asked, or not yet.
        ask_at: When a lost one is asked again.
        tasks: Jobs for this worker alone: its client's.
        groups: What it was sent, in order.
        deadline: When the first group must be done.
        overran: Whether its last end was a missed deadline.
        proven: Whether it has been there before, or one like it: it is room that it lacks now.
        train: The actor's method, with three returns.
        cell: The queue that it takes from; None for any.
        lane: To it, if it is on this machine.
    """

    name: str
    actor: Any
    ready_by: float
    there: bool = False
    ready: Any = None
    ask_at: float = 0.0
    tasks: list[Task] = field(default_factory=list)
    groups: deque[_Group] = field(default_factory=deque)
    deadline: float = 0.0
    overran: bool = False
    proven: bool = False
    train: Any = None
    cell: int | None = None
    lane: Lane | None = None

    def __post_init__(self) -> None:
        """Ask whether it has started."""
        self.ask()
        self.train = self.actor.train.options(num_returns=3)

    def ask(self) -> None:
        """Ask whether it is there."""
        self.there = False
        self.ready = self.actor.identity.remote()


class Crew:
    """All client actors of a run.

    Args:
        workers: The actors.
        dedicated: Whether each hosts one client, that of its place.
        admit: Takes a group's order, the same packed, its receipt and payloads to the server;
            returns where what the server finds will be.
        limits: Deadlines and tries.
        note: Takes what work took, as a row of the ops log.
        meet: Is told who an actor is once it has started.
        start_s: How long an actor may take to start.
        queue_of: Names the queue of a client's jobs; a group is of one queue.
        lanes: Of the run; None if all goes through Ray.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        *,
        dedicated: bool,
        admit: Callable[[Order, bytes, Any, Handle], Any],
        limits: Limits,
        note: Callable[..., None],
        meet: Callable[[Identity, str], None],
        start_s: float,
        queue_of: Callable[[int], int] = lambda _: 0,
        lanes: Lanes | None = None,
    ) -> None:
        self._workers = list(workers)
        self._dedicated = dedicated
        self._admit = admit
        self._limits = limits
        self._note = note
        self._meet = meet
        self._start_s = start_s
        self._queue_of = queue_of
        self._lanes = lanes
        self._queues: dict[tuple[int, bool], list[Task]] = {}
        self._interrupted: dict[int, list[Task]] = {}
        self._serial = 0
        self._training_s = 0.0  # of one update, as lately seen
        self._most = 1

    def expect(self, state_bytes: int, payload_bytes: int) -> None:
        """Learn how large a client's state is, and a payload at the most: both bound a group."""
        by_states = MOST_STATE_BYTES // max(state_bytes, 1)
        by_payloads = MOST_GROUP_BYTES // max(payload_bytes, 1)
        self._most = max(1, min(MOST_IN_GROUP, by_states, by_payloads))

    def is_there(self) -> bool:
        """Say whether a worker has started."""
        return any(worker.there for worker in self._workers)

    def add(self, job: Job) -> Task:
        """Queue a job; it is sent with the next `send`."""
        task = Task(job, self._serial)
        self._serial += 1
        client = job.assignment.address.client
        if self._dedicated:
            queue = self._workers[client].tasks
        else:
            kind = (self._queue_of(client), job.assignment.asks)
            queue = self._queues.setdefault(kind, [])
        heapq.heappush(queue, task)
        return task

    def all(self) -> list[Any]:
        """Return all actors, started or not."""
        return [worker.actor for worker in self._workers]

    def hire(self, workers: Sequence[Worker]) -> None:
        """Take in more actors of a pool."""
        self._workers += workers

    def actors(self) -> dict[str, Any]:
        """Return all actors that have started, by name."""
        return {w.name: w.actor for w in self._workers if w.there}

    def hosts(self, clients: Sequence[int]) -> Iterable[tuple[Callable[[], Any], list[int]]]:
        """Return (actor, places) of clients; pooled actors share them evenly.

        The actor is chosen when it is called for: another one each time in a pool, since one may be
        gone and not be missed yet.
        """
        there = [worker for worker in self._workers if worker.there]
        workers = self._workers if self._dedicated else there or self._workers
        parts: dict[int, list[int]] = {}
        for place, client in enumerate(clients):
            host = client if self._dedicated else place % len(workers)
            parts.setdefault(host, []).append(place)
        return [(self._choices(workers, host), places) for host, places in parts.items()]

    def _choices(self, workers: Sequence[Worker], first: int) -> Callable[[], Any]:
        """Return what names the actor to ask, first the one that is meant."""
        asked = count(first)

        def choose() -> Any:
            at = first if self._dedicated else next(asked) % len(workers)
            return workers[at].actor

        return choose

    # ------------------------------------------------------------ sending

    def send(self) -> None:
        """Give every worker a group to train, and one to go on with if that is a full one."""
        for depth in (0, 1):
            for worker in self._workers:
                while worker.there and len(worker.groups) <= depth:
                    alone = worker.tasks or self._interrupted_for(worker)
                    if not alone:
                        break
                    self._send(worker, [heapq.heappop(alone)])
            free = [w for w in self._workers if w.there and len(w.groups) == depth]
            for place, worker in enumerate(free):
                queues = self._queues_for(worker)
                if not queues:
                    continue
                queue, enough = min(queues, key=lambda waiting: waiting[0]), self._enough()
                if depth and len(queue) < enough:
                    continue
                others = sum(other.cell == worker.cell for other in free[place:])
                count = min(enough, ceil(len(queue) / ceil(others / len(queues))))
                self._send(worker, [heapq.heappop(queue) for _ in range(count)])

    def _queues_for(self, worker: Worker) -> list[list[Task]]:
        """Return the queues with work that a worker may take from."""
        if worker.cell is None:
            return [queue for queue in self._queues.values() if queue]
        queues = (self._queues.get((worker.cell, asks)) for asks in (False, True))
        return [queue for queue in queues if queue]

    def _interrupted_for(self, worker: Worker) -> list[Task]:
        """Return tasks whose actor was lost, and which this one may take; each is sent alone."""
        if worker.cell is not None:
            return self._interrupted.get(worker.cell, [])
        return min((q for q in self._interrupted.values() if q), key=lambda q: q[0], default=[])

    def _enough(self) -> int:
        """Return how many tasks make a full group."""
        if not self._training_s:
            return self._most
        return min(self._most, ceil(GROUP_S / self._training_s))

    def _send(self, worker: Worker, tasks: list[Task]) -> None:
        order, buffers = order_of(tasks)
        told = packed(order)
        if self._by_lane(worker, len(buffers)):
            group = self._send_by_lane(worker, tasks, order, told, buffers)
        else:
            made, states, receipt = worker.train.remote(told, *map(stored, buffers))
            group = _Group(tasks, receipt, made, states)
            if tasks[0].job.assignment.asks:  # a question goes to the encoder, when it has arrived
                group.admissions = receipt
            else:
                self._hand_on(worker, group, order, told, receipt)
        worker.groups.append(group)
        if len(worker.groups) == 1:
            worker.deadline = self._deadline(worker)

    def _by_lane(self, worker: Worker, buffers: int) -> bool:
        """Say whether a worker is reached through a lane, with so many buffers."""
        lane = worker.lane
        if self._lanes is None or lane is None or lane.broken:
            return False
        return self._lanes.room(buffers)

    def _send_by_lane(
        self,
        worker: Worker,
        tasks: list[Task],
        order: Order,
        told: bytes,
        buffers: Sequence[Handle],
    ) -> _Group:
        """Send a group; what comes of it is handed on to the server as soon as it is here."""
        lanes = self._lanes
        assert lanes is not None  # noqa: S101  # looked at before
        assert worker.lane is not None  # noqa: S101  # the same
        shared = [lanes.of(buffer) for buffer in buffers]
        group = _Group(tasks, None)

        def trained(answer: Answer) -> None:
            try:
                receipt, (payloads, states) = answer.result()
            except (Broken, CallError):
                return  # sorted out when it is taken
            group.payloads, group.states = lanes.keep(payloads), lanes.keep(states)
            self._hand_on(worker, group, order, told, receipt)

        group.receipt = worker.lane.call("train", told, shared, trained)
        return group

    def _hand_on(
        self, worker: Worker, group: _Group, order: Order, told: bytes, receipt: Any
    ) -> None:
        """Have the server take in what a group has come to."""

        def admit() -> Any:
            return self._admit(order, told, receipt, group.payloads)

        group.admissions = admit()
        self._deliver_twice(worker, group.tasks, admit)

    def _deliver_twice(
        self, worker: Worker, tasks: Sequence[Task], admit: Callable[[], Any]
    ) -> None:
        """Act out a planned duplicate: the server gets the same payloads again."""
        for assignment in (task.job.assignment for task in tasks):
            if assignment.fault == "duplicate" and not assignment.asks:
                admit()
                client, number = assignment.address
                self._note("duplicate", actor=worker.name, client=client, number=number)

    def _deadline(self, worker: Worker) -> float:
        """Return when the worker's first group must be done: a call's limit for each member."""
        members = len(worker.groups[0].tasks) if worker.groups else 0
        return time.monotonic() + self._limits.train_s * members

    # ------------------------------------------------------------ taking

    def watched(self) -> list[Any]:
        """Return Ray's references of what the crew waits for."""
        awaited = [w.groups[0].awaited() for w in self._workers if w.groups]
        groups = [one for one in awaited if not isinstance(one, Answer)]
        return groups + [w.ready for w in self._workers if w.ready is not None]

    def take(self, ready: Collection[Any]) -> None:
        """Take in what is finished."""
        for worker in self._workers:
            if worker.ready is not None and worker.ready in ready:
                self._started(worker)
            while worker.groups and _has_come(worker.groups[0].awaited(), ready):
                group = worker.groups[0]
                try:
                    admissions, receipt = _opened(group)
                except Exception as error:  # noqa: BLE001  # sorted out below
                    self._failed(worker, group, error)
                    break
                worker.groups.popleft()
                worker.deadline = self._deadline(worker)
                self._finish(worker, group, admissions, receipt)

    def _finish(
        self,
        worker: Worker,
        group: _Group,
        admissions: Sequence[Admission | None],
        receipt: GroupReceipt,
    ) -> None:
        self._training_s = sum(receipt.durations_s) / len(group.tasks)
        for index, (task, admission) in enumerate(zip(group.tasks, admissions, strict=True)):
            payload = Place(group.payloads, *receipt.places[index])
            state = kept_at(group.states, receipt, index)
            task.result = Finished(admission, payload, state, receipt.figures[index])
            client, number = task.job.assignment.address
            self._note(
                "trained",
                actor=worker.name,
                client=client,
                number=number,
                attempt=task.attempt,
                duration_s=receipt.durations_s[index],
                cpu_s=receipt.cpu_s / len(group.tasks),
                bytes=task.result.bytes,
            )

    # ------------------------------------------------------------ when something goes wrong

    def _started(self, worker: Worker) -> None:
        """An actor answers, for the first time or again."""
        try:
            identity: Identity = ray.get(worker.ready)
        except LOST_ACTOR as error:
            if in_constructor(error):
                raise RunError(f"{worker.name} cannot start: {first_line(error)}") from error
            worker.ready, worker.ask_at = None, time.monotonic() + SLICE_S  # it is restarted
            return
        except ray_errors.RayTaskError as error:
            raise RunError(f"{worker.name} cannot start: {cause(error)}") from error
        self._meet(identity, worker.name)
        worker.there, worker.ready, worker.proven = True, None, True
        worker.lane = None if self._lanes is None else self._lanes.open(identity)
        self._note("actor_started", actor=worker.name, node=identity.host)

    def overdue(self) -> None:
        """Replace actors that have missed their deadline.

        Raises:
            RunError: If one did not start at all.
            Setback: If one that was there finds no room any more, and its clients no other actor.
        """
        now = time.monotonic()
        for worker in self._workers:
            if not worker.there and worker.ready is None and now > worker.ask_at:
                worker.ask()
            if not worker.there and now > worker.ready_by:
                if worker.proven or self._others(worker):
                    self._missed(worker)
                    continue
                waited = self._limits.start_s
                raise RunError(
                    f"{worker.name} did not start within limits.start_s = {waited:g} s and what "
                    "the fleet is expected to take. Is the cluster full? `ray status` tells. "
                    "Raise limits.start_s or lower fleet.clients."
                )
            if worker.groups and worker.there and now > worker.deadline:
                if self._is_trained(worker, now):
                    continue
                first = worker.groups[0].tasks[0].job.assignment.address
                self._note(
                    "deadline",
                    actor=worker.name,
                    client=first.client,
                    number=first.number,
                    detail=f"no answer within {self._limits.train_s:g} s an update",
                )
                worker.overran = True
                worker.deadline = now + self._limits.start_s
                ray.kill(worker.actor, no_restart=False)

    def _missed(self, worker: Worker) -> None:
        """An actor has not come back: others that take the same work go on without it."""
        if not self._others(worker):
            raise Setback(f"{worker.name} found no room within limits.start_s")
        worker.ready_by = float("inf")
        self._note("missed", actor=worker.name, detail="no room; the other actors go on")

    def _others(self, worker: Worker) -> bool:
        """Say whether another actor is there for the same clients."""
        if self._dedicated:
            return False
        return any(other.there and other.cell == worker.cell for other in self._workers)

    def _is_trained(self, worker: Worker, now: float) -> bool:
        """Say whether a late worker has done its part, and the server is what is waited for."""
        trained = is_here(worker.groups[0].receipt)
        if trained and now > worker.deadline + self._limits.server_s:
            raise RunError(
                "the parameter server did not admit an update within limits.server_s = "
                f"{self._limits.server_s:g} s"
            )
        return trained

    def _failed(self, worker: Worker, group: _Group, error: Exception) -> None:
        """Sort out whether the worker, the server or the user's code has failed."""
        if isinstance(error, LOST_BUFFER):
            raise Setback(f"what {worker.name} works on is lost: {first_line(error)}") from error
        if not is_here(group.receipt):
            raise _server_failed(error) from error
        try:
            taken(group.receipt)
        except LOST_ACTOR as lost:
            self._lost(worker, lost)
        except FAILED as own:
            failing = ", ".join(str(tuple(t.job.assignment.address)) for t in group.tasks)
            text = f"training failed for (client, number) {failing} on {worker.name}: {cause(own)}"
            self._note("training_error", actor=worker.name, detail=text)
            raise RunError(text) from own
        else:
            raise _server_failed(error) from error

    def _lost(self, worker: Worker, error: Exception) -> None:
        """An actor is gone: send everything again, one by one."""
        why = "deadline" if worker.overran else type(error).__name__
        self._note("actor_lost", actor=worker.name, detail=f"{why}: {first_line(error)}")
        groups, worker.groups = list(worker.groups), deque()
        worker.overran = False
        worker.lane = None
        worker.ask()
        worker.ready_by = time.monotonic() + self._start_s
        _charge(groups)
        for task in (task for group in groups for task in group.tasks):
            address = task.job.assignment.address
            what = {
                "actor": worker.name,
                "client": address.client,
                "number": address.number,
                "attempt": task.attempt,
                "detail": why,
            }
            if task.attempt >= self._limits.attempts:
                self._note("given_up", **what)
                task.result = Finished(None)
            else:
                self._note("resent", **what)
                heapq.heappush(self._queue_again(worker, task), task)

    def _queue_again(self, worker: Worker, task: Task) -> list[Task]:
        """Return where a task waits whose actor was lost."""
        if self._dedicated:
            return worker.tasks
        queue = self._queue_of(task.job.assignment.address.client)
        return self._interrupted.setdefault(queue, [])


def _opened(group: _Group) -> tuple[Sequence[Admission | None], GroupReceipt]:
    """Return what was found of a group: of questions nothing, the encoder reads them later."""
    found = unpacked(taken(group.awaited()))
    if isinstance(found, GroupReceipt):
        return [None] * len(group.tasks), found
    admissions, receipt = found
    return admissions, receipt


def _has_come(awaited: Any, ready: Collection[Any]) -> bool:
    return awaited.done() if isinstance(awaited, Answer) else awaited in ready


def _server_failed(error: Exception) -> RunError:
    """Return what follows from a server that did not admit what was trained."""
    if isinstance(error, LOST_ACTOR):
        return Setback(f"the parameter server is lost: {first_line(error)}")
    return RunError(f"the parameter server failed: {cause(error)}")


def _charge(groups: list[_Group]) -> None:
    """Find who ended an actor: the first planned fault has fired, or a task alone has tried.

    The second group may have ended it before the first one's reply was out. Neighbours are not
    charged: each is sent again by itself, so that how tasks were grouped changes nothing.
    """
    for task in (task for group in groups for task in group.tasks):
        assignment = task.job.assignment
        if assignment.fault in {"crash", "hang"}:
            task.attempt += 1
            task.job = task.job._replace(assignment=assignment._replace(fault=""))
            return
    if groups and len(groups[0].tasks) == 1:
        groups[0].tasks[0].attempt += 1
