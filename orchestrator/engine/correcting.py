"""When does a client correct its own update, and what does that take?

Where the correction is the clients' own, one whose training has ended is sent the newest version if
its update is late by then, works once more, and uploads. Whoever is on time, or whose update could
not become part of a version any more, uploads at once.
"""

from __future__ import annotations

from typing import NamedTuple

from actors.publisher import Shipment
from orchestrator.engine.context import Context
from orchestrator.engine.sending import Sending
from orchestrator.plan import Flight
from orchestrator.stages import corrected


class Offer(NamedTuple):
    """A correction that a client is about to make.

    Attributes:
        strength: How strong it is.
        shipment: What sending the client the newest version takes; None if it has too few examples
            to learn anything from that one.
    """

    strength: float
    shipment: Shipment | None


class Correcting:
    """Has clients correct their own updates."""

    def __init__(self, context: Context, sending: Sending) -> None:
        self._state = context.state
        self._plan = context.plan
        self._policy = context.plan.method.correction
        self._staleness = context.plan.method.staleness
        self._in_rounds = context.pacing.cohort is not None
        self._clock = context.clock
        self._timetable = context.timetable
        self._journal = context.journal
        self._sending = sending

    @property
    def at_client(self) -> bool:
        """Whether clients correct their own updates at all."""
        return self._policy.at_client()

    def offer(self, flight: Flight) -> Offer | None:
        """Return the correction of an update that was trained now; None if there is none.

        It may wait for the server, and changes nothing.
        """
        strength = self._strength(flight)
        if not strength:
            return None
        if not self._policy.checks(self._examples(flight)):
            return Offer(strength, None)
        (shipment,) = self._sending.quotes([flight.address.client])
        return Offer(strength, shipment)

    def begin(self, flight: Flight, offer: Offer) -> None:
        """Lead a flight over its correction, from the stage that it is about to enter."""
        strength, shipment = offer
        examples, begun = self._examples(flight), flight.at
        if shipment is None:
            self._journal.uncorrected(flight, examples)
            return
        teacher, held = self._sending.send(flight.address.client, shipment)
        flight.teacher, flight.held, flight.strength = teacher, held, strength
        self._journal.fetched(flight, teacher, shipment)
        flops = self._policy.own_flops(examples, self._plan.forward_flops)
        flight.stages = corrected(flight.stages, begun, shipment.bytes, flops)
        legs = self._timetable.legs(
            flight.address,
            flight.stages[begun:],
            self._clock.now_s(),
            self._sending.density(teacher),
        )
        flight.legs = (*flight.legs[:begun], *legs)

    def _strength(self, flight: Flight) -> float:
        """Return how strongly an update is to be corrected."""
        state = self._state
        newest = state.versions.newest
        staleness = newest.number - flight.base.number
        lineages = {flight.base.lineage, newest.lineage, state.head.lineage}
        if not staleness or len(lineages) > 1 or self._in_rounds:
            return 0.0
        if not self._staleness.accepts(staleness):
            return 0.0
        weight = self._staleness.weight(staleness)
        return self._policy.own_strength(state.ledger.committed, staleness, weight)

    def _examples(self, flight: Flight) -> int:
        return int(self._plan.examples[flight.address.client])
