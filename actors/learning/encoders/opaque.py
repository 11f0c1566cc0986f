"""How is an encoder used of which nothing is known but what comes out?

It is one block that nobody looks into, behind an adapter: a 3 x 3 convolution from three channels
to three that starts near the identity, so that there is a first part to be cut off and trained.
Its sizes and costs are measured on the network itself.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self

from pydantic import ConfigDict, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from actors.learning.encoders.base import Cost, Cut, EncoderPolicy, Origin, image_of, summed
from actors.learning.encoders.packages import sha256, there
from actors.learning.examples import DataShape
from actors.learning.sources.places import locate
from policies.base import own_function
from policies.memory import FLOAT_BYTES
from policies.types import ExperimentError

if TYPE_CHECKING:
    from torch import nn

    from actors.learning.encoders.module_torch import EncoderModule

Three = tuple[float, float, float]
IMAGENET: Final[tuple[Three, Three]] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of its pixels, where 255 is 1."""
_KERNEL: Final = 3


class Measured(NamedTuple):
    """What a network was seen to do.

    Attributes:
        features: Width of what comes out.
        cost: Of one example.
        differentiable: Whether gradients pass through it.
    """

    features: int
    cost: Cost
    differentiable: bool


class Opaque(EncoderPolicy):
    """An encoder that is one block behind an adapter."""

    @abstractmethod
    def network(self, shape: DataShape) -> nn.Module:
        """Return the network: images, shape (n, 3, h, w), to features, shape (n, features).

        Raises:
            ExperimentError: If it cannot be made.
        """

    @abstractmethod
    def size(self, shape: DataShape) -> tuple[int, int]:
        """Return height and width of the images that it gets."""

    def moments(self) -> tuple[Three, Three]:
        """Return what each channel of its images is centred and divided by."""
        return IMAGENET

    def cuts(self, shape: DataShape) -> tuple[Cut, ...]:
        """Return where it may be cut: behind the adapter and behind all."""
        image_of(self, shape)
        height, width = self.size(shape)
        weights, pixels = 3 * _KERNEL**2, height * width
        adapter = Cost(2 * weights * 3 * pixels, (weights + 1) * 3, FLOAT_BYTES * 3 * pixels)
        found = self.measured(shape)
        return summed([(3, height, width), (found.features,)], [adapter, found.cost])

    def features(self, shape: DataShape) -> int:
        """Return the width of what the network gives."""
        image_of(self, shape)
        return self.measured(shape).features

    def differentiable(self, shape: DataShape) -> bool:
        """Say whether gradients were seen to pass through the network."""
        return self.measured(shape).differentiable

    def build(self, shape: DataShape) -> EncoderModule:
        """Return the module; the adapter is drawn."""
        from actors.learning.encoders import opaque_torch  # noqa: PLC0415  as elsewhere

        image_of(self, shape)
        return opaque_torch.opaque(self.network(shape), shape, self.size(shape), self.moments())

    def measured(self, shape: DataShape) -> Measured:
        """Return what the network was seen to do, once in a process."""
        return _measured(type(self), self.model_dump_json(), shape)


@lru_cache(maxsize=32)
def _measured(member: type[Opaque], settings: str, shape: DataShape) -> Measured:
    """Build a network and look; settings are JSON, because lists in them have no hash."""
    from actors.learning.encoders import opaque_torch  # noqa: PLC0415  as elsewhere

    encoder = member.model_validate_json(settings)
    lost = encoder.missing()
    if lost is not None:
        raise ExperimentError(lost)
    return opaque_torch.measure(lambda: encoder.network(shape), encoder.size(shape))


class _Library(Opaque):
    """A network of a library's, with weights that the user has.

    Attributes:
        name: Of the network, as the library calls it.
        weights: Its state dict, as safetensors or a file of torch's; without it the weights are
            drawn, which is no more than a way to try things.
        pixels: Height and width that images are brought to.
    """

    name: str
    weights: Path | None = None
    pixels: PositiveInt = 64

    def size(self, shape: DataShape) -> tuple[int, int]:
        """Return what `pixels` says."""
        del shape
        return self.pixels, self.pixels

    def missing(self) -> str | None:
        """Return None if the library and the weights are there, else the way out."""
        if not there(self.kind):
            return (
                f"model.encoder {self.kind} is a network of the package {self.kind}, which is not "
                f"installed here. Run: pip install {self.kind}"
            )
        return _lost(self.kind, "weights", self.weights)

    def origin(self) -> Origin:
        """Return the library, the file and its hash."""
        from importlib import metadata  # noqa: PLC0415  seldom asked

        package = f"{self.kind} {metadata.version(self.kind)}"
        return _origin(package, self.name, self.weights)

    def network(self, shape: DataShape) -> nn.Module:
        """Return the network without its last layer, which knows classes."""
        from actors.learning.encoders import opaque_torch  # noqa: PLC0415  as elsewhere

        del shape
        file = None if self.weights is None else locate(self.weights)
        return opaque_torch.of_library(self.kind, self.name, file)


