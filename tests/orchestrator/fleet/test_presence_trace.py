"""Is a trace of presence read as it should, and asked at little cost?"""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from orchestrator.fleet import Fleet, TraceAvailability, files, presence_trace


@pytest.mark.parametrize(
    ("lines", "repeat_s", "message"),
    [
        (["client start_s"], None, r"csv:1: the header must name client, start_s, end_s, got"),
        (["client start_s end_s", "0 5 5"], None, r"csv:2: end_s must be after start_s = 5, got 5"),
        (["client start_s end_s", "0 1 2", "1.5 1 2"], None, r"csv:3: client must be a whole"),
        (["client start_s end_s", "0 1 9"], 8.0, r"csv:2: end_s must be at most repeat_s = 8"),
    ],
)
def test_bad_traces_are_told_with_their_line(
    lines: list[str], repeat_s: float | None, message: str, csv: Callable[..., str]
) -> None:
    """A mistake in a trace names the file, the line and the rule."""
    with pytest.raises(ValidationError, match=message):
        TraceAvailability(path=csv(*lines), repeat_s=repeat_s)


@pytest.mark.parametrize("client", ["123456789012345", "1e300"])
@pytest.mark.parametrize("repeat_s", [None, 60.0])
def test_rows_of_nobody_are_ignored(
    client: str, repeat_s: float | None, csv: Callable[..., str], drawn: Callable[..., Fleet]
) -> None:
    """A client that no fleet has costs nothing, however large its number."""
    path = csv("client start_s end_s", f"{client} 0 50", "1 10 20", "7 0 50")
    trace = {"kind": "trace", "path": path} | ({"repeat_s": repeat_s} if repeat_s else {})
    fleet = drawn(availability=trace)
    assert np.flatnonzero(fleet.present(15.0)).tolist() == [1, 7]
    assert [fleet.back_at(c, 0.0) for c in (0, 1, 7)] == [math.inf, 10.0, 0.0]
    assert fleet.returning(0.0).sum() == 2


@pytest.mark.parametrize("repeat_s", [None, 30_000.0])
def test_one_client_does_not_look_at_all_rows(
    repeat_s: float | None, csv: Callable[..., str]
) -> None:
    """What a question about one client takes does not grow with the rows of others."""
    rows = (f"{at // 5} {at % 5 * 10} {at % 5 * 10 + 5}" for at in range(20_000))
    trace = TraceAvailability(path=csv("client start_s end_s", *rows), repeat_s=repeat_s)
    one = np.array([1234])
    trace.status(0, one, 0.0)
    tracemalloc.start()
    there, until_s = trace.status(0, one, 22.0)
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (there[0], until_s[0]) == (True, 25.0)
    assert most_bytes < 20_000


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "t.csv"
    file.write_bytes(text.encode())
    return file


@pytest.mark.parametrize(
    "body",
    [
        "0,1,2\n3,4.5,6\n",
        "0,1,2\n3,4.5,6",
        "0,1,2\r\n3,4.5,6\r\n",
        " 0 , 1,2\n3,4.5 , 6e0\n",
        "\n0,1,2\n\n3,4.5,6\n\n",
        '"0",1,2\n3,"4.5",6\n',
        "0,1,2\n3,4.5,0.6_0e1\n",
    ],
    ids=["plain", "no newline", "crlf", "blanks", "empty lines", "quotes", "python"],
)
def test_a_table_is_read_however_it_is_written(body: str, tmp_path: Path) -> None:
    """All at once or row by row, the numbers are the same, and so are their lines."""
    file = written(tmp_path, f"client,start_s,end_s\n{body}")
    found = files.read_columns(file, ("client", "start_s", "end_s"))
    assert {name: values.tolist() for name, values in found.items() if name != "line"} == {
        "client": [0, 3],
        "start_s": [1, 4.5],
        "end_s": [2, 6],
    }
    where = [at for at, line in enumerate(file.read_text().splitlines(), 1) if line.strip()]
    assert found["line"].tolist() == where[1:]


def test_a_long_table_is_not_read_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a table with something unusual in it is; both ways find the same bits."""
    rng = np.random.default_rng(1)
    body = "".join(f"{at},{rng.random() * 1e4!r},{rng.random()!r}\n" for at in range(500))
    file = written(tmp_path, f"client,start_s,end_s\n{body}")
    names = ["client", "start_s", "end_s"]
    plain = files._row_by_row(file, body, names)
    monkeypatch.setattr(files, "_row_by_row", None)
    found = files.read_columns(file, names)
    assert np.stack([*found.values()]).T.tobytes() == plain.tobytes()


@pytest.mark.parametrize("cell", ["-1", "nan", "inf", "x", "", "1,2"])
def test_the_line_of_a_wrong_cell(cell: str, tmp_path: Path) -> None:
    """It is told wherever it stands, behind empty lines too."""
    file = written(tmp_path, f"client,start_s,end_s\n0,1,2\n\n7,1,{cell}\n")
    with pytest.raises(PydanticCustomError, match=r"t\.csv:4: "):
        files.read_columns(file, ("client", "start_s", "end_s"))


def test_a_table_without_rows(tmp_path: Path) -> None:
    """A header alone is told so."""
    for body in ("", "\n\n"):
        file = written(tmp_path, f"client,start_s,end_s\n{body}")
        with pytest.raises(PydanticCustomError, match="no rows below"):
            files.read_columns(file, ("client", "start_s", "end_s"))


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=12
    )
)
def test_intervals_are_joined_only_where_they_meet(rows: list[tuple[int, int, int]]) -> None:
    """With or without overlaps, a client is there when one of its rows says so."""
    with TemporaryDirectory() as folder:
        lines = "".join(f"{client},{begin},{begin + long}\n" for client, begin, long in rows)
        file = written(Path(folder), f"client,start_s,end_s\n{lines}")
        client, start_s, end_s = presence_trace._read_intervals(files.find(str(file)), None)
    assert (client[-1], start_s[-1], end_s[-1]) == (math.inf,) * 3
    kept = list(zip(client[:-1].tolist(), start_s.tolist(), end_s.tolist(), strict=False))
    plain = presence_trace._joined(np.array(sorted((c, b, b + n) for c, b, n in rows), float).T)
    assert np.array(kept).tolist() == plain.T.tolist()
    for who, at in product(range(4), np.arange(0, 50, 0.5).tolist()):
        there = any(c == who and b <= at < b + n for c, b, n in rows)
        assert there == any(c == who and b <= at < e for c, b, e in kept)
