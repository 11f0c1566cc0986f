"""How does a client correct its own update before it is sent?"""

from __future__ import annotations

import numpy as np

from actors.learning.examples import DataShape
from actors.learning.holdings import Examples
from actors.work import Assignment, Figures, Work
from policies.correction import Newest, Own
from policies.correction.base import Where
from policies.correction.tutor_torch import ModelTutor
from policies.training.flat_torch import FlatModel
from policies.types import Vector, stream
from policies.update import Base


class Corrector:
    """Brings updates nearer to a newer version, on their clients' own examples.

    Args:
        work: What actors are told.
        shape: What the data looks like.
    """

    def __init__(self, work: Work, shape: DataShape) -> None:
        self._work = work
        self._shape = shape
        self._model: FlatModel | None = None  # of its own: the client's holds what it has trained

    def correct(
        self,
        assignment: Assignment,
        weights: Vector,
        base: Base,
        teacher: tuple[Base, Vector],
        examples: Examples,
    ) -> tuple[Vector, Figures]:
        """Correct an update.

        Args:
            assignment: What was asked for.
            weights: After training, shape (P,).
            base: What they were trained from.
            teacher: The newer version, and its normalisation buffers, shape (B,).
            examples: The client's own.

        Returns:
            The corrected weights, and what was measured; the same arguments give the same.
        """
        method, seed = self._work.method, self._work.seed
        newest, buffers = teacher
        own = Own(
            kind=method.uplink.sends(),
            weights=weights,
            base=base.values,
            examples=len(examples.y),
            strength=assignment.strength,
            where=self._where(weights, newest),
        )
        rng = stream(seed, "own-correction", *assignment.address)
        tutor = self._tutor(assignment.address.client, examples)
        corrected, figures = method.correction.correct_own(
            own, Newest(newest.values, buffers), tutor, rng
        )
        return corrected, tuple(figures.items())

    def _where(self, weights: Vector, newest: Base) -> Where | None:
        """Return which weights live, shape (P,): under the newest mask, or in a sparse update."""
        if newest.mask is not None:
            where = np.zeros(weights.size, dtype=np.bool_)
            where[newest.mask.positions] = True
            return where
        return weights != 0 if self._work.method.uplink.zeros_count() else None

    def _tutor(self, client: int, examples: Examples) -> ModelTutor:
        """Return what teaches on a client's examples; those that check are always the same."""
        if self._model is None:
            self._model = self._work.build(self._shape)
        count = len(examples.y)
        order = stream(self._work.seed, "own-checks", client).permutation(count)
        checked = self._work.method.correction.checks(count)
        return ModelTutor(self._model, examples.x[order], examples.y[order], checked)
