"""Do the methods that are made for late updates make the versions that their sources say?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.aggregation import (
    CA2FL,
    DCASGD,
    FADAS,
    AggregationPolicy,
    AsyncFedED,
    FedAsync,
    FedBuff,
    Port,
)
from policies.distances import cosine, distance, length
from policies.passes import BLOCK
from policies.types import Address, Arrays, RunError, Vector, Version
from policies.update import (
    Content,
    Contribution,
    Dense,
    Mask,
    Masked,
    ModelSchema,
    Sparse,
    TensorSpec,
    Update,
)

VALUES = st.floats(-8, 8, width=32)


def vector(*values: float) -> Vector:
    return np.array(values, dtype=np.float32)


def sent(
    content: Content | Sequence[float],
    *,
    client: int = 0,
    number: int = 0,
    staleness: int = 0,
    examples: int = 1,
    base: Sequence[float] | Vector | None = None,
) -> Contribution:
    if not isinstance(content, Dense | Sparse | Masked):
        content = Dense(vector(*content))
    address = Address(client, number)
    update = Update(address, Version(0, 0), "delta", content, vector(), examples, loss=0.5)
    began = None if base is None else np.asarray(base, dtype=np.float32)
    return Contribution(update, staleness, 1.0, began)


class Line:
    """Versions one after the other."""

    def __init__(self, policy: AggregationPolicy, *start: float) -> None:
        self.policy = policy
        self.model = vector(*start)
        self.memory: Arrays = policy.start(ModelSchema((TensorSpec("w", (len(start),)),)))
        self.measures: dict[str, float] = {}
        self.touched: Any = None

    def make(self, *batch: Contribution) -> list[float]:
        batch = tuple(c if c.base is not None else replace(c, base=self.model) for c in batch)
        batch = tuple(replace(c, base=c.base.copy()) for c in batch if c.base is not None)
        applied = self.policy.apply(self.model, self.memory, batch, 1)
        self.memory, self.touched = applied.memory, applied.touched
        self.measures = dict(applied.measures)
        found: list[float] = self.model.tolist()
        return found


# ---------------------------------------------------------------- CA2FL by hand


def test_ca2fl() -> None:
    """Of four clients: 3; then 6/4 + ((6 - 2) + 8)/2 = 7.5 more; then 18/4 - (4 + 8)/2 less."""
    line = Line(CA2FL(size=2, clients=4), 0.0)
    assert line.make(sent([2], client=0), sent([4], client=1)) == [3]
    assert line.make(sent([6], client=0, number=1), sent([8], client=2)) == [10.5]
    assert line.make(sent([0], client=1, number=1), sent([0], client=2, number=1)) == [9]
    assert line.measures == {"cached_clients": 3, "cached_share": 1}
    assert line.memory["sum"].tolist() == [6]


def test_ca2fl_compares_with_what_was_kept_before() -> None:
    """A cache that is overwritten first corrects nothing: then this would be 2 + 2, not 2 + 6."""
    line = Line(CA2FL(size=1, clients=1), 0.0)
    line.make(sent([2]))
    assert line.make(sent([6], number=1)) == [2 + 2 + (6 - 2)]


def test_ca2fl_rate() -> None:
    """The rate scales the mean of all and the correction alike."""
    line = Line(CA2FL(size=1, clients=2, rate=0.5), 0.0)
    assert line.make(sent([4], client=0)) == [2]
    assert line.make(sent([8], client=1)) == [2 + 0.5 * (4 / 2 + 8)]


def test_ca2fl_weighs_if_asked() -> None:
    """s(d) is on the difference, not on the mean of all: 4/2 + 0.5 (8 - 4)."""
    line = Line(CA2FL(size=1, clients=2), 0.0)
    line.make(sent([4], client=0))
    assert line.make(replace(sent([8], client=0, number=1), weight=0.5)) == [4 + 4 / 2 + 2]
    assert line.memory["sum"].tolist() == [8]


def test_ca2fl_among_those_who_came() -> None:
    """Where nobody says how many clients there are, the mean is over those that have come."""
    line = Line(CA2FL(size=1), 0.0)
    line.make(sent([4], client=0))
    assert line.make(sent([0], client=9)) == [4 + 4 / 1]
    assert line.make(sent([0], client=5)) == [8 + 4 / 2]


@given(st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=1, max_size=5))
def test_ca2fl_of_newcomers_is_fedbuff(deltas: list[list[float]]) -> None:
    """If nobody came before, it is FedBuff with constant weights, bit for bit."""
    batch = [sent(delta, client=client) for client, delta in enumerate(deltas)]
    ours, theirs = Line(CA2FL(rate=0.7, clients=9), 1, 2, 3), Line(FedBuff(rate=0.7), 1, 2, 3)
    assert ours.make(*batch) == theirs.make(*batch)
    assert len(ours.touched or ()) == len(theirs.touched or ())


@given(st.data(), st.integers(1, 4))
def test_ca2fl_of_everybody_is_fedbuff(data: st.DataObject, count: int) -> None:
    """When all clients are in a buffer, what was kept cancels out."""
    draw = st.lists(VALUES, min_size=count, max_size=count)
    ours, theirs = Line(CA2FL(size=count, clients=count), 0), Line(FedBuff(), 0)
    for number in range(3):
        deltas = data.draw(draw)
        batch = [sent([d], client=c, number=number) for c, d in enumerate(deltas)]
        np.testing.assert_allclose(ours.make(*batch), theirs.make(*batch), atol=1e-4)


def test_ca2fl_keeps_a_clients_latest() -> None:
    """Twice in a buffer: both are compared with what was there before, the newer one is kept."""
    for order in ((1, 2), (2, 1)):
        line = Line(CA2FL(size=2, clients=2), 0.0)
        line.make(sent([2], client=0, number=0))
        batch = [sent([10.0 * number], client=0, number=number) for number in order]
        assert line.make(*batch) == [2 + 1 + ((10 - 2) + (20 - 2)) / 2]
        assert line.memory["values/0"].tolist() == [20]


def test_ca2fl_forgets_the_oldest() -> None:
    """Room for two: a third client pushes out the one that was silent longest, and its share."""
    line = Line(CA2FL(size=1, clients=4, cache=8), 0.0)
    for client, delta in ((0, 4), (1, 8), (0, 12), (2, 16)):
        line.make(sent([delta], client=client, number=delta))
    assert line.memory["order"].tolist() == [0, 2]
    assert line.memory["sum"].tolist() == [12 + 16]
    assert line.memory["bytes"].tolist() == [8]
    assert not {"values/1"} & set(line.memory)
    before = line.model[0]
    assert line.make(sent([1], client=1, number=99)) == [before + 28 / 4 + 1]
    assert line.measures["cached_share"] == 0


def test_ca2fl_forgets_all_of_it() -> None:
    """When nobody is left, no rounding is: 1e9 + .1 - 1e9 is not quite .1."""
    line = Line(CA2FL(size=1, clients=4, cache=16), 0, 0, 0)
    first, every = np.array([0]), np.arange(3)
    line.make(sent(Sparse(first, vector(1e9)), client=0))
    assert line.touched is not None  # the first one moves nothing but its own
    line.make(sent(Sparse(first, vector(0.1)), client=1))
    assert line.touched is None  # what the others said is everywhere
    line.make(sent(Sparse(every, vector(0.3, 2, 3)), client=2))
    assert line.memory["order"].size == 0
    assert not line.memory["sum"].any()


def test_ca2fl_without_a_cache_is_fedbuff() -> None:
    """Where an update does not fit it is not kept, and nothing is left of it."""
    ours, theirs = Line(CA2FL(size=1, cache=3), 0.5), Line(FedBuff(size=1), 0.5)
    for number, delta in enumerate((0.1, 1e9, -0.3, 5.0)):
        one = sent([delta], number=number)
        assert ours.make(one) == theirs.make(one)
        assert ours.measures == {"cached_clients": 0, "cached_share": 0}


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from("dsm"), st.lists(VALUES, min_size=4)),
        max_size=12,
    ),
    st.sampled_from([0, 16, 40, 10**6]),
)
def test_ca2fl_memory(came: list[tuple[int, str, list[float]]], cache: int) -> None:
    """The sum is that of what is kept, the bytes are those of it, and no version changes an old."""
    line = Line(CA2FL(size=1, clients=4, cache=cache), 0, 0, 0, 0)
    for number, (client, form, values) in enumerate(came):
        places, some = np.array([0, 3]), vector(*values[:2])
        content: Content = Dense(vector(*values[:4]))
        if form == "s":
            content = Sparse(places, some)
        elif form == "m":
            content = Masked(Mask(0, places), some)
        old = {name: array.copy() for name, array in line.memory.items()}
        was = line.memory
        line.make(sent(content, client=client, number=number))
        content.values[:] = 99  # a payload's memory may go
        for name, array in old.items():
            np.testing.assert_array_equal(was[name], array)
        total, size = np.zeros(4), 0
        for kept in line.memory["order"].tolist():
            held = line.memory[f"values/{kept}"]
            at = line.memory.get(f"positions/{kept}", np.arange(4))
            total[at] += held
            size += held.nbytes + (at.nbytes if f"positions/{kept}" in line.memory else 0)
        np.testing.assert_allclose(line.memory["sum"], total, atol=1e-9)
        assert line.memory["bytes"].tolist() == [size]
        assert size <= cache
        assert len(set(line.memory["order"].tolist())) == line.memory["order"].size


# ---------------------------------------------------------------- AsyncFedED by hand


def test_async_fed_ed() -> None:
    """The model is 5 from the base, the update 2.5 long: gamma 2, so 3 / (2 + 1) = 1 of it."""
    line = Line(AsyncFedED(rate=3, epsilon=1), 3, 4)
    assert line.make(sent([0, 2.5], base=(0, 0))) == [3, 6.5]
    assert line.measures == {"gamma": 2, "applied_rate": 1}


def test_async_fed_ed_of_the_newest_version() -> None:
    """Gamma is 0 and the step rate / epsilon, whatever the update's length."""
    for scale in (1.0, 100.0):
        line = Line(AsyncFedED(rate=3, epsilon=2), 0)
        assert line.make(sent([scale])) == [1.5 * scale]


