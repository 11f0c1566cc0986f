"""The local steps themselves, on flat vectors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional

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
    base = model.params.clone() if proximal else None
    velocity = torch.zeros_like(model.params) if policy.momentum else None
    rate = policy.rate(task.version)
    total = torch.zeros((), dtype=torch.float64)
    model.module.train()
    for steps, rows in enumerate(_batches(policy, n, task.rng), start=1):
        model.grads.zero_()
        loss = functional.cross_entropy(model.module(x[rows]), y[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach() * rows.shape[0]
        step = model.grads
        if policy.weight_decay:
            step.add_(model.params, alpha=policy.weight_decay)
        if base is not None:
            step.add_(model.params - base, alpha=proximal)
        if task.mask is not None:
            step.mul_(task.mask)
        if velocity is not None:
            step = velocity.mul_(policy.momentum).add_(step)
        model.params.add_(step, alpha=-rate)
        if task.after_step is not None:
            task.after_step(steps)
    seen = policy.examples_seen(n)
    return Trained(loss=float(total) / seen, examples=min(n, seen))


def _batches(policy: TrainingPolicy, n: int, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    """Yield the rows of each step."""
    for count in policy.passes(n):
        order = torch.from_numpy(rng.permutation(n))
        for start in range(0, count * policy.batch_size, policy.batch_size):
            yield order[start : start + policy.batch_size]
