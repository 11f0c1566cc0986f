"""The command, as people type it, each time in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

RUN = [sys.executable, "-m", "orchestrator"]


def call(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    clean = {k: v for k, v in os.environ.items() if k not in {"RAY_ADDRESS", "MLFLOW_TRACKING_URI"}}
    return subprocess.run(
        [*RUN, *words], cwd=cwd, env={**clean, **env}, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip


@pytest.fixture
def file(small: Any, tmp_path: Path) -> Path:
    """The small experiment as a file."""
    from orchestrator.document import to_yaml

    path = tmp_path / "small.yaml"
    path.write_text(to_yaml(small()), encoding="utf-8")
    return path


def test_validate(file: Path, tmp_path: Path) -> None:
    """A valid file is printed resolved, as YAML that is valid again, with its size."""
    done = call("validate", str(file), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "650 parameters, 240 examples" in done.stdout
    (tmp_path / "again.yaml").write_text(done.stdout, encoding="utf-8")
    again = call("validate", str(tmp_path / "again.yaml"), cwd=tmp_path)
    assert again.stdout.splitlines()[1:] == done.stdout.splitlines()[1:]


def test_mistakes_have_lines_and_no_traceback(file: Path, tmp_path: Path) -> None:
    """A file with mistakes names each with its line, the nearest name, and exit status 2."""
    text = file.read_text(encoding="utf-8")
    text = text.replace("concurrency:", "concurency:").replace("lr: 0.1", "lr: -1")
    file.write_text(text, encoding="utf-8")
    for word in ("validate", "run"):
        done = call(word, str(file), cwd=tmp_path)
        assert done.returncode == 2
        assert "Did you mean concurrency?" in done.stderr
        assert "method.training.lr" in done.stderr
        assert "small.yaml:" in done.stderr
        assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["run"], "takes an experiment file"),
        (["run", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "--resume", "nowhere"], "holds no run"),
        (["validate", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "small.yaml", "--set", "seed"], "--set seed"),
        (["run", "small.yaml", "--set", "sed=1"], "Did you mean seed?"),
        (["run", "small.yaml", "--address", "ray://x:1"], "ray job submit"),
        (["run", "small.yaml", "--address", "127.0.0.1:1"], "no Ray can be used at"),
        (["run", "small.yaml", "--in-process", "--address", "auto"], "does without Ray"),
        (["status", "nobody", "--address", "127.0.0.1:1"], "no Ray can be used at"),
    ],
)
def test_what_a_user_did_wrong(words: list[str], text: str, file: Path, tmp_path: Path) -> None:
    """Every mistake gets one clear message and no traceback."""
    assert file.exists()
    done = call(*words, cwd=tmp_path)
    assert done.returncode != 0
    assert text in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout


def test_the_schema_is_json(tmp_path: Path) -> None:
    """The JSON schema is printed for editors."""
    done = call("schema", cwd=tmp_path)
    assert "method" in json.loads(done.stdout)["properties"]


DIGEST = """
import sys
from pathlib import Path
from io import StringIO
from rich.console import Console
from orchestrator.experiment import read
from orchestrator.request import Request
from orchestrator.run import run
experiment, _ = read(Path(sys.argv[1]))
print(run(Request(experiment, Path(sys.argv[2]), in_process=True), Console(file=StringIO())).digest)
"""


def test_hash_seeds_do_not_matter(file: Path, tmp_path: Path, small: Any, ran: Any) -> None:
    """Fresh processes with other PYTHONHASHSEEDs give the same digest as this one."""
    digests = set()
    for seed in ("1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", DIGEST, str(file), str(tmp_path / seed)],
            cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, timeout=100, check=True,
        )  # fmt: skip
        digests.add(done.stdout.strip())
    assert digests == {ran(small()).digest}


def test_in_process_and_on(file: Path, tmp_path: Path, small: Any, ran: Any) -> None:
    """Without Ray the command gives the same digest; the profile is in the report."""
    done = call("run", str(file), "--in-process", "--profile", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["digest"], summary["hosting"]) == (ran(small()).digest, "in-process")
    assert "Where the time went" in (tmp_path / "out" / "report.html").read_text()


def test_a_run_folder_is_not_overwritten(file: Path, tmp_path: Path) -> None:
    """A folder that holds a run is refused, and so is resuming a finished one."""
    out = tmp_path / "out"
    subprocess.run(
        [sys.executable, "-c", DIGEST, str(file), str(out)],
        cwd=tmp_path, capture_output=True, timeout=100, check=True,
    )  # fmt: skip
    done = call("run", str(file), "--out", str(out), cwd=tmp_path)
    assert done.returncode == 2
    assert f"--resume {out}" in done.stderr
    done = call("run", "--resume", str(out), cwd=tmp_path)
    assert done.returncode == 2
    assert "is finished" in done.stderr


@pytest.mark.ray
def test_kpis_as_exit_status(file: Path, tmp_path: Path) -> None:
    """With one of them missed the run ends with 3; all are shown and in the summary."""
    words = ("run", str(file), "--check-kpis", "--workers", "1", "--set", "stop.versions=4")
    wanted = 'kpis={accuracy: ">= 5 %", uplink_bytes: "<= 1 kB"}'
    missed = call(*words, "--set", wanted, "--out", "missed", cwd=tmp_path)
    assert missed.returncode == 3, missed.stderr
    assert "KPI uplink_bytes" in missed.stdout
    assert "KPIs 1/2" in missed.stdout
    summary = json.loads((tmp_path / "missed" / "summary.json").read_text(encoding="utf-8"))
    kpis = summary["kpis"]
    assert {name: kpi["met"] for name, kpi in kpis.items()} == {
        "accuracy": True,
        "uplink_bytes": False,
    }
    assert kpis["uplink_bytes"]["asked"] == "<= 1 kB"
    assert kpis["uplink_bytes"]["value"] == summary["uplink_bytes"]


def mlflow_runs(folder: Path) -> list[Any]:
    """Return the runs in a folder's sqlite store."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [e.experiment_id for e in client.search_experiments()]
    return list(client.search_runs(experiments))


