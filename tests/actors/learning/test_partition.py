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

from actors.learning.examples import DataShape, Rows
from actors.learning.partition import (
    Dirichlet,
    Drift,
    Iid,
    Natural,
    Partition,
    PartitionPolicy,
    Pathological,
    Quantity,
    Sampled,
)
from actors.learning.shards import MovingShards, SampledShards, Shards
from policies.base import Settings
from policies.types import ExperimentError, stream

ADAPTER: TypeAdapter[PartitionPolicy] = TypeAdapter(Partition)
MEMBERS = get_args(get_args(Partition)[0])
SAMPLES: dict[type[PartitionPolicy], list[PartitionPolicy]] = {
    Iid: [Iid()],
    Dirichlet: [Dirichlet(alpha=0.05, min_examples=3), Dirichlet(alpha=100, min_examples=1)],
    Pathological: [Pathological(), Pathological(classes_per_client=1)],
    Quantity: [Quantity(alpha=0.1, min_examples=2), Quantity(alpha=100, min_examples=1)],
    Natural: [Natural(), Natural(choose="random"), Natural(drift=Drift(window=0.5))],
    Sampled: [Sampled(), Sampled(examples=3, alpha=0.01)],
}
BY_LABELS = [
    sample for member in (Iid, Dirichlet, Pathological, Quantity) for sample in SAMPLES[member]
]
OWNERS = np.array([2, 0, 1, 1, 0, 1, 3, 3, 3, 3])
YEARS = np.array([7.0, 5.0, 3.0, 1.0, 4.0, 2.0, 9.0, 8.0, 8.0, 6.0])
ROWS = Rows(np.zeros(10, np.int64), OWNERS, YEARS)


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


@pytest.mark.parametrize("policy", BY_LABELS, ids=repr)
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


@pytest.mark.parametrize("policy", BY_LABELS, ids=repr)
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
        (Quantity(), r"100 in all, .* has 9\. .*data\.partition\.min_examples"),
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
        ("pathlib:Path", "derived from actors.learning.dealing.PartitionPolicy"),
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


def test_dealing_by_labels_is_splitting_them() -> None:
    """What an experiment gets is `split` with the stream that the seed names: the bits of old."""
    labels = np.repeat(np.arange(4), 25)
    shards = Dirichlet(min_examples=2).deal(Rows(labels), 7, 11)
    parts = Dirichlet(min_examples=2).split(labels, 7, stream(11, "partition"))
    assert [shards[c].tolist() for c in range(7)] == [part.tolist() for part in parts]


def test_a_smaller_alpha_makes_more_uneven_shares() -> None:
    """With alpha 0.1 the largest has most of all, with 1000 sizes are nearly equal."""
    labels = rng().permutation(np.repeat(np.arange(10), 100))
    uneven, even = (
        [len(part) for part in Quantity(alpha=a, min_examples=5).split(labels, 10, rng(2))]
        for a in (0.1, 1000)
    )
    assert min(uneven) < 20
    assert max(uneven) > 400
    assert max(even) < 1.5 * min(even)


def test_quantities_do_not_skew_labels() -> None:
    """A large share holds every class about as often as the whole."""
    labels = np.repeat(np.arange(5), 400)
    largest = max(Quantity(alpha=0.3).split(labels, 10, rng(1)), key=len)
    shares = np.bincount(labels[largest]) / len(largest)
    assert np.abs(shares - 0.2).max() < 0.05


# ------------------------------------------------------------------ clients of the source


def test_natural_clients_keep_their_examples() -> None:
    """As many as there are: client k has the examples whose owner is k."""
    shards = Natural().deal(ROWS, 4, 0)
    assert [shards[c].tolist() for c in range(4)] == [[1, 4], [2, 3, 5], [0], [6, 7, 8, 9]]
    assert shards.sizes().tolist() == [2, 3, 1, 4]