class Timm(_Library):
    """An image network of the package timm."""

    kind: Literal["timm"] = "timm"


class TorchVision(_Library):
    """An image network of the package torchvision."""

    kind: Literal["torchvision"] = "torchvision"


class Onnx(Opaque):
    """A network of which there is only an ONNX file: it gives features, and no gradients.

    It has one input, images of shape (n, 3, h, w); its first output is laid flat.

    Attributes:
        path: The file.
        pixels: Height and width that images are brought to.
        mean: What each channel is centred by, of pixels where 255 is 1.
        std: What it is divided by.
    """

    kind: Literal["onnx"] = "onnx"
    path: Path
    pixels: PositiveInt = 64
    mean: Three = IMAGENET[0]
    std: Three = IMAGENET[1]

    def size(self, shape: DataShape) -> tuple[int, int]:
        """Return what `pixels` says."""
        del shape
        return self.pixels, self.pixels

    def moments(self) -> tuple[Three, Three]:
        """Return what the file says."""
        return self.mean, self.std

    def differentiable(self, shape: DataShape) -> bool:
        """Say no."""
        del shape
        return False

    def missing(self) -> str | None:
        """Return None if the file and what runs it are there, else the way out."""
        if not there("onnxruntime"):
            return (
                "model.encoder onnx is run by the package onnxruntime, which is not installed "
                "here. Run: pip install onnxruntime"
            )
        return _lost(self.kind, "path", self.path)

    def origin(self) -> Origin:
        """Return the file and its hash."""
        return _origin("", self.path.name, self.path)

    def network(self, shape: DataShape) -> nn.Module:
        """Return a module that runs the file."""
        from actors.learning.encoders import opaque_torch  # noqa: PLC0415  as elsewhere

        del shape
        return opaque_torch.of_onnx(locate(self.path))


class OwnEncoder(Opaque):
    """A user's own: ``kind: "my_module:function"``.

    The function takes the `DataShape` and returns a `torch.nn.Module`, or any callable, that takes
    images in [0, 1], shape (n, 3, h, w), of the data set's height and width, and returns features,
    shape (n, features). Every other field given goes to it as a keyword argument.
    """

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _can_be_called(self) -> Self:
        try:
            inspect.signature(own_function(self.kind)).bind(None, **self._arguments())
        except (ExperimentError, TypeError, ValueError) as error:
            raise PydanticCustomError(
                "own_encoder",
                "{kind} must be a function of (shape: DataShape, ...) or a class derived from "
                "EncoderPolicy: {error}",
                {"kind": self.kind, "error": str(error)},
            ) from error
        return self

    def size(self, shape: DataShape) -> tuple[int, int]:
        """Return the data set's."""
        _, height, width = image_of(self, shape)
        return height, width

    def moments(self) -> tuple[Three, Three]:
        """Return those that leave pixels in [0, 1]."""
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def missing(self) -> str | None:
        """Return None: that the function is there is seen when the file is read."""
        return None

    def origin(self) -> Origin:
        """Return the function's name."""
        return Origin("", self.kind, "not stated", "")

    def network(self, shape: DataShape) -> nn.Module:
        """Return what the function makes."""
        from actors.learning.encoders import opaque_torch  # noqa: PLC0415  as elsewhere

        return opaque_torch.of_function(self.kind, shape, self._arguments())

    def _arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _lost(kind: str, setting: str, path: Path | None) -> str | None:
    """Return None if a file is there, or none is asked for."""
    if path is None or locate(path).is_file():
        return None
    return (
        f"model.encoder {kind} reads the file {locate(path)}, which is not there. "
        f"Set model.encoder.{setting} to where it is."
    )


def _origin(package: str, name: str, path: Path | None) -> Origin:
    """Return the origin of a file of the user's."""
    if path is None:
        return Origin(package, f"{name}, weights drawn", "not stated", "")
    file = locate(path)
    return Origin(package, f"{name}, weights in {file.name}", "not stated", sha256(file))
