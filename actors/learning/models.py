"""Which model is trained, how large is it and what does a pass through it cost?

Sizes and costs come from arithmetic, so that an experiment is checked and a fleet is planned
without torch; the modules are in `models_torch`. Models for images and plain numbers stand here,
those that embed their inputs in `embedding`.
"""

from __future__ import annotations

import inspect
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PositiveInt,
    SerializeAsAny,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from actors.learning.blame import blame
from actors.learning.embedding import Tabular, TextBag, Transformer
from actors.learning.examples import DataShape
from actors.learning.modelling import (
    POSITION_BYTES,
    ModelPolicy,
    linear_flops,
    linear_parameters,
    only,
    widths,
)
from actors.learning.pretrained import Pretrained
from policies.base import Policy, own_class, own_function
from policies.memory import FLOAT_BYTES
from policies.types import ExperimentError

if TYPE_CHECKING:
    from typing import Self

    from torch import nn

__all__ = [
    "Cnn",
    "Logistic",
    "Mlp",
    "Model",
    "ModelPolicy",
    "OwnModel",
    "Pretrained",
    "ResNet",
    "Tabular",
    "TextBag",
    "Transformer",
]


class Logistic(ModelPolicy):
    """One linear layer: multinomial logistic regression. The baseline."""

    kind: Literal["logistic"] = "logistic"

    def parameters(self, shape: DataShape) -> int:
        """Return weights and biases."""
        return linear_parameters(_layers(self, shape))

    def forward_flops(self, shape: DataShape) -> int:
        """Return those of the matrix product."""
        return linear_flops(_layers(self, shape))

    def activation_bytes(self, shape: DataShape) -> int:
        """Return the bytes of the input."""
        return FLOAT_BYTES * _layers(self, shape)[0]

    def build(self, shape: DataShape) -> nn.Module:
        """Return the module."""
        from actors.learning import models_torch  # noqa: PLC0415  validating needs no torch

        return models_torch.mlp(_layers(self, shape))


class Mlp(ModelPolicy):
    """Linear layers with ReLU between them.

    Attributes:
        hidden: Width of each hidden layer.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[PositiveInt, ...] = (64,)

    def parameters(self, shape: DataShape) -> int:
        """Return weights and biases."""
        return linear_parameters(_layers(self, shape, *self.hidden))

    def forward_flops(self, shape: DataShape) -> int:
        """Return those of the matrix products."""
        return linear_flops(_layers(self, shape, *self.hidden))

    def activation_bytes(self, shape: DataShape) -> int:
        """Return the bytes of every layer's input."""
        return FLOAT_BYTES * sum(_layers(self, shape, *self.hidden)[:-1])

    def build(self, shape: DataShape) -> nn.Module:
        """Return the module."""
        from actors.learning import models_torch  # noqa: PLC0415  validating needs no torch

        return models_torch.mlp(_layers(self, shape, *self.hidden))


def _layers(model: ModelPolicy, shape: DataShape, *hidden: int) -> tuple[int, ...]:
    """Return the widths of linear layers for inputs that can be laid flat."""
    only(model.kind, shape, "images", "numbers")
    return widths(shape, *hidden)


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise PydanticCustomError(
            "even_kernel",
            "kernel must be odd, so that the padding is the same on both sides, got {kernel}. "
            "Take {less} or {more}.",
            {"kernel": kernel, "less": kernel - 1, "more": kernel + 1},
        )
    return kernel


