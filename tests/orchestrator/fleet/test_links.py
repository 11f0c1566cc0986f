"""Does bandwidth change as the policy says, the same in whatever order it is asked?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.fleet import (
    Fleet,
    FleetSettings,
    LinkPolicy,
    Span,
    SteadyLink,
    TraceLink,
    VaryingLink,
)
from orchestrator.fleet.links import Piece

NOMINAL = 1000.0


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LinkPolicy]:
    """Return one of each kind."""
    path = tmp_path_factory.mktemp("links") / "trace.csv"
    path.write_text("time_s,uplink,downlink\n0,0.1,1\n4,0,0\n7,2,0.5\n")
    return {
        "steady": SteadyLink(),
        "varying": VaryingLink(sigma=0.5, correlation=0.8, period_s=3.0),
        "trace": TraceLink(path=str(path)),
    }


def ahead(link: LinkPolicy, client: int, time_s: float, count: int = 9) -> list[Piece]:
    return list(islice(link.pieces(1, client, time_s, "uplink", NOMINAL), count))


def test_every_member_has_a_sample(samples: dict[str, LinkPolicy]) -> None:
    """A link that is added must be added above."""
    ours = [c for c in LinkPolicy.__subclasses__() if c.__module__.startswith("orchestrator")]
    assert {type(sample) for sample in samples.values()} == set(ours)


@pytest.mark.parametrize("kind", ["steady", "varying", "trace"])
@given(client=st.integers(0, 5), time_s=st.floats(0, 1e6))
def test_contract(kind: str, client: int, time_s: float, samples: dict[str, LinkPolicy]) -> None:
    """Ends grow from the time on, and whoever begins later finds the same pieces."""
    pieces = ahead(samples[kind], client, time_s, 40)
    ends = [end for _, end in pieces]
    assert ends == sorted(set(ends))
    assert ends[0] > time_s
    assert all(rate >= 0 for rate, _ in pieces)
    assert any(rate > 0 for rate, _ in pieces)
    for at, end in enumerate(ends[:-1]):
        assert ahead(samples[kind], client, end, len(pieces) - at - 1) == pieces[at + 1 :]


def test_varying_has_mean_one(samples: dict[str, LinkPolicy]) -> None:
    """Over clients the bandwidth averages the profile's; both ways go up and down together."""
    rates = [ahead(samples["varying"], client, 50.0, 1)[0][0] for client in range(4000)]
    assert np.mean(rates) == pytest.approx(NOMINAL, rel=0.05)
    assert np.std(np.log(rates)) == pytest.approx(0.5, rel=0.06)
    down = next(samples["varying"].pieces(1, 7, 50.0, "downlink", 2 * NOMINAL))
    assert down == (2 * rates[7], 51.0)


def test_trace_by_hand(samples: dict[str, LinkPolicy]) -> None:
    """Rows hold until the next; the last as long as the one before, then all begins again."""
    first = [(100.0, 4.0), (0.0, 7.0), (2000.0, 10.0)]
    again = [(100.0, 14.0), (0.0, 17.0), (2000.0, 20.0)]
    assert ahead(samples["trace"], 0, 0.0, 6) == first + again
    assert ahead(samples["trace"], 0, 6.9, 2) == first[1:]
    assert ahead(samples["trace"], 0, 10.0, 3) == again


def test_trace_of_clients_in_bits(csv: Callable[..., str], drawn: Callable[..., Fleet]) -> None:
    """Each client has its own rows, in bits a second; who has none keeps its profile's link."""
    path = csv("client time_s downlink uplink", "2 0 8e6 1e6", "1 0 4e6 1e6", "2 10 16e6 1e6")
    once = drawn(link={"kind": "trace", "path": path, "unit": "bits_per_second", "repeat": False})
    assert once.download(1, 0.0, 1_000_000).end_s == 2.5
    assert once.download(2, 0.0, 1_000_000).end_s == 1.5
    assert once.download(2, 9.0, 1_000_000) == Span(10.25, 1.25)
    assert once.download(2, 99.0, 1_000_000).end_s == 100.0
    assert once.download(0, 0.0, 1_000_000).end_s == 0.6


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["time_s uplink"], r"csv:1: the header must name time_s, uplink, downlink, and may"),
        (["time_s uplink downlink jitter"], r"csv:1: the header must name"),
        (["time_s uplink downlink"], r"csv:2: has no rows below the header"),
        (["time_s uplink downlink", "0 1 1", "1 x 1"], r"csv:3: uplink must be a number >= 0, got"),
        (["time_s uplink downlink", "0 1 -1"], r"csv:2: downlink must be a number >= 0, got '-1'"),
        (["time_s uplink downlink", "0 1 nan"], r"csv:2: downlink must be a number"),
        (["time_s uplink downlink", "0 1"], r"csv:2: must have 3 cells .* got 2"),
        (["time_s uplink downlink", "1 1 1"], r"csv:2: time_s must begin at 0, got 1"),
        (["time_s uplink downlink", "0 1 1", "0 2 2"], r"csv:3: time_s must grow .* got 0"),
        (["time_s uplink downlink", "0 1 0", "5 1 0"], r"csv:3: downlink must be above 0 in some"),
        (["client time_s uplink downlink", "0.5 0 1 1"], r"csv:2: client must be a whole number"),
        (
            ["client time_s uplink downlink", "3 0 1 1", "3 5 1 1", "4 2 1 1"],
            r"csv:4: time_s must begin at 0",
        ),
    ],
)
def test_bad_traces_are_told_with_their_line(
    lines: list[str], message: str, csv: Callable[..., str]
) -> None:
    """A mistake in a trace names the file, the line and the rule."""
    with pytest.raises(ValidationError, match=message):
        TraceLink(path=csv(*lines))


