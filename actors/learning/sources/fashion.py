"""How are the images of Fashion-MNIST read, wherever they lie?"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Literal, cast

import numpy as np
import numpy.typing as npt

from actors.learning.examples import DataSet, DataShape
from actors.learning.sources.base import DataSettings
from policies.types import ExperimentError

DEBIAN_FASHION_MNIST: Final = Path("/usr/share/datasets/fashion-mnist")
"""Where the package dataset-fashion-mnist puts it."""
_NAMES: Final = (
    "T-shirt or top", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "trainer", "bag",
    "ankle boot",
)  # fmt: skip
_SHAPE: Final = DataShape(60_000, 10_000, (1, 28, 28), 10, class_names=_NAMES)
_MOMENTS: Final = (0.286041, 0.353024)
"""Mean and standard deviation over the whole training split."""
_IDX_FILES: Final = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class FashionMnist(DataSettings):
    """70,000 images of clothes of 28 x 28.

    Attributes:
        root: Folder of one that is not Debian's: the four idx files, gzipped or not, there or in
            FashionMNIST/raw as torchvision leaves them.
    """

    source: Literal["fashion-mnist"] = "fashion-mnist"
    root: Path | None = None

    def whole_shape(self) -> DataShape:
        """Return what is known of Debian's package, or what the headers in `root` say."""
        if self.root is None:
            return _SHAPE
        (train, *image), _, (test, *_), _ = (idx_sizes(f) for f in idx_files(self.root))
        return DataShape(train, test, (1, *image), _SHAPE.classes, class_names=_NAMES)

    def where(self) -> str:
        """Return the setting that names the folder, if one does."""
        return "data.source" if self.root is None else "data.root"

    def find(self) -> None:
        """Look for the four files."""
        idx_files(self.root)

    def read(self) -> DataSet:
        """Read the four files."""
        x_train, y_train, x_test, y_test = (_read_idx(file) for file in idx_files(self.root))
        return DataSet(
            x_train[:, None],
            y_train.astype(np.int64),
            x_test[:, None],
            y_test.astype(np.int64),
            _SHAPE.classes,
            *_MOMENTS,
            class_names=_NAMES,
        )


def idx_files(root: Path | None) -> list[Path]:
    """Find fashion-mnist's four files, in the order of `_IDX_FILES`."""
    base = (root or DEBIAN_FASHION_MNIST).expanduser()
    folders = (base, base / "FashionMNIST" / "raw")
    for folder in folders:
        both = ([folder / name, folder / f"{name}.gz"] for name in _IDX_FILES)
        found = [next((file for file in pair if file.is_file()), None) for pair in both]
        files = [file for file in found if file is not None]
        if len(files) == len(_IDX_FILES):
            return files
    raise ExperimentError(
        f"data.source fashion-mnist is the files {', '.join(_IDX_FILES)}, gzipped or not, in "
        f"{folders[0]} or {folders[1]}; not all of them are there. "
        "Run: apt-get install dataset-fashion-mnist, or set data.root to their folder."
    )


@contextmanager
def _opened_idx(file: Path) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """Open a file in MNIST's format behind its header, with the sizes that the header names.

    The header: two zeros, 8 for bytes, the number of sizes, then each size, big-endian.
    """
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            content = cast("IO[bytes]", opened)
            magic = content.read(4)
            rank = 3 if "idx3" in file.name else 1
            if magic != bytes((0, 0, 8, rank)):
                raise ExperimentError(f"{file} is not in MNIST's idx{rank} format: {magic!r}.")
            yield content, struct.unpack(f">{rank}I", content.read(4 * rank))
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise ExperimentError(
            f"{file} is damaged: {error}. Download or install it again."
        ) from error


def idx_sizes(file: Path) -> tuple[int, ...]:
    """Read the sizes that an idx file names, and no more."""
    with _opened_idx(file) as (_, sizes):
        return sizes


def _read_idx(file: Path) -> npt.NDArray[np.uint8]:
    """Read an idx file."""
    with _opened_idx(file) as (opened, sizes):
        data = opened.read(math.prod(sizes) + 1)
    if len(data) != math.prod(sizes):
        raise ExperimentError(
            f"{file} is damaged: its header names {math.prod(sizes)} values, it holds "
            f"{'more' if len(data) > math.prod(sizes) else len(data)}. "
            "Download or install it again."
        )
    # A copy, because what frombuffer returns cannot be written to, which torch warns about.
    return np.frombuffer(data, dtype=np.uint8).reshape(sizes).copy()