@pytest.mark.ray
def test_ctrl_c_and_resume(small: Any, ran: Any, tmp_path: Path) -> None:
    """Ctrl-C leaves a checkpoint and a KILLED MLflow run; --resume ends both, digest unchanged.

    Its KPI is met, so that the command ends with 0.
    """
    from orchestrator.document import to_yaml

    kpi = 'kpis={accuracy: ">= 5 %"}'
    few = ("hosting=dedicated", "fleet.clients=3", "method.concurrency=3")
    changes = (*few, "stop.versions=400", "tracking.enabled=true", kpi)
    path = tmp_path / "small.yaml"
    path.write_text(to_yaml(small(*changes)), encoding="utf-8")
    out = tmp_path / "out"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    process = subprocess.Popen(
        [*RUN, "run", str(path), "--out", str(out)],
        cwd=tmp_path, env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("version 8/"):
            process.send_signal(signal.SIGINT)
            break
    rest, _ = process.communicate(timeout=100)
    text = "".join(lines) + rest
    assert process.returncode == 130, text
    assert "go on with: latecomer run --resume" in text
    assert "Traceback" not in text
    (killed,) = mlflow_runs(tmp_path)
    assert killed.info.status == "KILLED"
    done = subprocess.run(
        [*RUN, "run", "--resume", str(out), "--check-kpis"],
        cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "KPIs 1/1" in done.stdout
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["digest"] == ran(small(*changes, "tracking.enabled=false")).digest
    (finished,) = mlflow_runs(tmp_path)
    assert finished.info.run_id == killed.info.run_id == summary["mlflow_run_id"]
    assert finished.info.status == "FINISHED"
    assert finished.data.tags["digest"] == summary["digest"]
    assert finished.data.metrics["accuracy"] == pytest.approx(summary["final_accuracy"])
    assert (out / "report.html").exists()
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in done.stdout


@pytest.mark.ray
def test_sigterm_ends_in_time(small: Any, tmp_path: Path) -> None:
    """SIGTERM closes the MLflow run first and leaves a checkpoint, with exit status 143."""
    from orchestrator.document import to_yaml

    changes = ("stop.versions=100000", "hosting=pooled", "tracking.enabled=true")
    path = tmp_path / "small.yaml"
    path.write_text(to_yaml(small(*changes)), encoding="utf-8")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    process = subprocess.Popen(
        [*RUN, "run", str(path), "--out", str(tmp_path / "out"), "--workers", "1"],
        cwd=tmp_path, env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("version 8/"):
            break
    threading.Event().wait(0.2)
    process.terminate()
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 143, text
    assert list((tmp_path / "out" / "checkpoint").glob("0*"))
    (killed,) = mlflow_runs(tmp_path)
    assert killed.info.status == "KILLED"


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_while_it_starts(number: signal.Signals, small: Any, tmp_path: Path) -> None:
    """A run that is told to end before it began says so, with the signal's exit status."""
    from orchestrator.document import to_yaml

    path = tmp_path / "small.yaml"
    path.write_text(to_yaml(small("hosting=dedicated")), encoding="utf-8")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    process = subprocess.Popen(
        [*RUN, "run", str(path), "--out", str(tmp_path / "out")],
        cwd=tmp_path, env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("hosting:"):
            break
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, text
    assert "interrupted before it began" in text
    assert "Traceback" not in text


def test_a_folder_that_hides_a_package_is_named(tmp_path: Path) -> None:
    """A user's own `policies` beside the run does not end in an obscure ImportError."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "__init__.py").touch()
    root = Path(__file__).resolve().parents[2]
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]; "
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f).lower()]; "
        "import orchestrator"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: latecomer's package policies is hidden by {tmp_path}")
    assert "Rename that folder" in last


def test_no_secret_is_kept(small: Any, tmp_path: Path) -> None:
    """What stands in the environment for others is in no file of a run, nor in MLflow's store."""
    from orchestrator.document import to_yaml

    file, out = tmp_path / "small.yaml", tmp_path / "out"
    file.write_text(to_yaml(small("tracking.enabled=true")), encoding="utf-8")
    token = tmp_path / "token"
    token.write_text("secret-of-ray", encoding="ascii")
    secrets = {
        "MLFLOW_TRACKING_PASSWORD": "secret-of-mlflow",
        "AWS_SECRET_ACCESS_KEY": "secret-of-aws",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    done = subprocess.run(
        [*RUN, "run", str(file), "--out", str(out), "--in-process"],
        cwd=tmp_path, env=clean | secrets, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path != token]
    assert {"mlflow.db", "summary.json", "events.parquet", "report.html"} <= {p.name for p in kept}
    for path in kept:
        assert b"secret-of-" not in path.read_bytes(), path
    assert "secret-of-" not in done.stdout + done.stderr
