"""Do a client's two ends and the encoder learn what the whole model would?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from split_nets import Parts
from torch.nn import functional

from actors.encoder import Encoder, Pass, PassReceipt, Question
from actors.ends import EndsTrainer, Start
from actors.learning.examples import DataShape
from actors.work import Assignment, Work
from policies.memory import Memory
from policies.splitting import Exchange
from policies.splitting.process import batch_sizes
from policies.training import Member, Task
from policies.types import Address, Buffer, Outcome, Reason, Version, stream
from policies.update import Base
from policies.wire import decode

V0 = Version(0, 0)
ADDRESS = Address(3, 2)
NOTHING = np.empty(0, dtype=np.uint8)
SHAPE = DataShape(100, 20, (6,), 4)


def work(model: Parts | None = None, training: dict[str, Any] | None = None, **split: Any) -> Work:
    return Work.model_validate(
        {
            "seed": 5,
            "data": {"source": "digits"},
            "model": model or Parts(),
            "method": {"training": {"kind": "sgd", "lr": 0.1, "batch_size": 8, **(training or {})}},
            "topology": {"kind": "split", "rate": 0.1, **split},
        }
    )


@dataclass
class Talk:
    """Leads clients through all their parts, one at a time, as an engine would."""

    work: Work
    version: Version = V0
    encoder: Encoder = field(init=False)
    weights: list[Buffer] = field(init=False)
    questions: list[Buffer] = field(default_factory=list)
    replies: list[Buffer] = field(default_factory=list)
    receipts: list[PassReceipt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.encoder = Encoder(self.work, SHAPE)
        self.weights = [self.encoder.first_weights()]
        self.model = self.work.build(SHAPE)
        self.ends = EndsTrainer(self.work, self.model, lambda b: self.work.model.ends(SHAPE, b))
        self.first = self.model.params.numpy().copy()

    def start(self) -> Start:
        return Start(Base(self.first, self.model.schema), NOTHING.view(np.float32))

    def train(self, x: torch.Tensor, y: torch.Tensor, cut: int = 0) -> tuple[Any, np.ndarray]:
        base = self.start()
        carry, reply, before, brought, at = NOTHING, NOTHING, NOTHING, Exchange(), 0
        whole = Assignment(ADDRESS, self.version, cut=cut)
        exchanges = self.ends.process(whole, len(y)).exchanges
        for part, exchange in enumerate(exchanges):
            assignment = whole._replace(part=part)
            question, carry = self.ends.ask(assignment, base, self.member(x, y), carry, reply)
            step = sum(bool(e.rows) for e in exchanges[: part + 1]) - 1
            buffers = [self.weights[-1], question, before, self.weights[at]]
            asked = Question(
                ADDRESS, self.version, exchange, step, cut, (1, 0, question.size),
                (2, 0, before.size) if exchange.answered else None, brought, 3,
            )  # fmt: skip
            replies, after, receipt = self.encoder.compute(
                Pass(part, (asked,), version=self.version.number), buffers
            )
            assert receipt.verdicts[0].outcome is Outcome.ACCEPTED
            if exchange.rows:
                before, brought, at = question, exchange, len(self.weights)
            self.weights.append(after)
            reply = replies[slice(*receipt.places[0])]
            self.questions.append(question)
            self.replies.append(reply)
            self.receipts.append(receipt)
        last = whole._replace(part=len(exchanges))
        trained = self.ends.finish(last, base, self.member(x, y), carry, reply)
        return trained, self.model.params.numpy().copy()

    def member(self, x: torch.Tensor, y: torch.Tensor) -> Member:
        return Member(x, y, Task(stream(5, "batches", *ADDRESS)))

    def encoder_weights(self, at: int = -1) -> np.ndarray:
        size = self.encoder._body.schema.parameters
        return self.weights[at][: 4 * size].view(np.float32)


def examples(n: int = 20, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 6)).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(rng.integers(0, 4, n))


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    """Put back the number of threads, which an encoder sets to one."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def whole_training(
    work: Work, x: torch.Tensor, y: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, float]:
    """Train the undivided model on the same batches; return its ends, its encoder and the loss."""
    ends, body = work.build_halves(SHAPE)
    method, split = work.method.training, work.split
    assert split is not None
    velocity = {id(m): torch.zeros_like(m.params) for m in (ends, body)}
    rng, total = stream(5, "batches", *ADDRESS), 0.0
    for count in method.passes(len(y)):
        order = torch.from_numpy(rng.permutation(len(y)))
        for start in range(0, count * method.batch_size, method.batch_size):
            rows = order[start : start + method.batch_size]
            ends.grads.zero_()
            body.grads.zero_()
            shares = torch.bincount(y, minlength=4) / len(y)
            added = method.logit_adjustment * shares.log() if method.logit_adjustment else 0.0
            loss = functional.cross_entropy(ends.module(x[rows]) + added, y[rows])
            loss.backward()
            total += float(loss.detach()) * len(rows)
            for model, lr, by in (
                (ends, method.lr, method.momentum), (body, split.rate, split.momentum),
            ):  # fmt: skip
                speed = velocity[id(model)].mul_(by).add_(model.grads)
                model.params.add_(speed, alpha=-lr)
    return ends.params.numpy(), body.params.numpy(), total / method.examples_seen(len(y))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize("head", ["frozen", "trained"])