def test_async_fed_ed_counts_no_versions() -> None:
    """The same distance costs the same, however many versions it took."""
    ends = [
        Line(AsyncFedED(), 1, 1).make(sent([1, 0], base=(0, 1), staleness=late)) for late in (1, 9)
    ]
    assert ends[0] == ends[1] == [1.5, 1]


def test_async_fed_ed_looks_at_the_whole_model() -> None:
    """A sparse update is late by what moved elsewhere, too: 5 / 1 and 1 / 6."""
    content = Sparse(np.array([1]), vector(1))
    moved = Line(AsyncFedED(), 5, 0).make(sent(content, base=(0, 0)))
    np.testing.assert_allclose(moved, [5, 1 / 6], rtol=1e-6)


def test_async_fed_ed_of_nothing() -> None:
    """An update of zeros has no length to measure by, and changes nothing."""
    line = Line(AsyncFedED(), 3, 4)
    assert line.make(sent([0, 0], base=(0, 0))) == [3, 4]
    assert line.measures == {}


def test_async_fed_ed_buffers() -> None:
    """They move by rate / epsilon of a fresh update, less by versions, and never beyond."""
    policy = AsyncFedED(rate=0.5, epsilon=1)
    assert policy.buffer_rate([sent([1])]) == 0.5
    assert policy.buffer_rate([sent([1], staleness=4)]) == pytest.approx(0.1)
    assert AsyncFedED(rate=9).buffer_rate([sent([1])]) == 1


