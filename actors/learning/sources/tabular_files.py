"""How is a file read as a table, and what is said of one that is none?

What a parser says is for programmers; here is said which line to mend, and how.
"""

from __future__ import annotations

import gzip
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from policies.types import ExperimentError

if TYPE_CHECKING:
    import pandas as pd

_OTHERS: Final = {";": "semicolons", "\t": "tabs", "|": "bars"}
"""What separates fields where commas do not."""
_RAGGED: Final = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")


def read_table(file: Path) -> pd.DataFrame:
    """Read a CSV or Parquet file of one or more rows.

    Raises:
        ExperimentError: If it is none, with the way out.
    """
    name = file.name.lower()
    if not name.endswith((".csv", ".csv.gz", ".parquet")):
        raise ExperimentError(f"data.path must end in .csv, .csv.gz or .parquet, got {file.name}.")
    try:
        table = _read_parquet(file) if name.endswith(".parquet") else _read_csv(file)
    except (OSError, EOFError, zlib.error) as error:
        raise ExperimentError(
            f"{file} cannot be read: {error}. Is it whole, and may you read it? Save it again."
        ) from error
    if table.empty:
        raise ExperimentError(f"{file} has a header and no rows. Add rows below it.")
    return table.rename(columns=str)


def _read_parquet(file: Path) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415  validating needs no pandas

    try:
        return pd.read_parquet(file)
    except ValueError as error:
        raise ExperimentError(
            f"{file} must be a Parquet file, as its name says, and is none or not whole: "
            f"{_sentence(error)} Write it again, or save the table as CSV."
        ) from error


def _read_csv(file: Path) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415  validating needs no pandas

    _check_header(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(file, index_col=False)
    except pd.errors.ParserWarning as error:
        raise ExperimentError(
            f"{file} has rows with more fields than its header. Name every column in the header, "
            "and put fields with a comma in them into quotes."
        ) from error
    except UnicodeDecodeError as error:
        raise ExperimentError(
            f"{file} must be UTF-8 text, and line {_first_strange(file)} is none. Save it as UTF-8 "
            "(spreadsheets call it CSV UTF-8)."
        ) from error
    except ValueError as error:
        raise ExperimentError(_mending(file, error)) from error


def _lines(file: Path) -> Iterator[bytes]:
    with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as opened:
        yield from opened


def _check_header(file: Path) -> None:
    """Refuse what has no header, and what something else than commas separates."""
    header = next(filter(None, map(bytes.strip, _lines(file))), b"").decode(errors="replace")
    if not header:
        raise ExperimentError(
            f"{file} is empty. A table has a line with the names of its columns, and rows below it."
        )
    found = next((mark for mark in _OTHERS if mark in header and "," not in header), None)
    if found is not None:
        raise ExperimentError(
            f"{file} must be separated by commas, and seems to be by {_OTHERS[found]}: its header "
            f"is {header[:80]}. Save it with commas, and with decimal points."
        )


def _first_strange(file: Path) -> int:
    """Return the number of the first line that is no UTF-8."""
    for number, line in enumerate(_lines(file), start=1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return number
    return 1  # the file has changed meanwhile


def _mending(file: Path, error: Exception) -> str:
    """Return which line has too many fields, or what the parser says."""
    found = _RAGGED.search(str(error))
    if found is None:
        return (
            f"{file} cannot be read as CSV: {_sentence(error)} Mend that place, or save it again."
        )
    wanted, line, got = found.groups()
    return (
        f"{file} must have {wanted} fields in every row, as in its header, and line {line} has "
        f"{got}. Mend that line; a field with a comma in it needs quotes."
    )


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") + "."
