"""How do actors get placed, fed and replaced?

The driver owns every reference. Jobs wait here, the earliest needed first; each worker has one
group in training and one behind it, so that it never idles. A group's payloads come back as one
buffer that goes to the server without passing the driver. An actor that dies or overruns its
deadline is restarted by Ray and gets its jobs again.
"""

from __future__ import annotations

import heapq
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any, Generic, TypeVar

import numpy as np
import ray
from ray import exceptions as ray_errors

from actors.client import ClientActor
from actors.evaluator import EvaluatorActor
from actors.identity import Identity, identify, pss_bytes
from actors.learning.evaluation_torch import Evaluation, Score
from actors.learning.holdings import Description, Holdings
from actors.parameter_server import ParameterServer
from actors.publisher import Shipment
from actors.server import Delivery, Receipt, Snapshot
from actors.work import GroupReceipt, Work
from orchestrator.experiment import Limits
from orchestrator.fleet import ActorResources
from orchestrator.hosting import Hosting, demand
from orchestrator.runtime import Finished, Handle, Job, Pending, Place
from policies.types import Address, Buffer, ExperimentError, RunError, Version
from policies.update import ModelSchema
from policies.wire import StateLayout

T = TypeVar("T")
SLICE_S = 0.2
"""Longest wait before the driver looks whether somebody wants the run to end."""
MOST_IN_GROUP = 16
MOST_STATE_BYTES = 16 * 2**20
"""States of a group in one buffer, which lives as long as one of them is current."""
LOST_ACTOR = (
    ray_errors.RayActorError,
    ray_errors.WorkerCrashedError,
    ray_errors.OutOfMemoryError,
    ray_errors.NodeDiedError,
    ray_errors.ObjectLostError,
)


@dataclass(slots=True, eq=False)
class _Task:
    """A job with what its tries have come to."""

    job: Job
    serial: int
    attempt: int = 0
    result: Finished | None = None

    def __lt__(self, other: _Task) -> bool:
        return (self.job.due_s, self.serial) < (other.job.due_s, other.serial)


@dataclass(slots=True)
class _Group:
    """Tasks in training together on one worker."""

    tasks: list[_Task]
    payloads: Any
    states: Any
    receipt: Any
    admissions: Any


@dataclass(slots=True)
class _Worker:
    """A client actor, with what it has to do.

    Attributes:
        train: The actor's method, with three returns.
        ready: Answers when the actor has started; None once it has.
        ready_by: When it must have, on the monotonic clock.
        deadline: When the first group must be done.
        tasks: Jobs for this worker alone: its client's, or those that its end interrupted.
        overran: Whether its last end was a missed deadline.
    """

    name: str
    actor: Any
    train: Any
    ready: Any
    ready_by: float
    tasks: list[_Task] = field(default_factory=list)
    groups: deque[_Group] = field(default_factory=deque)
    deadline: float = 0.0
    overran: bool = False


class FromStore:
    """Fetches the holdings inside an actor, also inside a restarted one.

    The reference travels as bytes, so that Ray does not take it for an argument that could be
    gone when an actor restarts: the driver keeps it for the whole run.
    """

    def __init__(self, reference: Any) -> None:
        self._reference = ray.cloudpickle.dumps(reference)

    def __call__(self) -> Holdings:
        """Return them, their arrays as views of the node's one copy."""
        holdings: Holdings = ray.get(ray.cloudpickle.loads(self._reference))
        return holdings


