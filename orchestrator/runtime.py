"""Where is the work done?

The engine decides what happens and when; a `Runtime` does it. There are two: `RayRuntime`, and
`InProcessRuntime` for tests and for reading along. The engine moves handles, never tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from actors.encoder import Pass, PassReceipt
from actors.intake import Admission, Delivery
from actors.learning.evaluation_torch import Evaluation, Score
from actors.learning.holdings import Description
from actors.publisher import Shipment
from actors.server import Receipt, Snapshot
from actors.stopwatch import Usage
from actors.work import Assignment, Figures
from policies.types import Address, Buffer, RunError, Version
from policies.update import ModelSchema

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")
Handle = Any
"""Names a buffer that the runtime keeps: an object reference, or the array itself."""
TRAINER: Final = "trainer"
"""What processes that train without Ray are called, with a number."""
MOST_IN_GROUP: Final = 16
"""Updates that are trained together, at the most."""


class Setback(RunError):  # noqa: N818  # the run goes on
    """What the run stands on is gone: an actor that holds the model, or buffers of a lost node.

    The run goes on from its last checkpoint.
    """


class Place(NamedTuple):
    """Bytes inside a buffer that may be shared with others."""

    handle: Handle
    start: int
    stop: int


States = Sequence[tuple[int, Place]]
"""Clients, in their order, and where the state of each lies."""


class Job(NamedTuple):
    """One assignment with all that its training needs.

    Attributes:
        assignment: What is asked for.
        base: The base version's message.
        state: The client's state; None before its first update.
        due_s: When the run will want the result, in its own time: earlier ones train first.
        teacher: The message of the version that corrects the update; None if nothing does.
        carry: What the part before has left; None if there was none.
        reply: The encoder's reply to that; None if there is none.
    """

    assignment: Assignment
    base: Handle
    state: Place | None
    due_s: float
    teacher: Handle | None = None
    carry: Place | None = None
    reply: Place | None = None


@dataclass(slots=True, eq=False)
class Task:
    """A job that waits, with what its tries have come to.

    Attributes:
        job: What is to be done.
        serial: Counts jobs.
        attempt: Tries before this one.
        result: What came of it, once that is known.
    """

    job: Job
    serial: int
    attempt: int = 0
    result: Finished | None = None

    def __lt__(self, other: Task) -> bool:
        """Say which is needed earlier."""
        return (self.job.due_s, self.serial) < (other.job.due_s, other.serial)


class Finished(NamedTuple):
    """What came of a job.

    Attributes:
        admission: The server's verdict and figures; None if the job was lost, or was a part that
            ends with a question.
        payload: The payload, or the question.
        state: The client's next state, or what its next part needs; None if that is nothing.
        figures: What the client measured of its update, by name.
    """

    admission: Admission | None
    payload: Place | None = None
    state: Place | None = None
    figures: Figures = ()

    @property
    def bytes(self) -> int:
        """Length of the payload, or of the question."""
        if self.admission is not None:
            return self.admission.uplink_bytes
        return 0 if self.payload is None else self.payload.stop - self.payload.start


class Weights(NamedTuple):
    """Weights of the encoder: how often it had learnt when it had them, and where they lie."""

    version: int
    handle: Handle


class Passed(NamedTuple):
    """What came of a pass of the encoder.

    Attributes:
        replies: Has all replies.
        weights: The encoder's weights after it.
        receipt: The rest.
    """

    replies: Handle
    weights: Handle
    receipt: PassReceipt


class First(NamedTuple):
    """Version 0: the model's tensors, its handle, and what sending it to anybody takes."""

    schema: ModelSchema
    handle: Handle
    whole: Shipment


class Pending(Protocol[T_co]):
    """A result that may still be on its way."""

    def done(self) -> bool:
        """Say whether `result` would return at once."""

    def result(self) -> T_co:
        """Wait for it, with the runtime's deadline; may be called again."""


@dataclass(frozen=True, slots=True)
class Ready(Generic[T]):
    """A result that is here."""

    value: T

    def done(self) -> bool:
        """Say yes."""
        return True

    def result(self) -> T:
        """Return it."""
        return self.value


class Runtime(Protocol):
    """Trains, admits, commits and evaluates."""

    @property
    def numerics(self) -> str:
        """What equality of digests is promised for."""

    def initial(self) -> First:
        """Return version 0."""

    def begin(self) -> None:
        """Wait until a client can train."""

    def submit(self, job: Job) -> Pending[Finished]:
        """Start a job: train, then admit."""

    def pump(self, timeout_s: float) -> None:
        """Take in what is finished; wait up to `timeout_s` for something to be."""

    def deliver(self, deliveries: Sequence[Delivery], payloads: Buffer) -> None:
        """Admit payloads from a checkpoint again."""

    def commit(
        self, addresses: Sequence[Address], expected: Version
    ) -> tuple[Pending[Receipt], Handle]:
        """Make the next version; its handle can be used before the receipt is here."""

    def rollback(self, expected: Version, target: Handle) -> tuple[Pending[Receipt], Handle]:
        """Publish `target` again under a new lineage."""

    def encoder_weights(self) -> Handle:
        """Return the weights that the encoder begins with."""

    def compute(self, asked: Pass, buffers: Sequence[Handle], replica: int) -> Pending[Passed]:
        """Have a pass of the encoder computed by one of its replicas."""

    def discard(self, addresses: Sequence[Address]) -> None:
        """Let the server forget updates."""

    def evaluate(
        self, version: Handle, encoder: Handle | None = None, states: States = ()
    ) -> Pending[Evaluation]:
        """Test a version, with the encoder's weights where it has one of its own.

        Where tails are personal, with those in the states of clients; others have the first one.
        """

    def evaluate_at(self, version: Handle, clients: Sequence[int]) -> Pending[list[Score]]:
        """Test a version on clients' own test examples, where they are; in the order of clients."""

    def describe(self, clients: Sequence[int]) -> list[Description]:
        """Count clients' examples, where they are; in the order of clients."""

    def snapshot(self, expected: Version) -> Snapshot:
        """Return the server's state once it has reached a version."""

    def quote(self, held: Sequence[Version | None], to: Version) -> list[Shipment]:
        """Return what it takes to bring clients from the versions that they hold to another."""

    def restore(self, snapshot: Snapshot, versions: Sequence[Handle]) -> None:
        """Let the server go on from a snapshot, and the versions that clients may be sent."""

    def put(self, buffer: Buffer) -> Handle:
        """Keep a buffer."""

    def fetch(self, what: Handle | Place) -> Buffer:
        """Return the bytes behind a handle."""

    def usage(self) -> dict[str, Usage]:
        """Return what the time of each process went into, but the engine's own, by name."""

    def memory(self) -> dict[str, int]:
        """Return the memory of each process of the run that can be looked at, now, in bytes."""

    def close(self) -> None:
        """End what was started."""
