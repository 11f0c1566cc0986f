"""What do the files beside an experiment file say: profiles and traces?

A path is looked for in the folder of the experiment file, then in the working folder. A mistake is
told with the line of the file that it stands in.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic_core import PydanticCustomError

from orchestrator.document import Document
from orchestrator.fleet.catalogue import Profile
from policies.base import Settings
from policies.types import ExperimentError


class Found(NamedTuple):
    """A file as it is now: equal values mean equal contents."""

    path: Path
    changed_ns: int
    size: int


class _Profiles(Settings):
    profiles: dict[str, Profile]


def find(path: str) -> Found:
    """Find a file beside the experiment file, which made its folder importable, or here.

    Raises:
        PydanticCustomError: If it is in none of the folders.
    """
    for folder in (*reversed(sys.path), ""):
        file = Path(folder) / path
        if file.is_file():
            status = file.stat()
            return Found(file.resolve(), status.st_mtime_ns, status.st_size)
    raise PydanticCustomError(
        "no_file",
        "is no file: {path}. Give its path from the experiment file's folder or from the working "
        "folder.",
        {"path": path},
    )


def read_profiles(path: str) -> dict[str, Profile]:
    """Return the profiles of a YAML file, which maps names to profiles.

    Raises:
        PydanticCustomError: If there is no such file.
        ExperimentFileError: With every mistake in it and its line.
    """
    there = Document.read(find(path).path)
    under = Document(
        there.name,
        {"profiles": there.data},
        {("profiles", *keys): place for keys, place in there.places.items()},
        there.mistakes,
        [("profiles", *keys) for keys in there.unread],
    )
    return under.validate(_Profiles).profiles


def read_columns(
    file: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the columns of a CSV file with a header; all are numbers >= 0.

    Returns:
        Each column by name, those of `optional` only if they are there; a column `line` says where
        each row stands. Columns that are not asked for are a mistake.

    Raises:
        PydanticCustomError: Of the first mistake, with its line.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            names = [name.strip() for name in next(csv.reader([text.readline()]), [])]
            if not set(required) <= set(names) <= {*required, *optional}:
                also = f", and may have {', '.join(optional)}" if optional else ""
                raise mistake(
                    file, 1, f"the header must name {', '.join(required)}{also}, got {names}."
                )
            body = text.read()
        table = _at_once(body, names)
        if table is None:
            table = _row_by_row(file, body, names)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise mistake(file, 1, f"cannot be read as CSV in UTF-8: {error}.") from error
    if not len(table):
        raise mistake(file, 2, "has no rows below the header. Add one.")
    return dict(zip([*names, "line"], np.ascontiguousarray(table.T), strict=True))


def _at_once(body: str, names: Sequence[str]) -> npt.NDArray[np.float64] | None:
    """Return the rows, with their lines, of a body that has a row a line and nothing wrong.

    Returns:
        Shape (rows, columns + 1); None if somebody has to look at it row by row.
    """
    lines = body.count("\n") + (not body.endswith("\n"))
    if not body.strip():
        return None
    try:
        table = np.loadtxt(io.StringIO(body), delimiter=",", comments=None, ndmin=2)
    except ValueError:
        return None
    fits = table.shape == (lines, len(names)) and bool((table >= 0).all())
    if not (fits and np.isfinite(table).all()):
        return None
    if "client" in names and (table[:, names.index("client")] % 1).any():
        return None
    return np.column_stack([table, np.arange(2.0, lines + 2)])


def _row_by_row(file: Path, body: str, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return the rows as `_at_once` does, whatever lies between them; say what is wrong where."""
    reader = csv.reader(io.StringIO(body, newline=""))
    rows = [
        (*_numbers(file, reader.line_num + 1, names, row), reader.line_num + 1.0)
        for row in reader
        if row
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, len(names) + 1)


def _numbers(file: Path, line: int, names: Sequence[str], row: Sequence[str]) -> list[float]:
    if len(row) != len(names):
        raise mistake(
            file, line, f"must have {len(names)} cells as the header has, got {len(row)}."
        )
    numbers = []
    for name, cell in zip(names, row, strict=True):
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        whole = name != "client" or number.is_integer()
        if not (0 <= number < math.inf and whole):
            rule = "a number" if name != "client" else "a whole number"
            raise mistake(file, line, f"{name} must be {rule} >= 0, got {cell.strip()!r}.")
        numbers.append(number)
    return numbers


def mistake(file: Path, line: float, text: str) -> PydanticCustomError:
    """Return the error for a line of a file."""
    return PydanticCustomError("in_file", "{text}", {"text": f"{file.name}:{int(line)}: {text}"})


def merged_profiles(paths: Sequence[str]) -> tuple[dict[str, Profile], dict[int, str]]:
    """Return the profiles of several files, and what is wrong with which file."""
    profiles: dict[str, Profile] = {}
    wrong: dict[int, str] = {}
    for at, path in enumerate(paths):
        try:
            found = read_profiles(path)
        except (ExperimentError, PydanticCustomError) as error:
            wrong[at] = str(error)
            continue
        twice = [name for name in found if name in profiles]
        if twice:
            wrong[at] = f"{path} has {twice[0]}, and so has a file before it. Keep one."
        profiles |= found
    return profiles, wrong
