"""Which faults can be planned, to see that a run survives them?

A drill names a fault by address. It fires once, at the first attempt at that address; what the
engine sends again is whole.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Final, Literal

from policies.types import Address, Buffer, stream

Fault = Literal["crash", "hang", "duplicate", "error", "garbage", "not-finite", "huge"]
"""crash: the process is killed in mid-training. hang: it never comes back. duplicate: the payload
reaches the server twice. error: it raises.
garbage: the payload is random bytes. not-finite: the payload holds NaN. huge: what was
learnt is a thousand times as much."""

IN_TRAINING: Final = frozenset({"crash", "hang", "error"})


HUGE: Final = 1000.0


class PlannedError(RuntimeError):
    """The fault `error` of a drill."""


def act_out(fault: str) -> None:
    """Do in mid-training what the fault says."""
    if fault == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "hang":
        threading.Event().wait()
    elif fault == "error":
        raise PlannedError("the drill asked for an error in training")


def spoil(fault: str, payload: Buffer, address: Address) -> Buffer:
    """Return what a hostile or broken client sends in place of `payload`."""
    if fault == "garbage":
        rng = stream(0, "garbage", *address)
        return rng.integers(0, 256, payload.size, dtype="uint8")
    return payload
