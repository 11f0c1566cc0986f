"""Do local steps do what torch's own optimiser does, on flat vectors?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.nn import functional

from policies.training import Proximal, Sgd, SparsyFed, Task, Training, TrainingPolicy
from policies.training.flat_torch import FlatModel
from policies.types import stream

ADAPTER: TypeAdapter[TrainingPolicy] = TypeAdapter(Training)
MEMBERS = get_args(get_args(Training)[0])
SAMPLES: dict[type[TrainingPolicy], list[TrainingPolicy]] = {
    Sgd: [Sgd(), Sgd(lr=0.1, momentum=0.9, weight_decay=0.01, batch_size=3)],
    Proximal: [Proximal(), Proximal(mu=0.5, epochs=2), Proximal(mu=0)],
    SparsyFed: [
        SparsyFed(),
        SparsyFed(beta=2, momentum=0.5, weight_decay=0.01),
        SparsyFed(beta=1, prune_activations=False),
    ],
}
EVERY_SAMPLE = [sample for samples in SAMPLES.values() for sample in samples]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Compute as workers do; threads for ten examples only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def net(*, norm: bool = False) -> nn.Sequential:
    """Return a small net, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        middle: list[nn.Module] = [nn.BatchNorm1d(5)] if norm else []
        return nn.Sequential(nn.Linear(4, 5), *middle, nn.ReLU(), nn.Linear(5, 3))


def made(policy: TrainingPolicy, *, norm: bool = False) -> FlatModel:
    """Return the small net as the policy wants it, always the same."""
    module = net(norm=norm)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        policy.prepare(module)
    return FlatModel(module)


def batches(
    seed: int = 0, name: str = "b", after_step: Callable[[int], None] | None = None
) -> Task:
    """Return a task with nothing but an order of the examples."""
    return Task(stream(seed, name), after_step=after_step)


