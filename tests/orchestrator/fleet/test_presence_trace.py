"""Is a trace of presence read as it should, and asked at little cost?"""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

from orchestrator.fleet import Fleet, TraceAvailability


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
