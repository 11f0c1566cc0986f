"""The local steps themselves, on flat vectors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional

from policies.training.adjustment_torch import Adjustment
from policies.training.base import Task, Trained, TrainingPolicy
from policies.training.flat_torch import FlatModel


def local_sgd(
    policy: TrainingPolicy,
    model: FlatModel,
    x: torch.Tensor,
    y: torch.Tensor,
    task: Task,
    *,
    proximal: float = 0.0,
) -> Trained:
    """Run `policy.epochs` epochs, or `policy.steps` steps, of gradient descent in place.

    One step is ``g = grad + weight_decay * w + proximal * (w - w_base)``, then
    ``m = momentum * m + g`` and ``w -= lr * m``, as torch's own SGD orders them. Under a mask,
    ``g`` is zero outside it, and so is everything that follows from it.

    Args:
        policy: Learning rate, momentum, weight decay, epochs or steps, batch size.
        model: Holds the base; changed in place.
        x: Inputs, shape (n, ...), float32.
        y: Labels, shape (n,), int64.
        task: Orders the examples, afresh each epoch; names version and mask.
        proximal: Pull towards the base (mu of FedProx); 0 for none.

    Returns:
        Mean loss over all examples seen, and how many different ones they were.
    """
    n = int(y.shape[0])
    steps = Steps(policy, model, task, proximal=proximal)
    adjusted = Adjustment(policy, y)
    total = torch.zeros((), dtype=torch.float64)
    model.module.train()
    for done, rows in enumerate(batches(policy, n, task.rng), start=1):
        model.grads.zero_()
        loss = functional.cross_entropy(adjusted(model.module(x[rows])), y[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach() * rows.shape[0]
        steps.take()
        if task.after_step is not None:
            task.after_step(done)
    seen = policy.examples_seen(n)
    return Trained(loss=float(total) / seen, examples=min(n, seen))


class Steps:
    """Takes steps along a model's gradients, in place.

    Args:
        policy: Learning rate, momentum and weight decay.
        model: Its gradients are used up.
        task: Names version and mask.
        proximal: Pull towards the base.
        base: What it pulls to, shape (P,); what the model holds now if left out.
        velocity: Of the momentum, shape (P,), which goes on from there; zero if left out.
    """

    def __init__(
        self,
        policy: TrainingPolicy,
        model: FlatModel,
        task: Task,
        *,
        proximal: float = 0.0,
        base: torch.Tensor | None = None,
        velocity: torch.Tensor | None = None,
    ) -> None:
        self._policy = policy
        self._model = model
        self._mask = task.mask
        self._rate = policy.rate(task.version)
        self._proximal = proximal
        self._base = (model.params.clone() if base is None else base) if proximal else None
        if velocity is None and policy.momentum:
            velocity = torch.zeros_like(model.params)
        self._velocity = velocity if policy.momentum else None

    def take(self, where: slice = slice(None)) -> None:
        """Move the parameters at `where` by one step."""
        policy, params, step = self._policy, self._model.params[where], self._model.grads[where]
        if policy.weight_decay:
            step.add_(params, alpha=policy.weight_decay)
        if self._base is not None:
            step.add_(params - self._base[where], alpha=self._proximal)
        if self._mask is not None:
            step.mul_(self._mask[where])
        if self._velocity is not None:
            step = self._velocity[where].mul_(policy.momentum).add_(step)
        params.add_(step, alpha=-self._rate)


def batches(policy: TrainingPolicy, n: int, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """Yield the rows of each step."""
    for count in policy.passes(n):
        order = torch.from_numpy(rng.permutation(n))
        for start in range(0, count * policy.batch_size, policy.batch_size):
            yield order[start : start + policy.batch_size]
