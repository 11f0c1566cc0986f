"""How do several threads of one process train?

Each has a client of its own. What they are given and what comes back passes through the thread
that runs the engine, which alone speaks to the server: who trained what, and when, changes no bit.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from math import ceil
from queue import SimpleQueue
from typing import Final

import torch

from actors.client import Client
from actors.stopwatch import Stopwatch
from actors.work import GroupReceipt
from orchestrator.handed import order_of
from orchestrator.runtime import Task
from policies.types import Buffer, RunError

Trained = tuple[Buffer, Buffer, GroupReceipt]
Take = Callable[[Sequence[Task], Trained], None]
AHEAD: Final = 2
"""Groups a thread has at the most: one under way, and a full one to go on with."""


class Threads:
    """Trains groups on several threads.

    Args:
        clients: One for each thread.
        most: Tasks in a group at the most.
        take: Is given what came of a group, on the thread that asks.
    """

    def __init__(self, clients: Sequence[Client], most: int, take: Take) -> None:
        self._clients = clients
        self._most = most
        self._take = take
        self._free: SimpleQueue[Client] = SimpleQueue()
        for client in clients:
            self._free.put(client)
        self._pool = ThreadPoolExecutor(len(clients), "train", torch.set_num_threads, (1,))
        self._waiting: list[Task] = []
        self._under_way: dict[Future[Trained], Sequence[Task]] = {}
        self._random = torch.default_generator.get_state()

    @property
    def watches(self) -> list[Stopwatch]:
        """Where each thread's time goes."""
        return [client.watch for client in self._clients]

    def add(self, task: Task) -> None:
        """Queue a task; a full group is sent at once."""
        heapq.heappush(self._waiting, task)
        if len(self._waiting) >= self._most:
            self._send_full()

    def train(self, task: Task) -> None:
        """Wait until a task is done; those that are needed earlier are begun before it."""
        while task.result is None:
            self._send_full()
            self._send_to_idle()
            if not self._under_way:
                raise RunError("an update's group has failed before")
            for future in wait(self._under_way, return_when=FIRST_COMPLETED).done:
                tasks = self._under_way.pop(future)
                found = future.result()
                self._look_at_randomness()
                self._take(tasks, found)

    def close(self) -> None:
        """End the threads; what they are at comes to nothing."""
        self._pool.shutdown(cancel_futures=True)

    def _send_full(self) -> None:
        while len(self._waiting) >= self._most and self._under_way_less_than(AHEAD):
            self._send(self._most)

    def _send_to_idle(self) -> None:
        """Share what is left, less than a full group or one for each, out to idle threads."""
        while self._waiting and self._under_way_less_than(1):
            idle = len(self._clients) - len(self._under_way)
            self._send(min(self._most, ceil(len(self._waiting) / idle)))

    def _under_way_less_than(self, groups: int) -> bool:
        return len(self._under_way) < groups * len(self._clients)

    def _send(self, count: int) -> None:
        tasks = [heapq.heappop(self._waiting) for _ in range(count)]
        order, buffers = order_of(tasks)

        def work() -> Trained:
            client = self._free.get()
            try:
                return client.train_group(order, buffers)
            finally:
                self._free.put(client)

        self._under_way[self._pool.submit(work)] = tasks

    def _look_at_randomness(self) -> None:
        """Refuse numbers that were drawn from torch's own generator, which threads share.

        Raises:
            RunError: If some were.
        """
        if not torch.equal(torch.default_generator.get_state(), self._random):
            raise RunError(
                "something in this process has drawn from torch's global random generator, which "
                "threads that train share: the run would not repeat. Run it without --workers, or "
                "on Ray."
            )
