"""What is installed on this node, and what has it?

Runs on nodes that may lack all of our packages: it is sent there by value, and so imports nothing
but the standard library at the top, and ours and others only inside.
"""

import os
import platform
import shutil
from importlib import metadata

PACKAGES = ("latecomer", "torch", "ray", "mlflow", "numpy", "constriction")


def look() -> dict[str, object]:
    """Describe this node in plain data.

    Returns:
        `host`; `versions` by package, Python among them, None for one that is not there; `code`,
        the fingerprint of our packages, None where they cannot be imported; `memory_bytes` that
        are free; `shm_bytes` of /dev/shm.
    """
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    try:
        from actors.identity import identify  # noqa: PLC0415  # may not be there

        code = identify().code
    except Exception:  # noqa: BLE001 - whatever keeps it from being imported
        code = None
    return {
        "host": platform.node(),
        "versions": versions,
        "code": code,
        "memory_bytes": _free_memory(),
        "shm_bytes": _size("/dev/shm"),  # noqa: S108 - where Ray keeps its objects
    }


def _free_memory() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 - sent by value
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0


def _size(path: str) -> int:
    if not os.path.exists(path):  # noqa: PTH110 - as above
        return 0
    return shutil.disk_usage(path).total
