"""Does a late update weigh what the sources say?"""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from policies.staleness import Constant, Hinge, Polynomial, Staleness, StalenessPolicy

ADAPTER: TypeAdapter[StalenessPolicy] = TypeAdapter(Staleness)
MEMBERS = get_args(get_args(Staleness)[0])
SAMPLES: dict[type[StalenessPolicy], list[StalenessPolicy]] = {
    Constant: [Constant()],
    Polynomial: [Polynomial(), Polynomial(exponent=0), Polynomial(exponent=2.5)],
    Hinge: [Hinge(), Hinge(slope=0.1, tolerance=0)],
}
EVERY_SAMPLE = [sample for samples in SAMPLES.values() for sample in samples]


def test_every_member_has_a_sample() -> None:
    """A new member of the family cannot escape the contract below."""
    assert set(MEMBERS) == set(SAMPLES)


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_contract(policy: StalenessPolicy, one: int, other: int) -> None:
    """s(0) is exactly 1, s never rises, and it stays above 0."""
    fresh, late = sorted((one, other))
    assert policy.weight(0) == 1.0
    assert 0 < policy.weight(late) <= policy.weight(fresh) <= 1


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_written_back(policy: StalenessPolicy) -> None:
    """What is written of a member makes an equal one; unless told, it takes any staleness."""
    assert ADAPTER.validate_json(ADAPTER.dump_json(policy)) == policy
    assert policy.accepts(10**9)


@pytest.mark.parametrize("staleness", [0, 1, 17])
def test_constant(staleness: int) -> None:
    """The baseline weighs everything 1."""
    assert Constant().weight(staleness) == 1.0


@pytest.mark.parametrize(
    ("exponent", "staleness", "weight"),
    [(0.5, 3, 0.5), (0.5, 8, 1 / 3), (1.0, 1, 0.5), (2.0, 4, 1 / 25), (0.0, 7, 1.0)],
)
def test_polynomial(exponent: float, staleness: int, weight: float) -> None:
    """(1 + d) ** -p: with p = 1/2, d = 3 gives 4 ** -1/2 = 1/2."""
    assert Polynomial(exponent=exponent).weight(staleness) == pytest.approx(weight, rel=1e-15)


@pytest.mark.parametrize(
    ("staleness", "weight"), [(0, 1), (3, 1), (4, 1), (5, 1 / 11), (6, 1 / 21), (14, 1 / 101)]
)
def test_hinge(staleness: int, weight: float) -> None:
    """With slope 10 and tolerance 4: 1 up to 4, then 1 / (10 (d - 4) + 1); 5 gives 1/11."""
    assert Hinge(slope=10, tolerance=4).weight(staleness) == pytest.approx(weight, rel=1e-15)


@given(st.floats(0.01, 100), st.integers(0, 50))
def test_hinge_is_continuous(slope: float, tolerance: int) -> None:
    """Just beyond the tolerance a flat slope still weighs nearly 1: the +1 stands in it."""
    weight = Hinge(slope=slope, tolerance=tolerance).weight(tolerance + 1)
    assert weight * (slope + 1) == pytest.approx(1)


@pytest.mark.parametrize("member", MEMBERS)
def test_max_staleness(member: type[StalenessPolicy]) -> None:
    """The limit itself still counts, one more does not; a limit of 0 takes only fresh ones."""
    limited = member(max_staleness=3)  # type: ignore[call-arg]
    assert [limited.accepts(d) for d in (0, 3, 4)] == [True, True, False]
    fresh = member(max_staleness=0)  # type: ignore[call-arg]
    assert [fresh.accepts(d) for d in (0, 1)] == [True, False]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"kind": "polynomial", "exponent": -0.5}, "greater than or equal to 0"),
        ({"kind": "hinge", "slope": 0}, "greater than 0"),
        ({"kind": "hinge", "tolerance": -1}, "greater than or equal to 0"),
        ({"kind": "constant", "max_staleness": -1}, "greater than or equal to 0"),
    ],
)
def test_refused(settings: dict[str, object], complaint: str) -> None:
    """Settings under which lateness would raise a weight are mistakes."""
    with pytest.raises(ValidationError, match=complaint):
        ADAPTER.validate_python(settings)
