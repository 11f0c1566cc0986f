"""Does a corrected version answer more like the newest one, and is nothing else touched?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import nn

from policies.aggregation import CA2FL
from policies.correction import (
    Correction,
    CorrectionPolicy,
    Distillation,
    Lesson,
    Making,
    Newest,
    NoCorrection,
    Own,
    Quality,
    Signals,
    StepDistillation,
    Taught,
)
from policies.correction.base import CHECKED
from policies.correction.tutor_torch import ModelTutor
from policies.training.flat_torch import FlatModel
from policies.types import Address, PayloadKind, RunError, Vector, Version, stream
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

ADAPTER: TypeAdapter[CorrectionPolicy] = TypeAdapter(Correction)
NONE: Vector = np.empty(0, dtype=np.float32)
LESSON = Lesson(temperature=2.0, steps=10, rate=0.1, rows=32)


_DRAWN = np.random.default_rng(5).standard_normal((CHECKED + 40, 3)).astype(np.float32)
INPUTS = _DRAWN[CHECKED:]
LABELS = np.arange(40) % 2


def linear(*, chained: bool = True) -> ModelTutor:
    """A tutor of a linear model of 3 inputs and 2 classes, its inputs drawn."""
    layers = [nn.Linear(3, 2)] if chained else [nn.Linear(3, 2), nn.Identity()]
    labels = np.concatenate([np.zeros(CHECKED, dtype=np.int64), LABELS])
    return ModelTutor(FlatModel(nn.Sequential(*layers)), _DRAWN, labels)


def network() -> tuple[ModelTutor, int]:
    """A tutor of a small network with dropout and batch norm, and how many weights it has."""
    layers = (nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
    model = FlatModel(nn.Sequential(*layers))
    inputs = np.random.default_rng(6).standard_normal((CHECKED + 64, 6)).astype(np.float32)
    labels = np.arange(CHECKED + 64) % 4
    return ModelTutor(model, inputs, labels), model.schema.parameters


def drawn(seed: int, size: int) -> Vector:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


class Recording:
    """Notes the lesson; teaches nothing but adds one to the student."""

    def __init__(self, kept: float = 1.0, quality: float = 1.0, even: float = 1.0) -> None:
        self.lesson: Lesson | None = None
        self.strengths: list[float] = []
        self.students: Any = None
        self.where: Any = None
        self._kept = kept
        self._quality = Quality(quality, even)

    def teach(self, students: Any, *told: Any) -> list[Taught]:
        self.strengths, _, self.lesson, _, self.where = told
        self.students = students.copy()
        students += np.float32(self._kept)
        return [Taught(0.5, 0.25, 2.0, self._kept, curvature=8.0)] * len(students)

    def quality(self, newest: Newest) -> Quality:
        del newest
        return self._quality


def making(**more: Any) -> Making:
    newest = Newest(drawn(0, 8), NONE, more.pop("before", 50))
    given_ = {"updates": 4, "late": 1, "newest": newest, "model": drawn(1, 8)}
    return Making(**(given_ | {"memory": StepDistillation().start()} | more))


# ---------------------------------------------------------------- when, and how strongly


def test_the_stage_by_hand() -> None:
    """Nothing at first, 1 - 1/e of it after `ramp` updates, never more than `strength`."""
    policy = StepDistillation(strength=0.8, ramp=200)
    assert policy.at(0) == 0
    assert policy.at(200) == pytest.approx(0.8 * (1 - np.exp(-1)))
    grows = [policy.at(updates) for updates in range(0, 5000, 50)]
    assert grows == sorted(grows)
    assert grows[-1] <= 0.8
    assert StepDistillation(ramp=0).at(1) == 1.0
    assert StepDistillation(ramp=0).at(0) == 0.0


@pytest.mark.parametrize(
    ("policy", "made"),
    [
        (StepDistillation(), {"before": 0}),
        (StepDistillation(), {"late": 0}),
        (StepDistillation(strength=0), {}),
        (NoCorrection(), {}),
    ],
)
def test_the_uncorrected_method_bit_for_bit(policy: CorrectionPolicy, made: Any) -> None:
    """At the start, with fresh updates alone, or with a strength of 0 nothing happens."""
    version = making(**made)
    before = version.model.tobytes()
    tutor = Recording()
    amended = policy.amend(version, tutor, stream(0, "correction"))
    assert not amended.changed
    assert amended.measures == {}
    assert tutor.lesson is None
    assert version.model.tobytes() == before


def test_what_is_told() -> None:
    """Strength, both divergences, the length and the share that was kept."""
    tutor = Recording()
    policy = StepDistillation(
        strength=0.5, ramp=0, steps=3, rate=0.2, batch=9, temperature=4, stretch=3
    )
    amended = policy.amend(making(), tutor, stream(0, "correction"))
    assert (tutor.lesson, tutor.strengths) == (Lesson(4.0, 3, 0.2, 9), [0.5])
    assert amended.changed
    assert amended.measures == {
        "correction_strength": 0.5,
        "correction_stretch": 3.0,
        "correction_kl_before": 0.5,
        "correction_kl_after": 0.25,
        "correction_length": 2.0,
        "correction_kept": 1.0,
    }
    assert not policy.amend(making(), Recording(0.0), stream(0, "correction")).changed
    with pytest.raises(RunError, match="no model to teach"):
        policy.amend(making(), None, stream(0, "correction"))


@pytest.mark.parametrize("kept", [1.0, 0.0])
def test_the_step_is_lengthened_before_the_lesson(kept: float) -> None:
    """Three times as long at the largest lambda, twice at half of it; not if nothing was kept."""
    version = making(where=np.arange(8) < 6)
    newest, plain = version.newest.model, version.model.copy()
    policy = StepDistillation(ramp=50 / np.log(2), stretch=3, rate=0.1)
    assert policy.at(version.newest.updates) == pytest.approx(0.5)
    policy.amend(version, Recording(kept), stream(0, "correction"))
    expected = newest + 2 * (plain - newest) + 1 if kept else plain
    np.testing.assert_allclose(version.model[:6], expected[:6], rtol=1e-5, atol=1e-6)
    if kept:  # the tutor here adds 1 everywhere
        np.testing.assert_allclose(version.model[6:], plain[6:] + 1, rtol=1e-6)
    else:
        assert version.model.tobytes() == plain.tobytes()


def test_what_it_costs() -> None:
    """64 inputs, 7 steps: 23 answers each, and 64 that are checked three times."""
    policy = StepDistillation()
    assert policy.rows() == 64 + 64
    assert policy.version_flops(10.0) == 10.0 * (23 * 64 + 3 * 64)
    assert policy.flops(3, 10.0) == 0
    assert NoCorrection().version_flops(10.0) == 0


@pytest.mark.parametrize(
    "policy",
    [
        NoCorrection(),
        StepDistillation(steps=3, ramp=0),
        Distillation(gates=("quality", "delay"), anchor="labels", stage="sigmoid"),
        Distillation(proxy="client"),
    ],
    ids=repr,
)
def test_written_back(policy: CorrectionPolicy) -> None:
    """What is written of a member makes an equal one."""
    assert ADAPTER.validate_json(ADAPTER.dump_json(policy)) == policy


def test_every_member_is_here() -> None:
    """A new member of the family does not escape."""
    assert set(get_args(get_args(Correction)[0])) == {NoCorrection, Distillation, StepDistillation}


# ---------------------------------------------------------------- the lesson


def teach(
    tutor: ModelTutor,
    student: Vector,
    teacher: Vector,
    lesson: Lesson = LESSON,
    *,
    strength: float = 1.0,
    buffers: Vector = NONE,
    seed: int = 0,
    where: Any = None,
) -> Taught:
    """Teach one student, in place."""
    newest, rng = Newest(teacher, buffers, 10), stream(seed, "correction")
    students = student.reshape(1, -1)
    (taught,) = tutor.teach(students, [strength], newest, lesson, rng, [where])
    return taught


def probabilities(weights: Vector, heat: float = 1.0) -> Any:
    """Answer to the 40 inputs of `linear`."""
    z = (INPUTS @ weights[:6].reshape(2, 3).T + weights[6:]) / heat
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("anchor", ["student", "weights", "labels"])
@pytest.mark.parametrize("chained", [True, False])
def test_a_step_by_hand(anchor: Any, chained: bool) -> None:
    """One step on a linear model, a quarter of the loss the teacher's."""
    tutor = linear(chained=chained)
    student, teacher = drawn(1, 8), drawn(2, 8)
    own, hot = probabilities(student), probabilities(student, 2.0)
    wanted = 0.25 * (hot - probabilities(teacher, 2.0)) * 2.0  # lambda T (p_s - p_t)
    if anchor == "labels":
        wanted = wanted + 0.75 * (own - np.eye(2)[LABELS])
    error = wanted / 40
    gradient = np.concatenate([(error.T @ INPUTS).ravel(), error.sum(0)])
    before = student.copy()
    lesson = Lesson(temperature=2.0, steps=1, rate=0.3, rows=40, anchor=anchor)
    taught = teach(tutor, student, teacher, lesson, strength=0.25)
    assert taught.kept == 1.0
    np.testing.assert_allclose(student, before - 0.3 * gradient, rtol=1e-5, atol=1e-6)
    assert taught.length == pytest.approx(float(np.linalg.norm(0.3 * gradient)), rel=1e-4)


