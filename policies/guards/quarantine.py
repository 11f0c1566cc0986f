"""When is a client no longer asked?"""

from __future__ import annotations

from pydantic import PositiveInt

from policies.base import Settings
from policies.types import HOSTILE_REASONS, Verdict


class Quarantine(Settings):
    """Leave out a client after `after` updates in a row that speak against it.

    Malformed, oversized, non-finite, foreign and anomalous updates count, and those that never came
    because their training ended the process each time; late ones do not. An accepted update clears
    the count.
    """

    after: PositiveInt = 3

    def strikes(self, before: int, verdict: Verdict) -> int:
        """Return the count after a verdict."""
        if verdict.accepted:
            return 0
        return before + (verdict.reason in HOSTILE_REASONS)

    def applies(self, strikes: int) -> bool:
        """Say whether that is enough."""
        return strikes >= self.after
