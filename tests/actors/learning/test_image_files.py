"""Are images from a folder of the user's read as they were written, and is nothing else run?"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from actors.learning.data import DataShape
from actors.learning.sources import images
from actors.learning.sources.cifar import Cifar10, Cifar100
from actors.learning.sources.images import Folder, TinyImageNet
from actors.learning.sources.pickles import read_arrays
from policies.types import ExperimentError

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
SIZES = (Cifar10._sizes, Cifar100._sizes)


def pixels(n: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (n, 3072), np.uint8)


def write_binary_10(root: Path) -> None:
    for seed, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        labels = np.arange(2, dtype=np.uint8)[:, None] + seed
        np.hstack([labels, pixels(2, seed)]).tofile(root / f"{name}.bin")


def write_python_10(root: Path, protocol: int = 2) -> None:
    for seed, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        content = {b"batch_label": b"x", b"labels": [seed, seed + 1], b"data": pixels(2, seed)}
        (root / name).write_bytes(pickle.dumps(content, protocol=protocol))


def write_binary_100(root: Path) -> None:
    for seed, name in enumerate(["train", "test"]):
        labels = np.array([[7, 40 + seed], [8, 99]], np.uint8)
        np.hstack([labels, pixels(2, seed)]).tofile(root / f"{name}.bin")


def write_python_100(root: Path) -> None:
    for seed, name in enumerate(["train", "test"]):
        content = {
            b"coarse_labels": [7, 8],
            b"fine_labels": [40 + seed, 99],
            b"data": pixels(2, seed),
        }
        (root / name).write_bytes(pickle.dumps(content, protocol=2))


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whole files of CIFAR hold two images."""
    monkeypatch.setattr(Cifar10, "_sizes", (2, 2))
    monkeypatch.setattr(Cifar100, "_sizes", (2, 2))


def test_whole_files_are_as_large_as_published() -> None:
    """60,000 images each; the fixture above is for these tests alone."""
    assert SIZES == ((10_000, 10_000), (50_000, 10_000))


@pytest.mark.parametrize(
    ("make", "write", "inside"),
    [
        (Cifar10, write_binary_10, "cifar-10-batches-bin"),
        (Cifar10, write_python_10, "cifar-10-batches-py"),
        (Cifar100, write_binary_100, "cifar-100-binary"),
        (Cifar100, write_python_100, "cifar-100-python"),
        (Cifar10, write_binary_10, "."),
        (Cifar100, write_python_100, "."),
    ],
)
def test_cifar_is_read_in_both_versions(
    tmp_path: Path, make: type[Cifar10 | Cifar100], write: Callable[[Path], None], inside: str
) -> None:
    """Pixels and fine labels come back, from the folder or from the one above it."""
    (tmp_path / inside).mkdir(exist_ok=True)
    write(tmp_path / inside)
    settings = make(root=tmp_path)
    assert settings.missing() is None
    data = settings.load()
    assert data.shape == settings.shape()
    ten = make is Cifar10
    assert data.shape == DataShape(10 if ten else 2, 2, (3, 32, 32), 10 if ten else 100)
    assert np.array_equal(data.x_train[:2].reshape(2, -1), pixels(2, 0))
    assert np.array_equal(data.x_test.reshape(2, -1), pixels(2, 5 if ten else 1))
    assert data.y_train[:2].tolist() == ([0, 1] if ten else [40, 99])
    scaled = data.x_train / 255
    assert (data.mean, data.std) == pytest.approx((scaled.mean(), scaled.std()))


def test_the_binary_version_is_preferred(tmp_path: Path) -> None:
    """Where both are there no pickle is opened."""
    write_binary_10(tmp_path)
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}").write_bytes(b"no pickle")
    (tmp_path / "test_batch").write_bytes(b"no pickle")
    assert Cifar10(root=tmp_path).load().shape.train == 10


@pytest.mark.parametrize("make", [Cifar10, Cifar100])
def test_missing_cifar_is_one_clear_error(tmp_path: Path, make: type[Cifar10 | Cifar100]) -> None:
    """What was looked for, where, and the way out."""
    missing = make(root=tmp_path).missing()
    assert missing is not None
    assert str(tmp_path) in missing
    assert "binary version" in missing
    assert "set data.root" in missing


@pytest.mark.parametrize("name", ["data_batch_3.bin", "test_batch.bin"])
@pytest.mark.parametrize("cut", [1, 3073])
def test_a_cut_binary_file_is_refused(tmp_path: Path, name: str, cut: int) -> None:
    """In the middle of an image or behind one, when the file is checked and when it is read."""
    write_binary_10(tmp_path)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:-cut])
    settings = Cifar10(root=tmp_path)
    for ask in (settings.shape, settings.load):
        with pytest.raises(ExperimentError, match=rf"{name} is damaged: .* and has {6146 - cut:,}"):
            ask()


