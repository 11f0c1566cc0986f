"""How are arrays read from a pickle that somebody else wrote, without running anything of it?"""

from __future__ import annotations

import codecs
import pickle
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from policies.types import ExperimentError


def _empty_array(*_: Any) -> npt.NDArray[np.uint8]:
    """Stand in for numpy's own: the state that follows fills the array."""
    return np.empty(0, dtype=np.uint8)


def _encode(text: str, coding: str) -> bytes:
    """Stand in for `codecs.encode`, by which Python 3 writes bytes in old formats."""
    if coding != "latin1":
        raise pickle.UnpicklingError(f"the coding {coding} is not known here")
    return codecs.latin_1_encode(text)[0]


_KNOWN: Final[dict[tuple[str, str], Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _ArraysOnly(pickle.Unpickler):
    """Knows what makes an array, and nothing else by name."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        found = _KNOWN.get((module_name, global_name))
        if found is None:
            raise pickle.UnpicklingError(
                f"it asks for {module_name}.{global_name}, which no array needs"
            )
        return found


def read_arrays(file: Path) -> dict[str, Any]:
    """Read a pickled mapping of names to arrays, lists, numbers and text.

    Raises:
        ExperimentError: If the file holds or asks for anything else.
    """
    try:
        with file.open("rb") as opened:
            found = _ArraysOnly(opened, encoding="bytes").load()
    except Exception as error:
        # A damaged pickle may raise nearly anything.
        raise ExperimentError(
            f"{file} cannot be read as pickled arrays: {error}. Download it again, or take the "
            "binary version of the data set."
        ) from error
    if not isinstance(found, dict):
        raise ExperimentError(f"{file} must hold a mapping, got {type(found).__name__}.")
    names = ((k.decode("latin1") if isinstance(k, bytes) else str(k), v) for k, v in found.items())
    return dict(names)
