"""Is the drawn fleet the one that was asked for, and does its time follow its numbers?"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.devices import CATALOGUE
from orchestrator.fleet import (
    Fleet,
    FleetSettings,
    LognormalJitter,
    NoJitter,
    ServerSettings,
    apportion,
    fits,
)
from policies.types import ExperimentError

OWN = {
    "flops": "2 GFLOP/s",
    "memory_bytes": "1 MB",
    "compute_watts": 3,
    "radio_watts": 2,
    "uplink": "8 Mbit/s",
    "downlink": "80 Mbit/s",
    "latency_s": "500 ms",
}


def settings(**changes: Any) -> FleetSettings:
    """Return eight clients of a profile of our own, with `changes`."""
    plain = {"clients": 8, "mix": [{"profile": "toy"}], "profiles": {"toy": OWN}}
    return FleetSettings.model_validate(plain | changes)


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


def test_catalogue_is_named_after_its_keys() -> None:
    """The four promised profiles exist under their own names."""
    assert set(CATALOGUE) == {"flagship-phone", "budget-phone", "edge-gateway", "workstation"}
    assert all(key == profile.name for key, profile in CATALOGUE.items())


def test_docs_state_the_catalogue() -> None:
    """The table of docs/devices.md shows the numbers that run."""
    page = (Path(__file__).parents[2] / "docs" / "devices.md").read_text(encoding="utf-8")
    for p in CATALOGUE.values():
        row = (
            f"| {p.name} | {p.flops / 1e9:g} GFLOP/s | {p.memory_bytes / 1e9:g} GB "
            f"| {p.compute_watts:g} | {p.radio_watts:g} | {p.uplink / 1e6:g} Mbit/s "
            f"| {p.downlink / 1e6:g} Mbit/s | {p.latency_s:.3f} |"
        )
        assert row in page


def test_counts_and_order() -> None:
    """The mix is met exactly, in an order that the seed decides."""
    mixed = settings(
        clients=100,
        mix=[{"profile": "toy", "share": 3}, {"profile": "workstation", "share": 1}],
    )
    fleet = Fleet.draw(mixed, seed=7)
    assert len(fleet) == 100
    assert Counter(fleet.profile_of(c).name for c in range(100)) == {"toy": 75, "workstation": 25}
    assert fleet.counts() == {"toy": 75, "workstation": 25}
    assert fleet.fingerprint() == Fleet.draw(mixed, seed=7).fingerprint()
    assert fleet.fingerprint() != Fleet.draw(mixed, seed=8).fingerprint()
    assert not np.array_equal(fleet.entries, Fleet.draw(mixed, seed=8).entries)


def test_times_by_hand() -> None:
    """Latency plus bits over bandwidth; operations over speed; watts times seconds."""
    fleet = Fleet.draw(settings(), seed=0)
    assert fleet.upload_s(0, 1_000_000) == 0.5 + 1.0
    assert fleet.download_s(0, 1_000_000) == 0.5 + 0.1
    assert fleet.compute_s(0, 0, 4e9) == 2.0
    assert fleet.compute_j(0, 2.0) == 6.0
    assert fleet.transfer_j(0, 2.0) == 4.0


@given(st.integers(0, 7), st.integers(0, 10**12), st.integers(0, 10**12))
def test_times_are_monotone(client: int, one: int, other: int) -> None:
    """More bytes or more work never take less time."""
    fleet = Fleet.draw(settings(spread=0.5, jitter={"kind": "lognormal"}), seed=3)
    less, more = sorted((one, other))
    assert fleet.upload_s(client, less) <= fleet.upload_s(client, more)
    assert fleet.download_s(client, less) <= fleet.download_s(client, more)
    assert fleet.compute_s(client, 5, less) <= fleet.compute_s(client, 5, more)


def test_jitter_has_mean_one_and_its_own_streams() -> None:
    """The lognormal factor averages 1, repeats for its three names, and differs for others."""
    jitter = LognormalJitter(sigma=0.5)
    draws = [jitter.factor(1, client, number) for client in range(40) for number in range(200)]
    assert np.mean(draws) == pytest.approx(1.0, abs=5 * 0.54 / np.sqrt(8000))
    assert np.std(np.log(draws)) == pytest.approx(0.5, rel=0.05)
    assert jitter.factor(1, 2, 3) == jitter.factor(1, 2, 3)
    assert len({jitter.factor(s, c, n) for s in (0, 1) for c in (0, 1) for n in (0, 1)}) == 8
    assert NoJitter().factor(1, 2, 3) == 1.0


def test_spread_has_mean_one_and_stays_with_the_client() -> None:
    """Devices of one profile differ by a factor that averages 1 and is drawn once."""
    fleet = Fleet.draw(settings(clients=20_000, spread=0.3), seed=1)
    assert fleet.speeds.mean() == pytest.approx(1.0, abs=0.02)
    assert fleet.compute_s(5, 0, 1e9) == fleet.compute_s(5, 9, 1e9)
    assert fleet.compute_s(5, 0, 1e9) != fleet.compute_s(6, 0, 1e9)


def test_large_fleet_keeps_arrays() -> None:
    """A hundred thousand clients are two arrays and a profile each is looked up."""
    fleet = Fleet.draw(settings(clients=100_000), seed=1)
    assert fleet.entries.shape == fleet.speeds.shape == (100_000,)
    assert fleet.profile_of(99_999) is fleet.profile_of(0)


def test_resources() -> None:
    """What Ray reserves comes from the client's entry of the mix; the default is a tenth CPU."""
    mix = [{"profile": "toy", "resources": {"num_cpus": 2, "memory": "1 GB", "custom": {"a": 1}}}]
    found = Fleet.draw(settings(mix=mix), 0).resources_of(3)
    assert (found.num_cpus, found.memory, found.custom) == (2.0, 10**9, {"a": 1.0})
    assert Fleet.draw(settings(), 0).resources_of(3).num_cpus == 0.1


