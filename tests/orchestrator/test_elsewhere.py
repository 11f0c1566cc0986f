"""Does a run that is kept in an object store outlive its machine, wherever it was cut?"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from rich.console import Console

from orchestrator import request as requests
from orchestrator.document import to_yaml
from orchestrator.elsewhere import Elsewhere
from orchestrator.engine import Interrupted
from orchestrator.run import Killed, _Run, run
from policies.types import ExperimentError, RunError

URL = "memory://bucket/runs/far"
Go = Callable[..., tuple[Any, str]]


@pytest.fixture(autouse=True)
def store() -> Iterator[dict[str, Any]]:
    """An empty object store in memory: paths and what they hold."""
    MemoryFileSystem.store.clear()
    yield MemoryFileSystem.store
    MemoryFileSystem.store.clear()


@pytest.fixture(autouse=True)
def _scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs work in folders that go with the test."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))


@pytest.fixture
def go(small: Any, saving: str, tmp_path: Path) -> Go:
    """Return what runs the small experiment into a URL, or goes on with it."""
    file = tmp_path / "small.yaml"
    file.write_text(to_yaml(small(saving, "stop.versions=12")), encoding="utf-8")

    def act(url: str, *, resume: bool = False) -> tuple[Any, str]:
        text = io.StringIO()
        request = requests.again(url) if resume else requests.new(file, (), url)[0]
        object.__setattr__(request, "in_process", True)
        return run(request, Console(file=text, width=500)), text.getvalue()

    return act


def cut_at(version: int, monkeypatch: pytest.MonkeyPatch, act: Callable[[Any], None]) -> list[int]:
    """Have something happen once, between two events at a version."""
    real, happened = _Run._between_events, list[int]()

    def between(self: Any, engine: Any) -> None:
        real(self, engine)
        if engine.state.head.number >= version and not happened:
            happened.append(version)
            act(self)

    monkeypatch.setattr(_Run, "_between_events", between)
    return happened


def interrupt(_: Any) -> None:
    raise Interrupted


def names(store: dict[str, Any]) -> set[str]:
    """Return what lies in the run's folder there."""
    return {path.partition("/far/")[2] for path in store}


def named(store: dict[str, Any]) -> dict[str, str]:
    """Return what the only list names."""
    (path,) = [path for path in store if "/going-" in path]
    files: dict[str, str] = json.loads(store[path].getvalue())["files"]
    return files


def test_a_finished_run_is_there_under_its_own_names(
    go: Go, small: Any, ran: Any, store: dict[str, Any]
) -> None:
    """All files of the README's table, and nothing of what was kept under way."""
    summary, _ = go(URL)
    assert summary.digest == ran(small("stop.versions=12")).digest
    found = names(store)
    assert {
        "summary.json", "report.html", "events.parquet", "ops.parquet", "experiment.yaml",
        "model/final.safetensors",
    } <= found  # fmt: skip
    assert not {name for name in found if name.startswith("going")}
    kept = json.loads(store["/bucket/runs/far/summary.json"].getvalue())
    assert kept["digest"] == summary.digest
    with pytest.raises(ExperimentError, match="holds a finished run"):
        go(URL)
    with pytest.raises(ExperimentError, match="is finished"):
        go(URL, resume=True)


