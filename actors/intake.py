"""How are payloads taken in, before a version takes them?

Whoever reads clients' payloads has an `Intake`: the server, each part of one, each cell. Payloads
come in any order, and again; what is admitted waits here until a version takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import NamedTuple

import numpy as np
import xxhash

from actors.work import GroupReceipt, Order
from policies.method import Method
from policies.sparsity import Masks
from policies.types import (
    ACCEPTED,
    Address,
    Buffer,
    Reason,
    RunError,
    Verdict,
    Version,
    rejected,
)
from policies.update import Contribution, Masked, ModelSchema, Update
from policies.wire import Header, Message, WireError, check_finite, decode, entropy_bytes


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
        length: Euclidean length of its numbers; NaN where nobody wants to know.
    """

    address: Address
    verdict: Verdict
    uplink_bytes: int
    entropy_bytes: float = 0.0
    nonzeros: int = 0
    examples: int = 0
    loss: float = 0.0
    hash: str = ""
    length: float = nan


class Committed(NamedTuple):
    """How one update entered a version.

    Attributes:
        address: Whose it is.
        staleness: d.
        weight: s(d).
        corrected: What a correction did to it, figures by name.
    """

    address: Address
    staleness: int
    weight: float
    corrected: tuple[tuple[str, float], ...] = ()


@dataclass(slots=True)
class _Waiting:
    """An admitted update, and the answer that it got."""

    update: Update
    admission: Admission


class Intake:
    """Admits payloads.

    Args:
        method: Says what clients send, and what lateness costs.
        schema: The tensors of payloads.
        masks: Returns the masks that payloads may name; None where the method has none.
        lengths: Whether somebody wants to know how long updates are.
    """

    def __init__(
        self,
        method: Method,
        schema: ModelSchema,
        masks: Callable[[], Masks | None] = lambda: None,
        *,
        lengths: bool = False,
    ) -> None:
        self._method = method
        self._schema = schema
        self._masks = masks
        self._lengths = lengths
        self._waiting: dict[Address, _Waiting] = {}
        self.last_number: dict[int, int] = {}  # of each client, the newest that was committed

    def admit(self, delivery: Delivery, payload: Buffer) -> Admission:
        """Read a payload, free of order.

        The payload must not change afterwards: what is admitted views it until it is committed or
        discarded.

        Returns:
            The verdict and what was found. The same payload for the same address again gives the
            same answer; another one, or one for an update already committed, is a duplicate.
        """
        address, size = delivery.address, int(payload.size)
        digest = self._name(payload)
        known = self._waiting.get(address)
        if known is not None and known.admission.hash == digest:
            return known.admission
        if known is not None or address.number <= self.last_number.get(address.client, -1):
            verdict = rejected(Reason.DUPLICATE, f"{address} was delivered before")
            return Admission(address, verdict, size, hash=digest)
        try:
            message = self._read(delivery, payload)
        except WireError as error:
            return Admission(address, rejected(error.reason, str(error)), size, hash=digest)
        mask = message.content.mask if isinstance(message.content, Masked) else None
        admission = Admission(
            address,
            ACCEPTED,
            size,
            entropy_bytes(message.content, message.buffers, self._schema, mask),
            message.content.nonzeros,
            message.header.examples,
            message.header.scalar,
            digest,
            float(np.linalg.norm(message.content.values)) if self._lengths else nan,
        )
        self._waiting[address] = _Waiting(self._own(message).update(), admission)
        return admission

    def _name(self, payload: Buffer) -> str:
        """Return what tells a payload from others."""
        return xxhash.xxh3_128_hexdigest(payload.data)

    def _read(self, delivery: Delivery, payload: Buffer) -> Message:
        """Read a payload, and check it."""
        masks = self._masks()
        message = decode(payload, self._schema, None if masks is None else masks.at)
        self._check(message.header, delivery)
        if isinstance(message.content, Masked):
            message = replace(message, content=_known_mask(message.content, masks))
        check_finite(message)
        return message

    def _own(self, message: Message) -> Message:
        """Return what of a payload is to be kept."""
        return message

    def admit_group(self, deliveries: Sequence[Delivery], payloads: Buffer) -> list[Admission]:
        """Admit several payloads that lie in one buffer."""
        return [self.admit(d, payloads[d.start : d.stop]) for d in deliveries]

    def discard(self, addresses: Sequence[Address]) -> None:
        """Forget admitted updates that the run does not want; unknown ones are no mistake."""
        for address in addresses:
            self._waiting.pop(address, None)

    def contributions(self, addresses: Sequence[Address], expected: Version) -> list[Contribution]:
        """Return admitted updates with what their lateness costs them.

        Raises:
            RunError: If there are none, or one was not admitted or is named twice.
        """
        missing = [a for a in addresses if a not in self._waiting]
        if missing or not addresses:
            raise RunError(f"commit on {expected} names updates that were not admitted: {missing}")
        if len(set(addresses)) < len(addresses):
            raise RunError(f"commit on {expected} names an update twice: {list(addresses)}")
        return [self._contribution(self._waiting[a].update, expected) for a in addresses]

    def taken(self, addresses: Sequence[Address]) -> None:
        """Let go of updates that a version has taken; they are duplicates from now on."""
        for address in addresses:
            self._waiting.pop(address, None)
            known = self.last_number.get(address.client, -1)
            self.last_number[address.client] = max(known, address.number)

    def clear(self) -> None:
        """Forget all that waits."""
        self._waiting.clear()

    def _contribution(self, update: Update, expected: Version) -> Contribution:
        staleness = expected.number - update.base.number
        return Contribution(update, staleness, self._method.staleness.weight(staleness))

    def _check(self, header: Header, delivery: Delivery) -> None:
        if header.address != delivery.address:
            raise WireError(
                Reason.WRONG_ADDRESS, f"it says {header.address}, expected {delivery.address}"
            )
        if header.base != delivery.base:
            raise WireError(
                Reason.WRONG_VERSION, f"it says {header.base}, it was sent {delivery.base}"
            )
        sends = self._method.uplink.sends()
        if header.kind != sends:
            raise WireError(Reason.WRONG_KIND, f"{header.kind}, where clients send {sends}")


def _known_mask(content: Masked, masks: Masks | None) -> Masked:
    """Return a content with the server's own mask in place of the one that came with it.

    Raises:
        WireError: With `Reason.WRONG_MASK`, if it is another one, even if it is written out.
    """
    epoch = content.mask.epoch
    try:
        known = None if masks is None else masks.at(epoch)
    except KeyError:
        known = None
    if known is None or not np.array_equal(known.positions, content.mask.positions):
        raise WireError(Reason.WRONG_MASK, f"a mask of epoch {epoch} that is not the server's")
    return replace(content, mask=known)


def entered(
    batch: Sequence[Contribution], corrected: Mapping[Address, Mapping[str, float]] | None = None
) -> tuple[Committed, ...]:
    """Return how updates enter a version, given what a correction did to some of them."""
    found = corrected or {}
    return tuple(
        Committed(address, c.staleness, c.weight, tuple(found.get(address, {}).items()))
        for c in batch
        for address in (c.update.address,)
    )


def deliveries_of(order: Order, receipt: GroupReceipt) -> list[Delivery]:
    """Return where an actor has put each of the updates that it was asked for."""
    places = zip(order.group, receipt.places, strict=True)
    return [Delivery(a.address, a.base, start, stop) for a, (start, stop) in places]
