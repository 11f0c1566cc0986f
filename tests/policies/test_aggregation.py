"""Do updates become the next version as the sources say?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import PositiveFloat, TypeAdapter, ValidationError

from policies.aggregation import (
    CA2FL,
    DCASGD,
    FADAS,
    Aggregation,
    AggregationPolicy,
    Applied,
    AsyncFedED,
    FedAdam,
    FedAsync,
    FedAvg,
    FedBuff,
    MajorityVote,
    Pacing,
    Port,
    mean_buffers,
)
from policies.staleness import Hinge, Polynomial
from policies.types import Address, Arrays, PayloadKind, Vector, Version
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
from policies.wire import Header, encode

ADAPTER: TypeAdapter[AggregationPolicy] = TypeAdapter(Aggregation)
MEMBERS = get_args(get_args(Aggregation)[0])
SAMPLES: dict[type[AggregationPolicy], list[AggregationPolicy]] = {
    FedAsync: [FedAsync(), FedAsync(rate=1), FedAsync(form="mix", rate=0.25)],
    FedBuff: [FedBuff(), FedBuff(size=1, rate=2), FedBuff(form="weights")],
    MajorityVote: [
        MajorityVote(),
        MajorityVote(voters=3, size=6, step_final=1e-4),
        MajorityVote(quorum=2, minorities=False),
    ],
    FedAvg: [FedAvg(), FedAvg(clients_per_round=3, over_selection=1.5, deadline_s=60)],
    FedAdam: [FedAdam(), FedAdam(clients_per_round=2, rate=1, beta1=0)],
    CA2FL: [CA2FL(), CA2FL(size=2, rate=0.5, cache=0, clients=9)],
    AsyncFedED: [AsyncFedED(), AsyncFedED(rate=0.5, epsilon=0.1)],
    FADAS: [FADAS(), FADAS(size=1, tolerance=0, cut="cap", beta1=0)],
    DCASGD: [DCASGD(), DCASGD(form="constant", strength=0.1, size=3), DCASGD(strength=0)],
    Port: [Port(), Port(similarity_weight=0, bound=2), Port(staleness_weight=0)],
}
EVERY_SAMPLE = [sample for samples in SAMPLES.values() for sample in samples]
EVERY_KIND = [(sample, kind) for sample in EVERY_SAMPLE for kind in sorted(sample.takes())]


def vector(*values: float) -> Vector:
    return np.array(values, dtype=np.float32)


def schema(size: int) -> ModelSchema:
    return ModelSchema((TensorSpec("w", (size,)),))


def contribution(
    content: Content | Sequence[float],
    *,
    client: int = 0,
    weight: float = 1.0,
    examples: int = 1,
    kind: PayloadKind = "delta",
    buffers: Sequence[float] = (),
    base: Vector | None = None,
) -> Contribution:
    if not isinstance(content, Dense | Sparse | Masked):
        content = Dense(vector(*content))
    update = Update(
        Address(client, 0), Version(0, 0), kind, content, vector(*buffers), examples, loss=0.5
    )
    return Contribution(update, staleness=0, weight=weight, base=base)


def after(policy: AggregationPolicy, model: Vector, batch: Sequence[Contribution]) -> Vector:
    """Return the next version; `model` stays, and is what updates without a base began from."""
    moved = model.copy()
    batch = [replace(c, base=model) if c.base is None else c for c in batch]
    policy.apply(moved, policy.start(schema(model.size)), batch, 1)
    return moved


def some_batch(kind: PayloadKind, seed: int = 0) -> list[Contribution]:
    rng = np.random.default_rng(seed)
    return [
        contribution(
            Dense(rng.standard_normal(6, dtype=np.float32)),
            weight=float(rng.uniform(0.2, 1)),
            examples=int(rng.integers(1, 9)),
            kind=kind,
            buffers=rng.standard_normal(2).tolist(),
            client=client,
            base=rng.standard_normal(6, dtype=np.float32),
        )
        for client in range(3)
    ]


# ---------------------------------------------------------------- what every member must do


def test_every_member_has_a_sample() -> None:
    """A new member of the family cannot escape the contract below."""
    assert set(MEMBERS) == set(SAMPLES)


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_contract_of_settings(policy: AggregationPolicy) -> None:
    """It takes known kinds, paces by at least one update, costs work, and is written back."""
    assert policy.takes()
    assert policy.takes() <= set(get_args(PayloadKind))
    assert policy.pacing().size >= 1
    assert policy.flops(1000) >= 1000
    assert ADAPTER.validate_json(ADAPTER.dump_json(policy)) == policy


@pytest.mark.parametrize(("policy", "kind"), EVERY_KIND, ids=repr)
def test_a_model_without_parameters(policy: AggregationPolicy, kind: PayloadKind) -> None:
    """Where clients share none, versions are made all the same, and figures are numbers."""
    nothing = ModelSchema(())
    batch = [contribution([], client=client, kind=kind, base=vector()) for client in range(3)]
    applied = policy.apply(vector(), policy.start(nothing), batch, 1)
    assert np.isfinite(list(applied.measures.values())).all()
    if applied.step is not None:
        header = Header("delta", Address(0, 0), Version(0, 0), 1, 0.0)
        assert encode(header, applied.step, vector(), nothing).size


@pytest.mark.parametrize(("policy", "kind"), EVERY_KIND, ids=repr)
def test_contract_of_values(policy: AggregationPolicy, kind: PayloadKind) -> None:
    """Updates and memory go in as values and stay as they are; equal ones give equal bits."""
    model = np.linspace(-1, 1, 6, dtype=np.float32)
    batch, untouched = some_batch(kind), some_batch(kind)
    memory: Arrays = policy.start(schema(6))
    same, kept = ({name: array.copy() for name, array in memory.items()} for _ in range(2))
    moved, again = model.copy(), model.copy()
    policy.apply(moved, memory, batch, 1)
    policy.apply(again, same, untouched, 1)
    assert moved.tobytes() == again.tobytes()
    assert moved.tobytes() != model.tobytes()
    assert memory.keys() == kept.keys()
    for name, array in kept.items():
        np.testing.assert_array_equal(memory[name], array)
    for one, other in zip(batch, untouched, strict=True):
        np.testing.assert_array_equal(one.update.content.values, other.update.content.values)
        np.testing.assert_array_equal(one.update.buffers, other.update.buffers)


def test_who_takes_sums() -> None:
    """Rounds and buffers do; who takes updates one by one, or counts heads, does not."""
    assert {type(policy) for policy in EVERY_SAMPLE if policy.adds()} == {FedBuff, FedAvg}
    assert all(policy.adds() for policy in (*SAMPLES[FedBuff], *SAMPLES[FedAvg]))


def test_another_apply_needs_other_sums() -> None:
    """What inherits sums from a policy whose `apply` it replaces is not summed; what adds is."""

    class Other(FedBuff):
        def apply(self, *arguments: Any) -> Applied:
            return super().apply(*arguments)

    class OtherSums(Other):
        def apply_sums(self, *arguments: Any) -> Applied:
            return super().apply_sums(*arguments)

    class Faster(FedBuff):
        rate: PositiveFloat = 2.0

    assert not Other().adds()
    assert OtherSums().adds()
    assert Faster().adds()


@pytest.mark.parametrize(("policy", "kind"), [(p, k) for p, k in EVERY_KIND if p.adds()], ids=repr)
@given(weights=st.tuples(*[st.floats(0.125, 1)] * 2), moved=st.floats(-8, 8, width=32))
def test_who_takes_sums_sees_nothing_else(
    policy: AggregationPolicy, kind: PayloadKind, weights: tuple[float, float], moved: float
) -> None:
    """Two updates with the same weighted sum, however it came about, make the same version."""
    model = np.linspace(-1, 1, 3, dtype=np.float32)
    one, other = weights
    plain = ([1.0, 2.0, -3.0], [4.0, 0.0, 0.5])
    shifted = ([x + moved / one for x in plain[0]], [x - moved / other for x in plain[1]])
    first, second = (
        after(
            policy,
            model,
            [
                contribution(values, client=at, weight=weight, kind=kind)
                for at, (values, weight) in enumerate(zip(pair, weights, strict=True))
            ],
        )
        for pair in (plain, shifted)
    )
    np.testing.assert_allclose(first, second, atol=1e-4)
    assert not np.array_equal(first, model)


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_foreign_memory_is_not_touched(policy: AggregationPolicy) -> None:
    """Whatever memory it is given, it changes none of it in place."""
    memory: Arrays = {**policy.start(schema(6)), "foreign": vector(1, 2)}
    names = list(memory)
    (kind, *_) = policy.takes()
    policy.apply(np.zeros(6, dtype=np.float32), memory, some_batch(kind), 1)
    np.testing.assert_array_equal(memory["foreign"], [1, 2])
    assert list(memory) == names


@pytest.mark.parametrize("policy", [p for p, k in EVERY_KIND if k == "delta"], ids=repr)
def test_nothing_new_changes_nothing(policy: AggregationPolicy) -> None:
    """Deltas of zero leave the model bit for bit."""
    model = np.linspace(-1, 1, 6, dtype=np.float32)
    assert after(policy, model, [contribution([0.0] * 6)]).tobytes() == model.tobytes()


@pytest.mark.parametrize(("policy", "kind"), EVERY_KIND, ids=repr)
def test_buffers_move_at_most_all_the_way(policy: AggregationPolicy, kind: PayloadKind) -> None:
    """The rate for normalisation buffers lies in [0, 1]."""
    assert 0 <= policy.buffer_rate(some_batch(kind)) <= 1


@pytest.mark.parametrize(("policy", "kind"), EVERY_KIND, ids=repr)
@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.integers(0, 11), st.floats(-8, 8, width=32)),
            st.floats(0.125, 1),
            st.integers(0, 9),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_dense_and_sparse_give_the_same(
    policy: AggregationPolicy,
    kind: PayloadKind,
    drawn: list[tuple[dict[int, float], float, int]],
) -> None:
    """An update counts the same whether its zeros are sent or left out."""
    sparse, dense = [], []
    for numbers, weight, examples in drawn:
        positions = np.array(sorted(numbers), dtype=np.int64)
        content = Sparse(positions, vector(*(numbers[p] for p in sorted(numbers))))
        for batch, form in ((sparse, content), (dense, Dense(content.densify(12)))):
            one = contribution(
                form, weight=weight, examples=examples, kind=kind, base=np.ones(12, np.float32)
            )
            batch.append(one)
    model = np.linspace(-2, 2, 12, dtype=np.float32)
    np.testing.assert_array_equal(after(policy, model, sparse), after(policy, model, dense))


# ---------------------------------------------------------------- FedAsync by hand


def test_fedasync_delta() -> None:
    """0.6 x 0.5 = 0.3 of the delta (1, -2) takes (1, 2) to (1.3, 1.4)."""
    moved = after(FedAsync(rate=0.6), vector(1, 2), [contribution([1, -2], weight=0.5)])
    np.testing.assert_allclose(moved, [1.3, 1.4], rtol=1e-6)


def test_fedasync_mix() -> None:
    """0.3 of the way from (1, 2) to (3, -4) is (1.6, 0.2)."""
    moved = after(
        FedAsync(form="mix", rate=0.6),
        vector(1, 2),
        [contribution([3, -4], weight=0.5, kind="weights")],
    )
    np.testing.assert_allclose(moved, [1.6, 0.2], rtol=1e-6)


def test_fedasync_rate_is_not_cumulative() -> None:
    """Three updates of 1 at rate 0.5 and s = 0.5 give 3 x 0.25, in one call or in three."""
    policy, update = FedAsync(rate=0.5), contribution([1], weight=0.5)
    assert after(policy, vector(0), [update] * 3) == 0.75
    one_by_one = vector(0)
    for _ in range(3):
        policy.apply(one_by_one, {}, [update], 1)
    assert one_by_one == 0.75


def test_fedasync_under_a_hinge() -> None:
    """At staleness 6 the default hinge weighs 1/21, so rate 0.21 moves by a hundredth."""
    late = contribution([1], weight=Hinge().weight(6))
    np.testing.assert_allclose(after(FedAsync(rate=0.21), vector(0), [late]), 0.01, rtol=1e-6)


def test_fedasync_moves_buffers_as_far_as_weights() -> None:
    """Rate 0.6 at s = 0.5 moves buffers by 0.3, by the newest update of the batch."""
    batch = [contribution([1], weight=1), contribution([1], weight=0.5)]
    assert FedAsync(rate=0.6).buffer_rate(batch) == pytest.approx(0.3)
    assert FedBuff().buffer_rate(batch) == FedAvg().buffer_rate(batch) == 1


# ---------------------------------------------------------------- FedBuff by hand


def test_fedbuff() -> None:
    """2 / 4 x (1 x 1 + 0.5 x 2 + 0.25 x 3 + 0 x 4) = 1.375: divided once, and late ones less."""
    batch = [
        contribution([delta], weight=weight)
        for delta, weight in ((1, 1), (2, 0.5), (3, 0.25), (4, 0))
    ]
    assert after(FedBuff(size=4, rate=2), vector(10), batch) == 11.375


def test_fedbuff_with_its_staleness() -> None:
    """Staleness 0 and 3 under (1 + d)^-1/2: (1 x 2 + 1/2 x 4) / 2 = 2; examples do not count."""
    s = Polynomial()
    batch = [
        contribution([2], weight=s.weight(0), examples=100),
        contribution([4], weight=s.weight(3), examples=1),
    ]
    assert after(FedBuff(size=2), vector(0), batch) == 2


# ---------------------------------------------------------------- FedAvg by hand


def test_fedavg_deltas() -> None:
    """1 and 3 examples weigh 1/4 and 3/4: (0, 8) + 1/4 (4, 0) + 3/4 (0, -4) = (1, 5)."""
    batch = [contribution([4, 0], examples=1), contribution([0, -4], examples=3)]
    np.testing.assert_array_equal(after(FedAvg(), vector(0, 8), batch), [1, 5])


def test_fedavg_weights() -> None:
    """Whole weights are averaged and nothing stays of the old model: 1/4 x 4 + 3/4 x 8 = 7."""
    batch = [
        contribution([4], examples=1, kind="weights"),
        contribution([8], examples=3, kind="weights"),
    ]
    assert after(FedAvg(), vector(100), batch) == 7


def test_fedavg_weighs_lateness_too() -> None:
    """2 examples at s = 0.5 weigh as much as 1 at s = 1: the mean of 2 and 4 is 3."""
    batch = [contribution([2], examples=2, weight=0.5), contribution([4], examples=1)]
    assert after(FedAvg(), vector(0), batch) == 3


@pytest.mark.parametrize("kind", ["delta", "weights"])
def test_fedavg_without_examples(kind: PayloadKind) -> None:
    """If nobody reports an example, the mean is plain."""
    batch = [contribution([v], examples=0, kind=kind) for v in (2, 4)]
    assert after(FedAvg(), vector(0), batch) == 3


# ---------------------------------------------------------------- FedAdam by hand


def test_fedadam() -> None:
    """Mean 1/4 x 8 + 3/4 x 0 = 2; m = 1, v = 3/4 x 4 + 1/4 x 4 = 4; w += 3 x 1 / (2 + 2)."""
    policy = FedAdam(rate=3, beta1=0.5, beta2=0.75, epsilon=2)
    batch = [contribution([8], examples=1), contribution([0], examples=3)]
    model = vector(1)
    applied = policy.apply(model, policy.start(schema(1)), batch, 1)
    assert model == 1.75
    assert (applied.memory["momentum"], applied.memory["variance"]) == (1, 4)
    policy.apply(model, applied.memory, [contribution([0])], 2)
    assert model == pytest.approx(1.75 + 3 * 0.5 / (3**0.5 + 2))  # v falls: it is no maximum


# ---------------------------------------------------------------- buffers, pacing, kinds


def test_fedbuff_of_weights() -> None:
    """(1, 2) with 1 x 3 examples and (5, 6) with 0.5 x 2 give (2, 3); nothing of (9, 9) stays."""
    batch = [
        contribution([1, 2], examples=3, kind="weights"),
        contribution([5, 6], examples=2, weight=0.5, kind="weights"),
    ]
    np.testing.assert_allclose(after(FedBuff(form="weights"), vector(9, 9), batch), [2, 3])


@pytest.mark.parametrize("policy", [FedAvg(), FedBuff(form="weights")], ids=repr)
def test_what_all_have_pruned_goes(policy: AggregationPolicy) -> None:
    """A policy that says so leaves a zero wherever every update has one."""
    assert policy.keeps_zeros()
    batch = [
        contribution(Sparse(np.array([1]), vector(4)), kind="weights"),
        contribution(Sparse(np.array([1, 2]), vector(2, 8)), kind="weights"),
    ]
    np.testing.assert_array_equal(after(policy, vector(9, 9, 9, 9), batch), [0, 3, 4, 0])


@pytest.mark.parametrize(
    "policy", [FedAsync(), FedAsync(form="mix"), FedBuff(), MajorityVote()], ids=repr
)
def test_what_keeps_the_old_model_says_so(policy: AggregationPolicy) -> None:
    """The others promise no zeros."""
    assert not policy.keeps_zeros()


# ---------------------------------------------------------------- majority vote by hand


def ballots(*votes: Sequence[float], weights: Sequence[float] = ()) -> list[Contribution]:
    """Return one client's votes a row; 0 abstains."""
    return [
        contribution(
            Sparse(np.flatnonzero(row), vector(*(v for v in row if v))),
            kind="votes",
            client=client,
            weight=weights[client] if weights else 1.0,
        )
        for client, row in enumerate(votes)
    ]


