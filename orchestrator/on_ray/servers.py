"""How is the parameter server asked, be it one actor or one for each part of the model?

Every part is told the same, in the same order. What they say is put together by the first one, so
that neither payloads nor versions pass the driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray

from actors.first_version import FirstVersion
from actors.intake import Delivery
from actors.lane import Lane
from actors.parameter_server import THREADS, ParameterServer
from actors.parts import gathered
from actors.server import Snapshot
from actors.tutor import Public
from actors.work import Order, Work, packed
from orchestrator.handed import Parts
from orchestrator.on_ray.cluster import beside_the_driver
from orchestrator.on_ray.lanes import Local, stored
from orchestrator.runtime import Handle
from policies.types import Address, Buffer, Version


class Servers:
    """The actors that hold the model.

    Args:
        work: What actors are told.
        paths: Folders of the user's own modules.
        first: Version 0.
        deadline_s: For a version that a call waits for.
        public: Examples that are no client's, where the correction asks for them.

    Attributes:
        lane: To the server, where there is one and it is on this machine.
    """

    def __init__(
        self,
        work: Work,
        paths: Sequence[str],
        first: FirstVersion,
        deadline_s: float,
        public: Public | None = None,
    ) -> None:
        shell = ray.remote(concurrency_groups=THREADS)(ParameterServer)
        where = beside_the_driver() if work.shards == 1 else "SPREAD"
        shell = shell.options(num_cpus=0, max_restarts=0, scheduling_strategy=where)
        settings = work.model_dump(mode="json")
        message = ray.put(first.message) if work.shards > 1 else first.message
        arguments = (settings, list(paths), first.schema, message, deadline_s)
        shown = None if public is None else ray.put(public)
        self.actors = [shell.remote(*arguments, place, shown) for place in range(work.shards)]
        self._schema = first.schema
        self._kept = message, shown  # until all of them have started
        self._admit = [a.admit.options(concurrency_group="admit") for a in self.actors]
        two = {"concurrency_group": "write", "num_returns": 2}
        self._commit = [a.commit.options(**two) for a in self.actors]
        self._rollback = [a.rollback.options(**two) for a in self.actors]
        self._snapshot = [a.snapshot.options(concurrency_group="write") for a in self.actors]
        self._quote = self.actors[0].quote.options(concurrency_group="write")
        self._admitted = self.actors[0].admitted.options(concurrency_group="merge")
        self._sealed = self.actors[0].sealed.options(concurrency_group="merge")
        self.lane: Lane | None = None

    @property
    def in_parts(self) -> bool:
        """Whether each holds a part."""
        return len(self.actors) > 1

    def by_name(self) -> dict[str, Any]:
        """Return them by names for people."""
        if not self.in_parts:
            return {"parameter server": self.actors[0]}
        return {f"parameter server {place}": actor for place, actor in enumerate(self.actors)}

    def identities(self) -> dict[Any, str]:
        """Ask who they are; return the answers' references, and their names."""
        return {actor.identity.remote(): name for name, actor in self.by_name().items()}

    def admit(self, order: Order, told: bytes, receipt: Any, payloads: Handle) -> Any:
        """Have a group admitted; return where what is found will be.

        Args:
            order: What was asked for.
            told: The same, packed.
            receipt: What its actor has said, packed, or the reference of that.
            payloads: What it has made.
        """
        del order  # all of them read all payloads
        here = isinstance(receipt, bytes) and isinstance(payloads, Local)
        if here and self.lane is not None and not self.lane.broken:
            return self.lane.call("admit", packed((told, receipt)), [payloads.shared])
        said = [admit.remote(told, receipt, stored(payloads)) for admit in self._admit]
        return self._admitted.remote(*said) if self.in_parts else said[0]

    def deliver(self, deliveries: Sequence[Delivery], payloads: Buffer) -> list[Any]:
        """Have payloads admitted that were before; return references to wait for."""
        kept = ray.put(payloads)
        return [actor.deliver.remote(list(deliveries), kept) for actor in self.actors]

    def commit(self, addresses: Sequence[Address], expected: Version) -> tuple[Any, Handle]:
        """Have the next version made; return where its receipt will be, and what it is.

        Through a lane both come with the same answer, and that is what is returned for both.
        """
        told = packed((list(addresses), expected))
        if self.lane is not None and not self.lane.broken:
            answer = self.lane.call("commit", told)
            return answer, answer
        return self._made([commit.remote(told) for commit in self._commit])

    def rollback(self, expected: Version, target: Sequence[Handle]) -> tuple[Any, Handle]:
        """Have a version published again, given in pieces; return as `commit` does."""
        whole = list(map(stored, target))
        return self._made([rollback.remote(expected, *whole) for rollback in self._rollback])

    def _made(self, made: Sequence[Sequence[Any]]) -> tuple[Any, Handle]:
        if not self.in_parts:
            receipt, piece = made[0]
            return receipt, piece
        receipts, parts = zip(*made, strict=True)
        return self._sealed.remote(*receipts, *parts), Parts(parts)

    def discard(self, addresses: Sequence[Address]) -> None:
        """Let them forget updates."""
        for actor in self.actors:
            actor.discard.remote(list(addresses))

    def snapshot(self, expected: Version) -> list[Any]:
        """Ask for their state once they have reached a version; see `gathered`."""
        return [snapshot.remote(expected) for snapshot in self._snapshot]

    def gathered(self, snapshots: Sequence[Snapshot]) -> Snapshot:
        """Put their states together."""
        return gathered(snapshots, self._schema) if self.in_parts else snapshots[0]

    def quote(self, held: Sequence[Version | None], to: Version) -> Any:
        """Ask what clients' messages take; return the reference of a list of `Shipment`."""
        return self._quote.remote(list(held), to)

    def restore(self, snapshot: Snapshot, versions: Sequence[Handle]) -> list[Any]:
        """Let them go on from a snapshot; return references to wait for."""
        kept, held = ray.put(snapshot), list(map(stored, versions))
        return [actor.restore.remote(kept, *held) for actor in self.actors]
