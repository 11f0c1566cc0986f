"""When is an assignment where?

An assignment is under way for one leg a stage: down, at work, up. What a leg takes says the fleet;
what ends it early says the client, which may go away or give up. On the virtual clock all legs are
known when the assignment is given, the last one as if the payload were as small as can be; those of
a correction at the client, and what follows, are when its training ends, and those behind a
question to the encoder when that has replied.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from orchestrator.fleet import TRAINING, Fleet, Span
from orchestrator.stages import Ask, Compute, Download, Stage
from policies.types import Address, Reason


class Leg(NamedTuple):
    """One stage of an assignment.

    Attributes:
        begin_s: When it begins.
        end_s: When it ends, or when the client is lost in it.
        busy_s: Seconds that the device or its link really work.
        done: Share of the work, or of the bytes, that is done by its end; below 1 if the client is
            lost.
        lost: Why the client is lost in it; empty if it is not.
    """

    begin_s: float
    end_s: float
    busy_s: float
    done: float = 1.0
    lost: Reason = Reason.NONE


class Timetable:
    """Tells legs of assignments.

    Args:
        fleet: Devices, links and absences.
        delays: Whether modelled times pass; without them every leg takes nothing.
    """

    def __init__(self, fleet: Fleet, *, delays: bool) -> None:
        self._fleet = fleet
        self._delays = delays
        self._always_there = fleet.always_there

    def legs(
        self, address: Address, stages: tuple[Stage, ...], begin_s: float, density: float
    ) -> tuple[Leg, ...]:
        """Return the legs of stages that begin now.

        They end with the one in which the client is lost, or in which it asks the encoder.
        """
        legs: list[Leg] = []
        for stage in stages:
            legs.append(self.leg(address, stage, begin_s, density))
            begin_s = legs[-1].end_s
            if legs[-1].lost or isinstance(stage, Ask):
                break
        return tuple(legs)

    def leg(self, address: Address, stage: Stage, begin_s: float, density: float) -> Leg:
        """Return one leg; of an upload, the shortest there can be.

        Args:
            address: Of the assignment.
            stage: Of the leg.
            begin_s: When it begins.
            density: Share of the parameters that are not zero in the version that it is about.
        """
        if not self._delays:
            return Leg(begin_s, begin_s, 0.0)
        client, number = address
        if isinstance(stage, Download):
            return self._leg(client, begin_s, self._fleet.download, client, begin_s, stage.bytes)
        if isinstance(stage, Compute):
            training = stage.purpose == TRAINING
            share = self._fleet.drops_out_at(client, number) if training else None
            if share is not None and stage.begin <= share < stage.end:
                part = (share - stage.begin) / (stage.end - stage.begin)
                return self._given_up(address, part, stage.flops, begin_s, density)
            return self.work(address, begin_s, stage.flops, density, purpose=stage.purpose)
        return self.upload(address, begin_s, stage.least_bytes)

    def work(
        self,
        address: Address,
        begin_s: float,
        flops: float,
        density: float = 1.0,
        *,
        purpose: str = TRAINING,
    ) -> Leg:
        """Return the leg of computing that nobody gives up.

        Args:
            address: Of the assignment, or the client and a number of the purpose's own.
            begin_s: When it begins.
            flops: Operations that a dense model would take.
            density: Share of the parameters that are not zero.
            purpose: What it is for; two purposes share no draws.
        """
        if not self._delays:
            return Leg(begin_s, begin_s, 0.0)
        client, number = address
        work = (client, number, begin_s, flops, density, purpose)
        return self._leg(client, begin_s, self._fleet.compute, *work)

    def upload(self, address: Address, begin_s: float, size: int) -> Leg:
        """Return the leg of a payload of `size` bytes."""
        if not self._delays:
            return Leg(begin_s, begin_s, 0.0)
        client = address.client
        return self._leg(client, begin_s, self._fleet.upload, client, begin_s, size)

    def _leg(self, client: int, begin_s: float, work: Callable[..., Span], *what: object) -> Leg:
        """Return the leg of work that knows until when it may go on."""
        fleet = self._fleet
        lost = not self._always_there and fleet.on_leave(client) == "lost"
        gone_s = fleet.away_from(client, begin_s) if lost else math.inf
        end_s, busy_s, done = work(*what, until_s=gone_s)
        if end_s < math.inf:
            return Leg(begin_s, end_s, busy_s)
        if not lost:  # it waited for its client until that went for good, so these come to an end
            gone_s = max([begin_s, *(goes_s for _, goes_s in fleet.stays(client, begin_s))])
        return Leg(begin_s, gone_s, busy_s, done, Reason.WENT_AWAY)

    def _given_up(
        self, address: Address, share: float, flops: float, begin_s: float, density: float
    ) -> Leg:
        """End a leg where its client gives up, unless it is lost before."""
        leg = self.work(address, begin_s, share * flops, density)
        return leg._replace(done=share * leg.done, lost=leg.lost or Reason.GAVE_UP)
