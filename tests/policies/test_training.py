"""Do local steps do what torch's own optimiser does, on flat vectors?"""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.nn import functional

from policies.training import Proximal, Sgd, Training, TrainingPolicy
from policies.training.flat_torch import FlatModel
from policies.types import stream

ADAPTER: TypeAdapter[TrainingPolicy] = TypeAdapter(Training)
MEMBERS = get_args(get_args(Training)[0])
SAMPLES: dict[type[TrainingPolicy], list[TrainingPolicy]] = {
    Sgd: [Sgd(), Sgd(lr=0.1, momentum=0.9, weight_decay=0.01, batch_size=3)],
    Proximal: [Proximal(), Proximal(mu=0.5, epochs=2), Proximal(mu=0)],
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
            loss = functional.cross_entropy(module(x[rows]), y[rows]) + mu / 2 * distance
            loss.backward()
            optimiser.step()
            steps.append(flat(module))
    return steps


def by_us(policy: TrainingPolicy) -> list[torch.Tensor]:
    """Train with the policy; return every step."""
    model, (x, y) = FlatModel(net()), examples()
    steps: list[torch.Tensor] = []
    policy.train(
        model, x, y, stream(1, "batches"), after_step=lambda _: steps.append(model.params.clone())
    )
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
    policy.train(
        model, x, y, stream(0, "b"), after_step=lambda _: steps.append(float(model.params[0]))
    )
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
    Sgd(batch_size=4, epochs=2).train(model, x, y, stream(1, "b"), after_step=told.append)
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

    Sgd(batch_size=4).train(model, x, y, stream(1, "b"), after_step=look)


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
        model = FlatModel(net(norm=True))
        trained = policy.train(model, x, y, stream(0, name))
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
    model, (x, y) = FlatModel(net()), examples()
    long = policy.model_copy(update={"epochs": 30, "batch_size": 2, "lr": 0.1})
    first = functional.cross_entropy(model.module(x), y)
    long.train(model, x, y, stream(0, "learn"))
    assert functional.cross_entropy(model.module(x), y) < 0.9 * first


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
        assert policy.train(model, x, y, stream(0, "l")).loss == pytest.approx(mean, rel=1e-6)


def test_loss_by_hand() -> None:
    """Two classes that look alike cost ln 2; the proximal term is no part of the report."""
    model = FlatModel(nn.Linear(1, 2, bias=False))
    model.load(np.ones(2, dtype=np.float32), np.empty(0, dtype=np.float32))
    x, y = torch.zeros(3, 1), torch.tensor([0, 1, 1])
    policy = Proximal(mu=9, weight_decay=0.1, epochs=2, batch_size=1)
    assert policy.train(model, x, y, stream(0, "b")).loss == pytest.approx(log(2), rel=1e-6)


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


def test_frozen_parameters_are_no_part() -> None:
    """A parameter that is not trained is left out and left alone."""
    module = net()
    module[0].weight.requires_grad = False
    before = module[0].weight.clone()
    model = FlatModel(module)
    assert [t.name for t in model.schema.tensors] == ["0.bias", "2.weight", "2.bias"]
    Sgd().train(model, *examples(), stream(0, "b"))
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
    Sgd(batch_size=5).train(model, *examples(), stream(0, "b"))
    assert model.buffers.tolist() != [0.0] * 5 + [1.0] * 5


def test_load_resets_everything() -> None:
    """A second training from the same vectors ends at the same bits; step counters restart."""
    model, ends = FlatModel(net(norm=True)), []
    params, buffers = model.params.numpy().copy(), model.buffers.numpy().copy()
    for _ in range(2):
        model.load(params, buffers)
        assert int(model.module[1].num_batches_tracked) == 0  # type: ignore[index]
        Sgd(batch_size=5, momentum=0.9).train(model, *examples(), stream(0, "b"))
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
    Sgd().train(model, *examples(), stream(0, "b"))
    assert (params.tobytes(), buffers.tobytes()) == before


@pytest.mark.parametrize(("params", "buffers"), [(52, 10), (54, 10), (53, 9), (53, 1), (1, 10)])
def test_wrong_sizes_are_refused(params: int, buffers: int) -> None:
    """A vector of another size does not load, not even one that could be broadcast."""
    model = FlatModel(net(norm=True))
    before = model.params.clone()
    with pytest.raises(ValueError, match=rf"53 \+ 10 values cannot load {params} \+ {buffers}"):
        model.load(np.zeros(params, np.float32), np.zeros(buffers, np.float32))
    assert torch.equal(model.params, before)
