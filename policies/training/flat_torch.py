"""How is a torch module one flat vector?

Every parameter, its gradient and every floating-point buffer is a view into one of three vectors,
so that loading a version, stepping and reporting are single operations on contiguous memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from policies.training.chain_torch import Chain
from policies.types import Vector
from policies.update import ModelSchema, TensorSpec

PRUNABLE_LAYERS = (nn.Linear, _ConvNd, nn.MultiheadAttention)
LAYER_WEIGHTS = ("weight",)
ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


class FlatModel:
    """A module whose parameters, gradients and buffers live in flat vectors.

    Attributes:
        module: The module itself.
        params: All trainable values, shape (P,).
        grads: Their gradients, shape (P,); the `grad` of each parameter is a view of it.
        buffers: All floating-point buffers, shape (B,). Integer buffers (a step count of batch
            normalisation) are no part of the model: they go back to their first value on `load`.
        schema: Names and shapes, parameters first.
        chain: Its layers, if it is linear layers with ReLU and nothing else.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        averaged = [(n, b) for n, b in module.named_buffers() if b.is_floating_point()]
        counted = [b for _, b in module.named_buffers() if not b.is_floating_point()]
        prunable = {id(p) for m in module.modules() for p in layer_weights(m).values()}
        self.schema = ModelSchema(
            tuple(TensorSpec(n, tuple(p.shape), prunable=id(p) in prunable) for n, p in named)
            + tuple(TensorSpec(n, tuple(b.shape), buffer=True) for n, b in averaged)
        )
        self.params = torch.zeros(self.schema.parameters)
        self.grads = torch.zeros(self.schema.parameters)
        self.buffers = torch.zeros(self.schema.buffers)
        _bind([p for _, p in named], self.params, self.grads)
        _bind([b for _, b in averaged], self.buffers, None)
        self.chain = Chain.of(module, [p for _, p in named])
        self._counts = [(b, b.clone()) for b in counted]

    def to(self, device: torch.device) -> None:
        """Move the module and its vectors to a device."""
        trained = [p for p in self.module.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.grad = None
        self.module.to(device)
        self.params, self.grads = self.params.to(device), self.grads.to(device)
        self.buffers = self.buffers.to(device)
        averaged = [b for b in self.module.buffers() if b.is_floating_point()]
        _bind(trained, self.params, self.grads)
        _bind(averaged, self.buffers, None)

    def load(self, params: Vector, buffers: Vector) -> None:
        """Take a whole model, shapes (P,) and (B,); the vectors are copied, never kept."""
        if params.size != self.schema.parameters or buffers.size != self.schema.buffers:
            raise ValueError(
                f"a model of {self.schema.parameters} + {self.schema.buffers} values cannot load "
                f"{params.size} + {buffers.size}"
            )
        np.copyto(self.params.numpy(), params)
        np.copyto(self.buffers.numpy(), buffers)
        for buffer, first in self._counts:
            buffer.copy_(first)


def layer_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the module's own weights by name if it is a linear, convolution or attention layer.

    No bias; nothing of another module's, nor of the modules inside (the output layer of attention
    is a linear layer by itself).
    """
    names = ATTENTION_WEIGHTS if isinstance(module, nn.MultiheadAttention) else LAYER_WEIGHTS
    if not isinstance(module, PRUNABLE_LAYERS):
        return {}
    own = dict(module.named_parameters(recurse=False))
    return {name: own[name] for name in names if name in own}


def _bind(tensors: Sequence[torch.Tensor], flat: torch.Tensor, grads: torch.Tensor | None) -> None:
    """Move `tensors` into consecutive views of `flat`, and their gradients into `grads`."""
    start = 0
    for tensor in tensors:
        end = start + tensor.numel()
        view = flat[start:end].view(tensor.shape)
        view.copy_(tensor.detach())
        tensor.data = view
        if grads is not None:
            tensor.grad = grads[start:end].view(tensor.shape)
        start = end
