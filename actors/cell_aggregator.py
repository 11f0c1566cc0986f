"""How does a cell sum while it reads payloads?

The remote shell of `Cell`: payloads are read on one thread while another sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from actors.cell import Cell
from actors.identity import join_paths
from actors.reader import Reader
from actors.stopwatch import Stopwatch
from actors.work import Work, packed, unpacked
from policies.types import Buffer
from policies.update import ModelSchema

THREADS: Final = {"admit": 1, "sum": 1}
"""Threads by what they do."""


class CellAggregator(Reader):
    """The remote shell of `Cell`.

    Args:
        work: What actors are told.
        paths: Folders of the user's own modules.
        schema: The model's tensors.
        number: Which cell it is.
    """

    def __init__(
        self, work: dict[str, Any], paths: Sequence[str], schema: ModelSchema, number: int
    ) -> None:
        join_paths(paths)
        told = Work.model_validate(work)
        self._cell = Cell(told, schema, number)
        super().__init__(self._cell, Stopwatch(on=told.timed))

    def sum(self, order: bytes) -> tuple[bytes, Buffer]:
        """Sum what a version takes of this cell; see `Cell.sum`.

        Args:
            order: The addresses and the expected version, packed.

        Returns:
            What is sent, packed, and the message.
        """
        addresses, expected = unpacked(order)
        with self._watch("sum updates"):
            gathered, message = self._cell.sum(addresses, expected)
        return packed(gathered), message

    def restore(self, last_number: dict[int, int]) -> None:
        """Go on from a checkpoint; see `Cell.restore`."""
        self._cell.restore(last_number)