def test_majority_vote() -> None:
    """Two against one win; a tie and a coordinate without votes stay."""
    batch = ballots([1, 1, 0, -1], [1, -1, 0, -1], [-1, 0, 0, -1])
    moved = after(MajorityVote(voters=3, step=0.5), vector(0, 0, 0, 0), batch)
    np.testing.assert_array_equal(moved, [-0.5, 0, 0, 0.5])


def test_majority_vote_measures() -> None:
    """3 of 4 coordinates have votes, 8 votes on them, and one of the 3 is a tie."""
    batch = ballots([1, 1, 0, -1], [1, -1, 0, -1], [-1, 0, 0, -1])
    policy = MajorityVote(voters=3, minorities=False)
    applied = policy.apply(vector(0, 0, 0, 0), {}, batch, 1)
    expected = {"coverage": 0.75, "ballot_density": 8 / 12, "votes": 8 / 3, "ties": 1 / 3}
    assert applied.measures == pytest.approx(expected)


@pytest.mark.parametrize(
    ("policy", "settings", "words"),
    [
        (MajorityVote, {"size": 5, "deadline_s": 3}, "with size there are none"),
        (MajorityVote, {"size": 5, "over_selection": 2}, "with size there are none"),
        (MajorityVote, {"voters": 70_000}, "less than or equal to 32767"),
        (FedBuff, {"form": "weights", "rate": 2}, "the mean replaces the model"),
    ],
)
def test_settings_that_would_do_nothing(
    policy: type[AggregationPolicy], settings: dict[str, object], words: str
) -> None:
    """What a form has no use for is refused rather than ignored."""
    with pytest.raises(ValidationError, match=words):
        policy.model_validate(settings)


