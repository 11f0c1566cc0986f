"""Which models take tables with categories, or tokens?

They look their inputs up in tables of numbers, embeddings, that are trained like all else but are
never pruned. Sizes and costs come from arithmetic; the modules are in `embedding_torch`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from actors.learning.examples import DataShape
from actors.learning.modelling import (
    POSITION_BYTES,
    ModelPolicy,
    linear_flops,
    linear_parameters,
    only,
)
from policies.memory import FLOAT_BYTES

if TYPE_CHECKING:
    from torch import nn


class Tabular(ModelPolicy):
    """An embedding for each column with codes, beside the columns of numbers; then linear layers.

    Attributes:
        embedding: Width of an embedding; a column with fewer codes has a width of that many.
        hidden: Width of each hidden layer.

    Source:
        Guo and Berkhahn 2016, arXiv:1604.06737. One width for all columns is our choice.
    """

    kind: Literal["tabular"] = "tabular"
    embedding: PositiveInt = 8
    hidden: tuple[PositiveInt, ...] = (64,)

    def parameters(self, shape: DataShape) -> int:
        """Return weights of embeddings, weights and biases of linear layers."""
        layers = self._layers(shape)
        embedded = sum(codes * min(codes, self.embedding) for codes in shape.categories)
        return embedded + linear_parameters(layers)

    def forward_flops(self, shape: DataShape) -> int:
        """Return those of the matrix products."""
        return linear_flops(self._layers(shape))

    def activation_bytes(self, shape: DataShape) -> int:
        """Return the bytes of every layer's input, and of the codes."""
        codes = sum(1 for codes in shape.categories if codes)
        return FLOAT_BYTES * sum(self._layers(shape)[:-1]) + POSITION_BYTES * codes

    def build(self, shape: DataShape) -> nn.Module:
        """Return the module."""
        from actors.learning import embedding_torch  # noqa: PLC0415  validating needs no torch

        categories = shape.categories or (0,) * shape.input[0]
        return embedding_torch.tabular(categories, self.embedding, self._layers(shape))

    def _layers(self, shape: DataShape) -> tuple[int, ...]:
        """Return the widths before, between and after the linear layers."""
        sorts: tuple[Literal["a table with categories", "numbers"], ...]
        sorts = ("a table with categories", "numbers")
        only(self.kind, shape, *(sorts if len(shape.input) == 1 else sorts[:1]))
        categories = shape.categories or (0,) * shape.input[0]
        first = sum(min(codes, self.embedding) if codes else 1 for codes in categories)
        return (first, *self.hidden, shape.classes)


class TextBag(ModelPolicy):
    """The mean of the tokens' embeddings, then linear layers: the order of words does not matter.

    Attributes:
        embedding: Width of an embedding.
        hidden: Width of each hidden layer.

    Source:
        Iyyer et al. 2015, "Deep unordered composition rivals syntactic methods", without their
        dropout of words.
    """

    kind: Literal["text-bag"] = "text-bag"
    embedding: PositiveInt = 32
    hidden: tuple[PositiveInt, ...] = ()

    def parameters(self, shape: DataShape) -> int:
        """Return weights of the embedding, weights and biases of linear layers."""
        layers = self._layers(shape)
        return shape.vocabulary * self.embedding + linear_parameters(layers)

    def forward_flops(self, shape: DataShape) -> int:
        """Return those of the mean and of the matrix products."""
        return 2 * shape.input[0] * self.embedding + linear_flops(self._layers(shape))

    def activation_bytes(self, shape: DataShape) -> int:
        """Return the bytes of tokens, their weights in the mean, and every layer's input."""
        layers = self._layers(shape)
        (length,) = shape.input
        return POSITION_BYTES * length + FLOAT_BYTES * (length + sum(layers[:-1]))

    def build(self, shape: DataShape) -> nn.Module:
        """Return the module."""
        from actors.learning import embedding_torch  # noqa: PLC0415  validating needs no torch

        return embedding_torch.text_bag(shape.vocabulary, self._layers(shape))

    def _layers(self, shape: DataShape) -> tuple[int, ...]:
        only(self.kind, shape, "tokens")
        return (self.embedding, *self.hidden, shape.classes)


