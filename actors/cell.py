"""What happens to updates near their clients?

A cell takes in the updates of its clients, and sums those of a version before anything crosses the
network: the server gets one message a cell and version, in the format of any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import xxhash

from actors.intake import Admission, Committed, Delivery, Intake, entered
from actors.work import Work
from policies.aggregation import CellSum, summed
from policies.correction import Signals
from policies.types import Address, Buffer, Version
from policies.update import ModelSchema
from policies.wire import Header, decode, encode, entropy_bytes


class Gathered(NamedTuple):
    """What a cell has sent for a version.

    Attributes:
        cell: Its number.
        bytes: Length of its message.
        entropy_bytes: The least that its numbers could take.
        nonzeros: Values in it.
        hash: XXH3-128 of its bytes.
        committed: The updates in it, in order.
        signals: What they say of themselves, where the correction asks.
    """

    cell: int
    bytes: int
    entropy_bytes: float
    nonzeros: int
    hash: str
    committed: tuple[Committed, ...]
    signals: Signals | None = None


class Cell:
    """Admits the updates of a cell's clients, and sums them.

    Args:
        work: What actors are told.
        schema: The model's tensors.
        number: Which cell it is.
    """

    def __init__(self, work: Work, schema: ModelSchema, number: int) -> None:
        self._aggregation = work.method.aggregation
        self._hears = work.method.correction.hears()
        self._schema = schema
        self._number = number
        self._intake = Intake(work.method, schema, lengths=work.lengths)
        self._last: tuple[Version, list[Address], tuple[Gathered, Buffer]] | None = None

    def admit(self, delivery: Delivery, payload: Buffer) -> Admission:
        """Read a payload, free of order; see `Intake.admit`."""
        return self._intake.admit(delivery, payload)

    def admit_group(self, deliveries: Sequence[Delivery], payloads: Buffer) -> list[Admission]:
        """Admit several payloads that lie in one buffer."""
        return self._intake.admit_group(deliveries, payloads)

    def discard(self, addresses: Sequence[Address]) -> None:
        """Forget admitted updates that the run does not want; unknown ones are no mistake."""
        self._intake.discard(addresses)

    def sum(self, addresses: Sequence[Address], expected: Version) -> tuple[Gathered, Buffer]:
        """Sum admitted updates, in the order given; asked the same again, answer the same.

        Args:
            addresses: Admitted updates of this cell.
            expected: The version that they are committed on top of.

        Returns:
            What is sent, and the message: its numbers are the sum, its scalar is what they weigh
            together.

        Raises:
            RunError: If there are none, or one was not admitted or is named twice.
        """
        if self._last is not None and self._last[:2] == (expected, list(addresses)):
            return self._last[2]
        batch = self._intake.contributions(addresses, expected)
        found = summed(batch, self._aggregation.factor, self._schema)
        examples = sum(contribution.update.examples for contribution in batch)
        name = Address(self._number, expected.number)
        header = Header(found.kind, name, expected, examples, found.weight)
        message = encode(header, found.content, found.buffers, self._schema)
        sent = Gathered(
            self._number,
            int(message.size),
            entropy_bytes(found.content, found.buffers, self._schema),
            found.content.nonzeros,
            xxhash.xxh3_128_hexdigest(message.data),
            entered(batch),
            Signals.of([c.update for c in batch]) if self._hears else None,
        )
        self._intake.taken(addresses)
        self._last = expected, list(addresses), (sent, message)
        return sent, message

    def restore(self, last_number: dict[int, int]) -> None:
        """Go on from a checkpoint; what was admitted has to be delivered again.

        Args:
            last_number: Of each client, the newest update that was committed.
        """
        self._intake.clear()
        self._intake.last_number = dict(last_number)
        self._last = None


def read_sum(message: Buffer, schema: ModelSchema, updates: int) -> CellSum:
    """Read what a cell has sent; `updates` is how many it has summed."""
    read = decode(message, schema)
    return CellSum(read.header.kind, read.content, read.buffers, read.header.scalar, updates)
