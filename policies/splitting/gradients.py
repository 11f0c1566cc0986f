"""How do the encoder and a client's head learn from a loss that only the client can compute?"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from policies.base import Settings


class GradientPolicy(Settings):
    """Says what a client and the encoder tell each other about a batch."""

    @property
    def exact(self) -> bool:
        """Whether gradients themselves cross the network."""
        return False

    @abstractmethod
    def moves(self) -> int:
        """Return how often the encoder computes a batch with moved weights, if it is trained."""

    @abstractmethod
    def scalars(self) -> int:
        """Return how many numbers a client answers with, if the encoder is trained."""

    @abstractmethod
    def copies(self) -> int:
        """Return how many moved copies of a batch a client sends, if its head is trained."""


class Exact(GradientPolicy):
    """Back-propagate through the encoder: the client sends dL/dz and is sent dL/ds.

    Source:
        FedV, Shi et al. 2024, arXiv:2403.16050.
    """

    kind: Literal["exact"] = "exact"

    @property
    def exact(self) -> bool:
        """Say yes."""
        return True

    def moves(self) -> int:
        """Return none."""
        return 0

    def scalars(self) -> int:
        """Return none."""
        return 0

    def copies(self) -> int:
        """Return none."""
        return 0


class Differences(GradientPolicy):
    """Estimate gradients from differences of the loss along random directions.

    The encoder computes a batch with its weights moved along directions that it draws, and the
    client answers with one number for each. The encoder needs no backward pass, and nothing of a
    gradient's shape crosses the network.

    Attributes:
        directions: Random directions q of the encoder's trained weights, a batch.
        step: How far weights or inputs are moved, mu.
        head: How a trained head learns: `input` moves the activations that it sends, one direction
            for each example, and back-propagates the estimate through the head alone;
            `parameters` moves the head's own weights.
        head_directions: Random directions for the head, a batch; each is another batch on the wire.

    Source:
        FedVZ, Shi et al. 2024, arXiv:2403.16050: a zeroth-order estimate in place of the server's
        backward pass. Gaussian directions, their mean over q, and both ways for the head are our
        choice.
    """

    directions: PositiveInt = 4
    step: PositiveFloat = 1e-3
    head: Literal["input", "parameters"] = "input"
    head_directions: PositiveInt = 1

    @property
    @abstractmethod
    def sides(self) -> int:
        """On how many sides of a point the loss is looked at: 1, or 2."""

    def moves(self) -> int:
        """Return one for each direction and side."""
        return self.sides * self.directions

    def scalars(self) -> int:
        """Return one for each direction."""
        return self.directions

    def copies(self) -> int:
        """Return one for each of the head's directions and sides."""
        return self.sides * self.head_directions


class ForwardDifference(Differences):
    """Compare with the loss at the weights themselves: ``(L(w + mu u) - L(w)) / mu * u``."""

    kind: Literal["forward-difference"] = "forward-difference"

    @property
    def sides(self) -> int:
        """Return 1."""
        return 1


class CentralDifference(Differences):
    """Compare both sides: ``(L(w + mu u) - L(w - mu u)) / (2 mu) * u``.

    Source:
        Simultaneous perturbation, Spall 1992.
    """

    kind: Literal["central-difference"] = "central-difference"

    @property
    def sides(self) -> int:
        """Return 2."""
        return 2


Gradient = Annotated[Exact | ForwardDifference | CentralDifference, Field(discriminator="kind")]
