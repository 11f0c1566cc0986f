"""How much of an assignment's work does each client do?"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, SerializeAsAny, WrapValidator

from policies.base import Policy, open_union
from policies.units import Seconds


class WorkloadPolicy(Policy):
    """Says how many of the batches that training asks for a client takes, and how large they are.

    Attributes:
        least_batch: Fewest examples of a batch, where the device's memory does not hold one of as
            many as training asks; None asks everybody for those. The learning rate stays what it
            is (our choice).
    """

    least_batch: PositiveInt | None = None

    def batch_size(self, asked: int, fitting: int, example_s: float) -> int:
        """Return how many examples a client's batches have, between 1 and `asked`.

        Args:
            asked: `method.training.batch_size`.
            fitting: The largest batch that its device's memory holds, at most `asked`.
            example_s: What one example takes its device, in seconds of the run, without jitter.
        """
        del example_s
        if self.least_batch is None:
            return asked
        return min(asked, max(self.least_batch, fitting))

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

    Fewer batches come first. Where even the fewest do not fit and `least_batch` is given, they are
    smaller.

    Attributes:
        seconds: What the device may compute.
        least: Fewest batches, however long they take.

    Source:
        Our choice, after partial work in FedProx, Li et al. 2020, arXiv:1812.06127, section 3.2.
    """

    kind: Literal["timed"] = "timed"
    seconds: Annotated[Seconds, Field(gt=0)] = 1.0
    least: PositiveInt = 1

    def batch_size(self, asked: int, fitting: int, example_s: float) -> int:
        """Return what memory holds, and of that what lets the fewest batches fit the time."""
        size = super().batch_size(asked, fitting, example_s)
        if self.least_batch is None or example_s <= 0:
            return size
        timely = int(min(self.seconds / (self.least * example_s), size))
        return min(size, max(self.least_batch, timely))

    def batches(self, asked: int, batch_s: float) -> int:
        """Return those that fit, at least `least`, at most all."""
        fitting = asked if batch_s <= 0 else int(min(self.seconds / batch_s, asked))
        return min(asked, max(self.least, fitting))


Workload = Annotated[
    Annotated[EqualWorkload | TimedWorkload, Field(discriminator="kind")],
    WrapValidator(open_union(WorkloadPolicy)),
    SerializeAsAny(),
]