def test_a_run_goes_on_where_its_machine_is_gone(
    go: Go, small: Any, ran: Any, store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From what is kept alone: the digest of an uncut run."""
    here: list[Path] = []

    def lose(self: Any) -> None:
        here.append(self._request.out)
        raise Interrupted

    fired = cut_at(8, monkeypatch, lose)
    with pytest.raises(Killed):
        go(URL)
    assert fired
    shutil.rmtree(here[0].parent)
    with pytest.raises(ExperimentError, match=f"Go on with it by --resume {URL}"):
        go(URL)
    summary, text = go(URL, resume=True)
    assert "resumed from version" in text
    assert summary.digest == ran(small("stop.versions=12")).digest
    assert "summary.json" in names(store)


def test_each_file_is_sent_once_and_dropped_with_its_checkpoint(
    go: Go, store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept is what the list names, two checkpoints of it."""
    cut_at(8, monkeypatch, interrupt)
    with pytest.raises(Killed):
        go(URL)
    listed = named(store)
    objects = {name.removeprefix("going/") for name in names(store) if name.startswith("going/")}
    assert objects == set(listed.values())
    checkpoints = {name.split("/")[1] for name in listed if name.startswith("checkpoint/")}
    assert len(checkpoints) == 2
    folder = Elsewhere(URL).scratch()
    again = Elsewhere(URL)
    again.fetch(folder)
    assert again.keep(folder) == 0, "nothing is new"


@pytest.mark.parametrize("after", range(0, 12, 2))
def test_a_copy_that_is_cut_leaves_the_one_before(
    after: int, go: Go, small: Any, ran: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after any number of files: the run goes on from the checkpoint before."""
    real, left = MemoryFileSystem.put_file, [10**9]

    def put_file(self: Any, *args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)

    def soon(_: Any) -> None:
        left[0] = after

    fired = cut_at(6, monkeypatch, soon)
    with pytest.raises(KeyboardInterrupt):
        go(URL)
    assert fired
    left[0] = 10**9
    summary, text = go(URL, resume=True)
    assert "resumed from version" in text
    assert summary.digest == ran(small("stop.versions=12")).digest


def test_a_list_that_is_cut_is_passed_over(
    go: Go, small: Any, ran: Any, store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a store shows half a file, the list before it counts, and a later one is another."""
    cut_at(8, monkeypatch, interrupt)
    with pytest.raises(Killed):
        go(URL)
    (path,) = [path for path in store if "/going-" in path]
    number = int(path[-11:-5])
    half = store[path].getvalue()[: len(store[path].getvalue()) // 2]
    MemoryFileSystem().pipe_file(f"{path[:-11]}{number + 1:06}.json", half)
    far = Elsewhere(URL)
    back = far.scratch()
    far.fetch(back)
    far.keep(back)
    (newest,) = [path for path in store if "/going-" in path]
    assert int(newest[-11:-5]) == number + 2
    summary, _ = go(URL, resume=True)
    assert summary.digest == ran(small("stop.versions=12")).digest


def test_nothing_is_written_over(
    go: Go, small: Any, ran: Any, store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some stores refuse to move or to write where there is something, also after a cut copy."""
    cuts = []
    for name, at in {"pipe_file": 0, "put_file": 1, "mv": 1}.items():
        real = getattr(MemoryFileSystem, name)

        def careful(self: Any, *args: Any, real: Any = real, at: int = at, **more: Any) -> Any:
            target = args[at]
            assert not self.exists(target), f"{target} is there"
            found = real(self, *args, **more)
            if cuts and cuts[-1](target):
                cuts.pop()
                raise KeyboardInterrupt
            return found

        monkeypatch.setattr(MemoryFileSystem, name, careful)

    checkpoints = iter(range(100))
    cuts.append(lambda target: target.endswith("/summary.json.partial"))
    cuts.append(lambda target: target.endswith("/report.html"))
    cuts.append(lambda target: "/going/" in target and next(checkpoints) == 40)
    with pytest.raises(KeyboardInterrupt):
        go(URL)
    for left in (1, 0):
        with pytest.raises(KeyboardInterrupt):
            go(URL, resume=True)
        assert len(cuts) == left
    summary, _ = go(URL, resume=True)
    assert summary.digest == ran(small("stop.versions=12")).digest
    assert not {name for name in names(store) if "partial" in name or "going" in name}


def test_what_is_refused_leaves_no_folder(
    go: Go, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither a new run where one is, nor a finished one that is to go on, nor one that is not."""
    go(URL)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = list(tmp_path.iterdir())
    for url, resume in ((URL, False), (URL, True), ("memory://bucket/nothing", True)):
        with pytest.raises(ExperimentError):
            go(url, resume=resume)
    assert list(tmp_path.iterdir()) == before


def test_a_file_that_changes_meanwhile(
    tmp_path: Path, store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What MLflow's thread writes while a run is copied is kept as it was at some moment."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("a.json", "mlflow.json", "mlflow-undelivered.json"):
        (folder / name).write_text("before", encoding="utf-8")
    real = MemoryFileSystem.pipe_file

    def pipe_file(self: Any, path: str, value: bytes, **more: Any) -> Any:
        (folder / "mlflow.json").write_text("after, and longer", encoding="utf-8")
        (folder / "mlflow-undelivered.json").unlink(missing_ok=True)
        return real(self, path, value, **more)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe_file)
    Elsewhere(URL).keep(folder)
    Elsewhere(URL).fetch(tmp_path / "back")
    assert (tmp_path / "back" / "a.json").read_text(encoding="utf-8") == "before"
    assert (tmp_path / "back" / "mlflow.json").read_text(encoding="utf-8").startswith("after")
    assert not (tmp_path / "back" / "mlflow-undelivered.json").exists()
    assert store


def test_a_location_out_of_reach_stops_nothing(
    go: Go, small: Any, ran: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, noted, and tried again; the copies that came in between are whole."""
    real, away = Elsewhere.keep, []

    def keep(self: Any, folder: Path) -> int:
        if len(away) < 3:
            away.append(True)
            raise OSError("no route to the bucket")
        return real(self, folder)

    monkeypatch.setattr(Elsewhere, "keep", keep)
    summary, text = go(URL)
    assert text.count("no route to the bucket. The run goes on") == 3
    assert summary.digest == ran(small("stop.versions=12")).digest


def test_results_that_cannot_be_delivered_stay_here(
    go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the folder that has them."""

    def deliver(*_: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(Elsewhere, "deliver", deliver)
    with pytest.raises(RunError, match=r"is finished, but .* no route\. All of it is in ") as told:
        go(URL)
    folder = Path(str(told.value).partition("All of it is in ")[2].partition(":")[0])
    assert (folder / "summary.json").exists()
    kinds = pq.read_table(folder / "ops.parquet").column("kind").to_pylist()
    assert "kept" in kinds


def test_a_damaged_file_is_seen(
    go: Go, store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run does not go on from other bytes than were kept."""
    cut_at(6, monkeypatch, interrupt)
    with pytest.raises(Killed):
        go(URL)
    listed = named(store)
    one = next(content for name, content in listed.items() if name.endswith("state.json"))
    MemoryFileSystem().pipe_file(f"/bucket/runs/far/going/{one}", b"{}")
    with pytest.raises(RunError, match=r"state\.json is damaged"):
        go(URL, resume=True)


def test_a_folder_by_its_url(go: Go, tmp_path: Path) -> None:
    """`file://` works as any other protocol does."""
    summary, _ = go(f"file://{tmp_path}/kept/near")
    kept = tmp_path / "kept" / "near"
    assert json.loads((kept / "summary.json").read_text())["digest"] == summary.digest
    assert not (kept / "going").exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://key:secret@bucket/run", "holds credentials"),
        ("carrier-pigeon://loft/run", "cannot be used here"),
    ],
)
def test_urls_that_cannot_be(url: str, said: str, go: Go) -> None:
    """They are refused before anything starts, and no secret is repeated."""
    with pytest.raises(ExperimentError, match=said) as error:
        go(url)
    assert "secret" not in str(error.value)


def test_nothing_to_go_on_with(go: Go) -> None:
    """An empty location says what it lacks."""
    with pytest.raises(ExperimentError, match="holds no run that could go on"):
        go(URL, resume=True)
