"""Do the shared words mean the same everywhere: streams, addresses, versions, verdicts?"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.types import (
    ACCEPTED,
    HOSTILE_REASONS,
    Address,
    ExperimentError,
    LatecomerError,
    Outcome,
    Reason,
    RunError,
    Verdict,
    Version,
    rejected,
    stream,
    stream_seed,
)

Name = tuple[int, str, int, int]
NAMES = st.tuples(
    st.integers(0, 3),
    st.sampled_from(["batches", "train", "1", "1/0", "0/1", ""]),
    st.integers(0, 11),
    st.integers(0, 11),
)
IN_ANOTHER_PROCESS = """
from policies.types import stream, stream_seed
print(stream(7, "batches", 3, 5).integers(2**62, size=3).tolist(), stream_seed(7, "train", 3, 5))
"""


@given(NAMES, NAMES)
def test_streams_are_named(one: Name, other: Name) -> None:
    """Equal names give equal numbers; names that differ in any part give others."""
    drawn = [stream(*name).integers(2**62, size=2).tolist() for name in (one, other)]
    assert (drawn[0] == drawn[1]) is (one == other)
    assert (stream_seed(*one) == stream_seed(*other)) is (one == other)


@pytest.mark.parametrize(
    "other",
    [(8, "batches", 3, 5), (7, "train", 3, 5), (7, "batches", 5, 3), (7, "batches", 3, 4)],
)
def test_every_part_of_a_name_counts(other: Name) -> None:
    """Another seed, purpose, client or number alone gives other numbers."""
    name = (7, "batches", 3, 5)
    assert stream(*name).integers(2**62) != stream(*other).integers(2**62)
    assert stream_seed(*name) != stream_seed(*other)


def test_streams_never_change() -> None:
    """A run of an older release can be repeated: these numbers are fixed for good."""
    drawn = stream(7, "batches", 3, 5).integers(2**62, size=2).tolist()
    assert drawn == [3138636950856578740, 4043920034633019087]
    assert stream_seed(7, "train", 3, 5) == 7827740692980334670


def test_stream_is_fresh() -> None:
    """Each call starts at the beginning, whatever was drawn from the one before."""
    first = stream(1, "noise").standard_normal(3)
    np.testing.assert_array_equal(stream(1, "noise").standard_normal(3), first)


@given(NAMES)
def test_stream_seed_has_63_bits(name: Name) -> None:
    """The seed fits into torch's signed 64 bits."""
    assert 0 <= stream_seed(*name) < 2**63


def test_stream_seed_uses_its_bits() -> None:
    """Over a few names, each of the 63 bits is sometimes set and sometimes not."""
    seeds = [stream_seed(0, "bits", 0, n) for n in range(64)]
    assert np.bitwise_or.reduce(seeds) == 2**63 - 1
    assert np.bitwise_and.reduce(seeds) == 0


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_streams_in_a_fresh_process(hash_seed: str) -> None:
    """A process with another PYTHONHASHSEED draws the same numbers."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    here = stream(7, "batches", 3, 5).integers(2**62, size=3).tolist()
    assert run.stdout.strip() == f"{here} {stream_seed(7, 'train', 3, 5)}"


def test_order_of_addresses_and_versions() -> None:
    """Addresses go by client, then number; versions by number, then lineage."""
    assert sorted([Address(1, 0), Address(0, 2), Address(0, 1)]) == [(0, 1), (0, 2), (1, 0)]
    assert Address(client=4, number=9) == (4, 9)
    assert max(Version(3, 0), Version(2, 7), Version(3, 1)) == Version(number=3, lineage=1)


def test_verdicts() -> None:
    """Only the outcome `accepted` counts; a rejection keeps its reason and its words."""
    assert ACCEPTED.accepted
    assert ACCEPTED.reason is Reason.NONE
    verdict = rejected(Reason.TOO_STALE, "9 versions")
    assert verdict == Verdict(Outcome.REJECTED, Reason.TOO_STALE, "9 versions")
    others = [o for o in Outcome if o is not Outcome.ACCEPTED]
    assert not any(Verdict(outcome).accepted for outcome in others)


def test_hostile_reasons() -> None:
    """Being late speaks against nobody; everything else does, never coming back included."""
    bad_luck = {"", "too_stale", "round_closed", "old_lineage", "timed_out", "went_away", "gave_up"}
    assert {str(reason) for reason in set(Reason) - HOSTILE_REASONS} == bad_luck


@pytest.mark.parametrize("error", [LatecomerError, ExperimentError, RunError])
def test_errors_cross_processes(error: type[LatecomerError]) -> None:
    """An error that was pickled says what it said."""
    again = pickle.loads(pickle.dumps(error("lr must be > 0")))  # noqa: S301  our own
    assert type(again) is error
    assert str(again) == "lr must be > 0"