def test_no_such_client() -> None:
    """A client outside the fleet is refused, also a negative one."""
    fleet = Fleet.draw(settings(), seed=0)
    for client in (-1, 8):
        with pytest.raises(ExperimentError, match=rf"must lie in \[0, 7\], got {client}"):
            fleet.compute_s(client, 0, 1.0)


def test_unknown_profiles_have_places() -> None:
    """Every unknown profile of the mix is named at its own place, with the nearest known one."""
    mix = [{"profile": "toy"}, {"profile": "toyy"}, {"profile": "workstaton"}]
    with pytest.raises(ValidationError, match=r"toyy\. Did you mean toy") as caught:
        settings(mix=mix)
    assert [error["loc"] for error in caught.value.errors()] == [
        ("mix", 1, "profile"),
        ("mix", 2, "profile"),
    ]


def test_own_profiles_take_their_key_as_name() -> None:
    """A profile of the file is named by its key and comes before the catalogue's."""
    fleet = settings(profiles={"workstation": OWN}, mix=[{"profile": "workstation"}])
    assert Fleet.draw(fleet, 0).profile_of(0).name == "workstation"
    assert Fleet.draw(fleet, 0).profile_of(0).flops == 2e9
    with pytest.raises(ValidationError, match="must be toy, like its key, got other"):
        settings(profiles={"toy": OWN | {"name": "other"}})


@pytest.mark.parametrize(
    "changes",
    [{"mix": []}, {"clients": 0}, {"spread": -1}, {"mix": [{"profile": "toy", "share": 0}]}],
)
def test_refused_settings(changes: dict[str, Any]) -> None:
    """A fleet without clients, devices or shares is no fleet."""
    with pytest.raises(ValidationError, match=next(iter(changes))):
        settings(**changes)


def test_server() -> None:
    """The server takes operations over speed; `instant` takes nothing."""
    assert ServerSettings().service_s(115e9) == 1.0
    assert ServerSettings(flops=1e9).service_s(2e9) == 2.0
    assert ServerSettings(profile="instant").service_s(1e30) == 0.0
    with pytest.raises(ValidationError, match=r"workstatio\. Did you mean workstation"):
        ServerSettings(profile="workstatio")
    with pytest.raises(ValidationError, match="must be left out for the profile instant"):
        ServerSettings(profile="instant", flops=1)


def test_fits() -> None:
    """Four float32 copies and the activations of a batch against the memory, with the numbers."""
    toy = settings().known_profiles()["toy"]  # 1 MB
    assert fits(toy, 50_000, 1000, 200) is None  # 0.8 MB + 0.2 MB
    message = fits(toy, 50_000, 1000, 201)
    assert message is not None
    assert "toy has 1.00 MB for training" in message
    assert "50,000 float32 parameters" in message
    assert "Lower batch_size to 200" in message
    assert "at most 62,500 parameters" in str(fits(toy, 100_000, 0, 1))
    assert "Take a smaller model" in str(fits(toy, 62_400, 10_000, 1))


def test_same_fleet_in_a_fresh_process() -> None:
    """Another process with another hash seed draws the same fleet; it loads nothing heavy."""
    code = (
        "import sys; from orchestrator.fleet import *;"
        "s = FleetSettings(clients=9, mix=[{'profile': 'budget-phone'}], spread=0.2);"
        "print(Fleet.draw(s, 5).fingerprint());"
        "import orchestrator.document;"
        "print(*{'torch', 'ray', 'mlflow', 'pandas', 'pyarrow'} & set(sys.modules))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    mix = [{"profile": "budget-phone"}]
    here = Fleet.draw(FleetSettings.model_validate({"clients": 9, "mix": mix, "spread": 0.2}), 5)
    assert outputs == {f"{here.fingerprint()}\n\n"}
