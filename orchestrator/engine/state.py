"""What has a run come to, between two events?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from actors.learning.evaluation_torch import Evaluation
from actors.server import Receipt
from orchestrator.books import Ledger, Resources, Roster, VersionStore
from orchestrator.client_states import ClientStates
from orchestrator.plan import Flight, Round
from orchestrator.runtime import Passed, Pending, Place, Weights
from policies.guards import Look, Stop, StopReason
from policies.selection import Past
from policies.splitting import Ends, Exchange
from policies.types import Address, Arrays, Version

_FIRST: Final = Version(0, 0)


@dataclass(slots=True)
class Gathering:
    """A version that is committed, and whose sums are on their way.

    Attributes:
        version: Which one.
        coming: Cells whose sum has not come in.
        arrived_s: When the latest of the others has.
    """

    version: Version
    coming: int
    arrived_s: float = 0.0


class Waiting(NamedTuple):
    """A question that waits for the encoder, or is in one of its passes.

    Attributes:
        address: Whose.
        base: The version that its client trains from.
        exchange: What it asks.
        ends: How the model is cut for its client.
        step: Which batch it brings; of answers alone, the one that they are of.
        question: Where it lies.
        before: Where the question lies whose batch it answers for by gradients.
        brought: What that question was.
        weights: What has computed that batch.
        rows: Examples of its client, if their features are kept; 0 if not.
    """

    address: Address
    base: Version
    exchange: Exchange
    ends: Ends
    step: int
    question: Place
    before: Place | None = None
    brought: Exchange = Exchange()
    weights: Weights | None = None
    rows: int = 0


class UnderWay(NamedTuple):
    """A pass of the encoder.

    Attributes:
        members: What it computes.
        weights: The newest when it began.
        replica: Which encoder computes it.
        head: The newest version committed when it began: its rate is that version's, and from
            other lineages the encoder learns nothing.
        pending: What comes of it.
    """

    members: tuple[Waiting, ...]
    weights: Weights
    replica: int
    head: Version
    pending: Pending[Passed]


@dataclass(slots=True)
class EncoderState:
    """What the encoder has come to.

    Attributes:
        weights: The newest.
        queue: Questions, in the order of arrival.
        passes: Those under way, by number.
        begun: Passes so far.
        features: Of clients whose examples' features never change and are known.
        embedded: Clients that have computed such features themselves.
        equipped: Blocks that each client has, of those that have anything.
    """

    weights: Weights
    queue: list[Waiting] = field(default_factory=list)
    passes: dict[int, UnderWay] = field(default_factory=dict)
    begun: int = 0
    features: dict[int, Place] = field(default_factory=dict)
    embedded: set[int] = field(default_factory=set)
    equipped: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class State:
    """What the parts of the engine share, and a checkpoint holds.

    A checkpoint also holds the events that are to come and the tests that are under way; those
    keep themselves.

    Attributes:
        roster: Who can be asked.
        ledger: How many updates went which way, and what it took.
        client_states: What each client trains from next.
        versions: Those that exist and are still needed.
        head: The newest version committed, published or not.
        receipts: Of the versions that are committed and not yet published, in their order.
        gathering: Of these the ones whose cells' sums are on their way, by number.
        held: The newest version that each client was sent.
        flights: Assignments until their update is committed or has come to nothing.
        flying: How many of them have not arrived.
        buffer: Updates that wait for their version, in the order of arrival.
        round: The synchronous round, if the method has rounds.
        resources: When the modelled server and evaluator are free.
        measures: The method's own figures of versions that are being tested.
        last_evaluation: Of the newest version whose result is known.
        best: The highest accuracy so far, and its version, which is kept.
        selections: Times that clients were chosen.
        past: What is known of clients; None where the selection does not look back.
        selection: What the selection remembers.
        points: Times that observers were told.
        looks: What the last accepted updates looked like, where a guard judges by them.
        kls: How far the last corrected updates were from their teachers, where a guard reads it.
        in_vain: Times in a row that nothing came of asking, or nobody could be asked.
        stopped: Why the run ends; None before.
        ended_s: When the run had done enough, in its own time; None before. Tests of the last
            version may be known later.
        encoder: What the encoder has come to; None if clients compute the whole model.
        paused: Whether people want it to wait; no part of a checkpoint.
    """

    roster: Roster
    ledger: Ledger = field(default_factory=Ledger)
    client_states: ClientStates = field(default_factory=ClientStates)
    versions: VersionStore = field(default_factory=VersionStore)
    head: Version = _FIRST
    receipts: dict[Version, Pending[Receipt]] = field(default_factory=dict)
    gathering: dict[int, Gathering] = field(default_factory=dict)
    held: dict[int, Version] = field(default_factory=dict)
    flights: dict[Address, Flight] = field(default_factory=dict)
    flying: int = 0
    buffer: list[Address] = field(default_factory=list)
    round: Round = field(default_factory=Round)
    resources: Resources = field(default_factory=Resources)
    measures: dict[Version, dict[str, float]] = field(default_factory=dict)
    last_evaluation: tuple[Version, Evaluation] | None = None
    best: tuple[float, Version] | None = None
    selections: int = 0
    past: Past | None = None
    selection: Arrays = field(default_factory=dict)
    points: int = 0
    looks: list[Look] = field(default_factory=list)
    kls: list[float] = field(default_factory=list)
    in_vain: int = 0
    stopped: StopReason | None = None
    ended_s: float | None = None
    encoder: EncoderState | None = None
    paused: bool = False

    def may_commit(self, stop: Stop) -> bool:
        """Say whether another version may be made: the run goes on, and has not made its last."""
        return self.stopped is None and (stop.versions is None or self.head.number < stop.versions)

    def staleness(self, flight: Flight) -> int:
        """Count the versions that were made since an assignment's own."""
        return self.head.number - flight.base.number
