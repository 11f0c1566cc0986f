"""What can the devices of the catalogue do?

Round numbers for four classes of device. Where each comes from stands in docs/devices.md; a fleet
file can bring profiles of its own.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from policies.base import Settings
from policies.units import BitsPerSecond, Bytes, Flops, Seconds

Watts = Annotated[float, Field(ge=0, allow_inf_nan=False)]


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
    """

    name: str = ""
    flops: Annotated[Flops, Field(gt=0)]
    memory_bytes: Annotated[Bytes, Field(gt=0)]
    compute_watts: Watts
    radio_watts: Watts
    uplink: Annotated[BitsPerSecond, Field(gt=0)]
    downlink: Annotated[BitsPerSecond, Field(gt=0)]
    latency_s: Seconds


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
    )
}
