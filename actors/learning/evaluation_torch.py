"""How good is a model on examples that it has not seen, as a whole and class by class?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

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
        by_owner: That share among the examples of each owner; empty if nobody owns them.
        by_client: How good each client's own model is for it, NaN if that is not known; empty if
            all have the same.
    """

    accuracy: float
    loss: float
    recall: tuple[float, ...]
    support: tuple[int, ...]
    by_owner: tuple[float, ...] = ()
    by_client: tuple[float, ...] = ()

    @property
    def client_accuracy(self) -> float:
        """Mean of `by_client` over the clients of which it is known; NaN if of none."""
        known = [share for share in self.by_client if not math.isnan(share)]
        return math.fsum(known) / len(known) if known else math.nan


class Look(NamedTuple):
    """What one look at all examples found.

    Attributes:
        hits: Which examples are right, shape (n,), bool.
        recall: Share of the examples of each class that are right; NaN for a class without any.
        loss: Sum of cross-entropies in nats.
    """

    hits: Tensor
    recall: tuple[float, ...]
    loss: float


class Score(NamedTuple):
    """What a client found when it tested a version on examples of its own; counts alone.

    Attributes:
        client: Who.
        right: Examples of each class whose largest logit is that of their label.
        support: Examples of each class.
        loss: Sum of cross-entropies in nats.
    """

    client: int
    right: tuple[int, ...]
    support: tuple[int, ...]
    loss: float

    @classmethod
    def nothing(cls, client: int, classes: int) -> Score:
        """Return the score of a client without test examples."""
        return cls(client, (0,) * classes, (0,) * classes, 0.0)

    @property
    def examples(self) -> int:
        """How many examples it is about."""
        return sum(self.support)

    @property
    def accuracy(self) -> float:
        """Share of them that were right; NaN of none."""
        return sum(self.right) / self.examples if self.examples else math.nan


def evaluate(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    classes: int,
    batch_size: int = 512,
    *,
    owners: Tensor | None = None,
) -> Evaluation:
    """Measure a model; its weights, buffers and training modes stay as they are.

    Args:
        module: Maps x to logits, shape (n, classes).
        x: Normalised inputs, shape (n, ...), float32, n >= 1, on the module's device.
        y: Labels, shape (n,), int64, in [0, classes).
        classes: How many classes there are.
        batch_size: Examples in one pass, >= 1. Equal ones give equal bits.
        owners: Whose each example is, shape (n,), int64.

    Returns:
        Accuracy, loss, and recall class by class.

    Raises:
        ExperimentError: If there is nothing to evaluate, or labels or logits do not fit `classes`.
    """
    hits, loss = _hits(module, x, y, classes, batch_size)
    support = torch.bincount(y, minlength=classes).tolist()
    right = torch.bincount(y[hits], minlength=classes).tolist()
    by_owner: tuple[float, ...] = ()
    if owners is not None:
        owned = torch.bincount(owners).tolist()
        good = torch.bincount(owners[hits], minlength=len(owned)).tolist()
        by_owner = _shares(good, owned)
    return Evaluation(
        accuracy=sum(right) / len(y),
        loss=loss / len(y),
        recall=_shares(right, support),
        support=tuple(support),
        by_owner=by_owner,
    )


def look(module: nn.Module, x: Tensor, y: Tensor, classes: int, batch_size: int = 512) -> Look:
    """Measure a model example by example; see `evaluate`."""
    hits, loss = _hits(module, x, y, classes, batch_size)
    support = torch.bincount(y, minlength=classes).tolist()
    right = torch.bincount(y[hits], minlength=classes).tolist()
    return Look(hits, _shares(right, support), loss)


def features(module: nn.Module, through: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return what a part of a module makes of inputs, in eval mode, 512 in a pass."""
    with _evaluating(module), torch.no_grad():
        return torch.cat([through(part) for part in torch.split(x, 512)])


def score(client: int, module: nn.Module, x: Tensor, y: Tensor, classes: int) -> Score:
    """Measure a model on a client's own examples; see `evaluate`."""
    hits, loss = _hits(module, x, y, classes, 512)
    right = torch.bincount(y[hits], minlength=classes).tolist()
    return Score(client, tuple(right), tuple(torch.bincount(y, minlength=classes).tolist()), loss)


def together(scores: Sequence[Score]) -> Evaluation:
    """Return the evaluation on the examples of all clients.

    Args:
        scores: In an order of their own that is always the same; one example or more in all.
    """
    right = [sum(counts) for counts in zip(*(s.right for s in scores), strict=True)]
    support = [sum(counts) for counts in zip(*(s.support for s in scores), strict=True)]
    total = sum(support)
    loss = math.fsum(s.loss for s in scores) / total
    return Evaluation(sum(right) / total, loss, _shares(right, support), tuple(support))


def _shares(right: Sequence[int], support: Sequence[int]) -> tuple[float, ...]:
    return tuple(r / n if n else math.nan for r, n in zip(right, support, strict=True))


def _hits(
    module: nn.Module, x: Tensor, y: Tensor, classes: int, batch_size: int
) -> tuple[Tensor, float]:
    """Return which examples are right, shape (n,), bool, and the sum of cross-entropies."""
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
            hits.append(labels == logits.argmax(dim=1))
    return torch.cat(hits), loss


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
