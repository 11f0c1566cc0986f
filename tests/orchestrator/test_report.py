"""The page says what the logs say, stands alone, and comes out the same twice."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchestrator import people
from orchestrator.log import EVENTS_SCHEMA, Log
from orchestrator.views.readable import ACCURACY, BYTES, ENERGY, TIME, count, human
from orchestrator.views.report import write_report

SUMMARY: dict[str, Any] = {
    "digest": "d" * 64,
    "numerics": {"torch": "2.9.1", "isa": "AVX2", "device": "cpu"},
    "final_accuracy": 0.9123,
    "tail_accuracy": 0.9051,
    "best_accuracy": 0.9188,
    "versions": 100,
    "updates": 412,
    "rejected_updates": 9,
    "virtual_seconds": 5400.0,
    "wall_seconds": 71.0,
    "uplink_bytes": 2_500_000,
    "downlink_bytes": 1_200_000_000,
    "downlink_entropy_bytes": 1_100_000_000.0,
    "mean_staleness": 3.25,
    "accuracy_swing": 0.0123,
    "accuracy_spread": 0.0456,
    "participation": 0.96,
    "cycle_seconds": 90.0,
    "most_load": 0.0125,
    "energy_joules": 81_500.0,
    "wasted_device_seconds": 7200.0,
    "wasted_bytes": 13_500,
    "kpis": {
        "accuracy": {"asked": ">= 0.85", "value": 0.9123, "met": True},
        "uplink_bytes": {"asked": "<= 2 MB", "value": 2_500_000, "met": False},
        "most_load": {"asked": "< 0.5", "value": None, "met": None},
    },
    "a_key_of_tomorrow": [1, 2],
}


class Page(HTMLParser):
    """Collects the words of a page, and what it would load."""

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
            is_reference = name in {"src", "href", "xlink:href"}
            if is_reference and not (value or "").startswith("#"):
                self.loads.append(f"{name}={value}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def page(out: Path) -> Page:
    return Page(write_report(out).read_text())


def by_hand(out: Path) -> None:
    """Log three clients: two updates taken, one rejected, one lost, one superseded."""
    log = Log(out, "events", EVENTS_SCHEMA)
    log.append("evaluated", time_s=0.0, version=0, accuracy=0.1, loss=2.3)
    for client, number in ((0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (0, 1)):
        log.append("dispatched", time_s=1.0, client=client, number=number, downlink_bytes=4000)
    came = {"time_s": 60.0, "uplink_bytes": 500, "device_s": 30.0, "energy_j": 250.0}
    log.append("arrived", client=0, number=0, outcome="accepted", **came)
    log.append("committed", time_s=60.0, client=0, number=0, version=1, staleness=0, weight=1.0)
    log.append("published", time_s=60.0, version=1, hash="ab", nonzeros=10)
    for version, alike, grown in ((1, 0.25, 3.0), (2, 0.5, 0.0)):
        figures = {"mask_jaccard": alike, "regrowth": grown}
        for name, value in figures.items():
            log.append("measured", time_s=60.0, version=version, measure=name, value=value)
    log.append("arrived", client=1, number=0, outcome="accepted", **came)
    log.append("committed", time_s=60.0, client=1, number=0, version=2, staleness=3, weight=0.5)
    log.append("arrived", client=2, number=0, outcome="rejected", reason="not_finite", **came)
    log.append("lost", time_s=70.0, client=2, number=1)
    log.append("arrived", client=1, number=1, outcome="accepted", **came)
    log.append("superseded", time_s=80.0, client=1, number=1)
    log.append("guard", time_s=90.0, detail="held: loss < 0 & <odd>")
    log.append("evaluated", time_s=600.0, version=2, accuracy=0.5, loss=1.25)
    log.merge()


def synthetic(out: Path, *, clients: int, updates: int, seed: int = 1) -> None:
    """Log a run as a real one looks."""
    draw = np.random.default_rng(seed)
    log = Log(out, "events", EVENTS_SCHEMA)
    speed = draw.lognormal(3.0, 0.9, clients)
    heap = [(speed[c] * draw.uniform(0.5, 1.0), c, 0, 0) for c in range(clients)]
    log.append("evaluated", time_s=0.0, version=0, accuracy=0.1, loss=2.303)
    for _, client, number, base in heap:
        log.append(
            "dispatched",
            time_s=0.0,
            client=client,
            number=number,
            base_version=base,
            downlink_bytes=246_824,
        )
    version, buffered = 0, 0
    for _ in range(updates):
        time_s, client, number, base = heap.pop(heap.index(min(heap)))
        names = {"client": client, "number": number}
        late = version - base
        fate = draw.random()
        reason = "too_stale" if late > 30 else "not_finite" if fate < 0.01 else ""
        if 0.01 < fate < 0.04:
            log.append("lost", time_s=time_s, **names)
        else:
            log.append(
                "arrived",
                time_s=time_s,
                **names,
                base_version=base,
                outcome="rejected" if reason else "accepted",
                reason=reason,
                uplink_bytes=int(draw.integers(24_000, 26_000)),
                uplink_entropy_bytes=23_100.0,
                examples=600,
                loss=2.3 * 0.99**version,
                device_s=speed[client],
                energy_j=4.2 * speed[client],
            )
            if not reason:
                weight = (1 + late) ** -0.5
                log.append(
                    "committed",
                    time_s=time_s,
                    **names,
                    version=version + 1,
                    staleness=late,
                    weight=weight,
                )
                buffered += 1
        if buffered == 4:
            version, buffered = version + 1, 0
            log.append("published", time_s=time_s, version=version, hash="ab", nonzeros=61_706)
            if version % 5 == 0:
                accuracy = 0.1 + 0.83 * (1 - np.exp(-version / 60)) + draw.normal(0, 0.006)
                loss = 2.3 * float(np.exp(-version / 70)) + 0.2
                log.append(
                    "evaluated", time_s=time_s, version=version, accuracy=accuracy, loss=loss
                )
        log.append(
            "dispatched",
            time_s=time_s,
            client=client,
            number=number + 1,
            base_version=version,
            downlink_bytes=246_824,
        )
        took = speed[client] * draw.uniform(0.8, 1.3)
        heap.append((time_s + took, client, number + 1, version))
    log.merge()


def test_the_page_says_what_the_logs_say(tmp_path: Path) -> None:
    """Figures done by hand, in units that people read."""
    by_hand(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "experiment.yaml").write_text("# first\nname: quick <start>\nseed: 7\n")
    text = page(tmp_path).text
    for words in (
        "quick <start> seed 7 Final accuracy",
        "Final accuracy 0.9123 best 0.9188",
        "Virtual time 90 min wall 71 s",
        "Updates 412 rejected: 9",
        "Sent up 2.50 MB",
        "Sent down 1.20 GB at best 1.10 GB",
        "mask jaccard 0.25 0.5",
        "regrowth 3 0",
        "Energy 81.5 kJ",
        "Device time wasted 2 h",
        "0.5000 at the end (version 2)",
        "2 of 2 evaluations",
        "2 10 min 0.5000 1.2500 2 kB 24 kB",
        "2 kB up, 24 kB down, 1 kJ on the devices",
        "2 updates were taken: median 1.50, mean 1.50, at most 3 versions late",
        "3 clients were asked, 2 had an update accepted",
        "0 2 1 0 0 0 0.0 59 s 30 s 250 J 500 B",
        "1 2 1 0 1 0 3.0 59 s 60 s 500 J 1 kB",
        "2 2 0 1 0 1 59 s 30 s 250 J 500 B",
        "67% of the clients have an update in the model",
        "accepted 2 40.0% 1 kB 60 s 500 J",
        "rejected not finite 1 20.0% 500 B 30 s 250 J",
        "superseded 1 20.0% 500 B",
        "1 more were under way",
        "90 s held: loss < 0 & <odd>",
        "Bytes wasted 13.5 kB",
        "Accuracy swing 0.0123 deviation over the last tenth",
        "Spread between clients 0.0456 deviation of accuracies",
        "Clients in the model 96 % with an update in it",
        "From asked to update 90 s mean",
        "Largest load 0.0125 busy share x memory share of a device",
        "1 of 3 met",
        "accuracy of the newest evaluation >= 0.85 0.9123 met",
        "uplink bytes all that clients sent <= 2 MB 2.50 MB missed",
        "most load largest busy share x memory share of a client < 0.5 - not known",
        "d" * 64,
        "torch 2.9.1, isa AVX2, device cpu",
        "seed: 7",
    ):
        assert words in text


def test_the_page_stands_alone(tmp_path: Path) -> None:
    """It loads nothing, every tag is closed, and pictures take their colours from the page."""
    synthetic(tmp_path, clients=12, updates=300)
    whole = write_report(tmp_path).read_text()
    assert Page(whole).loads == []
    assert Page(whole).open == []
    assert "url(http" not in whole
    assert "@import" not in whole
    assert whole.count("<svg") == 5
    assert "#0000" not in whole
    assert "<?xml" not in whole
    assert not re.findall(r"(?:fill|stroke): #\w+", whole), "dark mode cannot change it"
    variables = set(re.findall(r"var\((--\w+)\)", whole))
    assert variables <= set(re.findall(r"(--\w+):", whole))


def test_the_page_repeats_bit_for_bit(tmp_path: Path) -> None:
    """Two folders with the same run hold the same page."""
    pages = []
    for name in ("one", "two"):
        synthetic(tmp_path / name, clients=80, updates=500)
        (tmp_path / name / "summary.json").write_text(json.dumps(SUMMARY | {"name": "same"}))
        pages.append(write_report(tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_many_clients_share_a_histogram_and_a_cut_table(tmp_path: Path) -> None:
    """A page about hundreds of clients stays readable."""
    synthetic(tmp_path, clients=300, updates=2000)
    text = page(tmp_path).text
    assert "50 of 300 clients, most accepted updates first" in text
    assert "updates accepted from one client" in text
    assert len(write_report(tmp_path).read_bytes()) < 500_000


def fared(out: Path, clients: int, *, worn: int = 0) -> None:
    """Write what became of clients, the first of them above the alarm."""
    events = pd.read_parquet(out / "events.parquet")
    load = np.full(clients, 0.1)
    load[:worn] = 0.9
    about = {
        "name": [f"silo {client}" for client in range(clients)],
        "profile": ["edge-gateway"] * clients,
        "memory_share": load,
        "accuracy": np.linspace(0.5, 0.9, clients),
    }
    table = people.table(events, about, span_s=float(events["time_s"].max()))
    table["load"] = load
    people.write(table, out)


def test_who_took_part(tmp_path: Path) -> None:
    """Names, devices, accuracies and the alarm come from clients.parquet and the experiment."""
    synthetic(tmp_path, clients=20, updates=200)
    fared(tmp_path, 20, worn=2)
    (tmp_path / "experiment.yaml").write_text("name: worn\nguards: {load: {most: 0.25}}\n")
    text = page(tmp_path).text
    assert "0 silo 0 edge-gateway" in text
    assert "sorted: 0.7000 on average, 0.5105 for the worst tenth" in text
    assert "Load alarm: 2 clients are above 0.25" in text
    assert "silo 0 (0.9), silo 1 (0.9)." in text
    (tmp_path / "experiment.yaml").write_text("name: worn\nguards: {load: {most: 0.95}}\n")
    assert "Load alarm" not in page(tmp_path).text


def test_the_alarm_is_readable(tmp_path: Path) -> None:
    """A client without a name is called one, and a small load is no zero."""
    synthetic(tmp_path, clients=3, updates=30)
    fared(tmp_path, 3)
    table = pd.read_parquet(tmp_path / people.FILE).assign(name=["0", "1", "2"], load=0.00042)
    table.to_parquet(tmp_path / people.FILE, index=False)
    (tmp_path / "experiment.yaml").write_text("name: worn\nguards: {load: {most: 0.0001}}\n")
    text = page(tmp_path).text
    assert "client 0 (0.00042), client 1 (0.00042), client 2 (0.00042)." in text
    assert "0.000420" in text


ABOUT = """
name: known
seed: 3
data: {source: digits, partition: {kind: dirichlet}}
model: {kind: mlp}
fleet: {clients: 12}
method:
  training: {kind: sgd}
  uplink: {kind: top-k}
  correction: {kind: none}
  pruning: {kind: fedmap}
  aggregation: {kind: fedbuff}
