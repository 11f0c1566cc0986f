"""Which examples are set aside for the test, the same ones for ever?"""

from __future__ import annotations

import numpy as np

from actors.learning.examples import Labels
from policies.types import stream


def by_class(labels: Labels, test: int, source: str) -> Labels:
    """Choose `test` examples that hold every class in proportion.

    Returns:
        Sorted positions, shape (test,).
    """
    quota = test * np.bincount(labels) / len(labels)
    take = np.floor(quota).astype(np.int64)
    take[np.argsort(take - quota, kind="stable")[: test - take.sum()]] += 1
    rng = stream(0, f"test-split/{source}")
    members = (rng.permutation(np.flatnonzero(labels == c)) for c in range(len(take)))
    return np.sort(np.concatenate([m[:k] for m, k in zip(members, take, strict=True)]))


def by_group(groups: Labels, test: int, source: str) -> Labels:
    """Choose about `test` examples that hold every group in proportion, for any number of groups.

    A group gives up all but one of its examples at most.

    Args:
        groups: Group of each example, shape (n,), int64, each >= 0.
        test: How many to choose; fewer come where groups of one example would have to give it.
        source: Names the random stream.

    Returns:
        Sorted positions.
    """
    sizes = np.bincount(groups)
    quota = test * sizes / len(groups)
    take = np.floor(quota).astype(np.int64)
    take[np.argsort(take - quota, kind="stable")[: test - take.sum()]] += 1
    take = np.minimum(take, np.maximum(sizes - 1, 0))
    shuffled = stream(0, f"test-split/{source}").permutation(len(groups))
    in_order = shuffled[np.argsort(groups[shuffled], kind="stable")]
    group = groups[in_order]
    place = np.arange(len(groups)) - (np.cumsum(sizes) - sizes)[group]
    return np.sort(in_order[place < take[group]])
