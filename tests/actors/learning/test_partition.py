"""Does every partition deal out every example exactly once, as skewed as it says?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from actors.learning.partition import Dirichlet, Iid, Partition, PartitionPolicy, Pathological
from policies.base import Settings
from policies.types import ExperimentError

ADAPTER: TypeAdapter[PartitionPolicy] = TypeAdapter(Partition)
MEMBERS = get_args(get_args(Partition)[0])
SAMPLES: dict[type[PartitionPolicy], list[PartitionPolicy]] = {
    Iid: [Iid()],
    Dirichlet: [Dirichlet(alpha=0.05, min_examples=3), Dirichlet(alpha=100, min_examples=1)],
    Pathological: [Pathological(), Pathological(classes_per_client=1)],
}
EVERY_SAMPLE = [sample for samples in SAMPLES.values() for sample in samples]


class Holder(Settings):
    partition: Partition = Iid()


def least(policy: PartitionPolicy) -> int:
    return getattr(policy, "min_examples", getattr(policy, "classes_per_client", 1))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Write a module that can be imported while the test runs."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> None:
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(text)

    return write


def test_every_member_has_a_sample() -> None:
    """A new member of the union fails here until SAMPLES holds one."""
    assert set(MEMBERS) == set(SAMPLES)
    assert all(SAMPLES.values())


@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_keeps_the_contract(member: type[PartitionPolicy]) -> None:
    """Its kind alone makes one, each survives its own JSON, and none can be changed."""
    for sample in SAMPLES[member]:
        assert ADAPTER.validate_json(sample.model_dump_json()) == sample
        assert ADAPTER.validate_python({"kind": sample.kind}).kind == sample.kind
        with pytest.raises(ValidationError, match="frozen"):
            sample.kind = "other"  # type: ignore[misc]


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
@given(data=st.data())
def test_every_example_goes_to_one_client(policy: PartitionPolicy, data: st.DataObject) -> None:
    """Shares are sorted, disjoint, cover all, reach the minimum, and repeat for an equal rng."""
    clients = data.draw(st.integers(1, 12), "clients")
    n = data.draw(st.integers(clients * least(policy), 150), "examples")
    labels = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), np.int64)
    seed = data.draw(st.integers(0, 5), "seed")
    parts = policy.split(labels, clients, rng(seed))
    assert len(parts) == clients
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    for part, again in zip(parts, policy.split(labels, clients, rng(seed)), strict=True):
        assert part.dtype == np.int64
        assert len(part) >= least(policy)
        assert (np.diff(part) > 0).all()
        assert np.array_equal(part, again)


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_another_generator_gives_another_partition(policy: PartitionPolicy) -> None:
    """The randomness comes from the generator."""
    labels = np.repeat(np.arange(10), 50)
    first, second = policy.split(labels, 10, rng(0)), policy.split(labels, 10, rng(1))
    assert any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_iid_shares_differ_by_one_at_most() -> None:
    """Eleven examples for four clients are 3, 3, 3, 2."""
    parts = Iid().split(np.zeros(11, np.int64), 4, rng())
    assert [len(part) for part in parts] == [3, 3, 3, 2]


def test_a_smaller_alpha_is_more_skewed() -> None:
    """The largest class's share of a client falls from near 1 to near 1/10 as alpha grows."""
    labels = np.repeat(np.arange(10), 400)

    def purity(alpha: float) -> float:
        parts = Dirichlet(alpha=alpha, min_examples=1).split(labels, 20, rng())
        tops = [np.bincount(labels[part]).max() for part in parts]
        return float(sum(tops) / len(labels))

    assert purity(0.01) > 0.75
    assert 0.25 < purity(0.5) < 0.6
    assert purity(1000) < 0.13


@pytest.mark.parametrize("alpha", [1e-300, 1e-3, 1e6])
def test_dirichlet_reaches_its_minimum_however_extreme_alpha_is(alpha: float) -> None:
    """With as many examples as are needed and not one more, every client has the minimum."""
    labels = np.repeat(np.arange(2), 50)
    parts = Dirichlet(alpha=alpha, min_examples=10).split(labels, 10, rng())
    assert [len(part) for part in parts] == [10] * 10


