"""What does a data set hold, and can a model learn from it?"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from policies.types import ExperimentError

Labels = npt.NDArray[np.int64]
Years = npt.NDArray[np.float64]
"""When each example arose, in any unit that grows, shape (n,)."""
Sort = Literal["images", "numbers", "a table with categories", "tokens"]


@dataclass(frozen=True, slots=True)
class DataShape:
    """What a data set looks like.

    Attributes:
        train: Examples of the training split.
        test: Examples of the test split.
        input: Shape of one input.
        classes: How many classes there are.
        categories: Of a table, the number of codes of each column, 0 for a column of numbers.
        vocabulary: Of tokens, how many there are.
        clients: How many clients the source itself names; None if it names none.
        ordered: Whether the source says when its examples arose.
        class_names: What each class is called, in the order of the labels; () if nobody says.
        mean: Mean of pixels, where 255 is 1, that a model's inputs are centred by. Of some sources
            it is known only once they are read, so that shapes are alike without it.
        std: Their standard deviation, that the inputs are divided by; as `mean`.
    """

    train: int
    test: int
    input: tuple[int, ...]
    classes: int
    categories: tuple[int, ...] = ()
    vocabulary: int = 0
    clients: int | None = None
    ordered: bool = False
    class_names: tuple[str, ...] = ()
    mean: float = field(default=0.0, compare=False, repr=False)
    std: float = field(default=1.0, compare=False, repr=False)

    @property
    def sort(self) -> Sort:
        """What the inputs are."""
        if self.vocabulary:
            return "tokens"
        if any(self.categories):
            return "a table with categories"
        return "images" if len(self.input) == 3 else "numbers"


class Rows(NamedTuple):
    """What a partition may know of the training split.

    Attributes:
        labels: Shape (n,).
        owners: Client of each example by the source's own word, shape (n,); None if it names none.
        years: When each example arose, shape (n,); None if the source does not say.
    """

    labels: Labels
    owners: Labels | None = None
    years: Years | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """A training and a test split, inputs as they were stored.

    Attributes:
        x_train: Shape (n, c, h, w) for images, (n, columns) for a table, (n, length) for tokens,
            (n, ...) otherwise. uint8, which takes a quarter of the memory, float32, or, for
            tokens, int32 or int64.
        y_train: Labels, shape (n,), int64, in [0, classes).
        x_test: Like `x_train`.
        y_test: Like `y_train`.
        classes: How many classes there are.
        mean: Mean of the training inputs, where 255 is 1; read for uint8 alone.
        std: Their standard deviation, > 0, over all pixels.
        categories: Of a table, the number of codes of each column; 0 for a column of numbers.
            Codes are whole numbers in the float32 matrix, 0 for a rare or unknown value.
        vocabulary: Of tokens, how many there are; 0 for other inputs. Token 0 fills up.
        clients_train: Client of each training example by the source's own word, shape (n,),
            int64, in [0, clients); None if the source names none.
        clients_test: The same for the test split, or None.
        client_names: Name of each of these clients.
        order_train: When each training example arose, such as a year, shape (n,), float64; None
            if the source does not say.
        class_names: What each class is called, in the order of the labels; () if nobody says.
        x_public: Inputs like `x_train` that are no client's.
        y_public: Their labels, of which most methods know nothing.

    Raises:
        ExperimentError: If the arrays do not fit together.
    """

    x_train: npt.NDArray[Any]
    y_train: Labels
    x_test: npt.NDArray[Any]
    y_test: Labels
    classes: int
    mean: float = 0.0
    std: float = 1.0
    categories: tuple[int, ...] = ()
    vocabulary: int = 0
    clients_train: Labels | None = None
    clients_test: Labels | None = None
    client_names: tuple[str, ...] = ()
    order_train: Years | None = None
    class_names: tuple[str, ...] = ()
    x_public: npt.NDArray[Any] | None = None
    y_public: Labels | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ExperimentError(
                f"mean and std must be finite and std > 0, got {self.mean} and {self.std}. "
                "Are all the training inputs the same?"
            )
        for name, x, y in (
            ("train", self.x_train, self.y_train),
            ("test", self.x_test, self.y_test),
        ):
            _check_inputs(name, x, self.vocabulary)
            _check_labels(name, len(x), y, self.classes)
            _check_codes(name, x, self.categories, self.vocabulary)
        if (a := self.x_train.shape[1:]) != (b := self.x_test.shape[1:]):
            raise ExperimentError(f"x_train and x_test must hold inputs of one shape: {a}, {b}.")
        self._check_clients()
        _check_names(self.class_names, self.classes)

    @property
    def shape(self) -> DataShape:
        """What it looks like."""
        return DataShape(
            len(self.x_train),
            len(self.x_test),
            tuple(self.x_train.shape[1:]),
            self.classes,
            self.categories,
            self.vocabulary,
            None if self.clients_train is None else len(self.client_names),
            self.order_train is not None,
            self.class_names,
            *((self.mean, self.std) if self.x_train.dtype == np.uint8 else (0.0, 1.0)),
        )

    @property
    def rows(self) -> Rows:
        """What a partition may know of it."""
        return Rows(self.y_train, self.clients_train, self.order_train)

    def take(self, positions: Labels) -> DataSet:
        """Return the same with these training examples alone, in this order."""
        owners, order = self.clients_train, self.order_train
        return dataclasses.replace(
            self,
            x_train=self.x_train[positions],
            y_train=self.y_train[positions],
            clients_train=None if owners is None else owners[positions],
            order_train=None if order is None else order[positions],
        )

    def normalise(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what a model takes: uint8 centred and scaled, float32 as it is, tokens as int64.

        Args:
            x: Inputs of this data set, shape (n, ...).

        Returns:
            Shape (n, ...): ``((x / 255) - mean) / std`` as float32 for uint8; int64 for tokens.
        """
        if self.vocabulary:
            return x.astype(np.int64)
        if x.dtype == np.float32:
            return x
        out = x.astype(np.float32)
        out /= np.float32(255)
        out -= np.float32(self.mean)
        out /= np.float32(self.std)
        return out

    def _check_clients(self) -> None:
        """Refuse clients and times that do not go with the examples."""
        for split, owners, y in (
            ("train", self.clients_train, self.y_train),
            ("test", self.clients_test, self.y_test),
        ):
            if owners is None:
                continue
            _check_labels(split, len(y), owners, len(self.client_names), "clients", "client")
        order = self.order_train
        if order is not None and (
            order.shape != self.y_train.shape or not np.isfinite(order).all()
        ):
            raise ExperimentError(
                f"order_train must hold one finite number for each of the {len(self.y_train)} "
                f"training examples, got shape {order.shape}."
            )


