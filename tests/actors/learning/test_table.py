"""Does a table of the user's become inputs for a model, with nothing learnt from the test split?"""

from __future__ import annotations

import gzip
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from actors.learning.data import DataSet, DataShape
from actors.learning.partition import Natural
from actors.learning.sources.columns import RARE, encode, standardise
from actors.learning.sources.table import Table
from policies.types import ExperimentError

ROWS = 60


def frame(**more: Any) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "age": rng.normal(40, 9, ROWS),
        "colour": np.array(["red", "green", "blue"])[np.arange(ROWS) % 3],
        "site": np.array(["b", "a"])[np.arange(ROWS) // 40],
        "sick": np.array(["yes", "no"])[rng.integers(0, 2, ROWS)],
        "year": 2000 + np.arange(ROWS) // 10,
    }
    return pd.DataFrame(columns | more)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Table]:
    """Return what writes a table and names its columns."""

    def make(table: pd.DataFrame, suffix: str = "csv", **settings: Any) -> Table:
        path = tmp_path / f"t.{suffix}"
        if suffix == "parquet":
            table.to_parquet(path, index=False)
        else:
            table.to_csv(path, index=False)
        return Table(path=path, **({"target": "sick"} | settings))

    return make


def whole(data: DataSet) -> np.ndarray[Any, Any]:
    return np.concatenate([data.x_train, data.x_test])


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
def test_a_table_is_read(write: Callable[..., Table], suffix: str) -> None:
    """Categories first, then numbers; target, client and order are no inputs."""
    settings = write(frame(), suffix, client="site", order="year")
    data = settings.load()
    assert data.shape == settings.shape()
    assert data.shape == DataShape(
        48, 12, (2,), 2, (4, 0), clients=2, ordered=True, class_names=("no", "yes")
    )
    assert data.client_names == ("a", "b")
    assert data.x_train.dtype == np.float32
    assert set(whole(data)[:, 0]) == {1, 2, 3}
    numbers = data.x_train[:, 1].astype(float)
    assert (numbers.mean(), numbers.std()) == pytest.approx((0, 1), abs=1e-6)
    assert data.order_train is not None
    assert set(data.order_train) <= set(range(2000, 2006))
    assert data.normalise(data.x_train) is data.x_train


def test_the_test_split_is_stratified_within_clients(write: Callable[..., Table]) -> None:
    """A fifth of each client and class, and the same rows for ever."""
    settings = write(frame(sick=np.arange(ROWS) % 2), client="site", order="year")
    data = settings.load()
    assert data.clients_test is not None
    assert np.bincount(data.clients_test * 2 + data.y_test).tolist() == [2, 2, 4, 4]
    assert np.array_equal(settings.load().x_test, data.x_test)


def test_what_is_missing_is_marked(write: Callable[..., Table]) -> None:
    """A missing number is the mean and says so in a column of its own; missing text is code 0."""
    table = frame()
    table.loc[::5, "age"] = np.nan
    table.loc[::6, "colour"] = None
    data = write(table, ignore=["site", "year"]).load()
    x = whole(data)
    assert data.categories == (4, 0, 0)
    assert x[x[:, 2] == 1, 1].tolist() == [0.0] * 12
    assert int((x[:, 0] == 0).sum()) == 10


def test_columns_of_numbers_may_be_named_as_codes(write: Callable[..., Table]) -> None:
    """Years become categories when they are named; true and false always do."""
    table = frame(old=np.arange(ROWS) % 2 == 0)
    data = write(table, ignore=["site", "age"], categorical=["year"]).load()
    assert data.categories == (4, 7, 3)


def test_rare_and_unseen_values_share_code_0() -> None:
    """Only values with enough training rows have a code; the test split teaches nothing."""
    values = pd.Series(["a"] * RARE + ["b"] * (RARE - 1) + ["c"] * RARE + [None, "c", "d"] * RARE)
    train = np.arange(3 * RARE)
    codes, count = encode(values, train)
    assert count == 3
    assert codes[: 3 * RARE].tolist() == [1.0] * RARE + [0.0] * (RARE - 1) + [2.0] * RARE + [0.0]
    assert codes[3 * RARE :].tolist()[:2] == [2.0, 0.0]


