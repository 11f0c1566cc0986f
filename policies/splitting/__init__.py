"""Where is the model computed: at the client alone, or in part at an encoder's side?"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from policies.splitting.activations import Activations, DenseActivations, TopKActivations
from policies.splitting.division import Division
from policies.splitting.gradients import CentralDifference, Exact, ForwardDifference, Gradient
from policies.splitting.process import Ends, Exchange, Process
from policies.splitting.topology import Split, Whole


def _named(value: Any) -> Any:
    """Let `topology: split` stand for `topology: {kind: split}`."""
    return {"kind": value} if isinstance(value, str) else value


Topology = Annotated[
    Annotated[Whole | Split, Field(discriminator="kind")],
    BeforeValidator(_named),
]

__all__ = [
    "Activations",
    "CentralDifference",
    "DenseActivations",
    "Division",
    "Ends",
    "Exact",
    "Exchange",
    "ForwardDifference",
    "Gradient",
    "Process",
    "Split",
    "TopKActivations",
    "Topology",
    "Whole",
]