@pytest.mark.parametrize("body", ["frozen", "trained", "second"])
def test_exact_is_back_propagation(body: Any, head: Any, cut: int, momentum: float) -> None:
    """All steps through client and encoder equal those of the undivided model."""
    if (body, cut) == ("trained", 1) or (head, body) == ("frozen", "frozen"):
        return  # a trained block cannot run on the device; a frozen one is a case of its own
    x, y = examples()
    settings = work(Parts(head=head, body=body), {"epochs": 2, "momentum": momentum},
                    momentum=momentum)  # fmt: skip
    talk = Talk(settings)
    trained, weights = talk.train(x, y, cut)
    ends, encoder, loss = whole_training(settings, x, y)
    np.testing.assert_allclose(weights, ends, atol=2e-6)
    np.testing.assert_allclose(talk.encoder_weights(), encoder, atol=2e-6)
    assert trained.loss == pytest.approx(loss, rel=1e-5)
    assert np.abs(weights - talk.first).max() > 1e-3


def test_adjusted_logits_are_those_of_the_whole_model() -> None:
    """Two halves learn from adjusted logits what the undivided model does."""
    x, y = examples()
    y = y.clamp(max=2)
    settings = work(Parts(head="trained", body="trained"), {"epochs": 2, "logit_adjustment": 1.0})
    talk = Talk(settings)
    trained, weights = talk.train(x, y)
    ends, encoder, loss = whole_training(settings, x, y)
    np.testing.assert_allclose(weights, ends, atol=2e-6)
    np.testing.assert_allclose(talk.encoder_weights(), encoder, atol=2e-6)
    assert trained.loss == pytest.approx(loss, rel=1e-5)
    plain, _, _ = whole_training(work(Parts(head="trained", body="trained"), {"epochs": 2}), x, y)
    assert np.abs(plain - ends).max() > 1e-3


@pytest.mark.parametrize("kind", ["exact", "forward-difference"])
def test_the_encoders_rate_falls_with_the_version(kind: str) -> None:
    """From 0.1 to 0.001 in ten versions, its steps of version 5 are those of a rate of 0.01."""
    falling = {"rate": 0.1, "rate_final": 0.001, "rate_versions": 10}
    ends = []
    for settings, version in ((falling, 5), ({"rate": 0.01}, 0), ({"rate": 0.1}, 0), (falling, 0)):
        talk = Talk(work(gradient={"kind": kind}, **settings), Version(version, 0))
        talk.train(*examples())
        ends.append(talk.encoder_weights())
        rate = settings["rate"] if version == 0 else 0.01
        told = [receipt.rate for receipt in talk.receipts if receipt.learnt]
        assert told == pytest.approx([rate] * 3)
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-7)
    np.testing.assert_array_equal(ends[2], ends[3])
    assert np.abs(ends[0] - ends[2]).max() > 1e-3


