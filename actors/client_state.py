"""What does a client keep from one update to the next?

What its uplink has not sent yet, and, where tails are personal, its tail.
"""

from __future__ import annotations

from typing import Final

from actors.work import Work
from policies.training.flat_torch import FlatModel
from policies.types import Arrays, Buffer, Vector
from policies.wire import StateLayout

_TAIL: Final = "model/tail"  # no name that an uplink gives


class StateCodec:
    """Reads and writes clients' states.

    Args:
        work: What actors are told.
        model: What clients train; it holds the weights that a run begins with.
    """

    def __init__(self, work: Work, model: FlatModel) -> None:
        self._division = work.division(model.schema)
        self._first = self._division.own_of(model.params.numpy(), model.buffers.numpy())
        uplink = work.method.uplink.start(self._division.shared)
        own: Arrays = {_TAIL: self._first} if self._first.size else {}
        self._layout = StateLayout({**uplink, **own})

    @property
    def size(self) -> int:
        """Bytes of a state."""
        return self._layout.size

    def read(self, state: Buffer) -> tuple[Arrays, Vector]:
        """Return what the uplink remembers and what of the model is a client's own.

        Args:
            state: Packed; empty before a client's first update.
        """
        found = dict(self._layout.unpack(state) if state.size else self._layout.start)
        return found, found.pop(_TAIL, self._first)

    def write(self, uplink: Arrays, own: Vector) -> Buffer:
        """Return a packed state."""
        return self._layout.pack({**uplink, _TAIL: own} if own.size else uplink)
