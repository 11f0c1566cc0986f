"""Which words do all floors share?

Addresses, versions, payload kinds, verdicts and named random streams. A value defined here means
the same in a policy, in an actor and in the engine.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.random.bit_generator import ISeedSequence

Vector = npt.NDArray[np.float32]
"""A flat float32 vector, shape (P,)."""
Positions = npt.NDArray[np.int64]
"""Strictly increasing flat indices, shape (k,)."""
Buffer = npt.NDArray[np.uint8]
"""Bytes that cross a link, shape (n,), contiguous."""
Arrays = dict[str, npt.NDArray[Any]]
"""Named arrays: the value of a piece of state."""

PayloadKind = Literal["delta", "weights", "votes", "activations"]
"""What the numbers of a message are: a difference, whole weights, signs to be counted, or what a
client and the encoder tell each other about a batch, which no aggregation takes."""

ValueCoding = Literal["fp32", "fp16", "bf16", "int8", "level", "sign"]
"""How one value is written."""


class LatecomerError(Exception):
    """A mistake with a message for the user: what, the rule, and the way out.

    Takes one string, so that it crosses processes.
    """


class ExperimentError(LatecomerError):
    """The experiment as written cannot run."""


class RunError(LatecomerError):
    """A run cannot go on; what it had is in its last checkpoint."""


class Address(NamedTuple):
    """Names one update for ever: the client and its dispatch counter, both from 0."""

    client: int
    number: int


class Version(NamedTuple):
    """A published model: its number, which only grows, and the lineage that it belongs to."""

    number: int
    lineage: int


class Outcome(StrEnum):
    """What became of an update once the server had looked at it."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"
    LOST = "lost"


class Reason(StrEnum):
    """Why an update was not accepted."""

    NONE = ""
    MALFORMED = "malformed"
    CHECKSUM = "checksum"
    TRUNCATED = "truncated"
    OVERSIZED = "oversized"
    WRONG_KIND = "wrong_kind"
    WRONG_SCHEMA = "wrong_schema"
    WRONG_ADDRESS = "wrong_address"
    WRONG_VERSION = "wrong_version"
    WRONG_MASK = "wrong_mask"
    NOT_FINITE = "not_finite"
    WRONG_EXAMPLES = "wrong_examples"
    DUPLICATE = "duplicate"
    ANOMALOUS = "anomalous"
    TOO_STALE = "too_stale"
    ROUND_CLOSED = "round_closed"
    OLD_LINEAGE = "old_lineage"
    NO_RESULT = "no_result"
    TIMED_OUT = "timed_out"
    WENT_AWAY = "went_away"
    GAVE_UP = "gave_up"


HOSTILE_REASONS: Final = frozenset(
    {
        Reason.MALFORMED,
        Reason.CHECKSUM,
        Reason.TRUNCATED,
        Reason.OVERSIZED,
        Reason.WRONG_KIND,
        Reason.WRONG_SCHEMA,
        Reason.WRONG_ADDRESS,
        Reason.WRONG_VERSION,
        Reason.WRONG_MASK,
        Reason.NOT_FINITE,
        Reason.WRONG_EXAMPLES,
        Reason.DUPLICATE,
        Reason.ANOMALOUS,
        Reason.NO_RESULT,
    }
)
"""Reasons that speak against the sender; the others are bad luck."""


class Verdict(NamedTuple):
    """The server's word on one update: an outcome and, unless accepted, the reason."""

    outcome: Outcome
    reason: Reason = Reason.NONE
    detail: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the update counts."""
        return self.outcome is Outcome.ACCEPTED


ACCEPTED: Final = Verdict(Outcome.ACCEPTED)


def rejected(reason: Reason, detail: str = "") -> Verdict:
    """Reject for `reason`; `detail` is for people."""
    return Verdict(Outcome.REJECTED, reason, detail)


class _Key(ISeedSequence):
    """A Philox key of its own: `Philox(key=...)` also draws entropy, in twice the time."""

    def __init__(self, name: hashlib.blake2b) -> None:
        self._words = np.frombuffer(name.digest(), dtype="<u8")

    def generate_state(
        self, n_words: int, dtype: npt.DTypeLike = np.uint32
    ) -> np.ndarray[Any, np.dtype[Any]]:
        """Return the key; Philox asks for two words of 64 bits."""
        if (n_words, np.dtype(dtype)) != (2, np.dtype(np.uint64)):
            raise ValueError(f"a Philox key has two words of 64 bits, not {n_words} of {dtype}")
        return self._words


def stream(seed: int, purpose: str, client: int = 0, number: int = 0) -> np.random.Generator:
    """Return a fresh generator that depends on these four names alone.

    Args:
        seed: The experiment's seed, any integer >= 0.
        purpose: What the numbers are for; two purposes never share numbers.
        client: Client, or 0 where there is none.
        number: Counter within the client, or 0.

    Returns:
        A Philox generator: counter-based, the same on every machine.
    """
    name = f"{seed}/{purpose}/{client}/{number}".encode()
    key = _Key(hashlib.blake2b(name, digest_size=16))
    return np.random.Generator(np.random.Philox(key))  # type: ignore[arg-type]  # numpy takes it


def stream_seed(seed: int, purpose: str, client: int = 0, number: int = 0) -> int:
    """Return 63 bits for generators that are not numpy's (torch), named like `stream`."""
    name = f"{seed}/{purpose}/{client}/{number}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") >> 1
