"""How do several servers hold one model?

Each holds a range of the parameters, cut at multiples of a fixed block, and is a `Server` of its
range: it reads the same payloads as the others and takes what is its own. A version is one message
from each; put side by side their values are the values that one server would have, and the receipt
has the hash of the message that it would have written. The last part also holds the normalisation
buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np

from actors.intake import Admission, Delivery, Intake
from actors.publisher import Shipment, whole_message
from actors.server import Receipt, Server, Snapshot
from actors.work import Work
from policies import method
from policies.correction import Tutor
from policies.method import most_parts
from policies.sparsity import DenseDownlink
from policies.types import Address, Arrays, Buffer, RunError, Vector, Version
from policies.update import Content, Dense, ModelSchema, Sparse, TensorSpec
from policies.wire import Header, Message, decode, dense_bytes, dense_hash

_NOTHING: Final[Vector] = np.empty(0, dtype=np.float32)


class Part(NamedTuple):
    """A range of the parameters.

    Attributes:
        place: Among the parts; the first one checks payloads for all.
        start: Its first parameter.
        stop: Where the next one begins.
        schema: Of the part's own model; the last one has the buffers.
    """

    place: int
    start: int
    stop: int
    schema: ModelSchema

    def of(self, read: Message) -> Message:
        """Return what of a message over the whole model is this part's."""
        content = _cut(read.content, self.start, self.stop)
        buffers = read.buffers if self.schema.buffers else _NOTHING
        return replace(read, content=content, buffers=buffers)


