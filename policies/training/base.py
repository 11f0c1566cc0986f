"""What must every way of training at a client say about itself?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from policies.base import Policy
from policies.decay import exponential

if TYPE_CHECKING:
    import torch
    from torch import nn

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


@dataclass(frozen=True, slots=True)
class Task:
    """What one assignment's training is told beside the model and the examples.

    Attributes:
        rng: Orders the batches.
        version: Number of the base version; learning rates decay by it.
        mask: Which parameters may move, shape (P,), float32 of 0 and 1; None for all.
        after_step: Called with the number of steps done.
        gram: What `TrainingPolicy.gram` made of the examples, shape (n, n); None if it is not kept.
    """

    rng: np.random.Generator
    version: int = 0
    mask: torch.Tensor | None = None
    after_step: Callable[[int], None] | None = None
    gram: torch.Tensor | None = None


class Member(NamedTuple):
    """One client of several that train side by side.

    Attributes:
        x: Inputs, shape (n, ...), float32.
        y: Labels, shape (n,), int64.
        task: The rest.
    """

    x: torch.Tensor
    y: torch.Tensor
    task: Task


class Portion(NamedTuple):
    """How much of what training asks a client does.

    Attributes:
        batches: How many it takes; 0 for all of them.
        batch_size: Examples of each; 0 for as many as is asked.
    """

    batches: int = 0
    batch_size: int = 0


class TrainingPolicy(Policy):
    """Trains a model on a client's examples.

    Attributes:
        lr: Learning rate at version 0.
        lr_final: Learning rate from version `lr_versions` on; in between it falls (or grows)
            exponentially. None keeps `lr`.
        lr_versions: How many versions that takes.
        epochs: Passes over the client's examples.
        steps: If given, so many batches in place of whole epochs; each pass is shuffled afresh.
        batch_size: Examples a step; the last batch of an epoch may be shorter, and counts.
        momentum: Of the local steps; starts at zero with every assignment.
        weight_decay: Added to the gradient as ``weight_decay * w``.
        logit_adjustment: tau: in training, ``tau * log(share of the class among the client's
            labels)`` is added to each logit, and the loss is told so. A client then says nothing
            of classes that it does not have, and does not push up those that it has much of.
            0 for none; 1 is the paper's.

    Source:
        Logit adjustment: Menon et al., ICLR 2021, arXiv:2007.07314, equation 10; with each
        client's own shares in split learning: Yang and Liu 2024, arXiv:2405.04875.
    """

    lr: PositiveFloat = 0.05
    lr_final: PositiveFloat | None = None
    lr_versions: PositiveInt = 100
    epochs: PositiveInt = 1
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 20
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: NonNegativeFloat = 0.0
    logit_adjustment: NonNegativeFloat = 0.0

    @property
    def zeros_absorb(self) -> bool:
        """Whether training leaves a prunable parameter at zero that was zero before."""
        return False

    def rate(self, version: int) -> float:
        """Return the learning rate for updates of a base version."""
        return exponential(self.lr, self.lr_final, self.lr_versions, version)

    def passes(self, examples: int) -> list[int]:
        """Return how many batches each pass over a client's examples takes."""
        whole = -(-examples // self.batch_size)
        if self.steps is None:
            return [whole] * self.epochs
        passes, rest = divmod(self.steps, whole)
        return [whole] * passes + [rest] * bool(rest)

    def batches(self, examples: int) -> int:
        """Return how many batches an assignment takes."""
        return sum(self.passes(examples))

    def portion(self, portion: Portion) -> Self:
        """Return the same for an assignment of a client that does a part of it.

        Fewer batches are the first of those of the whole; smaller ones are other batches.
        """
        changes = {"steps": portion.batches, "batch_size": portion.batch_size}
        changes = {name: value for name, value in changes.items() if value}
        return self.model_copy(update=changes) if changes else self

    def examples_seen(self, examples: int) -> int:
        """Return how many examples an assignment looks at, repeats counted."""
        return sum(min(count * self.batch_size, examples) for count in self.passes(examples))

    def flops(self, examples: int, forward_flops: float) -> float:
        """Return the work of one assignment.

        A backward pass costs twice a forward pass (the usual estimate; Kaplan et al. 2020,
        arXiv:2001.08361, section 2.1).
        """
        return 3.0 * forward_flops * self.examples_seen(examples)

    def prepare(self, module: nn.Module) -> None:
        """Change a freshly built module in place, before its parameters are read.

        Called for every copy of the model, the one that is tested included, within the random
        stream that drew its first weights. Most methods train the module as it is.
        """
        del module

    def redraws(self) -> bool:
        """Say whether `prepare` draws trained weights of layers anew, whatever they were."""
        return False

    @abstractmethod
    def train(self, model: FlatModel, x: torch.Tensor, y: torch.Tensor, task: Task) -> Trained:
        """Train `model` in place.

        Args:
            model: Holds the base version's weights.
            x: Inputs, shape (n, ...), float32.
            y: Labels, shape (n,), int64.
            task: The rest.
        """

    def cohorts(self, model: FlatModel) -> bool:
        """Say whether clients can train this model side by side."""
        del model
        return False

    def gram(self, model: FlatModel, x: torch.Tensor) -> torch.Tensor | None:
        """Return what training would keep of a client's examples between assignments.

        Args:
            model: Tells the layers.
            x: Inputs, shape (n, ...), float32.

        Returns:
            Products of examples with one another, shape (n, n), with which training takes the
            same steps faster; None if it is no faster with them.
        """
        del model, x
        return None

    def train_cohort(
        self, model: FlatModel, params: torch.Tensor, members: Sequence[Member]
    ) -> list[Trained]:
        """Train several clients' models; asked only where `cohorts` says yes.

        The bits must be those of `train` for each.

        Args:
            model: Tells the layers; what it holds is not used.
            params: Base versions' weights, a row a member, shape (g, P); changed in place.
            members: Their examples, those with the most first.

        Raises:
            TypeError: If this policy trains one client after the other.
        """
        del model, params
        raise TypeError(f"{type(self).__name__} trains {len(members)} clients one after the other")
