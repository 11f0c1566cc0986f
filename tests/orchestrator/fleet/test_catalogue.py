"""Are the profiles what the page says, and what does sparse training gain?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.fleet import CATALOGUE, Profile, fits
from policies.memory import Memory
from policies.types import ExperimentError

PAGE = Path(__file__).parents[3] / "docs" / "devices.md"


def test_catalogue_is_named_after_its_keys() -> None:
    """The promised profiles exist under their own names."""
    assert set(CATALOGUE) == {
        "flagship-phone",
        "mid-phone",
        "budget-phone",
        "single-board-computer",
        "edge-gateway",
        "workstation",
        "gpu-node",
    }
    assert all(key == profile.name for key, profile in CATALOGUE.items())


@pytest.mark.parametrize("p", CATALOGUE.values(), ids=lambda p: p.name)
def test_docs_state_the_catalogue(p: Profile) -> None:
    """The table of docs/devices.md shows the numbers that run."""
    page = PAGE.read_text(encoding="utf-8")
    row = (
        f"| {p.name} | {p.flops / 1e9:g} GFLOP/s | {p.memory_bytes / 1e9:g} GB "
        f"| {p.compute_watts:g} | {p.radio_watts:g} | {p.uplink / 1e6:g} Mbit/s "
        f"| {p.downlink / 1e6:g} Mbit/s | {p.latency_s:.3f} |"
    )
    assert row in page


def test_speedup_by_hand(own: dict[str, Any]) -> None:
    """Linear in the logarithm of the density between the points; flat below; 1 when dense."""
    table = Profile.model_validate(own | {"sparse_speedup": {"0.1": 4, "0.01": 8}})
    assert list(table.sparse_speedup or {}) == [0.01, 0.1]
    assert table.speedup(0.1) == 4
    assert table.speedup(0.01) == table.speedup(0.001) == table.speedup(0.0) == 8
    assert table.speedup(0.1**1.5) == pytest.approx(6)
    assert table.speedup(0.1**0.5) == pytest.approx(2.5)
    assert table.speedup(1.0) == 1
    slower = Profile.model_validate(own | {"sparse_speedup": {"1": 0.5}})
    assert slower.speedup(1.0) == slower.speedup(0.3) == 0.5


def test_without_a_table_sparse_training_earns_nothing(own: dict[str, Any]) -> None:
    """No measurement, no gain."""
    assert Profile.model_validate(own).speedup(0.01) == 1


@pytest.mark.parametrize("table", [{}, {"0": 2}, {"1.5": 2}, {"0.5": 0}, {"0.5": -1}])
def test_refused_tables(table: dict[str, float], own: dict[str, Any]) -> None:
    """Densities lie in (0, 1], factors above 0."""
    with pytest.raises(ValidationError, match="sparse_speedup"):
        Profile.model_validate(own | {"sparse_speedup": table})


def test_fits(own: dict[str, Any]) -> None:
    """Four float32 copies and the activations of a batch against the memory, with the numbers."""
    toy = Profile.model_validate(own | {"name": "toy"})  # 1 MB
    model = Memory(50_000, 1000)
    assert fits(toy, model, 200) is None  # 0.8 MB + 0.2 MB
    assert model.bytes(200) == 1_000_000
    message = fits(toy, model, 201)
    assert message is not None
    assert "toy has 1.00 MB for training" in message
    assert "50,000 float32 parameters" in message
    assert "Lower batch_size to 200" in message
    assert "at most 62,500 parameters" in str(fits(toy, Memory(100_000, 0), 1))
    assert "Take a smaller model" in str(fits(toy, Memory(62_400, 10_000), 1))


def test_only_devices_that_somebody_has_must_fit(small: Callable[..., Any]) -> None:
    """An entry whose share is too small for a client is not asked for its memory."""
    profile = (
        "flops: 1e9, compute_watts: 1, radio_watts: 1, uplink: 1e6, downlink: 1e6, latency_s: 0"
    )
    tiny = f"fleet.profiles={{tiny: {{memory_bytes: 1 kB, {profile}}}}}"
    mix = "fleet.mix=[{profile: workstation, share: SHARE}, {profile: tiny}]"
    assert small(tiny, mix.replace("SHARE", "1000")).fleet.mix[1].profile == "tiny"
    with pytest.raises(ExperimentError, match=r"model: tiny has 0\.00 MB for training"):
        small(tiny, mix.replace("SHARE", "1"))
