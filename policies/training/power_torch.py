"""How does a layer compute with a power of what it stores?

A layer is changed in place: its class becomes a subclass of its own class, in which reading a
weight computes ``w = sign(theta) * |theta|**beta``. The parameter keeps its name and holds theta,
so that whoever lists, loads or trains parameters sees theta, and whoever computes with ``weight``,
torch's fused transformer layers included, sees w.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from policies.training.flat_torch import ATTENTION_WEIGHTS, LAYER_WEIGHTS
from policies.training.pruned_torch import pruned_saving


class _Power(torch.autograd.Function):
    """``theta * |theta|**(beta - 1)``, whose slope is ``beta * |theta|**(beta - 1)``: 0 at 0."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, beta: float) -> Tensor:
        slope = theta.abs().pow_(beta - 1)
        ctx.save_for_backward(slope)
        ctx.beta = beta
        return theta * slope

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope * ctx.beta, None


def power(theta: Tensor, beta: float) -> Tensor:
    """Return ``sign(theta) * |theta|**beta``; its gradient where theta is 0 is exactly 0.

    Args:
        theta: Any shape, float32.
        beta: At least 1; at 1 `theta` itself is returned, and its gradient is 1 everywhere.

    Cost:
        One power a value, forward; none backward. Differentiates once.
    """
    if beta == 1:
        return theta
    return _Power.apply(theta, beta)  # type: ignore[no-any-return, no-untyped-call]


class Powered(nn.Module):
    """What every changed layer has: the names of its weights, beta, and whether it prunes."""

    _powers: tuple[str, ...]
    _beta: float
    _prunes: bool
    _now: dict[str, Tensor]

    def read(self, name: str) -> Tensor | None:
        """Return w where theta is stored; other parameters as they are."""
        if name in self._now:
            return self._now[name]
        theta = self._parameters[name]
        return theta if theta is None or name not in self._powers else power(theta, self._beta)

    @contextmanager
    def _computed_once(self) -> Iterator[None]:
        """Compute every w once, however often it is read inside."""
        self._now = {name: w for name in self._powers if (w := self.read(name)) is not None}
        try:
            yield
        finally:
            self._now = {}

    def _prunes_now(self) -> bool:
        return self._prunes and self.training and torch.is_grad_enabled()


class _PoweredLayer(Powered):
    """A linear layer or a convolution."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self._computed_once():
            w = self._now["weight"]
            with pruned_saving(w) if self._prunes_now() else nullcontext():
                return super().forward(*args, **kwargs)


class _PoweredAttention(Powered, nn.MultiheadAttention):
    """Attention whose projections are changed layers.

    Torch computes it except when activations are pruned: between the projections stand products
    and a softmax, whose saved values must stay whole.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        with self._computed_once():
            if not self._prunes_now() or (is_causal and attn_mask is None):  # torch says why not
                return super().forward(
                    query,
                    key,
                    value,
                    key_padding_mask=key_padding_mask,
                    need_weights=need_weights,
                    attn_mask=attn_mask,
                    average_attn_weights=average_attn_weights,
                    is_causal=is_causal,
                )
            q, k, v = self._project(query, key, value)
            q, k, v = self._heads(q), self._heads(k), self._heads(v)
            mask = self._mask(attn_mask, key_padding_mask, examples=len(q))
            mixed, shares = self._mix(q, k, v, mask, need_weights=need_weights)
            out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if shares is not None and average_attn_weights:
            shares = shares.mean(dim=1)
        if query.dim() == 2:
            return out.squeeze(0), None if shares is None else shares.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), shares

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values; each weight is one layer with one density."""
        bias = self.in_proj_bias
        biases = (None, None, None) if bias is None else bias.chunk(3)
        inputs = (query, key, value)
        if not self._qkv_same_embed_dim:
            found = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            return tuple(_linear(*part) for part in zip(inputs, found, biases, strict=True))
        w = self.in_proj_weight
        with pruned_saving(w):
            if query is key and key is value:  # pruned once
                return functional.linear(query, w, bias).chunk(3, dim=-1)
            parts = zip(inputs, w.chunk(3), biases, strict=True)
            return tuple(functional.linear(*part) for part in parts)

    def _heads(self, x: Tensor) -> Tensor:
        """Return shape (examples, heads, length, head_dim)."""
        if x.dim() == 2:
            x = x.unsqueeze(0)
        elif not self.batch_first:
            x = x.transpose(0, 1)
        return x.reshape(*x.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def _mask(
        self, attention: Tensor | None, padding: Tensor | None, *, examples: int
    ) -> Tensor | None:
        """Return what is added to the scores, shape (examples or 1, heads or 1, length, keys)."""
        parts = []
        if attention is not None:
            lengths = attention.shape[-2:]
            heads = (examples, self.num_heads) if attention.dim() == 3 else (1, 1)
            parts.append(_additive(attention).view(*heads, *lengths))
        if padding is not None:
            parts.append(_additive(padding).view(examples, 1, 1, -1))
        return sum(parts[1:], parts[0]) if parts else None

    def _mix(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the values mixed by attention, and each head's shares if they are asked for."""
        if not need_weights:
            return functional.scaled_dot_product_attention(q, k, v, mask, self.dropout), None
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
        shares = functional.softmax(scores if mask is None else scores + mask, dim=-1)
        shares = functional.dropout(shares, self.dropout)
        return shares @ v, shares


def _linear(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    with pruned_saving(w):
        return functional.linear(x, w, bias)


def _additive(mask: Tensor) -> Tensor:
    """Return 0 and minus infinity for a mask of what is left out; other masks as they are."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape).masked_fill_(mask, -torch.inf)


@cache
def powered(cls: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of a layer's class in which reading a weight computes w."""
    attention = issubclass(cls, nn.MultiheadAttention)
    names = ATTENTION_WEIGHTS if attention else LAYER_WEIGHTS
    reads = {name: property(partial(Powered.read, name=name)) for name in names}
    form = _PoweredAttention if attention else _PoweredLayer
    return type(f"Power{cls.__name__}", (form, cls), reads)