def test_each_part_can_be_done_again() -> None:
    """The same parts give the same bytes in another process's place."""
    x, y = examples()
    first, second = Talk(work()), Talk(work())
    _, weights = first.train(x, y)
    _, again = second.train(x, y)
    assert weights.tobytes() == again.tobytes()
    assert [q.tobytes() for q in first.questions] == [q.tobytes() for q in second.questions]
    assert first.weights[-1].tobytes() == second.weights[-1].tobytes()


@pytest.mark.parametrize("kind", ["forward-difference", "central-difference"])
def test_differences_send_no_gradient(kind: str) -> None:
    """No tensor of a gradient's shape crosses: the answers are q numbers a batch."""
    x, y = examples(16)
    talk = Talk(work(gradient={"kind": kind, "directions": 3}))
    talk.train(x, y)
    exchanges = talk.ends.process(Assignment(ADDRESS, V0), 16).exchanges
    ends = talk.work.model.ends(SHAPE)
    for exchange, question, reply in zip(exchanges, talk.questions, talk.replies, strict=True):
        names = {tensor.name.split(".")[0] for tensor in exchange.question(ends).tensors}
        assert names <= {"smashed", "differences"}
        read = decode(question, exchange.question(ends))
        assert read.buffers.size == exchange.scalars
        if exchange.returns:
            assert {t.name.split(".")[0] for t in exchange.reply(ends).tensors} == {"features"}
            assert decode(reply, exchange.reply(ends)).content.nonzeros == 3 * 8 * (
                exchange.copies + exchange.moves
            )
    assert [e.scalars for e in exchanges] == [0, 3, 3]


@pytest.mark.parametrize("kind", ["forward-difference", "central-difference"])
def test_estimates_tend_to_the_gradient(kind: str) -> None:
    """With many directions the encoder's step is the exact one's, up to the noise of the mean."""
    x, y = examples(8)
    model = Parts(head="frozen", body="second")
    exact = Talk(work(model))
    exact.train(x, y)
    step = exact.encoder_weights() - exact.encoder_weights(0)
    talk = Talk(work(model, gradient={"kind": kind, "directions": 5000, "step": 1e-2}))
    talk.train(x, y)
    found = talk.encoder_weights() - talk.encoder_weights(0)
    size = step.size
    apart = np.linalg.norm(found - step) / np.linalg.norm(step)
    assert apart < 3 * np.sqrt(size / 5000) + 0.02
    assert np.linalg.norm(step) > 1e-3


@pytest.mark.parametrize("head", ["input", "parameters"])
@pytest.mark.parametrize("kind", ["forward-difference", "central-difference"])
def test_heads_learn_without_a_backward_pass(kind: str, head: str) -> None:
    """With many directions a head's step is the exact one's, up to the noise of the mean."""
    x, y = examples(8)
    exact = Talk(work(Parts(body="frozen")))
    _, weights = exact.train(x, y)
    count = 5 * 6 + 5
    step = (weights - exact.first)[:count]
    gradient = {"kind": kind, "head": head, "head_directions": 2000, "step": 1e-2}
    talk = Talk(work(Parts(body="frozen"), gradient=gradient, batch=10_000))
    _, found = talk.train(x, y)
    apart = np.linalg.norm((found - talk.first)[:count] - step) / np.linalg.norm(step)
    assert apart < 0.4
    np.testing.assert_allclose(found[count:], weights[count:], atol=1e-6)


