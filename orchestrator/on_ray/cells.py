"""How do updates go through aggregators near their clients?

A payload goes to the aggregator of its cell, and nowhere else; the server is sent one sum a cell
and version. References alone pass the driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray

from actors.cell_aggregator import THREADS, CellAggregator
from actors.first_version import FirstVersion
from actors.intake import Delivery
from actors.server import Snapshot
from actors.tutor import Public
from actors.work import Order, Work, packed
from orchestrator.cells import Cells
from orchestrator.hosting import reserving
from orchestrator.on_ray.servers import Servers
from orchestrator.runtime import Handle
from policies.types import Address, Buffer, Version


class CelledServers(Servers):
    """The server, with an aggregator for each cell."""

    def __init__(
        self,
        work: Work,
        paths: Sequence[str],
        first: FirstVersion,
        deadline_s: float,
        cells: Cells,
        public: Public | None = None,
    ) -> None:
        super().__init__(work, paths, first, deadline_s, public)
        self._cells = cells
        shell = ray.remote(concurrency_groups=THREADS)(CellAggregator)
        arguments = (work.model_dump(mode="json"), list(paths), first.schema)
        self._aggregators = [
            shell.options(max_restarts=0, **reserving(resources)).remote(*arguments, number)
            for number, resources in enumerate(cells.resources)
        ]
        groups = self._aggregators
        self._admit = [a.admit.options(concurrency_group="admit") for a in groups]
        two = {"concurrency_group": "sum", "num_returns": 2}
        self._sum = [a.sum.options(**two) for a in groups]
        (server,) = self.actors
        self._commit_sums = server.commit_sums.options(concurrency_group="write", num_returns=2)
        self.actors = [server, *groups]

    def by_name(self) -> dict[str, Any]:
        """Return them by names for people."""
        aggregators = {f"cell {number}": actor for number, actor in enumerate(self._aggregators)}
        return {"parameter server": self.actors[0], **aggregators}

    def admit(self, order: Order, told: bytes, receipt: Any, payloads: Handle) -> Any:
        """Have a group admitted, all of one cell; return the reference of what is found."""
        cell = self._cells.cell_of(order.group[0].address.client)
        return self._admit[cell].remote(told, receipt, payloads)

    def deliver(self, deliveries: Sequence[Delivery], payloads: Buffer) -> list[Any]:
        """Have payloads admitted that were before; return references to wait for."""
        kept = ray.put(payloads)
        return [
            self._aggregators[self._cells.cell_of(d.address.client)].deliver.remote([d], kept)
            for d in deliveries
        ]

    def commit(self, addresses: Sequence[Address], expected: Version) -> tuple[Any, Handle]:
        """Have the next version made of cells' sums; return its receipt's reference, and it."""
        sent = [
            self._sum[cell].remote(packed((part, expected)))
            for cell, part in self._cells.parts(addresses).items()
        ]
        gathered, sums = zip(*sent, strict=True)
        receipt, piece = self._commit_sums.remote(expected, *gathered, *sums)
        return receipt, piece

    def discard(self, addresses: Sequence[Address]) -> None:
        """Let the cells forget updates."""
        for cell, part in self._cells.parts(addresses).items():
            self._aggregators[cell].discard.remote(part)

    def restore(self, snapshot: Snapshot, versions: Sequence[Handle]) -> list[Any]:
        """Let them go on from a snapshot; return references to wait for."""
        kept = ray.put(snapshot)
        last = ray.put(snapshot.last_number)
        told = [self.actors[0].restore.remote(kept, *versions)]
        return told + [actor.restore.remote(last) for actor in self._aggregators]
