"""Where is what took long to convert kept for the next time?

`$XDG_CACHE_HOME/latecomer`, or `~/.cache/latecomer`. A file's name carries the format and the
version of the package that it was made from, so that neither is ever mistaken for another.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

Arrays = Mapping[str, npt.NDArray[np.float32]]

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
        _keep(file, lambda partial: table.to_parquet(partial, index=False))
    return table


def cached_arrays(name: str, version: str, make: Callable[[], Arrays]) -> Arrays:
    """Return named arrays from the cache, or make them and keep them there, as safetensors.

    Args:
        name: Of what they are the weights of.
        version: As of `cached`.
        make: Converts the package's file.
    """
    from safetensors import SafetensorError  # noqa: PLC0415  validating needs no weights
    from safetensors.numpy import load_file, save_file  # noqa: PLC0415

    file = _arrays_file(name, version)
    if file.is_file():
        with suppress(OSError, ValueError, SafetensorError):
            found: Arrays = load_file(file)
            return found
    arrays = {key: np.array(array, np.float32, order="C") for key, array in make().items()}
    with suppress(OSError, SafetensorError):
        _keep(file, lambda partial: save_file(arrays, partial))
    return arrays


def is_cached(name: str, version: str) -> bool:
    """Say whether `cached_arrays` has kept something; arguments as there."""
    return _arrays_file(name, version).is_file()


def _arrays_file(name: str, version: str) -> Path:
    return cache_folder() / f"{name}-{FORMAT}-{version}.safetensors"


def _keep(file: Path, write: Callable[[str], Any]) -> None:
    """Write a file whole or not at all; two processes may do so at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=file.parent, prefix=f".{file.stem}-")
    os.close(handle)
    try:
        write(partial)
        Path(partial).replace(file)
    finally:
        Path(partial).unlink(missing_ok=True)
