"""How is the vision transformer read out of its package, and what does it look like in torch?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from actors.learning.encoders.base import Form
from actors.learning.encoders.module_torch import EncoderModule, Prepared, filled
from actors.learning.encoders.transformer_torch import NormFirst
from actors.learning.encoders.vit import NO_READER, PACKAGE, PATCH, WIDTH
from actors.learning.examples import DataShape
from actors.learning.sources.cache import cached_arrays
from policies.types import ExperimentError

_KIND = "vit-s14"
_EPS = 1e-6
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_BLOCKS = 12
_NODES = "/backbone/encoder/layer.{}"
_VALUES = "backbone.encoder.layer.{}"

Arrays = dict[str, npt.NDArray[np.float32]]


def vit(form: Form, shape: DataShape, pixels: int) -> EncoderModule:
    """Return the encoder.

    Args:
        form: Of its blocks.
        shape: Of the data.
        pixels: Height and width of its images, a multiple of 14.
    """
    with torch.device("meta"):
        module = EncoderModule(
            _Patches(shape, pixels),
            [NormFirst(form, _EPS) for _ in range(form.blocks)],
            _Mean(form.tokens),
        )
    arrays = _arrays()
    grid = _resized(arrays["grid"], pixels // PATCH)
    return filled(module, {**arrays, "embedding.positions": grid}, _KIND)


class _Patches(nn.Module):
    """Images to tokens: the class token, then one for each patch, each with its position."""

    def __init__(self, shape: DataShape, pixels: int) -> None:
        super().__init__()
        self.prepared = Prepared(shape, (pixels, pixels), _MEAN, _STD)
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.first = nn.Parameter(torch.empty(WIDTH))
        self.positions = nn.Parameter(torch.empty((pixels // PATCH) ** 2, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(self.prepared(x)).flatten(2).transpose(1, 2) + self.positions
        return torch.cat([self.first.expand(len(x), 1, -1), patches], dim=1)


class _Mean(nn.Module):
    """Tokens to features: the mean over the patches, normalised; tokens that were added are not."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self._tokens = tokens
        self.norm = nn.LayerNorm(WIDTH, _EPS)

    def forward(self, s: Tensor) -> Tensor:
        patches = self.norm(s[:, 1 : self._tokens].contiguous())
        return torch.mean(patches, dim=1)


def _resized(grid: Tensor, side: int) -> Tensor:
    """Bring positions, shape (37, 37, width), to another grid, (side^2, width).

    The network's own file does so by cubic interpolation without smoothing.
    """
    wide = grid.permute(2, 0, 1).unsqueeze(0)
    small = functional.interpolate(wide, size=(side, side), mode="bicubic", align_corners=False)
    return small.flatten(2).transpose(1, 2).squeeze(0).contiguous()


@lru_cache(maxsize=1)
def _arrays() -> Mapping[str, Tensor]:
    """Read the weights, from the cache if they are there."""
    PACKAGE.find(_KIND)
    found = cached_arrays(_KIND, PACKAGE.label(), _convert)
    return {name: torch.from_numpy(array) for name, array in found.items()}


def _convert() -> Arrays:
    """Take the weights out of the package's network.

    Raises:
        ExperimentError: If onnx is not there to read it, or it is another network.
    """
    try:
        import onnx  # noqa: PLC0415  an optional package
    except ImportError as error:  # it, or what it needs
        raise ExperimentError(f"{NO_READER} ({error})") from error
    graph = onnx.load(PACKAGE.find(_KIND)).graph
    values = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    inputs = {node.name: list(node.input) for node in graph.node}
    try:
        return _named(values, inputs)
    except KeyError as error:
        raise ExperimentError(
            f"{PACKAGE.installed()} holds another network than {PACKAGE.version}: it has no "
            f"{error}. Run: {PACKAGE.command()}"
        ) from error


def _named(values: Mapping[str, Any], inputs: Mapping[str, list[str]]) -> Arrays:
    """Give the weights our names.

    Args:
        values: Arrays of the file by name.
        inputs: Names of each node's inputs. Matrices have no names of their own; positions are
            those of the class token and of a square grid.
    """
    near, far = (inputs[f"/backbone/embeddings/{one}"][0] for one in ("Concat_6", "Reshape_1"))
    grid = values[far]
    side = round(grid.shape[1] ** 0.5)
    cls = "backbone.embeddings.cls_token"
    projection = "backbone.embeddings.patch_embeddings.projection"
    found = {
        "grid": grid.reshape(side, side, WIDTH),
        "embedding.first": (values[cls] + values[near]).reshape(WIDTH),
        **{f"embedding.patches.{one}": values[f"{projection}.{one}"] for one in _PARTS},
        **{f"pool.norm.{one}": values[f"backbone.layernorm.{one}"] for one in _PARTS},
    }
    for number in range(_BLOCKS):
        of_block = _block(values, inputs, number)
        found |= {f"blocks.{number}.{name}": array for name, array in of_block.items()}
    return found


_PARTS = ("weight", "bias")


def _block(values: Mapping[str, Any], inputs: Mapping[str, list[str]], number: int) -> Arrays:
    """Name a block's weights; what scales a layer's output becomes part of the layer."""
    nodes, names = _NODES.format(number), _VALUES.format(number)

    def linear(path: str, scale: Any = 1.0) -> tuple[Any, Any]:
        product = inputs[f"{nodes}/{path}/MatMul"][1]
        bias = values[f"{names}.{path.replace('/', '.')}.bias"]
        return (values[product] * scale).T, bias * scale

    layers = {
        "attention.out": linear("attention/output/dense", values[f"{names}.layer_scale1.lambda1"]),
        "fc1": linear("mlp/fc1"),
        "fc2": linear("mlp/fc2", values[f"{names}.layer_scale2.lambda1"]),
    }
    three = [linear(f"attention/attention/{one}") for one in ("query", "key", "value")]
    layers["attention.qkv"] = tuple(map(np.concatenate, zip(*three, strict=True)))  # type: ignore[assignment]
    norms = {
        f"norm{which}.{part}": values[f"{names}.norm{which}.{part}"]
        for which in (1, 2)
        for part in _PARTS
    }
    both = {f"{name}.{p}": v for name, pair in layers.items() for p, v in zip(_PARTS, pair)}  # noqa: B905
    return norms | both
