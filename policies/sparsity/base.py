"""What must every way of sending say about itself?"""

from __future__ import annotations

from abc import abstractmethod

from policies.base import Policy
from policies.types import Arrays, PayloadKind, Vector
from policies.update import Content, ModelSchema


class UplinkPolicy(Policy):
    """Turns trained weights into what a client sends, and what it keeps for the next time."""

    @abstractmethod
    def sends(self) -> PayloadKind:
        """Return the kind of payload."""

    def start(self, schema: ModelSchema) -> Arrays:
        """Return a client's state before its first update: fixed names, shapes and types."""
        del schema
        return {}

    @abstractmethod
    def compress(self, weights: Vector, base: Vector, state: Arrays) -> tuple[Content, Arrays]:
        """Choose what to send.

        Args:
            weights: After training, shape (P,).
            base: Before training, shape (P,).
            state: What the client kept; a value, never changed.

        Returns:
            What is sent, and the state that becomes current if this update is accepted.
        """

    def least_nonzeros(self, schema: ModelSchema) -> int:
        """Return the fewest values that any payload holds; the clock looks ahead by it."""
        del schema
        return 0


class DownlinkPolicy(Policy):
    """What a client is sent before it trains."""
