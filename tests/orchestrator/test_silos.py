"""Do a silo's examples stay where they are?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.api import run
from policies.types import ExperimentError

SILOS = """
import numpy as np

CALLED = []


def examples(name):
    CALLED.append(name)
    rng = np.random.default_rng(len(name))
    n = {"north": 60, "south": 40, "east": 20}[name]
    y = np.arange(n) % 2
    x = rng.normal(size=(n, 5)).astype("float32") + 2 * y[:, None].astype("float32")
    cut = n * 3 // 4
    return {"x_train": x[:cut], "y_train": y[:cut], "x_test": x[cut:], "y_test": y[cut:]}


def narrow(name):
    found = examples(name)
    if name == "east":
        found["x_train"] = found["x_train"][:, :4]
        found["x_test"] = found["x_test"][:, :4]
    return found


def empty(name):
    found = examples(name)
    if name == "south":
        found["x_train"], found["y_train"] = found["x_train"][:0], found["y_train"][:0]
    return found


def nothing(name):
    return [name]
"""


@pytest.fixture(autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module `silos_of_mine` where it can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "silos_of_mine", raising=False)
    (tmp_path / "silos_of_mine.py").write_text(SILOS, encoding="utf-8")


def settings(call: str = "examples", **more: Any) -> dict[str, Any]:
    """Return an experiment of three silos."""
    data = {
        "source": "silos",
        "call": f"silos_of_mine:{call}",
        "clients": ["north", "south", "east"],
        "input": [5],
        "classes": 2,
    }
    return {
        "name": "silos",
        "data": data,
        "model": {"kind": "logistic"},
        "fleet": {"clients": 3, "mix": [{"profile": "workstation"}]},
        "method": {
            "concurrency": 3,
            "training": {"kind": "sgd", "lr": 0.3, "batch_size": 10},
            "aggregation": {"kind": "fedbuff", "size": 2},
        },
        "stop": {"versions": 10},
        "evaluate": {"kind": "federated", "every_versions": 5},
        "tracking": {"enabled": False},
        **more,
    }


def test_a_run_of_silos(tmp_path: Path) -> None:
    """Each is called once by its name; counts and scores are all that a run's files know."""
    found = run(settings(), out=tmp_path / "run", in_process=True)
    called = sys.modules["silos_of_mine"].CALLED
    assert sorted(called) == ["east", "north", "south"]
    clients = found.clients
    assert list(clients["name"]) == ["north", "south", "east"]
    assert list(clients["examples"]) == [45, 30, 15]
    joined = found.ops[found.ops["kind"] == "joined"]
    assert list(joined["detail"]) == [
        "north: 45 and 15 examples", "south: 30 and 10 examples", "east: 15 and 5 examples",
    ]  # fmt: skip
    assert found.summary.final_accuracy > 0.9
    assert clients["accuracy"].notna().all()


def test_the_evaluation_is_the_clients_own(tmp_path: Path) -> None:
    """A version's accuracy is that of all silos' test examples, each counted once."""
    found = run(settings(), out=tmp_path / "run", in_process=True)
    events = found.events
    tested = events[events["kind"] == "tested"]
    assert set(tested["version"]) == {0, 5, 10}
    for version, rows in tested.groupby("version"):
        assert list(rows["examples"]) == [15, 10, 5]
        mean = np.average(rows["accuracy"], weights=rows["examples"])
        assert found.evaluations["accuracy"][int(version)] == pytest.approx(mean)
    assert (tested["downlink_bytes"] > 0).all()
    arrivals = events[events["kind"] == "arrived"]
    spent = arrivals["device_s"].sum() + tested["device_s"].sum()
    assert found.summary.device_seconds == pytest.approx(spent)


def test_a_test_costs_the_version_that_is_tested(tmp_path: Path) -> None:
    """A sparse version is sent to testers in as few bytes as it takes, which fall as it thins."""
    method = {
        "concurrency": 3,
        "training": {"kind": "sparsyfed", "lr": 0.3, "batch_size": 10},
        "uplink": {"kind": "sparse-weights", "density": 0.2},
        "downlink": {"kind": "sparse"},
        "aggregation": {"kind": "fedbuff", "form": "weights", "size": 2},
    }
    model = {"kind": "mlp", "hidden": [64]}
    found = run(settings(method=method, model=model), out=tmp_path / "run", in_process=True)
    tested = found.events[found.events["kind"] == "tested"]
    sent = tested.groupby("version")["downlink_bytes"].agg(["min", "max"])
    assert (sent["min"] == sent["max"]).all()
    assert sent["max"][10] < 0.9 * sent["max"][0]


def test_the_same_digest_again(tmp_path: Path) -> None:
    """Silos and their tests repeat bit for bit."""
    runs = [run(settings(), out=tmp_path / name, in_process=True) for name in ("a", "b")]
    assert len({found.summary.digest for found in runs}) == 1


def test_silos_correct_their_own_updates(tmp_path: Path) -> None:
    """Their examples are there, and no hold-out is asked for."""
    own = settings()
    own["method"] |= {"correction": {"kind": "distillation", "proxy": "client", "ramp": 0}}
    found = run(own, out=tmp_path / "run", in_process=True)
    kinds = found.events["kind"].value_counts()
    assert kinds["fetched"] > 0
    assert kinds["corrected"] % 5 == 0
    fetched = found.events[found.events["kind"] == "fetched"]
    sent = found.events[found.events["kind"].isin(["dispatched", "fetched", "tested"])]
    assert fetched["downlink_bytes"].min() > 0
    assert found.summary.downlink_bytes == sent["downlink_bytes"].sum()
    assert found.clients["downlink_bytes"].sum() == found.summary.downlink_bytes
    assert found.evaluations["downlink_bytes"].max() <= found.summary.downlink_bytes


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("narrow", r"returned input \(4,\), and data\.input says \(5,\)"),
        ("empty", r"silos_of_mine:empty\('south'\).*one or more|x_train"),
        ("nothing", r"must return a mapping with x_train.*got list"),
    ],
)
def test_silos_that_do_not_fit(call: str, words: str, tmp_path: Path) -> None:
    """A silo that is not what the file says is one clear error that names it."""
    with pytest.raises(ExperimentError, match=words):
        run(settings(call), out=tmp_path / "run", in_process=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"evaluate": {"kind": "central"}}, r"silos keep their test examples"),
        ({"hosting": "pooled"}, r"hosting.*dedicated"),
        ({"fleet": {"clients": 2, "mix": [{"profile": "workstation"}]}}, r"fleet\.clients"),
    ],
)
def test_what_silos_do_not_go_with(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    """The file is refused, with the way out, before anything is loaded."""
    with pytest.raises(ExperimentError, match=words):
        run(settings(**change), out=tmp_path / "run", in_process=True)


def test_federated_evaluation_needs_examples_of_the_clients_own(tmp_path: Path) -> None:
    """A partition that leaves the test split whole refuses it, and says what to take."""
    change = {"data": {"source": "digits"}, "model": {"kind": "logistic"}}
    with pytest.raises(ExperimentError, match=r"evaluate.*test examples of their own.*natural"):
        run(settings(**change), out=tmp_path / "run", in_process=True)