def test_majority_vote_weighs_lateness_and_counts_heads() -> None:
    """One fresh vote beats two late ones; the quorum counts heads, not weights."""
    batch = ballots([1, 0], [-1, 1], [-1, 0], weights=(1.0, 0.4, 0.4))
    moved = after(MajorityVote(voters=3, size=3, step=1, quorum=2), vector(0, 0), batch)
    np.testing.assert_array_equal(moved, [-1, 0])


def test_a_tie_of_late_votes_is_a_tie() -> None:
    """One fresh and one late for, the same against: nothing moves, in whatever order they come."""
    weights = (2**-0.5, 1.0, 1.0, 2**-0.5)
    batch = ballots([1], [1], [-1], [-1], weights=weights)
    policy = MajorityVote(voters=4, size=4, step=1)
    for order in permutations(batch):
        assert after(policy, vector(0), order).tolist() == [0]
    again = policy.apply(vector(0), policy.start(schema(1)), batch, 1)
    assert again.measures["ties"] == 1


def test_majority_vote_takes_the_latest_of_each_client() -> None:
    """A client that is twice in a buffer has one vote: the newest."""
    old, new = ballots([1, 1])[0], ballots([-1, 0])[0]
    new = replace(new, update=replace(new.update, address=Address(0, 7)))
    for batch in ([old, new], [new, old]):
        moved = after(MajorityVote(voters=2, size=2, step=1), vector(0, 0), batch)
        np.testing.assert_array_equal(moved, [1, 0])


