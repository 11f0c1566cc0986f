"""Which Ray does a run use, and what is on it?"""

from __future__ import annotations

import contextlib
import io
import os
import socket
from dataclasses import dataclass
from typing import Any, Final

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.hosting import Node
from policies.types import ExperimentError

REACH_S: Final = 10.0
_CALM: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # what an actor's end took with it is sent again
}
_QUIET: Final = {
    "event_stats": False,
    "task_events_report_interval_ms": 0,
    "enable_timeline": False,
}
"""What nobody looks at in a Ray without a dashboard, and every call pays for."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray that this process is connected to.

    Attributes:
        own: Whether this process started it, and so ends it.
    """

    own: bool

    def nodes(self) -> list[Node]:
        """Return the living nodes and what each has in all.

        What is free now may be less; a busy cluster gives it back or keeps actors waiting, which
        the start deadline bounds.
        """
        rows: list[dict[str, Any]] = [n for n in ray.nodes() if n["Alive"]]
        names = sorted((row["NodeManagerAddress"], row["NodeID"], row["Resources"]) for row in rows)
        return [Node(f"{host} ({node[:6]})", resources) for host, node, resources in names]

    def free_bytes(self) -> int | None:
        """Return this machine's free memory if the cluster is this machine alone."""
        return int(psutil.virtual_memory().available) if self.own else None

    def close(self) -> None:
        """Disconnect; end a Ray that this process started."""
        ray.shutdown()


def connect(address: str | None, run_id: str, cpus: int | None = None) -> Cluster:
    """Connect to a Ray, or start one on this machine.

    Args:
        address: `auto` or host:port of a running one; None takes the one of a Ray job if this
            process is its entrypoint, and starts a local one otherwise.
        run_id: Becomes the namespace.
        cpus: CPUs of a local Ray; None counts them.

    Raises:
        ExperimentError: If there is no Ray at the address.
    """
    for name, value in _CALM.items():
        os.environ.setdefault(name, value)
    if address is not None and address.startswith("ray://"):
        raise ExperimentError(
            f"--address {address} would put the engine behind a proxy, far from its actors. "
            "Submit the run instead: ray job submit -- python -m orchestrator run ..."
        )
    address = address or os.environ.get("RAY_ADDRESS")
    reachable(address)
    common: dict[str, Any] = {
        "namespace": run_id,
        "log_to_driver": False,
        "logging_level": "ERROR",
    }
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            if address is None:
                ray.init(
                    "local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    _system_config=dict(_QUIET),
                    **common,
                )
            else:
                ray.init(address, **common)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = "on this machine" if address is None else f"at {address}"
        raise ExperimentError(
            f"no Ray can be used {where}: {error}. Start one with `ray start --head`, or leave "
            "--address out to have one started."
        ) from error
    return Cluster(own=address is None)


def own_node() -> str:
    """Name the node that this process is on, as Ray does."""
    return str(ray.get_runtime_context().get_node_id())


def beside_the_driver() -> NodeAffinitySchedulingStrategy:
    """Return where an actor goes that the run falls back without: no other node's end takes it.

    A soft affinity is not kept for actors that reserve nothing (Ray 2.60).
    """
    return NodeAffinitySchedulingStrategy(own_node(), soft=False)


def reachable(address: str | None) -> None:
    """Refuse an address where nobody listens; Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except OSError as error:
        raise ExperimentError(
            f"no Ray can be used at {address}: {error}. Start one with `ray start --head`, or "
            "leave --address out to have one started."
        ) from error
