"""What can be trained of an encoder that is few enough numbers to be estimated?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt
from torch import nn

from actors.learning import subspaces_torch
from actors.learning.subspaces import Lora

if TYPE_CHECKING:
    from actors.learning.encoders import Cut, EncoderPolicy
    from actors.learning.encoders.module_torch import EncoderModule
    from actors.learning.examples import DataShape


class LastLora(Lora):
    """Thin products as `lora` has them, beside the attention of the last block alone.

    Attributes:
        rank: Of the product.
    """

    kind: Literal["last_lora:LastLora"] = "last_lora:LastLora"  # type: ignore[assignment]
    rank: PositiveInt = 1

    def parameters(self, encoder: EncoderPolicy, shape: DataShape) -> int:
        """Return what the two products of one block hold."""
        return super().parameters(encoder, shape) // (len(encoder.cuts(shape)) - 1)

    def first_block(self, blocks: int) -> int:
        """Return the last one."""
        return blocks - 1

    def cuts(self, encoder: EncoderPolicy, shape: DataShape) -> tuple[Cut, ...]:
        """Return the cuts, the last one with the products of one block."""
        plain, everywhere = encoder.cuts(shape), super().cuts(encoder, shape)
        bare, changed, last = plain[1], everywhere[1], plain[-1]
        behind = last._replace(
            forward_flops=last.forward_flops + changed.forward_flops - bare.forward_flops,
            parameters=last.parameters + changed.parameters - bare.parameters,
            activation_bytes=last.activation_bytes
            + changed.activation_bytes
            - bare.activation_bytes,
        )
        return (*plain[:-1], behind)

    def apply(self, encoder: EncoderModule) -> None:
        """Put the products beside the last block's projections."""
        last = nn.Module()
        last.blocks = nn.ModuleList([encoder.blocks[-1]])
        subspaces_torch.lora(last, self.rank, self.scale)