def test_majority_vote_step() -> None:
    """The step falls exponentially by version, and with a buffer by size / voters."""
    policy = MajorityVote(step=0.1, step_final=0.001, step_versions=2)
    assert [policy.reach(t) for t in (0, 1, 2, 9)] == pytest.approx([0.1, 0.01, 0.001, 0.001])
    assert MajorityVote(step=0.1, voters=20, size=5).reach(0) == pytest.approx(0.025)


def test_majority_vote_step_can_be_repeated() -> None:
    """What it says it added, added again, gives the same bits."""
    rng = np.random.default_rng(3)
    model = rng.standard_normal(50, dtype=np.float32)
    batch = ballots(*rng.integers(-1, 2, size=(5, 50)).tolist())
    moved, again = model.copy(), model.copy()
    applied = MajorityVote(voters=5).apply(moved, MajorityVote().start(schema(50)), batch, 3)
    assert applied.step is not None
    applied.step.add_to(again, 1.0)
    assert moved.tobytes() == again.tobytes() != model.tobytes()


def test_systematic_minorities() -> None:
    """Client 2 is overruled on coordinate 0 each time, and everybody in turn on coordinate 1."""
    policy = MajorityVote(voters=3)
    memory = policy.start(schema(2))
    measures: list[float] = []
    for odd in (0, 1, 2):
        votes = [[1.0, -1.0 if client == odd else 1.0] for client in range(3)]
        votes[2][0] = -1.0
        applied = policy.apply(vector(0, 0), memory, ballots(*votes), 1)
        memory = applied.memory
        measures.append(applied.measures["systematic_minorities"])
    assert measures == [0, 0, 0.5]


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_nothing_but_what_it_says_is_touched(policy: AggregationPolicy) -> None:
    """Where sparse updates do not reach, a model that is not replaced keeps its bits."""
    (kind, *_) = policy.takes()
    model = np.linspace(-1, 1, 9, dtype=np.float32)
    content = Sparse(np.array([2, 5]), vector(1, -1))
    batch = [
        contribution(content, kind=kind, client=client, base=model + client) for client in (0, 1)
    ]
    moved = model.copy()
    applied = policy.apply(moved, policy.start(schema(9)), batch, 1)
    if applied.touched is not None:
        reached = np.unique(np.concatenate(list(applied.touched)))
        assert reached.tolist() == [2, 5]
        assert set(np.flatnonzero(moved != model)) <= set(reached.tolist())


