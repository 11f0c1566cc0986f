"""What must every correction of late updates say about itself?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from statistics import fmean
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from policies.base import Policy
from policies.types import Address, Arrays, PayloadKind, Vector
from policies.update import Contribution, Update

CHECKED: Final = 64
"""Inputs that are always the same, on which a correction must have brought student and teacher
nearer."""

Anchor = Literal["student", "weights", "labels"]
Where = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Lesson:
    """How students are to learn from a teacher.

    Attributes:
        temperature: T.
        steps: Gradient steps.
        rate: Their length; None for 1 over the curvature, of a student who learns alone.
        rows: Inputs a step, drawn without replacement.
        fresh: Whether every step has inputs of its own; otherwise all have the same.
        anchor: What the rest of the loss, ``1 - strength`` of it, holds a student to: `student`,
            its own answers before; `weights`, its own weights before; `labels`, the inputs' labels.
        curvature: As the lesson before has found it, where `rate` is None; 0 if there was none.
    """

    temperature: float
    steps: int
    rate: float | None
    rows: int
    fresh: bool = False
    anchor: Anchor = "student"
    curvature: float = 0.0

    @property
    def drawn(self) -> int:
        """How many inputs it takes."""
        return self.rows * (self.steps if self.fresh else 1)


@dataclass(frozen=True, slots=True)
class Taught:
    """What came of a student's lesson.

    Attributes:
        kl_before: Mean KL divergence of the student's answers from the teacher's, on inputs that
            are always the same, before the lesson; in nats.
        kl_after: After it; never greater.
        length: Euclidean length of what was added to the student.
        kept: Share of the steps that was kept: 1, 1/2, 1/4 or 0.
        curvature: Along the steps, in a moving mean over the lessons; 0 where nobody looked.
    """

    kl_before: float
    kl_after: float
    length: float
    kept: float
    curvature: float = 0.0


class Quality(NamedTuple):
    """How good a teacher is, or the inputs that it is asked about, as far as its answers tell.

    Attributes:
        sure: How far it is from guessing, ``(mean largest probability - 1/C) / (1 - 1/C)``: near 0
            for a bad model, and for inputs that mean nothing to it.
        even: ``exp(H) / C`` with the entropy H of its mean answer: near 1 if it finds all C classes
            among the inputs, k / C if it finds k of them.
    """

    sure: float
    even: float


class Signals(NamedTuple):
    """What the updates of a version say of themselves.

    Attributes:
        length: Their mean Euclidean length; NaN where they are no deltas.
        loss: Their clients' mean training loss, as reported.
    """

    length: float
    loss: float

    @classmethod
    def of(cls, updates: Sequence[Update]) -> Signals:
        """Return the signals of some updates, at least one."""
        deltas = all(update.kind == "delta" for update in updates)
        lengths = [float(np.linalg.norm(u.content.values)) if deltas else nan for u in updates]
        return cls(fmean(lengths), fmean(update.loss for update in updates))


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest version, which teaches, and what is known of it.

    Attributes:
        model: As the server has it, shape (P,); it must not change.
        buffers: Its normalisation buffers, shape (B,).
        updates: Updates in it and in the versions before it; clients are not told.
    """

    model: Vector
    buffers: Vector
    updates: int = 0


@dataclass(frozen=True, slots=True)
class Own:
    """An update that its own client corrects before it is sent.

    Attributes:
        kind: What is sent of it.
        weights: After training, shape (P,); they must not change.
        base: Before training, shape (P,).
        examples: The client's, which the tutor teaches on.
        strength: How strongly it is to be corrected, as far as that is known without the model.
        where: Which weights may change; the others are held at zero. None for all.
    """

    kind: PayloadKind
    weights: Vector
    base: Vector
    examples: int
    strength: float
    where: Where | None = None


class Tutor(Protocol):
    """The model as a function, on inputs that it has."""

    def teach(
        self,
        students: npt.NDArray[np.float32],
        strengths: Sequence[float],
        newest: Newest,
        lesson: Lesson,
        rng: np.random.Generator,
        where: Sequence[Where | None] = (),
    ) -> list[Taught]:
        """Bring students nearer to the newest version's answers, all of them on the same inputs.

        Args:
            students: Weights, shape (g, P); changed in place.
            strengths: lambda of each, the teacher's share in what it is to learn, in [0, 1].
            newest: The teacher.
            lesson: How.
            rng: Draws the inputs.
            where: Which weights of each may change, shape (P,), None for all; empty if all of all.
        """

    def quality(self, newest: Newest) -> Quality:
        """Return how good the teacher is, on inputs that are always the same."""


