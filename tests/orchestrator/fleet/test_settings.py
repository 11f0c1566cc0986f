"""Does the section `fleet` say what is wrong with it, and take in profiles from files?"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.document import Document, to_yaml
from orchestrator.fleet import Fleet, FleetSettings, ServerSettings

FILE = """\
gateway:
  flops: 3 GFLOP/s
  memory_bytes: 1 GB
  compute_watts: 4
  radio_watts: 0.1
  uplink: 5 kbit/s
  downlink: 5 kbit/s
  latency_s: 1
  on_leave: paused
  sparse_speedup: {0.1: 3, 0.5: 1.2}
"""
EXAMPLE = Path(__file__).parents[3] / "cluster_configs" / "fleet-lora-gateways.yaml"


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return what saves a file in the working folder."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "devices.yaml") -> str:
        (tmp_path / name).write_text(text)
        return name

    return write


def section(**changes: Any) -> FleetSettings:
    plain = {"clients": 4, "mix": [{"profile": "gateway"}]}
    return FleetSettings.model_validate(plain | changes)


def test_unknown_profiles_have_places(settings: Callable[..., FleetSettings]) -> None:
    """Every unknown profile of the mix is named at its own place, with the nearest known one."""
    mix = [{"profile": "toy"}, {"profile": "toyy"}, {"profile": "workstaton"}]
    with pytest.raises(ValidationError, match=r"toyy\. Did you mean toy") as caught:
        settings(mix=mix)
    assert [error["loc"] for error in caught.value.errors()] == [
        ("mix", 1, "profile"),
        ("mix", 2, "profile"),
    ]


def test_own_profiles_take_their_key_as_name(
    own: dict[str, Any], settings: Callable[..., FleetSettings]
) -> None:
    """A profile of the file is named by its key and comes before the catalogue's."""
    fleet = settings(profiles={"workstation": own}, mix=[{"profile": "workstation"}])
    assert Fleet.draw(fleet, 0).profile_of(0).name == "workstation"
    assert Fleet.draw(fleet, 0).profile_of(0).flops == 2e9
    with pytest.raises(ValidationError, match="must be toy, like its key, got other"):
        settings(profiles={"toy": own | {"name": "other"}})


@pytest.mark.parametrize(
    "changes",
    [
        {"mix": []},
        {"clients": 0},
        {"spread": -1},
        {"mix": [{"profile": "toy", "share": 0}]},
        {"drop_out": 1},
        {"link": {"kind": "varying", "period_s": 0}},
        {"mix": [{"profile": "toy", "drop_out": -0.1}]},
    ],
)
def test_refused_settings(changes: dict[str, Any], settings: Callable[..., FleetSettings]) -> None:
    """A fleet without clients, devices, shares or hope is no fleet."""
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


# ------------------------------------------------------------------ profile files


def test_profiles_come_from_files(save: Callable[..., str]) -> None:
    """A file's profiles move into the section, which then needs the file no more."""
    read = section(profile_files=[save(FILE)])
    gateway = read.profiles["gateway"]
    assert (gateway.flops, gateway.uplink, gateway.on_leave) == (3e9, 5e3, "paused")
    assert gateway.sparse_speedup == {0.1: 3.0, 0.5: 1.2}
    assert read.profile_files == ()
    Path("devices.yaml").unlink()
    again = Document.parse(to_yaml(read), "again.yaml").validate(FleetSettings)
    assert again == read


def test_the_section_comes_before_its_files(save: Callable[..., str], own: dict[str, Any]) -> None:
    """A profile of the experiment file hides that of a profile file."""
    read = section(profile_files=[save(FILE)], profiles={"gateway": own})
    assert read.profiles["gateway"].flops == 2e9


def test_mistakes_in_a_profile_file_have_lines(save: Callable[..., str]) -> None:
    """All mistakes of the file are named, each with its line, at the place that names the file."""
    path = save(FILE.replace("compute_watts: 4", "compute_wats: -4").replace("3 G", "-3 G"))
    with pytest.raises(ValidationError, match=r"devices\.yaml:2: profiles\.gateway\.flops") as bad:
        section(profile_files=[path])
    assert "devices.yaml:4: profiles.gateway.compute_wats is no known name" in str(bad.value)
    assert bad.value.errors()[0]["loc"] == ("profile_files", 0)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["nowhere.yaml"], r"is no file: nowhere\.yaml\. Give its path from the experiment"),
        (["a.yaml", "b.yaml"], r"b\.yaml has gateway, and so has a file before it\. Keep one"),
        (["list.yaml"], r"list\.yaml:1: must hold names and values"),
    ],
)
def test_refused_files(files: list[str], message: str, save: Callable[..., str]) -> None:
    """No file, one name twice, no mapping: each is said."""
    save(FILE, "a.yaml")
    save(FILE, "b.yaml")
    save("- 1\n", "list.yaml")
    with pytest.raises(ValidationError, match=message):
        section(profile_files=files)


def test_the_example_can_be_used() -> None:
    """The profile file in cluster_configs is valid and says that its numbers are examples."""
    fleet = section(profile_files=[str(EXAMPLE)], mix=[{"profile": "lora-gateway"}])
    assert set(fleet.profiles) >= {"lora-gateway"}
    assert "example" in EXAMPLE.read_text(encoding="utf-8").lower()


# ------------------------------------------------------------------ the pages to copy from

ROOT = Path(__file__).parents[3]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


PARTS = [*blocks("availability.md", "yaml"), *blocks("devices.md", "yaml")]


@pytest.mark.parametrize("block", PARTS)
def test_the_pages_snippets_are_valid(
    block: str, save: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece of YAML on the two pages is a part of a valid section."""
    monkeypatch.syspath_prepend(str(ROOT))
    for name, text in zip(
        ("link.csv", "presence.csv"), blocks("availability.md", "csv"), strict=True
    ):
        save(text, name)
    given = Document.parse(block, "page").data["fleet"]
    read = section(**{"mix": [{"profile": "mid-phone"}]} | given)
    assert len(Fleet.draw(read, 1)) == 20
    assert set(given) <= read.model_fields_set


def test_there_are_snippets() -> None:
    """The pages show every family and both traces."""
    text = "".join(PARTS)
    for word in ("link", "regions", "availability", "joins_s", "on_leave", "drop_out"):
        assert f"{word}:" in text
    for kind in ("varying", "diurnal", "churn", "trace"):
        assert f"kind: {kind}" in text
