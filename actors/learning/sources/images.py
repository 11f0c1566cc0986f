"""How are images read from folders of classes?"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from actors.learning.examples import DataSet, DataShape, Labels
from actors.learning.sources.base import DataSettings
from actors.learning.sources.moments import moments
from actors.learning.sources.places import locate
from actors.learning.sources.splits import by_group
from policies.types import ExperimentError

_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm"})
_TINY: Final = 64
"""Height and width of the images of Tiny-ImageNet."""
_Listed = tuple[list[Path], Labels]
"""Files and their classes."""


class _ImageFiles(DataSettings):
    """Images that lie in files of their own."""

    def whole_shape(self) -> DataShape:
        """Count files; none is opened."""
        (train, _), (test, _), names, size = self._list()
        return DataShape(len(train), len(test), (3, size, size), len(names))

    def find(self) -> None:
        """Look for the folders."""
        self._list()

    def read(self) -> DataSet:
        """Open every image.

        Cost:
            About a minute for 100,000 images of 64 x 64.
        """
        (train, y_train), (test, y_test), names, size = self._list()
        x_train, x_test = (_read_images(files, size) for files in (train, test))
        return DataSet(x_train, y_train, x_test, y_test, len(names), *moments(x_train))

    @abstractmethod
    def _list(self) -> tuple[_Listed, _Listed, list[str], int]:
        """Return training and test files, names of the classes, and height and width."""


class Folder(_ImageFiles):
    """Images of the user's in one subfolder a class.

    Attributes:
        path: Holds train/CLASS/* and test/CLASS/*, or CLASS/*.
        size: Height and width that images are brought to.
        test_share: Share of the images that is set aside where there is no folder test.
    """

    source: Literal["folder"] = "folder"
    path: Path = Field()
    size: Annotated[int, Field(ge=1, le=1024)] = 32
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2

    def _list(self) -> tuple[_Listed, _Listed, list[str], int]:
        base = locate(self.path)
        if (base / "train").is_dir() and (base / "test").is_dir():
            names = _classes(base / "train")
            strange = set(_folders(base / "test")) - set(names)
            if strange:
                raise ExperimentError(
                    f"{base / 'test'} has classes that {base / 'train'} lacks: "
                    f"{', '.join(sorted(strange))}. Move or remove them."
                )
            return (
                _by_class(base / "train", names),
                _by_class(base / "test", names),
                names,
                self.size,
            )
        names = _classes(base)
        files, labels = _by_class(base, names)
        test = by_group(labels, math.ceil(self.test_share * len(labels)), "folder")
        rest = np.setdiff1d(np.arange(len(labels)), test)
        train, test_files = ([files[i] for i in rows] for rows in (rest, test))
        return (train, labels[rest]), (test_files, labels[test]), names, self.size


class TinyImageNet(_ImageFiles):
    """110,000 images of 64 x 64 in 200 classes, from the user's folder; val is the test split.

    Attributes:
        root: Folder with wnids.txt, train and val, or the one above it.
    """

    source: Literal["tiny-imagenet"] = "tiny-imagenet"
    root: Path = Field()

    def _list(self) -> tuple[_Listed, _Listed, list[str], int]:
        base = self.root.expanduser()
        folders = (base, base / "tiny-imagenet-200")
        notes = "val/val_annotations.txt"
        found = next(
            (f for f in folders if (f / "wnids.txt").is_file() and (f / notes).is_file()), None
        )
        if found is None:
            raise ExperimentError(
                f"data.source tiny-imagenet is wnids.txt, {notes} and train/, in {folders[0]} or "
                f"{folders[1]}; not all of them are there. Download and unpack "
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip, and set data.root to its folder."
            )
        names = (found / "wnids.txt").read_text(encoding="utf-8").split()
        return _by_class(found / "train", names, "images"), _annotated(found, names), names, _TINY


def _annotated(base: Path, names: Sequence[str]) -> _Listed:
    """List the images of val, whose classes stand in a file."""
    number = {name: i for i, name in enumerate(names)}
    files, labels = [], []
    for line in (base / "val" / "val_annotations.txt").read_text(encoding="utf-8").splitlines():
        file, _, rest = line.partition("\t")
        name = rest.partition("\t")[0]
        if name not in number:
            raise ExperimentError(
                f"val_annotations.txt in {base / 'val'} names the class {name!r}, which wnids.txt "
                "lacks. Unpack the data set again."
            )
        files.append(base / "val" / "images" / file)
        labels.append(number[name])
    return files, np.array(labels, dtype=np.int64)


def _folders(base: Path) -> list[str]:
    """Return the names of the subfolders that hold images, sorted."""
    if not base.is_dir():
        return []
    return sorted(folder.name for folder in base.iterdir() if _images(folder))


def _classes(base: Path) -> list[str]:
    """Return the names of two or more folders of images."""
    names = _folders(base)
    if len(names) < 2:
        raise ExperimentError(
            f"data.path {base} must hold two or more folders of images, one a class, or train and "
            f"test with such folders; got {', '.join(names) or 'none'}."
        )
    return names


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)


def _by_class(base: Path, names: Sequence[str], inside: str = ".") -> _Listed:
    """List the images of each class."""
    parts = [_images(base / name / inside) for name in names]
    labels = np.repeat(np.arange(len(names)), [len(part) for part in parts]).astype(np.int64)
    return [file for part in parts for file in part], labels


def _read_images(files: Sequence[Path], size: int) -> npt.NDArray[np.uint8]:
    """Open images as red, green and blue, brought to `size` x `size`."""
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415  validating needs no images

    x = np.empty((len(files), 3, size, size), dtype=np.uint8)
    for number, file in enumerate(files):
        try:
            with Image.open(file) as image:
                small = image.convert("RGB")
                if small.size != (size, size):
                    small = small.resize((size, size), Image.Resampling.BILINEAR)
                x[number] = np.asarray(small).transpose(2, 0, 1)
        except (OSError, UnidentifiedImageError) as error:
            raise ExperimentError(f"{file} cannot be read as an image: {error}") from error
    return x
