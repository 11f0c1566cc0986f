"""Are generated inputs what they are said to be?"""

from __future__ import annotations

import numpy as np
import pytest

from actors.learning.generated import GAIN, OFFSET, smooth_noise
from policies.types import stream

RNG = "generated-inputs"


def test_smooth_noise_is_smooth() -> None:
    """Neighbouring pixels are alike, distant ones are not; amplitudes fall with the square of f."""
    images = smooth_noise((1, 32, 32), (0.0, 1.0), 400, stream(0, RNG))[:, 0]
    images = images - images.mean(axis=(1, 2), keepdims=True)
    power = np.abs(np.fft.fft2(images)) ** 2
    low, high = power[:, 0, 4].mean(), power[:, 0, 8].mean()
    assert low / high == pytest.approx(2**4, rel=0.3)
    near = np.mean(images[:, :, 1:] * images[:, :, :-1]) / np.mean(images**2)
    assert near > 0.95


def test_moments_by_hand() -> None:
    """Deviation 2 within an image, brightness of deviation 1 between images, nothing cut."""
    images = smooth_noise((3, 16, 20), (0.0, 1.0), 2000, stream(0, RNG))
    assert images.shape == (2000, 3, 16, 20)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images.std(axis=(2, 3)), GAIN, rtol=1e-4)
    brightness = images.mean(axis=(2, 3))
    np.testing.assert_allclose(brightness[:, 0], brightness[:, 1], atol=1e-5)
    assert brightness[:, 0].std() == pytest.approx(GAIN * OFFSET, rel=0.1)


def test_pixels_stay_pixels() -> None:
    """With the moments of pixels nothing lies beyond black and white."""
    images = smooth_noise((1, 28, 28), (0.286, 0.353), 50, stream(0, RNG))
    assert images.min() == pytest.approx(-0.286 / 0.353)
    assert images.max() == pytest.approx(0.714 / 0.353)
    again = smooth_noise((1, 28, 28), (0.286, 0.353), 50, stream(0, RNG))
    assert images.tobytes() == again.tobytes()
