"""What does a stretch of one assignment take, stage by stage, as the engine counts it?

For a client that stays, with nobody before it at the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from orchestrator.fleet import Fleet, Span
from orchestrator.stages import Ask, Compute, Download, Stage
from orchestrator.views.fleet_view_groups import Typical

Doing = Literal["download", "compute", "ask", "encoder", "reply"]
DOINGS: Final[Sequence[Doing]] = ("download", "compute", "ask", "encoder", "reply")


class Sizes(NamedTuple):
    """What crosses a client's link for one assignment, bytes.

    Attributes:
        down: The whole model, as a client that holds none is sent it.
        least: Of an update, what no payload goes below.
        dense: Of an update with every parameter in float32.
    """

    down: int
    least: int
    dense: int


class Start(NamedTuple):
    """Where an assignment begins.

    Attributes:
        client: Whose it is.
        number: Which of its assignments.
        at_s: When.
    """

    client: int
    number: int
    at_s: float


class Hop(NamedTuple):
    """A question to the encoder.

    Attributes:
        up: Its bytes.
        works_s: What the encoder does for it, seconds.
        down: Bytes of the reply; 0 if none is waited for.
    """

    up: int
    works_s: float
    down: int


class Walk:
    """Goes through stages, and adds up what they take.

    Args:
        fleet: Devices and links.
        start: Where it begins.

    Attributes:
        now_s: When the last stage has ended.
        seconds: Spent so far, by what on.
        energy_j: Of the device and its link so far.
        known: Whether all stages so far are of known length.
    """

    def __init__(self, fleet: Fleet, start: Start) -> None:
        self._fleet = fleet
        self._client, self._number, self.now_s = start
        self.seconds: dict[Doing, float] = dict.fromkeys(DOINGS, 0.0)
        self.energy_j = 0.0
        self.known = True

    def through(
        self, stages: Iterable[Stage], hops: Sequence[Hop] = (), *, known: bool = True
    ) -> None:
        """Go through stages up to an upload.

        Args:
            stages: In order.
            hops: One for each question among them.
            known: Whether work is of known length; it is passed over if not.
        """
        self.known = self.known and known
        questions = iter(hops)
        for stage in stages:
            if isinstance(stage, Download):
                self._receive(stage.bytes, "download")
            elif isinstance(stage, Compute) and known:
                self._work(stage)
            elif isinstance(stage, Ask):
                self._ask(next(questions))

    def figures(self, carried: Sizes) -> dict[str, float]:
        """Return what the assignment takes if it uploads now; NaN for what is not known."""
        maybe = 0.0 if self.known else math.nan
        before_s, joules = sum(self.seconds.values()) + maybe, self.energy_j + maybe
        (up_s, up_j), (dense_up_s, dense_up_j) = (
            self._upload(size) for size in (carried.least, carried.dense)
        )
        return {
            "download_s": self.seconds["download"],
            "compute_s": self.seconds["compute"] + maybe,
            "upload_s": up_s,
            "dense_upload_s": dense_up_s,
            "total_s": before_s + up_s,
            "dense_total_s": before_s + dense_up_s,
            "energy_j": joules + up_j,
            "dense_energy_j": joules + dense_up_j,
        }

    def _upload(self, size: int) -> tuple[float, float]:
        """Return the seconds and joules of an upload that would begin now."""
        span = self._fleet.upload(self._client, self.now_s, size)
        return span.end_s - self.now_s, self._fleet.transfer_j(self._client, span.busy_s)

    def _ask(self, hop: Hop) -> None:
        span = self._fleet.upload(self._client, self.now_s, hop.up)
        self._pass("ask", span, self._fleet.transfer_j(self._client, span.busy_s))
        if hop.down:
            self.seconds["encoder"] += hop.works_s
            self.now_s += hop.works_s
            self._receive(hop.down, "reply")

    def _work(self, stage: Compute) -> None:
        span = self._fleet.compute(
            self._client, self._number, self.now_s, stage.flops, purpose=stage.purpose
        )
        self._pass("compute", span, self._fleet.compute_j(self._client, span.busy_s))

    def _receive(self, size: int, doing: Doing) -> None:
        span = self._fleet.download(self._client, self.now_s, size)
        self._pass(doing, span, self._fleet.transfer_j(self._client, span.busy_s))

    def _pass(self, doing: Doing, span: Span, joules: float) -> None:
        self.seconds[doing] += span.end_s - self.now_s
        self.now_s = span.end_s
        self.energy_j += joules


def typical(rows: Sequence[Mapping[str, float]]) -> dict[str, Typical]:
    """Return each figure over some assignments."""
    return {name: Typical.of([row[name] for row in rows]) for name in rows[0]}