def test_lossy_activations_are_what_both_sides_use() -> None:
    """Half precision and the largest tenth are cheaper, and training still goes on."""
    x, y = examples(32)
    sizes = {}
    for name, how in {
        "fp32": {},
        "fp16": {"kind": "dense", "values": "fp16"},
        "bf16": {"kind": "dense", "values": "bf16"},
        "top-k": {"kind": "top-k", "density": 0.2},
    }.items():
        talk = Talk(work(activations=how) if how else work())
        trained, weights = talk.train(x, y)
        assert np.isfinite(weights).all()
        assert 0 < trained.loss < 3
        sizes[name] = sum(q.size for q in talk.questions)
    assert sizes["fp32"] > sizes["fp16"] == sizes["bf16"]
    assert sizes["fp32"] > sizes["top-k"]


def test_noise_changes_what_is_sent() -> None:
    """Noise is added to activations alone, the same for the same seed."""
    x, y = examples(8)
    plain, noisy, again = Talk(work()), Talk(work(noise=0.5)), Talk(work(noise=0.5))
    for talk in (plain, noisy, again):
        talk.train(x, y)
    ends, exchange = plain.work.model.ends(SHAPE), Exchange(8, returns="features")
    sent = [decode(t.questions[0], exchange.question(ends)).content.values for t in
            (plain, noisy, again)]  # fmt: skip
    assert 0.3 < np.std(sent[1] - sent[0]) < 0.7
    assert (sent[1] == sent[2]).all()


def test_several_clients_in_one_pass() -> None:
    """A pass over several questions steps along the mean of their gradients."""
    talk = Talk(work(Parts(head="frozen", body="second")))
    model, ends = talk.work.model, talk.work.model.ends(SHAPE)
    del model
    asked, alone = [], []
    buffers = [talk.weights[0]]
    for client in range(3):
        x, y = examples(8, seed=client)
        base = Start(Base(talk.first, talk.model.schema), NOTHING.view(np.float32))
        member = Member(x, y, Task(stream(5, "batches", *ADDRESS)))
        question, carry = talk.ends.ask(Assignment(ADDRESS, V0), base, member, NOTHING, NOTHING)
        exchange = Exchange(8, returns="features")
        one = Question(ADDRESS, V0, exchange, 0, 0, (1, 0, question.size))
        replies, _, receipt = talk.encoder.compute(Pass(0, (one,)), [talk.weights[0], question])
        reply = replies[slice(*receipt.places[0])]
        answer, _ = talk.ends.ask(Assignment(ADDRESS, V0, part=1), base, member, carry, reply)
        at = len(buffers)
        buffers += [question, answer]
        asked.append(
            Question(
                ADDRESS, V0, Exchange(answered=8), 0, 0, (at + 1, 0, answer.size),
                (at, 0, question.size), exchange, 0,
            )
        )  # fmt: skip
        _, after, _ = talk.encoder.compute(Pass(1, (asked[-1],)), buffers)
        alone.append(after.view(np.float32) - talk.weights[0].view(np.float32))
    _, after, receipt = talk.encoder.compute(Pass(1, tuple(asked)), buffers)
    together = after.view(np.float32) - talk.weights[0].view(np.float32)
    assert receipt.learnt == 3
    assert ends.encoder_trained
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-6)
    ignored = tuple(question._replace(counts=False) for question in asked)
    _, after, receipt = talk.encoder.compute(Pass(1, ignored), buffers)
    assert (receipt.learnt, after.tobytes()) == (0, talk.weights[0].tobytes())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda q: q[: q.size // 2], Reason.CHECKSUM),
        (lambda q: np.concatenate([q[:8], q[8:9] ^ 1, q[9:]]), Reason.CHECKSUM),
        (lambda q: q[:4], Reason.TRUNCATED),
    ],
)
def test_a_spoilt_question_is_refused_alone(spoil: Any, reason: Reason) -> None:
    """What cannot be read gets no reply; its neighbour gets the one it would get alone."""
    talk = Talk(work())
    x, y = examples(8)
    base = Start(Base(talk.first, talk.model.schema), NOTHING.view(np.float32))
    member = talk.member(x, y)
    question, _ = talk.ends.ask(Assignment(ADDRESS, V0), base, member, NOTHING, NOTHING)
    bad = spoil(question)
    exchange = Exchange(8, returns="features")
    good = Question(ADDRESS, V0, exchange, 0, 0, (1, 0, question.size))
    spoilt = good._replace(at=(2, 0, bad.size))
    alone, _, _ = talk.encoder.compute(Pass(0, (good,)), [talk.weights[0], question])
    replies, _, receipt = talk.encoder.compute(
        Pass(0, (spoilt, good)), [talk.weights[0], question, bad]
    )
    assert receipt.verdicts[0].reason is reason
    assert receipt.places[0][0] == receipt.places[0][1]
    assert replies[slice(*receipt.places[1])].tobytes() == alone.tobytes()[: _size(receipt)]


