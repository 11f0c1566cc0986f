"""How do several processes train without Ray?

They are forked from this one, so that they begin at once, with all that it knows. What they are
given and what comes back crosses lanes, and passes through the thread that runs the engine, which
alone speaks to the server: who trained what, and when, changes no bit.
"""

from __future__ import annotations

import heapq
import multiprocessing
import os
import selectors
import signal
import socket
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import ceil
from typing import Final

import torch

from actors.allocation import keep_freed
from actors.client import Client
from actors.identity import pss_bytes
from actors.lane import HAS_LANES, Answer, Broken, CallError, Lane, serve
from actors.learning.holdings import Holdings
from actors.shared import READERS, Blocks, Pool, Shared
from actors.stopwatch import Usage
from actors.work import GroupReceipt, Work, packed, unpacked
from orchestrator.handed import order_of
from orchestrator.runtime import TRAINER, Task
from policies.types import Buffer, RunError

CAN_FORK: Final = HAS_LANES
"""Whether this system's processes can be forked and share memory."""
Trained = tuple[Buffer, Buffer, GroupReceipt]
Take = Callable[[Sequence[Task], Trained], None]
AHEAD: Final = 2
"""Groups a process has at the most: one under way, and a full one to go on with."""
ENOUGH: Final = 0.75
"""Of a full group, to be sent to a process that is idle before anybody waits."""
PATIENCE: Final = 10
"""How much nicer they are than who asks: with fewer CPUs than processes it comes first, since all
wait for what it hands out."""
END_S: Final = 5.0
"""How long a process may take to end by itself."""


class Trainers:
    """Trains groups in several processes.

    Args:
        work: What is to be done.
        holdings: The clients' examples.
        number: Of processes.
        most: Tasks in a group at the most.
        take: Is given what came of a group, on the thread that asks.
    """

    def __init__(self, work: Work, holdings: Holdings, number: int, most: int, take: Take) -> None:
        in_flight = work.method.aggregation.pacing().cohort or work.method.concurrency
        self._most = min(most, ceil(in_flight / (AHEAD * number)))
        self._enough = ceil(ENOUGH * self._most)
        self._take = take
        self._waiting: list[Task] = []
        self._handed = _Handed()
        self._selector = selectors.DefaultSelector()
        self._trainers: list[_Trainer] = []
        blocks = Blocks()
        for place in range(number):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            others = [trainer.lane.sock for trainer in self._trainers]
            process = multiprocessing.get_context("fork").Process(
                target=_train_for, args=(theirs, [ours, *others], work, holdings), daemon=True
            )
            process.start()
            theirs.close()
            lane = Lane(ours, blocks, place + 1 if place + 1 < READERS else None)
            trainer = _Trainer(f"{TRAINER} {place}", process, lane)
            self._selector.register(ours, selectors.EVENT_READ, trainer)
            self._trainers.append(trainer)

    def add(self, task: Task) -> None:
        """Queue a task; a full group is sent at once, and a fuller one to who is idle."""
        heapq.heappush(self._waiting, task)
        if len(self._waiting) >= self._enough:
            self._look(0)
            self._send_full()
            if len(self._waiting) >= self._enough and (trainer := self._least()).has_less(1):
                self._send(trainer, len(self._waiting))

    def train(self, task: Task) -> None:
        """Wait until a task is done; those that are needed earlier are begun before it.

        Raises:
            RunError: If a process has ended.
        """
        while task.result is None:
            self._send_full()
            self._send_to_idle()
            if not any(trainer.groups for trainer in self._trainers):
                raise RunError("an update's group has failed before")
            self._look()

    def usage(self) -> dict[str, Usage]:
        """Return what each one's time went into, by name."""
        asked = {trainer: trainer.lane.call("usage", b"") for trainer in self._trainers}
        while not all(answer.done() for answer in asked.values()):
            self._look()
        found = {}
        for trainer, answer in asked.items():
            with suppress(Broken):
                found[trainer.name] = unpacked(answer.result()[0])
        return found

    def memory(self) -> dict[str, int]:
        """Return what each one takes, in bytes, by name."""
        pids = {trainer.name: trainer.process.pid for trainer in self._trainers}
        return {name: pss_bytes(pid) for name, pid in pids.items()}

    def close(self) -> None:
        """End the processes; what they are at comes to nothing."""
        for trainer in self._trainers:
            trainer.lane.close()
        for trainer in self._trainers:
            trainer.process.join(END_S)
            if trainer.process.is_alive():
                trainer.process.kill()
                trainer.process.join()
        self._selector.close()

    def _look(self, timeout_s: float | None = None) -> None:
        """Take in what is there; wait for something if nothing is."""
        for key, _ in self._selector.select(timeout_s):
            trainer: _Trainer = key.data
            trainer.lane.take()
            if trainer.lane.broken:
                self._selector.unregister(trainer.lane.sock)
            while trainer.groups and trainer.groups[0][1].done():
                tasks, answer = trainer.groups.pop(0)
                self._take(tasks, self._found(trainer, answer))

    def _found(self, trainer: _Trainer, answer: Answer) -> Trained:
        try:
            receipt, (payloads, states) = answer.result()
        except Broken as error:
            trainer.process.join(END_S)
            raise RunError(
                f"{trainer.name}, a process that trains, has ended with "
                f"{trainer.process.exitcode}: if that is -9, memory may have run out. Take fewer "
                "--workers."
            ) from error
        except CallError as error:
            raise error.cause from error
        return self._handed.array(payloads), self._handed.array(states), unpacked(receipt)

    def _send_full(self) -> None:
        while len(self._waiting) >= self._most and (trainer := self._least()).has_less(AHEAD):
            self._send(trainer, self._most)

    def _send_to_idle(self) -> None:
        """Share what is left, less than a full group or one for each, out to who is idle."""
        while self._waiting and (trainer := self._least()).has_less(1):
            idle = sum(other.has_less(1) for other in self._trainers)
            self._send(trainer, min(self._most, ceil(len(self._waiting) / idle)))

    def _least(self) -> _Trainer:
        return min(self._trainers, key=lambda trainer: len(trainer.groups))

    def _send(self, trainer: _Trainer, count: int) -> None:
        tasks = [heapq.heappop(self._waiting) for _ in range(count)]
        order, buffers = order_of(tasks)
        shared = [self._handed.shared(buffer) for buffer in buffers]
        trainer.groups.append((tasks, trainer.lane.call("train", packed(order), shared)))


