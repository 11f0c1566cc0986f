"""What is written down about an event?

One method a kind of row in the log `events`; docs/logs.md says what its columns mean. The run's own
time is read from the clock here, so that no row can carry another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from actors.cell import Gathered
from actors.encoder import PassReceipt
from actors.intake import Admission, Committed
from actors.learning.evaluation_torch import Evaluation, Score
from actors.publisher import Shipment
from actors.work import Figures
from orchestrator.clock import Clock
from orchestrator.examiner import Test
from orchestrator.log import Log
from orchestrator.plan import Flight
from orchestrator.runtime import Place
from policies.guards import StopReason
from policies.splitting import Ends, Exchange
from policies.splitting.process import rows_in
from policies.training import Portion
from policies.types import Address, Outcome, Reason, Verdict, Version

if TYPE_CHECKING:
    from orchestrator.engine.state import Waiting


def _what_is_asked(exchange: Exchange) -> str:
    """Return what a question brings, in words."""
    brings = {
        "activations": exchange.rows,
        "gradients": exchange.answered,
        "differences": exchange.scalars,
    }
    return ", ".join(what for what, count in brings.items() if count)


class Journal:
    """Writes the log `events`."""

    def __init__(self, events: Log, clock: Clock) -> None:
        self.events = events
        self._clock = clock

    def dispatched(
        self,
        address: Address,
        base: Version,
        held: Version | None,
        shipment: Shipment,
        portion: Portion,
    ) -> None:
        """A client was asked, and is sent what it lacks."""
        self._write(
            "dispatched",
            client=address.client,
            number=address.number,
            base_version=base.number,
            lineage=base.lineage,
            held_version=None if held is None else held.number,
            downlink_bytes=shipment.bytes,
            downlink_entropy_bytes=shipment.entropy_bytes,
            detail=f"batches of {portion.batch_size}" if portion.batch_size else None,
        )

    def fetched(self, flight: Flight, teacher: Version, shipment: Shipment) -> None:
        """A client that has trained is sent the version that it corrects its update by."""
        held = flight.held
        self._write(
            "fetched",
            client=flight.address.client,
            number=flight.address.number,
            version=teacher.number,
            lineage=teacher.lineage,
            base_version=flight.base.number,
            staleness=teacher.number - flight.base.number,
            held_version=None if held is None else held.number,
            downlink_bytes=shipment.bytes,
            downlink_entropy_bytes=shipment.entropy_bytes,
        )

    def uncorrected(self, flight: Flight, examples: int) -> None:
        """A client has too few examples to correct its update."""
        self._write(
            "uncorrected",
            client=flight.address.client,
            number=flight.address.number,
            lineage=flight.base.lineage,
            base_version=flight.base.number,
            examples=examples,
            detail="too few examples",
        )

    def equipped(self, flight: Flight, ends: Ends, size: int) -> None:
        """A client was sent what it computes of the encoder and does not train."""
        self._write(
            "equipped",
            client=flight.address.client,
            number=flight.address.number,
            downlink_bytes=size,
            downlink_entropy_bytes=float(size),
            detail="all of the encoder" if ends.whole else f"{ends.blocks} blocks",
        )

    def asked(
        self, flight: Flight, exchange: Exchange, question: Place, entropy_bytes: float
    ) -> None:
        """A question of a client's has come to the encoder."""
        self._write(
            "asked",
            client=flight.address.client,
            number=flight.address.number,
            base_version=flight.base.number,
            lineage=flight.base.lineage,
            uplink_bytes=question.stop - question.start,
            uplink_entropy_bytes=entropy_bytes,
            examples=exchange.rows or exchange.answered,
            detail=_what_is_asked(exchange),
        )

    def served(
        self,
        number: int,
        members: Sequence[Waiting],
        version: int,
        receipt: PassReceipt,
        *,
        falls: bool,
    ) -> None:
        """The encoder has computed a pass; `version` is how often it has learnt.

        Args:
            number: Counts passes.
            members: The questions.
            version: Of the encoder's weights.
            receipt: What came of it.
            falls: Whether its rate changes with the version.
        """
        rate = f" at rate {receipt.rate:.6g}" if falls and receipt.learnt else ""
        self._write(
            "served",
            number=number,
            version=version,
            examples=rows_in([member.exchange for member in members]),
            hash=receipt.hash,
            detail=f"{len(members)} questions, {receipt.learnt} learnt from{rate}",
        )

    def replied(
        self, flight: Flight, waiting: Waiting, reply: Place, version: int, entropy_bytes: float
    ) -> None:
        """A reply of the encoder's is on its way to a client."""
        self._write(
            "replied",
            client=flight.address.client,
            number=flight.address.number,
            version=version,
            downlink_bytes=reply.stop - reply.start,
            downlink_entropy_bytes=entropy_bytes,
            detail="kept: features that never change" if waiting.rows else "",
        )

    def forgotten(self, flight: Flight) -> None:
        """The encoder gives up waiting for a client's gradients."""
        self._write(
            "forgotten",
            client=flight.address.client,
            number=flight.address.number,
            base_version=flight.base.number,
            lineage=flight.base.lineage,
        )

    def arrived(
        self, flight: Flight, admission: Admission | None, verdict: Verdict, *, staleness: int
    ) -> None:
        """An update has come, or nothing has; this is what was decided."""
        found: dict[str, Any] = {}
        if admission is not None:
            found = {"uplink_bytes": admission.uplink_bytes, "hash": admission.hash}
        if admission is not None and verdict.outcome is not Outcome.SUPERSEDED:
            found |= {
                "uplink_entropy_bytes": admission.entropy_bytes,
                "nonzeros": admission.nonzeros,
                "examples": admission.examples,
                "loss": admission.loss,
            }
        self._write(
            "arrived",
            client=flight.address.client,
            number=flight.address.number,
            base_version=flight.base.number,
            lineage=flight.base.lineage,
            staleness=staleness,
            outcome=verdict.outcome.value,
            reason=verdict.reason.value,
            device_s=flight.device_s,
            energy_j=flight.energy_j,
            detail=verdict.detail,
            **found,
        )

    def lost(self, flight: Flight, reason: Reason, moved_bytes: int) -> None:
        """A client went away or gave up before its update had come."""
        self._write(
            "lost",
            client=flight.address.client,
            number=flight.address.number,
            base_version=flight.base.number,
            lineage=flight.base.lineage,
            outcome=Outcome.LOST.value,
            reason=reason.value,
            uplink_bytes=moved_bytes,
            device_s=flight.device_s,
            energy_j=flight.energy_j,
            detail=f"in its {type(flight.stages[flight.at]).__name__.lower()}",
        )

    def suspected(self, entry: Committed, version: Version, verdict: Verdict) -> None:
        """An update in a version is not like the others."""
        self._write(
            "suspected",
            client=entry.address.client,
            number=entry.address.number,
            version=version.number,
            lineage=version.lineage,
            staleness=entry.staleness,
            reason=verdict.reason.value,
            detail=verdict.detail,
        )

    def quarantined(self, client: int, reason: str, strikes: int) -> None:
        """A client is no longer asked."""
        self._write("quarantined", client=client, reason=reason, detail=f"{strikes} in a row")

    def member(self, client: int, *, leaves: bool) -> None:
        """Somebody took a client out of the run, or into it again."""
        self._write("left" if leaves else "joined", client=client)

    def superseded(self, flight: Flight) -> None:
        """A rollback took an accepted update back."""
        self._write(
            "superseded",
            client=flight.address.client,
            number=flight.address.number,
            lineage=flight.base.lineage,
            outcome=Outcome.SUPERSEDED.value,
            reason=Reason.OLD_LINEAGE.value,
        )

    def rolled_back(self, version: Version, target: Version) -> None:
        """An earlier version is about to be published again."""
        self._write(
            "rolled_back",
            version=version.number,
            lineage=version.lineage,
            base_version=target.number,
        )

    def committed(self, entry: Committed, version: Version, base: Version) -> None:
        """An update became part of a version."""
        self._write(
            "committed",
            client=entry.address.client,
            number=entry.address.number,
            version=version.number,
            lineage=version.lineage,
            base_version=base.number,
            staleness=entry.staleness,
            weight=entry.weight,
        )

    def corrected(self, entry: Committed, version: Version, figures: Figures) -> None:
        """An update was corrected before it became part of a version."""
        for name, value in figures:
            self._write(
                "corrected",
                client=entry.address.client,
                number=entry.address.number,
                version=version.number,
                lineage=version.lineage,
                staleness=entry.staleness,
                measure=name,
                value=value,
            )

    def gathered(self, version: Version, cell: str, found: Gathered) -> None:
        """A cell has sent its sum for a version."""
        self._write(
            "gathered",
            version=version.number,
            lineage=version.lineage,
            number=len(found.committed),
            uplink_bytes=found.bytes,
            uplink_entropy_bytes=found.entropy_bytes,
            nonzeros=found.nonzeros,
            hash=found.hash,
            detail=cell,
        )

    def spread(self, version: Version, shipment: Shipment, cells: int) -> None:
        """A version is sent to every cell."""
        self._write(
            "spread",
            version=version.number,
            lineage=version.lineage,
            number=cells,
            downlink_bytes=shipment.bytes,
            downlink_entropy_bytes=shipment.entropy_bytes,
        )

    def published(self, version: Version, nonzeros: int, digest: str) -> None:
        """A version is handed out from now on."""
        self._write(
            "published",
            version=version.number,
            lineage=version.lineage,
            nonzeros=nonzeros,
            hash=digest,
        )

    def measured(self, version: Version, name: str, value: float) -> None:
        """The method's own figure of a version."""
        self._write(
            "measured",
            version=version.number,
            lineage=version.lineage,
            measure=name,
            value=value,
        )

    def evaluated(self, version: Version, result: Evaluation) -> None:
        """A version was tested."""
        self._write(
            "evaluated",
            version=version.number,
            lineage=version.lineage,
            accuracy=result.accuracy,
            loss=result.loss,
        )

    def tested(self, version: Version, test: Test, score: Score | None) -> None:
        """A client tested a version on examples of its own, or did so in vain."""
        found: dict[str, Any] = {}
        if score is not None:
            loss = score.loss / score.examples if score.examples else None
            found = {"accuracy": score.accuracy, "loss": loss, "examples": score.examples}
        self._write(
            "tested",
            client=test.client,
            version=version.number,
            lineage=version.lineage,
            downlink_bytes=test.downlink_bytes,
            downlink_entropy_bytes=test.downlink_entropy_bytes,
            uplink_bytes=test.uplink_bytes,
            device_s=test.device_s,
            energy_j=test.energy_j,
            detail=test.trouble,
            **found,
        )

    def guard(self, reason: StopReason) -> None:
        """A guard ended the run."""
        self._write("guard", reason=reason.guard, detail=reason.text)

    def _write(self, what: str, **values: Any) -> None:
        values["time_s"] = self._clock.now_s()
        self.events.append(what, **values)
