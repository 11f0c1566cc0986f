"""How are a few parameters of an encoder trained, and others put in?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from actors.learning.encoders.module_torch import EncoderModule, unfreeze
from actors.learning.encoders.transformer_torch import Attention

_PROMPT_STD = 0.02


def layer_norms(encoder: EncoderModule) -> None:
    """Unfreeze the layer norms of blocks and pooling."""
    for part in (encoder.blocks, encoder.pool):
        for module in part.modules():
            if isinstance(module, nn.LayerNorm):
                unfreeze(module.parameters())


def blocks(encoder: EncoderModule, first: int) -> None:
    """Unfreeze the blocks from `first` on, and the pooling."""
    for part in (*encoder.blocks[first:], encoder.pool):
        unfreeze(part.parameters())


def lora(encoder: EncoderModule, rank: int, scale: float) -> None:
    """Put a product of two thin matrices beside each projection of the attention."""
    for module in list(encoder.blocks.modules()):
        if isinstance(module, Attention):
            module.qkv = Beside(module.qkv, rank, scale)
            module.out = Beside(module.out, rank, scale)


class Beside(nn.Module):
    """A frozen linear layer, and a product of two thin matrices that is added to it.

    Args:
        linear: Stays as it is.
        rank: Of the product.
        scale: What the product is multiplied by.
    """

    def __init__(self, linear: nn.Module, rank: int, scale: float) -> None:
        super().__init__()
        outside, inside = linear.get_parameter("weight").shape
        self.linear = linear
        self.down = nn.Linear(inside, rank, bias=False)
        self.up = nn.Linear(rank, outside, bias=False)
        nn.init.normal_(self.down.weight, std=inside**-0.5)
        nn.init.zeros_(self.up.weight)
        self._scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer gives, and the product."""
        result: Tensor = self.linear(x) + self._scale * self.up(self.down(x))
        return result


def prompt(encoder: EncoderModule, tokens: int) -> None:
    """Put tokens before the first block."""
    width = next(m for m in encoder.blocks.modules() if isinstance(m, nn.LayerNorm)).weight.numel()
    encoder.blocks[0] = Prompted(encoder.blocks[0], tokens, width)


class Prompted(nn.Module):
    """A block before which tokens are put; in columns beside the width they have a 1.

    Args:
        block: The first one.
        tokens: How many.
        width: Of a token.
    """

    def __init__(self, block: nn.Module, tokens: int, width: int) -> None:
        super().__init__()
        self.block = block
        self.prompt = nn.Parameter(_PROMPT_STD * torch.randn(tokens, width))

    def forward(self, s: Tensor) -> Tensor:
        """Return tokens, shape (n, tokens before and put in, ...)."""
        tokens, width = self.prompt.shape
        columns = s.new_ones(tokens, s.shape[-1] - width)
        more = torch.cat([self.prompt, columns], dim=-1)
        result: Tensor = self.block(torch.cat([s, more.expand(len(s), -1, -1)], dim=1))
        return result
