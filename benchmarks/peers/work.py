"""What is the work that all frameworks do, and how do they report it?

Runs in each framework's own environment: it needs torch, and nothing of latecomer.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

import torch
from torch import nn

SHARDS, SAMPLES, BATCH, LR, COHORT = 100, 100, 20, 0.05, 10


@dataclass(frozen=True)
class Task:
    """What is asked of one run.

    Attributes:
        model: `mlp` or `cnn`.
        updates: How many client updates to make, a multiple of the cohort.
        clients: How many there are; above 100 they share the examples of the first 100.
        in_flight: Clients that are busy at a time, where that can be said.
        processes: That train.
        trainers: Processes that train for one that does not; latecomer's alone are told.
    """

    model: str
    updates: int
    clients: int = SHARDS
    in_flight: int = 32
    processes: int = 1
    trainers: int = 1


def asked() -> Task:
    """Read the task from the command line, and keep torch to one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return Task(**json.loads(sys.argv[1]))


def network(model: str) -> nn.Module:
    """Build the network of benchmarks/throughput.py."""
    if model == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 49, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def examples() -> tuple[torch.Tensor, torch.Tensor]:
    """Return images of shape (100, 100, 1, 28, 28) and labels of shape (100, 100), by client."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SHARDS, SAMPLES, 1, 28, 28, generator=generator)
    y = torch.randint(0, 10, (SHARDS, SAMPLES), generator=generator)
    return x, y


class Marks:
    """Notes when updates were made; all processes of a machine share the clock."""

    def __init__(
        self, count: int = 0, at_first: int = 0, first: float = 0.0, last: float = 0.0
    ) -> None:
        self.count = count
        self._at_first, self._first, self._last = at_first, first, last

    def made(self, updates: int = 1) -> None:
        """Note that so many updates more are there."""
        self._last = time.monotonic()
        if not self.count:
            self._first, self._at_first = self._last, updates
        self.count += updates

    def report(self, processes: int) -> None:
        """Print what was noted, for the process that asked."""
        noted = {
            "updates": self.count,
            "at_first": self._at_first,
            "first": self._first,
            "last": self._last,
            "processes": processes,
        }
        print("\n" + json.dumps(noted), flush=True)