# ---------------------------------------------------------------- FADAS by hand


def test_fadas() -> None:
    """From nothing, m = (1, -.5) and v = (1, .25): half of m / sqrt(v) is (.5, -.5)."""
    line = Line(FADAS(rate=0.5, beta1=0.5, beta2=0.75), 0, 0)
    np.testing.assert_allclose(line.make(sent([2, -1])), [0.5, -0.5], rtol=1e-6)
    assert line.memory["momentum"].tolist() == [1, -0.5]
    assert line.memory["variance"].tolist() == [1, 0.25]


def test_fadas_divides_by_the_maximum() -> None:
    """After zeros m halves and v shrinks; the step is by the old maximum, .25, not by v, .289."""
    line = Line(FADAS(rate=0.5, beta1=0.5, beta2=0.75), 0, 0)
    line.make(sent([2, -1]))
    np.testing.assert_allclose(line.make(sent([0, 0])), [0.75, -0.75], rtol=1e-6)
    assert line.memory["variance"].tolist() == [0.75, 0.1875]
    assert line.memory["largest"].tolist() == [1, 0.25]
    line.make(sent([8, 0]))
    assert line.memory["largest"].tolist() == [0.75 * 0.75 + 0.25 * 64, 0.25]


def test_fadas_epsilon_is_added_to_the_root() -> None:
    """With m = 1, sqrt(v) = 1 and epsilon 1 it is a half."""
    line = Line(FADAS(rate=1, beta1=0.5, beta2=0.75, epsilon=1), 0)
    assert line.make(sent([2])) == [0.5]