class Transformer(ModelPolicy):
    """A small encoder of tokens: every token looks at all others, padding included.

    Embeddings of tokens and of positions are added; then come blocks of torch's own
    `TransformerEncoderLayer` with the norm first and ReLU, a norm, pooling and a linear layer.

    Attributes:
        width: Of an embedding and of every block.
        heads: Of the attention; divides the width.
        layers: How many blocks.
        feedforward: Width inside a block; four times `width` if left out.
        dropout: Share of the numbers that is dropped in training, in [0, 1).
        pooling: Logits come from the `mean` over all tokens that are no padding, or from the
            `last` token.

    Source:
        Vaswani et al. 2017, arXiv:1706.03762; the norm first as in Xiong et al. 2020,
        arXiv:2002.04745. Learned positions, and first embeddings with a standard deviation of
        0.02, as in Devlin et al. 2019, arXiv:1810.04805. That padding is a token like any other
        in the attention is our choice.
    """

    kind: Literal["transformer"] = "transformer"
    width: PositiveInt = 64
    heads: PositiveInt = 4
    layers: PositiveInt = 2
    feedforward: Annotated[
        PositiveInt, Field(default_factory=lambda fields: 4 * fields.get("width", 64))
    ]
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    pooling: Literal["mean", "last"] = "mean"

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise PydanticCustomError(
                "heads",
                "width must be a multiple of heads = {heads}, got {width}. Take {near}.",
                {
                    "heads": self.heads,
                    "width": self.width,
                    "near": -(-self.width // self.heads) * self.heads,
                },
            )
        return self

    def parameters(self, shape: DataShape) -> int:
        """Return weights of embeddings, weights and biases of blocks, norms and logits."""
        length, w = self._length(shape), self.width
        attention = linear_parameters((w, 3 * w)) + linear_parameters((w, w))
        block = attention + linear_parameters((w, self.feedforward, w)) + 2 * 2 * w
        embedded = (shape.vocabulary + length) * w
        return embedded + self.layers * block + 2 * w + linear_parameters((w, shape.classes))

    def forward_flops(self, shape: DataShape) -> int:
        """Return those of the matrix products."""
        length, w = self._length(shape), self.width
        projections = linear_flops((w, 3 * w)) + linear_flops((w, w))
        inside = projections + linear_flops((w, self.feedforward, w))
        block = length * inside + 2 * 2 * length**2 * w
        pooling = 2 * length * w if self.pooling == "mean" else 0
        return self.layers * block + pooling + linear_flops((w, shape.classes))

    def activation_bytes(self, shape: DataShape) -> int:
        """Return the bytes of every layer's input, of queries, keys and values, and of tokens.

        With dropout torch computes the attention step by step and keeps the steps.
        """
        length, w, f, heads = self._length(shape), self.width, self.feedforward, self.heads
        statistics = 2 * length  # of a norm
        block = length * (8 * w + f + heads) + 2 * statistics
        if self.dropout:
            block += length * (4 * w + 2 * f + 3 * heads * length - heads)
        pooled = length + w if self.pooling == "mean" else length * w
        floats = self.layers * block + length * w + statistics + pooled
        return FLOAT_BYTES * floats + POSITION_BYTES * length

    def build(self, shape: DataShape) -> nn.Module:
        """Return the module."""
        from actors.learning import embedding_torch  # noqa: PLC0415  validating needs no torch

        return embedding_torch.transformer(
            shape.vocabulary,
            self._length(shape),
            shape.classes,
            width=self.width,
            heads=self.heads,
            feedforward=self.feedforward,
            layers=self.layers,
            dropout=self.dropout,
            pooling=self.pooling,
        )

    def _length(self, shape: DataShape) -> int:
        only(self.kind, shape, "tokens")
        return shape.input[0]
