"""What must an actor be handed to have a version?

A whole message is one handle. Where several servers hold the model, a version is a part from each.
Of a large model a version may be told as what has changed since the one before: then its handle
holds on to that one's, so that whoever keeps a version keeps all that it is read from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from actors.evaluator import Exam
from actors.server import Receipt
from actors.work import At, GroupReceipt, Order
from orchestrator.runtime import Handle, Pending, Place, States, Task


class Parts(NamedTuple):
    """The handle of a version that several servers made."""

    handles: tuple[Handle, ...]


class Made:
    """The handle of a version that a commit makes.

    Args:
        piece: What the commit gives besides its receipt.
        before: The handle of the version that it builds on.
        receipt: Says whether the piece is whole.
    """

    def __init__(self, piece: Handle, before: Handle, receipt: Pending[Receipt]) -> None:
        self._piece = piece
        self._before: Handle | None = before
        self._pending: Pending[Receipt] | None = receipt

    def settle(self, receipt: Receipt) -> None:
        """Learn what the piece is; let go of the version before if it is whole."""
        self._pending = None
        if not receipt.changes:
            self._before = None

    def opened(self) -> tuple[Handle, Handle | None]:
        """Return the piece, and the version that it builds on; waits for the commit."""
        if self._pending is not None:
            self.settle(self._pending.result())
        return self._piece, self._before


class Settling:
    """A commit's receipt, which its version's handle learns from."""

    def __init__(self, receipt: Pending[Receipt], made: Made) -> None:
        self._receipt = receipt
        self._made = made

    def done(self) -> bool:
        """Say whether it is here."""
        return self._receipt.done()

    def result(self) -> Receipt:
        """Wait for it."""
        receipt = self._receipt.result()
        self._made.settle(receipt)
        return receipt


def pieces(version: Handle) -> list[Handle]:
    """Return what makes up a version: a whole message and what has changed since, or parts."""
    if isinstance(version, Parts):
        return list(version.handles)
    found: list[Handle] = []
    at: Handle | None = version
    while isinstance(at, Made):
        piece, at = at.opened()
        found.append(piece)
    return [*([] if at is None else [at]), *reversed(found)]


def kept_at(handle: Handle, receipt: GroupReceipt, index: int) -> Place | None:
    """Return where one of a group has left what it needs later; None if that is nothing."""
    start, stop = receipt.states[index]
    return Place(handle, start, stop) if stop > start else None


class Named:
    """Buffers that an order names by their places."""

    def __init__(self) -> None:
        self.handles: list[Handle] = []
        self._places: dict[int, int] = {}

    def at(self, handle: Handle) -> int:
        """Return a buffer's place; the same one has the same."""
        if id(handle) not in self._places:
            self._places[id(handle)] = len(self.handles)
            self.handles.append(handle)
        return self._places[id(handle)]

    def within(self, place: Place | None) -> At | None:
        """Return where bytes lie; None if there are none."""
        return None if place is None else self.there(place)

    def there(self, place: Place) -> At:
        """Return where bytes lie."""
        return self.at(place.handle), place.start, place.stop


def exam_of(version: Handle, encoder: Handle | None, states: States) -> tuple[Exam, list[Handle]]:
    """Return what a test is of, and the handles of the buffers that it names."""
    named = Named()
    exam = Exam(
        tuple(map(named.at, pieces(version))),
        None if encoder is None else named.at(encoder),
        tuple((client, named.there(place)) for client, place in states),
    )
    return exam, named.handles


def order_of(tasks: Sequence[Task]) -> tuple[Order, list[Handle]]:
    """Return the order for a group, and the handles of the buffers that it names."""
    named = Named()

    def whole(version: Handle | None) -> tuple[int, ...]:
        return () if version is None else tuple(map(named.at, pieces(version)))

    jobs = [task.job for task in tasks]
    order = Order(
        [job.assignment for job in jobs],
        [whole(job.base) for job in jobs],
        [named.within(job.state) for job in jobs],
        [whole(job.teacher) for job in jobs],
        [named.within(job.carry) for job in jobs],
        [named.within(job.reply) for job in jobs],
    )
    return order, named.handles
