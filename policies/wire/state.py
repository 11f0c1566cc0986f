"""How does a client's state travel as one buffer?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.types import Arrays, Buffer


@dataclass(frozen=True)
class StateLayout:
    """Fixed names, shapes and types, taken from a family's starting state."""

    start: Arrays

    @property
    def size(self) -> int:
        """Bytes of a packed state."""
        return sum(a.nbytes for a in self.start.values())

    def pack(self, state: Arrays) -> Buffer:
        """Return the arrays end to end, shape (size,), uint8.

        Raises:
            ValueError: If the state's names, shapes or types are not the layout's.
        """
        if list(state) != list(self.start):
            raise ValueError(f"a state holds {list(self.start)}, not {list(state)}")
        pieces: list[Buffer] = []
        for name, first in self.start.items():
            array: np.ndarray[Any, Any] = state[name]
            if array.shape != first.shape or array.dtype != first.dtype:
                raise ValueError(
                    f"{name} is {array.dtype}{array.shape}, not {first.dtype}{first.shape}"
                )
            pieces.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.uint8)

    def unpack(self, packed: Buffer) -> Arrays:
        """Return the arrays as views of `packed`."""
        if packed.size != self.size:
            raise ValueError(f"{packed.size} bytes of state, not {self.size}")
        state: Arrays = {}
        at = 0
        for name, first in self.start.items():
            piece = packed[at : at + first.nbytes]
            state[name] = piece.view(first.dtype).reshape(first.shape)
            at += first.nbytes
        return state
