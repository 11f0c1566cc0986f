"""What more does an assignment take a client that corrects its own late update?"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from actors.learning.examples import DataShape
from orchestrator.experiment import Experiment
from orchestrator.fleet import Fleet
from orchestrator.stages import corrected
from orchestrator.views.fleet_view_groups import Typical
from orchestrator.views.fleet_view_walk import Sizes, Start, Walk
from policies.method import Method
from policies.types import Positions

_EVER: Final = 10**9
"""Updates after which every stage of training has come."""


@dataclass(frozen=True, slots=True)
class Late:
    """An assignment of a kind of client whose update is late when its training ends.

    Attributes:
        fetch_s: Until the newest version is there, if the whole model must be sent.
        correct_s: Until the update is corrected.
        late_total_s: The assignment in all, with both and the least payload.
        late_dense_total_s: The same with a dense one.
        late_energy_j: Of the device and its link for all of it, with the least payload.
        late_dense_energy_j: The same with a dense one.
    """

    fetch_s: Typical
    correct_s: Typical
    late_total_s: Typical
    late_dense_total_s: Typical
    late_energy_j: Typical
    late_dense_energy_j: Typical


LATE_FIGURES: Final = tuple(field.name for field in fields(Late))


def at_clients(method: Method) -> bool:
    """Say whether clients ever correct their own updates, as the engine has it."""
    if method.aggregation.pacing().cohort is not None or not method.staleness.accepts(1):
        return False
    return method.correction.own_strength(_EVER, 1, 0.0) > 0


class Lessons:
    """Tells how clients correct their own updates.

    Args:
        experiment: Whose.
        shape: What its data looks like.
        examples: Of each client, shape (clients,); None if that is not known.
    """

    def __init__(
        self, experiment: Experiment, shape: DataShape, examples: Positions | None
    ) -> None:
        self._policy = experiment.method.correction
        self._forward_flops = float(experiment.model.forward_flops(shape))
        self._examples = examples

    def taken(self, fleet: Fleet, start: Start, trained: Walk, carried: Sizes) -> dict[str, float]:
        """Return what an assignment takes that has been trained, if it is corrected now.

        A client with too few examples uploads at once.
        """
        client, known = start.client, self._examples is not None
        examples = None if self._examples is None else int(self._examples[client])
        walk = Walk(fleet, start._replace(at_s=trained.now_s))
        if examples is None or self._policy.checks(examples):
            flops = self._policy.own_flops(examples or 0, self._forward_flops)
            walk.through(corrected((), 0, carried.down, flops), known=known)
        more, plain = walk.figures(carried), trained.seconds
        before_s = sum(plain.values())
        return {
            "fetch_s": more["download_s"],
            "correct_s": more["compute_s"],
            "late_total_s": before_s + more["total_s"],
            "late_dense_total_s": before_s + more["dense_total_s"],
            "late_energy_j": trained.energy_j + more["energy_j"],
            "late_dense_energy_j": trained.energy_j + more["dense_energy_j"],
        }