@dataclass(frozen=True, slots=True)
class Making:
    """A version that is being made.

    Attributes:
        updates: How many updates are in it.
        late: How many of them are late.
        newest: What it is made from.
        model: What the aggregation has made of it, shape (P,); a correction changes it in place.
        where: Which weights may change, shape (P,); None for all.
        memory: What the correction remembers.
        signals: Where it asks for them (`hears`).
    """

    updates: int
    late: int
    newest: Newest
    model: Vector
    where: Where | None = None
    memory: Arrays = field(default_factory=dict)
    signals: Signals | None = None


@dataclass(frozen=True, slots=True)
class Amended:
    """What a correction did to a version.

    Attributes:
        changed: Whether it changed anything.
        measures: Figures for the log and MLflow.
        memory: What it remembers from now on.
    """

    changed: bool = False
    measures: Mapping[str, float] = field(default_factory=dict)
    memory: Arrays = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Corrected:
    """A buffer of updates after a correction.

    Attributes:
        batch: The updates, in their order.
        measures: Figures of the version, for the log and MLflow.
        each: Figures of single updates, for the log.
    """

    batch: list[Contribution]
    measures: Mapping[str, float] = field(default_factory=dict)
    each: Sequence[tuple[Address, Mapping[str, float]]] = ()


class CorrectionPolicy(Policy):
    """Makes late updates good in the light of the newest model.

    A member overrides `correct`, which sees the updates of a version before they are aggregated, or
    `amend`, which sees what the aggregation has made of all of them, or both; or `correct_own`, by
    which clients correct their own before they send them (`at_client`).
    """

    def elementwise(self) -> bool:
        """Say whether each coordinate is corrected by what is there alone; False is always safe."""
        return False

    def adds(self) -> bool:
        """Say whether updates are left alone, so that cells can sum their own first."""
        return type(self).correct is CorrectionPolicy.correct

    def amends(self) -> bool:
        """Say whether `amend` does anything."""
        return type(self).amend is not CorrectionPolicy.amend

    def takes(self, kind: PayloadKind) -> bool:
        """Say whether updates of that kind can be corrected."""
        del kind
        return True

    def weighs_delay(self) -> bool:
        """Say whether it depends on s(d), and does nothing where that is always 1."""
        return False

    def hears(self) -> bool:
        """Say whether `amend` asks for the signals of a version's updates."""
        return False

    def compares(self) -> bool:
        """Say whether the server measures how far each late update's model is from the teacher.

        It is then the figure `KL_BEFORE` of that update.
        """
        return False

    def start(self) -> Arrays:
        """Return what `amend` remembers at first: arrays of fixed shapes."""
        return {}

    def rows(self) -> int:
        """Return how many inputs that are no client's it needs at least; 0 needs no tutor."""
        return 0

    def asks_labels(self) -> bool:
        """Say whether these inputs must have labels."""
        return False

    def draws(self) -> bool:
        """Say whether these inputs are drawn, and not taken from the data's hold-out."""
        return False

    def at_client(self) -> bool:
        """Say whether clients correct their own updates, after one more download."""
        return False

    def own_strength(self, updates: int, staleness: int, weight: float) -> float:
        """Return how strongly a client is to correct an update that it has trained; 0 not at all.

        Args:
            updates: In all published versions so far.
            staleness: How late the update is by now, >= 1.
            weight: s(d) of that.
        """
        del updates, staleness, weight
        return 0.0

    def checks(self, examples: int) -> int:
        """Return how many of a client's examples are always the same in its lessons.

        Returns:
            0 if it has too few to correct its own updates.
        """
        del examples
        return 0

    def correct_own(
        self, own: Own, newest: Newest, tutor: Tutor, rng: np.random.Generator
    ) -> tuple[Vector, Mapping[str, float]]:
        """Return the weights of an update, shape (P,), corrected, and figures for the log."""
        del newest, tutor, rng
        return own.weights, {}

    def own_flops(self, examples: int, forward_flops: float) -> float:
        """Return what correcting an update of so many examples costs its client."""
        del examples, forward_flops
        return 0.0

    def correct(
        self,
        batch: list[Contribution],
        newest: Newest,
        tutor: Tutor | None,
        rng: np.random.Generator,
    ) -> Corrected:
        """Return the updates of a version, corrected."""
        del newest, tutor, rng
        return Corrected(batch)

    def amend(self, making: Making, tutor: Tutor | None, rng: np.random.Generator) -> Amended:
        """Correct what the aggregation has made, in place."""
        del tutor, rng
        return Amended(memory=making.memory)

    @abstractmethod
    def flops(self, staleness: int, forward_flops: float) -> float:
        """Return what correcting one update costs the server.

        Args:
            staleness: How late it is.
            forward_flops: What the model takes to answer one input.
        """

    def version_flops(self, forward_flops: float) -> float:
        """Return what a version costs the server, besides its updates."""
        del forward_flops
        return 0.0
