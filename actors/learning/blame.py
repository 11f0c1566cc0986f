"""What is said when code of the user's own raises, and where it did?"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType

from policies.base import own_function
from policies.types import ExperimentError


@contextmanager
def blame(path: str, called: str = "") -> Iterator[None]:
    """Turn whatever is raised inside into one error that says what it was, and where.

    Errors of ours pass through: they say it already.

    Args:
        path: The user's code, ``module:name``.
        called: What the message calls it; by default `path`.

    Raises:
        ExperimentError: In place of any other exception.
    """
    try:
        yield
    except ExperimentError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ExperimentError(
            f"{called or path} raised {what}{_place(path, error)}. Mend the function."
        ) from error


def _place(path: str, error: Exception) -> str:
    """Return the last line of the user's file that ran, or where the function begins."""
    code = _code(path)
    module = sys.modules.get(path.partition(":")[0])
    files = {getattr(module, "__file__", None), code.co_filename if code else None} - {None}
    lines = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename in files
    ]
    if not lines and code is not None:  # it was called with the wrong arguments
        lines = [(code.co_filename, code.co_firstlineno)]
    return f" ({Path(lines[-1][0]).name}, line {lines[-1][1]})" if lines else ""


def _code(path: str) -> CodeType | None:
    """Return the code of a function; None of what is none, such as a class."""
    with suppress(ExperimentError, ValueError):
        found = getattr(inspect.unwrap(own_function(path)), "__code__", None)
        return found if isinstance(found, CodeType) else None
    return None