class _Trainer:
    """A process that trains, with the groups that it was sent."""

    def __init__(self, name: str, process: multiprocessing.process.BaseProcess, lane: Lane) -> None:
        self.name = name
        self.process = process
        self.lane = lane
        self.groups: list[tuple[Sequence[Task], Answer]] = []

    def has_less(self, groups: int) -> bool:
        return len(self.groups) < groups


class _Handed:
    """Knows of arrays in which shared memory they lie; copies those that lie in none."""

    def __init__(self) -> None:
        self._pool = Pool()
        self._known: dict[int, tuple[weakref.ref[Buffer], Shared]] = {}

    def array(self, shared: Shared) -> Buffer:
        """Return the bytes of shared memory as the array that stands for it.

        What has memory of its own may stay for long, and would keep a file open: it is copied.
        """
        if shared.block is None:
            return shared.array.copy()
        array = shared.array
        self._note(array, shared)
        return array

    def shared(self, array: Buffer) -> Shared:
        """Return the shared memory that has an array's bytes."""
        if id(array) not in self._known:
            shared = self._pool.room(array.size)
            shared.room[:] = array
            self._note(array, shared)
        return self._known[id(array)][1]

    def _note(self, array: Buffer, shared: Shared) -> None:
        place = id(array)
        gone = weakref.ref(array, lambda _: self._known.pop(place, None))
        self._known[place] = gone, shared


def _train_for(
    sock: socket.socket, others: Sequence[socket.socket], work: Work, holdings: Holdings
) -> None:
    """Train what is asked for until nobody is there to ask; the whole life of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that asks decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:
        other.close()
    keep_freed()
    os.nice(PATIENCE)
    torch.set_num_threads(1)
    client, pools = Client(work, holdings), (Pool(), Pool())
    calls = {
        "train": lambda told, buffers: client.train_through(pools, told, buffers),
        "usage": lambda *_: (packed(client.watch.usage()), ()),
    }
    with suppress(Broken):
        serve(sock, calls)
    os._exit(0)  # nothing of what was inherited is to be ended here