def _size(receipt: PassReceipt) -> int:
    start, stop = receipt.places[1]
    return stop - start


def test_features_are_asked_for_once() -> None:
    """With nothing but the tail to train there is one question for all examples, then none."""
    talk = Talk(work(Parts(head="frozen", body="frozen")))
    assignment = Assignment(ADDRESS, V0)
    assert talk.ends.caches
    assert talk.ends.process(assignment, 30).exchanges == (Exchange(30, returns="features"),)
    assert talk.ends.process(assignment._replace(known=True), 30).exchanges == ()


def test_all_of_the_encoder_on_the_device_asks_nothing() -> None:
    """Features are then the device's own work, once; they are those that it would be sent."""
    talk = Talk(work(Parts(head="frozen", body="frozen"), batch=7))
    assignment = Assignment(ADDRESS, V0, cut=3)
    first, later = (talk.ends.process(assignment._replace(known=k), 30) for k in (False, True))
    assert first.exchanges == later.exchanges == ()
    forward = talk.work.model.forward_flops(SHAPE)
    tail = talk.work.method.training.flops(30, first.ends.tail_flops)
    assert later.all_flops == tail
    assert first.all_flops == tail + 30 * (forward - first.ends.tail_flops)
    assert (first.embeds, later.embeds) == (True, False)
    x, y = examples(30)
    asked = talk.ends.ask(
        Assignment(ADDRESS, V0), talk.start(), talk.member(x, y), NOTHING, NOTHING
    )
    question = Question(ADDRESS, V0, Exchange(30, returns="features"), 0, 0,
                        (1, 0, asked.question.size))  # fmt: skip
    replies, _, _ = talk.encoder.compute(Pass(0, (question,)), [talk.weights[0], asked.question])
    sent = talk.ends.features(Assignment(ADDRESS, V0), 30, replies)
    own = talk.ends.own_features(x)
    assert torch.equal(talk.ends.features(assignment, 30, replies), sent)
    np.testing.assert_allclose(own, sent, atol=1e-6)
    assert own.std() > 0.01
    trained = Talk(work(Parts(body="frozen"))).ends.process(assignment, 30)
    assert trained.exchanges == ()
    assert trained.all_flops == talk.work.method.training.flops(30, forward)


def test_work_of_parts_adds_up() -> None:
    """The device's FLOPs over all parts are three forward passes of what it trains, each batch."""
    for head, forward in (("trained", True), ("frozen", False)):
        settings = work(Parts(head=head))
        ends = settings.model.ends(SHAPE)
        talk = Talk(settings)
        process = talk.ends.process(Assignment(ADDRESS, V0), 20)
        total = sum(process.device_flops(part) for part in range(len(process.exchanges) + 1))
        assert batch_sizes(settings.method.training, 20) == [8, 8, 4]
        assert total == 20 * (3 * ends.tail_flops + (3 if forward else 1) * ends.head_flops)


