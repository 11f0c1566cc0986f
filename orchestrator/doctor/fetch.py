"""How does a data set get here, without being root?"""

from __future__ import annotations

import difflib
import gzip
import io
import lzma
import math
import shutil
import struct
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from actors.learning.data import Data, DataSettings
from actors.learning.sources.cache import cache_folder
from orchestrator.doctor.data import known_sources
from policies.types import ExperimentError, RunError

FASHION: Final = "fashion-mnist"
PACKAGE: Final = "dataset-fashion-mnist"
FILES: Final = {
    "train-images-idx3-ubyte.gz": (60_000, 28, 28),
    "train-labels-idx1-ubyte.gz": (60_000,),
    "t10k-images-idx3-ubyte.gz": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte.gz": (10_000,),
}
"""What there is, and the sizes that each header must name."""
_DOWNLOAD_S: Final = 600
_AR: Final = b"!<arch>\n"
_MEMBER: Final = struct.Struct("16s12s6s6s8s10s2s")
"""Of an ar archive: name, time, owner, group, mode, size, end."""


def fetch(name: str, to: Path | None) -> str:
    """Get a data set, or see that it is there.

    Args:
        name: A data source.
        to: Where to; by default `fashion-mnist` in the cache.

    Returns:
        Where it is, and the line for the experiment file.

    Raises:
        ExperimentError: If no source has that name.
        RunError: If it cannot be got here; says how else.
    """
    known = known_sources()
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ExperimentError(f"unknown data source {name}.{hint} Known are {', '.join(known)}.")
    missing, needs = known[name].missing, known[name].needs
    if needs == ("root",):
        return downloaded(name, to or cache_folder() / name)
    if needs:
        raise RunError(
            f"{name} is read from files of yours and not fetched. Give "
            f"{' and '.join(f'data.{need}' for need in needs)}; docs/data.md says what they hold."
        )
    if missing is None and to is None:
        return f"{name} is there: it comes with a package.\ndata: {{source: {name}}}"
    if name == FASHION:
        return fashion_mnist(to or cache_folder() / FASHION)
    if missing is None:
        raise RunError(
            f"{name} comes with a package and is there; it has no folder. Leave --to out."
        )
    raise RunError(f"{name} comes in a package. {missing}")


def downloaded(name: str, folder: Path) -> str:
    """Look for a data set that comes in no package; return the line for the file.

    Args:
        name: A data source whose folder is the setting `root`.
        folder: Where it should be.

    Raises:
        RunError: If it is not there whole: says what to download from where, and where it goes.
    """
    folder = folder.expanduser().absolute()
    line = f"data: {{source: {name}, root: {folder}}}"
    settings = TypeAdapter[DataSettings](Data).validate_python({"source": name, "root": folder})
    trouble = settings.trouble()
    if trouble is not None:
        raise RunError(
            f"{name} comes in no package; you download it yourself. {trouble[1]} Here that is "
            f"{folder}, or what you name by --to. Then write {line}."
        )
    return f"{folder}\n{line}"


def fashion_mnist(folder: Path) -> str:
    """Get Fashion-MNIST out of Debian's package, unless a folder has it; return the line."""
    folder = folder.expanduser().absolute()
    line = f"{folder}\ndata: {{source: {FASHION}, root: {folder}}}"
    if all((folder / name).is_file() for name in FILES):
        check(folder)
        return line
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as place:
            partial = Path(place)
            unpack(download(partial, folder), partial)
            check(partial)
            for name in FILES:
                (partial / name).replace(folder / name)
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written to: {error.strerror}. Name another by --to."
        ) from error
    return line