def test_anchors_pull_back() -> None:
    """From the second step on, weights are pulled to where they were; the more, the nearer."""
    lengths = []
    for strength in (1.0, 0.6, 0.2):
        lesson = Lesson(temperature=2.0, steps=60, rate=0.3, rows=40, anchor="weights")
        taught = teach(linear(), drawn(1, 8), drawn(2, 8), lesson, strength=strength)
        lengths.append(taught.length)
    assert lengths == sorted(lengths, reverse=True)
    second = Lesson(temperature=2.0, steps=2, rate=0.3, rows=40, anchor="weights")
    plain = Lesson(temperature=2.0, steps=2, rate=0.3 * 0.25, rows=40)  # the same first step
    students = [drawn(1, 8), drawn(1, 8)]
    teach(linear(), students[0], drawn(2, 8), second, strength=0.25)
    teach(linear(), students[1], drawn(2, 8), plain)
    first = drawn(1, 8)
    teach(linear(), first, drawn(2, 8), Lesson(2.0, 1, 0.3 * 0.25, 40))
    pulled = students[1] + np.float32(0.3 * 0.75) * (drawn(1, 8) - first)
    np.testing.assert_allclose(students[0], pulled, rtol=1e-5, atol=1e-6)


def test_labels_are_needed_where_they_anchor() -> None:
    """Inputs without them cannot."""
    tutor = ModelTutor(FlatModel(nn.Sequential(nn.Linear(3, 2))), INPUTS.repeat(3, axis=0))
    with pytest.raises(ValueError, match="no labels"):
        teach(tutor, drawn(1, 8), drawn(2, 8), Lesson(2.0, 1, 0.1, 8, anchor="labels"))


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_together_as_alone(fresh: bool, masked: bool) -> None:
    """Students of linear layers learn side by side what each learns from autograd alone."""
    inputs = np.random.default_rng(6).standard_normal((CHECKED + 64, 6)).astype(np.float32)
    chained, alone = (
        ModelTutor(
            FlatModel(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), *more)), inputs
        )
        for more in ([], [nn.Identity()])
    )
    size = 6 * 8 + 8 + 8 * 4 + 4
    where = [None, np.random.default_rng(1).random(size) < 0.5, None] if masked else []
    found = []
    for tutor in (chained, alone):
        students = np.stack([drawn(seed, size) for seed in (1, 2, 3)])
        newest, rng = Newest(drawn(4, size), NONE, 10), stream(0, "correction")
        lesson = Lesson(2.0, 4, 0.1, 16, fresh=fresh)
        taught = tutor.teach(students, [1.0, 0.4, 0.7], newest, lesson, rng, where)
        found.append((students, taught))
    (together, told), (separate, said) = found
    np.testing.assert_allclose(together, separate, rtol=1e-4, atol=1e-5)
    for one, other in zip(told, said, strict=True):
        assert one.kept == other.kept
        assert one.kl_after == pytest.approx(other.kl_after, rel=1e-3)
        assert one.length == pytest.approx(other.length, rel=1e-3)


