"""How is the transformer of texts read out of its package, and what does it look like in torch?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from actors.learning.encoders.base import Form
from actors.learning.encoders.minilm import LONGEST, PACKAGE, VOCABULARY, WIDTH
from actors.learning.encoders.module_torch import EncoderModule, filled
from actors.learning.encoders.transformer_torch import NormLast
from actors.learning.sources.cache import cached_arrays
from policies.types import ExperimentError

_KIND = "minilm-l6"
_EPS = 1e-12
_PARTS = ("weight", "bias")

Arrays = dict[str, npt.NDArray[np.float32]]


def minilm(form: Form) -> EncoderModule:
    """Return the encoder for texts of `form.tokens` word pieces."""
    with torch.device("meta"):
        module = EncoderModule(
            _Pieces(form.tokens),
            [NormLast(form, _EPS) for _ in range(form.blocks)],
            _Mean(form.tokens),
        )
    arrays = dict(_arrays())
    positions = arrays.pop("positions")[: form.tokens]
    return filled(module, {**arrays, "embedding.positions": positions}, _KIND)


class _Pieces(nn.Module):
    """Word pieces to tokens and, in the last column, 1 for a word piece and 0 for padding."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.pieces = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.empty(tokens, WIDTH))
        self.norm = nn.LayerNorm(WIDTH, _EPS)

    def forward(self, x: Tensor) -> Tensor:
        values = self.norm(self.pieces(x) + self.positions)
        known = (x != 0).to(values.dtype).unsqueeze(-1)
        return torch.cat([values, known], dim=-1)


class _Mean(nn.Module):
    """Tokens to features: the mean over word pieces; tokens that were added are left out."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self._tokens = tokens

    def forward(self, s: Tensor) -> Tensor:
        values = s[:, : self._tokens, :-1]
        known = s[:, : self._tokens, -1:].detach().contiguous()
        return torch.sum(values * known, dim=1) / known.sum(dim=1).clamp(min=1)


@lru_cache(maxsize=1)
def _arrays() -> Mapping[str, Tensor]:
    """Read the weights, from the cache if they are there."""
    PACKAGE.find(_KIND)
    found = cached_arrays(_KIND, PACKAGE.label(), _convert)
    return {name: torch.from_numpy(array) for name, array in found.items()}


def _convert() -> Arrays:
    """Take the weights out of the package's archive.

    Raises:
        ExperimentError: If it is damaged, or holds another network.
    """
    from safetensors import SafetensorError  # noqa: PLC0415  read once
    from safetensors.numpy import load  # noqa: PLC0415

    try:
        with ZipFile(PACKAGE.find(_KIND)) as archive:
            return _named(load(archive.read("model.safetensors")))
    except (BadZipFile, KeyError, SafetensorError) as error:
        raise ExperimentError(
            f"{PACKAGE.installed()} is damaged or holds another network than {PACKAGE.version}: "
            f"{error}. Run: {PACKAGE.command()}"
        ) from error


def _named(given: Mapping[str, npt.NDArray[np.float32]]) -> Arrays:
    """Give the weights our names; every token is of the first of two types."""
    types = given["embeddings.token_type_embeddings.weight"]
    found = {
        "embedding.pieces.weight": given["embeddings.word_embeddings.weight"],
        "positions": given["embeddings.position_embeddings.weight"][:LONGEST] + types[0],
        **{f"embedding.norm.{one}": given[f"embeddings.LayerNorm.{one}"] for one in _PARTS},
    }
    names = {
        "attention.out": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    three = [f"attention.self.{one}" for one in ("query", "key", "value")]
    for number in range(6):
        theirs, ours = f"encoder.layer.{number}", f"blocks.{number}"
        for part in _PARTS:
            together = np.concatenate([given[f"{theirs}.{one}.{part}"] for one in three])
            found[f"{ours}.attention.qkv.{part}"] = together
            for our, their in names.items():
                found[f"{ours}.{our}.{part}"] = given[f"{theirs}.{their}.{part}"]
    return found
