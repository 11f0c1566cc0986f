"""Is a policy its own configuration, and can a user bring one?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import pytest
from pydantic import PositiveInt, TypeAdapter, ValidationError

from policies.base import Settings, own_function
from policies.staleness import Constant, Polynomial, Staleness, StalenessPolicy
from policies.types import ExperimentError

ADAPTER: TypeAdapter[StalenessPolicy] = TypeAdapter(Staleness)
OWN = """
from policies.aggregation import FedBuff
from policies.staleness import Constant, StalenessPolicy

class Flat(Constant):
    pass

class Halving(StalenessPolicy):
    base: float = 2.0
    def weight(self, staleness):
        return self.base ** -staleness

class Weightless(StalenessPolicy):
    pass

class Buffer(FedBuff):
    pass

def function(x):
    return x + 1

number = 3
"""


@pytest.fixture(autouse=True)
def _own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put `own_lateness` and `own_broken` where they can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in (("own_lateness", OWN), ("own_broken", "1 / 0\n")):
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(text)


def test_own_class() -> None:
    """A class named by its path is made with the fields given, and weighs by its own rule."""
    policy = ADAPTER.validate_python({"kind": "own_lateness:Halving", "base": 4})
    assert policy.weight(2) == 1 / 16
    assert type(policy).__name__ == "Halving"


def test_own_class_is_written_back() -> None:
    """What is written of an own member makes an equal one."""
    policy = ADAPTER.validate_python({"kind": "own_lateness:Halving", "base": 4})
    written = ADAPTER.dump_python(policy, mode="json")
    assert written == {"kind": "own_lateness:Halving", "base": 4.0, "max_staleness": None}
    assert ADAPTER.validate_python(written) == policy


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("own_absent:Halving", "own_absent:Halving cannot be imported: ModuleNotFoundError"),
        ("own_lateness:Absent", "own_lateness:Absent cannot be imported: AttributeError"),
        ("own_lateness:", "cannot be imported: AttributeError"),
        ("own_broken:Halving", "own_broken:Halving cannot be imported: ZeroDivisionError"),
        ("own_lateness:number", "own_lateness:number must be a class derived from"),
        (
            "own_lateness:Buffer",
            r"own_lateness:Buffer must be a class derived from policies.staleness.StalenessPolicy",
        ),
        ("own_lateness:function", r"must be a class derived from policies.staleness.Stalen"),
        (
            "own_lateness:Weightless",
            "Weightless must define weight, as policies.staleness.StalenessPolicy asks",
        ),
        (
            "own_lateness:Flat",
            "own_lateness:Flat must declare `kind: str`, because it inherits constant",
        ),
        ("hing", "'hing' found using 'kind' does not match any of the expected tags"),
        (3, "does not match any of the expected tags"),
    ],
)
def test_no_such_member(kind: object, complaint: str) -> None:
    """What cannot be a member is refused with its path and what is wrong with it."""
    with pytest.raises(ValidationError, match=complaint):
        ADAPTER.validate_python({"kind": kind})


@pytest.mark.parametrize("value", [None, 3, "constant", ["constant"], {}])
def test_no_policy_at_all(value: object) -> None:
    """Something that is no mapping with a kind is a validation error, no crash."""
    with pytest.raises(ValidationError, match="1 validation error"):
        ADAPTER.validate_python(value)


def test_way_out_of_a_failed_import() -> None:
    """The message says where own modules are looked for."""
    with pytest.raises(ExperimentError, match="The experiment file's folder is importable"):
        own_function("own_absent:f")


def test_not_a_function() -> None:
    """Something that cannot be called is told by its type."""
    with pytest.raises(ExperimentError, match="own_lateness:number must be a function, got int"):
        own_function("own_lateness:number")


def test_own_function() -> None:
    """A function is found by its path."""
    assert own_function("own_lateness:function")(2) == 3


def test_frozen() -> None:
    """A policy cannot be changed."""
    policy = Polynomial()
    with pytest.raises(ValidationError, match="Instance is frozen"):
        policy.exponent = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["polynomial", "own_lateness:Halving"])
def test_unknown_names_are_mistakes(kind: str) -> None:
    """A setting that the member does not have is refused, whoever wrote the member."""
    with pytest.raises(ValidationError, match=r"exponant\n +Extra inputs are not permitted"):
        ADAPTER.validate_python({"kind": kind, "exponant": 1})


def test_defaults_are_checked() -> None:
    """A default that breaks its own rule is found when the policy is made."""

    class Wrong(Settings):
        size: PositiveInt = 0

    with pytest.raises(ValidationError, match="greater than 0"):
        Wrong()


def test_a_made_policy_is_taken_as_it_is() -> None:
    """An instance of the family passes unchanged, also one that is in no union."""

    class Mine(StalenessPolicy):
        kind: Literal["mine"] = "mine"

        def weight(self, staleness: int) -> float:
            return 1.0 / (1 + staleness)

    for policy in (Constant(), Mine()):
        assert ADAPTER.validate_python(policy) is policy