def test_many_steps_lead_to_the_teacher() -> None:
    """At full strength the divergence falls to a small part of what it was."""
    lesson = Lesson(temperature=1.0, steps=400, rate=0.5, rows=40)
    taught = teach(linear(), drawn(1, 8), drawn(2, 8), lesson)
    assert taught.kl_after < 0.02 * taught.kl_before


@settings(max_examples=60)
@given(
    st.integers(0, 10_000),
    st.floats(0.01, 1),
    st.sampled_from([0.01, 0.1, 3.0, 1e4]),
    st.sampled_from(["student", "weights", "labels"]),
    st.booleans(),
)
def test_the_law_of_a_lesson(
    seed: int, strength: float, rate: float, anchor: Any, chained: bool
) -> None:
    """The divergence never grows, the teacher stays, what may not change stays bit for bit."""
    if chained:
        tutor, size, buffers = linear(), 8, NONE
    else:
        tutor, size = network()
        buffers = np.concatenate([drawn(seed + 2, 8), np.abs(drawn(seed + 3, 8)) + 0.1])
    student, teacher = drawn(seed, size), drawn(seed + 1, size)
    where = np.random.default_rng(seed).random(size) < 0.5
    before, given_ = student.copy(), teacher.tobytes()
    lesson = Lesson(2.0, 4, rate, 32, anchor=anchor)
    told: Any = {"strength": strength, "buffers": buffers, "seed": seed, "where": where}
    taught = teach(tutor, student, teacher, lesson, **told)
    assert 0 <= taught.kl_after <= taught.kl_before
    assert taught.kept in {0.0, 0.25, 0.5, 1.0}
    assert teacher.tobytes() == given_
    assert student[~where].tobytes() == before[~where].tobytes()
    assert np.isfinite(student).all()
    if not taught.kept:
        assert student.tobytes() == before.tobytes()
        assert taught.length == 0
    again = before.copy()
    assert teach(tutor, again, teacher, lesson, **told) == taught
    assert again.tobytes() == student.tobytes()


