"""Which pretrained encoders are there?

A module each, and a `*_torch` beside it. Packages that bring weights are looked for without being
imported; files are read when a module is built.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

from pydantic import Field, SerializeAsAny, WrapValidator

from actors.learning.encoders.base import Cost, Cut, EncoderPolicy, Form, Origin
from actors.learning.encoders.efficientnet import EfficientNetLite0
from actors.learning.encoders.minilm import MiniLmL6
from actors.learning.encoders.opaque import Onnx, OwnEncoder, Timm, TorchVision
from actors.learning.encoders.vit import VitS14
from policies.base import Policy, own_class, own_function
from policies.types import ExperimentError

__all__ = [
    "Cost",
    "Cut",
    "EfficientNetLite0",
    "Encoder",
    "EncoderPolicy",
    "Form",
    "MiniLmL6",
    "Onnx",
    "Origin",
    "OwnEncoder",
    "Timm",
    "TorchVision",
    "VitS14",
]


def _own_or_known(value: Any, handler: Any) -> Any:
    """Let `kind: "module:Class"` and `kind: "module:function"` into the union."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if isinstance(kind, str) and ":" in kind:
        with suppress(ExperimentError):  # OwnEncoder says what is wrong
            found = own_function(kind)
            if isinstance(found, type) and issubclass(found, Policy):
                return own_class(kind, EncoderPolicy).model_validate(value)
        return OwnEncoder.model_validate(value)
    return value if isinstance(value, EncoderPolicy) else handler(value)


Encoder = Annotated[
    Annotated[
        VitS14 | EfficientNetLite0 | MiniLmL6 | Timm | TorchVision | Onnx,
        Field(discriminator="kind"),
    ],
    WrapValidator(_own_or_known),
    SerializeAsAny(),  # a user's own member is written back with its own fields
]
