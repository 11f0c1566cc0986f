"""Is a silo that cannot be taken in named, with what is wrong and the way out?"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from actors.learning.data import DataSet
from actors.learning.sources.silos import Silos
from policies.types import ExperimentError

MODULE = """
import numpy as np
from policies.types import ExperimentError


def good(name):
    x = np.arange(12, dtype="float32").reshape(4, 3)
    return {"x_train": x, "y_train": [0, 1, 0, 1], "x_test": x[:2], "y_test": [0, 1]}


def bad(name):
    found = good(name)
    if name == "north":
        return found
    match name:
        case "lost": open("/nowhere/lost.csv")
        case "own": raise ExperimentError("The lock of own is closed. Open it.")
        case "wide": found["x_test"] = found["x_test"][:, :2]
        case "labels": found["y_train"] = [0, 1, 2, 3]
        case "text": found["y_train"] = ["a", "b", "c", "d"]
        case "no-tests": found.update(x_test=found["x_test"][:0], y_test=np.zeros(0, int))
        case "empty": found.update(x_train=found["x_train"][:0], y_train=np.zeros(0, int))
        case "less": del found["y_test"]
        case "gray": found.update(x_train=found["x_train"][:, :1], x_test=found["x_test"][:, :1])
    return found


def nobody():
    return {}
"""


@pytest.fixture(autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module `own_silos` where it can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_silos", raising=False)
    (tmp_path / "own_silos.py").write_text(MODULE, encoding="utf-8")


def silos(name: str, call: str = "own_silos:bad") -> Silos:
    return Silos(call=call, clients=("north", name), input=(3,), classes=2)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "lost",
            r"own_silos:bad\('lost'\) raised FileNotFoundError: .* \(own_silos\.py, line 16\)\.",
        ),
        ("own", r"The lock of own is closed\. Open it\."),
        ("wide", r"own_silos:bad\('wide'\): x_train and x_test must hold inputs of one shape"),
        ("labels", r"own_silos:bad\('labels'\): y_train must lie in \[0, 2\), got 0 to 3\. Number"),
        ("text", r"own_silos:bad\('text'\): y_train must be integers, got .*Number the classes"),
        ("no-tests", r"own_silos:bad\('no-tests'\): x_test must hold one or more examples"),
        ("empty", r"own_silos:bad\('empty'\): x_train must hold one or more examples, got none"),
        ("less", r"own_silos:bad\('less'\) must return a DataSet or a mapping with .*y_test"),
        ("gray", r"own_silos:bad\('gray'\) returned input \(1,\), and data\.input says \(3,\)"),
    ],
)
def test_a_silo_that_cannot_be_taken_in_is_named(name: str, words: str) -> None:
    """First of all by its name; the others are taken in as they are."""
    settings = silos(name)
    assert isinstance(settings.load_for("north"), DataSet)
    with pytest.raises(ExperimentError, match=f"^silo {name}: {words}"):
        settings.load_for(name)


def test_a_function_that_takes_no_name_is_one_clear_error() -> None:
    """It is said where the function begins."""
    with pytest.raises(ExperimentError, match=r"silo a: .*TypeError.*\(own_silos\.py, line 28\)"):
        silos("a", "own_silos:nobody").load_for("a")


def test_silos_blame_the_setting_that_names_the_function() -> None:
    """What cannot be imported on this machine is said before anything starts."""
    assert silos("a").trouble() is None
    gone = silos("a").model_copy(update={"call": "own_silos:gone"}).trouble()
    assert gone is not None
    assert gone[0] == "data.call"
    assert "own_silos:gone cannot be imported" in gone[1]
