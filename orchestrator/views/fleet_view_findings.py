"""What of a fleet cannot work, or will surprise?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from orchestrator.doctor.findings import Finding, note, trouble
from orchestrator.experiment import Experiment
from orchestrator.views.fleet_view_data import Data
from orchestrator.views.fleet_view_day import Day
from orchestrator.views.fleet_view_groups import Group
from orchestrator.views.fleet_view_work import Work
from orchestrator.views.readable import BYTES, TIME, human
from policies.aggregation.base import Pacing

TOO_FULL: Final = 0.5
"""Share of a device's memory above which training is worth a word."""


def findings(
    experiment: Experiment,
    groups: Sequence[Group],
    day: Day,
    work: Sequence[Work],
    data: Data | None,
) -> Iterator[Finding]:
    """Yield what there is to say, each once."""
    pacing = experiment.method.aggregation.pacing()
    yield from _memory(groups, work)
    yield from _asked(pacing, experiment.method.concurrency, day)
    yield from _deadline(pacing, groups, work)
    yield from _never(day)
    if data is not None:
        yield from _batch(experiment.method.training.batch_size, data)
        yield from _tests(data)


def without_clients(labels: Sequence[str]) -> Iterator[Finding]:
    """Yield that entries of the mix came away with no client."""
    if labels:
        text = f"no client has {', '.join(labels)}: the share is too small for one."
        yield note("mix", text, "Raise fleet.clients or the share.")


def _memory(groups: Sequence[Group], work: Sequence[Work]) -> Iterator[Finding]:
    needed: dict[str, tuple[int, int]] = {}
    for group, one in zip(groups, work, strict=True):
        profile = group.profile
        taken, _ = needed.get(profile.name, (0, 0))
        needed[profile.name] = max(one.training_bytes, taken), profile.memory_bytes
    for name, (taken, memory) in needed.items():
        if taken <= TOO_FULL * memory:
            continue
        yield note(
            "memory",
            f"training takes {human(taken, BYTES)} of the "
            f"{human(memory, BYTES)} that {name} has for it ({taken / memory:.0%}), and "
            "frameworks add some hundred MB.",
            "Lower method.training.batch_size or take a smaller model.",
        )


def _asked(pacing: Pacing, concurrency: int, day: Day) -> Iterator[Finding]:
    clients = int(day.sizes.sum())
    there = f"of {clients} clients at most {day.most} are there at any moment of the first day"
    if pacing.cohort is None:
        if concurrency > day.most:
            yield note(
                "concurrency",
                f"method.concurrency is {concurrency}, but {there}: fewer are kept busy.",
                "Lower it, or change fleet.availability.",
            )
    elif pacing.cohort > day.most:
        text = f"a round asks {pacing.cohort} clients, but {there}"
        way_out = "Lower clients_per_round (voters) or over_selection, or raise fleet.clients."
        if min(pacing.cohort, clients - int(day.never.sum())) > day.most:
            text = f"{text}, and a round begins only when all that it asks are there."
            yield trouble("cohort", text, way_out)
        else:
            yield note("cohort", f"{text}: rounds are smaller.", way_out)


def _deadline(pacing: Pacing, groups: Sequence[Group], work: Sequence[Work]) -> Iterator[Finding]:
    limit = pacing.deadline_s
    if limit is None:
        return
    late = [
        f"{human(one.again_s.median, TIME)} of {group.label}"
        for group, one in zip(groups, work, strict=True)
        if one.again_s.median > limit
    ]
    if late:
        yield note(
            "deadline",
            f"a round closes after {human(limit, TIME)}, and the median assignment takes longer: "
            f"{'; '.join(late)}.",
            "Raise method.aggregation.deadline_s, or make an update cheaper.",
        )


def _never(day: Day) -> Iterator[Finding]:
    never, clients = int(day.never.sum()), int(day.sizes.sum())
    way_out = "See fleet.availability, joins_s and leaves_s; a trace must name every client."
    if never == clients:
        yield trouble("never there", f"none of {clients} clients ever comes.", way_out)
    elif never:
        text = f"{never} of {clients} clients never {'comes' if never == 1 else 'come'}."
        yield note("never there", text, way_out)


def _batch(batch_size: int, data: Data) -> Iterator[Finding]:
    small = int(np.count_nonzero(data.sizes < batch_size))
    if small:
        yield note(
            "batch size",
            f"{small} of {data.sizes.size} clients have fewer examples than "
            f"method.training.batch_size = {batch_size} (the fewest: {int(data.sizes.min())}): "
            "each step of theirs takes all that they have.",
            "Lower it, or give clients more examples.",
        )


def _tests(data: Data) -> Iterator[Finding]:
    if data.untested == data.sizes.size:
        text = "no client has a test example of its own, and evaluation is federated."
        yield trouble("tests", text, "Set evaluate.kind: central, or take other clients.")
