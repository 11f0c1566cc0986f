"""What do the models look like in torch, and how is a user's own module measured?

Plain sequences of named layers, so that a parameter's name says where it is (``conv1.weight``).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from actors.learning.data import DataShape
from policies.types import ExperimentError

_MAX_GROUPS = 8


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers with ReLU between them.

    Args:
        widths: Width before, between and after the layers; one layer if there are two.
    """
    return nn.Sequential(OrderedDict([("flatten", nn.Flatten()), *_linear_layers(widths)]))


def cnn(
    channels: tuple[int, int, int], widths: tuple[int, ...], *, kernel: int, group_norm: bool
) -> nn.Sequential:
    """Return two convolutions, each with ReLU and a 2 x 2 maximum, then linear layers.

    Args:
        channels: Channels before, between and after the convolutions.
        widths: Width before, between and after the linear layers.
        kernel: Width of the convolutions' kernels, odd.
        group_norm: Whether to normalise between each convolution and its ReLU.
    """
    layers = OrderedDict[str, nn.Module]()
    for number, (before, after) in enumerate(pairwise(channels), start=1):
        layers[f"conv{number}"] = nn.Conv2d(before, after, kernel, padding=kernel // 2)
        if group_norm:
            layers[f"norm{number}"] = nn.GroupNorm(math.gcd(after, _MAX_GROUPS), after)
        layers[f"conv_relu{number}"] = nn.ReLU()
        layers[f"pool{number}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    return nn.Sequential(OrderedDict([*layers.items(), *_linear_layers(widths)]))


def _linear_layers(widths: tuple[int, ...]) -> list[tuple[str, nn.Module]]:
    layers: list[tuple[str, nn.Module]] = []
    for number, (before, after) in enumerate(pairwise(widths), start=1):
        if number > 1:
            layers.append((f"relu{number - 1}", nn.ReLU()))
        layers.append((f"linear{number}", nn.Linear(before, after)))
    return layers


def count_parameters(build: Callable[[], nn.Module]) -> int:
    """Return how many numbers the parameters of a module hold, trained or frozen."""
    with torch.random.fork_rng(devices=[]):
        return sum(p.numel() for p in build().parameters())


def count_flops(build: Callable[[], nn.Module], shape: DataShape) -> int:
    """Return the FLOPs of one example's forward pass; a multiply-add is two.

    Raises:
        ExperimentError: If the module does not turn such inputs into logits.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        module = build().eval()
        with FlopCounterMode(display=False) as counter:
            _logits(module, shape, examples=1)
    return int(counter.get_total_flops())


def count_activation_bytes(build: Callable[[], nn.Module], shape: DataShape) -> int:
    """Return the bytes that one example leaves for the backward pass, logits left out.

    Measured on two examples, because batch norm refuses to train on one.

    Raises:
        ExperimentError: If the module does not turn such inputs into logits.
    """
    kept: dict[int, Tensor] = {}  # holds the tensors, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.random.fork_rng(devices=[]):
        module = build().train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            _logits(module, shape, examples=2)
    for own in (*module.parameters(), *module.buffers()):
        kept.pop(own.untyped_storage().data_ptr(), None)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) // 2


def _logits(module: nn.Module, shape: DataShape, *, examples: int) -> None:
    """Run a module on zeros and check that logits come out."""
    rule = f"The model must turn inputs {(examples, *shape.input)} into ({examples}, classes)"
    try:
        logits = module(torch.zeros(examples, *shape.input))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise ExperimentError(f"{rule}, but it fails: {error}") from error
    if not (isinstance(logits, Tensor) and logits.shape == (examples, shape.classes)):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ExperimentError(
            f"{rule}, here ({examples}, {shape.classes}), but it returns {got}. "
            "Build it from the shape that it is given."
        )