class Cnn(ModelPolicy):
    """Two convolutions, each with ReLU and a 2 x 2 maximum, then two linear layers.

    Attributes:
        channels: Channels out of each convolution.
        kernel: Width of their kernels, odd; padding keeps the image's size.
        hidden: Width of the hidden linear layer.
        group_norm: Whether to normalise between each convolution and its ReLU.

    Source:
        The form is McMahan et al. 2017's, arXiv:1602.05629, who take channels (32, 64) and hidden
        512. The smaller widths and the groups, as many up to 8 as divide the channels, are our
        choice.
    """

    kind: Literal["cnn"] = "cnn"
    channels: tuple[PositiveInt, PositiveInt] = (16, 32)
    kernel: Annotated[PositiveInt, AfterValidator(_odd)] = 5
    hidden: PositiveInt = 128
    group_norm: bool = False

    def parameters(self, shape: DataShape) -> int:
        """Return weights and biases of convolutions, norms and linear layers."""
        (c0, _, _), (c1, c2) = _image(shape), self.channels
        convolutions = (self.kernel**2 * c0 + 1) * c1 + (self.kernel**2 * c1 + 1) * c2
        norms = 2 * (c1 + c2) if self.group_norm else 0
        return convolutions + norms + linear_parameters(self._head(shape))

    def forward_flops(self, shape: DataShape) -> int:
        """Return those of the convolutions and the matrix products."""
        (c0, h, w), (c1, c2) = _image(shape), self.channels
        products = self.kernel**2 * (c0 * c1 * h * w + c1 * c2 * (h // 2) * (w // 2))
        return 2 * products + linear_flops(self._head(shape))

    def activation_bytes(self, shape: DataShape) -> int:
        """Return the bytes of every layer's input, and of the positions of the maxima."""
        (c0, h, w), (c1, c2) = _image(shape), self.channels
        (h2, w2), features = (h // 2, w // 2), self._head(shape)[0]
        maxima = c1 * h2 * w2 + features
        before_maxima = c1 * h * w + c2 * h2 * w2
        norms = before_maxima if self.group_norm else 0
        floats = c0 * h * w + before_maxima + norms + maxima + self.hidden
        return FLOAT_BYTES * floats + POSITION_BYTES * maxima

    def build(self, shape: DataShape) -> nn.Module:
        """Return the module."""
        from actors.learning import models_torch  # noqa: PLC0415  validating needs no torch

        widths = (_image(shape)[0], *self.channels)
        return models_torch.cnn(
            widths, self._head(shape), kernel=self.kernel, group_norm=self.group_norm
        )

    def _head(self, shape: DataShape) -> tuple[int, ...]:
        """Return the widths of the linear layers."""
        _, h, w = _image(shape)
        return (self.channels[1] * (h // 4) * (w // 4), self.hidden, shape.classes)


_FORMS: dict[int, tuple[int, int, int]] = {8: (3, 1, 16), 18: (4, 2, 64)}
"""Stages, blocks in each and first width of a ResNet, by its depth."""


class ResNet(ModelPolicy):
    """A residual network in the form for small images: a 3 x 3 stem and no pooling before the end.

    Basic blocks: two 3 x 3 convolutions without biases, each normalised, a ReLU between them and
    another one after the shortcut is added. Depth 8 has three stages of one block, depth 18 four
    stages of two; each stage after the first doubles the channels and halves the image in its
    first block, whose shortcut is a normalised 1 x 1 convolution. Then the mean over the image and
    a linear layer.

    Batch norm's buffers travel with every update and are averaged as values, which is known to
    hurt where clients' data differ. It also needs more than one number a channel: a last batch of
    one example fails once the image is down to 1 x 1. Group norm looks at one example at a time,
    and asks for more than one number a group, which the default widths always give.

    Attributes:
        depth: Layers with weights, shortcuts not counted.
        width: Channels of the first stage; 16 for depth 8 and 64 for depth 18 if left out.
        norm: What normalises after each convolution.

    Source:
        He et al. 2016, arXiv:1512.03385: section 4.2 for the form on CIFAR (their 6n + 2 layers
        with n = 1 and first width 16 are depth 8), table 1 for depth 18, with the 3 x 3 stem that
        is usual on small images in place of their 7 x 7 and pooling. Projections in every
        shortcut that changes shape are their option B, usual in small ResNets, where section 4.2
        pads with zeros. Group norm as in Hsieh et al. 2020, arXiv:1910.00189; as many groups up
        to 8 as divide the channels, and torch's own first weights, are our choice.
    """

    kind: Literal["resnet"] = "resnet"
    depth: Literal[8, 18] = 8
    width: Annotated[
        PositiveInt, Field(default_factory=lambda fields: _FORMS[fields.get("depth", 8)][2])
    ]
    norm: Literal["group", "batch"] = "group"

    def parameters(self, shape: DataShape) -> int:
        """Return weights of convolutions, weights and biases of norms and the linear layer."""
        layers = self._convolutions(shape)
        inside = sum(k * k * before * after + 2 * after for k, before, after, _ in layers)
        return inside + linear_parameters(self._head(shape))

    def forward_flops(self, shape: DataShape) -> int:
        """Return those of the convolutions and the matrix product."""
        layers = self._convolutions(shape)
        products = sum(k * k * before * after * pixels for k, before, after, pixels in layers)
        return 2 * products + linear_flops(self._head(shape))

    def activation_bytes(self, shape: DataShape) -> int:
        """Return the bytes of every layer's input."""
        image, features = math.prod(shape.input), self._head(shape)[0]
        layers = self._convolutions(shape)
        before_norms = sum(after * pixels for _, _, after, pixels in layers)
        after_relus = sum(after * pixels for k, _, after, pixels in layers if k == 3)
        return FLOAT_BYTES * (image + before_norms + after_relus + features)

    def build(self, shape: DataShape) -> nn.Module:
        """Return the module."""
        from actors.learning import models_torch  # noqa: PLC0415  validating needs no torch

        channels = self._image(shape)[0]
        _, blocks, _ = _FORMS[self.depth]
        return models_torch.resnet(
            channels, self._stages(), blocks, shape.classes, batch_norm=self.norm == "batch"
        )

    def _stages(self) -> tuple[int, ...]:
        """Return the channels of each stage."""
        return tuple(self.width * 2**stage for stage in range(_FORMS[self.depth][0]))

    def _image(self, shape: DataShape) -> tuple[int, int, int]:
        return _image(shape, self.kind, halvings=_FORMS[self.depth][0] - 1)

    def _head(self, shape: DataShape) -> tuple[int, int]:
        """Return the widths of the linear layer."""
        return (self._stages()[-1], shape.classes)

    def _convolutions(self, shape: DataShape) -> list[tuple[int, int, int, int]]:
        """Return kernel, channels before and after, and output pixels of each convolution."""
        before, height, width = self._image(shape)
        layers = [(3, before, self.width, height * width)]
        before = self.width
        for stage, after in enumerate(self._stages()):
            for block in range(_FORMS[self.depth][1]):
                if stage and not block:
                    height, width = -(-height // 2), -(-width // 2)
                    layers.append((1, before, after, height * width))
                layers += [(3, n, after, height * width) for n in (before, after)]
                before = after
        return layers


def _image(shape: DataShape, kind: str = "cnn", *, halvings: int = 2) -> tuple[int, int, int]:
    """Return channels, height and width of an image large enough to be halved that often.

    Raises:
        ExperimentError: If it is not.
    """
    least = 2**halvings
    if shape.sort not in ("images", "numbers"):
        only(kind, shape, "images")
    match shape.input:
        case (channels, height, width) if min(height, width) >= least:
            return channels, height, width
    raise ExperimentError(
        f"model {kind} halves its images {halvings} times and needs inputs of (channels, height, "
        f"width) with height and width of at least {least}, got {shape.input}. Take model.kind mlp "
        "or logistic, or reshape or enlarge the data's images."
    )


class OwnModel(ModelPolicy):
    """A user's own module: ``kind: "my_module:function"``.

    The function takes the `DataShape` and returns a `torch.nn.Module`; every other field given
    goes to it as a keyword argument. Its sizes and costs are measured on the module itself.
    """

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _can_be_called(self) -> Self:
        try:
            function = own_function(self.kind)
            inspect.signature(function).bind(None, **self._arguments())
        except (ExperimentError, TypeError, ValueError) as error:
            raise PydanticCustomError(
                "own_model",
                "{kind} must be a function of (shape: DataShape, ...) or a class derived from "
                "ModelPolicy: {error}",
                {"kind": self.kind, "error": str(error)},
            ) from error
        return self

    def parameters(self, shape: DataShape) -> int:
        """Return how many numbers the module's parameters hold, frozen ones included."""
        from actors.learning import models_torch  # noqa: PLC0415  validating needs no torch

        return models_torch.count_parameters(lambda: self.build(shape))

    def forward_flops(self, shape: DataShape) -> int:
        """Return what torch's FLOP counter sees: convolutions, matrix products, attention."""
        from actors.learning import models_torch  # noqa: PLC0415  validating needs no torch

        return models_torch.count_flops(lambda: self.build(shape), shape)

    def activation_bytes(self, shape: DataShape) -> int:
        """Return the bytes that autograd keeps, measured on two examples."""
        from actors.learning import models_torch  # noqa: PLC0415  validating needs no torch

        return models_torch.count_activation_bytes(lambda: self.build(shape), shape)

    def build(self, shape: DataShape) -> nn.Module:
        """Return what the function makes.

        Raises:
            ExperimentError: If it raises, or makes no module.
        """
        from torch import nn  # noqa: PLC0415  validating needs no torch

        with blame(self.kind):
            module = own_function(self.kind)(shape, **self._arguments())
        if not isinstance(module, nn.Module):
            raise ExperimentError(
                f"{self.kind} must return a torch.nn.Module, got {type(module).__name__}."
            )
        return module

    def _arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _own_or_known(value: Any, handler: Any) -> Any:
    """Let `kind: "module:Class"` and `kind: "module:function"` into the union."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if isinstance(kind, str) and ":" in kind:
        with suppress(ExperimentError):  # OwnModel says what is wrong
            found = own_function(kind)
            if isinstance(found, type) and issubclass(found, Policy):
                return own_class(kind, ModelPolicy).model_validate(value)
        return OwnModel.model_validate(value)
    return value if isinstance(value, ModelPolicy) else handler(value)


Model = Annotated[
    Annotated[
        Logistic | Mlp | Cnn | ResNet | Tabular | TextBag | Transformer | Pretrained,
        Field(discriminator="kind"),
    ],
    WrapValidator(_own_or_known),
    SerializeAsAny(),  # a user's own member is written back with its own fields
]