def test_fadas_takes_the_mean() -> None:
    """A buffer of 1 and 3 is one gradient of 2: divided once, examples do not count."""
    one, many = (Line(FADAS(rate=1, beta1=0.5, epsilon=1), 0) for _ in range(2))
    both = many.make(sent([1], examples=99), sent([3], client=1))
    assert both == one.make(sent([2]))


@pytest.mark.parametrize(
    ("cut", "rates"), [("divide", [0.5, 0.5, 0.25, 0.1]), ("cap", [0.5, 0.5, 0.5, 0.2])]
)
def test_fadas_is_cut_by_the_largest_delay(cut: str, rates: list[float]) -> None:
    """Up to tau_c the step is whole; beyond it is rate / tau or at most 1 / tau."""
    policy = FADAS.model_validate({"rate": 0.5, "cut": cut})
    assert [policy.reach(late) for late in (0, 1, 2, 5)] == rates
    line = Line(policy, 0)
    line.make(sent([1], staleness=5), sent([1], client=1))
    assert line.measures == {"largest_staleness": 5, "applied_rate": rates[-1]}
    np.testing.assert_allclose(line.model, rates[-1], rtol=1e-5)


def test_fadas_never_late() -> None:
    """With a tolerance of 0, an update of the newest version is not divided by 0."""
    assert FADAS(rate=0.5, tolerance=0).reach(0) == 0.5


# ---------------------------------------------------------------- DC-ASGD by hand


def test_dc_asgd_constant() -> None:
    """2 - 4/8 x 1 = 1.5 and -4 - 16/8 x -2 = 0: the model went their way already."""
    line = Line(DCASGD(form="constant", strength=0.125), 1, 1)
    assert line.make(sent([2, -4], base=(0, 3))) == [2.5, 1]
    assert line.memory == {}
    assert line.measures["compensation"] == pytest.approx(np.hypot(0.5, 4) / np.hypot(2, 4))


def test_dc_asgd_grows_what_the_model_went_against() -> None:
    """The model went down by 1, the update goes up by 2: 2 + 4/8."""
    assert Line(DCASGD(form="constant", strength=0.125), 0).make(sent([2], base=[1])) == [2.5]


@given(VALUES, st.floats(0.01, 2), st.floats(0, 2), st.floats(-2, 2, width=32))
def test_dc_asgd_is_the_sources_on_gradients(
    gradient: float, eta: float, lam: float, moved: float
) -> None:
    """A step of eta against g + lambda g g (w_t - w_tau), with strength lambda / eta."""
    policy = DCASGD(form="constant", strength=lam / eta)
    line = Line(policy, moved)
    expected = moved - eta * (gradient + lam * gradient**2 * moved)
    (found,) = line.make(sent([-eta * gradient], base=[0]))
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_dc_asgd_adaptive() -> None:
    """Mean squares 1 and then .75 + 1: 2 - .25 x 4 / 1 x 1, then 2 - .25 x 4 / 1.75^.5 x 2."""
    line = Line(DCASGD(strength=0.25, momentum=0.75), 1)
    np.testing.assert_allclose(line.make(sent([2], base=[0])), [2], rtol=1e-6)
    assert line.memory["mean_square"].tolist() == [1]
    expected = 2 + 2 - 0.25 * 4 / 1.75**0.5 * 2
    np.testing.assert_allclose(line.make(sent([2], base=[0])), [expected], rtol=1e-6)