def test_masked_updates_count_under_their_mask() -> None:
    """Packed values go where the mask says."""
    packed = Masked(Mask(1, np.array([0, 2])), vector(1, 2))
    np.testing.assert_array_equal(
        after(FedBuff(), vector(0, 0, 5), [contribution(packed)]), [1, 0, 7]
    )


def test_mean_buffers() -> None:
    """1 x 1 and 3 x 0.5 weigh 0.4 and 0.6: the mean of (10, -5) and (20, 5) is (16, 1)."""
    batch = [
        contribution([0], examples=1, weight=1, buffers=(10, -5)),
        contribution([0], examples=3, weight=0.5, buffers=(20, 5)),
    ]
    mean = mean_buffers(batch)
    np.testing.assert_allclose(mean, [16, 1], rtol=1e-6)
    assert mean.dtype == np.float32


@pytest.mark.parametrize(("examples", "weight"), [(0, 1.0), (5, 0.0), (-3, 1.0)])
def test_mean_buffers_without_weights(examples: int, weight: float) -> None:
    """If nothing weighs anything, the mean is plain."""
    batch = [
        contribution([0], examples=examples, weight=weight, buffers=[value]) for value in (1, 4)
    ]
    assert mean_buffers(batch) == 2.5


def test_mean_buffers_of_fewer_than_no_examples() -> None:
    """A negative count weighs nothing, not against the others."""
    batch = [contribution([0], examples=n, buffers=[v]) for n, v in ((-3, 1), (4, 7))]
    assert mean_buffers(batch) == 7


