"""Does a cohort get the bits that each of its members would get alone, and the right ones?"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from policies.training import Member, Proximal, Sgd, SparsyFed, Task, Trained
from policies.training.chain_torch import Chain, aligned
from policies.training.flat_torch import FlatModel
from policies.training.products_torch import linear
from policies.training.sgd_torch import local_sgd


def network(*widths: int, bias: bool = True) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    torch.manual_seed(3)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def member(size: int, seed: int, inside: int = 12, **more: Any) -> Member:
    """Return somebody with examples; the same seed gives the same again."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(size, inside)).astype(np.float32))
    y = torch.from_numpy(rng.integers(0, 4, size))
    return Member(x, y, Task(np.random.default_rng(seed + 1000), **more))


def rows(model: FlatModel, count: int) -> torch.Tensor:
    """Return slightly different weights for each member."""
    size = model.schema.parameters
    block = torch.empty(count, aligned(size))[:, :size]
    for row in range(count):
        block[row] = model.params * (1 + 0.01 * row)
    return block


POLICIES = [
    Sgd(lr=0.1, batch_size=5, epochs=2),
    Sgd(lr=0.1, lr_final=0.01, lr_versions=20, batch_size=7, epochs=1),
    Sgd(lr=0.05, batch_size=4, steps=9, momentum=0.9, weight_decay=0.01),
    Proximal(mu=0.1, lr=0.1, batch_size=6, epochs=2),
    Sgd(lr=0.1, batch_size=5, epochs=2, logit_adjustment=1.5),
]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("masked", [False, True])
def test_the_steps_are_those_of_autograd(policy: Sgd, bias: bool, masked: bool) -> None:
    """Weights, loss and examples are what torch's own gradients give, up to rounding."""
    model = FlatModel(network(12, 9, 7, 4, bias=bias))
    assert model.chain is not None
    mask = (torch.arange(model.params.numel()) % 3 != 0).float() if masked else None
    start = model.params.clone() * (1.0 if mask is None else mask)
    model.params.copy_(start)
    who = member(23, 5, version=4, mask=mask)
    expected = local_sgd(policy, model, *who, proximal=policy.pull())
    params = start.clone().unsqueeze(0)
    (found,) = policy.train_cohort(model, params, [member(23, 5, version=4, mask=mask)])
    torch.testing.assert_close(params[0], model.params, rtol=1e-4, atol=1e-6)
    assert not torch.equal(params[0], start)
    assert found.examples == expected.examples
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@settings(max_examples=20)
@given(sizes=st.lists(st.integers(1, 40), min_size=2, max_size=9))
def test_a_cohort_has_the_bits_of_its_members(policy: Sgd, sizes: list[int]) -> None:
    """Whoever else trains, from whatever base: weights and losses are equal bit for bit."""
    sizes.sort(reverse=True)
    model = FlatModel(network(12, 9, 4))
    together = rows(model, len(sizes))
    each = rows(model, len(sizes))
    members = [member(size, place, version=3 * place) for place, size in enumerate(sizes)]
    found = policy.train_cohort(model, together, members)
    for place, size in enumerate(sizes):
        one = [member(size, place, version=3 * place)]
        assert policy.train_cohort(model, each[place : place + 1], one) == [found[place]]
    assert np.array_equal(together.numpy().view(np.int32), each.numpy().view(np.int32))


WIDE = 160
"""Inputs of a first layer that is worth a Gram matrix, with 112 outputs."""
SPANNED = [POLICIES[0], POLICIES[1], Sgd(lr=0.05, batch_size=4, steps=9), POLICIES[4]]


def spanned(policy: Sgd, model: FlatModel, size: int, seed: int, **more: Any) -> Member:
    """Return somebody whose examples' products are kept."""
    gram = policy.gram(model, member(size, seed, WIDE).x)
    assert gram is not None
    return member(size, seed, WIDE, gram=gram, **more)


