"""How does a network of which nothing is known become an encoder, and what is it seen to do?"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actors.learning import models_torch
from actors.learning.blame import blame
from actors.learning.encoders.base import Cost
from actors.learning.encoders.module_torch import EncoderModule, Prepared
from actors.learning.encoders.opaque import Measured, Three
from actors.learning.examples import DataShape
from policies.base import own_function
from policies.types import ExperimentError

_STD = 0.01
"""Of what is added to the identity; small, so that the network sees nearly what was learnt from."""
_LAST = ("fc", "classifier", "heads", "head")
"""What torchvision's networks call their last layers."""


def opaque(
    network: nn.Module, shape: DataShape, size: tuple[int, int], moments: tuple[Three, Three]
) -> EncoderModule:
    """Return an adapter and the network behind it.

    Args:
        network: Images to features.
        shape: Of the data.
        size: Height and width of the images that the network gets.
        moments: What each channel is centred and divided by.
    """
    adapter = nn.Conv2d(3, 3, 3, padding=1)
    with torch.no_grad():
        nn.init.dirac_(adapter.weight)
        adapter.weight += _STD * torch.randn(adapter.weight.shape)
        nn.init.zeros_(adapter.bias)  # type: ignore[arg-type]
    prepared = Prepared(shape, size, *moments)
    return EncoderModule(nn.Sequential(prepared, adapter), [Stays(network)], nn.Identity())


class Stays(nn.Module):
    """A network that stays in eval mode, whatever holds it.

    Its statistics become attributes like any other: as buffers they would travel with updates.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for module in network.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                if buffer.is_floating_point():
                    delattr(module, name)
                    setattr(module, name, buffer)

    def forward(self, s: Tensor) -> Tensor:
        """Return features of images."""
        features: Tensor = self.network(s)
        return features

    def train(self, mode: bool = True) -> Stays:
        """Stay in eval mode."""
        del mode
        return super().train(mode=False)


def measure(build: Callable[[], nn.Module], size: tuple[int, int]) -> Measured:
    """Run a network on zeros and look what it does, in eval mode.

    Args:
        build: Makes it.
        size: Height and width of its images.

    Raises:
        ExperimentError: If it does not turn images into features.
    """
    with torch.random.fork_rng(devices=[]):
        network = build().eval()
    with torch.no_grad(), models_torch.counted() as counter:
        features = _features(network, torch.zeros(1, 3, *size)).shape[1]
    network.requires_grad_(True)
    x = torch.zeros(2, 3, *size, requires_grad=True)
    seen: list[Tensor] = []
    kept = models_torch.kept_bytes(lambda: seen.append(_features(network, x)), network)
    parameters = sum(p.numel() for p in network.parameters())
    cost = Cost(int(counter.get_total_flops()), parameters, kept // 2)
    return Measured(features, cost, seen[0].requires_grad)


def _features(network: nn.Module, x: Tensor) -> Tensor:
    """Return what a network gives, if it is features."""
    rule = f"The encoder must turn images {tuple(x.shape)} into features ({len(x)}, width)"
    try:
        found = network(x)
    except ExperimentError:
        raise
    except Exception as error:  # whatever a network may raise
        what = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ExperimentError(f"{rule}, but it fails: {what}. Is it made for that size?") from error
    if not (isinstance(found, Tensor) and found.ndim == 2 and len(found) == len(x)):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ExperimentError(f"{rule}, but it returns {got}. Pool what it gives.")
    return found


def of_library(library: str, name: str, file: Path | None) -> nn.Module:
    """Return a library's network without its last layer.

    Args:
        library: `timm` or `torchvision`.
        name: Of the network.
        file: Its weights; None leaves them as they are drawn.

    Raises:
        ExperimentError: If the library does not know the network, or the weights are another's.
    """
    try:
        importlib.import_module(library)
    except Exception as error:  # of a build that does not go with this torch, too
        raise ExperimentError(
            f"the package {library} is there and cannot be imported: {error}. Install the one that "
            f"goes with torch {torch.__version__}."
        ) from error
    try:
        network: nn.Module = _timm(name) if library == "timm" else _torchvision(name)
    except (RuntimeError, ValueError) as error:
        raise ExperimentError(
            f"model.encoder.name must be a network of {library}, got {name}: {error}."
        ) from error
    if file is not None:
        absent = network.load_state_dict(_state(file), strict=False).missing_keys
        if absent:
            raise ExperimentError(
                f"{file} must hold the weights of {name}, and lacks {', '.join(absent[:3])}"
                f"{' and more' if len(absent) > 3 else ''}. Name the file of that network."
            )
    return network


def _timm(name: str) -> nn.Module:
    import timm  # noqa: PLC0415  an optional package

    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    return network


def _torchvision(name: str) -> nn.Module:
    from torchvision import models  # noqa: PLC0415  an optional package

    network: nn.Module = models.get_model(name, weights=None)
    last = next((one for one in _LAST if hasattr(network, one)), None)
    if last is None:
        raise ValueError("it has no last layer of classes. Take another, or timm's")
    setattr(network, last, nn.Identity())
    return network


def _state(file: Path) -> dict[str, Tensor]:
    """Read a state dict.

    Raises:
        ExperimentError: If it is none.
    """
    from safetensors import SafetensorError  # noqa: PLC0415  seldom needed
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise ExperimentError(f"{file} holds no state dict: {error}.") from error
    except Exception as error:  # unpicklers have errors of their own
        raise ExperimentError(f"{file} holds more than a state dict, or none: {error}.") from error
    return dict(found.get("state_dict", found))


def of_onnx(file: Path) -> nn.Module:
    """Return a module that runs an ONNX file.

    Raises:
        ExperimentError: If it cannot be read, or has several inputs.
    """
    import onnxruntime  # noqa: PLC0415  an optional package

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # whatever its own errors are called
        raise ExperimentError(f"{file} cannot be read by onnxruntime: {error}.") from error
    inputs = [one.name for one in session.get_inputs()]
    if len(inputs) != 1:
        raise ExperimentError(
            f"{file} must have one input, images of shape (n, 3, h, w), got {', '.join(inputs)}."
        )
    return _Session(session, inputs[0])


class _Session(nn.Module):
    """Runs an ONNX file; no gradients pass."""

    def __init__(self, session: Any, name: str) -> None:
        super().__init__()
        self._session = session
        self._name = name

    def forward(self, s: Tensor) -> Tensor:
        (found, *_) = self._session.run(None, {self._name: s.detach().numpy()})
        return torch.from_numpy(found).flatten(1)


def of_function(path: str, shape: DataShape, arguments: Mapping[str, Any]) -> nn.Module:
    """Return what a user's function makes, as a module.

    Raises:
        ExperimentError: If it raises, or makes nothing that can be called.
    """
    with blame(path):
        found = own_function(path)(shape, **arguments)
    if isinstance(found, nn.Module):
        return found
    if callable(found):
        return _Called(path, found)
    raise ExperimentError(
        f"{path} must return a torch.nn.Module or a callable, got {type(found).__name__}."
    )


class _Called(nn.Module):
    """A user's callable."""

    def __init__(self, path: str, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._path = path
        self._call = call

    def forward(self, s: Tensor) -> Tensor:
        with blame(self._path):
            return self._call(s)