def test_moments_are_those_of_the_training_split() -> None:
    """What only the test split holds moves no mean; a constant column is zero."""
    (scaled,) = standardise(np.array([1.0, 3.0, 100.0]), np.array([0, 1]), "x")
    assert scaled.tolist() == [-1.0, 1.0, 98.0]
    (constant,) = standardise(np.full(3, 7.0), np.array([0, 1]), "x")
    assert constant.tolist() == [0.0, 0.0, 0.0]


def test_dates_are_an_order(write: Callable[..., Table]) -> None:
    """An order may be dates as text."""
    dates = pd.date_range("2020-01-01", periods=ROWS).astype(str)
    data = write(frame(when=dates), order="when", ignore=["year", "site"]).load()
    assert data.order_train is not None
    assert (np.diff(data.order_train) > 0).all()


def test_dates_without_a_common_form_are_no_warning(
    write: Callable[..., Table], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of pandas' own is printed, whether they can be read or not."""
    mixed = ["2 Jan 2020", "2020/03/04 5:06"] * (ROWS // 2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        write(frame(when=mixed), order="when").trouble()
        assert write(frame(), order="colour").trouble() is not None
    assert [one for one in said if "infer format" in str(one.message)] == []
    assert capsys.readouterr().err == ""


def test_classes_are_called_what_the_target_says(write: Callable[..., Table]) -> None:
    """Text as it is, numbers as they are written."""
    assert write(frame(sick=["ill", "well"] * 30)).load().class_names == ("ill", "well")
    assert write(frame(sick=[7, 3] * 30)).shape().class_names == ("3", "7")


def test_natural_clients_are_counted(write: Callable[..., Table]) -> None:
    """As many as the column names, and, with fewer examples, as have any."""
    settings = write(frame(site=np.arange(ROWS) % 20), client="site", partition=Natural())
    assert settings.natural_clients() == 20
    fewer = settings.model_copy(update={"train_examples": 3}).natural_clients()
    assert fewer in (1, 2, 3)
    assert settings.model_copy(update={"path": Path("/nowhere.csv")}).natural_clients() is None
    assert write(frame(), client="site").natural_clients() is None


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        (frame(), {"target": "sik"}, "has no column 'sik'. Did you mean 'sick'"),
        (frame(), {"client": "zz"}, "has no column 'zz'. It has age, colour, site, sick, year"),
        (frame(), {"ignore": ["agee"]}, "Did you mean 'age'"),
        (frame(), {"target": "age"}, "got 60 in 60 rows: it looks continuous. Put its values into"),
        (frame(sick=range(60)), {"client": "site"}, "got 60 in 60 rows: it looks continuous"),
        (frame(sick="yes"), {}, r"target sick must have 2 to 1000 different values.* got 1\."),
        (pd.DataFrame({"a": range(2000), "sick": range(2000)}), {}, r"got 2000\. Take another"),
        (
            frame(sick=["yes", None] * 30),
            {},
            "30 of 60 rows have no value in the target sick; the first is row 2 below the header",
        ),
        (
            frame(site=["a", "b", None] * 20),
            {"client": "site"},
            "20 of 60 .* in the client column site; the first is row 3 below the header. Drop",
        ),
        (
            frame(year=[1.0, np.nan] * 30),
            {"order": "year"},
            "30 of 60 rows have no value in the order column year; the first is row 2",
        ),
        (frame(age=[np.inf, *range(59)]), {}, "column age must hold finite numbers, got infinity"),
        (frame(age=["x"] * 60), {"order": "age"}, "order column age must hold numbers or dates"),
        (frame(age=["no", "yes"] * 30), {"order": "age"}, "order column age must hold numbers or"),
        (frame(), {"ignore": ["age", "colour", "site", "year"]}, "no column left to learn from"),
        (frame()[:0], {}, "has a header and no rows. Add rows below it"),
        (frame()[:2].assign(sick=["yes", "no"]), {}, "leave none for a test split"),
    ],
)
def test_what_makes_no_data_set_is_refused(
    write: Callable[..., Table], table: pd.DataFrame, settings: dict[str, Any], message: str
) -> None:
    """Each mistake names the column and the way out."""
    made = write(table, **settings)
    assert made.missing() is None
    with pytest.raises(ExperimentError, match=message):
        made.shape()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.xlsx", b"", "must end in .csv, .csv.gz or .parquet, got t.xlsx"),
        ("t.parquet", b"nonsense", "must be a Parquet file.* Write it again, or save .* as CSV"),
        ("t.parquet", b"", "must be a Parquet file.* Write it again, or save the table as CSV"),
        ("t.csv", b"", "t.csv is empty. A table has a line with the names of its columns"),
        ("t.csv", b"\n \n", "t.csv is empty. A table has a line with the names of its columns"),
        ("t.csv", "a,y\n1,2\né,3\n".encode("latin1"), "UTF-8 text, and line 3 is none. Save it as"),
        ("t.csv", "é,y\n1,2\n".encode("latin1"), "UTF-8 text, and line 1 is none. Save it as"),
        ("t.csv", b"a,y\n1,2\n1,2,3\n", "must have 2 fields in every row, .* line 3 has 3. Mend"),
        ("t.csv", b"a,y\n1,2,3\n4,5,6\n", "more fields than its header. Name every column"),
        ("t.csv", b'a,y\n"1,2\n', "cannot be read as CSV: .*EOF inside string.* Mend that place"),
        (
            "t.csv",
            b"a;b;y\n1,5;2;3\n",
            "separated by commas, and seems to be by semicolons: .*a;b;y",
        ),
        ("t.csv", b"a\ty\n1\t2\n", "seems to be by tabs"),
        ("t.csv.gz", b"none", "cannot be read: .*Is it whole"),
        (
            "t.csv.gz",
            gzip.compress(b"a,y\n1,2\n" * 99, mtime=0)[:-9],
            "cannot be read: .*Is it whole",
        ),
    ],
)
def test_a_file_that_is_no_table_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """By its name or by what is in it."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExperimentError, match=message):
        Table(path=tmp_path / name, target="y").load()


def test_a_missing_file_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked for, and where."""
    monkeypatch.chdir(tmp_path)
    missing = Table(path=Path("gone.csv"), target="y").missing()
    assert missing is not None
    assert "data.path gone.csv was looked for beside the experiment file and in" in missing


