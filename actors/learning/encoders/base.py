"""What is a pretrained encoder, where can it be cut in two, and what does it cost up to there?

An encoder is an embedding, blocks one after the other, and a pooling that makes a vector of
features of what the last block gives. Sizes and costs come from arithmetic wherever the network is
known, so that an experiment is checked and split without torch and without weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from actors.learning.examples import DataShape
from policies.base import Policy
from policies.types import ExperimentError

if TYPE_CHECKING:
    from actors.learning.encoders.module_torch import EncoderModule


class Cost(NamedTuple):
    """What a part of an encoder costs.

    Attributes:
        forward_flops: Of one example; a multiply-add is two.
        parameters: How many numbers it holds.
        activation_bytes: What one example leaves for the backward pass if all of it is trained.
    """

    forward_flops: int = 0
    parameters: int = 0
    activation_bytes: int = 0


class Cut(NamedTuple):
    """A place where an encoder may be cut in two.

    Attributes:
        smashed: Shape of one example's activations there.
        forward_flops: Of one example up to there; a multiply-add is two.
        parameters: How many numbers the encoder holds up to there.
        activation_bytes: What one example leaves for the backward pass up to there, if all of that
            is trained.
    """

    smashed: tuple[int, ...]
    forward_flops: int
    parameters: int
    activation_bytes: int


class Form(NamedTuple):
    """How the blocks of a transformer are made.

    Attributes:
        tokens: Of one example.
        width: Of a token.
        heads: Of the attention.
        feedforward: Width inside a block.
        blocks: How many there are.
        columns: Numbers that go with each token beside its width, such as a mask.
    """

    tokens: int
    width: int
    heads: int
    feedforward: int
    blocks: int
    columns: int = 0


class Origin(NamedTuple):
    """Where weights come from.

    Attributes:
        package: Name and version of the package that brings them; empty for a file of the user's.
        source: What they are, and who made them.
        licence: Under which they may be used; "not stated" if nobody says.
        sha256: Of the file that holds them; empty if there is none.
    """

    package: str
    source: str
    licence: str
    sha256: str

    def __str__(self) -> str:
        """Say all of it in a line."""
        said = (self.package, self.source, f"licence {self.licence}")
        return "; ".join([*filter(None, said), *([f"sha256 {self.sha256}"] if self.sha256 else [])])


class EncoderPolicy(Policy):
    """Turns inputs into features that somebody else has learnt.

    It takes inputs as the data set gives them, shape (n, *shape.input). What the network wants,
    such as another size or other moments, is done within its embedding.
    """

    @abstractmethod
    def cuts(self, shape: DataShape) -> tuple[Cut, ...]:
        """Return where it may be cut: behind the embedding, then behind each block.

        Raises:
            ExperimentError: If it cannot take inputs of that shape.
        """

    @abstractmethod
    def features(self, shape: DataShape) -> int:
        """Return the width of the vector that comes out."""

    @abstractmethod
    def build(self, shape: DataShape) -> EncoderModule:
        """Return the module, frozen and in eval mode; what is not pretrained is drawn.

        Raises:
            ExperimentError: If it cannot take such inputs, or its weights are missing or damaged.
        """

    @abstractmethod
    def missing(self) -> str | None:
        """Return None if its weights are there, else what was looked for, and the way out."""

    @abstractmethod
    def origin(self) -> Origin:
        """Return where the weights come from.

        Raises:
            ExperimentError: If they are missing.
        """

    def pooling(self, shape: DataShape) -> Cost:
        """Return what comes behind the last cut costs."""
        del shape
        return Cost()

    def form(self, shape: DataShape) -> Form | None:
        """Return how its blocks are made if they are a transformer's, else None."""
        del shape
        return None

    def norms(self, shape: DataShape) -> int | None:
        """Return how many numbers its layer norms behind the embedding hold; None without any."""
        del shape
        return None

    def differentiable(self, shape: DataShape) -> bool:
        """Say whether gradients pass through it."""
        del shape
        return True


def image_of(encoder: EncoderPolicy, shape: DataShape) -> tuple[int, int, int]:
    """Return channels, height and width of images that an encoder can take.

    Raises:
        ExperimentError: If the data has no images of one channel or three.
    """
    if shape.sort == "images" and shape.input[0] in (1, 3):
        channels, height, width = shape.input
        return channels, height, width
    way_out = (
        "Take model.encoder.kind minilm-l6, or model.kind text-bag."
        if shape.sort == "tokens"
        else "Take another model.kind."
    )
    raise ExperimentError(
        f"model.encoder {encoder.kind} takes images of 1 or 3 channels; the data has {shape.sort}, "
        f"inputs of shape {shape.input}. {way_out}"
    )


def summed(smashed: Sequence[tuple[int, ...]], costs: Sequence[Cost]) -> tuple[Cut, ...]:
    """Return cuts from what each part gives, and what it costs alone."""
    cuts: list[Cut] = []
    total = Cost()
    for shape, cost in zip(smashed, costs, strict=True):
        total = Cost(*(a + b for a, b in zip(total, cost, strict=True)))
        cuts.append(Cut(shape, *total))
    return tuple(cuts)
