"""How are a run's actors made, asked and watched?

The driver owns every reference, and waits in one place: `RayRuntime.turn` sends what waits, then
waits for a group, an actor that starts, or the one answer that is wanted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import psutil
import ray
import torch
from ray import exceptions as ray_errors

from actors.changes import may_change
from actors.client import ClientActor
from actors.encoder import EncoderActor, Pass
from actors.evaluator import Evaluator, EvaluatorActor
from actors.first_version import first_version
from actors.identity import Identity, identify, pss_bytes
from actors.intake import Delivery
from actors.lane import HAS_LANES, Answer
from actors.learning.evaluation_torch import Evaluation, Score
from actors.learning.holdings import Description, Holdings
from actors.pieces import join
from actors.publisher import Shipment
from actors.server import Receipt, Snapshot
from actors.shared import Shared
from actors.stopwatch import Stopwatch, Usage
from actors.tutor import public_of
from actors.work import Order, Work, packed, unpacked
from orchestrator.cells import Cells
from orchestrator.fleet import ActorResources
from orchestrator.handed import Made, Settling, exam_of, pieces
from orchestrator.hosting import Hosting, reserving, shortage, whole_cpus
from orchestrator.on_ray.cells import CelledServers
from orchestrator.on_ray.cluster import own_node
from orchestrator.on_ray.crew import Crew, Worker
from orchestrator.on_ray.lanes import MOST_BYTES, Lanes, Local, stored
from orchestrator.on_ray.nodes import NodeWatch
from orchestrator.on_ray.servers import Servers
from orchestrator.on_ray.waiting import (
    LOST_ACTOR,
    SLICE_S,
    PendingCall,
    PendingParts,
    cause,
    first_line,
    in_constructor,
)
from orchestrator.runtime import (
    Finished,
    First,
    Handle,
    Job,
    Passed,
    Pending,
    Place,
    Setback,
    States,
    Task,
)
from orchestrator.sections import Limits
from policies.types import Address, Buffer, ExperimentError, RunError, Version

LOOK_S: Final = 0.005
"""How long an answer of Ray's may wait to be seen while lanes are in use."""
ONCE_MORE: Final = {"max_restarts": -1, "max_task_retries": 0}
"""Ray starts such an actor again, and the run alone asks it again."""


class FromStore:
    """Fetches the holdings inside an actor, also inside a restarted one.

    The reference travels as bytes, so that Ray does not take it for an argument that could be
    gone when an actor restarts. Ray keeps what such bytes name as long as the driver lives, so
    there is one of these a run.
    """

    def __init__(self, holdings: Holdings) -> None:
        self._reference = ray.cloudpickle.dumps(ray.put(holdings))

    def __call__(self) -> Holdings:
        """Return them, their arrays as views of the node's one copy."""
        holdings: Holdings = ray.get(ray.cloudpickle.loads(self._reference))
        return holdings

    def node(self) -> str:
        """Name the node that this process is on."""
        return own_node()


class Placement(NamedTuple):
    """How clients are hosted.

    Attributes:
        hosting: One actor a client, or a few for all.
        resources: Of each client's actor, where each has one.
        cells: Of the fleet, where updates are summed near their clients.
        grows: Whether a pool takes in what new nodes have.
        grown: Is told how many client actors there are then.
        watch: Tells of nodes that come and go, where that can happen.
    """

    hosting: Hosting
    resources: Sequence[ActorResources] = ()
    cells: Cells | None = None
    grows: bool = False
    grown: Callable[[int], None] = lambda _: None
    watch: NodeWatch | None = None