def examples(n: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    rng = stream(0, "test-examples")
    x = torch.from_numpy(rng.standard_normal((n, 4), dtype=np.float32))
    return x, torch.from_numpy(rng.integers(3, size=n))


def flat(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def by_torch(policy: TrainingPolicy, mu: float = 0.0) -> list[torch.Tensor]:
    """Train with torch's own optimiser and an explicit proximal loss; return every step."""
    module, (x, y), rng = net(), examples(), stream(1, "batches")
    start = [p.detach().clone() for p in module.parameters()]
    optimiser = torch.optim.SGD(
        module.parameters(),
        lr=policy.lr,
        momentum=policy.momentum,
        weight_decay=policy.weight_decay,
    )
    steps = []
    for _ in range(policy.epochs):
        order = torch.from_numpy(rng.permutation(len(y)))
        for rows in order.split(policy.batch_size):
            optimiser.zero_grad()
            pairs = zip(module.parameters(), start, strict=True)
            distance = torch.stack([((p - p0) ** 2).sum() for p, p0 in pairs]).sum()
            shares = torch.tensor([float((y == label).float().mean()) for label in range(3)])
            logits = module(x[rows]) + policy.logit_adjustment * shares.log()
            loss = functional.cross_entropy(logits, y[rows]) + mu / 2 * distance
            loss.backward()
            optimiser.step()
            steps.append(flat(module))
    return steps


def by_us(policy: TrainingPolicy) -> list[torch.Tensor]:
    """Train with the policy; return every step."""
    model, (x, y) = FlatModel(net()), examples()
    steps: list[torch.Tensor] = []
    note = batches(1, "batches", lambda _: steps.append(model.params.clone()))
    policy.train(model, x, y, note)
    return steps


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == len(theirs)
    for step, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-7, msg=f"step {step}")


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("batch_size", [4, 10, 64])
def test_sgd_is_torchs(momentum: float, weight_decay: float, batch_size: int) -> None:
    """Every step of three epochs is torch's, a short last batch included."""
    policy = Sgd(
        lr=0.2, momentum=momentum, weight_decay=weight_decay, batch_size=batch_size, epochs=3
    )
    same(by_us(policy), by_torch(policy))


def test_logits_are_adjusted_as_torch_would() -> None:
    """Every step is that of the loss with tau log(share) written out, and not the plain one's."""
    policy = Sgd(lr=0.2, logit_adjustment=1.5, batch_size=4, epochs=3)
    theirs = by_torch(policy)
    same(by_us(policy), theirs)
    without = by_torch(Sgd(lr=0.2, batch_size=4, epochs=3))
    assert not torch.allclose(theirs[-1], without[-1], atol=1e-3)


@pytest.mark.parametrize("norm", [False, True])
def test_nothing_is_learnt_of_a_class_that_a_client_lacks(norm: bool) -> None:
    """Its weights and bias stay to the bit, in both ways of training, and the loss is a number."""
    policy = Sgd(lr=0.2, logit_adjustment=1, batch_size=4, epochs=3)
    model, (x, y) = FlatModel(net(norm=norm)), examples()
    assert (model.chain is None) == norm
    before = [p.detach().clone() for p in list(model.module.parameters())[-2:]]
    trained = policy.train(model, x, y % 2, batches())
    assert np.isfinite(trained.loss)
    for now, was in zip(list(model.module.parameters())[-2:], before, strict=True):
        assert torch.equal(now[2], was[2])
        assert not torch.equal(now[0], was[0])


def test_one_class_alone_has_nothing_to_learn() -> None:
    """All of a client's examples are of one class: the loss is 0, and nothing moves."""
    policy = Sgd(lr=0.2, logit_adjustment=1, batch_size=4)
    model, (x, y) = FlatModel(net()), examples()
    before = model.params.clone()
    assert policy.train(model, x, torch.full_like(y, 1), batches()).loss == 0
    assert torch.equal(model.params, before)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_proximal_is_the_gradient_of_its_loss(momentum: float, weight_decay: float) -> None:
    """Every step is that of torch on the loss with mu / 2 ||w - w_base||^2 written out."""
    policy = Proximal(
        mu=1.5, lr=0.2, momentum=momentum, weight_decay=weight_decay, batch_size=4, epochs=3
    )
    theirs = by_torch(policy, mu=1.5)
    same(by_us(policy), theirs)
    without = by_torch(policy)
    assert not torch.allclose(theirs[-1], without[-1], atol=1e-3)


def held(policy: TrainingPolicy) -> list[float]:
    """Train one weight of 1 on inputs of 0, where the loss pulls nowhere; return its steps."""
    model = FlatModel(nn.Linear(1, 2, bias=False))
    model.load(np.ones(2, dtype=np.float32), np.empty(0, dtype=np.float32))
    steps: list[float] = []
    x, y = torch.zeros(2, 1), torch.tensor([0, 1])
    policy.train(model, x, y, batches(after_step=lambda _: steps.append(float(model.params[0]))))
    return steps


def test_proximal_by_hand() -> None:
    """Decay takes 1 to 1 - 0.5 x 0.2 = 0.9; then 0.9 - 0.5 (0.2 x 0.9 + 1 x (0.9 - 1)) = 0.86."""
    steps = held(Proximal(mu=1, lr=0.5, weight_decay=0.2, batch_size=1))
    assert steps == pytest.approx([0.9, 0.86], rel=1e-6)


def test_momentum_by_hand() -> None:
    """The same with momentum 0.5: m is 0.2, then 0.1 + 0.18 - 0.1 = 0.18: 0.9, then 0.81."""
    steps = held(Proximal(mu=1, lr=0.5, weight_decay=0.2, momentum=0.5, batch_size=1))
    assert steps == pytest.approx([0.9, 0.81], rel=1e-6)


def test_proximal_of_zero_is_sgd() -> None:
    """With mu = 0 the bits are those of the plain method."""
    ours = [by_us(policy)[-1] for policy in (Proximal(mu=0, epochs=2), Sgd(epochs=2))]
    assert torch.equal(*ours)


def test_steps_are_counted() -> None:
    """10 examples in batches of 4 over 2 epochs are 6 steps, told from 1."""
    model, (x, y) = FlatModel(net()), examples()
    told: list[int] = []
    Sgd(batch_size=4, epochs=2).train(model, x, y, batches(after_step=told.append))
    assert told == [1, 2, 3, 4, 5, 6]


def test_gradients_stay_views() -> None:
    """After every step each parameter's gradient is still its piece of the flat one, and full."""
    model, (x, y) = FlatModel(net(norm=True)), examples()
    grads = [p.grad for p in model.module.parameters()]

    def look(_: int) -> None:
        for parameter, grad in zip(model.module.parameters(), grads, strict=True):
            assert parameter.grad is grad
        assert torch.equal(torch.cat([g.flatten() for g in grads if g is not None]), model.grads)
        assert model.grads.count_nonzero() > 10

    Sgd(batch_size=4).train(model, x, y, batches(after_step=look))


# ---------------------------------------------------------------- how long, how fast


@pytest.mark.parametrize(
    ("version", "rate"), [(0, 0.5), (5, 0.05), (10, 0.005), (1, 0.5 * 0.01**0.1), (99, 0.005)]
)
def test_rate_falls_exponentially(version: int, rate: float) -> None:
    """From 0.5 to 0.005 over 10 versions it is 0.05 half way, and stays where it arrives."""
    policy = Sgd(lr=0.5, lr_final=0.005, lr_versions=10)
    assert policy.rate(version) == pytest.approx(rate, rel=1e-12)


def test_rate_stays_or_grows() -> None:
    """Without a final rate it is `lr`; a larger final rate warms up."""
    assert [Sgd(lr=0.3).rate(version) for version in (0, 7, 10**6)] == [0.3] * 3
    warm = Sgd(lr=0.01, lr_final=0.04, lr_versions=2)
    assert [warm.rate(version) for version in (0, 1, 2)] == pytest.approx([0.01, 0.02, 0.04])


def test_training_uses_the_rate() -> None:
    """At version 5 the steps are those of a policy with that version's rate."""
    model, (x, y) = FlatModel(net()), examples()
    start = model.params.numpy().copy()
    falling = Sgd(lr=0.5, lr_final=0.005, lr_versions=10)
    ends = []
    for policy, version in ((falling, 5), (Sgd(lr=falling.rate(5)), 0), (falling, 0)):
        model.load(start, np.empty(0, dtype=np.float32))
        policy.train(model, x, y, Task(stream(1, "b"), version=version))
        ends.append(model.params.clone())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def rows_of(policy: TrainingPolicy, n: int) -> list[list[int]]:
    """Return which examples each step looks at; an example's input is its number."""
    seen: list[list[int]] = []

    class Look(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append([int(row) for row in x[:, 0]])
            return super().forward(x)

    x, y = torch.arange(float(n)).unsqueeze(1), torch.zeros(n, dtype=torch.int64)
    trained = policy.train(FlatModel(Look(1, 2)), x, y, batches())
    assert trained.examples == len({row for rows in seen for row in rows})
    assert policy.examples_seen(n) == sum(map(len, seen))
    assert policy.flops(n, 10.0) == 30 * sum(map(len, seen))
    return seen


@pytest.mark.parametrize(
    ("steps", "sizes"),
    [
        (1, [4]),
        (2, [4, 4]),
        (3, [4, 4, 2]),
        (4, [4, 4, 2, 4]),
        (6, [4, 4, 2, 4, 4, 2]),
        (8, [4, 4, 2, 4, 4, 2, 4, 4]),
    ],
)
def test_so_many_steps(steps: int, sizes: list[int]) -> None:
    """10 examples in batches of 4: passes as epochs have them, cut off after so many batches."""
    rows = rows_of(Sgd(steps=steps, batch_size=4, epochs=7), 10)
    assert [len(batch) for batch in rows] == sizes
    assert rows == rows_of(Sgd(batch_size=4, epochs=3), 10)[:steps]


def test_every_pass_is_shuffled_afresh() -> None:
    """Each pass looks at every example once, in another order than the one before."""
    first, second = rows_of(Sgd(steps=2, batch_size=64), 30)
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second


def test_loss_of_few_steps() -> None:
    """The mean is over the examples seen: of 10 in batches of 4, steps that hardly move see 4."""
    model, (x, y) = FlatModel(net()), examples()
    rows = torch.from_numpy(batches().rng.permutation(10))[:4]
    mean = functional.cross_entropy(model.module(x[rows]), y[rows]).item()
    trained = Sgd(lr=1e-12, steps=1, batch_size=4).train(model, x, y, batches())
    assert trained.loss == pytest.approx(mean, rel=1e-6)
    assert trained.examples == 4


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_nothing_moves_outside_the_mask(momentum: float, weight_decay: float, mu: float) -> None:
    """Values outside keep their bits, whatever else pulls; every value inside moves."""
    policy = Proximal(mu=mu, momentum=momentum, weight_decay=weight_decay, epochs=3, batch_size=3)
    model, (x, y) = FlatModel(net()), examples()
    before = model.params.clone()
    mask = torch.from_numpy(stream(0, "mask").integers(2, size=before.numel())).float()
    policy.train(model, x, y, Task(stream(0, "b"), mask=mask))
    assert 10 < mask.sum() < 40
    assert torch.equal(model.params[mask == 0], before[mask == 0])
    assert not (model.params == before)[mask == 1].any()


def test_a_masked_step_by_hand() -> None:
    """Under a mask the first step is the free one inside and none outside."""
    ends, (x, y) = [], examples()
    mask = torch.arange(43) % 2
    policy = Sgd(steps=1, weight_decay=0.1, momentum=0.9)
    for given in (None, mask.float(), torch.ones(43)):
        model = FlatModel(net())
        policy.train(model, x, y, Task(stream(0, "b"), mask=given))
        ends.append(model.params.clone())
    free, masked, whole = ends
    assert torch.equal(free, whole)
    assert torch.equal(masked, torch.where(mask == 1, free, flat(net())))


# ---------------------------------------------------------------- what every member must do


def test_every_member_has_a_sample() -> None:
    """A new member of the family cannot escape the contract below."""
    assert set(MEMBERS) == set(SAMPLES)


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_contract(policy: TrainingPolicy) -> None:
    """Equal streams give equal bits, others give others; inputs and grad mode stay."""
    ends, (x, y) = [], examples(12)
    was = (x.clone(), y.clone())
    policy = policy.model_copy(update={"batch_size": 5, "epochs": 2})
    for name in ("a", "a", "b"):
        model = made(policy, norm=True)
        trained = policy.train(model, x, y, batches(0, name))
        ends.append(model.params.clone())
        assert trained.examples == 12
        assert 0 < trained.loss < 5
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    assert torch.equal(x, was[0])
    assert torch.equal(y, was[1])


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_it_learns(policy: TrainingPolicy) -> None:
    """Thirty epochs of small batches take a tenth off the loss on ten examples."""
    model, (x, y) = made(policy), examples()
    long = policy.model_copy(update={"epochs": 30, "batch_size": 2, "lr": 0.1})
    first = functional.cross_entropy(model.module(x), y)
    long.train(model, x, y, batches(0, "learn"))
    assert functional.cross_entropy(model.module(x), y) < 0.9 * first


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_zeros_absorb_where_it_says_so(policy: TrainingPolicy) -> None:
    """Prunable zeros stay through momentum and decay, or some leave; the rest of them moves."""
    model, (x, y) = made(policy), examples()
    prunable = torch.from_numpy(model.schema.prunable)
    zeros = prunable & torch.from_numpy(stream(0, "zeros").random(prunable.numel()) < 0.5)
    model.params[zeros] = 0
    before = model.params.clone()
    strong = {"epochs": 3, "batch_size": 3, "momentum": 0.9, "weight_decay": 0.1}
    policy.model_copy(update=strong).train(model, x, y, batches())
    assert zeros.sum() > 5
    assert bool((model.params[zeros] == 0).all()) is policy.zeros_absorb
    assert (model.params != before)[prunable & ~zeros].sum() > 5


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_a_mask_holds_every_member(policy: TrainingPolicy) -> None:
    """Where the mask is 0 nothing moves."""
    model, (x, y) = made(policy), examples()
    before, mask = model.params.clone(), (torch.arange(43) % 3 == 0).float()
    policy.train(model, x, y, Task(stream(0, "b"), mask=mask))
    assert torch.equal(model.params[mask == 0], before[mask == 0])


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_written_back(policy: TrainingPolicy) -> None:
    """What is written of a member makes an equal one."""
    assert ADAPTER.validate_json(ADAPTER.dump_json(policy)) == policy


# ---------------------------------------------------------------- figures


def test_loss_counts_examples() -> None:
    """With steps too small to matter it is the mean over examples, not over batches."""
    model, (x, y) = FlatModel(net()), examples()
    mean = functional.cross_entropy(model.module(x), y).item()
    for epochs in (1, 3):
        policy = Sgd(lr=1e-12, batch_size=9, epochs=epochs)
        assert policy.train(model, x, y, batches(0, "l")).loss == pytest.approx(mean, rel=1e-6)


def test_loss_by_hand() -> None:
    """Two classes that look alike cost ln 2; the proximal term is no part of the report."""
    model = FlatModel(nn.Linear(1, 2, bias=False))
    model.load(np.ones(2, dtype=np.float32), np.empty(0, dtype=np.float32))
    x, y = torch.zeros(3, 1), torch.tensor([0, 1, 1])
    policy = Proximal(mu=9, weight_decay=0.1, epochs=2, batch_size=1)
    assert policy.train(model, x, y, batches()).loss == pytest.approx(log(2), rel=1e-6)


def test_flops() -> None:
    """Forward and twice that backward: 3 x 1000 x 20 examples x 2 epochs."""
    assert Sgd(epochs=2).flops(20, 1000.0) == 120_000


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"kind": "sgd", "lr": 0}, "lr"),
        ({"kind": "sgd", "momentum": 1}, "less than 1"),
        ({"kind": "sgd", "weight_decay": -1}, "weight_decay"),
        ({"kind": "sgd", "mu": 1}, "Extra inputs"),
        ({"kind": "proximal", "mu": -1}, "mu"),
        ({"kind": "proximal", "batch_size": 0}, "batch_size"),
        ({"kind": "sgd", "steps": 0}, "steps"),
        ({"kind": "sgd", "lr_final": 0}, "lr_final"),
        ({"kind": "sgd", "lr_versions": 0}, "lr_versions"),
        ({"kind": "sparsyfed", "beta": 0.99}, "greater than or equal to 1"),
        ({"kind": "sparsyfed", "beta": float("inf")}, "finite"),
    ],
)
def test_refused(settings: dict[str, object], complaint: str) -> None:
    """Settings that cannot train are mistakes."""
    with pytest.raises(ValidationError, match=complaint):
        ADAPTER.validate_python(settings)


