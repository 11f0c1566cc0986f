"""What do the models look like in torch, and how is a user's own module measured?

Plain sequences of named layers, so that a parameter's name says where it is (``conv1.weight``).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from actors.learning.examples import DataShape
from policies.types import ExperimentError

_MAX_GROUPS = 8


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers with ReLU between them.

    Args:
        widths: Width before, between and after the layers; one layer if there are two.
    """
    return nn.Sequential(OrderedDict([("flatten", nn.Flatten()), *linear_layers(widths)]))


def cnn(
    channels: tuple[int, int, int], widths: tuple[int, ...], *, kernel: int, group_norm: bool
) -> nn.Sequential:
    """Return two convolutions, each with ReLU and a 2 x 2 maximum, then linear layers.

    ReLU comes after the maximum, where it has a quarter of the values to go through: what comes
    out is the same, and so are the gradients.

    Args:
        channels: Channels before, between and after the convolutions.
        widths: Width before, between and after the linear layers.
        kernel: Width of the convolutions' kernels, odd.
        group_norm: Whether to normalise between each convolution and its ReLU.
    """
    layers = OrderedDict[str, nn.Module](order=_ChannelsLast())
    for number, (before, after) in enumerate(pairwise(channels), start=1):
        layers[f"conv{number}"] = nn.Conv2d(before, after, kernel, padding=kernel // 2)
        if group_norm:
            layers[f"norm{number}"] = _group_norm(after)
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        layers[f"conv_relu{number}"] = nn.ReLU()
    layers["flatten"] = nn.Flatten()
    layers.move_to_end("conv_relu2")  # flattening copies: what comes after it is kept once
    return nn.Sequential(OrderedDict([*layers.items(), *linear_layers(widths)]))


class _ChannelsLast(nn.Module):
    """Hands images on with a pixel's channels side by side in memory.

    What follows keeps that order. On a CPU, maxima over it are ten times as fast and convolutions
    a little; no value changes.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return x
        if x.shape[1] == 1:  # the same bytes in either order: the strides say which is meant
            return x.reshape(len(x), *x.shape[2:], 1).permute(0, 3, 1, 2)
        return x.contiguous(memory_format=torch.channels_last)


def linear_layers(widths: tuple[int, ...]) -> list[tuple[str, nn.Module]]:
    """Return named linear layers with ReLU between them."""
    layers: list[tuple[str, nn.Module]] = []
    for number, (before, after) in enumerate(pairwise(widths), start=1):
        if number > 1:
            layers.append((f"relu{number - 1}", nn.ReLU()))
        layers.append((f"linear{number}", nn.Linear(before, after)))
    return layers


def resnet(
    channels: int, stages: tuple[int, ...], blocks: int, classes: int, *, batch_norm: bool
) -> nn.Sequential:
    """Return a 3 x 3 convolution, stages of basic blocks, the mean over the image and a layer.

    Args:
        channels: Of the images.
        stages: Channels of each stage; each but the first halves the image.
        blocks: In each stage.
        classes: Logits.
        batch_norm: Whether to normalise by batch norm; else by group norm.
    """
    norm = nn.BatchNorm2d if batch_norm else _group_norm
    layers = OrderedDict[str, nn.Module](
        **({"order": _ChannelsLast()} if batch_norm else {}),  # group norm gains nothing by it
        conv=nn.Conv2d(channels, stages[0], 3, padding=1, bias=False),
        norm=norm(stages[0]),
        relu=nn.ReLU(),
    )
    before = stages[0]
    for stage, after in enumerate(stages, start=1):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            layers[f"stage{stage}_block{block}"] = _BasicBlock(before, after, stride, norm)
            before = after
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["linear"] = nn.Linear(before, classes)
    return nn.Sequential(layers)


class _BasicBlock(nn.Module):
    """Two convolutions beside a shortcut, which is a 1 x 1 convolution where the shape changes."""

    def __init__(
        self, before: int, after: int, stride: int, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = norm(after)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = norm(after)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.Conv2d(before, after, 1, stride, bias=False))
            self.shortcut.append(norm(after))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inside: Tensor = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        result: Tensor = self.relu2(inside + self.shortcut(x))
        return result


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(channels, _MAX_GROUPS), channels)


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
        with counted() as counter:
            _logits(module, shape, examples=1)
    return int(counter.get_total_flops())


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Count FLOPs; attention is computed by matrix products, which the counter sees, meanwhile."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def count_activation_bytes(build: Callable[[], nn.Module], shape: DataShape) -> int:
    """Return the bytes that one example leaves for the backward pass, logits left out.

    Measured on two examples, because batch norm refuses to train on one.

    Raises:
        ExperimentError: If the module does not turn such inputs into logits.
    """
    with torch.random.fork_rng(devices=[]):
        module = build().train()
        return kept_bytes(lambda: _logits(module, shape, examples=2), module) // 2


def kept_bytes(run: Callable[[], object], module: nn.Module) -> int:
    """Return the bytes that autograd keeps of a call, the module's own numbers left out."""
    kept: dict[int, Tensor] = {}  # holds the tensors, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    for own in (*module.parameters(), *module.buffers()):
        kept.pop(own.untyped_storage().data_ptr(), None)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _logits(module: nn.Module, shape: DataShape, *, examples: int) -> None:
    """Run a module on zeros and check that logits come out."""
    rule = f"The model must turn inputs {(examples, *shape.input)} into ({examples}, classes)"
    try:
        kind = torch.int64 if shape.vocabulary else torch.float32
        logits = module(torch.zeros(examples, *shape.input, dtype=kind))
    except Exception as error:  # whatever a user's module may raise
        what = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ExperimentError(
            f"{rule}, but it fails: {what}. Build it from the shape that it is given."
        ) from error
    if not (isinstance(logits, Tensor) and logits.shape == (examples, shape.classes)):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ExperimentError(
            f"{rule}, here ({examples}, {shape.classes}), but it returns {got}. "
            "Build it from the shape that it is given."
        )
