"""Where is a file that the experiment names by a relative path?"""

from __future__ import annotations

import sys
from pathlib import Path


def locate(path: Path) -> Path:
    """Return where a path leads: beside the experiment file, else from the working folder.

    The experiment file's folder is found as its own modules are: it stands last where Python looks
    for modules.
    """
    path = path.expanduser()
    if path.is_absolute():
        return path
    beside = (Path(folder) / path for folder in reversed(sys.path) if folder)
    return next((found for found in beside if found.exists()), Path.cwd() / path)
