"""Which random number belongs to this client and this counter?

Each number is a hash of its four names, so numbers of many clients and counters are drawn at once,
in any order, without a generator each. `policies.types.stream` is for those who draw many numbers
under one name.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

Integers = int | npt.NDArray[np.int64]
"""One integer or an array of them."""
Words = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.float64]

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST: Final = np.uint64(31)
_DROPPED: Final = np.uint64(12)


def uniforms(seed: int, purpose: str, client: Integers, number: Integers = 0) -> Numbers:
    """Draw from the open interval (0, 1), in steps of 2^-52.

    Args:
        seed: The experiment's seed, any integer >= 0.
        purpose: What the numbers are for; two purposes never share numbers.
        client: One client or many.
        number: One counter or many, negative ones too; broadcast against `client`.

    Returns:
        One number for each pair; the shape of the two broadcast, at least (1,). A number depends
        on its four names alone, not on what else is drawn in the same call.

    Cost:
        About 20 array operations.

    Source:
        The mixing function is that of SplitMix64, Steele, Lea and Flood, OOPSLA 2014. That client
        and number are mixed each by itself and then together is our choice.
    """
    first, second, _, _ = _keys(seed, purpose)
    return _unit(_hash(first, second, client, number))


def normals(seed: int, purpose: str, client: Integers, number: Integers = 0) -> Numbers:
    """Draw from the standard normal distribution; arguments and shape as of `uniforms`.

    Source:
        Box and Muller 1958: sqrt(-2 log u) cos(2 pi v).
    """
    first, second, third, fourth = _keys(seed, purpose)
    u = _unit(_hash(first, second, client, number))
    v = _unit(_hash(third, fourth, client, number))
    return np.asarray(np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v))


@lru_cache(maxsize=256)
def _keys(seed: int, purpose: str) -> tuple[np.uint64, ...]:
    name = f"counter/{seed}/{purpose}".encode()
    return tuple(np.frombuffer(hashlib.blake2b(name, digest_size=32).digest(), dtype="<u8"))


def _hash(first: np.uint64, second: np.uint64, client: Integers, number: Integers) -> Words:
    return _mixed(_mixed(_words(client) + first) ^ _mixed(_words(number) + second))


def _words(values: Integers) -> Words:
    """Spread integers over all 64 bits; a fresh contiguous array, so that all takes one path."""
    return np.atleast_1d(np.asarray(values, dtype=np.int64)).astype(np.uint64) * _GOLDEN


def _mixed(words: Words) -> Words:
    for shift, factor in _MIX:
        words ^= words >> shift
        words *= factor
    words ^= words >> _LAST
    return words


def _unit(words: Words) -> Numbers:
    return ((words >> _DROPPED).astype(np.float64) + 0.5) * 2.0**-52