@pytest.mark.parametrize("policy", SPANNED, ids=str)
@pytest.mark.parametrize("widths", [(WIDE, 112, 4), (WIDE, 112, 7, 4), (WIDE, 112)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_steps_in_the_span_of_the_examples(policy: Sgd, widths: Any, bias: bool) -> None:
    """They come to the weights, the loss and the count of the same steps through the weights."""
    model = FlatModel(network(*widths, bias=bias))
    start = model.params.clone()
    expected = local_sgd(policy, model, *member(23, 5, WIDE, version=4))
    params = start.clone().unsqueeze(0)
    (found,) = policy.train_cohort(model, params, [spanned(policy, model, 23, 5, version=4)])
    torch.testing.assert_close(params[0], model.params, rtol=1e-4, atol=2e-6)
    assert found.examples == expected.examples
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)


@pytest.mark.parametrize("policy", SPANNED, ids=str)
@settings(max_examples=20)
@given(sizes=st.lists(st.integers(1, 40), min_size=2, max_size=9), none=st.integers(0, 8))
def test_a_cohort_in_the_span_has_the_bits_of_its_members(
    policy: Sgd, sizes: list[int], none: int
) -> None:
    """Whoever else trains, and however many of the others go through the weights."""
    sizes.sort(reverse=True)
    model = FlatModel(network(WIDE, 112, 4))
    together, each = rows(model, len(sizes)), rows(model, len(sizes))

    def of(place: int) -> Member:
        if place == none:
            return member(sizes[place], place, WIDE, version=3 * place)
        return spanned(policy, model, sizes[place], place, version=3 * place)

    found = policy.train_cohort(model, together, [of(place) for place in range(len(sizes))])
    for place in range(len(sizes)):
        (alone,) = policy.train_cohort(model, each[place : place + 1], [of(place)])
        assert alone == found[place]
    assert np.array_equal(together.numpy().view(np.int32), each.numpy().view(np.int32))


def test_products_that_disagree_are_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine gives several products other bits than each, the bits are those of each."""
    policy, model = Sgd(batch_size=3), FlatModel(network(WIDE, 112, 4))
    params, again = rows(model, 3), rows(model, 3)
    members = [spanned(policy, model, 6, place) for place in range(3)]
    found = policy.train_cohort(model, params, members)
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(Chain, "products_agree", lambda _, *key: asked.append(key))
    members = [spanned(policy, model, 6, place) for place in range(3)]
    assert policy.train_cohort(model, again, members) == found
    assert asked == [(3, 3, 6)]
    assert torch.equal(params, again)


def test_who_moves_by_more_than_gradients_goes_through_the_weights() -> None:
    """With a mask, the products are there in vain; the bits are those without them."""
    policy, model = Sgd(batch_size=5), FlatModel(network(WIDE, 112, 4))
    mask = (torch.arange(model.params.numel()) % 3 != 0).float()
    masked, plain = rows(model, 1), rows(model, 1)
    found = policy.train_cohort(model, masked, [spanned(policy, model, 12, 2, mask=mask)])
    assert policy.train_cohort(model, plain, [member(12, 2, WIDE, mask=mask)]) == found
    assert torch.equal(masked, plain)


def test_when_products_of_examples_are_worth_keeping() -> None:
    """A wide first layer and examples that are few for it; nothing beside gradients moves it."""
    wide, x = FlatModel(network(WIDE, 112, 4)), member(30, 1, WIDE).x
    gram = Sgd().gram(wide, x)
    assert gram is not None
    torch.testing.assert_close(gram, x @ x.T + 1)
    bare = Sgd().gram(FlatModel(network(WIDE, 112, 4, bias=False)), x)
    assert bare is not None
    torch.testing.assert_close(bare, x @ x.T)
    for policy in (Sgd(momentum=0.9), Sgd(weight_decay=0.1), Proximal(mu=0.1), Careful()):
        assert policy.gram(wide, x) is None
    assert Sgd().gram(wide, member(WIDE // 2 + 1, 1, WIDE).x) is None
    assert Sgd().gram(wide, x[:0]) is None
    assert Sgd().gram(FlatModel(network(WIDE, 100, 4)), x) is None
    assert Sgd().gram(FlatModel(nn.Sequential(nn.Conv2d(1, 2, 3))), x) is None


@pytest.mark.parametrize("rows_of", [1, 20, 100])
def test_linear_layers_outside_of_autograd(rows_of: int) -> None:
    """Whichever library multiplies: views of all kinds, a bias with gaps, and none."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(rows_of, 70, generator=generator)
    weight = torch.rand(50, 70, generator=generator)
    gaps = torch.rand(50, 3, generator=generator)[:, 1]
    torch.testing.assert_close(linear(x, weight), x @ weight.T)
    torch.testing.assert_close(linear(x, weight, gaps), x @ weight.T + gaps)
    moves = torch.rand(rows_of, 50, generator=generator)
    torch.testing.assert_close(linear(moves.t(), x.t()), moves.T @ x)


def test_who_disagrees_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine gives a cohort other bits, its members take their steps one by one."""
    model = FlatModel(network(12, 9, 4))
    assert model.chain is not None
    steps: list[int] = []
    step = Chain.step

    def uneven(chain: Chain, weights: Any, x: torch.Tensor, *more: Any) -> torch.Tensor:
        steps.append(len(x))
        losses = step(chain, weights, x, *more)
        return losses + (len(x) > 1) * 1e-3

    monkeypatch.setattr(Chain, "step", uneven)
    sizes = [6, 6, 6]
    found = Sgd(batch_size=3).train_cohort(
        model, rows(model, 3), [member(n, i) for i, n in enumerate(sizes)]
    )
    assert steps == [3, 1, 1, 1] + [1] * 6
    monkeypatch.undo()
    alone = [
        Sgd(batch_size=3).train_cohort(model, rows(model, 3)[i : i + 1], [member(6, i)])[0]
        for i in range(3)
    ]
    assert found == alone


def test_what_has_diverged_stays_with_its_member() -> None:
    """A member whose weights are not finite spoils nobody else's."""
    model = FlatModel(network(12, 9, 4))
    for policy in POLICIES:
        params, alone = rows(model, 3), rows(model, 3)
        params[1] = torch.nan
        policy.train_cohort(model, params, [member(10, i) for i in range(3)])
        policy.train_cohort(model, alone[2:], [member(10, 2)])
        assert params[1].isnan().all()
        assert torch.equal(params[2], alone[2])


class Careful(Sgd):
    """Trains in a way of its own."""

    def train(self, model: FlatModel, x: torch.Tensor, y: torch.Tensor, task: Task) -> Trained:
        return super().train(model, x, y, task)


def test_an_own_way_of_training_is_asked_for_each_client() -> None:
    """A policy that overrides `train` is never passed over; what it calls are the same kernels."""
    model, policy = FlatModel(network(12, 9, 4)), Careful(batch_size=4)
    assert Sgd().cohorts(model)
    assert not policy.cohorts(model)
    start = model.params.clone()
    found = policy.train(model, *member(10, 1))
    params = start.unsqueeze(0).clone()
    assert Sgd(batch_size=4).train_cohort(model, params, [member(10, 1)]) == [found]
    assert torch.equal(params[0], model.params)


class _Own(nn.Linear):
    """A layer that computes in a way of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


def shared() -> nn.Module:
    """Return a network that uses a layer twice."""
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


def frozen() -> nn.Module:
    """Return a network with a layer that does not train."""
    module = network(12, 9, 4)
    module[1].weight.requires_grad = False
    return module


def hooked() -> nn.Module:
    """Return a network that somebody listens to."""
    module = network(12, 9, 4)
    module[1].register_forward_hook(lambda *_: None)
    return module


def resparsed() -> nn.Module:
    """Return a network that trains roots of its weights."""
    module = network(12, 9, 4)
    SparsyFed().prepare(module)
    return module


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(3, 2),
        nn.Sequential(nn.Linear(3, 2), nn.Dropout(), nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(3, 2), nn.Flatten(), nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)),
        nn.Sequential(nn.ReLU(), nn.Linear(3, 2)),
        nn.Sequential(_Own(3, 2)),
        nn.Sequential(nn.Flatten()),
        shared(),
        frozen(),
        hooked(),
        resparsed(),
    ],
    ids=range(11),
)
def test_what_is_no_chain(module: nn.Module) -> None:
    """Anything else than plain linear layers and ReLU is left to autograd."""
    assert FlatModel(module).chain is None
    assert not Sgd().cohorts(FlatModel(module))


def test_what_is_a_chain() -> None:
    """Logistic regression is one, and so is a network that ends in ReLU."""
    for module in (network(12, 4), nn.Sequential(nn.Linear(12, 4), nn.ReLU())):
        model = FlatModel(module)
        assert model.chain is not None
        start = model.params.clone()
        expected = local_sgd(Sgd(batch_size=4), model, *member(10, 1))
        params = start.unsqueeze(0)
        (found,) = Sgd(batch_size=4).train_cohort(model, params, [member(10, 1)])
        torch.testing.assert_close(params[0], model.params, rtol=1e-4, atol=1e-6)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