class RayRuntime:
    """Trains, admits, commits and evaluates in actors.

    Args:
        work: What actors are told.
        holdings: The clients' examples; one copy a node.
        resources: Of each client's actor.
        hosting: One actor a client, or a few for all.
        limits: Deadlines and tries.
        note: Takes what its work took, as a row of the ops log.
        paths: Folders of the user's own modules.
        check: Called while waiting; raises `Interrupted` to end the wait.
    """

    def __init__(
        self,
        work: Work,
        holdings: Holdings,
        *,
        resources: Sequence[ActorResources],
        hosting: Hosting,
        limits: Limits,
        note: Callable[..., None],
        paths: Sequence[str] = (),
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._limits = limits
        self._note = note
        self._check = check
        self._serial = 0
        self._shared: list[_Task] = []
        self._processes: dict[str, Identity] = {}
        settings = work.model_dump(mode="json")
        self._holdings = ray.put(holdings)
        fetch = FromStore(self._holdings)
        arguments = (settings, list(paths), fetch)
        self._dedicated = hosting.kind == "dedicated"
        self._evaluator = (
            ray.remote(EvaluatorActor)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=0)
            .remote(*arguments)
        )
        shell = ray.remote(ClientActor)
        self._workers: list[_Worker] = []
        for index in range(hosting.actors):
            options = _options(resources[index]) if self._dedicated else {"num_cpus": 1}
            actor = shell.options(max_restarts=-1, max_task_retries=0, **options).remote(*arguments)
            name = f"client-{index}" if self._dedicated else f"worker-{index}"
            by = time.monotonic() + limits.start_s + hosting.start_s
            train = actor.train.options(num_returns=3)
            self._workers.append(_Worker(name, actor, train, actor.identity.remote(), by))
        evaluator: Identity = self._get(
            self._evaluator.identity.remote(), limits.start_s, "the evaluator to start"
        )
        self._meet(evaluator, "evaluator")
        self._schema, first = self._get(
            self._evaluator.initial.remote(), limits.start_s, "version 0 from the evaluator"
        )
        self._initial = ray.put(first)
        self._state_bytes = StateLayout(work.method.uplink.start(self._schema)).size
        self._server = (
            ray.remote(ParameterServer)
            .options(num_cpus=0, max_restarts=0, max_concurrency=100)
            .remote(settings, list(paths), self._schema, first, limits.server_s)
        )
        self._commit = self._server.commit.options(num_returns=2)
        server = self._get(self._server.identity.remote(), limits.start_s, "the server to start")
        self._meet(server, "parameter server")

    # ------------------------------------------------------------ the port

    @property
    def numerics(self) -> str:
        """What equality of digests is promised for."""
        return " and ".join(sorted({i.numerics for i in self._processes.values()}))

    def initial(self) -> tuple[ModelSchema, Handle]:
        """Return the model's tensors and version 0."""
        return self._schema, self._initial

    def submit(self, job: Job) -> Pending[Finished]:
        """Queue a job; it is sent with the next look at the workers."""
        task = _Task(job, self._serial)
        self._serial += 1
        heapq.heappush(self._tasks_of(task), task)
        return _PendingTask(self, task)

    def pump(self, timeout_s: float) -> None:
        """Take in what is finished and send what waits."""
        self._turn(None, timeout_s)

    def deliver(self, deliveries: Sequence[Delivery], payloads: Buffer) -> None:
        """Admit payloads from a checkpoint again."""
        reference = self._server.deliver.remote(list(deliveries), np.asarray(payloads))
        self._get(reference, self._limits.server_s, "the server to admit")

    def commit(
        self, addresses: Sequence[Address], expected: Version
    ) -> tuple[Pending[Receipt], Handle]:
        """Make the next version; clients can be sent its handle at once."""
        receipt, message = self._commit.remote(list(addresses), expected)
        return self._pending(receipt, f"version {expected.number + 1}"), message

    def rollback(self, expected: Version, target: Handle) -> tuple[Pending[Receipt], Handle]:
        """Publish `target` again under a new lineage."""
        receipt, message = self._server.rollback.options(num_returns=2).remote(expected, target)
        return self._pending(receipt, f"the rollback after version {expected.number}"), message

    def discard(self, addresses: Sequence[Address]) -> None:
        """Let the server forget updates."""
        if addresses:
            self._server.discard.remote(list(addresses))

    def evaluate(self, version: Handle) -> Pending[Evaluation]:
        """Test a version; asks again if the evaluator dies."""
        return _PendingCall(
            self,
            lambda: self._evaluator.evaluate.remote(version),
            self._limits.evaluate_s,
            "an evaluation",
            tries=self._limits.attempts,
        )

    def evaluate_at(self, version: Handle, clients: Sequence[int]) -> Pending[list[Score]]:
        """Test a version at clients; asks again if an actor dies."""
        return self._at_clients(
            clients,
            lambda actor, part: actor.evaluate.remote(part, version),
            self._limits.evaluate_s,
            "a federated evaluation",
        )

    def describe(self, clients: Sequence[int]) -> list[Description]:
        """Count clients' examples where they are."""
        pending: _PendingParts[Description] = self._at_clients(
            clients,
            lambda actor, part: actor.describe.remote(part),
            self._limits.start_s,
            "clients' examples",
        )
        return pending.result()

    def _at_clients(
        self,
        clients: Sequence[int],
        ask: Callable[[Any, list[int]], Any],
        deadline_s: float,
        what: str,
    ) -> _PendingParts[Any]:
        """Ask the actors of some clients; pooled ones share them evenly."""
        count = len(self._workers)
        parts: dict[int, list[int]] = {}
        for place, client in enumerate(clients):
            parts.setdefault(client if self._dedicated else place % count, []).append(place)
        calls = []
        for worker, places in parts.items():
            call = partial(ask, self._workers[worker].actor, [clients[p] for p in places])
            tries = self._limits.attempts
            calls.append((places, _PendingCall[Any](self, call, deadline_s, what, tries=tries)))
        return _PendingParts(calls)

    def snapshot(self, expected: Version) -> Snapshot:
        """Return the server's state once it has reached a version."""
        reference = self._server.snapshot.remote(expected)
        found: Snapshot = self._get(reference, self._limits.server_s, "the server's state")
        return found

    def quote(self, held: Sequence[Version | None], to: Version) -> list[Shipment]:
        """Return what clients' messages take; the server counts them."""
        reference = self._server.quote.remote(list(held), to)
        found: list[Shipment] = self._get(reference, self._limits.server_s, "the server to count")
        return found

    def restore(self, snapshot: Snapshot, versions: Sequence[Handle]) -> None:
        """Let the server go on from a snapshot."""
        reference = self._server.restore.remote(snapshot, *versions)
        self._get(reference, self._limits.server_s, "the server")

    def put(self, buffer: Buffer) -> Handle:
        """Keep a buffer; the driver owns it."""
        return ray.put(np.asarray(buffer))

    def fetch(self, what: Handle | Place) -> Buffer:
        """Return the bytes behind a handle."""
        if isinstance(what, Place):
            whole: Buffer = self._get(what.handle, self._limits.server_s, "a buffer")
            return whole[what.start : what.stop]
        found: Buffer = self._get(what, self._limits.server_s, "a buffer")
        return found

    def memory(self) -> dict[str, int]:
        """Return the memory of the driver and of all actors on its machine, by name."""
        here = identify().host
        pids = {name: i.pid for name, i in self._processes.items() if i.host == here}
        return {"driver": pss_bytes()} | {name: pss_bytes(pid) for name, pid in pids.items()}

    def close(self) -> None:
        """End all actors of the run."""
        for actor in (*(w.actor for w in self._workers), self._evaluator, self._server):
            ray.kill(actor)

    # ------------------------------------------------------------ turning the wheel

    def _turn(self, wanted: Any, timeout_s: float, task: _Task | None = None) -> None:
        """Send what waits, then wait for `wanted`, a group, or an actor to be there."""
        self._send(task)
        watched = [w.groups[0].admissions for w in self._workers if w.groups]
        watched += [w.ready for w in self._workers if w.ready is not None]
        if wanted is not None:
            watched.append(wanted)
        if not watched:
            time.sleep(min(timeout_s, SLICE_S))
            return
        ready, _ = ray.wait(watched, num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready:
            ready, _ = ray.wait(watched, num_returns=len(watched), timeout=0, fetch_local=False)
            self._take(set(ready))
            self._send(task)
        self._overdue()  # after what is finished was taken: a run that was held is not late

    def _take(self, ready: set[Any]) -> None:
        for worker in self._workers:
            if worker.ready is not None and worker.ready in ready:
                self._started(worker)
            while worker.groups and worker.groups[0].admissions in ready:
                group = worker.groups[0]
                try:
                    admissions, receipt = ray.get(group.admissions)
                except Exception as error:  # noqa: BLE001  # sorted out below
                    self._failed(worker, group, error)
                    break
                worker.groups.popleft()
                worker.deadline = self._deadline(worker)
                self._finish(worker, group, admissions, receipt)

    def _finish(
        self, worker: _Worker, group: _Group, admissions: list[Any], receipt: GroupReceipt
    ) -> None:
        size = self._state_bytes
        for index, (task, admission) in enumerate(zip(group.tasks, admissions, strict=True)):
            payload = Place(group.payloads, *receipt.places[index])
            state = Place(group.states, index * size, (index + 1) * size) if size else None
            task.result = Finished(admission, payload, state)
            client, number = task.job.assignment.address
            self._note(
                "trained",
                actor=worker.name,
                client=client,
                number=number,
                attempt=task.attempt,
                duration_s=receipt.durations_s[index],
                cpu_s=receipt.cpu_s / len(group.tasks),
                bytes=admission.uplink_bytes,
            )

    # ------------------------------------------------------------ sending

    def _tasks_of(self, task: _Task) -> list[_Task]:
        if self._dedicated:
            return self._workers[task.job.assignment.address.client].tasks
        return self._shared

    def _send(self, wanted: _Task | None = None) -> None:
        """Give every worker one group to train, and one to go on with.

        What is to wait behind another group waits here until it is a group of full size: calls
        cost more than training a small network does. What is `wanted` now waits for nobody.
        """
        if self._dedicated:
            for worker in self._workers:
                while worker.tasks and worker.ready is None and len(worker.groups) < 2:
                    self._send_group(worker, [heapq.heappop(worker.tasks)])
            return
        for depth in (0, 1):
            for worker in self._workers:
                while worker.tasks and worker.ready is None and len(worker.groups) <= depth:
                    self._send_group(worker, [heapq.heappop(worker.tasks)])
            for worker in self._workers:
                if self._shared and worker.ready is None and len(worker.groups) == depth:
                    size, hurry = self._group_size(), depth == 0 or wanted in self._shared
                    if hurry or len(self._shared) >= size:
                        count = min(size, len(self._shared))
                        tasks = [heapq.heappop(self._shared) for _ in range(count)]
                        self._send_group(worker, tasks)

    def _group_size(self) -> int:
        """Return how many tasks go together: all there is makes two groups a worker."""
        sent = sum(len(group.tasks) for worker in self._workers for group in worker.groups)
        most = min(MOST_IN_GROUP, max(1, MOST_STATE_BYTES // max(self._state_bytes, 1)))
        return min(most, ceil((len(self._shared) + sent) / (2 * len(self._workers))))

    def _send_group(self, worker: _Worker, tasks: list[_Task]) -> None:
        buffers: list[Any] = []
        places: dict[Any, int] = {}

        def at(reference: Any) -> int:
            if reference not in places:
                places[reference] = len(buffers)
                buffers.append(reference)
            return places[reference]

        group = [task.job.assignment for task in tasks]
        base_at = [at(task.job.base) for task in tasks]
        state_at = [
            (at(s.handle), s.start, s.stop) if (s := task.job.state) else None for task in tasks
        ]
        payloads, states, receipt = worker.train.remote(group, base_at, state_at, *buffers)
        admissions = self._server.admit.remote(group, receipt, payloads)
        worker.groups.append(_Group(tasks, payloads, states, receipt, admissions))
        if len(worker.groups) == 1:
            worker.deadline = self._deadline(worker)

    def _deadline(self, worker: _Worker) -> float:
        """Return when the worker's first group must be done: a call's limit for each member."""
        members = len(worker.groups[0].tasks) if worker.groups else 0
        return time.monotonic() + self._limits.train_s * members

    # ------------------------------------------------------------ when something goes wrong

    def _started(self, worker: _Worker) -> None:
        """An actor answers, for the first time or again."""
        try:
            identity: Identity = ray.get(worker.ready)
        except LOST_ACTOR as error:
            if time.monotonic() > worker.ready_by or _in_constructor(error):
                raise RunError(f"{worker.name} cannot start: {_first_line(error)}") from error
            time.sleep(SLICE_S)  # it is being restarted
            worker.ready = worker.actor.identity.remote()
            return
        except ray_errors.RayTaskError as error:
            raise RunError(f"{worker.name} cannot start: {_cause(error)}") from error
        self._meet(identity, worker.name)
        worker.ready = None
        self._note("actor_started", actor=worker.name, node=identity.host)

    def _overdue(self) -> None:
        """Replace actors that have missed their deadline."""
        now = time.monotonic()
        for worker in self._workers:
            if worker.ready is not None and now > worker.ready_by:
                waited = self._limits.start_s
                raise RunError(
                    f"{worker.name} did not start within limits.start_s = {waited:g} s and what "
                    "the fleet is expected to take. Is the cluster full? `ray status` tells. "
                    "Raise limits.start_s or lower fleet.clients."
                )
            if worker.groups and worker.ready is None and now > worker.deadline:
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

    def _is_trained(self, worker: _Worker, now: float) -> bool:
        """Say whether a late worker has done its part, and the server is what is waited for."""
        trained, _ = ray.wait([worker.groups[0].receipt], timeout=0, fetch_local=False)
        if trained and now > worker.deadline + self._limits.server_s:
            raise RunError(
                "the parameter server did not admit an update within limits.server_s = "
                f"{self._limits.server_s:g} s"
            )
        return bool(trained)

    def _failed(self, worker: _Worker, group: _Group, error: Exception) -> None:
        """Sort out whether the worker, the server or the user's code has failed."""
        try:
            ray.get(group.receipt, timeout=0)
        except LOST_ACTOR as lost:
            self._lost(worker, lost)
        except ray_errors.GetTimeoutError:
            raise RunError(f"the parameter server failed: {_cause(error)}") from error
        except ray_errors.RayTaskError as own:
            failing = ", ".join(str(tuple(t.job.assignment.address)) for t in group.tasks)
            text = f"training failed for (client, number) {failing} on {worker.name}: {_cause(own)}"
            self._note("training_error", actor=worker.name, detail=text)
            raise RunError(text) from own
        else:
            raise RunError(f"the parameter server failed: {_cause(error)}") from error

    def _lost(self, worker: _Worker, error: Exception) -> None:
        """An actor is gone: wait for its successor and send everything again, one by one."""
        cause = "deadline" if worker.overran else type(error).__name__
        self._note("actor_lost", actor=worker.name, detail=f"{cause}: {_first_line(error)}")
        groups, worker.groups = list(worker.groups), deque()
        worker.overran = False
        worker.ready = worker.actor.identity.remote()
        worker.ready_by = time.monotonic() + self._limits.start_s
        self._charge(groups)
        for task in (task for group in groups for task in group.tasks):
            address = task.job.assignment.address
            what = {
                "actor": worker.name,
                "client": address.client,
                "number": address.number,
                "attempt": task.attempt,
                "detail": cause,
            }
            if task.attempt >= self._limits.attempts:
                self._note("given_up", **what)
                task.result = Finished(None)
            else:
                self._note("resent", **what)
                heapq.heappush(worker.tasks, task)

    def _charge(self, groups: list[_Group]) -> None:
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

    def _meet(self, identity: Identity, name: str) -> None:
        """Note where an actor is; refuse one that imports other code under our names."""
        self._processes[name] = identity
        own = identify()
        if identity.code != own.code:
            raise RunError(
                f"{name} on {identity.host} runs other code: its packages policies, actors and "
                f"orchestrator come from {identity.where}, the driver's from {own.where}. Install "
                "the same version on every node, and keep folders of these names out of the "
                "working folder."
            )

    # ------------------------------------------------------------ waiting

    def _pending(self, reference: Any, what: str) -> _PendingCall[Any]:
        return _PendingCall(self, lambda: reference, self._limits.server_s, what)

    def _get(self, reference: Any, deadline_s: float, what: str) -> Any:
        return _PendingCall(self, lambda: reference, deadline_s, what).result()

    def wait_for(self, done: Callable[[], bool], wanted: Callable[[], Any]) -> None:
        """Turn the wheel until `done`; `wanted` gives the reference that is waited for.

        Raises:
            Interrupted: If somebody wants the run to end.
        """
        while not done():
            self._check()
            self._turn(wanted(), SLICE_S)

    def wait_for_task(self, task: _Task) -> Finished:
        """Turn the wheel until a task has a result; its worker's deadlines bound the wait."""
        while task.result is None:
            self._check()
            self._turn(None, SLICE_S, task)
        return task.result


class _PendingTask:
    """The result of a job that may still be on its way."""

    def __init__(self, runtime: RayRuntime, task: _Task) -> None:
        self._runtime = runtime
        self._task = task

    def done(self) -> bool:
        return self._task.result is not None

    def result(self) -> Finished:
        return self._runtime.wait_for_task(self._task)


class _PendingCall(Generic[T]):
    """The result of a call that may still be on its way; a lost actor is asked again."""

    def __init__(
        self,
        runtime: RayRuntime,
        call: Callable[[], Any],
        deadline_s: float,
        what: str,
        *,
        tries: int = 1,
    ) -> None:
        self._runtime = runtime
        self._call = call
        self._what = what
        self._tries = tries
        self._deadline_s = deadline_s
        self._value: tuple[T] | None = None
        self._ask()

    def _ask(self) -> None:
        self._reference = self._call()
        self._end = time.monotonic() + self._deadline_s

    def done(self) -> bool:
        """Say whether the result is here.

        Raises:
            RunError: If it failed, or has not come within its deadline.
        """
        if self._value is not None:
            return True
        ready, _ = ray.wait([self._reference], timeout=0, fetch_local=False)
        if not ready:
            if time.monotonic() > self._end:
                raise RunError(f"waited {self._deadline_s:g} s for {self._what}, in vain")
            return False
        try:
            self._value = (ray.get(self._reference),)
        except LOST_ACTOR as error:
            self._tries -= 1
            if self._tries <= 0 or _in_constructor(error):
                raise RunError(f"lost {self._what}: {_first_line(error)}") from error
            time.sleep(SLICE_S)  # the actor is being restarted
            self._ask()
            return False
        except ray_errors.RayTaskError as error:
            if isinstance(error.cause, ExperimentError):  # as it would be said without Ray
                raise ExperimentError(str(error.cause)) from error
            raise RunError(f"{self._what} failed: {_cause(error)}") from error
        return True

    def result(self) -> T:
        self._runtime.wait_for(self.done, lambda: self._reference)
        if self._value is None:
            raise RunError(f"{self._what} has no result")
        return self._value[0]


class _PendingParts(Generic[T]):
    """Lists from several actors, put together in the order that was asked for."""

    def __init__(self, calls: Sequence[tuple[Sequence[int], _PendingCall[list[T]]]]) -> None:
        self._calls = calls

    def done(self) -> bool:
        return all(call.done() for _, call in self._calls)

    def result(self) -> list[T]:
        found: dict[int, T] = {}
        for places, call in self._calls:
            found |= zip(places, call.result(), strict=True)
        return [found[place] for place in sorted(found)]


def _options(resources: ActorResources) -> dict[str, Any]:
    wanted = demand(resources)
    options: dict[str, Any] = {"num_cpus": wanted.pop("CPU", 0)}
    options["num_gpus"] = wanted.pop("GPU", 0)
    if "memory" in wanted:
        options["memory"] = wanted.pop("memory")
    return options | {"resources": wanted}


def _in_constructor(error: BaseException) -> bool:
    """Say whether an actor died because it could not even be made: asking again is in vain."""
    return "creation task" in str(error)


def _lines(error: BaseException) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return [line.strip() for line in plain.splitlines() if line.strip()]


def _first_line(error: BaseException) -> str:
    """Return what an error says first, or, of an actor that could not be made, why."""
    lines = _lines(error) or [type(error).__name__]
    return lines[-1] if _in_constructor(error) else lines[0]


def _cause(error: BaseException) -> str:
    """Return what really went wrong in an actor, with where."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, ExperimentError):
        return str(cause)
    where = [line for line in _lines(error) if line.startswith("File ")]
    place = f" ({where[-1]})" if where else ""
    text = _lines(error)[-1] if cause is error else _first_line(cause)
    return f"{type(cause).__name__}: {text}{place}"
