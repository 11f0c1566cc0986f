"""What must whoever says when clients are there be able to answer?

A policy answers for many clients at one time: who is there, and until when that stays so. The
answer depends on the names and the time alone, so it can be asked in any order.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from policies.base import Policy
from policies.types import Positions

Flags = npt.NDArray[np.bool_]
Times = npt.NDArray[np.float64]


class Status(NamedTuple):
    """Who is there, and the first moment later than now at which that changes, or infinity.

    Both shape (clients,). A client is there from the moment at which it comes and away from the
    moment at which it goes.
    """

    there: Flags
    until_s: Times


class AvailabilityPolicy(Policy):
    """When clients are there."""

    @abstractmethod
    def status(self, seed: int, clients: Positions, time_s: float) -> Status:
        """Return who of `clients` is there at `time_s`, and until when.

        Args:
            seed: The experiment's seed.
            clients: Which clients, shape (n,).
            time_s: A moment in virtual time, >= 0.
        """

    def windows(self, seed: int, client: int, start_s: float) -> Iterator[tuple[float, float]]:
        """Yield (comes, goes) of a client from a time on, as `status` has them.

        Cost:
            One `status` for each coming and each going; a policy that can find many of them at
            once may.
        """
        here = np.array([client])
        while start_s < math.inf:
            there, until_s = self.status(seed, here, start_s)
            end_s = float(until_s[0])
            if there[0]:
                yield start_s, end_s
            start_s = end_s

    def always(self) -> bool:
        """Say whether all clients are there at all times."""
        return False

    def files(self) -> tuple[Path, ...]:
        """Return the files that it reads."""
        return ()
