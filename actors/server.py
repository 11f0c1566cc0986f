"""How does the server take updates and make versions?

`Server` is the plain class: `admit` checks a payload the moment it exists, in any order; `commit`
turns admitted updates into the next version, in the order it is given. Repeating an `admit` before
its update is committed, or the last `commit`, changes nothing and gives the same answer.
`ParameterServer` is its remote shell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import xxhash

from actors.identity import Identity, identify, join_paths
from actors.work import Assignment, GroupReceipt, Work
from policies.aggregation import mean_buffers
from policies.types import (
    ACCEPTED,
    Address,
    Arrays,
    Buffer,
    Reason,
    RunError,
    Vector,
    Verdict,
    Version,
    rejected,
)
from policies.update import Contribution, Dense, ModelSchema, Update
from policies.wire import Header, WireError, check_finite, decode, encode, entropy_bytes

T = TypeVar("T")


class Delivery(NamedTuple):
    """Names a payload inside a group's buffer: whose it should be, and where it lies."""

    address: Address
    base: Version
    start: int
    stop: int


class Admission(NamedTuple):
    """What the server found when it read a payload.

    Attributes:
        address: Whose it should be.
        verdict: Accepted, or rejected with a reason.
        uplink_bytes: Its length.
        entropy_bytes: The least that its numbers could take.
        nonzeros: Values in it.
        examples: n_k as reported.
        loss: Mean training loss as reported.
        hash: XXH3-128 of its bytes.
    """

    address: Address
    verdict: Verdict
    uplink_bytes: int
    entropy_bytes: float = 0.0
    nonzeros: int = 0
    examples: int = 0
    loss: float = 0.0
    hash: str = ""


class Committed(NamedTuple):
    """How one update entered a version."""

    address: Address
    staleness: int
    weight: float


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a commit did.

    Attributes:
        version: The version it made.
        bytes: Length of the version's message.
        hash: XXH3-128 of it.
        nonzeros: Parameters that are not zero.
        committed: The updates in it, in order.
    """

    version: Version
    bytes: int
    hash: str
    nonzeros: int
    committed: tuple[Committed, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The server between two versions: enough to make another one that goes on the same."""

    version: Version
    model: Vector
    memory: Arrays
    last_number: dict[int, int]


@dataclass(slots=True)
class _Waiting:
    """An admitted update, and the answer that it got."""

    update: Update
    admission: Admission