@pytest.mark.parametrize("chained", [True, False])
def test_a_lesson_that_leads_away_is_dropped(chained: bool) -> None:
    """Steps far too long: nothing is kept, and the student is what it was."""
    tutor, size = (linear(), 8) if chained else network()
    student = drawn(1, size)
    buffers = NONE if chained else np.concatenate([np.zeros(8), np.ones(8)]).astype(np.float32)
    before = student.tobytes()
    taught = teach(tutor, student, drawn(2, size), Lesson(2.0, 3, 1e30, 32), buffers=buffers)
    assert (taught.kept, taught.length) == (0.0, 0.0)
    assert taught.kl_after == taught.kl_before
    assert student.tobytes() == before


def test_one_bad_student_does_not_spoil_the_others() -> None:
    """One that cannot be brought nearer stays as it was; the one beside it learns as if alone."""
    size = 8
    spoiled = np.full(size, 3e38, dtype=np.float32)  # its answers are not finite
    students = np.stack([spoiled, drawn(1, size)])
    newest, lesson = Newest(drawn(2, size), NONE, 10), Lesson(2.0, 4, 0.3, 32)
    bad, good = linear().teach(students, [1.0, 1.0], newest, lesson, stream(0, "correction"))
    alone = drawn(1, size)
    assert (bad.kept, bad.length, good) == (
        0.0,
        0.0,
        teach(linear(), alone, drawn(2, size), lesson),
    )
    assert students[0].tobytes() == spoiled.tobytes()
    assert students[1].tobytes() == alone.tobytes()


def test_dropout_is_off() -> None:
    """A lesson draws nothing from torch's own generator."""
    tutor, size = network()
    state = torch.random.get_rng_state()
    buffers = np.concatenate([np.zeros(8), np.ones(8)]).astype(np.float32)
    teach(tutor, drawn(1, size), drawn(2, size), buffers=buffers)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_quality_of_a_teacher() -> None:
    """Guessing, sure of one class alone, 3 to 1 for one, sure of both in turn: by hand."""
    tutor = linear()
    guess = tutor.quality(Newest(np.zeros(8, dtype=np.float32), NONE, 0))
    assert guess == pytest.approx((0, 1), abs=1e-6)
    sure = np.array([0, 0, 0, 0, 0, 0, 30, -30], dtype=np.float32)
    assert tutor.quality(Newest(sure, NONE, 0)) == pytest.approx((1, 0.5))
    odds = np.array([0, 0, 0, 0, 0, 0, np.log(3), 0], dtype=np.float32)
    even = np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)) / 2
    assert tutor.quality(Newest(odds, NONE, 0)) == pytest.approx((0.5, even))
    turns = np.array([1e3, 0, 0, -1e3, 0, 0, 0, 0], dtype=np.float32)  # by the first input's sign
    share = float((_DRAWN[:CHECKED, 0] > 0).mean())
    even = np.exp(-share * np.log(share) - (1 - share) * np.log(1 - share)) / 2
    assert tutor.quality(Newest(turns, NONE, 0)) == pytest.approx((1, even), abs=0.02)


def test_steps_by_curvature_by_hand() -> None:
    """0.002 first; then 1 / L of the change between two gradients; L is a mean over lessons."""
    teacher = drawn(2, 8)

    def gradient(weights: Vector) -> Any:
        error = (probabilities(weights, 2.0) - probabilities(teacher, 2.0)) * 2.0 / 40
        return np.concatenate([(error.T @ INPUTS).ravel(), error.sum(0)])

    student = start = drawn(1, 8).astype(np.float64)
    first = gradient(start)
    moved = -0.002 * first
    second = gradient(start + moved)
    curvature = moved @ (second - first) / (moved @ moved)
    student = start + moved - second / curvature
    taught_student = drawn(1, 8)
    taught = teach(linear(), taught_student, teacher, Lesson(2.0, 2, None, 40))
    assert taught.curvature == pytest.approx(curvature, rel=1e-2)
    np.testing.assert_allclose(taught_student, student, rtol=1e-2, atol=1e-3)
    known = Lesson(2.0, 2, None, 40, curvature=10.0)
    moved = -first / 10
    found = moved @ (gradient(start + moved) - first) / (moved @ moved)
    again = teach(linear(), drawn(1, 8), teacher, known)
    assert again.curvature == pytest.approx(0.9 * 10 + 0.1 * found, rel=1e-2)
    assert teach(linear(), drawn(1, 8), teacher, Lesson(2.0, 2, 0.1, 40)).curvature == 0


