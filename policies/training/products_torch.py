"""Which library multiplies a few hundred rows fastest?

oneDNN knows the wide instructions of every maker's processors; the one that torch takes for float32
knows those of one. Torch hands linear layers of whole numbers of rows to either, and oneDNN's way
in is an operator that its own compiler emits. Where it is missing, torch multiplies as usual.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x weight^T + bias``, shape (n, out), outside of autograd.

    Args:
        x: Shape (n, in), float32; it may be a transposed view.
        weight: Shape (out, in); it may be one as well.
        bias: Shape (out,).
    """
    return _product()(x, weight, bias)


@cache
def _product() -> Product:
    """Choose once for a process; tried, since the operator's form is torch's own affair."""
    x = torch.arange(12.0).view(3, 4)
    try:
        with torch.no_grad():
            same = all(
                torch.equal(_by_onednn(*given), _by_torch(*given))
                for given in ((x, x, x[:, 0]), (x.t(), x.t(), None))
            )
    except (AttributeError, RuntimeError, TypeError):
        return _by_torch
    return _by_onednn if same else _by_torch


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    bias = None if bias is None else bias.contiguous()  # it would be read as if it were
    multiply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001  # no other way to it
    found: Tensor = multiply(x, weight, bias, "none", [], "")
    return found


def _by_torch(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(x, weight, bias)
