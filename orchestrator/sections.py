"""Which small sections does an experiment file have besides those of the policies?"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from actors.faults import Fault
from policies.base import Settings
from policies.guards import Anomaly, Load, Quarantine
from policies.units import Seconds

Hosting = Literal["auto", "dedicated", "pooled"]


class Evaluate(Settings):
    """The section `evaluate`: how versions are tested.

    Attributes:
        kind: `central` on the test split; `federated` at the clients, on test examples of their
            own, which natural partitions and silos have.
        every_versions: Version 0 and the last one are tested always.
        examples: Of the test split, drawn once, always the same; all of it if left out. Central
            alone.
        share: Of the clients, drawn for each version; federated alone.
        deadline: Results that would come later than this after the version are left out; the
            earliest one counts in any case. Federated alone.
    """

    kind: Literal["central", "federated"] = "central"
    every_versions: PositiveInt = 10
    examples: PositiveInt | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    deadline: Annotated[Seconds, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _share_is_federated(self) -> Self:
        if self.kind == "central" and (self.share < 1 or self.deadline is not None):
            raise ValueError(
                "share and deadline are for federated evaluation. Set kind: federated, or remove "
                "them."
            )
        if self.kind == "federated" and self.examples is not None:
            raise ValueError(
                "examples is for central evaluation; clients test on all examples of their own. "
                "Remove it, or set kind: central."
            )
        return self


class Checkpoints(Settings):
    """How often a run is saved.

    Attributes:
        every_s: Seconds on the wall between two checkpoints; they change nothing in a run.
        keep: How many are kept.
    """

    every_s: Annotated[Seconds, Field(gt=0)] = 15.0
    keep: PositiveInt = 2


class Limits(Settings):
    """How long anything is waited for, in seconds on the wall, and how often it is tried.

    Attributes:
        start_s: Until the actors answer.
        train_s: For one training call; then the actor is replaced and asked again.
        server_s: For an answer of the parameter server.
        evaluate_s: For an evaluation.
        nodes_s: For nodes to come, when the fleet fits no more what is left of the cluster.
        attempts: Tries of one update before it is counted as lost, and setbacks in a row from
            which a run goes on without having come any further.
    """

    start_s: Annotated[Seconds, Field(gt=0)] = 120.0
    train_s: Annotated[Seconds, Field(gt=0)] = 300.0
    server_s: Annotated[Seconds, Field(gt=0)] = 300.0
    evaluate_s: Annotated[Seconds, Field(gt=0)] = 300.0
    nodes_s: Annotated[Seconds, Field(ge=0)] = 600.0
    attempts: PositiveInt = 3


class Guards(Settings):
    """What a figure leads to, besides the end of the run."""

    quarantine: Quarantine = Quarantine()
    load: Load = Load()
    anomaly: Anomaly = Anomaly()


class PlannedFault(Settings):
    """A fault of a drill: it fires once, at the first try of that update."""

    fault: Fault
    client: NonNegativeInt
    number: NonNegativeInt = 0
