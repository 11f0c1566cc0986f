"""How does a table fit a terminal without breaking a number?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_BETWEEN: Final = 3  # columns of a terminal from one column of a table to the next
_EDGES: Final = 2
_LONGEST: Final = 32  # a single word that is longer may be folded
_PHRASE: Final = 24  # what a column of words beside the first is given before it folds


class Sheet(NamedTuple):
    """A table; its first column says what a row is about.

    Attributes:
        words: So many columns in front hold words, the others numbers.
    """

    title: str
    columns: Sequence[str]
    cells: Sequence[Sequence[str]]
    words: int = 1


class _Width(NamedTuple):
    """How wide a column is, headings on several lines or on one."""

    least: int
    most: int


def put(sheet: Sheet, console: Console) -> None:
    """Print a sheet, in several tables if it is wider than the console.

    Words fold, numbers never do: columns that have no room go to a table below, after the first
    column once more. A console without room for two columns is taken as if it had it.
    """
    widths = [_width(sheet, at) for at in range(len(sheet.columns))]
    title = sheet.title
    for columns in _parts(widths, console.width):
        room = console.width - _taken([widths[at].least for at in columns])
        console.print(_table(sheet, title, columns, widths, room), soft_wrap=True)
        title = f"{sheet.title}, continued"


def _width(sheet: Sheet, at: int) -> _Width:
    heading, cells = sheet.columns[at], [row[at] for row in sheet.cells]
    longest = max(map(cell_len, cells), default=0)
    most = max(cell_len(heading), longest)
    least = max(_word(heading), min(_LONGEST, max(map(_word, cells), default=0)))
    if at >= sheet.words:
        least = max(least, longest)
    elif at:
        least = max(least, min(_PHRASE, longest))
    return _Width(least, most)


def _word(text: str) -> int:
    """Return how wide the longest word is."""
    return max(map(cell_len, text.split()), default=0)


def _taken(widths: Sequence[int]) -> int:
    return sum(widths) + _BETWEEN * (len(widths) - 1) + _EDGES


def _parts(widths: Sequence[_Width], room: int) -> Iterator[list[int]]:
    """Yield the columns of each table, the first column in all of them."""
    part = [0]
    for at in range(1, len(widths)):
        if len(part) > 1 and _taken([widths[place].least for place in (*part, at)]) > room:
            yield part
            part = [0]
        part.append(at)
    yield part


def _table(
    sheet: Sheet, title: str, columns: Sequence[int], widths: Sequence[_Width], room: int
) -> Table:
    """Return a table of some columns; what room is left goes to the first that can use it."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for at in columns:
        more = max(0, min(room, widths[at].most - widths[at].least))
        room -= more
        table.add_column(
            sheet.columns[at],
            justify="left" if at < sheet.words else "right",
            width=widths[at].least + more,
            overflow="fold",
        )
    for row in sheet.cells:
        table.add_row(*(Text(row[at]) for at in columns))
    return table