class RayRuntime:
    """Trains, admits, commits and evaluates in actors.

    Args:
        work: What actors are told.
        holdings: The clients' examples.
        stored: The same for actors; one copy a node.
        placement: How clients are hosted.
        limits: Deadlines and tries.
        note: Takes what its work took, as a row of the ops log.
        paths: Folders of the user's own modules.
        watch: Of the driver.
        check: Called while waiting; raises `Interrupted` to end the wait.
    """

    def __init__(
        self,
        work: Work,
        holdings: Holdings,
        stored: FromStore,
        *,
        placement: Placement,
        limits: Limits,
        note: Callable[..., None],
        paths: Sequence[str] = (),
        watch: Stopwatch,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        hosting, cells = placement.hosting, placement.cells
        self._placement = placement
        self._make_evaluator = partial(Evaluator, work, holdings)
        self._note = note
        self.limits = limits
        self._check = check
        self._watch = watch
        self._processes: dict[str, Identity] = {}
        self._cpu_before_s: dict[int, float] = {}
        settings = work.model_dump(mode="json")
        self._arguments = (settings, list(paths), stored)
        dedicated = hosting.kind == "dedicated"
        self._evaluator: Any = None
        by = time.monotonic() + limits.start_s + hosting.start_s
        workers = [self._worker(index, by) for index in range(_at_first(placement))]
        told = (settings, list(paths), holdings.shape)
        gpus = 0.0 if work.split is None else work.split.num_gpus
        served = ray.remote(EncoderActor).options(num_cpus=0, num_gpus=gpus, **ONCE_MORE)
        replicas = 0 if work.split is None else work.split.replicas
        self._encoders = [served.remote(*told) for _ in range(replicas)]
        self._actors = [*self._encoders]
        first = first_version(work, holdings.shape)
        alone = cells is None and work.shards == 1 and work.split is None
        self._small = first.message.nbytes <= MOST_BYTES
        self._lanes = Lanes(own_node()) if HAS_LANES and alone and self._small else None
        self._crew = Crew(
            workers,
            dedicated=dedicated,
            admit=self._admit_group,
            limits=limits,
            note=note,
            meet=self._meet,
            start_s=limits.start_s + hosting.start_s,
            queue_of=(lambda _: 0) if cells is None else cells.cell_of,
            lanes=self._lanes,
        )
        public = public_of(work, holdings)
        self._servers = (
            Servers(work, paths, first, limits.server_s, public)
            if cells is None
            else CelledServers(work, paths, first, limits.server_s, cells, public)
        )
        self._actors += self._servers.actors
        self._crew.expect(first.state_bytes, first.message.nbytes)
        self._first = First(first.schema, self.put(first.message), first.whole)
        self._changes = work.shards == 1 and may_change(work.method, first.schema)
        self._newest: Handle = self._first.handle
        self._starting = {
            **self._servers.identities(),
            **{
                encoder.identity.remote(): f"encoder {place}"
                for place, encoder in enumerate(self._encoders)
            },
        }
        self._start_by = by
        self._look_at = 0.0

    def _worker(self, index: int, ready_by: float, *, proven: bool = False) -> Worker:
        """Start a client actor."""
        placement, cells = self._placement, self._placement.cells
        name, cell, wanted = f"worker-{index}", None, ActorResources(num_cpus=1)
        if placement.hosting.kind == "dedicated":
            name, wanted = f"client-{index}", placement.resources[index]
        elif cells is not None and cells.placed:
            cell = cells.of_worker(index)
            wanted = cells.near(cell)
        shell = ray.remote(ClientActor).options(**ONCE_MORE, **reserving(wanted))
        return Worker(name, shell.remote(*self._arguments), ready_by, cell=cell, proven=proven)

    # ------------------------------------------------------------ the port

    @property
    def numerics(self) -> str:
        """What equality of digests is promised for."""
        return " and ".join(sorted({i.numerics for i in self._processes.values()}))

    def initial(self) -> First:
        """Return version 0."""
        return self._first

    def begin(self) -> None:
        """Wait until a client can train; others, the server and the evaluator may come later."""
        while not self._crew.is_there():
            self.turn()
        have, wanted = len(self._crew.all()), self._placement.hosting.actors
        by = time.monotonic() + self.limits.start_s + self._placement.hosting.start_s
        self._crew.hire([self._worker(index, by) for index in range(have, wanted)])
        self._examiner()
        self._cpu_before_s = _children_cpu_s()

    def submit(self, job: Job) -> Pending[Finished]:
        """Queue a job; it is sent with the next look at the workers."""
        return _PendingTask(self, self._crew.add(job))

    def pump(self, timeout_s: float) -> None:
        """Take in what is finished and send what waits."""
        self.turn(timeout_s=timeout_s)

    def deliver(self, deliveries: Sequence[Delivery], payloads: Buffer) -> None:
        """Admit payloads from a checkpoint again."""
        for reference in self._servers.deliver(deliveries, np.asarray(payloads)):
            self._get(reference, self.limits.server_s, "the server to admit")

    def commit(
        self, addresses: Sequence[Address], expected: Version
    ) -> tuple[Pending[Receipt], Handle]:
        """Make the next version; clients can be sent its handle at once."""
        receipt, piece = self._servers.commit(addresses, expected)
        pending = self._pending(receipt, f"version {expected.number + 1}")
        if isinstance(piece, Answer):
            piece = Local(partial(self._made, piece, pending))
        if not self._changes:
            return pending, piece
        self._newest = made = Made(piece, self._newest, pending)
        return Settling(pending, made), made

    def _made(self, answer: Answer, receipt: PendingCall[Receipt]) -> Shared:
        """Wait for the memory that a commit gives, and for nothing else; raises as its receipt."""
        assert self._lanes is not None  # noqa: S101  # it came through one
        while not receipt.done():
            self._check()
            self._lanes.wait(SLICE_S)
        (shared,) = answer.result()[1]
        return shared

    def rollback(self, expected: Version, target: Handle) -> tuple[Pending[Receipt], Handle]:
        """Publish `target` again under a new lineage."""
        receipt, self._newest = self._servers.rollback(expected, pieces(target))
        what = f"the rollback after version {expected.number}"
        return self._pending(receipt, what), self._newest

    def encoder_weights(self) -> Handle:
        """Return the weights that the encoder begins with; waits until it has started."""
        encoder = self._own_encoders()[0]
        found = PendingCall[Buffer](
            self,
            encoder.first_weights.remote,
            self.limits.start_s,
            "the encoder",
            tries=self.limits.attempts,
        )
        return ray.put(found.result())

    def compute(self, asked: Pass, buffers: Sequence[Handle], replica: int) -> Pending[Passed]:
        """Have a pass computed; asked again if its encoder dies."""
        return _PendingPass(self, self._own_encoders()[replica], asked, buffers)

    def _own_encoders(self) -> list[Any]:
        if not self._encoders:
            raise TypeError("this model has no encoder of its own")
        return self._encoders

    def discard(self, addresses: Sequence[Address]) -> None:
        """Let the server forget updates."""
        if addresses:
            self._servers.discard(addresses)

    def evaluate(
        self, version: Handle, encoder: Handle | None = None, states: States = ()
    ) -> Pending[Evaluation]:
        """Test a version; asks again if the evaluator dies."""
        if self._evaluator is None and self._small:
            exam, given = exam_of(version, encoder, states)
            examine = self._make_evaluator().examine
            return _TestHere(self, partial(examine, exam, [*map(self._bytes, given)]))

        def ask() -> Any:
            if self._evaluator is None and not self._crew.is_there():
                return None  # version 0 is tested when training is under way
            exam, buffers = exam_of(version, encoder, states)
            return self._examiner().evaluate.remote(packed(exam), *map(stored, buffers))

        return PendingCall(
            self,
            ask,
            self.limits.evaluate_s,
            "an evaluation",
            tries=self.limits.attempts,
        )

    def _examiner(self) -> Any:
        """Return the evaluator, started now if it is not there."""
        if self._evaluator is None:
            shell = ray.remote(EvaluatorActor).options(num_cpus=0, **ONCE_MORE)
            self._evaluator = shell.remote(*self._arguments)
            self._actors.append(self._evaluator)
            self._starting[self._evaluator.identity.remote()] = "evaluator"
            self._start_by = max(self._start_by, time.monotonic() + self.limits.start_s)
        return self._evaluator

    def evaluate_at(self, version: Handle, clients: Sequence[int]) -> Pending[list[Score]]:
        """Test a version at clients; asks again if an actor dies."""
        return self._at_clients(
            clients,
            lambda actor, part: actor.evaluate.remote(part, *map(stored, pieces(version))),
            self.limits.evaluate_s,
            "a federated evaluation",
        )

    def describe(self, clients: Sequence[int]) -> list[Description]:
        """Count clients' examples where they are."""
        pending: PendingParts[Description] = self._at_clients(
            clients,
            lambda actor, part: actor.describe.remote(part),
            self.limits.start_s,
            "clients' examples",
        )
        return pending.result()

    def _at_clients(
        self,
        clients: Sequence[int],
        ask: Callable[[Any, list[int]], Any],
        deadline_s: float,
        what: str,
    ) -> PendingParts[Any]:
        """Ask the actors of some clients; pooled ones share them evenly."""
        calls = []
        for actor, places in self._crew.hosts(clients):
            part = [clients[place] for place in places]
            call = partial(_ask_one, ask, actor, part)
            tries = self.limits.attempts
            calls.append((places, PendingCall[Any](self, call, deadline_s, what, tries=tries)))
        return PendingParts(calls)

    def _admit_group(self, order: Order, told: bytes, receipt: Any, payloads: Handle) -> Any:
        return self._servers.admit(order, told, receipt, payloads)

    def snapshot(self, expected: Version) -> Snapshot:
        """Return the server's state once it has reached a version."""
        found = [
            self._get(reference, self.limits.server_s, "the server's state")
            for reference in self._servers.snapshot(expected)
        ]
        return self._servers.gathered(found)

    def quote(self, held: Sequence[Version | None], to: Version) -> list[Shipment]:
        """Return what clients' messages take; the server counts them."""
        reference = self._servers.quote(held, to)
        found: list[Shipment] = self._get(reference, self.limits.server_s, "the server to count")
        return found

    def restore(self, snapshot: Snapshot, versions: Sequence[Handle]) -> None:
        """Let the server go on from a snapshot."""
        for reference in self._servers.restore(snapshot, versions):
            self._get(reference, self.limits.server_s, "the server")
        self._newest = versions[-1]

    def put(self, buffer: Buffer) -> Handle:
        """Keep a buffer; the driver owns it."""
        return ray.put(np.asarray(buffer)) if self._lanes is None else Local(Shared.of(buffer))

    def fetch(self, what: Handle | Place) -> Buffer:
        """Return the bytes behind a handle."""
        if isinstance(what, Place):
            return self._bytes(what.handle)[what.start : what.stop]
        return join([self._bytes(piece) for piece in pieces(what)], self._first.schema)

    def _bytes(self, handle: Handle) -> Buffer:
        if isinstance(handle, Local):
            return handle.array
        found: Buffer = self._get(handle, self.limits.server_s, "a buffer")
        return found

    def usage(self) -> dict[str, Usage]:
        """Ask every actor; of a Ray on this machine that the run has started, its own processes."""
        encoders = {f"encoder {place}": actor for place, actor in enumerate(self._encoders)}
        actors = {
            "evaluator": self._examiner(),
            **encoders,
            **self._servers.by_name(),
            **self._crew.actors(),
        }
        asked = {name: actor.usage.remote() for name, actor in actors.items()}
        found: dict[str, Usage] = {}
        for name, reference in asked.items():
            with suppress(RunError):  # it is gone, and what it did with it
                found[name] = self._get(reference, self.limits.server_s, f"the {name}'s usage")
        ours = {identity.pid for identity in self._processes.values()}
        of_ray = {
            pid: spent - self._cpu_before_s.get(pid, 0.0)
            for pid, spent in _children_cpu_s().items()
            if pid not in ours
        }
        return found | ({"Ray itself": Usage((), sum(of_ray.values()))} if of_ray else {})

    def memory(self) -> dict[str, int]:
        """Return the memory of the driver and of all actors on its machine, by name."""
        here = identify().host
        pids = {name: i.pid for name, i in self._processes.items() if i.host == here}
        return {"driver": pss_bytes()} | {name: pss_bytes(pid) for name, pid in pids.items()}

    def close(self) -> None:
        """End all actors of the run."""
        if self._lanes is not None:
            self._lanes.close()
        for actor in [*self._actors, *self._crew.all()]:
            with suppress(ray_errors.RayError):  # it may be gone with its node
                ray.kill(actor)

    # ------------------------------------------------------------ turning the wheel

    def turn(self, wanted: Any = None, timeout_s: float = SLICE_S) -> None:
        """Send what waits, then wait for `wanted`, a group, or an actor to be there."""
        self._check()
        with self._watch("send work"):
            self._crew.send()
        watched = [*self._starting, *self._crew.watched()]
        if wanted is not None and not isinstance(wanted, Answer):
            watched.append(wanted)
        ready: list[Any] = []
        if self._lanes is not None and self._lanes.busy:
            ready = self._wait_for_either(self._lanes, watched, timeout_s)
        elif not watched:
            time.sleep(min(timeout_s, SLICE_S))  # all are lost, and asked again in a moment
        else:
            ready = self._wait(watched, timeout_s)
        for reference in self._starting.keys() & set(ready):
            self._started(reference)
        with self._watch("take in answers"):
            self._crew.take(ready)
        if self._starting and time.monotonic() > self._start_by:
            names = " and the ".join(self._starting.values())
            raise RunError(
                f"the {names} did not start within limits.start_s = {self.limits.start_s:g} s and "
                "what the fleet is expected to take. Is the cluster full? `ray status` tells."
            )
        self._look_at_nodes()
        self._crew.overdue()  # after what is finished was taken: a run that was held is not late

    def _wait_for_either(self, lanes: Lanes, watched: Sequence[Any], timeout_s: float) -> list[Any]:
        """Wait for an answer on a lane or for one of these; return those of them that are there.

        Ray's side is looked at now and then: looking costs as much as an update or two.
        """
        end = time.monotonic() + timeout_s
        while True:
            left = end - time.monotonic()
            with self._watch("wait"):
                found = lanes.wait(max(0.0, min(left, LOOK_S) if watched else left))
            now = time.monotonic()
            if watched and now > self._look_at:
                self._look_at = now + LOOK_S
                ready = self._wait(watched, 0)
                if ready:
                    return ready
            if found or now >= end:
                return []

    def _wait(self, watched: Sequence[Any], timeout_s: float) -> list[Any]:
        """Wait for one of these; return all that are there by then."""
        with self._watch("wait"):
            ready, others = ray.wait(watched, num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready and others:
            more, _ = ray.wait(others, num_returns=len(others), timeout=0, fetch_local=False)
            ready += more
        return list(ready)

    def _look_at_nodes(self) -> None:
        """Note nodes that have come and gone, and what follows for the clients' actors.

        Raises:
            Setback: If actors that host one client each find no room any more.
        """
        placement = self._placement
        change = placement.watch.look() if placement.watch is not None else None
        if change is None:
            return
        for kind, nodes in {"node_lost": change.gone, "node_added": change.come}.items():
            for node in nodes:
                self._note(kind, node=node.name)
        if placement.hosting.kind == "dedicated":
            lacking = shortage(change.there, [(wanted, 1) for wanted in placement.resources])
            if lacking is not None:
                raise Setback(f"a node is lost, and {lacking}")
        elif placement.grows:
            have, room = len(self._crew.all()), whole_cpus(change.there)
            by = time.monotonic() + self.limits.start_s
            self._crew.hire([self._worker(i, by, proven=True) for i in range(have, room)])
            if room > have:
                placement.grown(room)

    def _started(self, reference: Any) -> None:
        """Meet the server or the evaluator."""
        name = self._starting.pop(reference)
        try:
            identity: Identity = ray.get(reference)
        except LOST_ACTOR as error:
            if not in_constructor(error):
                raise Setback(f"the {name} is lost: {first_line(error)}") from error
            raise RunError(f"the {name} cannot start: {first_line(error)}") from error
        except ray_errors.RayTaskError as error:
            raise RunError(f"the {name} cannot start: {cause(error)}") from error
        self._meet(identity, name)
        if name == "parameter server" and self._lanes is not None:
            self._servers.lane = self._lanes.open(replace(identity, node=own_node()), server=True)

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

    def _pending(self, reference: Any, what: str) -> PendingCall[Receipt]:
        return PendingCall(self, lambda: reference, self.limits.server_s, what, read=unpacked)

    def _get(self, reference: Any, deadline_s: float, what: str) -> Any:
        return PendingCall[Any](self, lambda: reference, deadline_s, what).result()


def _ask_one(
    ask: Callable[[Any, list[int]], Any], actor: Callable[[], Any], part: list[int]
) -> Any:
    """Ask an actor that is chosen now."""
    return ask(actor(), part)


def _at_first(placement: Placement) -> int:
    """Return how many client actors start at once.

    On a machine that the run has for itself one CPU is left to the server: actors that start
    together on fewer CPUs are all as late as the last one.
    """
    actors = placement.hosting.actors
    if placement.hosting.kind == "dedicated" or placement.watch is not None:
        return actors
    return max(1, min(actors, (os.cpu_count() or 1) - 1))


class _PendingTask:
    """The result of a job that may still be on its way; its worker's deadlines bound the wait."""

    def __init__(self, runtime: RayRuntime, task: Task) -> None:
        self._runtime = runtime
        self._task = task

    def done(self) -> bool:
        return self._task.result is not None

    def result(self) -> Finished:
        while self._task.result is None:
            self._runtime.turn()
        return self._task.result


class _TestHere:
    """A test in the driver, on a thread: nobody waits then until an evaluator has started."""

    def __init__(self, runtime: RayRuntime, examine: Callable[[], Evaluation]) -> None:
        self._runtime = runtime
        pool = ThreadPoolExecutor(1, "test", torch.set_num_threads, (1,))
        self._future = pool.submit(examine)
        pool.shutdown(wait=False)

    def done(self) -> bool:
        return self._future.done()

    def result(self) -> Evaluation:
        while not self._future.done():
            self._runtime.turn(timeout_s=LOOK_S)
        try:
            return self._future.result()
        except ExperimentError:
            raise
        except Exception as error:
            raise RunError(f"an evaluation failed: {cause(error)}") from error


class _PendingPass(PendingCall[Passed]):
    """A pass of the encoder; what it gives besides its receipt stays where it is."""

    def __init__(
        self, runtime: RayRuntime, encoder: Any, asked: Pass, buffers: Sequence[Handle]
    ) -> None:
        told, limits = packed(asked), runtime.limits
        compute = encoder.compute.options(num_returns=3)

        def call() -> Any:
            self._replies, self._weights, receipt = compute.remote(told, *buffers)
            return receipt

        def read(receipt: bytes) -> Passed:
            return Passed(self._replies, self._weights, unpacked(receipt))

        what = f"pass {asked.number} of the encoder"
        super().__init__(runtime, call, limits.server_s, what, tries=limits.attempts, read=read)


def _children_cpu_s() -> dict[int, float]:
    """Return the CPU seconds of all processes that this one has started, by their ids."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = process.cpu_times()
            found[process.pid] = float(times.user + times.system)
    return found
