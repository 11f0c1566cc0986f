"""What does a fleet look like before anything runs?

Puts together who the clients are, when they are there, what data they have, what an assignment
takes them, and what of that cannot work. Showing it is done elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.learning.examples import DataShape
from actors.learning.holdings import hold
from orchestrator.doctor.findings import Finding
from orchestrator.doctor.fit import fit, this_machine
from orchestrator.experiment import Experiment
from orchestrator.fleet import Fleet
from orchestrator.hosting import Node
from orchestrator.plan import SplitPlan
from orchestrator.portions import Portions
from orchestrator.views.fleet_view_cells import CellView, cells
from orchestrator.views.fleet_view_data import Data, data
from orchestrator.views.fleet_view_day import Day, day
from orchestrator.views.fleet_view_findings import findings, without_clients
from orchestrator.views.fleet_view_groups import Dots, Group, Reals, dots, groups
from orchestrator.views.fleet_view_groups import without_clients as empty
from orchestrator.views.fleet_view_late import Lessons, at_clients
from orchestrator.views.fleet_view_split import Courses
from orchestrator.views.fleet_view_walk import Sizes
from orchestrator.views.fleet_view_work import Load, Work, sizes, work
from policies.splitting import Split
from policies.training import Portion
from policies.types import ExperimentError, Positions


@dataclass(frozen=True, slots=True, eq=False)
class FleetView:
    """All that is known of a fleet beforehand.

    Attributes:
        experiment: Whose fleet it is.
        shape: What the data looks like.
        parameters: Of the model that clients are sent; of a split one, its two ends.
        groups: The kinds of clients.
        day: Who is there when, by kind.
        carried: What crosses a link for one assignment.
        work: What an assignment takes, by kind.
        cells: What sums updates near clients; none in most fleets.
        data: Who has how much of what; None if only the clients know.
        dots: Some clients one by one.
        findings: What cannot work or will surprise.
        hosting: What would host them on this machine, and why.
    """

    experiment: Experiment
    shape: DataShape
    parameters: int
    groups: Sequence[Group]
    day: Day
    carried: Sizes
    work: Sequence[Work]
    cells: Sequence[CellView]
    data: Data | None
    dots: Dots
    findings: Sequence[Finding]
    hosting: Finding

    @property
    def clients(self) -> int:
        """How many there are."""
        return self.experiment.fleet.clients

    @property
    def training_bytes(self) -> int:
        """Memory that training takes on a device, at the most."""
        return max(one.training_bytes for one in self.work)

    @property
    def split(self) -> bool:
        """Whether an encoder computes a part of the model."""
        return isinstance(self.experiment.topology, Split)

    @property
    def uneven(self) -> bool:
        """Whether some clients may be asked for less than others."""
        workload = self.experiment.method.workload
        return workload.kind != "equal" or workload.least_batch is not None

    @property
    def corrects(self) -> bool:
        """Whether clients correct their own late updates."""
        return any(one.late is not None for one in self.work)


def look(
    experiment: Experiment, machine: tuple[Sequence[Node], int | None] | None = None
) -> FleetView:
    """Look at an experiment's fleet; no Ray is started and nothing is trained.

    Args:
        experiment: A valid one.
        machine: Nodes to host it and their free memory; those of this machine by default.

    Raises:
        ExperimentError: If the data is not there, or too little for so many clients.

    Cost:
        The data is read and the model built; for 100,000 clients some seconds more.
    """
    fleet = Fleet.draw(experiment.fleet, experiment.seed)
    holdings = hold(experiment.data, experiment.fleet.clients, experiment.seed)
    shape = holdings.shape
    parameters = experiment.model.parameters(shape)
    kinds = groups(fleet)
    times = day(fleet, kinds)
    known = data(holdings, federated=experiment.evaluate.kind == "federated")
    carried = sizes(experiment, shape)
    split = SplitPlan.of(experiment, shape)
    took = work(fleet, kinds, _load(experiment, fleet, shape, known, carried, split))
    if split is not None:
        parameters = split.ends[min(split.ends)].exchanged(split.settings)
    said = [
        *without_clients(empty(fleet)),
        *findings(experiment, kinds, times, took, known),
    ]
    return FleetView(
        experiment=experiment,
        shape=shape,
        parameters=parameters,
        groups=kinds,
        day=times,
        carried=carried,
        work=took,
        cells=cells(fleet, carried.dense),
        data=known,
        dots=dots(fleet, kinds),
        findings=said,
        hosting=fit(experiment, *(machine or this_machine())),
    )


def _load(
    experiment: Experiment,
    fleet: Fleet,
    shape: DataShape,
    known: Data | None,
    carried: Sizes,
    split: SplitPlan | None,
) -> Load:
    """Return what clients are asked for."""
    examples = None if known is None else known.sizes
    method, forward = experiment.method, float(experiment.model.forward_flops(shape))
    portions = Portions(method, forward, experiment.memory(shape), split)
    if split is not None:
        if examples is None:
            raise ExperimentError(
                "topology split needs clients whose examples are known: no silos."
            )
        courses = Courses(split, examples, carried, experiment.seed, portions)
        return Load(carried, method.training, portions, examples, None, courses)
    lessons = None
    if at_clients(experiment.method):
        lessons = Lessons(experiment, shape, examples)
    flops = _flops(fleet, examples, portions)
    return Load(carried, method.training, portions, examples, flops, lessons=lessons)


def _flops(fleet: Fleet, examples: Positions | None, portions: Portions) -> Reals | None:
    """Return the work of one update of each client, shape (clients,)."""
    if examples is None:
        return None
    if portions.equal:
        different, place = np.unique(examples, return_inverse=True)
        flops: Reals = np.array([portions.flops(int(n), Portion()) for n in different])[place]
        return flops
    taken = (portions.of(fleet, client, int(n)) for client, n in enumerate(examples))
    return np.array([portions.flops(int(n), part) for n, part in zip(examples, taken, strict=True)])