"""


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        (ABOUT, "data digits, dirichlet · model mlp · method fedbuff, sgd, fedmap, top-k uplink"),
        (ABOUT, "top-k uplink · 12 clients · seed 3 Accuracy over"),
        ("name: less\nseed: 0\nfleet: {clients: 1}\nmethod: 3\n", "less 1 client · seed 0 Acc"),
        ("name: [\n", "Accuracy over"),
        ("- 1\n", "Accuracy over"),
    ],
)
def test_the_title_says_what_ran(tmp_path: Path, experiment: str, expected: str) -> None:
    """Data, model, method, fleet and seed stand below it, as far as the file tells them."""
    (tmp_path / "experiment.yaml").write_text(experiment)
    assert expected in page(tmp_path).text


def test_pictures_scale_with_the_page(tmp_path: Path) -> None:
    """Each has a view box and no width of its own, so that a narrow page cuts none off."""
    synthetic(tmp_path, clients=5, updates=60)
    whole = write_report(tmp_path).read_text()
    for picture in re.findall(r"<svg[^>]*>", whole):
        assert "viewBox" in picture
        assert not re.search(r'\s(width|height)="', picture)
    rules = re.findall(r"figure svg \{(.*?)\}", whole)
    assert "max-width: 100%" in rules[0]
    assert not any("min-width" in rule for rule in rules)


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        ([0, 1], "2 updates were taken: median 0.500, mean 0.500, at most 1 version late."),
        ([2], "1 update was taken: median 2, mean 2, at most 2 versions late."),
    ],
)
def test_one_is_no_plural(tmp_path: Path, late: list[int], expected: str) -> None:
    """A version and an update stand alone where there is but one."""
    log = Log(tmp_path, "events", EVENTS_SCHEMA)
    for number, versions in enumerate(late):
        log.append("committed", time_s=1.0, client=0, number=number, version=1, staleness=versions)
    log.merge()
    assert expected in page(tmp_path).text


@pytest.mark.parametrize("clients", [1, 100_000])
def test_any_number_of_clients(tmp_path: Path, clients: int) -> None:
    """One client is its own worst tenth; of a hundred thousand 50 have a row."""
    synthetic(tmp_path, clients=min(clients, 30), updates=60)
    fared(tmp_path, clients)
    whole = write_report(tmp_path).read_text()
    assert len(whole) < 500_000
    worst = "0.5000" if clients == 1 else "0.5200"
    assert f"{worst} for the worst tenth" in whole
    rows = "1 client<" if clients == 1 else "50 of 100,000 clients"
    assert rows in whole


def test_nothing_at_all(tmp_path: Path) -> None:
    """An empty folder gives a page that says so."""
    text = page(tmp_path).text
    assert tmp_path.name in text
    assert "The run ended before its first evaluation." in text
    assert "No update became part of the model." in text
    assert "No client was asked for an update." in text
    assert "digest not known" in text


def test_all_updates_rejected(tmp_path: Path) -> None:
    """Nothing committed, an evaluation that found no number, an empty summary."""
    log = Log(tmp_path, "events", EVENTS_SCHEMA)
    log.append("evaluated", time_s=0.0, version=0, accuracy=float("nan"))
    log.append("dispatched", time_s=0.0, client=4, number=0, downlink_bytes=10)
    log.append("arrived", time_s=5.0, client=4, number=0, outcome="rejected", reason="malformed")
    log.merge()
    (tmp_path / "summary.json").write_text(json.dumps({"final_accuracy": None, "kpis": {}}))
    text = page(tmp_path).text
    assert "The run ended before its first evaluation." in text
    assert "rejected malformed 1 100.0%" in text
    assert "1 client was asked, none had an update accepted" in text


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (human(0, BYTES), "0 B"),
        (human(999, BYTES), "999 B"),
        (human(1_500, BYTES), "1.50 kB"),
        (human(2_000_000_000, BYTES), "2 GB"),
        (human(0.25, TIME), "0.250 s"),
        (human(119, TIME), "119 s"),
        (human(90 * 60, TIME), "90 min"),
        (human(10 * 3600, TIME), "10 h"),
        (human(10 * 86400, TIME), "10 days"),
        (human(1234.5, ENERGY), "1.23 kJ"),
        (human(0.5, ACCURACY), "0.5000"),
        (human(float("nan"), BYTES), "-"),
        (count(1_234_567), "1,234,567"),
        (count(12.34), "12.3"),
        (count(0.01234), "0.0123"),
        (count(float("inf")), "inf"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    """Three significant digits in the unit that reads best."""
    assert written == expected
