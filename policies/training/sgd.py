"""Plain local steps, and local steps held near the base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat

from policies.training.base import Task, Trained, TrainingPolicy

if TYPE_CHECKING:
    import torch

    from policies.training.flat_torch import FlatModel


class LocalSteps(TrainingPolicy):
    """Takes gradient steps, and says how strongly they are pulled towards the base."""

    def pull(self) -> float:
        """Return the weight of ``1/2 * ||w - w_base||^2`` in the loss."""
        return 0.0

    def train(self, model: FlatModel, x: torch.Tensor, y: torch.Tensor, task: Task) -> Trained:
        """Train in place."""
        from policies.training.sgd_torch import local_sgd  # noqa: PLC0415  # torch, late

        return local_sgd(self, model, x, y, task, proximal=self.pull())


class Sgd(LocalSteps):
    """Take stochastic gradient steps."""

    kind: Literal["sgd"] = "sgd"


class Proximal(LocalSteps):
    """Take gradient steps on ``loss + mu / 2 * ||w - w_base||^2``.

    Source:
        FedProx, Li et al. 2020, arXiv:1812.06127; FedAsync uses it with 0.005.
    """

    kind: Literal["proximal"] = "proximal"
    mu: NonNegativeFloat = 0.005

    def pull(self) -> float:
        """Return mu."""
        return self.mu