# ---------------------------------------------------------------- what sets itself


def amended(policy: StepDistillation, tutor: Recording, **more: Any) -> tuple[Any, float]:
    """Amend a version whose step is (3, 4, 0, ...), 5 long; return what came and how long it is."""
    newest = Newest(drawn(0, 8), NONE, 50)
    step = np.array([3, 4, 0, 0, 0, 0, 0, 0], dtype=np.float32)
    version = making(newest=newest, model=newest.model + step, **more)
    found = policy.amend(version, tutor, RNG)
    lengthened = np.linalg.norm(tutor.students[0] - newest.model) / 5 if tutor.lesson else 1.0
    return found, float(lengthened)


def test_the_stretch_that_sets_itself() -> None:
    """Updates 10 long whose step is 5 long: twice; the gates by hand; never beyond its bounds."""
    policy = StepDistillation()
    for length, quality, even, updates, expected in (
        (10, 1.0, 1.0, 4, 2.0),
        (10, 0.5, 1.0, 4, 2.0),  # sure enough
        (10, 0.25, 1.0, 4, 1.25),
        (10, 0.25, 0.5, 4, 1.125),
        (10, 0.0, 1.0, 4, 1.0),
        (4, 1.0, 1.0, 4, 1.0),  # never shorter
        (100, 1.0, 1.0, 9, 4.0),
        (100, 1.0, 1.0, 1, 2.0),  # 2 sqrt(K)
        (np.nan, 1.0, 1.0, 4, 1.0),  # weights
    ):
        tutor = Recording(quality=quality, even=even)
        signals = Signals(length, 0.5)
        found, stretched = amended(policy, tutor, signals=signals, updates=updates)
        assert stretched == pytest.approx(expected, rel=1e-5)
        assert found.measures["correction_stretch"] == pytest.approx(expected)
        assert found.measures["correction_sure"] == quality
        assert found.measures["correction_even"] == even
        assert found.measures["correction_trust"] == 1.0
    long = StepDistillation(longest=9)
    assert amended(long, Recording(), signals=Signals(40, 0.5), updates=25)[1] == pytest.approx(8)


