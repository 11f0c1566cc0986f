"""What do a client's labels add to its logits before the loss?"""

from __future__ import annotations

import torch

from policies.training.base import TrainingPolicy


class Adjustment:
    """Adds to logits what a client's labels say beforehand.

    Args:
        policy: Says how much of it.
        y: All of the client's labels, shape (n,), int64.
    """

    def __init__(self, policy: TrainingPolicy, y: torch.Tensor) -> None:
        self._tau = policy.logit_adjustment
        self._y = y
        self._added: torch.Tensor | None = None

    def added(self, classes: int) -> torch.Tensor:
        """Return ``tau * log(share)`` a class, shape (classes,); minus infinity where none is."""
        if self._added is None:
            shares = torch.bincount(self._y, minlength=classes).float() / len(self._y)
            self._added = self._tau * torch.log(shares)
        return self._added

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (..., classes), for the loss."""
        return logits + self.added(logits.shape[-1]) if self._tau else logits
