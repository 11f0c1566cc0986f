"""Does training a model fit into a device's memory?"""

from __future__ import annotations

from orchestrator.fleet.catalogue import Profile
from policies.memory import COPIES, FLOAT_BYTES, Memory


def fits(profile: Profile, memory: Memory, batch_size: int, least: int | None = None) -> str | None:
    """Say why training a model needs more memory than a device has, or return None.

    Args:
        profile: The device.
        memory: What training takes.
        batch_size: Examples a step.
        least: `method.workload.least_batch`, which lowers them; None if it does not.

    Returns:
        A message with the numbers and the way out, or None if it fits.
    """
    has, needed = profile.memory_bytes, memory.bytes(batch_size)
    if needed <= has:
        return None
    more = f" and {memory.frozen:,} frozen ones" if memory.frozen else ""
    return (
        f"{profile.name} has {_size(has)} for training and needs {_size(needed)}: "
        f"{_size(memory.weights)} for {COPIES} copies of {memory.parameters:,} float32 "
        f"parameters{more}, {_size(needed - memory.weights)} for the activations of "
        f"{batch_size} examples. {_way_out(has, memory, batch_size, least)}, or leave "
        f"{profile.name} out of the mix."
    )


def _way_out(has: int, memory: Memory, batch_size: int, least: int | None) -> str:
    if memory.weights >= has:
        if memory.frozen > memory.parameters:
            return "Take a smaller encoder"
        return f"Take a model of at most {has // (COPIES * FLOAT_BYTES):,} parameters"
    most = memory.most(has, batch_size)
    if most and least is not None:
        return f"Lower method.workload.least_batch to {most}"
    if most:
        return f"Lower batch_size to {most} or set method.workload.least_batch"
    return "Take a smaller model"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10**9 else f"{count / 1e6:.2f} MB"
