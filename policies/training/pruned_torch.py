"""What does a layer keep of its inputs for the gradient of its weight?"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor


def keep_k_largest(values: Tensor, k: int) -> Tensor:
    """Return `values` with all but its `k` largest magnitudes set to zero.

    Ties go to the lowest flat index, so that exactly `k` stay (our choice: the source is silent).
    A value that is not a number counts as largest.

    Args:
        values: Any shape, float32.
        k: From 0 to the number of values.

    Cost:
        O(n) on average: a selection on the floats' bits, which order as their magnitudes do.
    """
    if k == 0:
        return torch.zeros_like(values)
    bits = values.detach().contiguous().view(-1).numpy().view(np.int32)
    magnitudes = bits & np.int32(0x7FFFFFFF)
    threshold = np.partition(magnitudes, bits.size - k)[bits.size - k]
    if threshold == 0:  # what goes is zero already
        return values
    kept = magnitudes >= threshold
    surplus = np.count_nonzero(kept) - k
    if surplus:
        kept[np.flatnonzero(magnitudes == threshold)[-surplus:]] = False
    return torch.from_numpy((bits * kept).view(np.float32)).view(values.shape)


def pruned_saving(weight: Tensor) -> AbstractContextManager[Any]:
    """Prune what a linear map saves for the gradient of its weight, down to the weight's density.

    A linear map saves its input for the weight's gradient and its weight for the input's, so that
    the second stays exact.

    Args:
        weight: w of the layer; the maps inside the context use it, or views of it.
    """
    nonzeros, size = int(torch.count_nonzero(weight)), weight.numel()
    if nonzeros == size:
        return nullcontext()
    first = weight.data_ptr()
    end = first + weight.nbytes

    def pack(saved: Tensor) -> Tensor:
        if first <= saved.data_ptr() < end:
            return saved
        return keep_k_largest(saved, -(-nonzeros * saved.numel() // size))

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved)
