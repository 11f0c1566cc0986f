"""Tables in terminals of any width."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.views.sheets import Sheet, put


def lines(sheet: Sheet, width: int) -> list[str]:
    """Return what is printed, without spaces at the ends and without empty lines."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)
    with console.capture() as captured:
        put(sheet, console)
    assert all(len(line) <= width for line in captured.get().splitlines())
    return [line.strip() for line in captured.get().splitlines() if line.strip()]


def test_columns_without_room_go_below() -> None:
    """By hand: two columns beside the first have room, the third stands with it once more."""
    sheet = Sheet("Title", ("what", "one", "two", "three"), [("a", "1" * 9, "2" * 9, "3" * 9)])
    assert lines(sheet, 32) == [
        "Title",
        "what         one         two",
        "─" * 28,
        "a      111111111   222222222",
        "Title, continued",
        "what       three",
        "─" * 16,
        "a      333333333",
    ]
    assert len(lines(sheet, 80)) == 4


def test_words_fold_and_numbers_do_not() -> None:
    """The room that is left goes to words; a heading may stand on two lines."""
    sheet = Sheet("", ("kind of client", "updates an hour"), [("a board, far", "0.000189 s")])
    assert lines(sheet, 25) == [
        "kind of      updates an",
        "client             hour",
        "─" * 23,
        "a board,     0.000189 s",
        "far",
    ]


@pytest.mark.parametrize("wide", ["日本語の名前", "plain"])
def test_wide_letters_take_their_room(wide: str) -> None:
    """A letter that takes two columns is counted as two."""
    sheet = Sheet("", ("name", "value"), [(wide, "1.234.567"), (wide, "7")])
    assert lines(sheet, 80)[2] == f"{wide}   1.234.567"


FIGURE = st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,5})? (s|min|kB)", fullmatch=True)


@given(
    st.integers(2, 6).flatmap(
        lambda n: st.lists(st.lists(FIGURE, min_size=n, max_size=n), min_size=1, max_size=3)
    ),
    st.integers(40, 200),
)
def test_every_figure_stands_whole(cells: list[list[str]], width: int) -> None:
    """Whatever the width, each figure is on a line, right below its own heading's table."""
    headings = ["kind of client", *(f"column {at}" for at in range(len(cells[0])))]
    rows = [(f"kind {at}", *row) for at, row in enumerate(cells)]
    printed = lines(Sheet("Title", headings, rows), width)
    whole = [cell for line in printed for cell in re.split(r"\s{2,}", line)]
    for row in cells:
        for figure in row:
            assert whole.count(figure) >= sum(cell == figure for r in cells for cell in r)
