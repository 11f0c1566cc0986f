"""What does a classifier behind a pretrained encoder look like in torch?"""

from __future__ import annotations

from collections import OrderedDict
from typing import Self

from torch import Tensor, nn

from actors.learning.encoders.module_torch import EncoderModule, unfreeze
from actors.learning.models_torch import linear_layers
from actors.learning.subspaces import SubspacePolicy


class PretrainedModule(nn.Module):
    """An encoder's parts, and linear layers.

    Attributes:
        embedding: Inputs as the data set gives them to activations s.
        blocks: Each s to s.
        pool: s to features, shape (n, features).
        tail: Features to logits, shape (n, classes).
    """

    def __init__(self, encoder: EncoderModule, tail: nn.Module) -> None:
        super().__init__()
        self.embedding = encoder.embedding
        self.blocks = encoder.blocks
        self.pool = encoder.pool
        self.tail = tail

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of inputs."""
        s: Tensor = self.embedding(x)
        for block in self.blocks:
            s = block(s)
        logits: Tensor = self.tail(self.pool(s))
        return logits

    def train(self, mode: bool = True) -> Self:
        """Train the tail; the encoder stays in eval mode."""
        super().train(mode)
        for part in (self.embedding, self.blocks, self.pool):
            part.train(mode=False)
        return self


def pretrained(
    encoder: EncoderModule, trains: SubspacePolicy, layers: tuple[int, ...], *, head: bool
) -> PretrainedModule:
    """Return the classifier.

    Args:
        encoder: Frozen.
        trains: What of its blocks and pooling is trained.
        layers: Widths before, between and after the linear layers.
        head: Whether its embedding is trained.
    """
    if head:
        unfreeze(encoder.embedding.parameters())
    trains.apply(encoder)
    return PretrainedModule(encoder, nn.Sequential(OrderedDict(linear_layers(layers))))
