"""What does a data set hold, and can a model learn from it?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.types import ExperimentError

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DataShape:
    """What a data set looks like: examples in each split, shape of one input, classes."""

    train: int
    test: int
    input: tuple[int, ...]
    classes: int


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """A training and a test split, inputs as they were stored.

    Attributes:
        x_train: Shape (n, c, h, w) for images, (n, ...) otherwise; uint8, which takes a quarter of
            the memory, or float32.
        y_train: Labels, shape (n,), int64, in [0, classes).
        x_test: Like `x_train`.
        y_test: Like `y_train`.
        classes: How many classes there are.
        mean: Mean of the training inputs, where 255 is 1.
        std: Their standard deviation, > 0, over all pixels.

    Raises:
        ExperimentError: If the arrays do not fit together.
    """

    x_train: npt.NDArray[Any]
    y_train: Labels
    x_test: npt.NDArray[Any]
    y_test: Labels
    classes: int
    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ExperimentError(
                f"mean and std must be finite and std > 0, got {self.mean} and {self.std}. "
                "Are all the training inputs the same?"
            )
        _check_split("train", self.x_train, self.y_train, self.classes)
        _check_split("test", self.x_test, self.y_test, self.classes)
        if (a := self.x_train.shape[1:]) != (b := self.x_test.shape[1:]):
            raise ExperimentError(f"x_train and x_test must hold inputs of one shape: {a}, {b}.")

    @property
    def shape(self) -> DataShape:
        """What it looks like."""
        inputs = tuple(self.x_train.shape[1:])
        return DataShape(len(self.x_train), len(self.x_test), inputs, self.classes)

    def normalise(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return what a model takes: uint8 centred and scaled, float32 as it is.

        Args:
            x: Inputs of this data set, shape (n, ...).

        Returns:
            Shape (n, ...), float32: ``((x / 255) - mean) / std`` for uint8.
        """
        if x.dtype == np.float32:
            return x
        out = x.astype(np.float32)
        out /= np.float32(255)
        out -= np.float32(self.mean)
        out /= np.float32(self.std)
        return out


def _check_split(name: str, x: npt.NDArray[Any], y: Labels, classes: int) -> None:
    """Refuse inputs and labels that no model could learn from."""
    if x.dtype not in (np.uint8, np.float32) or x.ndim < 2:
        raise ExperimentError(
            f"x_{name} must be uint8 or float32 of shape (n, ...), got {x.dtype} {x.shape}. "
            "Images have the shape (n, channels, height, width)."
        )
    if y.dtype != np.int64 or y.shape != (len(x),) or len(x) == 0:
        raise ExperimentError(
            f"y_{name} must hold one int64 label for each of the {len(x)} inputs in x_{name}, and "
            f"there must be one or more; got {y.dtype} {y.shape}."
        )
    if y.min() < 0 or y.max() >= classes:
        raise ExperimentError(
            f"y_{name} must lie in [0, {classes}), got {y.min()} to {y.max()}. "
            "Number the labels from 0, or raise classes."
        )
    if x.dtype == np.float32 and not np.isfinite(x).all():
        raise ExperimentError(f"x_{name} must be finite, got NaN or infinity. Fill or drop these.")
