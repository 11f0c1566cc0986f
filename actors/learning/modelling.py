"""What does every model have in common, and what does it cost?

A FLOP is one multiplication or one addition. As torch's own counter does, we count those of
convolutions and matrix products, and leave out biases, norms, pooling and activations, which take
far fewer, and looking up embeddings, which takes none.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from actors.learning.examples import DataShape, Sort
from policies.base import Policy
from policies.splitting import Ends
from policies.types import ExperimentError

if TYPE_CHECKING:
    from torch import nn

    from actors.learning.encoders.base import Origin

POSITION_BYTES: Final = 8
_TAKES: Final[dict[Sort, str]] = {
    "images": "cnn",
    "numbers": "mlp",
    "a table with categories": "tabular",
    "tokens": "text-bag",
}
"""The model to take for each sort of inputs."""


class ModelPolicy(Policy):
    """Makes a classifier for inputs of a given shape.

    The classifier maps inputs, shape (n, *shape.input), float32 or, for tokens, int64, to logits,
    shape (n, classes).
    """

    @abstractmethod
    def parameters(self, shape: DataShape) -> int:
        """Return how many numbers are trained."""

    @abstractmethod
    def forward_flops(self, shape: DataShape) -> int:
        """Return the FLOPs of one example's forward pass; a multiply-add is two."""

    @abstractmethod
    def activation_bytes(self, shape: DataShape) -> int:
        """Return the bytes that one example leaves in memory for the backward pass.

        An estimate: what autograd keeps up to the logits, with no allowance for the passing
        needs of a kernel. Parameters, gradients and the optimiser's state come on top.
        """

    def learns_through(self, shape: DataShape) -> bool:
        """Say whether gradients come to everything that is trained."""
        del shape
        return True

    def ends(self, shape: DataShape, blocks: int = 0) -> Ends:
        """Return how the model is cut in three behind some of its encoder's blocks.

        One block more than there are is all of the encoder, its pooling included: where nothing of
        it is trained, it may run whole before the cut.

        A model that can be has the attributes `embedding`, `blocks`, `pool` and `tail`, and maps
        inputs through them in this order.

        Raises:
            ExperimentError: If it cannot be cut, or not there.
        """
        del shape, blocks
        raise ExperimentError(
            f"model {self.kind} is in one piece. Take model.kind pretrained for topology split."
        )

    @abstractmethod
    def build(self, shape: DataShape) -> nn.Module:
        """Return the module, its first weights drawn from torch's generator.

        Whoever builds seeds that generator, within `torch.random.fork_rng`.

        Raises:
            ExperimentError: If the model cannot take inputs of that shape.
        """

    def frozen_parameters(self, shape: DataShape) -> int:
        """Return how many numbers are only read: they are in memory, and are never sent."""
        del shape
        return 0

    def learnt(self) -> tuple[str, ...]:
        """Return the settings that train layers whose first weights matter: they are not drawn."""
        return ()

    def missing(self) -> str | None:
        """Return None if all it reads is there, else what was looked for, and the way out."""
        return None

    def origin(self) -> Origin | None:
        """Return where weights come from that it does not draw; None if it draws all.

        Raises:
            ExperimentError: If they are missing.
        """
        return None


def only(kind: str, shape: DataShape, *sorts: Sort) -> None:
    """Refuse inputs of a sort that a model cannot take.

    Args:
        kind: Of the model.
        shape: Of the data.
        sorts: What the model takes.

    Raises:
        ExperimentError: If the inputs are of another sort.
    """
    if shape.sort not in sorts:
        raise ExperimentError(
            f"model {kind} takes {' or '.join(sorts)}; the data has {shape.sort}, inputs of shape "
            f"{shape.input}. Take model.kind {_TAKES[shape.sort]}."
        )


def widths(shape: DataShape, *hidden: int) -> tuple[int, ...]:
    """Return the widths before, between and after linear layers."""
    return (math.prod(shape.input), *hidden, shape.classes)


def linear_parameters(layers: Sequence[int]) -> int:
    """Return weights and biases of linear layers of these widths."""
    return sum((a + 1) * b for a, b in pairwise(layers))


def linear_flops(layers: Sequence[int]) -> int:
    """Return the FLOPs of linear layers of these widths."""
    return sum(2 * a * b for a, b in pairwise(layers))
