"""How are images read from folders of classes?"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

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
MOST_HEADERS: Final = 2_000
"""Files whose headers are looked at before they are read; of more, every so many."""


class _Listed(NamedTuple):
    """Files and their classes."""

    files: list[Path]
    labels: Labels


class _Images(NamedTuple):
    """What there is.

    Attributes:
        train: The training split.
        test: The test split.
        names: Of the classes.
        size: Height and width that images are brought to.
    """

    train: _Listed
    test: _Listed
    names: tuple[str, ...]
    size: int


class _ImageFiles(DataSettings):
    """Images that lie in files of their own."""

    def whole_shape(self) -> DataShape:
        """Count files, and look at the headers of some: the first of every class at least."""
        train, test, names, size = self._list()
        for split in (train, test):
            for file in _some(split):
                _look(file, file.stat().st_mtime_ns if file.is_file() else 0)
        return DataShape(
            len(train.files), len(test.files), (3, size, size), len(names), class_names=names
        )

    def find(self) -> None:
        """Look for the folders."""
        self._list()

    def read(self) -> DataSet:
        """Open every image.

        Cost:
            About a minute for 100,000 images of 64 x 64.
        """
        train, test, names, size = self._list()
        x_train, x_test = (_read_images(split.files, size) for split in (train, test))
        return DataSet(
            x_train,
            train.labels,
            x_test,
            test.labels,
            len(names),
            *moments(x_train),
            class_names=names,
        )

    @abstractmethod
    def _list(self) -> _Images:
        """Return what there is."""


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

    def where(self) -> str:
        """Return the setting that names the folder."""
        return "data.path"

    def _list(self) -> _Images:
        base = locate(self.path)
        if not base.is_dir():
            raise ExperimentError(
                f"data.path {self.path} was looked for beside the experiment file and in "
                f"{Path.cwd()}, and is no folder. Write where the images are."
            )
        if (base / "train").is_dir() and (base / "test").is_dir():
            names = _classes(base / "train")
            strange = set(_folders(base / "test")) - set(names)
            if strange:
                raise ExperimentError(
                    f"{base / 'test'} has classes that {base / 'train'} lacks: "
                    f"{', '.join(sorted(strange))}. Move or remove them."
                )
            train, test = (_by_class(base / split, names) for split in ("train", "test"))
            return _Images(train, test, tuple(names), self.size)
        names = _classes(base)
        files, labels = _by_class(base, names)
        held = by_group(labels, math.ceil(self.test_share * len(labels)), "folder")
        rest = np.setdiff1d(np.arange(len(labels)), held)
        train, test = (_Listed([files[i] for i in rows], labels[rows]) for rows in (rest, held))
        return _Images(train, test, tuple(names), self.size)


class TinyImageNet(_ImageFiles):
    """110,000 images of 64 x 64 in 200 classes, from the user's folder; val is the test split.

    Attributes:
        root: Folder with wnids.txt, train and val, or the one above it.
    """

    source: Literal["tiny-imagenet"] = "tiny-imagenet"
    root: Path = Field()

    def where(self) -> str:
        """Return the setting that names the folder."""
        return "data.root"

    def _list(self) -> _Images:
        base = self.root.expanduser()
        folders = (base, base / "tiny-imagenet-200")
        notes = "val/val_annotations.txt"
        found = next(
            (f for f in folders if (f / "wnids.txt").is_file() and (f / notes).is_file()), None
        )
        if found is None:
            raise ExperimentError(
                f"data.root must hold tiny-imagenet: wnids.txt, {notes} and train/, in "
                f"{folders[0]} or {folders[1]}; not all of them are there. Download and unpack "
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip, and set data.root to its folder."
            )
        names = (found / "wnids.txt").read_text(encoding="utf-8").split()
        train = _by_class(found / "train", names, "images")
        return _Images(train, _annotated(found, names), _in_words(found, names), _TINY)


def _in_words(base: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Return the first word for each class, as words.txt has it; else its number in WordNet."""
    file = base / "words.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    words = {name: rest.split(",")[0] for name, _, rest in (line.partition("\t") for line in lines)}
    return tuple(words.get(name, name) for name in names)


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
    return _Listed(files, np.array(labels, dtype=np.int64))


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
    return _Listed([file for part in parts for file in part], labels)


def _some(listed: _Listed) -> list[Path]:
    """Return the first file of every class, and some of the others if they are many."""
    files, labels = listed
    first = np.unique(labels, return_index=True)[1]
    others = np.arange(0, len(files), -(-len(files) // MOST_HEADERS) or 1)
    return [files[i] for i in np.union1d(first, others)]


@lru_cache(maxsize=2 * MOST_HEADERS)
def _look(file: Path, changed_ns: int) -> None:
    """Read the header of an image, once for all checks of an experiment file."""
    from PIL import Image  # noqa: PLC0415  most sources need no images

    del changed_ns
    try:
        Image.open(file).close()
    except Exception as error:  # a damaged image may raise nearly anything
        raise _no_image(file, error) from error


def _no_image(file: Path, error: Exception) -> ExperimentError:
    return ExperimentError(
        f"{file} must be an image, as its name says, and cannot be read as one: {error}. Replace "
        "it or take it out of the folder."
    )


def _read_images(files: Sequence[Path], size: int) -> npt.NDArray[np.uint8]:
    """Open images as red, green and blue, brought to `size` x `size`."""
    from PIL import Image  # noqa: PLC0415  validating needs no images

    x = np.empty((len(files), 3, size, size), dtype=np.uint8)
    for number, file in enumerate(files):
        try:
            with Image.open(file) as image:
                small = image.convert("RGB")
                if small.size != (size, size):
                    small = small.resize((size, size), Image.Resampling.BILINEAR)
                x[number] = np.asarray(small).transpose(2, 0, 1)
        except Exception as error:  # as above
            raise _no_image(file, error) from error
    return x
