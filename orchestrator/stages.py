"""What does an assignment go through, one stage after the other?

A process is a tuple of stages and a position in it: plain data that a checkpoint can hold. Each
stage queues for the resource that it names, so a correction at the client or split learning is
another tuple, not another engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from orchestrator.fleet import TRAINING
from policies.splitting import Process

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
        begin: Share of the assignment's work that was done before.
        end: Share of it that is done afterwards.
    """

    flops: float
    purpose: str = TRAINING
    begin: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, slots=True)
class Ask:
    """The client sends the encoder a question over its uplink; at least `least_bytes` of it.

    What follows begins when the reply is there; it is not waited for if there is none.
    """

    least_bytes: int


@dataclass(frozen=True, slots=True)
class Upload:
    """The client sends its payload over its uplink; at least `least_bytes` of it."""

    least_bytes: int


Stage = Download | Compute | Ask | Upload


@lru_cache(maxsize=256)
def plain_training(model_bytes: int, flops: float, least_bytes: int) -> tuple[Stage, ...]:
    """Receive a version, train on it, send the update."""
    return Download(model_bytes), Compute(flops), Upload(least_bytes)


def corrected(
    stages: tuple[Stage, ...], at: int, model_bytes: int, flops: float
) -> tuple[Stage, ...]:
    """Receive another version and correct the update by it, before the stage `at`."""
    extra = Download(model_bytes), Compute(flops, CORRECTING)
    return (*stages[:at], *extra, *stages[at:])


def split_training(
    model_bytes: int, equipment_bytes: int, process: Process, least_bytes: int
) -> tuple[Stage, ...]:
    """Receive a version, train on it part by part, send the update.

    Args:
        model_bytes: Of the version.
        equipment_bytes: Of what else the client must have to begin; 0 if it has all of it.
        process: The assignment's parts.
        least_bytes: Of the update.
    """
    stages: list[Stage] = [Download(equipment_bytes)] if equipment_bytes else []
    stages.append(Download(model_bytes))
    work = [process.device_flops(part) for part in range(len(process.exchanges) + 1)]
    total, done = process.all_flops or 1.0, 0.0
    for part, flops in enumerate(work):
        stages.append(Compute(flops, begin=done / total, end=(done + flops) / total))
        done += flops
        if part < len(process.exchanges):
            stages.append(Ask(process.least_bytes(part)))
    return (*stages, Upload(least_bytes))


def replied(stages: tuple[Stage, ...], at: int, reply_bytes: int) -> tuple[Stage, ...]:
    """Receive a reply before the stage `at`."""
    return (*stages[:at], Download(reply_bytes), *stages[at:])
