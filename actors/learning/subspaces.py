"""Which parameters of a pretrained encoder are trained?

A few of them, in a place that is named, learn nearly as well as all, cost less to send, and can be
estimated without gradients. Sizes come from arithmetic; modules are changed in `subspaces_torch`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, SerializeAsAny, WrapValidator

from actors.learning.encoders import Cut, EncoderPolicy, Form
from actors.learning.encoders.base import Cost
from actors.learning.encoders.forms import transformer_cuts
from actors.learning.examples import DataShape
from policies.base import Policy, open_union
from policies.types import ExperimentError

if TYPE_CHECKING:
    from actors.learning.encoders.module_torch import EncoderModule


class SubspacePolicy(Policy):
    """Chooses what is trained of an encoder's blocks and pooling; the embedding is not its."""

    @abstractmethod
    def parameters(self, encoder: EncoderPolicy, shape: DataShape) -> int:
        """Return how many numbers are trained.

        Raises:
            ExperimentError: If the encoder lacks what is to be trained.
        """

    @abstractmethod
    def first_block(self, blocks: int) -> int:
        """Return the lowest of so many blocks that holds something trained, `blocks` if none does.

        Whoever trains it has that block and all behind it, so that a cut lies no later.
        """

    @abstractmethod
    def apply(self, encoder: EncoderModule) -> None:
        """Let these parameters of a frozen module be trained; new ones are drawn and put in.

        Call `parameters` first, which refuses what cannot be.
        """

    def learnt(self) -> bool:
        """Say whether layers are trained whose first weights matter."""
        return False

    def cuts(self, encoder: EncoderPolicy, shape: DataShape) -> tuple[Cut, ...]:
        """Return where the encoder may be cut, what is put in included."""
        return encoder.cuts(shape)


class NoSubspace(SubspacePolicy):
    """Nothing: the encoder stays as it is. The baseline."""

    kind: Literal["none"] = "none"

    def parameters(self, encoder: EncoderPolicy, shape: DataShape) -> int:
        """Return none."""
        del encoder, shape
        return 0

    def first_block(self, blocks: int) -> int:
        """Return that no block does."""
        return blocks

    def apply(self, encoder: EncoderModule) -> None:
        """Change nothing."""


class LayerNorms(SubspacePolicy):
    """Weights and biases of the layer norms, of the one before the pooling, too.

    Source:
        Frankle et al. 2021, arXiv:2003.00152, who train batch norms alone; layer norms are what
        transformers have.
    """

    kind: Literal["layer-norms"] = "layer-norms"

    def parameters(self, encoder: EncoderPolicy, shape: DataShape) -> int:
        """Return two numbers for each number that a norm looks at."""
        found = encoder.norms(shape)
        if found is None:
            raise ExperimentError(
                f"model.trains {self.kind} needs layer norms, and the blocks of model.encoder "
                f"{encoder.kind} have none that is known. Take last-blocks, or vit-s14 or "
                "minilm-l6."
            )
        return found

    def first_block(self, blocks: int) -> int:
        """Return the first one."""
        del blocks
        return 0

    def apply(self, encoder: EncoderModule) -> None:
        """Unfreeze the norms."""
        from actors.learning import subspaces_torch  # noqa: PLC0415  validating needs no torch

        subspaces_torch.layer_norms(encoder)


class LastBlocks(SubspacePolicy):
    """All of the last blocks, and of the pooling behind them.

    Attributes:
        count: How many blocks.
    """

    kind: Literal["last-blocks"] = "last-blocks"
    count: PositiveInt = 1

    def parameters(self, encoder: EncoderPolicy, shape: DataShape) -> int:
        """Return what these blocks hold."""
        cuts = encoder.cuts(shape)
        blocks = len(cuts) - 1
        if self.count > blocks:
            raise ExperimentError(
                f"model.trains.count must be at most the {blocks} blocks of model.encoder "
                f"{encoder.kind}, got {self.count}. Lower it, or take all."
            )
        return _behind(self.kind, encoder, shape, blocks - self.count)

    def first_block(self, blocks: int) -> int:
        """Return the first of them."""
        return blocks - self.count

    def learnt(self) -> bool:
        """Say yes."""
        return True

    def apply(self, encoder: EncoderModule) -> None:
        """Unfreeze them."""
        from actors.learning import subspaces_torch  # noqa: PLC0415  validating needs no torch

        subspaces_torch.blocks(encoder, self.first_block(len(encoder.blocks)))


