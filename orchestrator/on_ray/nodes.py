"""Which nodes have come and gone?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from orchestrator.hosting import Node

EVERY_S: Final = 3.0
"""How often the cluster is looked at; a look takes a millisecond."""


class Change(NamedTuple):
    """What a look has found: which nodes are gone, which are new, and all that are there."""

    gone: Sequence[Node]
    come: Sequence[Node]
    there: Sequence[Node]


class NodeWatch:
    """Compares the cluster with what it was.

    Args:
        nodes: Returns the nodes that are there.
    """

    def __init__(self, nodes: Callable[[], Sequence[Node]]) -> None:
        self._nodes = nodes
        self._known = {node.name: node for node in nodes()}
        self._looked = time.monotonic()

    def look(self) -> Change | None:
        """Look if it is time; return None if nothing has changed."""
        now = time.monotonic()
        if now - self._looked < EVERY_S:
            return None
        self._looked = now
        there = {node.name: node for node in self._nodes()}
        if there.keys() == self._known.keys():
            return None
        before, self._known = self._known, there
        return Change(
            [node for name, node in before.items() if name not in there],
            [node for name, node in there.items() if name not in before],
            list(there.values()),
        )
