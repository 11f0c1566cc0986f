"""Where is the model computed?"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from policies.base import Settings
from policies.decay import exponential
from policies.splitting.activations import Activations, DenseActivations
from policies.splitting.gradients import Exact, Gradient
from policies.units import Flops, Seconds


class Whole(Settings):
    """Each client computes the whole model."""

    kind: Literal["whole"] = "whole"


class Split(Settings):
    """The encoder is computed at the server's side; clients hold what comes before and behind it.

    Attributes:
        gradient: How the encoder and clients' heads learn.
        tail: `shared` is aggregated like the head; `personal` stays with its client and never
            crosses the network.
        rate: Learning rate of the encoder's trained weights; each pass over what clients have sent
            takes one step along the mean of their gradients. With `rate_final`, that at version 0.
        rate_final: Learning rate from version `rate_versions` on; in between it falls (or grows)
            exponentially, as that of clients does. None keeps `rate`.
        rate_versions: How many versions that takes.
        momentum: Of these steps.
        activations: How activations and their gradients cross the network.
        noise: Standard deviation of Gaussian noise that clients add to the activations they send.
        cut: How many of the encoder's first blocks run on the device; `all` runs the whole encoder
            there, its pooling included, and asks nothing. `auto` chooses for each client, at each
            assignment, what makes its step shortest.
        replicas: Encoders that serve side by side; one, where the encoder is trained.
        batch: Examples in one pass of an encoder at the most; what waits longest goes first.
        timeout: How long the encoder keeps what it has computed for a client's answer.
        flops: Speed of each replica, FLOP/s; the server's if left out.
        num_gpus: What Ray reserves for each replica, which then computes on that GPU.
    """

    kind: Literal["split"] = "split"
    gradient: Gradient = Exact()
    tail: Literal["shared", "personal"] = "shared"
    rate: NonNegativeFloat = 0.01
    rate_final: PositiveFloat | None = None
    rate_versions: PositiveInt = 100
    momentum: float = Field(default=0.0, ge=0, lt=1)
    activations: Activations = DenseActivations()
    noise: NonNegativeFloat = 0.0
    cut: Literal["auto", "all"] | NonNegativeInt = 0
    replicas: PositiveInt = 1
    batch: PositiveInt = 64
    timeout: Annotated[Seconds, Field(gt=0)] = 600.0
    flops: Annotated[Flops, Field(gt=0)] | None = None
    num_gpus: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _falls_from_somewhere(self) -> Self:
        if self.rate_final is not None and self.rate == 0:
            raise ValueError(
                "rate_final needs a rate above 0 to begin with, got rate 0. Raise rate, or leave "
                "rate_final out."
            )
        return self

    def rate_at(self, version: int) -> float:
        """Return the encoder's learning rate for passes that begin at a version."""
        return exponential(self.rate, self.rate_final, self.rate_versions, version)

    @property
    def personal(self) -> bool:
        """Whether each client has a tail of its own."""
        return self.tail == "personal"
