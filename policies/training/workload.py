"""How much of an assignment's work does each client do?"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, SerializeAsAny, WrapValidator

from policies.base import Policy, open_union
from policies.units import Seconds


class WorkloadPolicy(Policy):
    """Says how many of the batches that training asks for a client takes."""

    @abstractmethod
    def batches(self, asked: int, batch_s: float) -> int:
        """Return how many batches a client takes, between 1 and `asked`.

        Args:
            asked: How many `method.training` asks of one with as many examples.
            batch_s: What one takes its device alone, in seconds of the run, without jitter.
        """


class EqualWorkload(WorkloadPolicy):
    """As much as is asked of everybody. The baseline."""

    kind: Literal["equal"] = "equal"

    def batches(self, asked: int, batch_s: float) -> int:
        """Return all of them."""
        del batch_s
        return asked


class TimedWorkload(WorkloadPolicy):
    """As much as fits a time on the client's own device, so that slow ones are asked for less.

    Attributes:
        seconds: What the device may compute.
        least: Fewest batches, however long they take.

    Source:
        Our choice, after partial work in FedProx, Li et al. 2020, arXiv:1812.06127, section 3.2.
    """

    kind: Literal["timed"] = "timed"
    seconds: Annotated[Seconds, Field(gt=0)] = 1.0
    least: PositiveInt = 1

    def batches(self, asked: int, batch_s: float) -> int:
        """Return those that fit, at least `least`, at most all."""
        fitting = asked if batch_s <= 0 else int(min(self.seconds / batch_s, asked))
        return min(asked, max(self.least, fitting))


Workload = Annotated[
    Annotated[EqualWorkload | TimedWorkload, Field(discriminator="kind")],
    WrapValidator(open_union(WorkloadPolicy)),
    SerializeAsAny(),
]