# ---------------------------------------------------------------- the flat model


def test_schema_names_parameters_then_buffers() -> None:
    """Parameters come in the module's order, running statistics after them, counters nowhere."""
    schema = FlatModel(net(norm=True)).schema
    assert [(t.name, t.shape, t.buffer) for t in schema.tensors] == [
        ("0.weight", (5, 4), False),
        ("0.bias", (5,), False),
        ("1.weight", (5,), False),
        ("1.bias", (5,), False),
        ("3.weight", (3, 5), False),
        ("3.bias", (3,), False),
        ("1.running_mean", (5,), True),
        ("1.running_var", (5,), True),
    ]


@pytest.mark.parametrize(
    ("module", "prunable"),
    [
        (nn.Linear(3, 2), ["weight"]),
        (nn.Conv1d(3, 2, 3), ["weight"]),
        (nn.Conv2d(4, 4, 3, groups=2), ["weight"]),
        (nn.Conv3d(1, 1, 1, bias=False), ["weight"]),
        (nn.ConvTranspose2d(2, 3, 2), ["weight"]),
        (nn.MultiheadAttention(4, 2), ["in_proj_weight", "out_proj.weight"]),
        (
            nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
            ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
        ),
        (
            nn.TransformerEncoderLayer(4, 2, 8),
            [
                "self_attn.in_proj_weight",
                "self_attn.out_proj.weight",
                "linear1.weight",
                "linear2.weight",
            ],
        ),
        (nn.Embedding(5, 2), []),
        (nn.Sequential(nn.BatchNorm1d(2), nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.PReLU()), []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_weights_of_layers_are_prunable(module: nn.Module, prunable: list[str]) -> None:
    """Weights of linear layers, convolutions and attention are; no bias, norm or embedding is."""
    schema = FlatModel(module).schema
    assert [t.name for t in schema.tensors if t.prunable] == prunable
    assert schema.prunable.sum() == sum(t.size for t in schema.tensors if t.prunable)


def test_frozen_parameters_are_no_part() -> None:
    """A parameter that is not trained is left out and left alone."""
    module = net()
    module[0].weight.requires_grad = False
    before = module[0].weight.clone()
    model = FlatModel(module)
    assert [t.name for t in model.schema.tensors] == ["0.bias", "2.weight", "2.bias"]
    Sgd().train(model, *examples(), batches())
    assert torch.equal(module[0].weight, before)


def test_making_it_keeps_the_values() -> None:
    """The module's own first values stand in the flat vectors."""
    module = net(norm=True)
    values = flat(module)
    model = FlatModel(module)
    assert torch.equal(model.params, values)
    assert model.buffers.tolist() == [0.0] * 5 + [1.0] * 5


def test_vectors_and_module_share_memory() -> None:
    """What is written into a flat vector is read in the module, and the other way round."""
    model = FlatModel(net(norm=True))
    parameters, norm = list(model.module.parameters()), model.module[1]  # type: ignore[index]
    model.params.copy_(torch.arange(model.schema.parameters, dtype=torch.float32))
    model.grads.copy_(model.params * 2)
    at = 0
    for p in parameters:
        assert p.grad is not None
        piece = torch.arange(at, at + p.numel(), dtype=torch.float32)
        assert torch.equal(p.detach().flatten(), piece)
        assert torch.equal(p.grad.flatten(), piece * 2)
        at += p.numel()
    with torch.no_grad():
        parameters[-1][2] = -1
    norm.running_var[4] = 7
    assert (float(model.params[-1]), float(model.buffers[-1])) == (-1, 7)


def test_training_moves_the_buffers() -> None:
    """Running statistics of a training pass appear in the flat buffers."""
    model = FlatModel(net(norm=True))
    Sgd(batch_size=5).train(model, *examples(), batches())
    assert model.buffers.tolist() != [0.0] * 5 + [1.0] * 5


def test_load_resets_everything() -> None:
    """A second training from the same vectors ends at the same bits; step counters restart."""
    model, ends = FlatModel(net(norm=True)), []
    params, buffers = model.params.numpy().copy(), model.buffers.numpy().copy()
    for _ in range(2):
        model.load(params, buffers)
        assert int(model.module[1].num_batches_tracked) == 0  # type: ignore[index]
        Sgd(batch_size=5, momentum=0.9).train(model, *examples(), batches())
        assert int(model.module[1].num_batches_tracked) == 2  # type: ignore[index]
        ends.append((model.params.clone(), model.buffers.clone()))
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])


def test_load_copies() -> None:
    """The given vectors are neither kept nor changed, also read-only ones."""
    model = FlatModel(net(norm=True))
    params = np.linspace(-1, 1, model.schema.parameters, dtype=np.float32)
    buffers = np.ones(model.schema.buffers, dtype=np.float32)
    before = params.tobytes(), buffers.tobytes()
    for array in (params, buffers):
        array.setflags(write=False)
    model.load(params, buffers)
    assert model.params.numpy().tobytes() == before[0]
    assert model.buffers.numpy().tobytes() == before[1]
    Sgd().train(model, *examples(), batches())
    assert (params.tobytes(), buffers.tobytes()) == before


@pytest.mark.parametrize(("params", "buffers"), [(52, 10), (54, 10), (53, 9), (53, 1), (1, 10)])
def test_wrong_sizes_are_refused(params: int, buffers: int) -> None:
    """A vector of another size does not load, not even one that could be broadcast."""
    model = FlatModel(net(norm=True))
    before = model.params.clone()
    with pytest.raises(ValueError, match=rf"53 \+ 10 values cannot load {params} \+ {buffers}"):
        model.load(np.zeros(params, np.float32), np.zeros(buffers, np.float32))
    assert torch.equal(model.params, before)
