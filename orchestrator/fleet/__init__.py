"""Who takes part, when is who there, and how long does what take them?"""

from orchestrator.fleet.availability import (
    Always,
    Availability,
    Diurnal,
)
from orchestrator.fleet.catalogue import CATALOGUE, OnLeave, Profile
from orchestrator.fleet.cells import Cell, CellResources
from orchestrator.fleet.churn import Churn
from orchestrator.fleet.drawn import TRAINING, Fleet, apportion
from orchestrator.fleet.jitter import (
    CorrelatedJitter,
    Jitter,
    JitterPolicy,
    LognormalJitter,
    LognormalSpread,
    NoJitter,
    ParetoJitter,
    ParetoSpread,
)
from orchestrator.fleet.links import (
    Link,
    LinkPolicy,
    Region,
    SteadyLink,
    TraceLink,
    VaryingLink,
)
from orchestrator.fleet.memory import fits
from orchestrator.fleet.presence_trace import TraceAvailability
from orchestrator.fleet.resources import ActorResources
from orchestrator.fleet.settings import (
    INSTANT,
    FleetSettings,
    MixEntry,
    ServerSettings,
)
from orchestrator.fleet.spans import Span
from orchestrator.fleet.status import AvailabilityPolicy, Status

__all__ = [
    "CATALOGUE",
    "INSTANT",
    "TRAINING",
    "ActorResources",
    "Always",
    "Availability",
    "AvailabilityPolicy",
    "Cell",
    "CellResources",
    "Churn",
    "CorrelatedJitter",
    "Diurnal",
    "Fleet",
    "FleetSettings",
    "Jitter",
    "JitterPolicy",
    "Link",
    "LinkPolicy",
    "LognormalJitter",
    "LognormalSpread",
    "MixEntry",
    "NoJitter",
    "OnLeave",
    "ParetoJitter",
    "ParetoSpread",
    "Profile",
    "Region",
    "ServerSettings",
    "Span",
    "Status",
    "SteadyLink",
    "TraceAvailability",
    "TraceLink",
    "VaryingLink",
    "apportion",
    "fits",
]