def test_trust_by_hand() -> None:
    """Full while losses fall; less from a quarter above the lowest mean; then it lets go."""
    policy, memory = StepDistillation(), StepDistillation().start()
    trusts, strengths = [], []
    losses = [1.0, 0.8, 0.6, 0.4, 0.4, 2.0, 2.0, 0.4, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
    weight, total, lowest, expected = 0.0, 0.0, np.inf, []
    for seen, loss in enumerate(losses, 1):
        weight, total = 0.8 * weight + 0.2, 0.8 * total + 0.2 * loss
        lowest = total / weight if seen <= 3 else min(lowest, total / weight)
        expected.append(float(np.clip(1 - (total / weight / lowest - 1.25) / 0.5, 0, 1)))
        tutor = Recording()
        found, _ = amended(policy, tutor, signals=Signals(10, loss), memory=memory)
        memory = found.memory
        trusts.append(found.measures.get("correction_trust", 0.0))
        strengths.append(tutor.strengths[0] if tutor.lesson else 0.0)
    assert trusts == pytest.approx([v if v > 0.02 else 0 for v in expected])
    assert strengths == pytest.approx(trusts)
    assert trusts[:5] == [1] * 5
    assert min(trusts) == 0, "it let go"
    assert trusts[-1] == 1, "and came back"
    nothing, _ = amended(policy, Recording(), signals=Signals(10, np.nan), memory=memory)
    assert nothing.measures["correction_trust"] == 1, "losses that nobody knows do not count"


def test_a_number_does_not_set_itself() -> None:
    """The plain schedule: no gates, no trust, no signals asked for."""
    policy = StepDistillation(stretch=2.5, rate=0.1)
    assert not policy.hears()
    assert StepDistillation().hears()
    tutor = Recording(quality=0.0)
    found, stretched = amended(policy, tutor)
    assert stretched == pytest.approx(2.5)
    assert tutor.lesson == Lesson(2.0, 7, 0.1, 64)
    assert "correction_trust" not in found.measures
    for wrong in (0.5, "often"):
        with pytest.raises(ValidationError, match="stretch"):
            StepDistillation.model_validate({"kind": "step-distillation", "stretch": wrong})


def test_the_curvature_is_remembered() -> None:
    """What a lesson has found is where the next one begins; a fixed rate knows nothing of it."""
    policy, tutor = StepDistillation(), Recording()
    first, _ = amended(policy, tutor, signals=Signals(10, 0.5))
    assert tutor.lesson == Lesson(2.0, 7, None, 64)
    amended(policy, tutor, signals=Signals(10, 0.5), memory=first.memory)
    assert tutor.lesson == Lesson(2.0, 7, None, 64, curvature=8.0)
    fixed = StepDistillation(rate=0.1)
    amended(fixed, tutor, signals=Signals(10, 0.5), memory=first.memory)
    assert tutor.lesson is not None
    assert tutor.lesson.rate == 0.1


def test_signals_by_hand() -> None:
    """Mean length of deltas and mean loss; of weights no length."""
    updates = [late(Dense(np.array([3, 4], dtype=np.float32))).update]
    updates += [replace(updates[0], content=Dense(np.zeros(2, dtype=np.float32)), loss=1.5)]
    assert Signals.of(updates) == Signals(2.5, 1.0)
    weights = Signals.of([replace(updates[0], kind="weights")])
    assert np.isnan(weights.length)
    assert weights.loss == 0.5


# ---------------------------------------------------------------- every update by itself


def late(
    content: Content, *, staleness: int = 2, kind: PayloadKind = "delta", client: int = 0
) -> Contribution:
    address = Address(client, 3)
    update = Update(address, Version(1, 0), kind, content, NONE, 5, 0.5)
    return Contribution(update, staleness, (1 + staleness) ** -0.5)


NEWEST = Newest(drawn(0, 8), NONE, 50)
RNG = stream(0, "correction")


def test_stages_by_hand() -> None:
    """All begin at 0, never fall and come to `strength`; half of a ramp and a ramp by hand."""
    shapes = {
        "saturating": (1 - np.exp(-0.5), 1 - np.exp(-1)),
        "linear": (0.5, 1.0),
        "sigmoid": (0.103071, 0.490843),
    }
    for stage, (half, whole) in shapes.items():
        policy = Distillation(strength=0.5, stage=stage, ramp=100)
        assert policy.at(0) == 0
        assert policy.at(50) == pytest.approx(0.5 * half, rel=1e-4)
        assert policy.at(100) == pytest.approx(0.5 * whole, rel=1e-4)
        grows = [policy.at(updates) for updates in range(0, 3000, 10)]
        assert grows == sorted(grows)
        assert grows[-1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("policy", "batch", "updates"),
    [
        (Distillation(), [late(Dense(drawn(1, 8)))], 0),
        (Distillation(), [late(Dense(drawn(1, 8)), staleness=0)], 50),
        (Distillation(strength=0), [late(Dense(drawn(1, 8)))], 50),
        (NoCorrection(), [late(Dense(drawn(1, 8)))], 50),
        (StepDistillation(), [late(Dense(drawn(1, 8)))], 50),
    ],
)
def test_updates_as_they_came(policy: CorrectionPolicy, batch: Any, updates: int) -> None:
    """At the start, a fresh one, or with a strength of 0: the very same objects."""
    newest = Newest(NEWEST.model, NONE, updates)
    tutor = Recording()
    found = policy.correct(list(batch), newest, tutor, RNG)
    assert found.batch == batch
    assert all(one is other for one, other in zip(found.batch, batch, strict=True))
    assert (found.measures, found.each, tutor.lesson) == ({}, (), None)


def test_replayed_and_whole() -> None:
    """A delta is replayed on the newest model; weights are a model as they stand."""
    tutor, delta, weights = Recording(), Dense(drawn(1, 8)), Dense(drawn(2, 8))
    batch = [late(delta, client=4), late(weights, kind="weights"), late(delta, staleness=0)]
    policy = Distillation(strength=0.5, ramp=0, steps=3, rate=0.2, batch=7, temperature=4)
    found = policy.correct(batch, NEWEST, tutor, RNG)
    np.testing.assert_array_equal(tutor.students, [NEWEST.model + delta.values, weights.values])
    assert (tutor.lesson, tutor.strengths) == (Lesson(4.0, 3, 0.2, 7, fresh=True), [0.5, 0.5])
    np.testing.assert_allclose(found.batch[0].content.values, delta.values + 1, rtol=1e-5)
    np.testing.assert_allclose(found.batch[1].content.values, weights.values + 1, rtol=1e-5)
    assert found.batch[2] is batch[2]
    assert [c.update for c in found.batch] == [c.update for c in batch], "what came is kept"
    figures = {
        "correction_strength": 0.5,
        "correction_kl_before": 0.5,
        "correction_kl_after": 0.25,
        "correction_length": 2.0,
        "correction_kept": 1.0,
    }
    assert found.measures == figures | {"correction_share": 2 / 3}
    assert found.each == [(Address(4, 3), figures), (Address(0, 3), figures)]
    with pytest.raises(RunError, match="distillation has no model to teach"):
        policy.correct(batch, NEWEST, None, RNG)


def test_nothing_kept_is_as_it_came() -> None:
    """If the check fails the update is the one that came, and the log says so."""
    batch = [late(Dense(drawn(1, 8)))]
    found = Distillation(ramp=0).correct(batch, NEWEST, Recording(0.0), RNG)
    assert found.batch[0] is batch[0]
    assert found.measures["correction_kept"] == 0


def test_sparse_updates_keep_their_support() -> None:
    """A correction changes what was sent and nothing else, and never the number of values."""
    places, mask = np.array([1, 4]), Mask(1, np.array([0, 2, 5]))
    sparse = Sparse(places, np.array([0.5, 0.25], dtype=np.float32))
    masked = Masked(mask, np.ones(3, dtype=np.float32))
    tutor = Recording()
    batch = [late(sparse, kind="weights"), late(masked), late(Dense(drawn(1, 8)))]
    found = Distillation(ramp=0).correct(batch, NEWEST, tutor, RNG)
    expected = [[1, 4], [0, 2, 5]]
    assert [np.flatnonzero(where).tolist() for where in tutor.where[:2]] == expected
    assert tutor.where[2] is None
    np.testing.assert_array_equal(tutor.students[0], [0, 0.5, 0, 0, 0.25, 0, 0, 0])
    one, two = found.batch[0].content, found.batch[1].content
    assert isinstance(one, Sparse)
    np.testing.assert_array_equal(one.positions, places)
    np.testing.assert_allclose(one.values, [1.5, 1.25])
    assert isinstance(two, Masked)
    assert two.mask is mask
    np.testing.assert_allclose(two.values, [2, 2, 2], rtol=1e-6)


def test_gates_by_hand() -> None:
    """Quality: how far the teacher is from guessing. Delay: 1 - s(d), so 1/2 at d = 3."""
    batch = [late(Dense(drawn(1, 8)), staleness=3), late(Dense(drawn(1, 8)), staleness=8)]
    for gates, expected in (
        ((), [0.8, 0.8]),
        (("quality",), [0.2, 0.2]),
        (("delay",), [0.4, 0.8 * 2 / 3]),
        (("quality", "delay"), [0.1, 0.2 * 2 / 3]),
    ):
        tutor = Recording(quality=0.25)
        Distillation(strength=0.8, ramp=0, gates=gates).correct(batch, NEWEST, tutor, RNG)
        assert tutor.strengths == pytest.approx(expected)
    tutor = Recording(quality=0.0)
    found = Distillation(gates=("quality",)).correct(batch, NEWEST, tutor, RNG)
    assert (found.batch, tutor.lesson) == (batch, None), "a teacher that guesses teaches nothing"
    with pytest.raises(ValidationError, match="each gate at most once"):
        Distillation(gates=("delay", "delay"))


def test_what_an_update_costs() -> None:
    """5 steps of 64: 3 answers an input, one more for the student's own; 64 are checked twice."""
    policy = Distillation()
    assert policy.rows() == 5 * 64 + 64
    assert policy.flops(1, 10.0) == 10.0 * (4 * 5 * 64 + 2 * 64)
    assert policy.flops(0, 10.0) == 0
    assert Distillation(strength=1).flops(1, 10.0) == 10.0 * (3 * 5 * 64 + 2 * 64)
    assert policy.version_flops(10.0) == 10.0 * 384
    assert not policy.adds()
    assert NoCorrection().adds()
    assert StepDistillation().adds()


def test_the_cache_of_ca2fl_keeps_what_came() -> None:
    """The step is corrected, what is remembered of the client is its own."""
    schema = ModelSchema((TensorSpec("w", (8,)),))
    policy, model = CA2FL(clients=4), np.zeros(8, dtype=np.float32)
    came = Dense(np.ones(8, dtype=np.float32))
    contribution = replace(late(came), corrected=Dense(np.full(8, 3, dtype=np.float32)), weight=1)
    applied = policy.apply(model, policy.start(schema), [contribution], 1)
    np.testing.assert_array_equal(model, np.full(8, 3))
    np.testing.assert_array_equal(applied.memory["values/0"], came.values)
    np.testing.assert_array_equal(applied.memory["sum"], came.values)


# ---------------------------------------------------------------- a client's own update

OWN = Distillation(proxy="client", strength=0.8, ramp=0, steps=3, batch=7)


def own(**more: Any) -> Own:
    given = {"kind": "delta", "weights": drawn(1, 8), "base": drawn(2, 8), "examples": 20}
    return Own(**(given | {"strength": 0.4} | more))


def test_a_client_replays_its_step_or_takes_its_model() -> None:
    """Without a server in it: the same students, and the difference on what it has trained."""
    update = own()
    step = update.weights - update.base
    for kind, student in (("delta", NEWEST.model + step), ("weights", update.weights)):
        tutor = Recording()
        weights, found = OWN.correct_own(replace(update, kind=kind), NEWEST, tutor, RNG)
        np.testing.assert_array_equal(tutor.students, [student])
        np.testing.assert_allclose(weights, update.weights + 1, rtol=1e-5)
        assert (tutor.strengths, tutor.where) == ([0.4], [None])
        assert tutor.lesson == Lesson(2.0, 3, 0.05, 7, fresh=True)
        assert found["correction_strength"] == 0.4
        assert found["correction_kept"] == 1
    assert update.weights.tobytes() == drawn(1, 8).tobytes()


def test_a_client_keeps_what_it_has_trained() -> None:
    """If nothing of the lesson is kept, or its teacher guesses; the lesson is then spared."""
    update, tutor = own(), Recording(0.0)
    weights, found = OWN.correct_own(update, NEWEST, tutor, RNG)
    assert weights is update.weights
    assert found["correction_kept"] == 0
    doubtful = OWN.model_copy(update={"gates": ("quality",)})
    for quality, strengths in ((0.25, [0.1]), (0.0, [])):
        tutor = Recording(quality=quality)
        weights, found = doubtful.correct_own(update, NEWEST, tutor, RNG)
        assert tutor.strengths == pytest.approx(strengths)
        assert bool(found) == bool(strengths)
    assert weights is update.weights


def test_what_is_held_at_zero_is_no_part_of_the_student() -> None:
    """Under a newer mask a step is replayed where parameters live."""
    where, tutor = np.arange(8) < 5, Recording()
    OWN.correct_own(own(where=where), NEWEST, tutor, RNG)
    expected = np.where(where, NEWEST.model + (drawn(1, 8) - drawn(2, 8)), 0)
    np.testing.assert_array_equal(tutor.students, [expected])
    assert tutor.where[0] is where


def test_how_strongly_a_client_corrects() -> None:
    """The stage's lambda, times 1 - s(d); nothing for others, nor for who is on time."""
    gated = OWN.model_copy(update={"gates": ("delay", "quality")})
    assert OWN.own_strength(9, 3, 0.5) == 0.8
    assert gated.own_strength(9, 3, 0.25) == pytest.approx(0.6)
    assert OWN.own_strength(0, 3, 0.5) == OWN.own_strength(9, 0, 1.0) == 0
    for other in (NoCorrection(), StepDistillation(ramp=0), Distillation(ramp=0)):
        assert other.own_strength(9, 3, 0.5) == other.own_flops(20, 10.0) == 0
        assert not other.at_client()
        assert not other.checks(20)
    update = own()
    weights, found = NoCorrection().correct_own(update, NEWEST, Recording(), RNG)
    assert (weights is update.weights, found) == (True, {})


def test_what_a_client_pays() -> None:
    """A quarter of its examples check, 64 at most; the server pays nothing, and need not look."""
    assert [OWN.checks(count) for count in (3, 4, 20, 1000)] == [0, 1, 5, 64]
    assert OWN.own_flops(20, 10.0) == 10.0 * ((4 * 3 * 7 + 2 * 5) + (3 * 7 + 5))
    assert OWN.own_flops(8, 10.0) == 10.0 * ((4 * 3 * 6 + 2 * 2) + (3 * 6 + 2))
    assert (OWN.rows(), OWN.flops(3, 10.0), OWN.version_flops(10.0)) == (0, 0, 0)
    assert OWN.adds()
    assert OWN.elementwise()
    assert OWN.takes("votes")
    tutor, batch = Recording(), [late(Dense(drawn(1, 8)))]
    found = OWN.correct(batch, NEWEST, tutor, RNG)
    assert (found.batch, found.measures, tutor.lesson) == (batch, {}, None)


@pytest.mark.parametrize("rows", [3, 7, 10])
def test_few_inputs_last_for_many_steps(rows: int) -> None:
    """They come again, in no step twice; the check holds though there are only two of them."""
    layers = FlatModel(nn.Sequential(nn.Linear(3, 2)))
    tutor = ModelTutor(layers, _DRAWN[:12], checked=2)
    lesson = Lesson(temperature=2.0, steps=9, rate=0.05, rows=rows, fresh=True)
    student, teacher = drawn(1, 8), drawn(2, 8)
    taught = teach(tutor, student, teacher, lesson)
    assert taught.kl_after < taught.kl_before
    drawn_rows = tutor._drawn(lesson, stream(0, "correction"))
    assert [len(set(step.tolist())) for step in drawn_rows] == [rows] * 9
    one_pass = 10 // rows
    seen = [row for step in drawn_rows[:one_pass] for row in step.tolist()]
    assert len(set(seen)) == len(seen) == one_pass * rows
    with pytest.raises(ValueError, match="larger"):
        teach(tutor, student, teacher, replace(lesson, rows=11))
