"""How are a user's own examples taken in?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from actors.learning.blame import blame
from actors.learning.examples import DataSet, DataShape, Labels
from actors.learning.sources.base import DataSettings
from actors.learning.sources.moments import moments
from policies.base import own_function
from policies.types import ExperimentError

_NEEDED: Final = frozenset({"x_train", "y_train", "x_test", "y_test"})
_CLIENTS: Final = ("clients_train", "clients_test")
_DESCRIBING: Final = ("classes", "class_names", "mean", "std", "categories", "vocabulary")
_KNOWN: Final = _NEEDED.union(_DESCRIBING, ("client_names", "order_train"), _CLIENTS)


def importable(source: str) -> str:
    """Return a dotted path that leads to a function, as a validator."""
    try:
        own_function(source)
    except ExperimentError as error:
        raise PydanticCustomError("own_source", "{error}", {"error": str(error)}) from error
    return source


class OwnSource(DataSettings):
    """What a function of the user's returns: ``source: "my_module:function"``.

    It returns a `DataSet`, or a mapping with x_train, y_train, x_test, y_test and whatever else of
    a `DataSet` is not to be worked out from these.
    """

    source: Annotated[str, AfterValidator(importable)]

    def whole_shape(self) -> DataShape:
        """Load the data and look; clients are those with an example to train on."""
        data = self.read()
        if data.clients_train is None:
            return data.shape
        return dataclasses.replace(data.shape, clients=len(np.unique(data.clients_train)))

    def find(self) -> None:
        """See whether the function can be imported."""
        own_function(self.source)

    def read(self) -> DataSet:
        """Call the function.

        Raises:
            ExperimentError: If it raises, or returns what makes no data set.
        """
        with blame(self.source):
            given = own_function(self.source)()
        return given if isinstance(given, DataSet) else of_mapping(given, self.source)


def of_mapping(given: Any, path: str) -> DataSet:
    """Turn a mapping of arrays into a data set.

    Args:
        given: What the user's function returned.
        path: What messages call it.

    Raises:
        ExperimentError: If it is no such mapping, or its arrays do not fit together.
    """
    if not (isinstance(given, Mapping) and set(given) >= _NEEDED and set(given) <= _KNOWN):
        what = sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise ExperimentError(
            f"{path} must return a DataSet or a mapping with {', '.join(sorted(_NEEDED))} and, if "
            f"it likes, {', '.join(sorted(_KNOWN - _NEEDED))}; got {what}."
        )
    try:
        return _converted(given)
    except (ExperimentError, TypeError, ValueError, OverflowError) as error:
        what = "" if isinstance(error, ExperimentError) else "holds a value of the wrong sort: "
        raise ExperimentError(f"{path}: {what}{error}") from error


def _converted(given: Mapping[str, Any]) -> DataSet:
    """Work out what a mapping leaves out."""
    x_train, x_test = (_as_input(given[name]) for name in ("x_train", "x_test"))
    y_train, y_test = (_as_labels(given[name], name) for name in ("y_train", "y_test"))
    classes = given.get("classes", 1 + max(y_train.max(initial=0), y_test.max(initial=0)))
    mean, std = moments(x_train)
    order = given.get("order_train")
    return DataSet(
        x_train,
        y_train,
        x_test,
        y_test,
        int(classes),
        float(given.get("mean", mean)),
        float(given.get("std", std)),
        categories=tuple(map(int, given.get("categories", ()))),
        vocabulary=int(given.get("vocabulary", 0)),
        order_train=None if order is None else np.asarray(order, dtype=np.float64),
        class_names=tuple(map(str, given.get("class_names", ()))),
        **_clients(given),
    )


def _clients(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a mapping says of clients."""
    found: dict[str, Any] = {
        name: _as_labels(given[name], name) for name in _CLIENTS if given.get(name) is not None
    }
    most = max((owners.max(initial=-1) for owners in found.values()), default=-1)
    names = given.get("client_names", range(most + 1))
    return {**found, "client_names": tuple(map(str, names))}


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
