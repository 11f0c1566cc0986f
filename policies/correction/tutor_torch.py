"""How do students learn a teacher's answers?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, isfinite
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from policies.correction.base import CHECKED, Lesson, Newest, Quality, Taught, Where
from policies.training.chain_torch import Chain, aligned, rows_like
from policies.training.flat_torch import FlatModel

_HALVINGS: Final = 2
_FIRST_RATE: Final = 0.002
"""Of the first step of all, before anything is known of the curvature."""
_REMEMBERED: Final = 0.9
"""What is left of older curvatures in their mean, from one lesson to the next."""
_LOOKED_AT: Final = 2
"""Steps whose gradients are compared."""


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """Inputs, what the teacher says to them, and how to learn it.

    Attributes:
        lesson: How.
        inputs: A batch a step, or one for all steps.
        wanted: The teacher's probabilities at temperature T, shape (b, C) each.
        labels: Of the batches, shape (b,) each.
        same: Inputs that are always the same.
        said: Logarithms of the teacher's probabilities for these, shape (c, C).
    """

    lesson: Lesson
    inputs: Sequence[Tensor]
    wanted: Sequence[Tensor]
    labels: Sequence[Tensor] | None
    same: Tensor
    said: Tensor

    def distances(self, answers: Tensor) -> Tensor:
        """Return each student's mean KL divergence from the teacher, shape (g,).

        Args:
            answers: To the inputs that are always the same, shape (g, c, C).
        """
        found = torch.log_softmax(answers, 2)
        return (self.said.exp() * (self.said - found)).sum(2).mean(1).clamp_min(0.0)

    def wish(self, place: int, answers: Tensor, strengths: Tensor, own: Tensor | None) -> Tensor:
        """Return minus the gradient of the loss by the answers, shape (g, b, C).

        Args:
            place: Which batch.
            answers: To it, shape (g, b, C).
            strengths: lambda, shape (g, 1, 1).
            own: Probabilities at temperature T before the first step, where they anchor.
        """
        heat = self.lesson.temperature
        target = self.wanted[place]
        if own is not None:
            wish = torch.lerp(own, target, strengths) - torch.softmax(answers / heat, 2)
            wish *= heat
        else:
            wish = target - torch.softmax(answers / heat, 2)
            wish *= heat * strengths
        if self.lesson.anchor == "labels" and self.labels is not None:
            right = torch.zeros_like(target)
            right.scatter_(1, self.labels[place].unsqueeze(1), 1.0)
            wish += (1 - strengths) * (right - torch.softmax(answers, 2))
        return wish.div_(answers.shape[1])


class ModelTutor:
    """A model, and inputs; see `Tutor`.

    Students of linear layers learn together, by batched matrix products; others one after the
    other: on a CPU `torch.func.vmap` over them takes as long.

    Args:
        model: Whose weights are replaced at every lesson.
        inputs: Shape (n, ...), more than `checked`.
        labels: Of the inputs, shape (n,), where a lesson asks for them.
        checked: How many of the first ones are those that are always the same.
    """

    def __init__(
        self,
        model: FlatModel,
        inputs: npt.NDArray[Any],
        labels: npt.NDArray[np.int64] | None = None,
        checked: int = CHECKED,
    ) -> None:
        self._model = model
        every = torch.from_numpy(np.ascontiguousarray(inputs))
        self._same, self._others = every[:checked], every[checked:]
        self._last: tuple[Newest, Tensor] | None = None
        self._labels = None if labels is None else torch.from_numpy(labels[checked:].copy())

    def teach(
        self,
        students: npt.NDArray[np.float32],
        strengths: Sequence[float],
        newest: Newest,
        lesson: Lesson,
        rng: np.random.Generator,
        where: Sequence[Where | None] = (),
    ) -> list[Taught]:
        """Bring students nearer to the newest version's answers; see `Tutor.teach`."""
        batches = [torch.sort(batch).values for batch in self._drawn(lesson, rng)]
        with torch.no_grad():
            task = self._task(batches, newest, lesson)
            chain = self._model.chain
            if chain is not None:
                group = _Together(chain, students)
                taught = _learn(group, task, strengths, _flags(where))
                np.copyto(students, group.params.numpy())
                return taught
        taught = []
        for place, strength in enumerate(strengths):
            alone = _Alone(self._model, students[place], newest)
            taught += _learn(alone, task, [strength], _flags(where[place : place + 1]))
            np.copyto(students[place], self._model.params.numpy())
        return taught

    def quality(self, newest: Newest) -> Quality:
        """Return how good the teacher is; see `Tutor.quality`."""
        with torch.no_grad():
            answers = torch.softmax(self._said(newest), 1)
            mean = answers.mean(0)
            guess = 1 / answers.shape[1]
            sure = (float(answers.max(1).values.mean()) - guess) / (1 - guess)
            entropy = float(torch.special.entr(mean).sum())
        return Quality(min(max(sure, 0.0), 1.0), min(exp(entropy) * guess, 1.0))

    def _drawn(self, lesson: Lesson, rng: np.random.Generator) -> list[Tensor]:
        """Return the inputs of each step, shape (rows,): no input twice while there are others."""
        parts: list[Tensor] = []
        count, left = len(self._others), lesson.drawn
        at_once = max(count // lesson.rows, 1) * lesson.rows
        while left > 0:
            rows = rng.choice(count, min(left, at_once), replace=False)
            parts += torch.split(torch.from_numpy(rows), lesson.rows)
            left -= rows.size
        return parts

    def _teacher(self, newest: Newest, x: Tensor) -> Tensor:
        """Return the newest version's answers."""
        self._model.module.eval()
        self._model.load(newest.model, newest.buffers)
        found: Tensor = self._model.module(x)
        return found

    def _said(self, newest: Newest) -> Tensor:
        """Return the newest version's answers to the inputs that are always the same."""
        if self._last is None or self._last[0] is not newest:
            self._last = newest, self._teacher(newest, self._same)
        return self._last[1]

    def _task(self, batches: Sequence[Tensor], newest: Newest, lesson: Lesson) -> _Task:
        """Return inputs and what the teacher says to them."""
        if lesson.anchor == "labels" and self._labels is None:
            raise ValueError("these inputs have no labels")
        inputs = [self._others[rows] for rows in batches]
        labels = None if self._labels is None else [self._labels[rows] for rows in batches]
        wanted = [torch.softmax(self._teacher(newest, x) / lesson.temperature, 1) for x in inputs]
        same = torch.log_softmax(self._said(newest), 1)
        return _Task(lesson, inputs, wanted, labels, self._same, same)


class _Students(Protocol):
    """Students that learn at the same time.

    Attributes:
        params: Their weights, shape (g, P).
    """

    params: Tensor

    def answers(self, x: Tensor, *, to_learn: bool = False) -> Tensor:
        """Return what they say to the same inputs, shape (g, b, C)."""

    def changes(self, wish: Tensor) -> Tensor:
        """Return what the chain rule makes of a wish for other answers than the last, (g, P)."""

    def follow(self, wish: Tensor) -> None:
        """Add it to the weights."""


class _Together:
    """Students of linear layers."""

    def __init__(self, chain: Chain, students: npt.NDArray[np.float32]) -> None:
        count, size = students.shape
        self._chain = chain
        self.params = torch.empty(count, aligned(size))[:, :size]
        self.params.copy_(torch.from_numpy(students))
        self._views = chain.views(self.params)
        self._grads: Tensor | None = None
        self._inputs: list[Tensor] = []

    def answers(self, x: Tensor, *, to_learn: bool = False) -> Tensor:
        del to_learn
        everybody = x.flatten(1).expand(len(self.params), -1, -1)
        self._inputs = self._chain.answers(self._views, everybody)
        return self._inputs[-1]

    def changes(self, wish: Tensor) -> Tensor:
        if self._grads is None:
            self._grads = rows_like(self.params)
        into = self._chain.views(self._grads)
        self._chain.push(self._views, self._inputs, wish, into)
        return self._grads

    def follow(self, wish: Tensor) -> None:
        self._chain.push(self._views, self._inputs, wish)


class _Alone:
    """One student of any model."""

    def __init__(self, model: FlatModel, student: npt.NDArray[np.float32], newest: Newest) -> None:
        model.module.eval()
        model.load(student, newest.buffers)
        self._model = model
        self.params = model.params.unsqueeze(0)
        self._answers = model.params

    def answers(self, x: Tensor, *, to_learn: bool = False) -> Tensor:
        with torch.set_grad_enabled(to_learn):
            self._answers = self._model.module(x)
        return self._answers.detach().unsqueeze(0)

    def changes(self, wish: Tensor) -> Tensor:
        self._model.grads.zero_()
        self._answers.backward(wish[0])  # type: ignore[no-untyped-call]
        return self._model.grads.unsqueeze(0)

    def follow(self, wish: Tensor) -> None:
        self.params += self.changes(wish)


def _flags(where: Sequence[Where | None]) -> Tensor | None:
    """Return which weights may change, shape (g, P); None for all."""
    known = [one for one in where if one is not None]
    if not known:
        return None
    every = np.ones_like(known[0])
    return torch.from_numpy(np.stack([every if one is None else one for one in where]))


def _learn(
    students: _Students, task: _Task, strengths: Sequence[float], flags: Tensor | None
) -> list[Taught]:
    """Take the steps, and of each student's as much as brings it nearer to the teacher."""
    params, lesson = students.params, task.lesson
    start = params.clone()
    shares = torch.tensor(strengths).view(-1, 1, 1)
    before = task.distances(students.answers(task.same))
    owns = None
    if lesson.anchor == "student" and min(strengths) < 1:
        owns = [torch.softmax(students.answers(x) / lesson.temperature, 2) for x in task.inputs]
    pull = lesson.anchor == "weights" and min(strengths) < 1
    pace = _Pace(lesson)
    for step in range(lesson.steps):
        place = step % len(task.inputs)
        answers = students.answers(task.inputs[place], to_learn=True)
        wish = task.wish(place, answers, shares, None if owns is None else owns[place])
        if flags is None and not pull and not pace.looks(step):
            students.follow(wish.mul_(pace.rate))
            continue
        change = students.changes(wish)
        if pull:
            change.addcmul_(start - params, 1 - shares[:, 0])
        if flags is not None:
            change *= flags
        if pace.looks(step):
            pace.see(change)
        params.add_(change, alpha=pace.rate)
    if flags is not None:
        params.copy_(torch.where(flags, params, start))
    moved = params - start
    after, kept = task.distances(students.answers(task.same)), torch.ones(len(params))
    for _ in range(_HALVINGS):
        worse = ~(after <= before)  # a NaN is not less, either
        if not worse.any():
            break
        kept[worse] /= 2
        params[worse] = start[worse] + kept[worse].unsqueeze(1) * moved[worse]
        after = task.distances(students.answers(task.same))
    worse = ~(after <= before)
    kept[worse], after[worse], moved[worse] = 0.0, before[worse], 0.0
    params[worse] = start[worse]
    lengths = kept * moved.norm(dim=1)
    figures = zip(before.tolist(), after.tolist(), lengths.tolist(), kept.tolist(), strict=True)
    return [Taught(*one, curvature=pace.curvature) for one in figures]


class _Pace:
    """How long steps are: as the lesson says, or 1 over the mean curvature along the first two.

    With the changes g_0, g_1 that two steps wish for and what the first one has moved,
    ``d = rate g_0``, the curvature is ``d (g_0 - g_1) / d d``. What counts is a moving mean over
    the lessons, since single ones jump.

    Attributes:
        rate: Of the next step.
        curvature: L; 0 where nobody looks.
    """

    def __init__(self, lesson: Lesson) -> None:
        self._looks = lesson.rate is None
        self.curvature = lesson.curvature if self._looks else 0.0
        self.rate = self._by_curvature() if lesson.rate is None else lesson.rate
        self._before: Tensor | None = None

    def looks(self, step: int) -> bool:
        """Say whether a step's changes have to be seen."""
        return self._looks and step < _LOOKED_AT

    def see(self, change: Tensor) -> None:
        """Learn from the changes of a step, shape (1, P), before it is taken."""
        if self._before is None:
            self._before = change.clone()
            return
        before = self._before.flatten()
        length = self.rate * float(before @ before)
        found = float(before @ (before - change.flatten())) / length if length > 0 else 0.0
        if isfinite(found) and found > 0:
            old = self.curvature or found
            self.curvature = _REMEMBERED * old + (1 - _REMEMBERED) * found
        self.rate = self._by_curvature()

    def _by_curvature(self) -> float:
        return 1 / self.curvature if self.curvature > 0 else _FIRST_RATE
