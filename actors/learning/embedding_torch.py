"""What do the models that embed their inputs look like in torch?"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from actors.learning.models_torch import linear_layers

_STD = 0.02
"""Of the first embeddings of tokens and positions; a norm follows, so the scale is no matter."""


def tabular(categories: tuple[int, ...], width: int, layers: tuple[int, ...]) -> nn.Sequential:
    """Return embeddings of the columns with codes, beside the others, and linear layers.

    Args:
        categories: Codes of each column; 0 for a column of numbers.
        width: Of an embedding; of a column with fewer codes, as many as it has.
        layers: Width before, between and after the linear layers.
    """
    columns: list[tuple[str, nn.Module]] = [("columns", _Columns(categories, width))]
    return nn.Sequential(OrderedDict([*columns, *linear_layers(layers)]))


class _Columns(nn.Module):
    """Lays numbers and embeddings side by side."""

    def __init__(self, categories: tuple[int, ...], width: int) -> None:
        super().__init__()
        self._numbers = [column for column, codes in enumerate(categories) if not codes]
        self._coded = [column for column, codes in enumerate(categories) if codes]
        coded = (categories[column] for column in self._coded)
        self.embeddings = nn.ModuleList(nn.Embedding(n, min(n, width)) for n in coded)

    def forward(self, x: Tensor) -> Tensor:
        codes = x[:, self._coded].long().unbind(dim=1)
        embedded = [layer(code) for layer, code in zip(self.embeddings, codes, strict=True)]
        return torch.cat([x[:, self._numbers], *embedded], dim=1)


def text_bag(vocabulary: int, layers: tuple[int, ...]) -> nn.Sequential:
    """Return the mean of the tokens' embeddings, padding left out, and linear layers.

    Args:
        vocabulary: How many tokens there are; 0 is padding.
        layers: Width before, between and after the linear layers.
    """
    bag: list[tuple[str, nn.Module]] = [("bag", _Bag(vocabulary, layers[0]))]
    return nn.Sequential(OrderedDict([*bag, *linear_layers(layers)]))


class _Bag(nn.Module):
    """The mean of embeddings, padding left out; zero where there is nothing else."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)

    def forward(self, x: Tensor) -> Tensor:
        return _mean(self.embedding(x), x)


def _mean(values: Tensor, tokens: Tensor) -> Tensor:
    """Average over the tokens that are no padding.

    Args:
        values: Shape (n, length, width).
        tokens: Shape (n, length).

    Returns:
        Shape (n, width).
    """
    known = (tokens != 0).to(values.dtype)
    shares = known / known.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.bmm(shares.unsqueeze(1), values).squeeze(1)


def transformer(
    vocabulary: int,
    length: int,
    classes: int,
    *,
    width: int,
    heads: int,
    feedforward: int,
    layers: int,
    dropout: float,
    pooling: Literal["mean", "last"],
) -> nn.Module:
    """Return an encoder of tokens with a linear layer on top."""
    blocks = [
        nn.TransformerEncoderLayer(
            width, heads, feedforward, dropout, batch_first=True, norm_first=True
        )
        for _ in range(layers)
    ]
    return _Encoder(nn.Embedding(vocabulary, width), length, blocks, classes, pooling)


class _Encoder(nn.Module):
    """Embeddings of tokens and positions, blocks, a norm, pooling and logits."""

    def __init__(
        self,
        embedding: nn.Embedding,
        length: int,
        blocks: list[nn.TransformerEncoderLayer],
        classes: int,
        pooling: Literal["mean", "last"],
    ) -> None:
        super().__init__()
        width = embedding.embedding_dim
        self.embedding = embedding
        self.positions = nn.Parameter(torch.empty(length, width))
        nn.init.normal_(self.embedding.weight, std=_STD)
        nn.init.normal_(self.positions, std=_STD)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, classes)
        self._pooling = pooling

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.embedding(x) + self.positions
        for block in self.blocks:
            values = block(values)
        values = self.norm(values)
        pooled = values[:, -1] if self._pooling == "last" else _mean(values, x)
        logits: Tensor = self.linear(pooled)
        return logits