def test_a_short_pickle_is_refused(tmp_path: Path) -> None:
    """A file of fewer images is not whole, whatever its form."""
    write_python_10(tmp_path)
    content = {b"labels": [1], b"data": pixels(1, 0)}
    (tmp_path / "data_batch_2").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ExperimentError, match=r"data_batch_2 is damaged: it must hold 2 .* has 1"):
        Cifar10(root=tmp_path).shape()


@pytest.mark.parametrize(
    ("make", "write", "file", "key"),
    [
        (Cifar10, write_binary_10, "batches.meta.txt", ""),
        (Cifar10, write_python_10, "batches.meta", "label_names"),
        (Cifar100, write_binary_100, "fine_label_names.txt", ""),
        (Cifar100, write_python_100, "meta", "fine_label_names"),
    ],
)
def test_the_classes_of_cifar_have_names(
    tmp_path: Path,
    make: type[Cifar10 | Cifar100],
    write: Callable[[Path], None],
    file: str,
    key: str,
) -> None:
    """Those of the file beside the images; none if it lacks some."""
    write(tmp_path)
    count = make._classes
    for names, expected in (
        ([f"thing{i}" for i in range(count)], tuple(f"thing{i}" for i in range(count))),
        (["one"], ()),
    ):
        content = "\n".join([*names, "", ""]).encode()
        if key:
            found = {key.encode(): [name.encode() for name in names]}
            content = pickle.dumps(found, protocol=2)
        (tmp_path / file).write_bytes(content)
        assert make(root=tmp_path).shape().class_names == expected
        assert make(root=tmp_path).load().class_names == expected


def test_an_evil_pickle_is_blamed_on_its_folder(tmp_path: Path) -> None:
    """However many of its examples are asked for."""
    write_python_10(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(_Evil(os.getcwd), protocol=2))
    found = Cifar10(root=tmp_path, train_examples=5).trouble()
    assert found is not None
    assert found[0] == "data.root"
    assert "which no array needs" in found[1]


@pytest.mark.parametrize("protocol", range(5))
def test_arrays_come_back_from_any_pickle(tmp_path: Path, protocol: int) -> None:
    """Old formats write bytes by way of a codec; all of them are read."""
    values = np.arange(256, dtype=np.uint8).reshape(2, 128)
    (tmp_path / "x").write_bytes(pickle.dumps({"data": values, "n": [1, 2]}, protocol=protocol))
    found = read_arrays(tmp_path / "x")
    assert np.array_equal(found["data"], values)
    assert found["n"] == [1, 2]


class _Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


@pytest.mark.parametrize(
    "content",
    [
        _Evil(os.mkdir, "made"),
        _Evil(eval, "1 + 1"),
        _Evil(getattr, "x", "upper"),
        {b"data": _Evil(os.getcwd)},
        Path("x"),
        np.float64(1),
    ],
)
def test_a_pickle_that_asks_for_more_is_refused(
    tmp_path: Path, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No function is called, no class is made; the error says what was asked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ExperimentError, match=r"it asks for .*, which no array needs"):
        read_arrays(tmp_path / "x")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as pickled arrays"),
        (pickle.dumps([1]), "must hold a mapping, got list"),
        (pickle.dumps({"a": _Evil(str.encode, "x")}, protocol=0), "cannot be read as pickled"),
    ],
)
def test_a_damaged_pickle_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """The error names the file and the binary version."""
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ExperimentError, match=message):
        read_arrays(tmp_path / "x")


