"""How are CIFAR-10 and CIFAR-100 read from a folder that the user has?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from actors.learning.examples import DataSet, DataShape, Labels
from actors.learning.sources.base import DataSettings
from actors.learning.sources.moments import moments
from actors.learning.sources.pickles import read_arrays
from policies.types import ExperimentError

_IMAGE: Final = (3, 32, 32)
_PIXELS: Final = 3 * 32 * 32


class _Version(NamedTuple):
    """One of the two forms in which a data set is given away.

    Attributes:
        folder: Where it lies when it is unpacked.
        train: Files of the training split.
        test: File of the test split.
        names: File of the classes' names.
        binary: Records of labels and pixels; else pickles.
    """

    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    binary: bool


class _Cifar(DataSettings):
    """Images of 32 x 32 in colour.

    Attributes:
        root: Folder of the files, or the one above it; the binary version is preferred.
    """

    root: Path = Field()
    _classes: ClassVar[int]
    _label_bytes: ClassVar[int]
    _label_name: ClassVar[str]
    _sizes: ClassVar[tuple[int, int]]
    """Images in a whole file of the training split, and in that of the test split."""
    _versions: ClassVar[tuple[_Version, _Version]]

    def whole_shape(self) -> DataShape:
        """Look at the sizes of binary files; the python version is read."""
        folder, version = self._look()
        if not version.binary:
            return self.read().shape
        train, test = self._sizes
        for name, images in self._files(version):
            self._check_size(folder / name, (folder / name).stat().st_size, images)
        names = self._names(folder, version)
        return DataShape(train * len(version.train), test, _IMAGE, self._classes, class_names=names)

    def where(self) -> str:
        """Return the setting that names the folder."""
        return "data.root"

    def find(self) -> None:
        """Look for either version's files."""
        self._look()

    def read(self) -> DataSet:
        """Read all files of the version that is there."""
        folder, version = self._look()
        read = self._read_binary if version.binary else self._read_python
        *parts, (x_test, y_test) = (
            read(folder / name, images) for name, images in self._files(version)
        )
        x_train = np.concatenate([x for x, _ in parts])
        y_train = np.concatenate([y for _, y in parts])
        return DataSet(
            x_train,
            y_train,
            x_test,
            y_test,
            self._classes,
            *moments(x_train),
            class_names=self._names(folder, version),
        )

    def _files(self, version: _Version) -> Iterator[tuple[str, int]]:
        """Yield each file and how many images it must hold, the test split last."""
        train, test = self._sizes
        yield from ((name, train) for name in version.train)
        yield version.test, test

    def _look(self) -> tuple[Path, _Version]:
        base = self.root.expanduser()
        for version in self._versions:
            for folder in (base, base / version.folder):
                if all((folder / name).is_file() for name in (*version.train, version.test)):
                    return folder, version
        binary, python = self._versions
        raise ExperimentError(
            f"data.root must hold {self.source}: the files "
            f"{', '.join((*binary.train, binary.test))} of the binary version, in {base} or "
            f"{base / binary.folder}, or {', '.join((*python.train, python.test))} of the python "
            f"version, there or in {base / python.folder}; not all of them are there. Download "
            "and unpack it from https://www.cs.toronto.edu/~kriz/cifar.html, and set data.root to "
            "its folder."
        )

    def _names(self, folder: Path, version: _Version) -> tuple[str, ...]:
        """Read the classes' names; () if their file is not there or names others."""
        file = folder / version.names
        if not file.is_file():
            return ()
        if version.binary:
            names = file.read_text(encoding="utf-8", errors="replace").split()
        else:
            listed = read_arrays(file).get(self._label_name.removesuffix("s") + "_names", ())
            names = [n.decode("latin1") if isinstance(n, bytes) else str(n) for n in listed]
        return tuple(names) if len(names) == self._classes else ()

    def _check_size(self, file: Path, size: int, images: int) -> None:
        """Refuse a binary file that is not whole."""
        record = self._label_bytes + _PIXELS
        if size != images * record:
            raise ExperimentError(
                f"{file} is damaged: it must hold {images:,} images of {record:,} bytes, "
                f"{images * record:,} in all, and has {size:,}. Download it again."
            )

    def _read_binary(self, file: Path, images: int) -> tuple[npt.NDArray[np.uint8], Labels]:
        """Read records of labels and pixels; the last label is the fine one."""
        content = np.fromfile(file, dtype=np.uint8)
        self._check_size(file, content.size, images)
        rows = content.reshape(images, -1)
        labels = rows[:, self._label_bytes - 1].astype(np.int64)
        return rows[:, self._label_bytes :].reshape(-1, *_IMAGE), labels

    def _read_python(self, file: Path, images: int) -> tuple[npt.NDArray[np.uint8], Labels]:
        """Read a pickled mapping of pixels and labels."""
        found = read_arrays(file)
        x, y = found.get("data"), np.asarray(found.get(self._label_name, ()))
        shaped = isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.shape[1:] == (_PIXELS,)
        if x is None or not shaped or y.shape != (len(x),) or y.dtype.kind != "i":
            raise ExperimentError(
                f"{file} must hold `data`, uint8 of shape (n, {_PIXELS}), and n whole numbers as "
                f"`{self._label_name}`. Download it again."
            )
        if len(x) != images:
            raise ExperimentError(
                f"{file} is damaged: it must hold {images:,} images, and has {len(x):,}. "
                "Download it again."
            )
        return x.reshape(-1, *_IMAGE), y.astype(np.int64)


class Cifar10(_Cifar):
    """60,000 images of 32 x 32 in 10 classes, from the user's folder."""

    source: Literal["cifar10"] = "cifar10"
    _classes = 10
    _label_bytes = 1
    _label_name = "labels"
    _sizes = (10_000, 10_000)
    _versions = (
        _Version(
            "cifar-10-batches-bin",
            tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            "test_batch.bin",
            "batches.meta.txt",
            binary=True,
        ),
        _Version(
            "cifar-10-batches-py",
            tuple(f"data_batch_{i}" for i in range(1, 6)),
            "test_batch",
            "batches.meta",
            binary=False,
        ),
    )


class Cifar100(_Cifar):
    """60,000 images of 32 x 32 in 100 classes, from the user's folder."""

    source: Literal["cifar100"] = "cifar100"
    _classes = 100
    _label_bytes = 2
    _label_name = "fine_labels"
    _sizes = (50_000, 10_000)
    _versions = (
        _Version(
            "cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt", binary=True
        ),
        _Version("cifar-100-python", ("train",), "test", "meta", binary=False),
    )
