"""Where does a run stand, in figures?"""

from __future__ import annotations

from typing import Any, Final

from orchestrator.engine.state import State

METRICS: Final = (
    "tail_accuracy",
    "best_accuracy",
    "accuracy_swing",
    "updates",
    "rejected_updates",
    "superseded_updates",
    "lost_updates",
    "in_flight",
    "uplink_bytes",
    "downlink_bytes",
    "uplink_entropy_bytes",
    "downlink_entropy_bytes",
    "mean_staleness",
    "energy_joules",
    "device_seconds",
    "wasted_device_seconds",
    "wasted_bytes",
)
"""Figures of `status` that are tracked at every evaluation."""
OF_CELLS: Final = ("backhaul_uplink_bytes", "backhaul_downlink_bytes")
"""Figures of `status` that are tracked beside them where the fleet has cells."""

OF_SPLITS: Final = ("activation_uplink_bytes", "activation_downlink_bytes")
"""Figures of `status` that are tracked beside them where an encoder computes part of the model."""

CLIENT_ACCURACY: Final = "client_accuracy"
"""Mean over the clients of how good each one's own tail is for it, of a version; where tails are
personal."""


def status(state: State, now_s: float) -> dict[str, Any]:
    """Return a run's figures at this moment.

    Args:
        state: What the run has come to.
        now_s: The run's own time.
    """
    ledger = state.ledger
    last = state.last_evaluation
    return {
        "state": "paused" if state.paused else "stopping" if state.stopped else "running",
        "version": state.head.number,
        "lineage": state.head.lineage,
        "time_s": now_s if state.ended_s is None else state.ended_s,
        "accuracy": last[1].accuracy if last else None,
        "in_flight": ledger.in_flight,
        **ledger.figures(),
    }
