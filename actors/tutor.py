"""What does the server need to correct a version?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from actors.learning.examples import DataShape
from actors.learning.holdings import Examples, Holdings
from actors.stopwatch import Stopwatch
from actors.work import Work
from policies.correction import Lesson, Newest, Quality, Taught, Tutor
from policies.correction.base import Where


class Public(NamedTuple):
    """What everybody may know of the data.

    Attributes:
        shape: What it looks like.
        examples: Some that are no client's, their inputs normalised.
    """

    shape: DataShape
    examples: Examples


def public_of(work: Work, holdings: Holdings) -> Public | None:
    """Return the examples that the correction asks for; None if it asks for none."""
    examples = holdings.public() if work.method.correction.rows() else None
    return None if examples is None else Public(holdings.shape, examples)


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

    x, y = public.examples.x, public.examples.y
    return _Timed(ModelTutor(work.build(public.shape), x, y), watch)
