"""Is the drawn fleet the one that was asked for?"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fleet import Fleet, FleetSettings, apportion
from policies.types import ExperimentError


@given(
    st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=12),
    st.integers(0, 100_000),
)
def test_apportion_is_exact(shares: list[float], clients: int) -> None:
    """Counts add up to the clients and lie within one of the exact share."""
    counts = apportion(shares, clients)
    assert sum(counts) == clients
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - clients * share / sum(shares)) < 1 + 1e-6 * clients


def test_apportion_by_hand() -> None:
    """Largest remainders: 10 by 1:1:1 is 4, 3, 3; the design's quickstart is 2, 4, 2."""
    assert apportion([1, 1, 1], 10) == [4, 3, 3]
    assert apportion([0.25, 0.5, 0.25], 8) == [2, 4, 2]
    assert apportion([0.1, 0.2, 0.7], 10) == [1, 2, 7]


def test_counts_and_order(settings: Callable[..., FleetSettings]) -> None:
    """The mix is met exactly, in an order that the seed decides."""
    mixed = settings(
        clients=100,
        mix=[{"profile": "toy", "share": 3}, {"profile": "workstation", "share": 1}],
    )
    fleet = Fleet.draw(mixed, seed=7)
    assert len(fleet) == 100
    assert Counter(fleet.profile_of(c).name for c in range(100)) == {"toy": 75, "workstation": 25}
    assert fleet.counts() == {"toy": 75, "workstation": 25}
    assert fleet.memory_bytes().sum() == 75 * 10**6 + 25 * 16 * 10**9
    assert fleet.fingerprint() == Fleet.draw(mixed, seed=7).fingerprint()
    assert fleet.fingerprint() != Fleet.draw(mixed, seed=8).fingerprint()
    assert not np.array_equal(fleet.entries, Fleet.draw(mixed, seed=8).entries)


def test_large_fleet_keeps_arrays(drawn: Callable[..., Fleet]) -> None:
    """A hundred thousand clients are a few arrays, and a profile each is looked up."""
    fleet = drawn(clients=100_000, availability={"kind": "churn"})
    for array in (fleet.entries, fleet.regions, fleet.speeds, fleet.present(10.0)):
        assert array.shape == (100_000,)
    assert fleet.profile_of(99_999) is fleet.profile_of(0)


def test_the_fingerprint_knows_the_traces(
    csv: Callable[..., str], settings: Callable[..., FleetSettings]
) -> None:
    """The same settings with another trace are another fleet."""
    path = csv("client start_s end_s", "0 1 2")
    asked = settings(availability={"kind": "trace", "path": path})
    before = Fleet.draw(asked, 0).fingerprint()
    assert before == Fleet.draw(asked, 0).fingerprint()
    with Path(path).open("a") as file:
        file.write("1,1,2\n")
    assert before != Fleet.draw(asked, 0).fingerprint()


def test_resources(drawn: Callable[..., Fleet]) -> None:
    """What Ray reserves comes from the client's entry of the mix; the default is a tenth CPU."""
    mix = [{"profile": "toy", "resources": {"num_cpus": 2, "memory": "1 GB", "custom": {"a": 1}}}]
    found = drawn(mix=mix).resources_of(3)
    assert (found.num_cpus, found.memory, found.custom) == (2.0, 10**9, {"a": 1.0})
    assert drawn().resources_of(3).num_cpus == 0.1


def test_columns_are_what_each_client_says(settings: Callable[..., FleetSettings]) -> None:
    """What is known of all clients at once is what each of them says by itself."""
    mix = [
        {"profile": "flagship-phone", "resources": {"num_cpus": 2.0}},
        {"profile": "budget-phone", "share": 3.0},
        {"profile": "budget-phone", "share": 1e-6},
    ]
    for regions in ({}, {"north": {}, "south": {"share": 2.0}}):
        fleet = Fleet.draw(settings(clients=40, mix=mix, regions=regions), 3)
        everybody = range(len(fleet))
        assert fleet.profile_names() == [fleet.profile_of(c).name for c in everybody]
        assert fleet.region_names() == [fleet.region_of(c) for c in everybody]
        listed = [r for resources, count in fleet.resources() for r in [resources] * count]
        by_cpus = Counter(fleet.resources_of(c).num_cpus for c in everybody)
        assert Counter(resources.num_cpus for resources in listed) == by_cpus
        assert len(fleet.resources()) == 2  # one a kind that has clients, not one a client


@pytest.mark.parametrize("client", [-1, 8])
def test_no_such_client(client: int, drawn: Callable[..., Fleet]) -> None:
    """A client outside the fleet is refused, also a negative one."""
    fleet = drawn()
    for ask in (
        lambda: fleet.compute(client, 0, 0.0, 1.0),
        lambda: fleet.download(client, 0.0, 1),
        lambda: fleet.away_from(client, 0.0),
        lambda: fleet.back_at(client, 0.0),
        lambda: fleet.drops_out_at(client, 0),
        lambda: fleet.region_of(client),
    ):
        with pytest.raises(ExperimentError, match=rf"must lie in \[0, 7\], got {client}"):
            ask()


def test_same_fleet_in_a_fresh_process() -> None:
    """Another process with another hash seed draws the same fleet; it loads nothing heavy."""
    code = (
        "import sys; from orchestrator.fleet import *;"
        "s = FleetSettings(clients=9, mix=[{'profile': 'budget-phone'}], spread=0.2, "
        "link={'kind': 'varying'}, availability={'kind': 'churn'});"
        "f = Fleet.draw(s, 5);"
        "print(f.fingerprint(), f.present(1e4).tolist(), f.download(3, 1e4, 10**8));"
        "import orchestrator.document;"
        "print(*{'torch', 'ray', 'mlflow', 'pandas', 'pyarrow'} & set(sys.modules))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    asked = FleetSettings.model_validate(
        {
            "clients": 9,
            "mix": [{"profile": "budget-phone"}],
            "spread": 0.2,
            "link": {"kind": "varying"},
            "availability": {"kind": "churn"},
        }
    )
    here = Fleet.draw(asked, 5)
    said = f"{here.fingerprint()} {here.present(1e4).tolist()} {here.download(3, 1e4, 10**8)}"
    assert outputs == {f"{said}\n\n"}
