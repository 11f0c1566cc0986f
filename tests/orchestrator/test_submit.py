"""Does `ray submit CLUSTER.yaml orchestrator/submit.py -- run ...` reach the command?

The launcher's own code runs: `ray up` copies, sets up and starts, `ray submit` submits. Scripts
replace ssh and rsync, with another home folder of this machine for the head; on that head others
replace pip and Ray, and take down what they are asked for: no Ray of this machine is stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "orchestrator" / "submit.py"
EXPERIMENT = """
name: submitted
data: {source: digits, train_examples: 240}
model: {kind: logistic}
fleet: {clients: 4, mix: [{profile: budget-phone}]}
method: {aggregation: {kind: fedbuff, size: 2}}
stop: {versions: 2}
tracking: {enabled: false}
"""
SSH = """#!/bin/bash
while [[ "$1" != *@* ]]; do shift; done
shift
cd "$HEAD_HOME" && HOME="$HEAD_HOME" PATH=/usr/bin:/bin exec bash -c "$*"
"""
RSYNC = """#!/bin/bash
from="${@: -2:1}" to="${@: -1}"
to="${to#*:}"
exec cp -R "${from%/}${from:+$([[ "$from" == */ ]] && echo /.)}" "${to/#\\~/$HEAD_HOME}"
"""


def run(words: list[str], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=cwd, env={**os.environ, **env},
        capture_output=True, text=True, timeout=240, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """Return a folder that holds the script alone, beside packages of the same names as ours."""
    folder = tmp_path / "alone"
    folder.mkdir()
    shutil.copy(SCRIPT, folder)
    for package in ("orchestrator", "policies", "actors", "json"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("raise RuntimeError('another one')\n")
    (folder / "first.yaml").write_text(EXPERIMENT)
    return folder


def test_the_script_runs_alone(alone: Path) -> None:
    """Copied into another folder it runs an experiment, and takes no package from there."""
    words = [sys.executable, "submit.py", "run", "first.yaml", "--in-process", "--out", "out"]
    done = run(words, alone, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((alone / "out" / "summary.json").read_text())["versions"] == 2


def test_the_script_goes_on_in_the_environment(alone: Path, tmp_path: Path) -> None:
    """A Python without latecomer hands over to ~/.latecomer/env, with the same arguments."""
    python = tmp_path / ".latecomer" / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho here "$@"\n')
    python.chmod(0o755)
    words = [sys.executable, "-I", "-S", "submit.py", "run", "a b.yaml"]
    done = run(words, alone, HOME=str(tmp_path))
    assert done.stdout == f"here {alone / 'submit.py'} run a b.yaml\n", done.stderr


def test_a_machine_without_latecomer_is_told(alone: Path, tmp_path: Path) -> None:
    """Without the environment the script says what is missing, and ends with 1."""
    done = run(
        [sys.executable, "-I", "-S", "submit.py", "run", "first.yaml"], alone, HOME=str(tmp_path)
    )
    assert done.returncode == 1
    assert "has no latecomer" in done.stderr
    assert "cluster_configs/setup.sh" in done.stderr


@dataclass
class Launched:
    """A launcher file whose head is a folder.

    Attributes:
        home: The head's home folder.
        file: The launcher file.
        env: What Ray's launcher gets to see.
    """

    home: Path
    file: Path
    env: dict[str, str]

    def ray(self, command: str, *words: str) -> str:
        """Call Ray's launcher; return what it and the head have said."""
        launcher = str(Path(sys.executable).with_name("ray"))
        done = run([launcher, command, str(self.file), *words], ROOT, **self.env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def launched(tmp_path: Path) -> Launched:
    """Return local.yaml with a head that has an environment, but no latecomer."""
    yaml = YAML(typ="safe", pure=True)
    config = yaml.load((ROOT / "cluster_configs" / "local.yaml").read_text())
    config["auth"] = {"ssh_user": "somebody"}
    config["cluster_name"] = "latecomer-test"
    token = tmp_path / "auth_token"
    token.write_text("0")
    config["file_mounts"]["~/.ray/auth_token"] = str(token)
    file = tmp_path / "local.yaml"
    with file.open("w") as stream:
        yaml.dump(config, stream)

    home, binaries, temporary = (tmp_path / name for name in ("home", "bin", "tmp"))
    for folder in (home, binaries, temporary):
        folder.mkdir(parents=True)
    for name, text in (("ssh", SSH), ("rsync", RSYNC)):
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)

    environment = home / ".latecomer" / "env" / "bin"
    environment.mkdir(parents=True)
    commands = {
        "python": 'if test "$1 $2" = "-m pip"; then echo "$@" >> ~/pip.log; exit; fi\n'
        f'export PYTHONPATH="{home}/latecomer"\nexec {sys.executable} "$@"\n',
        "ray": 'echo "$RAY_AUTH_MODE: $@" >> ~/ray.log\n',
    }
    for name, text in commands.items():
        (environment / name).write_text(f"#!/bin/sh\n{text}")
        (environment / name).chmod(0o755)
    env = {
        "HEAD_HOME": str(home),
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "RAY_TMPDIR": str(temporary),
        "TMPDIR": str(temporary),
        "LATECOMER_PYTHON": sys.executable,
    }
    return Launched(home, file, env)


@pytest.mark.ray
def test_ray_up_and_submit(launched: Launched) -> None:
    """What `ray up` copies is installed on the head, and runs there when it is submitted."""
    launched.ray("up", "--yes")
    project = launched.home / "latecomer"
    assert (project / "experiments" / "quickstart.yaml").exists()
    pip = (launched.home / "pip.log").read_text()
    assert pip.endswith(f" -c {project}/constraints.txt {project}\n")
    stop, start = (launched.home / "ray.log").read_text().splitlines()
    assert stop.endswith(": stop")
    assert start.startswith("token: start --head ")

    (launched.home / "first.yaml").write_text(EXPERIMENT)
    said = launched.ray(
        "submit", str(SCRIPT), "--", "run", "first.yaml", "--in-process", "--out", "runs/first"
    )
    assert (launched.home / "submit.py").read_text() == SCRIPT.read_text()
    summary = json.loads((launched.home / "runs" / "first" / "summary.json").read_text())
    assert summary["versions"] == 2, said