def download(folder: Path, aim: Path) -> Path:
    """Have apt download the package into a folder; return its file.

    Args:
        folder: Where to.
        aim: Where the data is to be in the end, for the message.
    """
    apt = shutil.which("apt-get")
    if apt is None:
        raise RunError(f"there is no apt-get here. {by_hand(aim)}")
    try:
        done = subprocess.run(  # noqa: S603 - what which has found, and fixed words
            [apt, "download", PACKAGE],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(f"apt-get took more than {_DOWNLOAD_S} s. {by_hand(aim)}") from error
    files = sorted(folder.glob(f"{PACKAGE}_*.deb"))
    if done.returncode or not files:
        said = (done.stderr.strip().splitlines() or ["it did not say why"])[-1]
        raise RunError(
            f"apt-get download {PACKAGE} failed: {said}. If it knows no such package, its lists "
            f"may be old: have apt-get update run. Otherwise: {by_hand(aim)}"
        )
    return files[-1]


def by_hand(folder: Path) -> str:
    """Return how to get the files without apt."""
    return (
        f"Download {', '.join(FILES)} from the project zalandoresearch/fashion-mnist, folder "
        f"data/fashion, and put the four files into {folder} as they are. "
        f"Then write data: {{source: {FASHION}, root: {folder}}}."
    )


def unpack(package: Path, folder: Path) -> None:
    """Take the data files, and nothing else, out of a Debian package.

    Raises:
        RunError: If it is damaged or lacks one of them.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(_tar(package))) as archive:
            for member in archive:
                name = Path(member.name).name
                source = archive.extractfile(member) if name in FILES else None
                if source is not None:
                    with source, (folder / name).open("wb") as target:
                        shutil.copyfileobj(source, target)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, struct.error) as error:
        raise RunError(f"{package.name} is damaged: {error}. Try again.") from error
    lacking = [name for name in FILES if not (folder / name).is_file()]
    if lacking:
        raise RunError(f"{package.name} lacks {', '.join(lacking)}. {by_hand(folder)}")


def _tar(package: Path) -> bytes:
    """Return the tar archive in a Debian package."""
    tool = shutil.which("dpkg-deb")
    if tool is not None:
        done = subprocess.run(  # noqa: S603 - what which has found, and our own file
            [tool, "--fsys-tarfile", str(package)], capture_output=True, check=False
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise RunError(f"{package.name} is damaged: {said}. Try again.")
        return done.stdout
    return _members(package)


def _members(package: Path) -> bytes:
    """Return the tar archive by reading the ar archive around it."""
    with package.open("rb") as file:
        if file.read(len(_AR)) != _AR:
            raise RunError(f"{package.name} is no Debian package. Try again.")
        while header := file.read(_MEMBER.size):
            name, *_, length, _ = _MEMBER.unpack(header)
            body = file.read(int(length))
            file.read(int(length) % 2)  # members begin at even places
            kind = name.decode("ascii", "replace").strip().rstrip("/")
            if kind == "data.tar.xz":
                return lzma.decompress(body)
            if kind == "data.tar.gz":
                return gzip.decompress(body)
            if kind == "data.tar":
                return body
            if kind.startswith("data.tar"):
                raise RunError(
                    f"{package.name} is packed as {kind}, which takes dpkg-deb to read. Install "
                    "dpkg."
                )
    raise RunError(f"{package.name} is damaged: it holds no data. Try again.")


def check(folder: Path) -> None:
    """See that all four files are whole.

    Raises:
        RunError: If one is not; says which.

    Cost:
        All is read once, 55 MB unpacked: half a second.
    """
    for name, sizes in FILES.items():
        try:
            with gzip.open(folder / name) as file:
                content = file.read()
        except (OSError, EOFError, zlib.error) as error:
            raise RunError(
                f"{folder / name} is damaged: {error}. Remove it and fetch again."
            ) from error
        header = struct.pack(f">4B{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)
        if content[: len(header)] != header or len(content) != len(header) + math.prod(sizes):
            raise RunError(
                f"{folder / name} is not {FASHION}'s: it must hold {sizes} bytes behind its "
                "header. Remove it and fetch again."
            )
