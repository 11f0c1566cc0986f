"""Does training a model fit into a device's memory?"""

from __future__ import annotations

from typing import Final

from orchestrator.fleet.catalogue import Profile

COPIES_IN_TRAINING: Final = 4
"""Float32 copies of the parameters in memory: model, gradient, momentum, base. Our estimate."""


def training_bytes(
    parameters: int, activation_bytes_per_example: int, batch_size: int, frozen: int = 0
) -> int:
    """Return the memory that training takes, in bytes; arguments and source as of `fits`."""
    weights = 4 * (COPIES_IN_TRAINING * parameters + frozen)
    return weights + activation_bytes_per_example * batch_size


def fits(
    profile: Profile,
    parameters: int,
    activation_bytes_per_example: int,
    batch_size: int,
    frozen: int = 0,
) -> str | None:
    """Say why training a model needs more memory than a device has, or return None.

    Args:
        profile: The device.
        parameters: Parameters of the model that are trained, float32.
        activation_bytes_per_example: What the forward pass keeps for the backward pass.
        batch_size: Examples a step.
        frozen: Parameters that are only read, of which there is one copy.

    Returns:
        A message with the numbers and the way out, or None if it fits.

    Source:
        Our estimate: 4 copies of the parameters (model, gradient, momentum, base) and the
        activations of one batch. Frameworks add some hundred MB.
    """
    weights = 4 * (COPIES_IN_TRAINING * parameters + frozen)
    activations = activation_bytes_per_example * batch_size
    needed = training_bytes(parameters, activation_bytes_per_example, batch_size, frozen)
    if needed <= profile.memory_bytes:
        return None
    if weights >= profile.memory_bytes:
        way_out = (
            "Take a smaller encoder"
            if frozen > parameters
            else f"Take a model of at most {profile.memory_bytes // 16:,} parameters"
        )
    else:
        most = (profile.memory_bytes - weights) // activation_bytes_per_example
        way_out = f"Lower batch_size to {most}" if most else "Take a smaller model"
    more = f" and {frozen:,} frozen ones" if frozen else ""
    return (
        f"{profile.name} has {_size(profile.memory_bytes)} for training and needs "
        f"{_size(needed)}: {_size(weights)} for {COPIES_IN_TRAINING} copies of "
        f"{parameters:,} float32 parameters{more}, {_size(activations)} for the activations of "
        f"{batch_size} examples. {way_out}, or leave {profile.name} out of the mix."
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10**9 else f"{count / 1e6:.2f} MB"
