"""Which process is this, on which machine, and does it run the same code and numerics?"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path

import numpy as np
import psutil

PACKAGES = ("policies", "actors", "orchestrator")


@dataclass(frozen=True, slots=True)
class Identity:
    """A process as others need to know it.

    Attributes:
        pid: Process id on its node.
        host: The node's name.
        code: Fingerprint of our three packages as this process imports them.
        where: The folder that they come from.
        numerics: What equality of digests is promised for.
        node: The node, as Ray names it; empty if that is not said.
        lane: Where processes of the same machine reach it; empty if it answers through Ray alone.
    """

    pid: int
    host: str
    code: str
    where: str
    numerics: str
    node: str = ""
    lane: str = ""


def identify() -> Identity:
    """Describe this process."""
    code, where = _code()
    return Identity(os.getpid(), platform.node(), code, where, numerics())


def join_paths(paths: Sequence[str]) -> None:
    """Make the experiment's own modules importable, after everything that is installed."""
    for path in paths:
        if path not in sys.path:
            sys.path.append(path)


@cache
def _code() -> tuple[str, str]:
    total = hashlib.sha256()
    where = ""
    for package in PACKAGES:
        spec = util.find_spec(package)
        folder = Path(spec.origin).parent if spec and spec.origin else Path()
        where = where or str(folder.parent)
        for file in sorted(folder.rglob("*.py")):
            total.update(f"{package}/{file.relative_to(folder).as_posix()}".encode())
            total.update(file.read_bytes())
    return total.hexdigest()[:16], where


@cache
def numerics() -> str:
    """Return the numerics fingerprint: equal digests are promised where it is equal.

    Torch's version and instruction set are read without importing torch where it is not in use.
    """
    torch_version = metadata.version("torch").split("+")[0]
    return f"torch-{torch_version}/numpy-{np.__version__}/{_instruction_set()}/cpu"


def _instruction_set() -> str:
    if "torch" in sys.modules:
        import torch  # noqa: PLC0415  # only where it is loaded already

        return str(torch.backends.cpu.get_cpu_capability())
    flags = _cpu_flags()
    return "AVX512" if "avx512f" in flags else "AVX2" if "avx2" in flags else platform.machine()


def _cpu_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    lines = [line for line in text.splitlines() if line.startswith("flags")]
    return frozenset(lines[0].split()) if lines else frozenset()


def pss_bytes(pid: int | None = None) -> int:
    """Return a process's proportional set size: its memory, shared pages divided by users."""
    try:
        return int(psutil.Process(pid).memory_full_info().pss)
    except (psutil.Error, AttributeError):
        return 0