def test_the_largest_take_part_in_the_order_of_the_source() -> None:
    """Two of four: owners 1 and 3, whatever the seed."""
    for seed in (0, 1):
        shards = Natural().deal(ROWS, 2, seed)
        assert [shards[c].tolist() for c in range(2)] == [[2, 3, 5], [6, 7, 8, 9]]


def test_a_random_choice_is_the_seeds() -> None:
    """Equal seeds give equal clients; over many seeds everybody has a turn."""
    policy = Natural(choose="random")
    chosen = {tuple(policy.deal(ROWS, 1, seed)[0].tolist()) for seed in range(40)}
    assert chosen == {(1, 4), (2, 3, 5), (0,), (6, 7, 8, 9)}
    again = policy.deal(ROWS, 2, 3)
    assert all(np.array_equal(again[c], policy.deal(ROWS, 2, 3)[c]) for c in range(2))


def test_clients_without_examples_never_take_part() -> None:
    """Owner 1 of three has none, so two clients are the most."""
    rows = Rows(np.zeros(3, np.int64), np.array([0, 2, 2]))
    assert [Natural().deal(rows, 2, 0)[c].tolist() for c in range(2)] == [[0], [1, 2]]
    with pytest.raises(ExperimentError, match=r"must lie in \[1, 2\], .* got 3"):
        Natural().deal(rows, 3, 0)


def test_a_window_moves_from_the_oldest_to_the_newest() -> None:
    """Half of four examples, by year: 9 | 7, 8 | 6 become windows; the last one stays."""
    shards = Natural(drift=Drift(window=0.5, assignments=2)).deal(ROWS, 4, 0)
    assert shards.moving
    assert shards[3].tolist() == [9, 7, 8, 6]
    assert [shards.rows(3, n).tolist() for n in range(4)] == [[9, 7], [7, 8], [8, 6], [8, 6]]
    assert shards.sizes().tolist() == [1, 2, 1, 2]
    assert shards.examples(3) == 2
    assert shards.rows(2, 10**9).tolist() == [0]


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    window=st.floats(0.01, 1),
    assignments=st.integers(1, 9),
)
def test_a_window_shows_everything_in_time(
    sizes: list[int], window: float, assignments: int
) -> None:
    """Its width never changes, it never goes back, and it begins and ends at the ends."""
    listed = Shards.of([np.arange(n) for n in sizes])
    shards = MovingShards(listed, window, assignments)
    for client, size in enumerate(sizes):
        seen = [shards.rows(client, number) for number in range(assignments + 2)]
        assert {part.size for part in seen} == {shards.examples(client)}
        begins = [int(part[0]) for part in seen]
        assert begins == sorted(begins)
        assert begins[0] == 0
        assert seen[assignments][-1] == seen[-1][-1] == size - 1


@pytest.mark.parametrize(
    ("policy", "shape", "message"),
    [
        (Natural(), DataShape(9, 1, (4,), 2), "this one names none"),
        (Natural(drift=Drift()), DataShape(9, 1, (4,), 2, clients=3), "this source does not say"),
    ],
)
def test_a_source_that_says_too_little_is_refused(
    policy: Natural, shape: DataShape, message: str
) -> None:
    """By its shape alone, and again when examples are dealt out."""
    with pytest.raises(ExperimentError, match=message):
        policy.most(shape)
    with pytest.raises(ExperimentError, match=message):
        policy.deal(Rows(ROWS.labels, OWNERS if shape.clients else None), 1, 0)
    with pytest.raises(ExperimentError, match="names none"):
        policy.split(ROWS.labels, 1, rng())


# ------------------------------------------------------------------ any number of clients


def sampled(clients: int, seed: int = 0, **more: float) -> SampledShards:
    labels = np.repeat(np.arange(10), 100)
    return Sampled.model_validate({"kind": "sampled", **more}).deal(Rows(labels), clients, seed)


def test_sampled_clients_take_no_memory() -> None:
    """A hundred million clients hold what ten do, and any of them can be asked."""
    small, large = sampled(10), sampled(10**8)
    assert len(large) == 10**8
    assert large.examples(7) == large[99_999_999].size == 50
    assert np.array_equal(small[3], large[3])
    assert small.sizes().tolist() == [50] * 10
    assert small.rows(3, 5).tolist() == small[3].tolist()


