"""What do the files beside an experiment file say: profiles and traces?

A path is looked for in the folder of the experiment file, then in the working folder. A mistake is
told with the line of the file that it stands in.
"""

from __future__ import annotations

import csv
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
            reader = csv.reader(text)
            names = [name.strip() for name in next(reader, [])]
            if not set(required) <= set(names) <= {*required, *optional}:
                also = f", and may have {', '.join(optional)}" if optional else ""
                raise mistake(
                    file, 1, f"the header must name {', '.join(required)}{also}, got {names}."
                )
            rows = [
                (*_numbers(file, reader.line_num, names, row), float(reader.line_num))
                for row in reader
                if row
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise mistake(file, 1, f"cannot be read as CSV in UTF-8: {error}.") from error
    if not rows:
        raise mistake(file, 2, "has no rows below the header. Add one.")
    table = np.array(rows, dtype=np.float64)
    return dict(zip([*names, "line"], np.ascontiguousarray(table.T), strict=True))


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