class Server:
    """Holds the newest model; moves it by admitted updates, one version at a time."""

    def __init__(self, work: Work, schema: ModelSchema, initial: Buffer) -> None:
        first = decode(initial, schema)
        self._method = work.method
        self._schema = schema
        self._version = first.header.base
        self._model = whole_model(initial, schema)
        self._published = initial
        self._memory = work.method.aggregation.start(schema.parameters)
        self._waiting: dict[Address, _Waiting] = {}
        self._last_number: dict[int, int] = {}  # of each client, the newest that was committed
        self._last: tuple[Receipt, Buffer] | None = None

    @property
    def version(self) -> Version:
        """The newest version made."""
        return self._version

    def admit(self, delivery: Delivery, payload: Buffer) -> Admission:
        """Read a payload, free of order.

        The payload must not change afterwards: what is admitted views it until it is committed or
        discarded.

        Returns:
            The verdict and what was found. The same payload for the same address again gives the
            same answer; another one, or one for an update already committed, is a duplicate.
        """
        address, size = delivery.address, int(payload.size)
        digest = xxhash.xxh3_128_hexdigest(payload.data)
        known = self._waiting.get(address)
        if known is not None and known.admission.hash == digest:
            return known.admission
        if known is not None or address.number <= self._last_number.get(address.client, -1):
            verdict = rejected(Reason.DUPLICATE, f"{address} was delivered before")
            return Admission(address, verdict, size, hash=digest)
        try:
            message = decode(payload, self._schema)
            self._check(message.header, delivery)
            check_finite(message)
        except WireError as error:
            return Admission(address, rejected(error.reason, str(error)), size, hash=digest)
        admission = Admission(
            address,
            ACCEPTED,
            size,
            entropy_bytes(message.content, message.buffers, self._schema),
            message.content.nonzeros,
            message.header.examples,
            message.header.loss,
            digest,
        )
        self._waiting[address] = _Waiting(message.update(), admission)
        return admission

    def admit_group(self, deliveries: Sequence[Delivery], payloads: Buffer) -> list[Admission]:
        """Admit several payloads that lie in one buffer."""
        return [self.admit(d, payloads[d.start : d.stop]) for d in deliveries]

    def discard(self, addresses: Sequence[Address]) -> None:
        """Forget admitted updates that the run does not want; unknown ones are no mistake."""
        for address in addresses:
            self._waiting.pop(address, None)

    def commit(self, addresses: Sequence[Address], expected: Version) -> tuple[Receipt, Buffer]:
        """Make the next version of admitted updates, in the order given.

        Args:
            addresses: Admitted updates.
            expected: The version that they are committed on top of.

        Returns:
            The receipt, and the new version as a message.

        Raises:
            RunError: If the server is at another version, or an update was not admitted or is
                named twice.
        """
        made = Version(expected.number + 1, expected.lineage)
        repeated = self._repeated(expected, made, addresses)
        if repeated is not None:
            return repeated
        missing = [a for a in addresses if a not in self._waiting]
        if missing or not addresses:
            raise RunError(f"commit on {expected} names updates that were not admitted: {missing}")
        if len(set(addresses)) < len(addresses):
            raise RunError(f"commit on {expected} names an update twice: {list(addresses)}")
        batch = [self._contribution(self._waiting[a].update, expected) for a in addresses]
        try:
            memory = self._apply(batch)
        except Exception:
            self._model = whole_model(self._published, self._schema)
            raise
        self._memory = memory
        for address in addresses:
            del self._waiting[address]
            known = self._last_number.get(address.client, -1)
            self._last_number[address.client] = max(known, address.number)
        entered = tuple(Committed(c.update.address, c.staleness, c.weight) for c in batch)
        return self._publish(made, entered)

    def rollback(self, target: Buffer, expected: Version) -> tuple[Receipt, Buffer]:
        """Publish an earlier version's weights as the next version of a new lineage.

        Whatever was admitted under the old lineage is forgotten, and so is the aggregation's
        memory.

        Raises:
            RunError: If the server is at another version.
        """
        made = Version(expected.number + 1, expected.lineage + 1)
        repeated = self._repeated(expected, made, ())
        if repeated is not None:
            return repeated
        self._model = whole_model(target, self._schema)
        self._memory = self._method.aggregation.start(self._schema.parameters)
        self._waiting.clear()
        return self._publish(made, ())

    def snapshot(self) -> Snapshot:
        """Return the server's state as values that later commits do not change."""
        memory = {name: array.copy() for name, array in self._memory.items()}
        return Snapshot(self._version, self._model.copy(), memory, dict(self._last_number))

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot; what was admitted has to be delivered again."""
        self._version = snapshot.version
        self._model = snapshot.model.copy()
        self._memory = {name: array.copy() for name, array in snapshot.memory.items()}
        self._last_number = dict(snapshot.last_number)
        self._waiting.clear()
        self._last = None
        self._published = model_message(self._version, self._model, self._schema)

    def _check(self, header: Header, delivery: Delivery) -> None:
        if header.address != delivery.address:
            raise WireError(
                Reason.WRONG_ADDRESS, f"it says {header.address}, expected {delivery.address}"
            )
        if header.base != delivery.base:
            raise WireError(
                Reason.WRONG_VERSION, f"it says {header.base}, it was sent {delivery.base}"
            )
        if header.kind not in self._method.aggregation.takes():
            raise WireError(
                Reason.WRONG_KIND,
                f"{header.kind} for {self._method.aggregation.kind}",
            )

    def _repeated(
        self, expected: Version, made: Version, addresses: Sequence[Address]
    ) -> tuple[Receipt, Buffer] | None:
        """Return the last answer if this call is the last one again; refuse any other disorder."""
        if expected == self._version:
            return None
        if self._last is not None:
            receipt = self._last[0]
            entered = [c.address for c in receipt.committed]
            if made == receipt.version and entered == list(addresses):
                return self._last
        raise RunError(f"commit on {expected}, but the server is at {self._version}")

    def _contribution(self, update: Update, expected: Version) -> Contribution:
        staleness = expected.number - update.base.number
        return Contribution(update, staleness, self._method.staleness.weight(staleness))

    def _apply(self, batch: list[Contribution]) -> Arrays:
        """Move the model in place; return the aggregation's new memory."""
        parameters = self._model[: self._schema.parameters]
        corrected = self._method.correction.correct(batch, parameters)
        aggregation = self._method.aggregation
        memory = aggregation.apply(parameters, self._memory, corrected)
        if self._schema.buffers:
            buffers = self._model[self._schema.parameters :]
            rate = np.float32(aggregation.buffer_rate(corrected))
            buffers += rate * (mean_buffers(corrected) - buffers)
        return memory

    def _publish(
        self, version: Version, committed: tuple[Committed, ...]
    ) -> tuple[Receipt, Buffer]:
        self._version = version
        message = model_message(version, self._model, self._schema)
        nonzeros = int(np.count_nonzero(self._model[: self._schema.parameters]))
        digest = xxhash.xxh3_128_hexdigest(message.data)
        self._published = message
        self._last = (Receipt(version, int(message.size), digest, nonzeros, committed), message)
        return self._last


