"""What does the server need to correct a version?"""

from __future__ import annotations

from typing import NamedTuple

from actors.learning.examples import DataShape
from actors.learning.holdings import Examples, Holdings
from actors.work import Work
from policies.correction import Tutor


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


def tutor_for(work: Work, public: Public | None) -> Tutor | None:
    """Return what teaches, where there are inputs to teach on."""
    if public is None:
        return None
    from policies.correction.tutor_torch import ModelTutor  # noqa: PLC0415  # most need no torch

    x, y = public.examples.x, public.examples.y
    return ModelTutor(work.build(public.shape), x, y)
