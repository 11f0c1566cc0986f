"""What does the server need to correct a version?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from actors.learning.examples import DataShape, Labels
from actors.learning.generated import smooth_noise
from actors.learning.holdings import Holdings
from actors.stopwatch import Stopwatch
from actors.work import Work
from policies.correction import Lesson, Newest, Quality, Taught, Tutor
from policies.correction.base import Where
from policies.types import stream

SPARE: Final = 1000
"""Inputs that are generated beyond those of a version, so that versions have others."""


class Public(NamedTuple):
    """What everybody may know of the data.

    Attributes:
        shape: What it looks like.
        inputs: Some that are no client's, normalised, shape (n, ...).
        labels: Theirs, shape (n,), if they have any.
    """

    shape: DataShape
    inputs: npt.NDArray[Any]
    labels: Labels | None = None


def public_of(work: Work, holdings: Holdings) -> Public | None:
    """Return the examples that the correction asks for; None if it asks for none."""
    correction, shape = work.method.correction, holdings.shape
    if not correction.rows():
        return None
    if correction.draws():
        rng = stream(work.seed, "generated-inputs")
        inputs = smooth_noise(shape.input, holdings.moments(), correction.rows() + SPARE, rng)
        return Public(shape, inputs)
    examples = holdings.public()
    return None if examples is None else Public(shape, *examples)


class _Timed:
    """A tutor whose lessons are timed."""

    def __init__(self, tutor: Tutor, watch: Stopwatch) -> None:
        self._tutor = tutor
        self._watch = watch

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
        with self._watch("correct late updates"):
            return self._tutor.teach(students, strengths, newest, lesson, rng, where)

    def quality(self, newest: Newest) -> Quality:
        """Return how good the teacher is; see `Tutor.quality`."""
        with self._watch("correct late updates"):
            return self._tutor.quality(newest)


def tutor_for(work: Work, public: Public | None, watch: Stopwatch) -> Tutor | None:
    """Return what teaches, where there are inputs to teach on.

    Args:
        work: What actors are told.
        public: Examples that are no client's.
        watch: Times lessons.
    """
    if public is None:
        return None
    from policies.correction.tutor_torch import ModelTutor  # noqa: PLC0415  # most need no torch

    shape, inputs, labels = public
    return _Timed(ModelTutor(work.build(shape), inputs, labels), watch)