class All(SubspacePolicy):
    """All blocks and the pooling: the whole encoder but for its embedding."""

    kind: Literal["all"] = "all"

    def parameters(self, encoder: EncoderPolicy, shape: DataShape) -> int:
        """Return what blocks and pooling hold."""
        return _behind(self.kind, encoder, shape, 0)

    def first_block(self, blocks: int) -> int:
        """Return the first one."""
        del blocks
        return 0

    def learnt(self) -> bool:
        """Say yes."""
        return True

    def apply(self, encoder: EncoderModule) -> None:
        """Unfreeze blocks and pooling."""
        from actors.learning import subspaces_torch  # noqa: PLC0415  validating needs no torch

        subspaces_torch.blocks(encoder, 0)


class Lora(SubspacePolicy):
    """A product of two thin matrices beside each projection of the attention.

    Beside a linear layer W stands `scale` B A: A, of `rank` rows, is drawn with a standard
    deviation of 1 / sqrt(width), B is zero, so that nothing changes at first.

    Attributes:
        rank: Of the product.
        scale: What the product is multiplied by.

    Source:
        Hu et al. 2022, arXiv:2106.09685; `scale` is their alpha / r. Queries, keys and values are
        one projection here, with one product; the output has another.
    """

    kind: Literal["lora"] = "lora"
    rank: PositiveInt = 4
    scale: PositiveFloat = 1.0

    def parameters(self, encoder: EncoderPolicy, shape: DataShape) -> int:
        """Return what both products of every block hold."""
        form = _form(self.kind, encoder, shape)
        return 6 * self.rank * form.width * form.blocks

    def first_block(self, blocks: int) -> int:
        """Return the first one."""
        del blocks
        return 0

    def cuts(self, encoder: EncoderPolicy, shape: DataShape) -> tuple[Cut, ...]:
        """Return the cuts with the products in every block."""
        form, first = _form(self.kind, encoder, shape), encoder.cuts(shape)[0]
        return transformer_cuts(Cost(*first[1:]), form, rank=self.rank)

    def learnt(self) -> bool:
        """Say yes."""
        return True

    def apply(self, encoder: EncoderModule) -> None:
        """Put the products beside the projections."""
        from actors.learning import subspaces_torch  # noqa: PLC0415  validating needs no torch

        subspaces_torch.lora(encoder, self.rank, self.scale)


class Prompt(SubspacePolicy):
    """Tokens that are learnt and stand beside every input's own from the first block on.

    They come behind the others, which is no matter, since they have no position; the pooling
    leaves them out. Drawn with a standard deviation of 0.02.

    Attributes:
        tokens: How many.

    Source:
        Jia et al. 2022, arXiv:2203.12119, the shallow form.
    """

    kind: Literal["prompt"] = "prompt"
    tokens: Annotated[int, Field(ge=1, le=256)] = 8

    def parameters(self, encoder: EncoderPolicy, shape: DataShape) -> int:
        """Return the tokens' numbers."""
        return self.tokens * _form(self.kind, encoder, shape).width

    def first_block(self, blocks: int) -> int:
        """Return the first one, before which they are put."""
        del blocks
        return 0

    def cuts(self, encoder: EncoderPolicy, shape: DataShape) -> tuple[Cut, ...]:
        """Return the cuts with as many tokens more behind the first."""
        form, first = _form(self.kind, encoder, shape), encoder.cuts(shape)[0]
        return transformer_cuts(Cost(*first[1:]), form, prompt=self.tokens)

    def apply(self, encoder: EncoderModule) -> None:
        """Put the tokens before the first block."""
        from actors.learning import subspaces_torch  # noqa: PLC0415  validating needs no torch

        subspaces_torch.prompt(encoder, self.tokens)


def _form(kind: str, encoder: EncoderPolicy, shape: DataShape) -> Form:
    """Return how an encoder's blocks are made.

    Raises:
        ExperimentError: If they are no transformer's.
    """
    form = encoder.form(shape)
    if form is None:
        raise ExperimentError(
            f"model.trains {kind} needs the attention of a transformer, and the blocks of "
            f"model.encoder {encoder.kind} have none that is known. Take last-blocks, or vit-s14 "
            "or minilm-l6."
        )
    return form


def _behind(kind: str, encoder: EncoderPolicy, shape: DataShape, first: int) -> int:
    """Return what the blocks from `first` on and the pooling hold.

    Raises:
        ExperimentError: If they hold nothing that can be seen.
    """
    cuts = encoder.cuts(shape)
    held = cuts[-1].parameters - cuts[first].parameters + encoder.pooling(shape).parameters
    if not held:
        raise ExperimentError(
            f"model.trains {kind} needs parameters, and model.encoder {encoder.kind} shows none. "
            "Take none."
        )
    return held


Subspace = Annotated[
    Annotated[
        NoSubspace | LayerNorms | LastBlocks | Lora | Prompt | All,
        Field(discriminator="kind"),
    ],
    WrapValidator(open_union(SubspacePolicy)),
    SerializeAsAny(),  # a user's own member is written back with its own fields
]
