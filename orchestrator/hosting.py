"""Does a fleet fit a cluster, node by node, and how is it hosted?

Ray keeps an actor that fits nowhere pending for ever and says nothing, so the arithmetic is done
before anything starts. Nothing here touches Ray.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Any, Final, Literal

from orchestrator.fleet import ActorResources
from policies.types import ExperimentError

START_CPU_S = 2.5
"""Seconds of a core that an actor with torch takes to start, measured on a 2-core machine."""
START_LIMIT_S = 30.0
"""`auto` hosts one client an actor while all of them start within this time."""
ACTOR_BYTES = 200 * 2**20
"""Memory of an actor with torch before it has any data."""

Demand = Mapping[str, float]
Kinds = Sequence[tuple[ActorResources, int]]
"""What clients' actors reserve, and how many of them do."""
_COUNTED: Final = frozenset({"CPU", "GPU", "memory"})
"""What Ray finds on a node by itself; other resources a node has by `ray start --resources`."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster and what it has: CPU, GPU, memory in bytes, custom."""

    name: str
    has: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Hosting:
    """How a fleet is hosted.

    Attributes:
        kind: One actor a client, or a few for all.
        actors: How many client actors.
        why: In words.
        start_s: How long all of them are expected to take to start.
    """

    kind: Literal["dedicated", "pooled"]
    actors: int
    why: str
    start_s: float = 0.0


def demand(resources: ActorResources) -> dict[str, float]:
    """Return what Ray counts for one client's actor."""
    wanted = {
        "CPU": resources.num_cpus,
        "GPU": resources.num_gpus,
        "memory": float(resources.memory or 0),
        **resources.custom,
    }
    return {name: amount for name, amount in wanted.items() if amount > 0}


def reserving(resources: ActorResources) -> dict[str, Any]:
    """Return the options of an actor for which Ray reserves them."""
    wanted = demand(resources)
    options: dict[str, Any] = {"num_cpus": wanted.pop("CPU", 0)}
    options["num_gpus"] = wanted.pop("GPU", 0)
    if "memory" in wanted:
        options["memory"] = wanted.pop("memory")
    return options | {"resources": wanted}


@dataclass(frozen=True, slots=True)
class Shortage:
    """Actors that find no room.

    Attributes:
        left: How many find none.
        count: How many of that demand there are.
        each: What each of them demands.
        what: One of them, in words.
    """

    left: int
    count: int
    each: Demand
    what: str = "client actor"

    def __str__(self) -> str:
        """Say it in one line."""
        wanted = ", ".join(_amount(name, amount) for name, amount in self.each.items())
        if self.count == 1:
            return f"a {self.what} asks for {wanted}, and finds no room"
        some = f"{self.left} of them {'finds' if self.left == 1 else 'find'} no room"
        few = "none of them finds room" if self.left == self.count else some
        return f"{self.count} {self.what}s ask for {wanted} each, and {few}"

    def explain(self, nodes: Sequence[Node], *, poolable: bool) -> str:
        """Say it with what every node has, and the way out."""
        return f"{self.beside(nodes)}\n{self._way_out(nodes, poolable=poolable)}"

    def beside(self, nodes: Sequence[Node]) -> str:
        """Say it with what every node has."""
        lines = [f"{self}:"]
        for node in nodes:
            has = ", ".join(_amount(name, node.has.get(name, 0.0)) for name in self.each)
            lines.append(f"  {node.name} has {has}")
        return "\n".join(lines)

    def _way_out(self, nodes: Sequence[Node], *, poolable: bool) -> str:
        if poolable:
            return (
                "Lower fleet.clients or the resources in fleet.mix, add nodes, or set hosting: "
                "pooled."
            )
        nowhere = {
            name: amount
            for name, amount in self.each.items()
            if name not in _COUNTED and not any(node.has.get(name) for node in nodes)
        }
        if nowhere:
            return (
                "Start the silo's node with ray start --address HEAD:6379 --resources "
                f"'{json.dumps(nowhere)}', or change the resources in fleet.mix."
            )
        return "Every silo has an actor of its own. Lower the resources in fleet.mix or add nodes."


