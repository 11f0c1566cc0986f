"""Where is what took long to convert kept for the next time?

`$XDG_CACHE_HOME/latecomer`, or `~/.cache/latecomer`. A file's name carries the format and the
version of the package that it was made from, so that neither is ever mistaken for another.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pandas as pd

FORMAT: Final = 1
"""Rises whenever a conversion changes."""


def cache_folder() -> Path:
    """Return the folder; it may not be there yet."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return base / "latecomer"


def cached(name: str, version: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Return a table from the cache, or make it and keep it there.

    A file that cannot be read is made again. Where nothing can be written nothing is kept.

    Args:
        name: Of the source.
        version: Name and version of the package that it comes from.
        make: Converts the package's data.
    """
    import pandas as pd  # noqa: PLC0415  validating needs no pandas

    file = cache_folder() / f"{name}-{FORMAT}-{version}.parquet"
    if file.is_file():
        with suppress(OSError, ValueError):
            return pd.read_parquet(file)
    table = make()
    with suppress(OSError):
        _keep(table, file)
    return table


def _keep(table: pd.DataFrame, file: Path) -> None:
    """Write a table whole or not at all; two processes may do so at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=file.parent, prefix=f".{file.stem}-")
    os.close(handle)
    try:
        table.to_parquet(partial, index=False)
        Path(partial).replace(file)
    finally:
        Path(partial).unlink(missing_ok=True)
