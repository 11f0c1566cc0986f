"""Are counter-based numbers random, independent, and the same in whatever order they are drawn?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.counter import normals, uniforms

CLIENTS = np.arange(400)
NUMBERS = np.arange(500)


def square(draw: Any, purpose: str = "test", seed: int = 1) -> npt.NDArray[np.float64]:
    """Return a number for each of 400 clients and 500 counters."""
    return np.asarray(draw(seed, purpose, CLIENTS[:, None], NUMBERS[None, :]))


def test_golden_values() -> None:
    """The numbers of a name are the same for ever and on every machine."""
    assert [int(u * 2**52) for u in uniforms(7, "golden", np.arange(3), -1)] == [
        4490633813915676,
        3790508072739935,
        1800917200186,
    ]
    assert normals(7, "golden", 5, 6)[0] == pytest.approx(0.6373387082684882, rel=1e-12)


def test_uniform() -> None:
    """200,000 numbers fill 100 bins evenly: chi squared with 99 degrees of freedom."""
    u = square(uniforms)
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    counts = np.bincount((u.ravel() * 100).astype(int), minlength=100)
    chi = float(np.sum((counts - 2000.0) ** 2) / 2000)
    assert abs(chi - 99) < 5 * math.sqrt(2 * 99)


def test_low_bits_are_uniform_too() -> None:
    """What is left below the first 20 bits is as even as the whole."""
    u = square(uniforms) * 2**20 % 1
    counts = np.bincount((u.ravel() * 100).astype(int), minlength=100)
    chi = float(np.sum((counts - 2000.0) ** 2) / 2000)
    assert abs(chi - 99) < 5 * math.sqrt(2 * 99)


def test_normal() -> None:
    """Moments are those of the standard normal distribution."""
    z = square(normals).ravel()
    n = len(z)
    assert z.mean() == pytest.approx(0, abs=5 / math.sqrt(n))
    assert z.var() == pytest.approx(1, abs=5 * math.sqrt(2 / n))
    assert (z**4).mean() == pytest.approx(3, abs=5 * math.sqrt(96 / n))
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.05, abs=5 * math.sqrt(0.0475 / n))


@pytest.mark.parametrize("draw", [uniforms, normals])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("next client", lambda x, _: (x[:-1], x[1:])),
        ("next number", lambda x, _: (x[:, :-1], x[:, 1:])),
        ("client and number swapped", lambda x, _: (x[:, :400], x[:, :400].T)),
        ("other purpose", lambda x, draw: (x, square(draw, "other"))),
        ("other seed", lambda x, draw: (x, square(draw, seed=2))),
    ],
)
def test_independent(one: str, other: Any, draw: Any) -> None:
    """Numbers of neighbouring names are not correlated."""
    del one
    a, b = other(square(draw), draw)
    mask = np.ones(a.shape, dtype=bool)
    if a.shape[0] == a.shape[1]:
        mask = ~np.eye(len(a), dtype=bool)  # a number goes with itself there
    found = float(np.corrcoef(a[mask], b[mask])[0, 1])
    assert abs(found) < 6 / math.sqrt(mask.sum())


@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(-(2**62), 2**62)), min_size=1, max_size=9)
)
def test_a_number_does_not_depend_on_its_company(names: list[tuple[int, int]]) -> None:
    """Drawn alone, together or the other way round, a name has the same bits."""
    clients, numbers = np.array(names).T
    for draw in (uniforms, normals):
        together = draw(3, "test", clients, numbers).tolist()
        assert together == [float(draw(3, "test", c, n)[0]) for c, n in names]
        assert together[::-1] == draw(3, "test", clients[::-1], numbers[::-1]).tolist()


def test_company_of_any_size() -> None:
    """The last elements of long arrays have the bits that they have alone."""
    for size in (1, 2, 3, 7, 8, 9, 31, 1000):
        clients = np.arange(size)
        for draw in (uniforms, normals):
            long = draw(3, "test", clients, 4)
            assert float(long[-1]) == float(draw(3, "test", size - 1, 4)[0])


def test_shapes() -> None:
    """Arguments broadcast, and a single number is an array of one."""
    assert uniforms(0, "test", 1).shape == (1,)
    assert uniforms(0, "test", CLIENTS, 3).shape == (400,)
    assert square(normals).shape == (400, 500)
