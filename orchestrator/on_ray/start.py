"""How is a run put onto a Ray, and put there again after a setback?"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from actors.learning.holdings import Holdings
from actors.stopwatch import Stopwatch
from orchestrator.cells import Cells
from orchestrator.fleet import Fleet
from orchestrator.hosting import Hosting, Node, choose, whole_cpus
from orchestrator.on_ray.cluster import connect
from orchestrator.on_ray.control import MailboxControl
from orchestrator.on_ray.nodes import NodeWatch
from orchestrator.on_ray.runtime import FromStore, Placement, RayRuntime
from orchestrator.on_ray.waiting import SLICE_S
from orchestrator.request import Request
from orchestrator.signals import Signals
from policies.types import ExperimentError, RunError

EVERY_S: Final = 1.0
"""How often a cluster is looked at that a fleet does not fit."""


class OnRay:
    """A Ray, and what runs on it for one run.

    Args:
        request: What is run.
        holdings: The clients' examples.
        fleet: Whose resources count.
        note: Takes what the runtime's work took.
        watch: Of this process.
        signals: Say when somebody wants the run to end.
        stack: Gets what must be closed at the run's end.
        chosen: Is told the hosting, the number of actors, and why.
        say: Takes a line for people.

    Attributes:
        control: Where commands come in.

    Raises:
        ExperimentError: If there is no Ray.
    """

    def __init__(
        self,
        request: Request,
        holdings: Holdings,
        fleet: Fleet,
        *,
        note: Callable[..., None],
        watch: Stopwatch,
        signals: Signals,
        stack: ExitStack,
        chosen: Callable[[str, int, str], None],
        say: Callable[[str], None],
    ) -> None:
        self._request, self._holdings, self._fleet = request, holdings, fleet
        self._note, self._watch, self._check = note, watch, signals.check
        self._chosen, self._say = chosen, say
        self._cells = Cells.of(fleet)
        self._cluster = connect(request.address, request.run_id, request.workers)
        stack.callback(self._cluster.close)
        signals.listen()  # Ray has set a handler of its own meanwhile
        self._check()
        self.control = MailboxControl(request.run_id)
        stack.callback(self.control.close)
        self._stored = FromStore(holdings)

    def launch(self) -> RayRuntime:
        """Decide the hosting and start the actors.

        Raises:
            ExperimentError: If the fleet does not fit the cluster.
        """
        return self._launch(self._hosting(self._cluster.nodes(), self._request.workers))

    def relaunch(self) -> RayRuntime:
        """Do so after a setback, on what is left of the cluster.

        Raises:
            RunError: If the fleet does not fit it, and no node comes within `limits.nodes_s`.
        """
        patience_s, workers = self._request.experiment.limits.nodes_s, self._request.workers
        end, told = time.monotonic() + patience_s, ""
        while True:
            nodes = self._cluster.nodes()
            fewer = workers and min(workers, whole_cpus(nodes))
            try:
                return self._launch(self._hosting(nodes, fewer))
            except ExperimentError as error:
                if time.monotonic() > end:
                    raise RunError(
                        f"waited {patience_s:g} s for nodes, in vain: {error}"
                    ) from error
                if str(error) != told:
                    told = str(error)
                    self._say(f"waiting up to {patience_s:g} s for nodes: {told}")
            self._pause()

    def _pause(self) -> None:
        for _ in range(int(EVERY_S / SLICE_S)):
            self._check()
            time.sleep(SLICE_S)

    def _hosting(self, nodes: list[Node], workers: int | None) -> Hosting:
        request = self._request
        hosting = choose(
            request.experiment.hosted(),
            self._fleet.resources(),
            nodes,
            workers=workers,
            free_bytes=self._cluster.free_bytes(),
            poolable=not self._holdings.local(),
        )
        if self._cells is not None:
            self._cells.check(hosting, nodes)
        return hosting

    def _launch(self, hosting: Hosting) -> RayRuntime:
        request, cells = self._request, self._cells
        self._chosen(hosting.kind, hosting.actors, hosting.why)
        own = range(hosting.actors if hosting.kind == "dedicated" else 0)
        return RayRuntime(
            request.experiment.work(timed=request.profile),
            self._holdings,
            self._stored,
            placement=Placement(
                hosting,
                [self._fleet.resources_of(client) for client in own],
                cells,
                grows=request.workers is None and not (cells is not None and cells.placed),
                grown=lambda actors: self._chosen("pooled", actors, "a node has come"),
                watch=None if self._cluster.own else NodeWatch(self._cluster.nodes),
            ),
            limits=request.experiment.limits,
            note=self._note,
            paths=request.paths,
            watch=self._watch,
            check=self._check,
        )
