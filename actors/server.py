"""How does the server take updates and make versions?

`Server` is the plain class: `admit` checks a payload the moment it exists, in any order; `commit`
turns admitted updates into the next version, in the order it is given. Repeating an `admit` before
its update is committed, or the last `commit`, changes nothing and gives the same answer.
`actors/parameter_server.py` is its remote shell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from actors.cell import Gathered, read_sum
from actors.changes import may_change
from actors.intake import Admission, Committed, Delivery, Intake, entered
from actors.publisher import Publisher, Shipment
from actors.recall import Recall
from actors.work import Work
from policies.aggregation import Applied, CellSum, mean_buffers, mean_of_buffers
from policies.correction import Corrected, Making, Newest, Signals, Tutor
from policies.method import Method
from policies.passes import nonzeros
from policies.sparsity import LIVE, Masks, NoPruning, Stage
from policies.types import Address, Arrays, Buffer, RunError, Vector, Version, stream
from policies.update import Contribution, Mask, Masked, ModelSchema, Move
from policies.wire import Message, decode


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a commit did.

    Attributes:
        version: The version it made.
        whole: What sending it takes to a client that holds nothing.
        hash: XXH3-128 of its whole message.
        nonzeros: Parameters that are not zero.
        committed: The updates in it, in order.
        measures: Figures that the method is known by, by name.
        changes: Whether what came with it says only what has changed since the version before.
        gathered: What cells have sent for it, where there are cells.
        spread: What brings a cell to it that has the version before.
    """

    version: Version
    whole: Shipment
    hash: str
    nonzeros: int
    committed: tuple[Committed, ...]
    measures: tuple[tuple[str, float], ...] = ()
    changes: bool = False
    gathered: tuple[Gathered, ...] = ()
    spread: Shipment | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The server between two versions: enough to make another one that goes on the same.

    Attributes:
        version: The newest version made.
        model: The server's own model, shape (P + B,).
        memory: What its policies remember, by part and name (`aggregation/...`).
        last_number: Of each client, the newest update that was committed.
    """

    version: Version
    model: Vector
    memory: Arrays
    last_number: dict[int, int]


class _Taken(NamedTuple):
    """What a correction is told of the updates in a version: how many, how many of them late."""

    updates: int
    late: int
    signals: Signals | None


class Server:
    """Holds the newest model; moves it by admitted updates, one version at a time.

    Args:
        work: What actors are told.
        schema: The model's tensors.
        initial: Version 0 as a message.
        intake: Reads payloads, where the model is a part of theirs.
        tutor: Teaches, where the correction asks for one.
    """

    def __init__(
        self,
        work: Work,
        schema: ModelSchema,
        initial: Buffer,
        intake: Intake | None = None,
        tutor: Tutor | None = None,
    ) -> None:
        first = decode(initial, schema)
        self._method = work.method
        self._seed = work.seed
        self._tutor = tutor
        self._taken = 0  # updates in all versions so far
        self._schema = schema
        self._version = first.header.base
        self._model = _whole(first, schema)
        self._publisher = Publisher(
            work.method.downlink,
            schema,
            initial,
            changes=intake is None and may_change(work.method, schema),
        )
        self._recall = _recall(work.method)
        if self._recall is not None:
            self._recall.add(self._version, self._publisher.newest)
        self._memory = work.method.aggregation.start(schema)
        self._lessons = work.method.correction.start()
        self._pruned = work.method.pruning.start()
        self._masks = Masks.start(schema.parameters) if work.method.pruning.masks() else None
        self._density = self._asks({}, 0.0)
        self._intake = intake or Intake(
            work.method, schema, lambda: self._masks, lengths=work.lengths
        )
        self._last: tuple[Receipt, Buffer] | None = None

    @property
    def version(self) -> Version:
        """The newest version made."""
        return self._version

    def admit(self, delivery: Delivery, payload: Buffer) -> Admission:
        """Read a payload, free of order; see `Intake.admit`."""
        return self._intake.admit(delivery, payload)

    def admit_group(self, deliveries: Sequence[Delivery], payloads: Buffer) -> list[Admission]:
        """Admit several payloads that lie in one buffer."""
        return self._intake.admit_group(deliveries, payloads)

    def discard(self, addresses: Sequence[Address]) -> None:
        """Forget admitted updates that the run does not want; unknown ones are no mistake."""
        self._intake.discard(addresses)

    def commit(self, addresses: Sequence[Address], expected: Version) -> tuple[Receipt, Buffer]:
        """Make the next version of admitted updates, in the order given.

        Args:
            addresses: Admitted updates.
            expected: The version that they are committed on top of.

        Returns:
            The receipt, and the new version: a whole message, or what has changed since the
            version before (`actors/changes.py`).

        Raises:
            RunError: If the server is at another version, or an update was not admitted or is
                named twice.
        """
        made = Version(expected.number + 1, expected.lineage)
        repeated = self._repeated(expected, made, addresses)
        if repeated is not None:
            return repeated
        batch = self._intake.contributions(addresses, expected)
        taken = self._corrected(batch, made)
        committed = entered(batch, dict(taken.each))
        return self._make(made, committed, lambda before: self._move(taken, before, made))

    def commit_sums(
        self, gathered: Sequence[Gathered], sums: Sequence[Buffer], expected: Version
    ) -> tuple[Receipt, Buffer]:
        """Make the next version of what cells have summed.

        Args:
            gathered: What each cell says of its sum, in the order of cells.
            sums: Their messages.
            expected: The version that they are committed on top of.

        Returns:
            As `commit`.

        Raises:
            RunError: If the server is at another version.
        """
        made = Version(expected.number + 1, expected.lineage)
        committed = tuple(update for cell in gathered for update in cell.committed)
        repeated = self._repeated(expected, made, [update.address for update in committed])
        if repeated is not None:
            return repeated
        read = [
            read_sum(message, self._schema, len(cell.committed))
            for cell, message in zip(gathered, sums, strict=True)
        ]
        late = sum(update.staleness > 0 for update in committed)
        taken = _Taken(len(committed), late, _signals(gathered))
        return self._make(
            made, committed, lambda before: self._move_by(read, before, taken, made), gathered
        )

    def _make(
        self,
        made: Version,
        committed: tuple[Committed, ...],
        move: Callable[[Vector | None], Applied],
        gathered: Sequence[Gathered] = (),
    ) -> tuple[Receipt, Buffer]:
        """Move the model and publish it; leave all as it was if that fails."""
        before = self._model.copy() if self._lossy else None
        try:
            moved = move(before)
        except Exception:
            self._model = self._unmoved() if before is None else before
            raise
        self._intake.taken([update.address for update in committed])
        self._taken += len(committed)
        return self._publish(made, committed, moved, gathered)

    def rollback(self, target: Buffer, expected: Version) -> tuple[Receipt, Buffer]:
        """Publish an earlier version's weights as the next version of a new lineage.

        Whatever was admitted under the old lineage is forgotten, and so is the aggregation's
        memory.

        Raises:
            RunError: If the server is at another version.
        """
        made = Version(expected.number + 1, expected.lineage + 1)
        repeated = self._repeated(expected, made, ())
        if repeated is not None:
            return repeated
        read = decode(target, self._schema)
        content = read.content
        self._model = _whole(read, self._schema)
        self._memory = self._method.aggregation.start(self._schema)
        self._lessons = self._method.correction.start()
        self._pruned = self._method.pruning.start()
        if isinstance(content, Masked):
            self._masks = Masks.resume(content.mask, self._schema.parameters, made.number)
        elif self._masks is not None:
            self._masks = Masks.start(self._schema.parameters)
        self._density = self._asks({}, 0.0)
        self._intake.clear()
        return self._publish(made, (), None)

    def quote(self, held: Sequence[Version | None], to: Version) -> list[Shipment]:
        """Return what it takes to bring clients from the versions that they hold to another."""
        return [self._publisher.quote(version, to) for version in held]

    def ship(self, held: Version | None, to: Version) -> Buffer:
        """Write the message that `quote` counts."""
        return self._publisher.ship(held, to)

    def snapshot(self) -> Snapshot:
        """Return the server's state as values that later commits do not change."""
        parts = {
            "aggregation": self._memory,
            "correction": self._lessons,
            "pruning": self._pruned,
            "masks": {} if self._masks is None else self._masks.dump(),
            "publisher": self._publisher.dump(),
            "asked": {"density": np.array([self._density]), "taken": np.array([self._taken])},
            "bases": {} if self._recall is None else self._recall.dump(),
        }
        memory = {
            f"{part}/{name}": array.copy()
            for part, arrays in parts.items()
            for name, array in arrays.items()
        }
        return Snapshot(self._version, self._model.copy(), memory, dict(self._intake.last_number))

    def restore(self, snapshot: Snapshot, versions: Sequence[Buffer]) -> None:
        """Go on from a snapshot; what was admitted has to be delivered again.

        Args:
            snapshot: As it was taken.
            versions: Messages of the versions that clients may be sent, the newest last.
        """
        self._version = snapshot.version
        self._model = snapshot.model.copy()
        parts: dict[str, Arrays] = {}
        for name, array in snapshot.memory.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = array.copy()
        self._memory = parts.get("aggregation", {})
        self._lessons = parts.get("correction", {})
        self._pruned = parts.get("pruning", {})
        self._masks = Masks.load(parts["masks"]) if "masks" in parts else None
        self._density = float(parts["asked"]["density"][0])
        self._taken = int(parts["asked"]["taken"][0])
        self._publisher.load(parts["publisher"], versions, self._masks)
        if self._recall is not None:
            self._recall.load(parts["bases"])
        self._intake.last_number = dict(snapshot.last_number)
        self._intake.clear()
        self._last = None

    def _repeated(
        self, expected: Version, made: Version, addresses: Sequence[Address]
    ) -> tuple[Receipt, Buffer] | None:
        """Return the last answer if this call is the last one again; refuse any other disorder."""
        if expected == self._version:
            return None
        if self._last is not None:
            receipt = self._last[0]
            entered = [c.address for c in receipt.committed]
            if made == receipt.version and entered == list(addresses):
                return self._last
        raise RunError(f"commit on {expected}, but the server is at {self._version}")

    @property
    def _lossy(self) -> bool:
        """Whether the public model is not the server's own."""
        return not self._method.downlink.lossless()

    def _unmoved(self) -> Vector:
        """Return the newest version again, shape (P + B,)."""
        public = self._publisher.newest
        return np.concatenate([public, self._publisher.newest_buffers])

    def _asks(self, measures: Mapping[str, float], asked: float) -> float:
        voters = self._method.aggregation.pacing().size
        return self._method.uplink.asks(asked, voters, measures)

    def _corrected(self, batch: list[Contribution], made: Version) -> Corrected:
        """Return the updates of a version as they are to be aggregated."""
        batch, lacking = self._with_bases(batch)
        if self._masks is not None:
            batch = [_within(c, self._masks.newest) for c in batch]
        correction = self._method.correction
        if correction.adds():  # it leaves single updates alone
            return Corrected(batch, lacking)
        newest = self._newest(self._model[: self._schema.parameters])
        rng = stream(self._seed, "correction", 1, made.number)
        found = correction.correct(batch, newest, self._tutor, rng)
        return replace(found, measures={**lacking, **found.measures})

    def _newest(self, model: Vector) -> Newest:
        """Return what a correction is told of the newest version, given its parameters."""
        return Newest(model, self._publisher.newest_buffers, self._taken)

    def _move(self, taken: Corrected, before: Vector | None, made: Version) -> Applied:
        """Move the model in place; return what did it."""
        parameters, batch = self._model[: self._schema.parameters], taken.batch
        aggregation = self._method.aggregation
        applied = aggregation.apply(parameters, self._memory, batch, made.number)
        if self._masks is not None and aggregation.echoes():
            _clear_outside(parameters, self._masks.newest)
        applied = self._amend(parameters, before, applied, self._taken_of(batch), made)
        if self._schema.buffers:
            self._mix(mean_buffers(batch), aggregation.buffer_rate(batch))
        applied = self._prune(parameters, applied, batch, made)
        move = Move(self._publisher.newest, parameters, self._schema)
        uplink = self._method.uplink.measure(batch, move)
        measures = {**applied.measures, **taken.measures, **uplink}
        self._memory = applied.memory
        self._density = self._asks(measures, self._density)
        return replace(applied, measures=measures)

    def _with_bases(self, batch: list[Contribution]) -> tuple[list[Contribution], dict[str, float]]:
        """Give updates what they started from, if the aggregation asks; say how many lack it."""
        if self._recall is None:
            return batch, {}
        found = [self._recall.find(c.update.base) for c in batch]
        lacking = sum(not known for _, known in found) / len(batch)
        pairs = zip(batch, found, strict=True)
        return [replace(c, base=base) for c, (base, _) in pairs], {"bases_lacking": lacking}

    def _taken_of(self, batch: Sequence[Contribution]) -> _Taken:
        """Return what a correction is told of single updates."""
        late = sum(contribution.staleness > 0 for contribution in batch)
        heard = self._method.correction.hears()
        return _Taken(len(batch), late, Signals.of([c.update for c in batch]) if heard else None)

    def _amend(
        self, model: Vector, before: Vector | None, applied: Applied, taken: _Taken, made: Version
    ) -> Applied:
        """Let the correction have what the aggregation has made."""
        correction = self._method.correction
        if not correction.amends():
            return applied
        where = None
        if applied.touched is not None:
            where = np.zeros(model.size, dtype=np.bool_)
            for piece in applied.touched:
                where[piece] = True
        if self._method.uplink.zeros_count() or not isinstance(self._method.pruning, NoPruning):
            where = model != 0 if where is None else where & (model != 0)
        start = self._publisher.newest if before is None else before[: model.size]
        making = Making(
            taken.updates,
            taken.late,
            self._newest(start),
            model,
            where,
            self._lessons,
            taken.signals,
        )
        rng = stream(self._seed, "correction", 0, made.number)
        amended = correction.amend(making, self._tutor, rng)
        self._lessons = amended.memory
        measures = {**applied.measures, **amended.measures}
        step = None if amended.changed else applied.step
        return replace(applied, measures=measures, step=step)

    def _move_by(
        self, sums: Sequence[CellSum], before: Vector | None, taken: _Taken, made: Version
    ) -> Applied:
        """Move the model in place by cells' sums; return what did it."""
        parameters = self._model[: self._schema.parameters]
        aggregation = self._method.aggregation
        applied = aggregation.apply_sums(parameters, self._memory, sums, made.number)
        applied = self._amend(parameters, before, applied, taken, made)
        mean = mean_of_buffers(sums)
        if mean is not None:
            self._mix(mean, 1.0)
        applied = self._prune(parameters, applied, (), made)
        self._memory = applied.memory
        return applied

    def _mix(self, mean: Vector, rate: float) -> None:
        """Move the normalisation buffers towards a mean of theirs."""
        buffers = self._model[self._schema.parameters :]
        buffers += np.float32(rate) * (mean - buffers)

    def _prune(
        self, model: Vector, applied: Applied, batch: Sequence[Contribution], made: Version
    ) -> Applied:
        """Zero what does not stay."""
        pruning, masks = self._method.pruning, self._masks
        if isinstance(pruning, NoPruning):
            return applied
        alive = np.arange(model.size) if masks is None else masks.newest.positions
        newest = [c for c in batch if masks is None or _epoch(c, masks) == masks.epoch]
        losses = [max(c.update.loss, 0.0) for c in newest]
        loss = float(np.median(losses)) if losses else np.nan  # one client moves it little
        stage = Stage(made.number, 0 if masks is None else masks.epoch, loss)
        kept, self._pruned = pruning.keep(model, alive, self._schema, stage, self._pruned)
        if kept is not None:
            left = np.zeros_like(model)
            left[kept] = model[kept]
            model[:] = left
            applied = replace(applied, touched=None, step=None)
            if masks is not None:
                self._masks = masks = masks.narrow(kept, made.number)
        prunable = self._schema.prunable
        living = model != 0 if masks is None else masks.gone_at == LIVE
        share = int(np.count_nonzero(prunable & living)) / max(int(prunable.sum()), 1)
        measures = {"density": share}
        if masks is not None:
            measures["mask_epoch"] = float(masks.epoch)
        return replace(applied, measures={**applied.measures, **measures})

    def _publish(
        self,
        version: Version,
        committed: tuple[Committed, ...],
        applied: Applied | None,
        gathered: Sequence[Gathered] = (),
    ) -> tuple[Receipt, Buffer]:
        before, self._version = self._version, version
        self._last = None
        made = self._publisher.publish(version, self._model, applied, self._masks, self._density)
        if self._recall is not None:
            self._recall.add(version, self._publisher.newest)
        measures = tuple(sorted(applied.measures.items())) if applied is not None else ()
        whole = self._publisher.whole()
        left = nonzeros(self._publisher.newest)
        changes = not made.whole
        receipt = Receipt(version, whole, made.hash, left, committed, measures, changes)
        if gathered:
            spread = self._publisher.step(before)
            receipt = replace(receipt, gathered=tuple(gathered), spread=spread)
        self._last = (receipt, made.buffer)
        return self._last