def cut(schema: ModelSchema, count: int) -> list[Part]:
    """Cut a model into parts, as even as whole blocks allow; from 2 to `most_parts`."""
    size, blocks = schema.parameters, most_parts(schema.parameters)
    bounds = [method.PART_BLOCK * (blocks * index // count) for index in range(count)]
    bounds.append(size)
    buffers = tuple(tensor for tensor in schema.tensors if tensor.buffer)
    parts = []
    for index, (start, stop) in enumerate(pairwise(bounds)):
        own = TensorSpec(f"{start} of {schema.fingerprint:08x}", (stop - start,))
        held = buffers if index == count - 1 else ()
        parts.append(Part(index, start, stop, ModelSchema((own, *held))))
    return parts


def _cut(content: Content, start: int, stop: int) -> Content:
    if isinstance(content, Dense):
        return Dense(content.values[start:stop])
    if isinstance(content, Sparse):
        first, last = np.searchsorted(content.positions, (start, stop))
        return Sparse(content.positions[first:last] - start, content.values[first:last])
    return content  # under a mask, which no server in parts has: it is refused


def part_message(message: Buffer, schema: ModelSchema, part: Part) -> Buffer:
    """Return a part of a whole model's message, as a message."""
    read = part.of(decode(message, schema))
    values, header = read.content.densify(part.schema.parameters), read.header
    return _written(header, values, read.buffers, part.schema)


def read_parts(pieces: Sequence[Buffer], schema: ModelSchema) -> list[Message]:
    """Read a version's parts.

    Raises:
        RunError: If they are of different versions.
    """
    parts = cut(schema, len(pieces))
    found = [decode(piece, part.schema) for piece, part in zip(pieces, parts, strict=True)]
    if len({message.header for message in found}) > 1:
        raise RunError(f"parts of different versions: {[m.header.base for m in found]}")
    return found


def joined(pieces: Sequence[Buffer], schema: ModelSchema, out: Vector | None = None) -> Message:
    """Return the version whose parts these are, its values in `out`, shape (P,), if given."""
    parts = read_parts(pieces, schema)
    values = np.concatenate([m.content.values for m in parts], out=out)
    return Message(parts[0].header, Dense(values), parts[-1].buffers)


def join_parts(pieces: Sequence[Buffer], schema: ModelSchema) -> Buffer:
    """Return the message of the version whose parts these are."""
    read = joined(pieces, schema)
    return _written(read.header, read.content.values, read.buffers, schema)


def _written(header: Header, values: Vector, buffers: Vector, schema: ModelSchema) -> Buffer:
    version, density = header.base, header.scalar
    return whole_message(DenseDownlink(), schema, version, values, buffers, None, density)


class _PartIntake(Intake):
    """Keeps of payloads over the whole model what is a part's."""

    def __init__(self, work: Work, schema: ModelSchema, part: Part) -> None:
        super().__init__(work.method, schema, lengths=work.lengths and not part.place)
        self._part = part

    def _name(self, payload: Buffer) -> str:
        """Return what tells a payload from others: the first part hashes it for all."""
        return payload[:12].tobytes().hex() if self._part.place else super()._name(payload)

    def _read(self, delivery: Delivery, payload: Buffer) -> Message:
        """Read a payload; whether its numbers are sound is for the first part to say."""
        if not self._part.place:
            return super()._read(delivery, payload)
        message = decode(payload, self._schema, own=True)
        self._check(message.header, delivery)
        return message

    def _own(self, message: Message) -> Message:
        return self._part.of(message)


class PartServer(Server):
    """Holds a part of the model; a `Server` of that part, but for how payloads are read.

    Args:
        work: What actors are told.
        schema: The whole model's tensors.
        initial: Version 0, whole.
        part: Which one it holds.
    """

    def __init__(self, work: Work, schema: ModelSchema, initial: Buffer, part: Part) -> None:
        self._part = part
        self._sent = schema
        intake = _PartIntake(work, schema, part)
        super().__init__(work, part.schema, part_message(initial, schema, part), intake)

    def rollback(self, target: Buffer, expected: Version) -> tuple[Receipt, Buffer]:
        """Go back to a whole version; see `Server.rollback`."""
        return super().rollback(part_message(target, self._sent, self._part), expected)

    def quote(self, held: Sequence[Version | None], to: Version) -> list[Shipment]:
        """Return what clients' messages take: whole versions, whatever they hold."""
        return [whole_shipment(to, self._sent)] * len(held)

    def restore(self, snapshot: Snapshot, versions: Sequence[Buffer]) -> None:
        """Go on from the snapshot and whole versions of all parts; see `Server.restore`."""
        own = [part_message(version, self._sent, self._part) for version in versions[-1:]]
        super().restore(_part_of(snapshot, self._sent, self._part), own)


def serving(
    work: Work, schema: ModelSchema, initial: Buffer, place: int, tutor: Tutor | None = None
) -> Server:
    """Return the server of a model, or of one of its parts."""
    if work.shards == 1:
        return Server(work, schema, initial, tutor=tutor)
    return PartServer(work, schema, initial, cut(schema, work.shards)[place])


# ------------------------------------------------------------ what the parts say together


def admitted(parts: Sequence[Sequence[Admission]]) -> list[Admission]:
    """Return what is said of payloads that every part was told; one that rejects does so for all.

    The first part's word comes first: it is that of one server.
    """
    return [
        next((said for said in of_one if not said.verdict.accepted), of_one[0])
        for of_one in zip(*parts, strict=True)
    ]


def sealed(receipts: Sequence[Receipt], pieces: Sequence[Buffer], schema: ModelSchema) -> Receipt:
    """Return the receipt that one server would have given.

    Raises:
        RunError: If the parts are of different versions, or the method's figures differ: then it
            is not elementwise, whatever it says.
    """
    first = receipts[0]
    if any((r.version, r.measures) != (first.version, first.measures) for r in receipts):
        raise RunError(
            f"the parts of {first.version} differ in {[(r.version, r.measures) for r in receipts]}"
        )
    read = read_parts(pieces, schema)
    vectors = [message.content.values for message in read]
    _, digest = dense_hash(read[0].header, [*vectors, read[-1].buffers], schema)
    return replace(
        first,
        whole=whole_shipment(first.version, schema),
        hash=digest,
        nonzeros=sum(receipt.nonzeros for receipt in receipts),
    )


def whole_shipment(version: Version, schema: ModelSchema) -> Shipment:
    """Return what sending a whole version takes."""
    size = dense_bytes(Header("weights", Address(0, 0), version, 0, 0.0), schema)
    return Shipment(size, 4.0 * schema.size)


def gathered(parts: Sequence[Snapshot], schema: ModelSchema) -> Snapshot:
    """Return the snapshot that one server would have taken."""
    first, last = parts[0], parts[-1]
    sizes = [part.stop - part.start for part in cut(schema, len(parts))]
    values = [part.model[:size] for part, size in zip(parts, sizes, strict=True)]
    memory: Arrays = {}
    for name, array in first.memory.items():
        if _of_parameters(name, array, sizes[0]):
            array = np.concatenate([part.memory[name] for part in parts])  # noqa: PLW2901
        memory[name] = array
    model = np.concatenate([*values, last.model[sizes[-1] :]])
    return replace(first, model=model, memory=memory)


def _part_of(whole: Snapshot, schema: ModelSchema, part: Part) -> Snapshot:
    """Return a part of what one server would have."""
    buffers = whole.model[schema.parameters :] if part.schema.buffers else _NOTHING
    model = np.concatenate([whole.model[part.start : part.stop], buffers])
    memory = {
        name: array[part.start : part.stop]
        if _of_parameters(name, array, schema.parameters)
        else array
        for name, array in whole.memory.items()
    }
    return replace(whole, model=model, memory=memory)


def _of_parameters(name: str, array: np.ndarray[Any, Any], size: int) -> bool:
    """Say whether an array of a policy's memory has an entry for each parameter."""
    return name.startswith("aggregation/") and array.shape[:1] == (size,)


class PartServers:
    """The servers of all parts, behind the face of one; its versions are tuples of messages."""

    def __init__(self, work: Work, schema: ModelSchema, initial: Buffer, count: int) -> None:
        self._schema = schema
        self._servers = [PartServer(work, schema, initial, part) for part in cut(schema, count)]

    def admit(self, delivery: Delivery, payload: Buffer) -> Admission:
        """Have every part read a payload; see `Server.admit`."""
        return admitted([[server.admit(delivery, payload)] for server in self._servers])[0]

    def admit_group(self, deliveries: Sequence[Delivery], payloads: Buffer) -> list[Admission]:
        """Admit several payloads; see `Server.admit_group`."""
        return admitted([server.admit_group(deliveries, payloads) for server in self._servers])

    def discard(self, addresses: Sequence[Address]) -> None:
        """Forget updates; see `Server.discard`."""
        for server in self._servers:
            server.discard(addresses)

    def commit(
        self, addresses: Sequence[Address], expected: Version
    ) -> tuple[Receipt, tuple[Buffer, ...]]:
        """Make the next version of every part; see `Server.commit`."""
        return self._sealed([server.commit(addresses, expected) for server in self._servers])

    def rollback(self, target: Buffer, expected: Version) -> tuple[Receipt, tuple[Buffer, ...]]:
        """Go back to a whole version; see `Server.rollback`."""
        return self._sealed([server.rollback(target, expected) for server in self._servers])

    def _sealed(self, made: Sequence[tuple[Receipt, Buffer]]) -> tuple[Receipt, tuple[Buffer, ...]]:
        pieces = tuple(piece for _, piece in made)
        return sealed([receipt for receipt, _ in made], pieces, self._schema), pieces

    def quote(self, held: Sequence[Version | None], to: Version) -> list[Shipment]:
        """Return what clients' messages take; see `Server.quote`."""
        return self._servers[0].quote(held, to)

    def snapshot(self) -> Snapshot:
        """Return the state of all; see `Server.snapshot`."""
        return gathered([server.snapshot() for server in self._servers], self._schema)

    def restore(self, snapshot: Snapshot, versions: Sequence[Buffer]) -> None:
        """Go on from a snapshot of any number of parts; see `Server.restore`."""
        for server in self._servers:
            server.restore(snapshot, versions)
