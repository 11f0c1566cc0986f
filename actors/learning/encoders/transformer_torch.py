"""What do the blocks of a pretrained transformer look like in torch?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from actors.learning.encoders.base import Form


class Attention(nn.Module):
    """Every token looks at all others.

    Attributes:
        qkv: Queries, keys and values in one linear layer.
        out: The linear layer behind the mixture.
    """

    def __init__(self, form: Form) -> None:
        super().__init__()
        self._heads = form.heads
        self.qkv: nn.Module = nn.Linear(form.width, 3 * form.width)
        self.out: nn.Module = nn.Linear(form.width, form.width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix tokens, shape (n, tokens, width); `mask`, (n, 1, 1, tokens), is added to scores."""
        n, tokens, width = x.shape
        parts = self.qkv(x).view(n, tokens, 3, self._heads, width // self._heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind()
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        result: Tensor = self.out(mixed.transpose(1, 2).reshape(n, tokens, width))
        return result


class _Halves(nn.Module):
    """What both sorts of blocks hold: attention, two norms and two linear layers with GELU."""

    def __init__(self, form: Form, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(form.width, eps)
        self.attention = Attention(form)
        self.norm2 = nn.LayerNorm(form.width, eps)
        self.fc1 = nn.Linear(form.width, form.feedforward)
        self.fc2 = nn.Linear(form.feedforward, form.width)

    def _inside(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return result


class NormFirst(_Halves):
    """A block that normalises what goes into each half."""

    def forward(self, s: Tensor) -> Tensor:
        """Return tokens of tokens, shape (n, tokens, width)."""
        s = s + self.attention(self.norm1(s))
        return s + self._inside(self.norm2(s))


class NormLast(_Halves):
    """A block that normalises the sum behind each half; the last column of s is the mask."""

    def forward(self, s: Tensor) -> Tensor:
        """Return tokens of tokens, shape (n, tokens, width + 1)."""
        x, known = s[..., :-1].contiguous(), s[..., -1:].detach()
        hidden = torch.finfo(s.dtype).min * (1 - known)
        x = self.norm1(x + self.attention(x, hidden.view(len(s), 1, 1, -1)))
        x = self.norm2(x + self._inside(x))
        return torch.cat([x, known], dim=-1)
