"""What are mean and standard deviation of images?"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def moments(x: npt.NDArray[Any]) -> tuple[float, float]:
    """Return mean and standard deviation of uint8 inputs over 255, (0, 1) for the others.

    Counts the 256 values a block at a time, which is exact and takes no second copy.
    """
    if x.dtype != np.uint8 or not x.size:
        return 0.0, 1.0
    counts = sum(
        np.bincount(x[i : i + 1024].ravel(), minlength=256) for i in range(0, len(x), 1024)
    )
    values = np.arange(256) / 255
    mean = float(np.average(values, weights=counts))
    return mean, float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))
