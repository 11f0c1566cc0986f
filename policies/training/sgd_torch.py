"""The local steps themselves, on flat vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from policies.training.base import Trained, TrainingPolicy
from policies.training.flat_torch import FlatModel


def local_sgd(
    policy: TrainingPolicy,
    model: FlatModel,
    x: torch.Tensor,
    y: torch.Tensor,
    rng: np.random.Generator,
    *,
    proximal: float = 0.0,
    after_step: Callable[[int], None] | None = None,
) -> Trained:
    """Run `policy.epochs` epochs of gradient steps in place.

    One step is ``g = grad + weight_decay * w + proximal * (w - w_base)``, then
    ``m = momentum * m + g`` and ``w -= lr * m``, as torch's own SGD orders them.

    Args:
        policy: Learning rate, momentum, weight decay, epochs, batch size.
        model: Holds the base; changed in place.
        x: Inputs, shape (n, ...), float32.
        y: Labels, shape (n,), int64.
        rng: Orders the examples, afresh each epoch.
        proximal: Pull towards the base (mu of FedProx); 0 for none.
        after_step: Called with the number of steps done.

    Returns:
        Mean loss over all examples seen, and n.
    """
    n = int(y.shape[0])
    base = model.params.clone() if proximal else None
    velocity = torch.zeros_like(model.params) if policy.momentum else None
    total = torch.zeros((), dtype=torch.float64)
    steps = 0
    model.module.train()
    for _ in range(policy.epochs):
        order = torch.from_numpy(rng.permutation(n))
        for start in range(0, n, policy.batch_size):
            rows = order[start : start + policy.batch_size]
            model.grads.zero_()
            loss = functional.cross_entropy(model.module(x[rows]), y[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach() * rows.shape[0]
            step = model.grads
            if policy.weight_decay:
                step.add_(model.params, alpha=policy.weight_decay)
            if base is not None:
                step.add_(model.params - base, alpha=proximal)
            if velocity is not None:
                step = velocity.mul_(policy.momentum).add_(step)
            model.params.add_(step, alpha=-policy.lr)
            steps += 1
            if after_step is not None:
                after_step(steps)
    return Trained(loss=float(total) / (n * policy.epochs), examples=n)
