"""What does training take of a device's memory?"""

from __future__ import annotations

from typing import Final, NamedTuple

FLOAT_BYTES: Final = 4
COPIES: Final = 4
"""Of a trained parameter in memory: model, gradient, momentum, base. Our estimate."""


class Memory(NamedTuple):
    """What training takes on a device.

    Attributes:
        parameters: Numbers that are trained, float32.
        each: Bytes that one example of a batch leaves for the way back, and what of it crosses the
            network meanwhile.
        frozen: Numbers that are only read, of which there is one copy.
        kept: Bytes of features, which stay.
        once: Bytes of what is asked about all examples at once, before any batch.

    Source:
        Our estimate: `COPIES` of the parameters, and a batch. Frameworks add some hundred MB.
    """

    parameters: int
    each: int
    frozen: int = 0
    kept: int = 0
    once: int = 0

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return FLOAT_BYTES * (COPIES * self.parameters + self.frozen)

    def bytes(self, batch_size: int) -> int:
        """Return what training with batches of so many examples takes, at the most."""
        return self.weights + max(self.once, self.kept + batch_size * self.each)

    def most(self, memory_bytes: int, asked: int) -> int:
        """Return the largest batch that a memory holds, at most `asked`; 0 if it holds none."""
        left = memory_bytes - self.weights
        if left < max(self.once, self.kept):
            return 0
        return min(asked, (left - self.kept) // self.each) if self.each else asked
