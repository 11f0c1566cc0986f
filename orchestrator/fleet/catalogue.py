"""What can the devices of the catalogue do?

Round numbers for seven classes of device. Where each comes from stands in docs/devices.md; an
experiment can bring profiles of its own.
"""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import AfterValidator, Field

from policies.base import Settings
from policies.units import BitsPerSecond, Bytes, Flops, Seconds

Watts = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Density = Annotated[float, Field(gt=0, le=1)]
_Speedup = Annotated[float, Field(gt=0, allow_inf_nan=False)]

OnLeave = Literal["lost", "paused", "late"]
"""What becomes of work under way when its client goes."""


def _by_density(table: dict[float, float]) -> dict[float, float]:
    return dict(sorted(table.items()))


class Profile(Settings):
    """A class of device and its link.

    Attributes:
        name: In an experiment file it is the key under `fleet.profiles`.
        flops: Sustained float32 training speed, FLOP/s, not the peak.
        memory_bytes: What a training process may take, not what is soldered on.
        compute_watts: Power of the device while it trains.
        radio_watts: Power of the link while it sends or receives.
        uplink: Bits a second from the device.
        downlink: Bits a second to the device.
        latency_s: Round trip to the server, once a transfer.
        sparse_speedup: How many times as fast a model of this density trains, as measured.
        on_leave: What becomes of work under way when the client goes: `lost`; `paused` until it
            is back; or `late`: it goes on training, and transfers wait.
    """

    name: str = ""
    flops: Annotated[Flops, Field(gt=0)]
    memory_bytes: Annotated[Bytes, Field(gt=0)]
    compute_watts: Watts
    radio_watts: Watts
    uplink: Annotated[BitsPerSecond, Field(gt=0)]
    downlink: Annotated[BitsPerSecond, Field(gt=0)]
    latency_s: Seconds
    sparse_speedup: (
        Annotated[dict[_Density, _Speedup], Field(min_length=1), AfterValidator(_by_density)] | None
    ) = None
    on_leave: OnLeave = "lost"

    def speedup(self, density: float) -> float:
        """Return how many times as fast a model of `density` trains as a dense one.

        Args:
            density: Share of the parameters that are not zero, in [0, 1].

        Returns:
            Between the densities of `sparse_speedup` linear in the logarithm of the density; below
            the lowest, that one's; at 1 it is 1 unless the table says otherwise. Without a table
            sparse models train no faster: 1. Our choice.
        """
        if self.sparse_speedup is None:
            return 1.0
        table = (
            self.sparse_speedup if 1.0 in self.sparse_speedup else {**self.sparse_speedup, 1.0: 1.0}
        )
        densities = list(table)
        at = math.log(max(density, densities[0]))
        return float(np.interp(at, np.log(densities), list(table.values())))


CATALOGUE: Final[dict[str, Profile]] = {
    profile.name: profile
    for profile in (
        Profile(
            name="flagship-phone",
            flops=23e9,
            memory_bytes=2_000_000_000,
            compute_watts=5.0,
            radio_watts=2.9,
            uplink=20e6,
            downlink=207e6,
            latency_s=0.044,
        ),
        Profile(
            name="mid-phone",
            flops=10e9,
            memory_bytes=1_500_000_000,
            compute_watts=4.0,
            radio_watts=2.9,
            uplink=10e6,
            downlink=42e6,
            latency_s=0.028,
        ),
        Profile(
            name="budget-phone",
            flops=7e9,
            memory_bytes=1_000_000_000,
            compute_watts=3.5,
            radio_watts=2.9,
            uplink=11e6,
            downlink=36e6,
            latency_s=0.040,
        ),
        Profile(
            name="single-board-computer",
            flops=15e9,
            memory_bytes=4_000_000_000,
            compute_watts=11.0,
            radio_watts=1.0,
            uplink=38e6,
            downlink=84e6,
            latency_s=0.010,
        ),
        Profile(
            name="edge-gateway",
            flops=6e9,
            memory_bytes=2_000_000_000,
            compute_watts=7.2,
            radio_watts=0.5,
            uplink=38e6,
            downlink=84e6,
            latency_s=0.010,
        ),
        Profile(
            name="workstation",
            flops=115e9,
            memory_bytes=16_000_000_000,
            compute_watts=196.0,
            radio_watts=1.0,
            uplink=940e6,
            downlink=940e6,
            latency_s=0.010,
        ),
        Profile(
            name="gpu-node",
            flops=2e12,
            memory_bytes=14_000_000_000,
            compute_watts=150.0,
            radio_watts=1.0,
            uplink=940e6,
            downlink=940e6,
            latency_s=0.010,
        ),
    )
}
