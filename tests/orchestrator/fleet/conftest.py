"""What tests of the fleet share: fleets of a profile whose numbers are easy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.fleet import Fleet, FleetSettings

OWN: dict[str, Any] = {
    "flops": "2 GFLOP/s",
    "memory_bytes": "1 MB",
    "compute_watts": 3,
    "radio_watts": 2,
    "uplink": "8 Mbit/s",
    "downlink": "80 Mbit/s",
    "latency_s": "500 ms",
}


@pytest.fixture(scope="session")
def own() -> dict[str, Any]:
    """Return the easy profile as a file has it."""
    return dict(OWN)


@pytest.fixture(scope="session")
def settings() -> Callable[..., FleetSettings]:
    """Return a maker of settings: eight clients of a profile `toy`, with changes.

    `device` changes the profile.
    """

    def make(device: dict[str, Any] | None = None, **changes: Any) -> FleetSettings:
        toy = OWN | (device or {})
        plain = {"clients": 8, "mix": [{"profile": "toy"}], "profiles": {"toy": toy}}
        return FleetSettings.model_validate(plain | changes)

    return make


@pytest.fixture(scope="session")
def drawn(settings: Callable[..., FleetSettings]) -> Callable[..., Fleet]:
    """Return a maker of fleets: `settings` drawn with seed 3."""

    def make(seed: int = 3, **changes: Any) -> Fleet:
        return Fleet.draw(settings(**changes), seed)

    return make


@pytest.fixture
def csv(tmp_path: Path) -> Callable[[str], str]:
    """Return what writes a CSV file, cells apart by blanks, and returns its path."""
    count = iter(range(1000))

    def write(*lines: str) -> str:
        path = tmp_path / f"trace-{next(count)}.csv"
        path.write_text("\n".join(line.replace(" ", ",") for line in lines) + "\n")
        return str(path)

    return write
