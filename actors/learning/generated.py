"""What do inputs look like that nobody has?

Images of smooth noise, of which no data set has to be known but its mean and deviation. They mean
nothing, and teach what a network answers far from what it was trained on.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

SMOOTHNESS: Final = 2.0
"""Amplitudes fall with the frequency to this power; with 1 for natural images."""
GAIN: Final = 2.0
"""Standard deviations that a standard deviation of noise comes to."""
OFFSET: Final = 0.5
"""Standard deviation of the images' own brightness, before the gain."""


def smooth_noise(
    shape: tuple[int, ...],
    moments: tuple[float, float],
    count: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """Return images, normalised as the data are, shape (count, *shape).

    Each channel of each image is noise of zero mean and unit deviation over its pixels, whose
    amplitude at a frequency f is ``1 / max(f, 1 / longer side) ** SMOOTHNESS``, times `GAIN`,
    around a brightness of the image's own. It is cut to what pixels can be where the moments tell:
    those of data that are not pixels in [0, 1] are 0 and 1, and nothing is cut.

    Args:
        shape: Channels, height and width.
        moments: Mean and standard deviation that the data are normalised by, of pixels in [0, 1].
        count: How many.
        rng: Draws them.
    """
    height, width = shape[-2:]
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.maximum(np.hypot(rows, columns), 1 / max(height, width))
    spectrum = np.fft.rfft2(rng.standard_normal((count, *shape)))
    noise = np.fft.irfft2(spectrum / frequency**SMOOTHNESS, s=(height, width))
    noise -= noise.mean(axis=(-2, -1), keepdims=True)
    noise /= noise.std(axis=(-2, -1), keepdims=True)
    noise += OFFSET * rng.standard_normal((count, 1, 1, 1))
    noise *= GAIN
    mean, deviation = moments
    if moments == (0.0, 1.0):
        return noise.astype(np.float32)
    lowest, highest = -mean / deviation, (1 - mean) / deviation
    return np.clip(noise, lowest, highest).astype(np.float32)
