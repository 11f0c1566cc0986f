"""Late updates are distilled from the newest model, one by one (Lu et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, PositiveFloat

from policies.correction.base import CHECKED, Anchor, Corrected, Lesson, Newest, Own, Tutor, Where
from policies.correction.stages import Distilling, means, measured
from policies.types import PayloadKind, Vector
from policies.update import Content, Contribution, Dense, Masked, Sparse

Gate = Literal["quality", "delay"]
Proxy = Literal["holdout", "client", "generated"]
_TO_CHECK: Final = 4
"""Of a client's own examples, one of so many checks what it has learned from the others."""


def _once(gates: tuple[Gate, ...]) -> tuple[Gate, ...]:
    if len(set(gates)) < len(gates):
        raise ValueError(f"each gate at most once, got {', '.join(gates)}")
    return gates


class Distillation(Distilling):
    """Let each late update answer as the newest model does, then aggregate.

    With a delta D_k the student is ``w_t + D_k``, the client's own step replayed on the newest
    model; with weights it is the client's model as it stands, w_k. Gradient steps on a student's
    increment C, from 0, go down

        lambda T^2 KL(teacher || student + C) + (1 - lambda) anchor

    each on `batch` inputs of its own, and what is aggregated is ``D_k + C`` or ``w_k + C``. lambda
    grows with the stage of training (`policies/correction/stages.py`), times the gates. The anchor
    is ``T^2 KL(student || student + C)``, ``1/2 |C|^2`` or the cross-entropy with the inputs'
    labels.

    The inputs are no client's, the same ones for all updates of a version, and the server corrects
    (`proxy: holdout`). Or they are the client's own training examples, and it corrects its update
    itself before it is compressed (`proxy: client`): if there is a newer version when its training
    ends, it is sent that one, learns from it, and uploads. A quarter of its examples, 64 at the
    most, are those that are always the same.

    An update that is not late is left alone. C is kept if the mean KL from the teacher fell on
    inputs that are always the same, else a half or a quarter of it, else nothing of it. A sparse
    update keeps its support. The server cannot correct a vote: `step-distillation` corrects what
    the votes come to, and a client can correct what it votes by. `ca2fl` keeps in its cache what
    clients sent.

    Attributes:
        strength: Largest lambda.
        stage: How lambda grows.
        ramp: Updates that this takes; 0 for all of it at once, from the second version.
        gates: Factors of lambda. `quality`: how far the teacher is from guessing (`Quality.sure`).
            `delay`: ``1 - s(d)`` of the staleness policy.
        anchor: What the rest of the loss holds a student to.
        proxy: Whose inputs teach, and so who corrects.
        temperature: T.
        steps: Gradient steps an update.
        rate: Their length.
        batch: Inputs a step.

    Source:
        FedADT, Lu et al. 2025, arXiv:2504.04081: distillation of each arrived update from the
        latest global model before it is aggregated, stronger with the stage of training. Where
        the proxy inputs come from, the forms of lambda, gates, anchors and the check are our
        choice.
    """

    kind: Literal["distillation"] = "distillation"
    rate: PositiveFloat = 0.05
    gates: Annotated[tuple[Gate, ...], AfterValidator(_once)] = ()
    anchor: Anchor = "student"
    proxy: Proxy = "holdout"

    def at_client(self) -> bool:
        """Say yes where the inputs are clients' own."""
        return self.proxy == "client"

    def compares(self) -> bool:
        """Say yes where the server corrects."""
        return not self.at_client() and self.strength > 0

    def asks_labels(self) -> bool:
        """Say yes where labels are the anchor."""
        return self.anchor == "labels"

    def draws(self) -> bool:
        """Say yes where the inputs are generated."""
        return self.proxy == "generated"

    def takes(self, kind: PayloadKind) -> bool:
        """Say no to votes, unless they are cast afterwards."""
        return self.at_client() or kind != "votes"

    def adds(self) -> bool:
        """Say whether the server leaves updates alone."""
        return self.at_client()

    def elementwise(self) -> bool:
        """Say whether the server leaves updates alone."""
        return self.at_client()

    def weighs_delay(self) -> bool:
        """Say yes with the gate `delay`."""
        return "delay" in self.gates

    def rows(self) -> int:
        """Return the inputs of all steps, and those that are always the same."""
        return 0 if self.at_client() else self._lesson().drawn + CHECKED

    def _lesson(self) -> Lesson:
        return Lesson(
            self.temperature, self.steps, self.rate, self.batch, fresh=True, anchor=self.anchor
        )

    def correct(
        self,
        batch: list[Contribution],
        newest: Newest,
        tutor: Tutor | None,
        rng: np.random.Generator,
    ) -> Corrected:
        """Correct the late ones together, unless clients have corrected their own."""
        if self.at_client():
            return Corrected(batch)
        strengths = self._strengths(batch, newest, tutor)
        late = [place for place, strength in enumerate(strengths) if strength > 0]
        if not late:
            return Corrected(batch)
        students, where = self._students([batch[place] for place in late], newest)
        plain = students.copy()
        chosen = [strengths[place] for place in late]
        found = self.taught_by(tutor).teach(students, chosen, newest, self._lesson(), rng, where)
        corrected = list(batch)
        for place, before, after, taught in zip(late, plain, students, found, strict=True):
            if taught.kept:
                content = _moved(batch[place].update.content, after - before)
                corrected[place] = replace(batch[place], corrected=content)
        each = [
            (batch[place].update.address, measured(strength, taught))
            for place, strength, taught in zip(late, chosen, found, strict=True)
        ]
        measures = means([figures for _, figures in each], len(batch))
        return Corrected(corrected, measures, each)

    def _strengths(
        self, batch: Sequence[Contribution], newest: Newest, tutor: Tutor | None
    ) -> list[float]:
        """Return lambda of each update; 0 for those that are not late."""
        strength = self.at(newest.updates)
        if strength and "quality" in self.gates:
            strength *= self.taught_by(tutor).quality(newest).sure
        return [strength * self._delayed(c.weight) if c.staleness else 0.0 for c in batch]

    def _delayed(self, weight: float) -> float:
        """Return the factor of lambda for an update of weight s(d)."""
        return 1 - weight if "delay" in self.gates else 1.0

    def _students(
        self, batch: Sequence[Contribution], newest: Newest
    ) -> tuple[npt.NDArray[np.float32], list[Where | None]]:
        """Return the updates as models, shape (g, P), and which weights of them may change."""
        students = np.empty((len(batch), newest.model.size), dtype=np.float32)
        where: list[Where | None] = []
        for row, contribution in zip(students, batch, strict=True):
            content = contribution.update.content
            if contribution.update.kind == "delta":
                np.copyto(row, newest.model)
                content.add_to(row, 1.0)
            else:
                np.copyto(row, content.densify(row.size))
            where.append(_support(content, row.size))
        return students, where

    def flops(self, staleness: int, forward_flops: float) -> float:
        """Return what steps and checks take; a step is three times as much as an answer."""
        if not staleness or not self.strength or self.at_client():
            return 0.0
        return self._answers(self.batch, CHECKED) * forward_flops

    def _answers(self, rows: int, checked: int) -> int:
        """Return how many of a student's answers a lesson takes as long as."""
        own = self.anchor == "student" and self.strength < 1
        return (3 + own) * self.steps * rows + 2 * checked

    def version_flops(self, forward_flops: float) -> float:
        """Return what the teacher's answers take."""
        return self.rows() * forward_flops if self.strength else 0.0

    # ------------------------------------------------------------ at the client

    def own_strength(self, updates: int, staleness: int, weight: float) -> float:
        """Return lambda, but for the gate `quality`, which takes the model to know."""
        if not self.at_client() or not staleness:
            return 0.0
        return self.at(updates) * self._delayed(weight)

    def checks(self, examples: int) -> int:
        """Return a quarter of them, 64 at the most."""
        return min(CHECKED, examples // _TO_CHECK) if self.at_client() else 0

    def correct_own(
        self, own: Own, newest: Newest, tutor: Tutor, rng: np.random.Generator
    ) -> tuple[Vector, Mapping[str, float]]:
        """Replay the client's step on the newest model, or take its model as it stands."""
        sure = tutor.quality(newest).sure if "quality" in self.gates else 1.0
        strength = own.strength * sure
        if not strength:
            return own.weights, {}
        replayed = own.kind != "weights"
        student = newest.model + (own.weights - own.base) if replayed else own.weights.copy()
        if own.where is not None:
            student[~own.where] = 0.0
        rows, _ = self._own_rows(own.examples)
        lesson, plain = replace(self._lesson(), rows=rows), student.copy()
        students = student.reshape(1, -1)
        (taught,) = tutor.teach(students, [strength], newest, lesson, rng, [own.where])
        weights = own.weights + (student - plain) if taught.kept else own.weights
        return weights, measured(strength, taught)

    def own_flops(self, examples: int, forward_flops: float) -> float:
        """Return what the teacher's answers, steps and checks take."""
        if not self.at_client():
            return 0.0
        rows, checked = self._own_rows(examples)
        return (self._answers(rows, checked) + self.steps * rows + checked) * forward_flops

    def _own_rows(self, examples: int) -> tuple[int, int]:
        """Return inputs a step, and inputs that are always the same, of so many examples."""
        checked = self.checks(examples)
        return min(self.batch, examples - checked), checked


def _support(content: Content, size: int) -> Where | None:
    places = content.touches()
    if places is None:
        return None
    where = np.zeros(size, dtype=np.bool_)
    where[places] = True
    return where


def _moved(content: Content, by: npt.NDArray[np.float32]) -> Content:
    """Return an update's numbers with a correction, shape (P,), where it has any."""
    if isinstance(content, Sparse):
        return Sparse(content.positions, content.values + by[content.positions])
    if isinstance(content, Masked):
        return Masked(content.mask, content.values + by[content.positions])
    return Dense(content.values + by)