def _signals(gathered: Sequence[Gathered]) -> Signals | None:
    """Return the signals of all cells' updates together; None where nobody asked for them."""
    counts = [len(cell.committed) for cell in gathered]
    each = [cell.signals for cell in gathered if cell.signals is not None]
    if len(each) < len(counts):
        return None
    return Signals(
        *(float(np.average(column, weights=counts)) for column in zip(*each, strict=True))
    )


def _recall(method: Method) -> Recall | None:
    """Return what keeps past models, if the aggregation asks for them."""
    most_bytes = method.aggregation.bases_bytes()
    return Recall(most_bytes, method.staleness.max_staleness) if most_bytes else None


def _clear_outside(model: Vector, mask: Mask) -> None:
    """Let `model`, shape (P,), be zero outside `mask`."""
    left = np.zeros_like(model)
    left[mask.positions] = model[mask.positions]
    model[:] = left


def _epoch(contribution: Contribution, masks: Masks) -> int:
    """Return the epoch of the mask that an update was trained under."""
    return masks.epoch_of(contribution.update.base.number)


def _within(contribution: Contribution, mask: Mask) -> Contribution:
    """Return a contribution without what is outside `mask`."""
    update = contribution.update
    return replace(contribution, update=replace(update, content=update.content.within(mask)))


def whole_model(message: Buffer, schema: ModelSchema) -> Vector:
    """Read a model message into a vector of its own, shape (P + B,)."""
    return _whole(decode(message, schema), schema)


def _whole(read: Message, schema: ModelSchema) -> Vector:
    return np.concatenate([read.content.densify(schema.parameters), read.buffers])
