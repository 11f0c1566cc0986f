"""What speaks against a client, and when is it no longer asked?

An update that is accepted clears its client's count, at its arrival. Where a guard reads what a
correction has measured of it, which is known when it is in a version, it clears the count then, or
speaks against the client; it is not taken back.
"""

from __future__ import annotations

from math import isfinite

from actors.intake import Committed
from orchestrator.engine.context import Context
from policies.correction import KL_BEFORE
from policies.types import ACCEPTED, Reason, Verdict, Version, rejected


class Striking:
    """Counts strikes, and quarantines clients that have enough."""

    def __init__(self, context: Context) -> None:
        self._state = context.state
        self._quarantine = context.plan.quarantine
        self._guard = context.plan.anomaly
        self._journal = context.journal

    def judged(self, client: int, verdict: Verdict) -> None:
        """Count what an update's verdict at its arrival says of its client."""
        if verdict.accepted and self._guard.reads_lessons:
            return  # it counts when it is in a version
        self._strike(client, verdict)

    def committed(self, entry: Committed, version: Version) -> None:
        """Count what an update's correction says of its client."""
        if self._guard.reads_lessons:
            self._strike(entry.address.client, self._lesson(entry, version))

    def _lesson(self, entry: Committed, version: Version) -> Verdict:
        """Judge how far an update's model was from its teacher; remember it if that is usual."""
        kl, known = dict(entry.corrected).get(KL_BEFORE), self._state.kls
        if kl is None:
            return ACCEPTED
        finding = self._guard.lesson(kl, known)
        if finding:
            verdict = rejected(Reason.ANOMALOUS, finding)
            self._journal.suspected(entry, version, verdict)
            return verdict
        if isfinite(kl):
            known.append(kl)
            del known[: -self._guard.window]
        return ACCEPTED

    def _strike(self, client: int, verdict: Verdict) -> None:
        """Count what speaks against a client; quarantine it when that is enough."""
        roster, quarantine = self._state.roster, self._quarantine
        before = roster.strikes.get(client, 0)
        strikes = quarantine.strikes(before, verdict)
        if strikes == before or roster.is_out(client):
            return
        roster.strikes[client] = strikes
        if quarantine.applies(strikes):
            roster.quarantine(client)
            self._journal.quarantined(client, verdict.reason.value, strikes)