def _check_inputs(name: str, x: npt.NDArray[Any], vocabulary: int) -> None:
    """Refuse inputs that no model could take."""
    if vocabulary:
        if x.dtype not in (np.int32, np.int64) or x.ndim != 2:
            raise ExperimentError(
                f"x_{name} must be tokens, int32 or int64 of shape (n, length), because there is a "
                f"vocabulary; got {x.dtype} {x.shape}."
            )
    elif x.dtype not in (np.uint8, np.float32) or x.ndim < 2:
        raise ExperimentError(
            f"x_{name} must be uint8 or float32 of shape (n, ...), got {x.dtype} {x.shape}. "
            "Images have the shape (n, channels, height, width); tokens need a vocabulary."
        )
    if x.dtype == np.float32 and not np.isfinite(x).all():
        raise ExperimentError(f"x_{name} must be finite, got NaN or infinity. Fill or drop these.")


def _check_names(names: tuple[str, ...], classes: int) -> None:
    """Refuse names that do not go with the classes."""
    if names and len(names) != classes:
        raise ExperimentError(
            f"class_names must hold one name for each of the {classes} classes, got {len(names)}. "
            "Name all of them, or leave it out."
        )


def _check_labels(
    name: str, n: int, y: Labels, classes: int, known: str = "y", what: str = "label"
) -> None:
    """Refuse labels, or numbers of clients, that do not go with `n` inputs."""
    if n == 0:
        raise ExperimentError(
            f"x_{name} must hold one or more examples, got none. Give it some: models learn from "
            "train and are tested on test."
        )
    if y.dtype != np.int64 or y.shape != (n,):
        raise ExperimentError(
            f"{known}_{name} must hold one int64 {what} for each of the {n} inputs in x_{name}, "
            f"got {y.dtype} {y.shape}. Give each input one."
        )
    if y.min() < 0 or y.max() >= classes:
        limit = "classes" if known == "y" else "give client_names"
        raise ExperimentError(
            f"{known}_{name} must lie in [0, {classes}), got {y.min()} to {y.max()}. "
            f"Number the {what}s from 0, or {'raise ' if known == 'y' else ''}{limit}."
        )


def _check_codes(
    name: str, x: npt.NDArray[Any], categories: tuple[int, ...], vocabulary: int
) -> None:
    """Refuse codes and tokens that an embedding has no row for."""
    if vocabulary and (x.min(initial=0) < 0 or x.max(initial=0) >= vocabulary):
        raise ExperimentError(
            f"x_{name} must hold tokens in [0, {vocabulary}), got {x.min()} to {x.max()}. "
            "Raise vocabulary."
        )
    if not categories:
        return
    if vocabulary or x.dtype != np.float32 or x.shape[1:] != (len(categories),):
        raise ExperimentError(
            f"x_{name} must be float32 of shape (n, {len(categories)}), one column for each of the "
            f"categories; got {x.dtype} {x.shape}."
        )
    for column, codes in enumerate(categories):
        values = x[:, column]
        if codes and not ((values >= 0) & (values < codes) & (values == np.rint(values))).all():
            raise ExperimentError(
                f"column {column} of x_{name} must hold whole codes in [0, {codes})."
            )