def shortage(nodes: Sequence[Node], wanted: Kinds, what: str = "client actor") -> Shortage | None:
    """Find actors that do not fit, node by node; None if all do.

    Places the largest first on the first node with room, which is how it would have to be tried
    by hand; a fleet that only a cleverer packing fits is refused.
    """
    free = [dict(node.has) for node in nodes]
    kinds: Counter[tuple[tuple[str, float], ...]] = Counter()
    for resources, count in wanted:
        kinds[tuple(sorted(demand(resources).items()))] += count
    for kind, count in sorted(kinds.items(), key=lambda item: item[0], reverse=True):
        left = count
        for room in free:
            fitting = min(
                [floor(room.get(name, 0.0) / amount + 1e-9) for name, amount in kind],
                default=left,
            )
            placed = min(left, fitting)
            for name, amount in kind:
                room[name] = room.get(name, 0.0) - placed * amount
            left -= placed
            if not left:
                break
        if left:
            return Shortage(left, count, dict(kind), what)
    return None


def _amount(name: str, amount: float) -> str:
    if name == "memory":
        return f"{amount / 2**20:.0f} MiB memory"
    return f"{amount:g} {name}"


def whole_cpus(nodes: Sequence[Node]) -> int:
    """Count CPUs for pooled actors: whole ones, node by node."""
    return sum(floor(node.has.get("CPU", 0.0)) for node in nodes)


def choose(
    wanted: Literal["auto", "dedicated", "pooled"],
    resources: Kinds,
    nodes: Sequence[Node],
    *,
    workers: int | None = None,
    free_bytes: int | None = None,
    poolable: bool = True,
) -> Hosting:
    """Decide how a fleet is hosted.

    Args:
        wanted: What the experiment asks for.
        resources: Of the clients.
        nodes: The cluster.
        workers: Pooled actors; by default one a CPU.
        free_bytes: Memory that is really free where the actors go, if it is known.
        poolable: Whether an actor may host several clients, which it may not with silos.

    Raises:
        ExperimentError: If what is wanted does not fit, with the numbers.
    """
    cpus = whole_cpus(nodes)
    if wanted == "pooled":
        return _pooled(cpus, workers, "the experiment asks for it")
    lacking = shortage(nodes, resources)
    count = sum(many for _, many in resources)
    start_s = START_CPU_S * count / max(cpus, 1)
    if wanted == "dedicated":
        if lacking:
            raise ExperimentError(
                "hosting: dedicated does not fit this cluster. "
                f"{lacking.explain(nodes, poolable=poolable)}"
            )
        return Hosting("dedicated", count, "the experiment asks for it", start_s)
    if lacking:
        return _pooled(cpus, workers, f"dedicated does not fit: {lacking}")
    if start_s > START_LIMIT_S:
        why = f"{count} actors would take about {start_s:.0f} s to start on {cpus:g} CPUs"
        return _pooled(cpus, workers, why)
    if free_bytes is not None and count * ACTOR_BYTES > free_bytes:
        need = f"{count * ACTOR_BYTES / 2**30:.1f} GiB"
        return _pooled(cpus, workers, f"{count} actors need about {need} of memory")
    why = f"{count} actors fit and start in about {start_s:.0f} s"
    return Hosting("dedicated", count, why, start_s)


def _pooled(cpus: int, workers: int | None, why: str) -> Hosting:
    """Host in `workers` actors of one CPU each; `cpus` counts whole ones, node by node."""
    if cpus < 1:
        raise ExperimentError(
            "a pooled actor takes one CPU, and no node of the cluster has a whole one. Add a node."
        )
    if workers is not None and workers > cpus:
        raise ExperimentError(
            f"--workers must be at most {cpus}, the CPUs of the cluster, got {workers}."
        )
    return Hosting("pooled", workers or cpus, why)