def test_memory_by_hand() -> None:
    """Weights, what a batch leaves and its longest message; or what is asked and kept of all."""

    def memory(model: Parts, n: int, cut: int = 0, **split: Any) -> Memory:
        talk = Talk(work(model, **split))
        return talk.ends.process(Assignment(ADDRESS, V0, cut=cut), n).memory

    head, tail, inputs = (6 + 1) * 5, (3 + 1) * 4, 6 + 5
    both = memory(Parts(), 20)
    assert both == Memory(head + tail, 4 * inputs + 4 * 5)
    assert both.bytes(8) == 16 * (head + tail) + 8 * 4 * (inputs + 5)
    told = memory(Parts(head="frozen"), 20)
    assert told == Memory(tail, 4 * inputs + 4 * (5 + 3), head), "the next batch and dL/dz"
    moved = {"kind": "central-difference", "directions": 2, "head_directions": 3}
    assert memory(Parts(), 20, gradient=moved).each == 4 * inputs + 4 * max(7 * 5, 11 * 3)
    frozen = Parts(head="frozen", body="frozen")
    cached = memory(frozen, 20)
    assert cached == Memory(tail, 4 * inputs, head, kept=4 * 20 * 3, once=4 * 20 * 5)
    assert cached.bytes(1) == 16 * tail + 4 * head + 4 * 20 * 5, "activations of all at once"
    assert cached.bytes(8) == 16 * tail + 4 * head + 4 * 20 * 3 + 8 * 4 * inputs
    whole = memory(frozen, 20, cut=3)
    assert (whole.kept, whole.once) == (4 * 20 * 3, 0)


@pytest.mark.parametrize(("needs", "most"), [
    (Memory(10, 7), (1000 - 160) // 7), (Memory(10, 7, 20), (1000 - 240) // 7),
    (Memory(10, 7, kept=300), (1000 - 460) // 7), (Memory(10, 7, once=840), 120),
    (Memory(10, 7, once=841), 0), (Memory(63, 7), 0), (Memory(10, 0), 500), (Memory(10, 1), 500),
])  # fmt: skip
def test_the_largest_batch_that_a_memory_holds(needs: Memory, most: int) -> None:
    """It fits, the next one does not, and no more is taken than is asked."""
    assert needs.most(1000, 500) == most
    if 0 < most < 500:
        assert needs.bytes(most) <= 1000 < needs.bytes(most + 1)


def test_a_model_that_has_moved_is_still_one_vector() -> None:
    """After a move between devices every parameter and gradient is a view again."""
    _, body = work().build_halves(SHAPE)
    before = body.params.clone()
    body.to(torch.device("cpu"))
    assert torch.equal(body.params, before)
    body.params.add_(1.0)
    first = next(body.module.parameters())
    assert torch.equal(first.flatten(), before[: first.numel()] + 1.0)
    body.module(torch.zeros(2, 5)).sum().backward()
    assert body.grads.abs().sum() > 0


def test_nothing_of_the_examples_is_sent_as_it_is() -> None:
    """A question holds activations and answers: neither inputs nor labels are among its numbers."""
    x, y = examples(16)
    talk = Talk(work(gradient={"kind": "forward-difference", "directions": 2}))
    talk.train(x, y)
    exact = Talk(work())
    exact.train(x, y)
    for one in (talk, exact):
        exchanges = one.ends.process(Assignment(ADDRESS, V0), 16).exchanges
        ends = one.work.model.ends(SHAPE)
        for exchange, question in zip(exchanges, one.questions, strict=True):
            names = {t.name.split(".")[0] for t in exchange.question(ends).tensors}
            assert names <= {"smashed", "gradient", "differences"}
            read = decode(question, exchange.question(ends))
            sent = np.concatenate([read.content.values, read.buffers])
            assert not np.isin(x.numpy(), sent).any()
            assert not any(np.array_equal(sent[i : i + 8], y.numpy()[:8]) for i in range(sent.size))
