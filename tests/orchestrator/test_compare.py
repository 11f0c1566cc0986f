"""Runs side by side: the figures by hand, groups over seeds, and what cannot be compared."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.log import EVENTS_SCHEMA, Log
from orchestrator.views.compare import Comparison, compare, show, write
from orchestrator.views.compare_figures import Group, group, spread, student, written
from orchestrator.views.compare_page import page
from orchestrator.views.compare_pictures import band
from orchestrator.views.compare_runs import NUMBERS, LeftOut, Run, gather, read
from orchestrator.views.readable import ACCURACY, BYTES, TIME
from policies.types import ExperimentError

FILE = """
name: {name}
seed: {seed}
data: {{source: digits}}
model: {{kind: logistic}}
fleet: {{clients: 4, mix: [{{profile: budget-phone}}]}}
method: {{aggregation: {{kind: {kind}}}, uplink: {{kind: top-k, density: {density}}}}}
stop: {{versions: 4}}
tracking: {{enabled: false}}
"""


def leave(
    folder: Path,
    *,
    name: str = "one",
    seed: int = 0,
    kind: str = "fedasync",
    density: float = 0.1,
    accuracies: Sequence[float] = (0.1, 0.5, 0.9),
    **numbers: Any,
) -> Path:
    """Leave what a run leaves: version v is published at 10 v s and tested 3 s later.

    Until then 100 v bytes came up, 1000 v went down, and 2 v joules went.
    """
    folder.mkdir(parents=True)
    file = FILE.format(name=name, seed=seed, kind=kind, density=density)
    (folder / "experiment.yaml").write_text(file)
    log = Log(folder, "events", EVENTS_SCHEMA)
    for version, accuracy in enumerate(accuracies):
        at = 10.0 * version
        if version:
            log.append("dispatched", time_s=at - 9, downlink_bytes=1000)
            log.append("arrived", time_s=at, uplink_bytes=100, energy_j=2.0)
            log.append("committed", time_s=at, version=version, staleness=version - 1)
        log.append("published", time_s=at, version=version)
        log.append("dispatched", time_s=at + 1, downlink_bytes=0)
        log.append("evaluated", time_s=at + 3, version=version, accuracy=accuracy)
    log.merge()
    figures: dict[str, Any] = dict.fromkeys(NUMBERS, 0)
    figures |= {"final_accuracy": accuracies[-1], "tail_accuracy": accuracies[-1]}
    figures |= {"best_accuracy": max(accuracies), "worst_decile_accuracy": accuracies[-1] / 2}
    figures |= {"versions": len(accuracies) - 1, **numbers}
    figures |= {"digest": f"{name}-{seed}-{kind}-{density}"}
    (folder / "summary.json").write_text(json.dumps(figures))
    return folder


def compared(*folders: Path, sort: str | None = None, target: float | None = None) -> Comparison:
    return compare([str(folder) for folder in folders], uri=None, sort=sort, target=target)


def shown(found: Comparison) -> str:
    text = io.StringIO()
    show(found, Console(file=text))
    return " ".join(text.getvalue().split())


# ------------------------------------------------------------------ the interval


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (120, 1.980)],
)
def test_student_is_that_of_the_tables(freedom: int, expected: float) -> None:
    """Two-sided 95 % quantiles, as every table prints them."""
    assert student(freedom) == pytest.approx(expected, abs=5e-4)


def test_the_interval_by_hand() -> None:
    """Of 1, 2, 3: mean 2, deviation 1, so 4.3027 / sqrt(3) to either side."""
    found = spread([1.0, math.nan, 3.0, 2.0])
    assert (found.mean, found.runs, found.of) == (2.0, 3, 4)
    assert found.half == pytest.approx(2.48414, abs=1e-5)
    assert math.isnan(spread([5.0]).half)
    assert math.isnan(spread([math.nan]).mean)


@given(
    st.lists(st.floats(-100, 100), min_size=2, max_size=20),
    st.floats(0.1, 10),
    st.floats(-100, 100),
)
def test_the_interval_scales_and_shifts(values: list[float], by: float, up: float) -> None:
    """Other units give the same interval in these units."""
    one, other = spread(values), spread([by * value + up for value in values])
    assert other.mean == pytest.approx(by * one.mean + up, abs=1e-6)
    assert other.half == pytest.approx(by * one.half, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "units", "expected"),
    [
        ([0.5], ACCURACY, "0.5000"),
        ([0.4, 0.6], ACCURACY, "0.5000 ± 1.2706"),
        ([1500.0, 1500.0], BYTES, "1.50 kB"),
        ([1000.0, 2000.0], BYTES, "1.50 ± 6.4 kB"),
        ([3.0, math.nan], TIME, "3 s (1 of 2)"),
        ([math.nan], TIME, "not reached"),
    ],
)
def test_figures_are_written_for_people(values: list[float], units: Any, expected: str) -> None:
    """Three digits of the mean, two of the interval, both in one unit."""
    assert written(spread(values), units, lacking="not reached") == expected


# ------------------------------------------------------------------ groups


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 3)), min_size=1))
def test_groups_are_runs_that_differ_in_their_seed_alone(made: list[tuple[str, int, int]]) -> None:
    """Every run is in one group; labels differ; what is alike is not said to differ."""
    import pandas as pd

    runs = [
        Run(str(at), "", {}, {}, {"name": name, "rate": str(rate), "seed": str(seed), "same": "1",
            "tracking.uri": str(at)}, pd.DataFrame(), pd.Series(dtype="int64").to_numpy())
        for at, (name, rate, seed) in enumerate(made)
    ]  # fmt: skip
    groups = group(runs)
    assert sorted(run.name for one in groups for run in one.runs) == sorted(r.name for r in runs)
    keys = [{(run.settings["name"], run.settings["rate"]) for run in one.runs} for one in groups]
    assert all(len(key) == 1 for key in keys)
    assert len({tuple(key) for key in keys}) == len(groups) == len({one.label for one in groups})
    rates = {rate for _, rate, _ in made}
    assert all(("rate" in one.differs) == (len(rates) > 1) for one in groups)
    assert not any({"same", "name", "tracking.uri"} & one.differs.keys() for one in groups)


def test_what_differs_and_how_groups_are_called(tmp_path: Path) -> None:
    """A kind explains the settings that only it has; groups of one name are told apart by more."""
    for seed in (0, 1):
        leave(tmp_path / f"a{seed}", seed=seed)
        leave(tmp_path / f"b{seed}", seed=seed, density=0.5)
        leave(tmp_path / f"c{seed}", seed=seed, name="two", kind="fedavg")
    found = compared(tmp_path, sort="given")
    assert [one.label for one in found.groups] == ["one: density 0.1", "one: density 0.5", "two"]
    assert [len(one.runs) for one in found.groups] == [2, 2, 2]
    assert found.groups[0].differs["method.uplink.density"] == "0.1"
    assert found.groups[2].differs["method.aggregation.kind"] == "fedavg"
    assert "method.aggregation.clients_per_round" not in found.groups[2].differs
    assert "seed" not in found.differing


def test_labels_say_what_is_not_usual(tmp_path: Path) -> None:
    """Of many groups of one name the usual values go without saying."""
    for density in (0.1, 0.2, 0.3):
        leave(tmp_path / str(density), density=density)
    leave(tmp_path / "rounds", kind="fedavg")
    labels = [one.label for one in compared(tmp_path, sort="given").groups]
    assert labels == ["one", "one: density 0.2", "one: density 0.3", "one: fedavg"]


def test_other_seeds_are_said(tmp_path: Path) -> None:
    """Groups over different seeds say which."""
    leave(tmp_path / "a", seed=3)
    leave(tmp_path / "b", seed=4, density=0.5)
    found = compared(tmp_path, sort="given")
    assert [one.differs["seed"] for one in found.groups] == ["3", "4"]


# ------------------------------------------------------------------ figures


def test_the_figures_by_hand(tmp_path: Path) -> None:
    """A version costs what was spent when it was published; its test costs nothing."""
    leave(tmp_path / "a", virtual_seconds=120, uplink_bytes=2_000_000)
    run = read(tmp_path / "a")
    assert isinstance(run, Run)
    assert run.curve.to_dict("list") == {
        "seconds": [0.0, 10.0, 20.0],
        "bytes": [0.0, 1100.0, 2200.0],
        "joules": [0.0, 2.0, 4.0],
        "accuracy": [0.1, 0.5, 0.9],
    }
    assert run.staleness.tolist() == [0, 1]
    text = shown(compared(tmp_path / "a", target=0.5))
    assert "one 1 0.9000 0.9000 0.9000 " in text
    assert "one - 0.4500 - - - - - -" in text
    assert "one 2 MB 0 B 0 J 0 s" in text
    assert "Until an accuracy of 0.5" in text
    assert "one 10 s 1.10 kB 2 J" in text
    assert "What differs" not in text
    assert "±" not in text


def test_the_target_is_that_of_the_best(tmp_path: Path) -> None:
    """95 % of the best tail accuracy; who does not reach it is said not to."""
    leave(tmp_path / "a")
    leave(tmp_path / "b", density=0.5, accuracies=(0.1, 0.8))
    leave(tmp_path / "c", density=0.5, seed=1, accuracies=(0.1, 0.2, 0.86))
    leave(tmp_path / "d", density=0.9, accuracies=(0.1, 0.2))
    found = compared(tmp_path)
    assert found.target == pytest.approx(0.855)
    text = shown(found)
    assert "20 s (1 of 2)" in text
    assert "one: density 0.9 not reached not reached not reached" in text
    assert "± is the 95 % interval" in text


def test_what_comes_first(tmp_path: Path) -> None:
    """The best accuracy by default; the least of a cost; those without a figure last."""
    leave(tmp_path / "a", name="a", accuracies=(0.1, 0.2), energy_joules=3)
    leave(tmp_path / "b", name="b", accuracies=(0.1, 0.9), energy_joules=5)
    leave(tmp_path / "c", name="c", accuracies=(0.1, 0.5), energy_joules=1, mean_staleness=math.nan)

    def order(sort: str | None) -> str:
        found = compared(tmp_path / "b", tmp_path / "c", tmp_path / "a", sort=sort, target=0.6)
        return "".join(one.label for one in found.groups)

    assert order(None) == "bca"
    assert order("energy") == "cab"
    assert order("name") == "abc"
    assert order("given") == "bca"
    assert order("staleness")[-1] == "c"
    assert order("target-time")[0] == "b"


PEOPLE: dict[str, Any] = {
    "mean_client_accuracy": 0.375,
    "worst_decile_accuracy": 0.25,
    "accuracy_spread": 0.0625,
    "participation": 0.67,
    "cycle_seconds": 90,
    "most_load": 0.0125,
    "accuracy_swing": 0.03125,
    "kpis": {"accuracy": {"met": True}, "uplink_bytes": {"met": False}, "most_load": {}},
}


def test_people_by_hand(tmp_path: Path) -> None:
    """How clients fared and what was asked, over seeds: means, intervals, and KPIs counted."""
    leave(tmp_path / "a", **PEOPLE)
    assert "one 0.3750 0.2500 0.0625 67 % 90 s 0.0125 0.0312 1 of 3" in shown(compared(tmp_path))
    met = {name: {"met": True} for name in PEOPLE["kpis"]}
    leave(tmp_path / "b", seed=1, **PEOPLE | {"kpis": met, "participation": 0.65})
    text = shown(compared(tmp_path))
    assert "one 0.3750 0.2500 0.0625 66 ± 13 % 90 s 0.0125 0.0312 4 of 6" in text
    assert "one missed uplink_bytes (1 of 2)." in text


def test_runs_are_sorted_by_how_people_fared(tmp_path: Path) -> None:
    """Even, steady, quick and light come first, and those that keep more of what was asked."""
    others = {
        "accuracy_spread": 0.01, "participation": 0.9, "cycle_seconds": 10, "most_load": 0.001,
        "accuracy_swing": 0.01, "worst_decile_accuracy": 0.5, "mean_client_accuracy": 0.75,
        "kpis": {"accuracy": {"met": True}},
    }  # fmt: skip
    leave(tmp_path / "a", name="a", **PEOPLE)
    leave(tmp_path / "b", name="b", **others)
    leave(tmp_path / "c", name="c", worst_decile_accuracy=None)
    for key in ("mean", "worst", "spread", "participation", "cycle", "load", "swing", "kpis"):
        found = compared(tmp_path, sort=key)
        assert [one.label for one in found.groups] == ["b", "a", "c"], key


# ------------------------------------------------------------------ in a terminal


@pytest.mark.parametrize("width", [80, 90, 132])
def test_no_number_is_broken_in_a_narrow_terminal(tmp_path: Path, width: int) -> None:
    """Every figure stands whole on one line, and no line is wider than the terminal."""
    for seed in (0, 1):
        for at in range(6):
            leave(
                tmp_path / f"{at}-{seed}", name=f"single-board-computers {at}", seed=seed,
                density=(at + 1) / 20, energy_joules=123_456 + 7 * seed, wasted_device_seconds=1e5,
                uplink_bytes=1_234_567 + 89 * seed, **PEOPLE,
            )  # fmt: skip
    found = compared(tmp_path)
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)
    with console.capture() as captured:
        show(found, console)
    tables, notes = captured.get().split("single-board-computers 5 missed", 1)
    lines = tables.splitlines()
    assert notes
    assert max(map(len, lines)) <= width
    cells = {tuple(re.split(r"\s{2,}", line.strip())) for line in lines}
    whole = {cell for row in cells for cell in row}
    sheets = [*found.sheets(), found.differences()]
    figures = {cell for sheet in sheets for row in sheet.cells for cell in row[1:]}
    assert figures <= whole
    assert "single-board-computers 5" in tables


# ------------------------------------------------------------------ what cannot be compared


def test_what_is_left_out_is_named_and_stops_nothing(tmp_path: Path) -> None:
    """Unfinished, damaged, doubled: each with its reason; the rest is compared."""
    leave(tmp_path / "good")
    (leave(tmp_path / "unfinished") / "summary.json").unlink()
    (leave(tmp_path / "no-json") / "summary.json").write_text("{")
    (leave(tmp_path / "no-number") / "summary.json").write_text('{"final_accuracy": "high"}')
    whole = (leave(tmp_path / "cut") / "events.parquet").read_bytes()
    (tmp_path / "cut" / "events.parquet").write_bytes(whole[: len(whole) // 2])
    (leave(tmp_path / "no-yaml") / "experiment.yaml").write_text("a: [")
    (leave(tmp_path / "a-list") / "experiment.yaml").write_text("[1]")
    (leave(tmp_path / "no-events") / "events.parquet").unlink()
    shutil.copytree(tmp_path / "good", tmp_path / "later")
    (tmp_path / "no-run").mkdir()
    found = compare([str(tmp_path), str(tmp_path / "no-run")], uri=None, sort=None, target=None)
    assert [run.name for one in found.groups for run in one.runs] == ["good"]
    reasons = {run.name: run.reason for run in found.left_out}
    assert "is unfinished" in reasons["unfinished"]
    assert "summary.json is no JSON" in reasons["no-json"]
    assert "summary.json lacks final_accuracy, tail_accuracy" in reasons["no-number"]
    assert "is damaged" in reasons["cut"]
    assert "is damaged" in reasons["no-yaml"]
    assert "holds no settings" in reasons["a-list"]
    assert "no events.parquet" in reasons["no-events"]
    assert "is the run good again" in reasons["later"]
    assert "holds no run" in reasons[str(tmp_path / "no-run")]
    assert "Left out: unfinished is unfinished" in shown(found)


def test_a_run_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    """A folder and the folder above it name the same run."""
    leave(tmp_path / "a")
    runs, left = gather([str(tmp_path), str(tmp_path / "a")], None)
    assert (len(runs), left) == (1, [])


def test_nothing_to_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear error, with the reasons."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (leave(tmp_path / "a") / "summary.json").unlink()
    with pytest.raises(ExperimentError, match="nothing to compare:\n  a is unfinished"):
        compared(tmp_path / "a")
    with pytest.raises(ExperimentError, match="nowhere is no folder, and there is no MLflow"):
        compared(Path("nowhere"))
    leave(tmp_path / "b", tail_accuracy=None)
    with pytest.raises(ExperimentError, match="none of the runs has an accuracy"):
        compared(tmp_path / "b")


def test_what_a_user_did_wrong(tmp_path: Path) -> None:
    """Each argument says its rule; unknown names get the nearest known one."""
    leave(tmp_path / "a")
    with pytest.raises(ExperimentError, match=r"--sort knows no enrgy\. Did you mean energy\?"):
        compared(tmp_path, sort="enrgy")
    with pytest.raises(ExperimentError, match=r"--target must lie in \(0, 1\], got 85"):
        compared(tmp_path, target=85)
    with pytest.raises(ExperimentError, match=r"--html .* cannot be written"):
        write(compared(tmp_path), tmp_path / "nowhere" / "page.html")


def test_a_run_of_another_version_stands_as_it_is(tmp_path: Path) -> None:
    """Settings that this version does not know are compared as text."""
    for name in ("a", "b"):
        file = leave(tmp_path / name, name=name) / "experiment.yaml"
        file.write_text(file.read_text() + f"tomorrow: {name}\n")
    found = compared(tmp_path, sort="name")
    assert [one.differs for one in found.groups] == [{"tomorrow": "a"}, {"tomorrow": "b"}]


# ------------------------------------------------------------------ the page


class Page(HTMLParser):
    """Collects a page's words and what it would load, and sees that tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "br"}:
            self.open.append(tag)
        if tag in {"script", "link", "img", "iframe"}:
            self.loads.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href"} and not (value or "").startswith("#"):
                self.loads.append(f"{name}={value}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def many(folder: Path, groups: int = 10) -> Comparison:
    """Leave groups of two seeds, and compare them."""
    for at in range(groups):
        for seed in (0, 1):
            accuracies = [0.1, 0.4 + 0.03 * at, 0.5 + 0.04 * at + 0.01 * seed]
            leave(
                folder / f"{at}-{seed}", name=f"<run> {at}", seed=seed, density=(at + 1) / 20,
                accuracies=accuracies,
            )  # fmt: skip
    return compared(folder)


def test_the_page_stands_alone(tmp_path: Path) -> None:
    """It loads nothing, escapes what it is given, and takes its colours from its variables."""
    (tmp_path / "<odd>").mkdir()
    (tmp_path / "<odd>" / "experiment.yaml").touch()
    whole = page(many(tmp_path))
    found = Page(whole)
    assert "Left out: <odd> is unfinished" in found.text
    assert found.loads == []
    assert found.open == []
    assert "#0000" not in whole
    assert "#0001" not in whole
    assert not re.findall(r"(?:fill|stroke): #\w+", whole), "dark mode cannot change it"
    variables = set(re.findall(r"var\((--\w+)\)", whole))
    assert {"--s1", "--s6"} <= variables <= set(re.findall(r"(--\w+):", whole))
    for words in (
        "20 runs compared", "<run> 9 2 0.8650", "± is the 95 % interval", "Staleness", "Fairness",
        "Accuracy over virtual time", "Accuracy over bytes", "Accuracy over energy",
        "method.uplink.density 0.5 0.45 0.4",
    ):  # fmt: skip
        assert words in found.text


def test_a_band_goes_as_far_as_all_runs(tmp_path: Path) -> None:
    """By hand: lowest, median, highest where both runs are; a straight line between points."""
    one, other = (
        read(leave(tmp_path / str(seed), seed=seed, accuracies=accuracies))
        for seed, accuracies in enumerate([(0.1, 0.5, 0.9), (0.2, 0.3, 0.4, 0.5)])
    )
    assert isinstance(one, Run)
    assert isinstance(other, Run)
    late = replace(other, curve=other.curve.drop(index=1).assign(seconds=[5.0, 15.0, 40.0]))
    found = band(Group("a", (one, late), {}), "seconds", positive=False)
    where, low, middle, high = (part.tolist() for part in found)
    assert where == [5, 10, 15, 20]
    assert low == pytest.approx([0.2, 0.3, 0.4, 0.42])
    assert middle == pytest.approx([0.25, 0.4, 0.55, 0.66])
    assert high == pytest.approx([0.3, 0.5, 0.7, 0.9])
    alone = band(Group("a", (one,), {}), "seconds", positive=True)
    assert alone[0].tolist() == [10, 20]


def test_the_page_repeats_bit_for_bit(tmp_path: Path) -> None:
    """The same runs in two places give the same page."""
    assert page(many(tmp_path / "one", 3)) == page(many(tmp_path / "two", 3))


def test_a_page_of_runs_that_did_nothing(tmp_path: Path) -> None:
    """No update, no accuracy but one: the page is there."""
    leave(tmp_path / "a", accuracies=(0.1,))
    leave(tmp_path / "b", density=0.5, accuracies=(0.2, math.nan), tail_accuracy=0.2)
    write(compared(tmp_path), tmp_path / "page.html")
    assert Page((tmp_path / "page.html").read_text()).open == []


# ------------------------------------------------------------------ real runs


@pytest.fixture
def real(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run two seeds of a small experiment, tracked in a store of their own."""
    from orchestrator.request import Request
    from orchestrator.run import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    for seed in (1, 2):
        tracked = ("enabled=true", "experiment=tries", "flush_s=100")
        experiment = small(f"seed={seed}", *(f"tracking.{setting}" for setting in tracked))
        out = tmp_path / "runs" / f"small-{seed}"
        run(Request(experiment, out, in_process=True), Console(file=io.StringIO()))
        left = out / "mlflow-undelivered.json"
        assert not left.exists(), left.read_text()
    return tmp_path / "runs"


@pytest.mark.slow
def test_runs_from_mlflow_are_those_from_folders(real: Path) -> None:
    """By id, by name and by experiment: the same figures, curves and settings."""
    local, left = gather([str(real)], None)
    assert left == []
    ids = [json.loads((run / "mlflow.json").read_text())["run_id"] for run in real.iterdir()]
    for words in (["small-1", "small-2"], ["experiment:tries"], sorted(ids)):
        for run in real.iterdir():
            run.rename(run.with_name(f"moved-{run.name}"))
        remote, left = gather(words, f"sqlite:///{real.parent / 'mlflow.db'}")
        for run in real.iterdir():
            run.rename(run.with_name(run.name.removeprefix("moved-")))
        assert left == []
        by_digest = {run.digest: run for run in remote}
        assert by_digest.keys() == {run.digest for run in local}
        for run in local:
            other = by_digest[run.digest]
            assert (run.name, run.numbers, run.settings) == (
                other.name, other.numbers, other.settings,
            )  # fmt: skip
            assert run.curve.equals(other.curve)
            assert run.staleness.tolist() == other.staleness.tolist()
    assert gather([str(real), "experiment:tries"], None)[1] == []
    (one,) = compared(real).groups
    assert [run.settings["seed"] for run in one.runs] == ["1", "2"]


@pytest.mark.slow
def test_what_mlflow_does_not_know(real: Path) -> None:
    """The nearest name is told; a run without artifacts is left out; a dead server is said."""
    from mlflow import MlflowClient

    with pytest.raises(ExperimentError, match=r"has no run smal-1 .*Did you mean small-[12]\?"):
        gather(["smal-1"], None)
    with pytest.raises(ExperimentError, match="Did you mean tries"):
        gather(["experiment:trys"], None)
    client = MlflowClient(f"sqlite:///{real.parent / 'mlflow.db'}")
    where = client.get_experiment_by_name("tries").experiment_id
    client.create_run(where, run_name="bare")
    runs, left = gather(["experiment:tries"], None)
    assert len(runs) == 2
    assert [isinstance(one, LeftOut) and one.name for one in left] == ["bare"]
    with pytest.raises(ExperimentError, match=r"MLflow at http://127\.0\.0\.1:1 cannot be read"):
        gather(["anything"], "http://127.0.0.1:1")


@pytest.mark.slow
def test_the_command(real: Path) -> None:
    """It prints tables and writes the page; mistakes end it with one message."""

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", "compare", *words],
            cwd=real.parent, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip

    done = call("runs", "--html", "page.html", "--target", "0.3")
    assert done.returncode == 0, done.stderr
    assert "What it cost" in done.stdout
    assert "page     page.html" in done.stdout
    assert "<svg" in (real.parent / "page.html").read_text()
    for words in (["nowhere"], ["runs", "--sort", "x"], ["runs", "--html", "no/page.html"], []):
        done = call(*words)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
