"""How are CIFAR-10 and CIFAR-100 read from a folder that the user has?"""

from __future__ import annotations

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
    """One of the two forms in which a data set is given away."""

    folder: str
    train: tuple[str, ...]
    test: str
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
    _versions: ClassVar[tuple[_Version, _Version]]

    def whole_shape(self) -> DataShape:
        """Return what the sizes of binary files say; the python version is read."""
        folder, version = self._look()
        if not version.binary:
            return self.read().shape
        record = self._label_bytes + _PIXELS
        train = sum((folder / name).stat().st_size // record for name in version.train)
        test = (folder / version.test).stat().st_size // record
        return DataShape(train, test, _IMAGE, self._classes)

    def find(self) -> None:
        """Look for either version's files."""
        self._look()

    def read(self) -> DataSet:
        """Read all files of the version that is there."""
        folder, version = self._look()
        read = self._read_binary if version.binary else self._read_python
        parts = [read(folder / name) for name in version.train]
        x_train = np.concatenate([x for x, _ in parts])
        y_train = np.concatenate([y for _, y in parts])
        x_test, y_test = read(folder / version.test)
        return DataSet(x_train, y_train, x_test, y_test, self._classes, *moments(x_train))

    def _look(self) -> tuple[Path, _Version]:
        base = self.root.expanduser()
        for version in self._versions:
            for folder in (base, base / version.folder):
                if all((folder / name).is_file() for name in (*version.train, version.test)):
                    return folder, version
        binary, python = self._versions
        raise ExperimentError(
            f"data.source {self.source} is the files {', '.join((*binary.train, binary.test))} of "
            f"the binary version, in {base} or {base / binary.folder}, or {python.train[0]} and so "
            f"on of the python version, there or in {base / python.folder}; not all of them are "
            "there. Download and unpack it from https://www.cs.toronto.edu/~kriz/cifar.html, and "
            "set data.root to its folder."
        )

    def _read_binary(self, file: Path) -> tuple[npt.NDArray[np.uint8], Labels]:
        """Read records of labels and pixels; the last label is the fine one."""
        content = np.fromfile(file, dtype=np.uint8)
        record = self._label_bytes + _PIXELS
        if not content.size or content.size % record:
            raise ExperimentError(
                f"{file} is damaged: {content.size} bytes are no multiple of {record}. "
                "Download it again."
            )
        rows = content.reshape(-1, record)
        labels = rows[:, self._label_bytes - 1].astype(np.int64)
        return rows[:, self._label_bytes :].reshape(-1, *_IMAGE), labels

    def _read_python(self, file: Path) -> tuple[npt.NDArray[np.uint8], Labels]:
        """Read a pickled mapping of pixels and labels."""
        found = read_arrays(file)
        x, y = found.get("data"), np.asarray(found.get(self._label_name, ()))
        shaped = isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.shape[1:] == (_PIXELS,)
        if x is None or not shaped or y.shape != (len(x),) or y.dtype.kind != "i":
            raise ExperimentError(
                f"{file} must hold `data`, uint8 of shape (n, {_PIXELS}), and n whole numbers as "
                f"`{self._label_name}`. Download it again."
            )
        return x.reshape(-1, *_IMAGE), y.astype(np.int64)


class Cifar10(_Cifar):
    """60,000 images of 32 x 32 in 10 classes, from the user's folder."""

    source: Literal["cifar10"] = "cifar10"
    _classes = 10
    _label_bytes = 1
    _label_name = "labels"
    _versions = (
        _Version(
            "cifar-10-batches-bin",
            tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            "test_batch.bin",
            binary=True,
        ),
        _Version(
            "cifar-10-batches-py",
            tuple(f"data_batch_{i}" for i in range(1, 6)),
            "test_batch",
            binary=False,
        ),
    )


class Cifar100(_Cifar):
    """60,000 images of 32 x 32 in 100 classes, from the user's folder."""

    source: Literal["cifar100"] = "cifar100"
    _classes = 100
    _label_bytes = 2
    _label_name = "fine_labels"
    _versions = (
        _Version("cifar-100-binary", ("train.bin",), "test.bin", binary=True),
        _Version("cifar-100-python", ("train",), "test", binary=False),
    )