def test_mean_buffers_is_summed_in_float64() -> None:
    """Sixteen ones beside -2^27 and 2^27 are not rounded away: 16 / 18."""
    values = [2.0**27, *[1.0] * 16, -(2.0**27)]
    batch = [contribution([0], buffers=[value]) for value in values]
    np.testing.assert_allclose(mean_buffers(batch), 16 / 18, rtol=1e-6)


@pytest.mark.parametrize(
    ("policy", "pacing"),
    [
        (FedAsync(), Pacing(1)),
        (FedBuff(size=7), Pacing(7)),
        (FedAvg(clients_per_round=10), Pacing(10, cohort=10)),
        (FedAvg(clients_per_round=10, over_selection=1.25), Pacing(10, cohort=13)),
        (FedAvg(clients_per_round=50, over_selection=1.1), Pacing(50, cohort=55)),
        (FedAvg(clients_per_round=3, deadline_s=9), Pacing(3, cohort=3, deadline_s=9)),
        (MajorityVote(voters=4, over_selection=1.5), Pacing(4, cohort=6)),
        (MajorityVote(voters=4, size=9), Pacing(9)),
        (FedAdam(clients_per_round=4, over_selection=1.5), Pacing(4, cohort=6)),
        (CA2FL(size=7), Pacing(7)),
        (AsyncFedED(), Pacing(1)),
        (FADAS(), Pacing(5)),
        (DCASGD(), Pacing(1)),
        (DCASGD(size=3), Pacing(3)),
        (Port(size=4), Pacing(4)),
    ],
    ids=repr,
)
def test_pacing(policy: AggregationPolicy, pacing: Pacing) -> None:
    """A round asks clients x over-selection, rounded up but not by a rounding error."""
    assert policy.pacing() == pacing