def test_dc_asgd_adaptive_does_not_depend_on_eta() -> None:
    """Differences ten times as long are corrected by the same share."""
    shares = []
    for scale in (0.1, 1.0):
        line = Line(DCASGD(strength=0.5), 0.25)
        line.make(sent([scale], base=[0]))
        shares.append(line.measures["compensation"])
    assert shares[0] == pytest.approx(shares[1], rel=1e-4)


def test_dc_asgd_forgets_where_nobody_sends() -> None:
    """The mean square falls everywhere, and rises where a sparse update is."""
    line = Line(DCASGD(momentum=0.5), 0, 0)
    line.make(sent([2, 2]))
    line.make(sent(Sparse(np.array([1]), vector(4))))
    assert line.memory["mean_square"].tolist() == [1, 1 + 8]


def test_dc_asgd_corrects_a_buffer_before_it_moves() -> None:
    """Both of two updates are brought to the model before them: 1 + (2 - .5) twice, halved."""
    line = Line(DCASGD(form="constant", strength=0.125, size=2), 1)
    both = [sent([2], client=client, base=[0]) for client in (0, 1)]
    assert line.make(*both) == [2.5]


BATCHES = st.lists(
    st.tuples(st.lists(VALUES, min_size=3, max_size=3), st.lists(VALUES, min_size=3, max_size=3)),
    min_size=1,
    max_size=4,
)


@given(BATCHES, st.sampled_from(["constant", "adaptive"]))
def test_dc_asgd_without_strength(drawn: list[tuple[list[float], list[float]]], form: str) -> None:
    """With lambda 0 it is FedBuff with constant weights, bit for bit, and FedAsync one by one."""
    batch = [sent(delta, client=at, base=base) for at, (delta, base) in enumerate(drawn)]
    settings = {"form": form, "strength": 0, "rate": 0.6}
    ours = Line(DCASGD.model_validate(settings), 1, 2, 3)
    assert ours.make(*batch) == Line(FedBuff(rate=0.6), 1, 2, 3).make(*batch)
    assert len(ours.touched or ()) == 0
    one, other = Line(DCASGD.model_validate(settings), 1, 2, 3), Line(FedAsync(rate=0.6), 1, 2, 3)
    for update in batch:
        assert one.make(update) == other.make(update)


@given(BATCHES)
def test_dc_asgd_on_the_newest_version(drawn: list[tuple[list[float], list[float]]]) -> None:
    """What is not late is not corrected."""
    batch = [sent(delta, client=at) for at, (delta, _) in enumerate(drawn)]
    line = Line(DCASGD(size=4), 1, 2, 3)
    assert line.make(*batch) == Line(FedBuff(), 1, 2, 3).make(*batch)


def test_dc_asgd_buffers() -> None:
    """They move as far as the weights, at most all the way."""
    assert DCASGD(rate=0.3).buffer_rate([]) == 0.3
    assert DCASGD(rate=3).buffer_rate([]) == 1


# ---------------------------------------------------------------- Port by hand


def test_port_weighs_agreement() -> None:
    """One goes the model's way (1), one across it (1/2), one against it (0); by examples."""
    line = Line(Port(staleness_weight=0), 1, 0)
    batch = [
        sent([2, 0], client=0, base=(0, 0), staleness=1),
        sent([0, 5], client=1, base=(0, 0), staleness=1, examples=3),
        sent([-9, 0], client=2, base=(0, 0), staleness=1, examples=50),
    ]
    np.testing.assert_allclose(line.make(*batch), [1 + 0.4 * 2, 0.6 * 5], rtol=1e-6)
    assert line.measures == pytest.approx({"similarity": 0, "largest_share": 0.6})