def model_message(version: Version, model: Vector, schema: ModelSchema) -> Buffer:
    """Write a whole model, shape (P + B,), as the message that clients are sent."""
    header = Header("weights", Address(0, 0), version, 0, 0.0)
    parameters = schema.parameters
    return encode(header, Dense(model[:parameters]), model[parameters:], schema)


def whole_model(message: Buffer, schema: ModelSchema) -> Vector:
    """Read a model message into a vector of its own, shape (P + B,)."""
    read = decode(message, schema)
    return np.concatenate([read.content.densify(schema.parameters), read.buffers])


class ParameterServer:
    """The remote shell of `Server`: an event loop that stays free while threads compute.

    Calls to it may finish out of order; commits take their turn by the version that they expect.
    """

    def __init__(
        self,
        work: dict[str, Any],
        paths: Sequence[str],
        schema: ModelSchema,
        initial: Buffer,
        deadline_s: float,
    ) -> None:
        join_paths(paths)
        self._server = Server(Work.model_validate(work), schema, initial)
        self._turn = asyncio.Condition()
        self._deadline_s = deadline_s
        self._readers = ThreadPoolExecutor(1, "admit")
        self._writer = ThreadPoolExecutor(1, "commit")

    async def identity(self) -> Identity:
        """Say who and where this process is."""
        return identify()

    async def admit(
        self, group: Sequence[Assignment], receipt: GroupReceipt, payloads: Buffer
    ) -> tuple[list[Admission], GroupReceipt]:
        """Admit a group as its actor returned it; see `Server.admit_group`."""
        places = zip(group, receipt.places, strict=True)
        deliveries = [Delivery(a.address, a.base, start, stop) for a, (start, stop) in places]
        return await self.deliver(deliveries, payloads), receipt

    async def deliver(self, deliveries: Sequence[Delivery], payloads: Buffer) -> list[Admission]:
        """Admit payloads by their places; see `Server.admit_group`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._readers, self._server.admit_group, deliveries, payloads
        )

    async def discard(self, addresses: Sequence[Address]) -> None:
        """Forget updates; see `Server.discard`."""
        self._server.discard(addresses)

    async def commit(self, addresses: Sequence[Address], expected: Version) -> tuple[Any, Any]:
        """Make the next version when its turn has come; see `Server.commit`."""
        return await self._in_turn(expected, lambda: self._server.commit(addresses, expected))

    async def rollback(self, expected: Version, target: Buffer) -> tuple[Any, Any]:
        """Go back when its turn has come; see `Server.rollback`."""
        return await self._in_turn(expected, lambda: self._server.rollback(target, expected))

    async def snapshot(self, expected: Version) -> Snapshot:
        """Return the state at a version; see `Server.snapshot`."""
        return await self._in_turn(expected, self._server.snapshot)

    async def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot; see `Server.restore`."""
        async with self._turn:
            self._server.restore(snapshot)
            self._turn.notify_all()

    async def _in_turn(self, expected: Version, act: Callable[[], T]) -> T:
        async with self._turn:
            try:
                await asyncio.wait_for(
                    self._turn.wait_for(lambda: self._server.version.number >= expected.number),
                    self._deadline_s,
                )
            except TimeoutError:
                raise RunError(
                    f"a commit waited {self._deadline_s:g} s for version {expected.number}; the "
                    f"server is at {self._server.version.number}"
                ) from None
            result = await asyncio.get_running_loop().run_in_executor(self._writer, act)
            self._turn.notify_all()
            return result
