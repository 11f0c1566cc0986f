"""How is the convolutional network read out of its package, and what does it look like in torch?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from actors.learning.encoders.efficientnet import (
    FEATURES,
    PACKAGE,
    STAGES,
    STEM,
    Mobile,
    mobiles,
    padding,
)
from actors.learning.encoders.module_torch import EncoderModule, Prepared, filled
from actors.learning.examples import DataShape
from policies.types import ExperimentError

_KIND = "efficientnet-lite0"
_EPS = 1e-3
_MEAN, _STD = (127 / 255,) * 3, (128 / 255,) * 3


def efficientnet(shape: DataShape, pixels: int) -> EncoderModule:
    """Return the encoder.

    Args:
        shape: Of the data.
        pixels: Height and width of its images.
    """
    with torch.device("meta"):
        stages = [nn.Sequential(*map(_Bottleneck, mobiles(n))) for n in range(len(STAGES))]
        module = EncoderModule(
            nn.Sequential(Prepared(shape, (pixels, pixels), _MEAN, _STD), _Same(3, STEM, 3, 2)),
            stages,
            _Pool(STAGES[-1].channels),
        )
    return filled(module, _arrays(), _KIND)


class _Same(nn.Module):
    """A convolution and ReLU6; where it halves, it is padded with more zeros behind than before."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        around = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(before, after, kernel, stride, around, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        if stride > 1:
            height, width = (padding(size, kernel, stride) for size in x.shape[-2:])
            x = functional.pad(x, (*width, *height))
        return functional.relu6(self.conv(x))


class _Bottleneck(nn.Module):
    """Expand, filter each channel, project; beside a shortcut where the shape stays."""

    def __init__(self, form: Mobile) -> None:
        super().__init__()
        expanded = form.inside != form.before
        self.expand = _Same(form.before, form.inside, 1, 1) if expanded else nn.Identity()
        self.filter = _Same(form.inside, form.inside, form.kernel, form.stride, form.inside)
        self.project = nn.Conv2d(form.inside, form.after, 1)
        self._shortcut = form.stride == 1 and form.before == form.after

    def forward(self, s: Tensor) -> Tensor:
        result: Tensor = self.project(self.filter(self.expand(s)))
        return s + result if self._shortcut else result


class _Pool(nn.Module):
    """A convolution to the features, and their mean over the image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.last = _Same(channels, FEATURES, 1, 1)

    def forward(self, s: Tensor) -> Tensor:
        return torch.mean(self.last(s), dim=(2, 3))


@lru_cache(maxsize=1)
def _arrays() -> Mapping[str, Tensor]:
    """Read the weights and make batch norms part of the convolutions."""
    given = torch.load(PACKAGE.find(_KIND), map_location="cpu", weights_only=True)
    try:
        return _named(given)
    except KeyError as error:
        raise ExperimentError(
            f"{PACKAGE.installed()} holds another network than {PACKAGE.version}: it has no "
            f"{error}. Run: {PACKAGE.command()}"
        ) from error


def _named(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights our names."""
    found = _folded(given, "_conv_stem", "_bn0", "embedding.1.conv")
    found |= _folded(given, "_conv_head", "_bn1", "pool.last.conv")
    number = 0
    for stage in range(len(STAGES)):
        for place, one in enumerate(mobiles(stage)):
            theirs, ours = f"_blocks.{number}", f"blocks.{stage}.{place}"
            if one.inside != one.before:
                found |= _folded(
                    given, f"{theirs}._expand_conv", f"{theirs}._bn0", f"{ours}.expand.conv"
                )
            found |= _folded(
                given, f"{theirs}._depthwise_conv", f"{theirs}._bn1", f"{ours}.filter.conv"
            )
            found |= _folded(given, f"{theirs}._project_conv", f"{theirs}._bn2", f"{ours}.project")
            number += 1
    return found


def _folded(given: Mapping[str, Tensor], layer: str, norm: str, name: str) -> dict[str, Tensor]:
    """Return weight and bias of a convolution that does what its norm did behind it."""
    scale = given[f"{norm}.weight"] / torch.sqrt(given[f"{norm}.running_var"] + _EPS)
    weight = given[f"{layer}.weight"] * scale.view(-1, 1, 1, 1)
    bias = given[f"{norm}.bias"] - given[f"{norm}.running_mean"] * scale
    return {f"{name}.weight": weight.contiguous(), f"{name}.bias": bias}
