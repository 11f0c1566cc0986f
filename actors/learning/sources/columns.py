"""How do the columns of a table become numbers that a model takes?

All that is learnt of a column, its moments and its codes, is learnt from the training split.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from actors.learning.examples import DataSet, Labels
from actors.learning.sources.splits import by_group
from policies.types import ExperimentError

if TYPE_CHECKING:
    import pandas as pd

RARE: Final = 5
"""Values with fewer training examples share code 0 with missing and unseen ones."""
MOST_CODES: Final = 50_000
"""Codes that a column may have; the most frequent values get them."""
MOST_CLASSES: Final = 1_000


@dataclass(frozen=True)
class Form:
    """What the columns of a table are.

    Attributes:
        source: Names the random stream of the test split.
        target: Column of the labels.
        numbers: Columns that are standardised.
        categories: Columns that become codes.
        client: Column of the natural clients, or None.
        order: Column that says when a row arose, or None.
        test: How many rows are set aside.
        class_names: What the classes are called; () for the values of `target`.
    """

    source: str
    target: str
    numbers: Sequence[str]
    categories: Sequence[str]
    client: str | None
    order: str | None
    test: int
    class_names: tuple[str, ...] = ()


def to_data_set(table: pd.DataFrame, form: Form) -> DataSet:
    """Set a test split aside and turn every column into numbers.

    The split is stratified by class within each client.

    Raises:
        ExperimentError: If the columns do not make a data set.
    """
    labels, values = _labels(table[form.target], form.target)
    classes = len(values)
    owners, names = (None, ()) if form.client is None else _owners(table[form.client])
    groups = labels if owners is None else owners * classes + labels
    groups = np.unique(groups, return_inverse=True)[1]
    test = by_group(groups, form.test, form.source)
    train = np.setdiff1d(np.arange(len(labels)), test)
    if not len(test):
        raise ExperimentError(
            f"{len(labels)} rows of {groups.max() + 1} groups of client and class leave none for a "
            "test split, since each group keeps one. Take more rows, fewer classes, or no "
            "data.client."
        )
    columns: list[npt.NDArray[np.float32]] = []
    codes: list[int] = []
    for name in form.categories:
        found, count = encode(table[name], train)
        columns.append(found)
        codes.append(count)
    for name in form.numbers:
        numbers = table[name].to_numpy(dtype=np.float64, na_value=np.nan)
        scaled = standardise(numbers, train, name)
        columns += scaled
        codes += [0] * len(scaled)
    x = np.stack(columns, axis=1)
    order = None if form.order is None else _times(table[form.order], form.order)
    return DataSet(
        x[train],
        labels[train],
        x[test],
        labels[test],
        classes,
        categories=tuple(codes),
        clients_train=None if owners is None else owners[train],
        clients_test=None if owners is None else owners[test],
        client_names=names,
        order_train=None if order is None else order[train],
        class_names=form.class_names or values,
    )


def encode(values: pd.Series[Any], train: Labels) -> tuple[npt.NDArray[np.float32], int]:
    """Number a column's frequent values from 1 in their order; all others are 0.

    Args:
        values: Of all rows.
        train: Positions of the training split.

    Returns:
        Codes of all rows, and how many there are, 0 included.
    """
    numbers, _ = _factors(values)
    counts = np.bincount(numbers[train] + 1, minlength=int(numbers.max(initial=-1)) + 2)[1:]
    kept = np.argsort(-counts, kind="stable")[: MOST_CODES - 1]
    kept = np.sort(kept[counts[kept] >= RARE])
    code_of = np.zeros(len(counts) + 1, dtype=np.float32)  # the last one is for what is missing
    code_of[kept] = np.arange(1, len(kept) + 1)
    return code_of[numbers], len(kept) + 1


def standardise(
    values: npt.NDArray[np.float64], train: Labels, name: str
) -> list[npt.NDArray[np.float32]]:
    """Centre and scale a column; what is missing becomes the mean.

    Returns:
        The column, and, if any value is missing, another one that is 1 where it is.

    Raises:
        ExperimentError: If a value is infinite.
    """
    if np.isinf(values).any():
        raise ExperimentError(
            f"column {name} must hold finite numbers, got infinity. Drop these rows, or put it "
            "into data.ignore."
        )
    missing = np.isnan(values)
    known = values[train][~missing[train]]
    mean, std = (float(known.mean()), float(known.std())) if known.size else (0.0, 1.0)
    scaled = np.where(missing, 0.0, (values - mean) / (std or 1.0)).astype(np.float32)
    return [scaled, missing.astype(np.float32)] if missing.any() else [scaled]


def _factors(values: pd.Series[Any]) -> tuple[Labels, list[str]]:
    """Number the different values from 0 in their order; -1 for missing ones."""
    import pandas as pd  # noqa: PLC0415  validating needs no pandas

    if not (pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values)):
        values = values.map(str, na_action="ignore")
    numbers, different = pd.factorize(values, sort=True)
    return numbers.astype(np.int64), [str(one) for one in different]


def _labels(values: pd.Series[Any], name: str) -> tuple[Labels, tuple[str, ...]]:
    """Number the classes; return the label of each row, and the classes' names."""
    labels, different = _factors(values)
    _check_known(labels < 0, f"target {name}")
    if not 2 <= len(different) <= MOST_CLASSES:
        raise ExperimentError(
            f"the target {name} must have 2 to {MOST_CLASSES} different values, each a class, got "
            f"{len(different)}. Take another column, or put its values into a few bins."
        )
    if 2 < len(different) > len(labels) / 2:
        raise ExperimentError(
            f"the target {name} must have a few different values, each a class of several rows, "
            f"got {len(different)} in {len(labels)} rows: it looks continuous. Put its values into "
            "a few bins, or take another column."
        )
    return labels, tuple(different)


def _owners(values: pd.Series[Any]) -> tuple[Labels, tuple[str, ...]]:
    """Number the clients; return the client of each row, and the clients' names."""
    owners, names = _factors(values)
    _check_known(owners < 0, f"client column {values.name}")
    return owners, tuple(names)


def _check_known(missing: npt.NDArray[np.bool_], column: str) -> None:
    """Refuse rows that lack what every row must have."""
    if missing.any():
        raise ExperimentError(
            f"{int(missing.sum())} of {len(missing)} rows have no value in the {column}; the first "
            f"is row {int(missing.argmax()) + 1} below the header. Drop or complete these rows."
        )


def _times(values: pd.Series[Any], name: str) -> npt.NDArray[np.float64]:
    """Return numbers, or dates as seconds, as floats."""
    import pandas as pd  # noqa: PLC0415  validating needs no pandas

    _check_known(values.isna().to_numpy(dtype=np.bool_), f"order column {name}")
    try:
        if not pd.api.types.is_numeric_dtype(values):
            with warnings.catch_warnings():  # that dates have no common form, which is no mistake
                warnings.simplefilter("ignore", UserWarning)
                since = pd.to_datetime(values) - pd.Timestamp(0)
            values = since.dt.total_seconds()
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise ExperimentError(
            f"the order column {name} must hold numbers or dates: {error}. Take another one."
        ) from error
