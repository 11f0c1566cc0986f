"""How does a run's folder get to where it outlives this machine, such as an object store?

A run works in a folder of this machine. At every checkpoint, what it would need to go on is
copied: each file once, under a name made of its content, and then a new list of them; the list
before goes after that. Whoever reads the newest list that is whole so finds all that it names,
whenever the copying was cut, and nothing is ever written over. At the end the run's files appear
under their own names, and the list and what it names go.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import xxhash

from policies.types import ExperimentError, RunError

LIST: Final = "going-{:06}.json"
OBJECTS: Final = "going"
LAST: Final = "summary.json"
"""The file that is delivered last: where it is, the run is finished and whole."""
_LISTED: Final = re.compile(r"going-\d{6}\.json")
_CHUNK: Final = 2**22


class Elsewhere:
    """A folder at a URL of `fsspec`: ``s3://bucket/folder``, ``gs://``, ``file:///folder``, others.

    What a protocol needs (credentials, end points) it takes from its own environment.

    Args:
        url: Of the run's folder.

    Attributes:
        whole: Whether the last copy was whole.

    Raises:
        ExperimentError: If the URL holds credentials, or nothing here speaks its protocol.
    """

    def __init__(self, url: str) -> None:
        from fsspec import url_to_fs  # noqa: PLC0415  # half of the command never needs it

        parts = urlsplit(url)
        if parts.username or parts.password:
            raise ExperimentError(
                f"the location {parts.scheme}://... holds credentials, which end up in logs. Give "
                "them in the environment, as its protocol reads them."
            )
        self.url = url.rstrip("/")
        try:
            self._fs, self._root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ExperimentError(f"{url} cannot be used here: {error}") from error
        self._hashes: dict[tuple[str, int, int], str] = {}
        self._there: set[str] = set()
        self.whole = False

    @property
    def name(self) -> str:
        """The run's id: the last part of the URL."""
        return self.url.rpartition("/")[2]

    def scratch(self) -> Path:
        """Return a new folder of this machine for the run to work in; it does not exist yet."""
        return Path(tempfile.mkdtemp(prefix="latecomer-")) / self.name

    def finished(self) -> bool:
        """Say whether a finished run is there."""
        return self._exists(LAST)

    def going(self) -> bool:
        """Say whether a run is there that can go on."""
        return self._newest() is not None

    def keep(self, folder: Path) -> int:
        """Copy what is new in a run's folder, and drop what is no longer in it.

        Returns:
            How many bytes were sent.

        Raises:
            Exception: Whatever the protocol raises; what was kept before is whole all the same.
        """
        self.whole = False
        if not self._there:
            self._fs.makedirs(self._at(OBJECTS), exist_ok=True)
        named: dict[str, str] = {}
        sent = 0
        for path in _files(folder):
            name = path.relative_to(folder).as_posix()
            with suppress(FileNotFoundError):  # MLflow's thread has done with it
                named[name], size = self._send(path, stays=name.startswith("checkpoint/"))
                sent += size
        before = self._lists()
        number = int(before[-1][-11:-5]) + 1 if before else 1
        listed = json.dumps({"files": named}, indent=1).encode()
        self._fs.pipe_file(self._at(LIST.format(number)), listed)
        self._drop(before)
        for content in self._there - set(named.values()):
            self._there.discard(content)
            with suppress(FileNotFoundError):
                self._fs.rm_file(self._at(f"{OBJECTS}/{content}"))
        self.whole = True
        return sent

    def _send(self, path: Path, *, stays: bool) -> tuple[str, int]:
        """Copy a file if its content is not there; return the content's name, and bytes sent.

        A file that others may write meanwhile is read once, and those bytes are what is sent.
        """
        content = self._hash(path) if stays else ""
        data = b"" if stays else path.read_bytes()
        content = content or xxhash.xxh3_128(data).hexdigest()
        if content in self._there:
            return content, 0
        target = self._free(f"{OBJECTS}/{content}")
        if stays:
            self._fs.put_file(str(path), target)
        else:
            self._fs.pipe_file(target, data)
        self._there.add(content)
        return content, path.stat().st_size if stays else len(data)

    def fetch(self, folder: Path) -> None:
        """Copy the run that is here into a folder of this machine.

        Raises:
            ExperimentError: If there is none.
            RunError: If a file of it is not what it was.
        """
        named = self._newest()
        if named is None:
            raise ExperimentError(
                f"{self.url} holds no run that could go on: no {LIST.format(1)} or later is in it."
            )
        for name, content in named.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(self._at(f"{OBJECTS}/{content}"), str(target))
            if self._hash(target) != content:
                raise RunError(f"{self.url}: {name} is damaged. Fetch an older copy, or run anew.")
        self._there = set(named.values())

    def deliver(self, folder: Path) -> None:
        """Copy a finished run under its files' own names, `LAST` at the end; drop what was kept."""
        self.whole = False
        files = sorted(_files(folder), key=lambda path: path.name == LAST)
        for path in files:
            name = path.relative_to(folder).as_posix()
            target = self._free(name)
            self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            if name == LAST:
                partial: Any = self._free(f"{name}.partial")
                self._fs.pipe_file(partial, path.read_bytes())
                self._fs.mv(partial, target)
            else:
                self._fs.put_file(str(path), target)
        self.whole = True
        lists = self._lists()
        if lists:
            self._drop(lists)
            self._fs.rm(self._at(OBJECTS), recursive=True)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _free(self, name: str) -> str:
        """Return where a file goes, once what a copy that was cut has left there is gone."""
        target = self._at(name)
        if self._fs.exists(target):
            self._fs.rm_file(target)
        return target

    def _exists(self, name: str) -> bool:
        try:
            return bool(self._fs.exists(self._at(name)))
        except Exception as error:
            raise ExperimentError(f"{self.url} is out of reach: {error}") from error

    def _lists(self) -> list[str]:
        """Return the names of all lists that are there, the newest at the end."""
        try:
            self._fs.invalidate_cache()  # another process may have written meanwhile
            there = [path.rpartition("/")[2] for path in self._fs.ls(self._root, detail=False)]
        except FileNotFoundError:
            return []
        except Exception as error:
            raise ExperimentError(f"{self.url} is out of reach: {error}") from error
        return sorted(name for name in there if _LISTED.fullmatch(name))

    def _newest(self) -> dict[str, str] | None:
        """Return what the newest list names that is whole; None if there is none."""
        for name in reversed(self._lists()):
            with suppress(ValueError):  # it was cut
                named: dict[str, str] = json.loads(self._fs.cat_file(self._at(name)))["files"]
                return named
        return None

    def _drop(self, lists: list[str]) -> None:
        for name in lists:
            with suppress(FileNotFoundError):
                self._fs.rm_file(self._at(name))

    def _hash(self, path: Path) -> str:
        stat = path.stat()
        key = str(path), stat.st_size, stat.st_mtime_ns
        if key not in self._hashes:
            total = xxhash.xxh3_128()
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    total.update(chunk)
            self._hashes[key] = total.hexdigest()
        return self._hashes[key]


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a run's folder that are whole."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and path.suffix != ".tmp" and "partial-" not in inside.as_posix():
            yield path


def is_url(location: str) -> bool:
    """Say whether a run's location is not simply a folder of this machine."""
    return "://" in location
