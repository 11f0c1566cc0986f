"""How often may a run go back to its last checkpoint?"""

from __future__ import annotations

import time

from orchestrator.runtime import Setback
from policies.types import RunError


class Setbacks:
    """Counts them.

    Args:
        attempts: How many in a row are borne without the run having come any further.

    Attributes:
        count: How many there were.
    """

    def __init__(self, attempts: int) -> None:
        self.count = 0
        self._attempts = attempts
        self._in_vain = 0
        self._furthest = -1
        self._met = 0.0

    def meet(self, lost: Setback, version: int) -> None:
        """Take one in.

        Args:
            lost: What has gone wrong.
            version: How far the run had come.

        Raises:
            RunError: If it is one too many.
        """
        self.count += 1
        self._met = time.monotonic()
        self._in_vain = self._in_vain + 1 if version <= self._furthest else 1
        self._furthest = max(self._furthest, version)
        if self._in_vain > self._attempts:
            raise RunError(
                f"the run was set back {self._in_vain} times without getting beyond version "
                f"{self._furthest}, the last time because: {lost}"
            ) from lost

    def overcome(self) -> float:
        """Return how many seconds it took from the last one until the run went on."""
        return time.monotonic() - self._met