def test_port_weighs_lateness() -> None:
    """With bound 2, an update 6 late weighs 2 / 8 beside 1: shares of 1/5 and 4/5."""
    line = Line(Port(similarity_weight=0, bound=2), 0)
    batch = [sent([10], client=0, staleness=6), sent([5], client=1)]
    np.testing.assert_allclose(line.make(*batch), [2 + 4], rtol=1e-6)


def test_port_adds_both_terms() -> None:
    """8 x (1/2 + 2/8) = 6 beside 1 + 1 = 2: three quarters and one."""
    line = Line(Port(bound=2), 1, 0)
    late = sent([0, 4], client=0, base=(0, 0), staleness=6, examples=8)
    np.testing.assert_allclose(line.make(late, sent([4, 0], client=1)), [2, 3], rtol=1e-6)


def test_port_where_nothing_moved() -> None:
    """Nothing stands against an update of the newest version, nor one of zeros."""
    line = Line(Port(staleness_weight=0), 1, 1)
    assert line.make(sent([-4, -4]), sent([0, 0], client=1, base=(3, 3))) == [-1, -1]
    assert line.measures["similarity"] == 1


def test_port_where_nothing_counts() -> None:
    """If all shares are zero, they are equal."""
    line = Line(Port(), 0)
    assert line.make(sent([2], examples=0), sent([4], examples=-5, client=1)) == [3]


@given(BATCHES, st.integers(0, 9))
def test_port_of_equals_is_their_mean(
    drawn: list[tuple[list[float], list[float]]], late: int
) -> None:
    """Without the angle, equally late updates of as many examples count the same."""
    batch = [
        sent(delta, client=at, base=base, staleness=late) for at, (delta, base) in enumerate(drawn)
    ]
    found = Line(Port(similarity_weight=0), 1, 2, 3).make(*batch)
    np.testing.assert_allclose(found, Line(FedBuff(), 1, 2, 3).make(*batch), atol=1e-5)


# ---------------------------------------------------------------- what they share


@pytest.mark.parametrize("policy", [AsyncFedED(), DCASGD(), Port()], ids=lambda p: p.kind)
def test_who_compares_needs_a_base(policy: AggregationPolicy) -> None:
    """An update without one is a mistake of the caller's, and says so."""
    assert policy.bases_bytes() > 0
    with pytest.raises(RunError, match=r"came without its base. .* bases_bytes"):
        policy.apply(vector(0), policy.start(ModelSchema((TensorSpec("w", (1,)),))), [sent([1])], 1)


@pytest.mark.parametrize("policy", [CA2FL(), FADAS(), FedBuff(), FedAsync()], ids=lambda p: p.kind)
def test_who_does_not_compare(policy: AggregationPolicy) -> None:
    """The others cost the server no past models."""
    assert policy.bases_bytes() == 0


def test_lengths_and_distances() -> None:
    """3 and 4 make 5, far beyond one block too, and in doubles: 2^13 of 1e-4 beside 1."""
    long = np.zeros(2 * BLOCK + 5, dtype=np.float32)
    long[[0, -1]] = 3, 4
    assert length(long) == distance(long, np.zeros_like(long)) == distance(long, 2 * long) == 5
    small = np.full(1 << 13, 1e-4, dtype=np.float32)
    small[0] = 1
    assert length(small) == pytest.approx(np.sqrt(1 + ((1 << 13) - 1) * 1e-8), rel=1e-9)


@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=9))
def test_cosine(drawn: list[tuple[float, float, float]]) -> None:
    """It is the cosine by its definition, in [-1, 1], the same for sparse contents."""
    values, before, after = (
        np.array(column, dtype=np.float32) for column in zip(*drawn, strict=True)
    )
    found = cosine(Dense(values), before, after)
    assert -1 <= found <= 1
    places = np.flatnonzero(values)
    assert cosine(Sparse(places, values[places]), before, after) == pytest.approx(found, abs=1e-9)
    moved = after.astype(np.float64) - before
    sizes = float(np.linalg.norm(moved) * np.linalg.norm(values.astype(np.float64)))
    if sizes > 1e-12:
        assert found == pytest.approx(float(moved @ values) / sizes, abs=1e-6)