def test_sampled_clients_depend_on_seed_and_name_alone() -> None:
    """Equal ones are equal, different ones differ, and no example comes twice to a client."""
    shards = sampled(5, examples=40, alpha=0.5)
    assert np.array_equal(shards[2], sampled(5, examples=40, alpha=0.5)[2])
    assert not np.array_equal(shards[2], shards[3])
    assert not np.array_equal(shards[2], sampled(5, seed=1, examples=40, alpha=0.5)[2])
    for client in range(5):
        assert len(set(shards[client].tolist())) == 40


def test_sampled_mixtures_are_as_skewed_as_alpha_says_and_fair_on_average() -> None:
    """The largest class of a client falls with alpha; over many clients all classes are alike."""
    labels = np.repeat(np.arange(10), 100)

    def purity(alpha: float) -> float:
        shards = sampled(100, alpha=alpha)
        return float(np.mean([np.bincount(labels[shards[c]]).max() / 50 for c in range(100)]))

    assert purity(0.05) > 0.75
    assert 0.2 < purity(1) < 0.4
    assert purity(1000) < 0.2
    shards = sampled(3000, alpha=1)
    counts = sum(np.bincount(labels[shards[c]], minlength=10) for c in range(3000))
    assert np.abs(counts / counts.mean() - 1).max() < 0.08


def test_a_class_with_too_few_examples_gives_some_twice() -> None:
    """A client may ask for more than there are."""
    shards = Sampled(examples=20).deal(Rows(np.array([0, 1, 1])), 2, 0)
    assert shards[0].size == 20


def test_how_many_clients_there_can_be() -> None:
    """One an example, one a client of the source, or any number."""
    shape = DataShape(9, 1, (4,), 2, clients=3, ordered=True)
    assert Iid().most(shape) == (9, "training examples")
    assert Natural(drift=Drift()).most(shape) == (3, "clients")
    assert Sampled().most(shape) is None  # type: ignore[func-returns-value]


@given(
    owners=st.lists(st.integers(0, 3), min_size=6, max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=6),
    seed=st.integers(0, 99),
)
def test_owners_of_all_clients_at_once(owners: list[int], cuts: list[int], seed: int) -> None:
    """The one owner of all that a client has, whoever is empty; -1 if there are several or none."""
    whose = np.array(owners, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(whose.size) if seed % 2 else np.argsort(whose)
    parts = np.split(order, np.sort(np.minimum(cuts, whose.size)))
    listed = Shards.of(parts)
    plain = Shards.owners(listed, whose).tolist()
    assert listed.owners(whose).tolist() == plain
    assert MovingShards(listed, 0.5, 3).owners(whose).tolist() == plain
    assert plain == [
        whose[part[0]] if part.size and len(set(whose[part])) == 1 else -1 for part in parts
    ]


@given(seed=st.integers(0, 10**6), client=st.integers(0, 10**6), each=st.integers(1, 80))
def test_classes_of_a_sampled_client_without_its_examples(
    seed: int, client: int, each: int
) -> None:
    """The mixture alone gives the counts that the examples have, also past a class's examples."""
    labels = np.repeat(np.array([4, 0, 2, 4]), [3, 20, 7, 5])
    shards = Sampled(examples=each, alpha=0.5).deal(Rows(labels), 10**6 + 1, seed)
    counted = shards.counts(client, labels, 6)
    assert counted.tolist() == Shards.counts(shards, client, labels, 6).tolist()
    assert counted.sum() == each


def test_sampled_clients_are_nobody_in_particular() -> None:
    """Whose examples they draw is not asked client by client: 10 million would take an hour."""
    shards = Sampled(examples=5).deal(Rows(np.arange(9) % 3), 10**7, 1)
    assert not np.any(shards.owners(np.zeros(9, dtype=np.int64)) >= 0)
