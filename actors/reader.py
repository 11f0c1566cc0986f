"""How does an actor take in what client actors have trained?

What the remote shells of `Server` and `Cell` have in common: both read payloads, and tell who they
are and what their time went into.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from actors.identity import Identity, identify
from actors.intake import Admission, Delivery, deliveries_of
from actors.stopwatch import Stopwatch, Usage
from actors.work import GroupReceipt, packed, unpacked
from policies.types import Address, Buffer


class Taker(Protocol):
    """Takes payloads in; see `Intake`."""

    def admit_group(self, deliveries: Sequence[Delivery], payloads: Buffer) -> list[Admission]:
        """Admit several payloads that lie in one buffer."""

    def discard(self, addresses: Sequence[Address]) -> None:
        """Forget admitted updates."""


class Reader:
    """The part of a remote shell that takes payloads in.

    Args:
        taker: Admits and discards them.
        watch: Where its time goes.
    """

    def __init__(self, taker: Taker, watch: Stopwatch) -> None:
        self._taker = taker
        self._watch = watch

    def identity(self) -> Identity:
        """Say who and where this process is."""
        return identify()

    def usage(self) -> Usage:
        """Say what this process's time went into."""
        return self._watch.usage()

    def admit(self, order: bytes, receipt: bytes, payloads: Buffer) -> bytes:
        """Admit a group as its actor returned it; see `Intake.admit_group`.

        Args:
            order: What the actor was asked for, packed.
            receipt: Its receipt, packed.
            payloads: What it has trained.

        Returns:
            The admissions and the receipt, packed.
        """
        took: GroupReceipt = unpacked(receipt)
        with self._watch("read payloads"):
            return packed((self.deliver(deliveries_of(unpacked(order), took), payloads), took))

    def deliver(self, deliveries: Sequence[Delivery], payloads: Buffer) -> list[Admission]:
        """Admit payloads by their places; see `Intake.admit_group`."""
        return self._taker.admit_group(deliveries, payloads)

    def discard(self, addresses: Sequence[Address]) -> None:
        """Forget updates; see `Intake.discard`."""
        self._taker.discard(addresses)
