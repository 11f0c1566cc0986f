"""How good is a model on examples that it has not seen, as a whole and class by class?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from policies.types import ExperimentError


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        accuracy: Share of examples whose largest logit is that of their label, in [0, 1].
        loss: Mean cross-entropy in nats; NaN or infinite for a model that has diverged.
        recall: That share among the examples of each class; NaN for a class without any.
        support: How many examples each class has.
    """

    accuracy: float
    loss: float
    recall: tuple[float, ...]
    support: tuple[int, ...]


def evaluate(
    module: nn.Module, x: Tensor, y: Tensor, classes: int, batch_size: int = 512
) -> Evaluation:
    """Measure a model; its weights, buffers and training modes stay as they are.

    Args:
        module: Maps x to logits, shape (n, classes).
        x: Normalised inputs, shape (n, ...), float32, n >= 1, on the module's device.
        y: Labels, shape (n,), int64, in [0, classes).
        classes: How many classes there are.
        batch_size: Examples in one pass, >= 1. Equal ones give equal bits.

    Returns:
        Accuracy, loss, and recall class by class.

    Raises:
        ExperimentError: If there is nothing to evaluate, or labels or logits do not fit `classes`.
    """
    _check(x, y, classes)
    hits, loss = [], 0.0
    with _evaluating(module), torch.no_grad():
        for start in range(0, len(x), batch_size):
            inputs, labels = x[start : start + batch_size], y[start : start + batch_size]
            logits = module(inputs)
            if logits.shape != (len(inputs), classes):
                raise ExperimentError(
                    f"the model must return logits of shape {(len(inputs), classes)}, got "
                    f"{tuple(logits.shape)}. Build it for {classes} classes."
                )
            # A float32 sum would depend on how many examples there are.
            loss += functional.cross_entropy(logits.double(), labels, reduction="sum").item()
            hits.append(labels[logits.argmax(dim=1) == labels])
    support = torch.bincount(y, minlength=classes).tolist()
    right = torch.bincount(torch.cat(hits), minlength=classes).tolist()
    return Evaluation(
        accuracy=sum(right) / len(y),
        loss=loss / len(y),
        recall=tuple(r / n if n else math.nan for r, n in zip(right, support, strict=True)),
        support=tuple(support),
    )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put every part of a module into eval mode, and back into the mode it had."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def _check(x: Tensor, y: Tensor, classes: int) -> None:
    """Refuse examples that cannot be evaluated."""
    if len(x) == 0 or y.shape != (len(x),):
        raise ExperimentError(
            f"an evaluation needs one label for each of one or more examples, got {len(x)} "
            f"examples and labels of shape {tuple(y.shape)}."
        )
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise ExperimentError(
            f"labels must lie in [0, {classes}), got {int(y.min())} to {int(y.max())}."
        )