def test_a_relative_path_is_beside_the_experiment_file(
    write: Callable[..., Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else from the working folder."""
    write(frame())
    relative = Table(path=Path("t.csv"), target="sick")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    assert relative.missing() is not None
    monkeypatch.syspath_prepend(tmp_path)
    assert relative.shape().train == 48
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert relative.shape().train == 48


def test_a_table_that_changes_is_read_again(write: Callable[..., Table]) -> None:
    """The shape is kept for the checks of one file, not for another table."""
    settings = write(frame())
    assert settings.shape().train == 48
    file = settings.path
    frame()[:40].to_csv(file, index=False)
    os.utime(file, ns=(1, 1))
    assert settings.shape().train == 32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "y"}, "path"),
        ({"path": "t.csv"}, "target"),
        ({"path": "t.csv", "target": "y", "test_share": 1.0}, "test_share"),
        ({"path": "t.csv", "target": "y", "root": "/"}, "root"),
        (
            {"path": "t.csv", "target": "y", "client": "y"},
            "client\n  must be another column than data.target, got y for both",
        ),
        ({"path": "t.csv", "target": "y", "order": "y"}, "order\n  must be another column than"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    """What must be there is asked for, and nothing else is taken."""
    with pytest.raises(ValidationError, match=message):
        Table.model_validate(settings)
