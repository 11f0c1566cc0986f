"""Does looking through a vector in pieces find what looking at it whole does?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from policies.passes import BLOCK, blocks, nonzeros, not_finite

STRANGE = st.sampled_from([0.0, -0.0, 1e-45, 1.5, np.inf, -np.inf, np.nan])
VECTORS = arrays.arrays(np.float32, st.integers(0, 40), elements=STRANGE)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_blocks(size: int) -> None:
    """They are the vector, in its order, and view it."""
    values = np.arange(size, dtype=np.float32)
    found = list(blocks(values))
    assert np.array_equal(np.concatenate([values[:0], *found]), values)
    assert all(np.shares_memory(block, values) for block in found)
    assert all(block.size == BLOCK for block in found[:-1])


@given(VECTORS, st.integers(0, 2 * BLOCK))
def test_counts(values: np.ndarray, before: int) -> None:
    """Both counts are numpy's, wherever in a long vector the values stand."""
    long = np.concatenate([np.ones(before, dtype=np.float32), values])
    assert nonzeros(long) == np.count_nonzero(long)
    assert not_finite(long) == np.count_nonzero(~np.isfinite(long))
