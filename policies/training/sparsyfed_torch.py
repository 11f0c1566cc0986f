"""How is a module made to store theta, and which layers cannot be?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from policies.training.flat_torch import PRUNABLE_LAYERS, layer_weights
from policies.training.power_torch import Powered, powered
from policies.types import ExperimentError

_TRUNCATED_STD = 0.8796
"""Standard deviation of a standard normal cut off at -2 and 2."""

_LAYERS: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.MultiheadAttention,
)
"""Layers of which we know how they compute with their weights: once, and linearly."""

_COMPUTE = ("forward", "_conv_forward")
"""What a layer of a user's own class must have inherited from them."""


def reparameterise(module: nn.Module, *, beta: float, prune_activations: bool) -> None:
    """Let every linear, convolution and attention layer store theta in place of its weight.

    First and last layer included. A frozen weight is no part of the model and stays as it is.
    Every other weight is drawn anew: ``u ~ TruncNormal(std = sqrt(1 / fan_in) / 0.8796)``, cut off
    at two of these standard deviations, and ``theta = sign(u) * |u|**(1 / beta)``, so that
    ``w = u``. Biases and norms keep what the module drew.

    Args:
        module: Changed in place; draws from torch's default generator in the module's order.
        beta: At least 1.
        prune_activations: Whether training prunes what it saves for the gradients of weights.

    Raises:
        ExperimentError: If a layer computes in a way that is not torch's own, or shares its
            weight with a layer of another sort.
    """
    weights = {
        layer: trained
        for path, layer in module.named_modules()
        if (trained := _trained_weights(path, layer))
    }
    _check_shared(module, weights)
    for layer, trained in weights.items():
        for theta in trained.values():
            _draw(theta, fan_in=_fan_in(layer, theta), beta=beta)
        vars(layer).update(_powers=tuple(trained), _beta=beta, _prunes=prune_activations, _now={})
        layer.__class__ = powered(type(layer))  # type: ignore[arg-type]  # a class is hashable


def _trained_weights(path: str, layer: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights to change; none of a layer of another sort or a frozen one.

    Raises:
        ExperimentError: If the layer does not compute as torch's own does.
    """
    if isinstance(layer, Powered) or not isinstance(layer, PRUNABLE_LAYERS):
        return {}
    weights = layer_weights(layer)
    if weights and not any(weight.requires_grad for weight in weights.values()):
        return {}
    way_out = (
        "Build it from torch's own layers, freeze its weight (requires_grad = False), or choose "
        "another method.training."
    )
    own = next((cls for cls in _LAYERS if isinstance(layer, cls)), nn.Module)
    if any(getattr(type(layer), name, None) is not getattr(own, name, None) for name in _COMPUTE):
        raise ExperimentError(
            "method.training sparsyfed must know how a layer computes with its weight, but "
            f"{path or 'the model'} is a {type(layer).__name__} with a forward of its own. "
            f"{way_out}"
        )
    if not weights:
        raise ExperimentError(
            f"method.training sparsyfed must store the weight of {path or 'the model'}, but a "
            f"{type(layer).__name__} computes its weight from other parameters. {way_out}"
        )
    if isinstance(layer, nn.MultiheadAttention) and (
        layer.bias_k is not None or layer.add_zero_attn
    ):
        raise ExperimentError(
            f"method.training sparsyfed knows attention over the given keys only, but {path} adds "
            f"others (add_bias_kv, add_zero_attn). {way_out}"
        )
    return {name: weight for name, weight in weights.items() if weight.requires_grad}


def _check_shared(
    module: nn.Module, weights: Mapping[nn.Module, Mapping[str, nn.Parameter]]
) -> None:
    """Refuse a weight that something else reads too and would take theta for w."""
    changed = {id(theta) for trained in weights.values() for theta in trained.values()}
    for path, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) in changed and name not in weights.get(owner, {}):
                raise ExperimentError(
                    f"method.training sparsyfed stores a root in place of a layer's weight, but "
                    f"{path}.{name} of a {type(owner).__name__} is the same parameter and would "
                    "be taken for the weight. Give each a parameter of its own."
                )


def _fan_in(layer: nn.Module, theta: Tensor) -> int:
    """Return how many inputs an output is a sum over; a stride does not count."""
    if isinstance(layer, _ConvNd) and layer.transposed:  # shape (in, out / groups, ...)
        return theta.numel() // layer.out_channels
    return theta[0].numel()


@torch.no_grad()
def _draw(theta: Tensor, *, fan_in: int, beta: float) -> None:
    """Draw u and store its root."""
    std = fan_in**-0.5 / _TRUNCATED_STD
    nn.init.trunc_normal_(theta, std=std, a=-2 * std, b=2 * std)
    theta.copy_(theta.abs().pow_(1 / beta).copysign_(theta))
