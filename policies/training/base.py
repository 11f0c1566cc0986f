"""What must every way of training at a client say about itself?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from policies.base import Policy

if TYPE_CHECKING:
    import torch

    from policies.training.flat_torch import FlatModel


@dataclass(frozen=True, slots=True)
class Trained:
    """What local training reports beside the weights.

    Attributes:
        loss: Mean training loss over all examples seen.
        examples: Different examples trained on, n_k.
    """

    loss: float
    examples: int


class TrainingPolicy(Policy):
    """Trains a model on a client's examples.

    Attributes:
        lr: Learning rate.
        epochs: Passes over the client's examples.
        batch_size: Examples a step; the last batch of an epoch may be shorter, and counts.
        momentum: Of the local steps; starts at zero with every assignment.
        weight_decay: Added to the gradient as ``weight_decay * w``.
    """

    lr: PositiveFloat = 0.05
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 20
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: NonNegativeFloat = 0.0

    def flops(self, examples: int, forward_flops: float) -> float:
        """Return the work of one assignment.

        A backward pass costs twice a forward pass (the usual estimate; Kaplan et al. 2020,
        arXiv:2001.08361, section 2.1).
        """
        return 3.0 * forward_flops * examples * self.epochs

    @abstractmethod
    def train(
        self,
        model: FlatModel,
        x: torch.Tensor,
        y: torch.Tensor,
        rng: np.random.Generator,
        after_step: Callable[[int], None] | None = None,
    ) -> Trained:
        """Train `model` in place.

        Args:
            model: Holds the base version's weights.
            x: Inputs, shape (n, ...), float32.
            y: Labels, shape (n,), int64.
            rng: Orders the batches.
            after_step: Called with the number of steps done.
        """