@pytest.mark.parametrize(
    ("policy", "takes"),
    [
        (FedAsync(), ["delta"]),
        (FedAsync(form="mix"), ["weights"]),
        (FedBuff(), ["delta"]),
        (FedBuff(form="weights"), ["weights"]),
        (FedAvg(), ["delta", "weights"]),
        (MajorityVote(), ["votes"]),
        (FedAdam(), ["delta"]),
        (CA2FL(), ["delta"]),
        (AsyncFedED(), ["delta"]),
        (FADAS(), ["delta"]),
        (DCASGD(), ["delta"]),
        (Port(), ["delta"]),
    ],
    ids=repr,
)
def test_takes(policy: AggregationPolicy, takes: list[str]) -> None:
    """Mixing needs whole weights, stepping needs differences, a mean takes either."""
    assert sorted(policy.takes()) == takes


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"kind": "fedasync", "rate": 0}, "greater than 0"),
        ({"kind": "fedasync", "rate": 1.1}, "less than or equal to 1"),
        ({"kind": "fedbuff", "size": 0}, "greater than 0"),
        ({"kind": "fedavg", "over_selection": 0.9}, "greater than or equal to 1"),
        ({"kind": "fedavg", "deadline_s": 0}, "greater than 0"),
        ({"kind": "ca2fl", "clients": 0}, "greater than 0"),
        ({"kind": "async-fed-ed", "epsilon": 0}, "greater than 0"),
        ({"kind": "async-fed-ed", "bases": 0}, "greater than 0"),
        ({"kind": "fadas", "beta1": 1}, "less than 1"),
        ({"kind": "dc-asgd", "strength": -1}, "greater than or equal to 0"),
        (
            {"kind": "port", "similarity_weight": 0, "staleness_weight": 0},
            "must not both be 0: nothing would weigh",
        ),
    ],
)
def test_refused(settings: dict[str, object], complaint: str) -> None:
    """Settings that cannot make a version are mistakes."""
    with pytest.raises(ValidationError, match=complaint):
        ADAPTER.validate_python(settings)