def test_a_trace_must_not_end_in_an_outage(csv: Callable[..., str]) -> None:
    """Repeated, an outage at the end is over some time; otherwise it never is."""
    path = csv("time_s uplink downlink", "0 1 1", "5 0 1")
    assert TraceLink(path=path).repeat
    with pytest.raises(ValidationError, match=r"csv:3: uplink must be above 0 in the last row"):
        TraceLink(path=path, repeat=False)


def test_a_trace_is_found_beside_the_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths begin at a folder that is importable, as the experiment's is, or at the working one."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "t.csv").write_text("time_s,uplink,downlink\n0,1,1\n")
    with pytest.raises(ValidationError, match=r"is no file: mine/t\.csv\. Give its path from"):
        TraceLink(path="mine/t.csv")
    with monkeypatch.context() as here:
        here.syspath_prepend(str(tmp_path))
        assert TraceLink(path="mine/t.csv").files() == (tmp_path / "mine" / "t.csv",)
    monkeypatch.chdir(tmp_path)
    assert TraceLink(path="mine/t.csv").path == "mine/t.csv"


# ------------------------------------------------------------------ regions


def test_regions_by_hand(drawn: Callable[..., Fleet]) -> None:
    """Shares are met exactly; bandwidth is multiplied and latency added, both ways."""
    regions = {
        "near": {"share": 3},
        "far": {"share": 1, "bandwidth": 0.5, "latency_s": "300 ms"},
    }
    fleet = drawn(clients=100, regions=regions)
    assert Counter(map(fleet.region_of, range(100))) == {"near": 75, "far": 25}
    near = next(c for c in range(100) if fleet.region_of(c) == "near")
    far = next(c for c in range(100) if fleet.region_of(c) == "far")
    assert fleet.upload(near, 0.0, 1_000_000) == Span(1.5, 1.5)
    assert fleet.upload(far, 0.0, 1_000_000) == Span(0.5 + 0.3 + 2.0, 0.5 + 0.3 + 2.0)
    assert fleet.download(far, 0.0, 1_000_000).end_s == pytest.approx(0.5 + 0.3 + 0.2)


def test_regions_do_not_follow_the_devices(drawn: Callable[..., Fleet]) -> None:
    """Where a client lives is drawn by itself, and changes nothing else."""
    mix = [{"profile": "toy"}, {"profile": "workstation"}]
    plain = drawn(clients=1000, mix=mix)
    fleet = drawn(clients=1000, mix=mix, regions={"a": {}, "b": {}})
    assert np.array_equal(plain.entries, fleet.entries)
    both = Counter(zip(fleet.entries.tolist(), fleet.regions.tolist(), strict=True))
    assert all(200 < count < 300 for count in both.values())
    assert plain.region_of(0) == ""
    assert plain.fingerprint() != fleet.fingerprint()


@pytest.mark.parametrize("region", [{"share": 0}, {"bandwidth": 0}, {"latency_s": -1}])
def test_refused_regions(region: dict[str, Any], settings: Callable[..., FleetSettings]) -> None:
    """A region without clients or without a link is none."""
    with pytest.raises(ValidationError, match=next(iter(region))):
        settings(regions={"here": region})


def test_the_end_of_a_single_row() -> None:
    """A steady link has one piece, for ever."""
    assert ahead(SteadyLink(), 0, 5.0) == [(NOMINAL, math.inf)]
