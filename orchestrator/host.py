"""Where do a run's runtimes come from?

One is enough, unless there is a setback: then the run goes on in another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from actors.learning.holdings import Holdings
from actors.work import Work
from orchestrator.cells import Cells
from orchestrator.engine import Control
from orchestrator.fleet import Fleet
from orchestrator.runtime import Runtime


class Host(Protocol):
    """Starts runtimes for one run, one after the other."""

    @property
    def control(self) -> Control | None:
        """Where commands come in, if any can."""

    def launch(self) -> Runtime:
        """Start the first one."""

    def relaunch(self) -> Runtime:
        """Start another one when the last is closed after a setback."""


class InThisProcess:
    """Does without Ray; nothing can be lost here that does not end the run as well."""

    control = None

    def __init__(
        self,
        work: Work,
        holdings: Holdings,
        fleet: Fleet,
        trainers: int,
        chosen: Callable[[str, int, str], None],
    ) -> None:
        self._work, self._holdings, self._fleet = work, holdings, fleet
        self._trainers, self._chosen = trainers, chosen

    def launch(self) -> Runtime:
        """Return the runtime."""
        from orchestrator.in_process import InProcessRuntime  # noqa: PLC0415  # torch, late

        cells = Cells.of(self._fleet)
        runtime = InProcessRuntime(self._work, self._holdings, cells, self._trainers)
        if self._trainers > 1:
            alone = "this system cannot fork processes that share memory"
            why = "--workers asks for it" if runtime.trainers > 1 else alone
            self._chosen("in-process", runtime.trainers, why)
        return runtime

    relaunch = launch
