"""Plain local steps, and local steps held near the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat

from policies.training.base import Member, Task, Trained, TrainingPolicy

if TYPE_CHECKING:
    import torch

    from policies.training.flat_torch import FlatModel


class LocalSteps(TrainingPolicy):
    """Takes gradient steps, and says how strongly they are pulled towards the base."""

    def pull(self) -> float:
        """Return the weight of ``1/2 * ||w - w_base||^2`` in the loss."""
        return 0.0

    def train(self, model: FlatModel, x: torch.Tensor, y: torch.Tensor, task: Task) -> Trained:
        """Train in place; a chain of linear layers as a cohort of one."""
        from policies.training.sgd_torch import local_sgd  # noqa: PLC0415  # torch, late

        if model.chain is not None:
            return self.train_cohort(model, model.params.unsqueeze(0), [Member(x, y, task)])[0]
        return local_sgd(self, model, x, y, task, proximal=self.pull())

    def cohorts(self, model: FlatModel) -> bool:
        """Say yes to a chain of linear layers, unless a policy derived from this trains otherwise.

        What overrides `train` is asked for each client, and may call this class's.
        """
        return model.chain is not None and type(self).train is LocalSteps.train

    def train_cohort(
        self, model: FlatModel, params: torch.Tensor, members: Sequence[Member]
    ) -> list[Trained]:
        """Train in batched matrix products."""
        if model.chain is None:
            raise ValueError("only a chain of linear layers trains in cohorts")
        from policies.training.cohort_torch import train  # noqa: PLC0415  # torch, late

        return train(model.chain, self, params, members, proximal=self.pull())

    def gram(self, model: FlatModel, x: torch.Tensor) -> torch.Tensor | None:
        """Return products of a client's examples with one another; see `Chain.gram`."""
        if not self.cohorts(model) or model.chain is None:
            return None
        plain = not (self.weight_decay or self.momentum or self.pull())
        return model.chain.gram(x) if plain else None


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
