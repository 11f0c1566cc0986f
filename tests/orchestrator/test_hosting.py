"""Is a fleet that does not fit a cluster refused, with numbers and a way out that helps?"""

from __future__ import annotations

import pytest

from orchestrator.fleet import ActorResources
from orchestrator.hosting import Node, choose
from policies.types import ExperimentError

SMALL = [Node("a", {"CPU": 2.0})]


def of(cpus: float, **custom: float) -> ActorResources:
    return ActorResources(num_cpus=cpus, custom=custom)


def test_a_fleet_that_fits_has_an_actor_a_client() -> None:
    """As many tenths of a CPU as there are, and not one more."""
    assert choose("auto", [(of(0.1), 20)], SMALL).kind == "dedicated"
    assert choose("auto", [(of(0.1), 21)], SMALL).kind == "pooled"


def test_why_a_fleet_is_pooled_is_one_sentence() -> None:
    """It counts those that find no room, and does not end in the middle."""
    hosting = choose("auto", [(of(0.1), 40)], SMALL)
    assert hosting.why == (
        "dedicated does not fit: 40 client actors ask for 0.1 CPU each, and 20 of them find no room"
    )
    none = choose("auto", [(of(3), 2)], SMALL)
    assert none.why.endswith("2 client actors ask for 3 CPU each, and none of them finds room")


def test_a_fleet_that_is_refused_is_told_what_the_nodes_have() -> None:
    """Node by node, and the ways out, of which another hosting is one."""
    with pytest.raises(
        ExperimentError, match=r"and 20 of them find no room:\n  a has 2 CPU\n"
    ) as e:
        choose("dedicated", [(of(0.1), 40)], SMALL)
    assert str(e.value).endswith("add nodes, or set hosting: pooled.")


def test_silos_are_not_told_to_be_pooled() -> None:
    """A silo whose node is missing is told to start it, with its own resource alone."""
    with pytest.raises(ExperimentError, match=r"a client actor asks for .*finds no room") as caught:
        choose("dedicated", [(of(0.1, north=1), 1), (of(0.1), 1)], SMALL, poolable=False)
    assert "a has 2 CPU, 0 north" in str(caught.value)
    assert """--resources '{"north": 1.0}', or change""" in str(caught.value)
    assert "pooled" not in str(caught.value)
    for lacking in ([(of(0.1), 21)], [(ActorResources(num_gpus=1), 1)]):
        with pytest.raises(
            ExperimentError, match=r"Lower the resources in fleet\.mix or"
        ) as caught:
            choose("dedicated", lacking, SMALL, poolable=False)
        assert "pooled" not in str(caught.value)