def test_dirichlet_takes_from_the_largest_and_only_what_is_missing() -> None:
    """Clients that had enough and were not the largest keep what they had."""
    labels = np.repeat(np.arange(10), 100)
    before = Dirichlet(alpha=0.1, min_examples=1).split(labels, 10, rng(1))
    after = Dirichlet(alpha=0.1, min_examples=40).split(labels, 10, rng(1))
    sizes = [len(part) for part in before]
    assert min(sizes) < 40
    assert min(len(part) for part in after) == 40
    largest = int(np.argmax(sizes))
    assert set(after[largest].tolist()) < set(before[largest].tolist())
    kept = [i for i, n in enumerate(sizes) if 40 <= n < len(after[largest])]
    assert kept
    assert all(np.array_equal(before[i], after[i]) for i in kept)


def test_pathological_clients_see_few_classes() -> None:
    """Shards that divide the classes evenly hold one class, so two shards hold two at most."""
    labels = rng(1).permutation(np.repeat(np.arange(10), 60))
    parts = Pathological().split(labels, 30, rng())
    assert [len(part) for part in parts] == [20] * 30
    seen = [len(np.unique(labels[part])) for part in parts]
    assert max(seen) == 2
    assert np.mean(seen) > 1.5


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Iid(), r"needs 1 or more .* 10 clients, 10 in all, .* has 9\. Lower fleet\.clients, or"),
        (Dirichlet(), r"100 in all, .* has 9\. .*data\.partition\.min_examples"),
        (Pathological(), r"20 in all, .* has 9\. .*data\.partition\.classes_per_client"),
    ],
)
def test_too_few_examples_are_refused(policy: PartitionPolicy, message: str) -> None:
    """The error names the count, the need and what to lower."""
    with pytest.raises(ExperimentError, match=message):
        policy.split(np.zeros(9, np.int64), 10, rng())


def test_a_fleet_needs_a_client() -> None:
    """No clients is a mistake, whatever the policy."""
    with pytest.raises(ExperimentError, match=r"fleet\.clients must be at least 1, got 0"):
        Iid().split(np.zeros(9, np.int64), 0, rng())


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), 1e7])
def test_alpha_must_be_positive_and_no_more_than_a_million(alpha: float) -> None:
    """Past a million the shares are equal and the draw loses its precision."""
    with pytest.raises(ValidationError, match="alpha"):
        Dirichlet(alpha=alpha)


def test_an_own_partition_comes_in_by_its_dotted_path(
    module: Callable[[str, str], None],
) -> None:
    """It is validated with its own fields, splits, and is written back with its own fields."""
    module(
        "own_partition",
        "import numpy as np\n"
        "from actors.learning.partition import PartitionPolicy\n"
        "class Blocks(PartitionPolicy):\n"
        "    first: int = 1\n"
        "    def split(self, labels, clients, rng):\n"
        "        return np.array_split(np.arange(len(labels)), clients)\n",
    )
    holder = Holder.model_validate({"partition": {"kind": "own_partition:Blocks", "first": 5}})
    assert len(holder.partition.split(np.zeros(6, np.int64), 3, rng())) == 3
    assert holder.model_dump() == {"partition": {"kind": "own_partition:Blocks", "first": 5}}
    assert Holder.model_validate(holder.model_dump()) == holder
    with pytest.raises(ValidationError, match="second"):
        Holder.model_validate({"partition": {"kind": "own_partition:Blocks", "second": 5}})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nowhere:Blocks", "cannot be imported"),
        ("pathlib:Path", "derived from actors.learning.partition.PartitionPolicy"),
        ("dirichle", "'iid', 'dirichlet', 'pathological'"),
    ],
)
def test_an_unknown_partition_is_refused(kind: str, message: str) -> None:
    """The error says what can be written instead."""
    with pytest.raises(ValidationError, match=message):
        Holder.model_validate({"partition": {"kind": kind}})


def test_a_member_without_split_says_so() -> None:
    """The family's base class names the method to define."""
    with pytest.raises(TypeError, match=r"abstract.*split"):
        PartitionPolicy(kind="x")  # type: ignore[abstract]
