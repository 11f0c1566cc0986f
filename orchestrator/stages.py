"""What does an assignment go through, one stage after the other?

A process is a tuple of stages and a position in it: plain data that a checkpoint can hold. Each
stage queues for the resource that it names, so a correction at the client or split learning is
another tuple, not another engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orchestrator.fleet import TRAINING

CORRECTING: Final = "correcting"
"""The purpose of a client's work on an update that it has trained."""


@dataclass(frozen=True, slots=True)
class Download:
    """The client receives `bytes` over its downlink."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Compute:
    """The client's device does `flops` of work; what it computes is known afterwards.

    Attributes:
        purpose: What it is for; two purposes share no draws.
    """

    flops: float
    purpose: str = TRAINING


@dataclass(frozen=True, slots=True)
class Upload:
    """The client sends its payload over its uplink; at least `least_bytes` of it."""

    least_bytes: int


Stage = Download | Compute | Upload


def plain_training(model_bytes: int, flops: float, least_bytes: int) -> tuple[Stage, ...]:
    """Receive a version, train on it, send the update."""
    return Download(model_bytes), Compute(flops), Upload(least_bytes)


def corrected(
    stages: tuple[Stage, ...], at: int, model_bytes: int, flops: float
) -> tuple[Stage, ...]:
    """Receive another version and correct the update by it, before the stage `at`."""
    extra = Download(model_bytes), Compute(flops, CORRECTING)
    return (*stages[:at], *extra, *stages[at:])