@pytest.mark.parametrize(
    "content",
    [
        {b"data": np.zeros((2, 3), np.uint8), b"labels": [0, 1]},
        {b"data": np.zeros((2, 3072), np.int64), b"labels": [0, 1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": [0.5]},
        {b"labels": [0]},
    ],
)
def test_a_batch_of_another_form_is_refused(tmp_path: Path, content: dict[bytes, Any]) -> None:
    """Pixels and labels must be what the data set has."""
    write_python_10(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ExperimentError, match=r"must hold `data`, uint8 of shape \(n, 3072\)"):
        Cifar10(root=tmp_path).load()


# ------------------------------------------------------------------ folders


def save(file: Path, colour: tuple[int, int, int], size: int = 4, mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).convert(mode).save(file, quality=100)


def test_a_folder_with_two_splits(tmp_path: Path) -> None:
    """Classes by the alphabet, gray becomes colour, other sizes are brought to one."""
    save(tmp_path / "train" / "b" / "1.png", (10, 20, 30))
    save(tmp_path / "train" / "a" / "1.png", (40, 40, 40), mode="L")
    save(tmp_path / "train" / "a" / "2.png", (50, 60, 70), size=9)
    save(tmp_path / "test" / "b" / "1.PNG", (1, 2, 3))
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    settings = Folder(path=tmp_path, size=4)
    data = settings.load()
    assert settings.shape() == data.shape
    assert data.shape == DataShape(3, 1, (3, 4, 4), 2, class_names=("a", "b"))
    assert data.y_train.tolist() == [0, 0, 1]
    assert data.y_test.tolist() == [1]
    colours = data.x_train[:, :, 0, 0].tolist()
    assert colours == [[40, 40, 40], [50, 60, 70], [10, 20, 30]]


def test_a_folder_with_one_split_is_split(tmp_path: Path) -> None:
    """Half of each class is set aside, always the same half."""
    for name in ("cat", "dog"):
        for i in range(4):
            save(tmp_path / name / f"{i}.png", (i, 2 * i, 3 * i))
    settings = Folder(path=tmp_path, size=2, test_share=0.5)
    data = settings.load()
    assert settings.shape() == data.shape
    assert data.shape == DataShape(4, 4, (3, 2, 2), 2, class_names=("cat", "dog"))
    assert np.bincount(data.y_test).tolist() == [2, 2]
    assert np.array_equal(settings.load().x_test, data.x_test)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "must hold two or more folders of images, .* got none"),
        (["a/1.png"], "got a"),
        (["train/a/1.png", "train/b/1.png", "test/c/1.png", "test/a/1.png"], "lacks: c. Move"),
    ],
)
def test_a_folder_without_classes_is_refused(
    tmp_path: Path, files: list[str], message: str
) -> None:
    """The error names the folder and what it should hold."""
    for file in files:
        save(tmp_path / file, (0, 0, 0))
    missing = Folder(path=tmp_path).missing()
    with pytest.raises(ExperimentError, match=message):
        Folder(path=tmp_path).load()
    assert missing is not None


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    """When the folder is checked, and when it is read."""
    for name in ("a", "b"):
        save(tmp_path / name / "1.png", (0, 0, 0))
        save(tmp_path / name / "2.png", (0, 0, 0))
    settings = Folder(path=tmp_path)
    assert settings.trouble() is None
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    for ask in (settings.shape, settings.load):
        with pytest.raises(ExperimentError, match=r"a/1\.png must be an image.*Replace it or take"):
            ask()


def test_an_image_that_is_cut_is_named_when_it_is_read(tmp_path: Path) -> None:
    """Its header is whole, so that no check sees it."""
    for name in ("a", "b"):
        for number in range(3):
            save(tmp_path / name / f"{number}.png", (number, 0, 0), size=64)
    file = tmp_path / "b" / "1.png"
    file.write_bytes(file.read_bytes()[:50])
    settings = Folder(path=tmp_path)
    assert settings.trouble() is None
    with pytest.raises(ExperimentError, match=r"b/1\.png must be an image.*Replace it or take it"):
        settings.load()


def test_of_many_images_the_first_of_every_class_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And every so many of the others."""
    for name in ("a", "b", "c"):
        for number in range(10):
            save(tmp_path / "train" / name / f"{number}.png", (0, 0, 0))
        save(tmp_path / "test" / name / "0.png", (0, 0, 0))
    monkeypatch.setattr(images, "MOST_HEADERS", 5)
    seen: list[str] = []
    monkeypatch.setattr(
        images, "_look", lambda file, _: seen.append(f"{file.parent.name}{file.stem}")
    )
    Folder(path=tmp_path).shape()
    assert seen[:-3] == ["a0", "a6", "b0", "b2", "b8", "c0", "c4"]
    assert seen[-3:] == ["a0", "b0", "c0"]


def write_tiny(root: Path) -> None:
    (root / "val").mkdir(parents=True)
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n09\ttree\nn02\tgoldfish, Carassius auratus\n")
    save(root / "train" / "n02" / "images" / "n02_0.JPEG", (200, 0, 0), 64)
    save(root / "train" / "n01" / "images" / "n01_0.JPEG", (90, 90, 90), 64, "L")
    save(root / "train" / "n01" / "images" / "n01_1.JPEG", (0, 0, 200), 64)
    save(root / "val" / "images" / "val_0.JPEG", (0, 200, 0), 64)
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\t0\t0\t63\t63\n")


@pytest.mark.parametrize("inside", [".", "tiny-imagenet-200"])
def test_tiny_imagenet_is_read(tmp_path: Path, inside: str) -> None:
    """Classes in the order of wnids.txt; val is the test split."""
    write_tiny(tmp_path / inside)
    settings = TinyImageNet(root=tmp_path)
    data = settings.load()
    assert settings.shape() == data.shape
    assert data.shape == DataShape(3, 1, (3, 64, 64), 2, class_names=("goldfish", "n01"))
    assert data.y_train.tolist() == [0, 1, 1]
    assert data.y_test.tolist() == [1]
    red, green, _ = data.x_train[0].mean(axis=(1, 2))
    assert red > 180
    assert green < 30


def test_a_tiny_imagenet_that_is_not_there_or_not_whole(tmp_path: Path) -> None:
    """What was looked for, and a class that nobody knows."""
    assert "wnids.txt" in str(TinyImageNet(root=tmp_path).missing())
    write_tiny(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn09\t0\t0\t63\t63\n")
    with pytest.raises(ExperimentError, match=r"names the class 'n09', which wnids.txt lacks"):
        TinyImageNet(root=tmp_path).load()
