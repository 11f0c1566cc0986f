"""How does a process keep the memory that it frees?

Each step of training frees as much as the next one needs. The C library gives large pieces back to
the system, on threads even between two steps, and has them cleared and mapped anew: up to a tenth
of a step.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 1 << 28
_LARGE_BYTES: Final = 1 << 25


def keep_freed() -> None:
    """Keep up to 256 MiB of freed memory for the next time, pieces of up to 32 MiB.

    Where the C library is not glibc nothing changes.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
