"""Does SparsyFed train roots of the weights, keep zeros, and prune what the weights learn from?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn
from torch.nn import functional

from policies.training import Sgd, SparsyFed, Task
from policies.training.flat_torch import FlatModel, layer_weights
from policies.training.power_torch import power
from policies.training.pruned_torch import keep_k_largest
from policies.training.sparsyfed_torch import reparameterise
from policies.types import ExperimentError, stream

BETA = 1.25


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Compute as workers do; threads for ten examples only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Draw the same in every test."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        yield


def theta_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return what the changed layers store, by path."""
    return {
        f"{path}.{name}": theta
        for path, layer in module.named_modules()
        for name, theta in layer_weights(layer).items()
    }


def by_hand(theta: torch.Tensor, beta: float = BETA) -> torch.Tensor:
    return theta.detach().sign() * theta.detach().abs() ** beta


@torch.no_grad()
def sparsify(module: nn.Module, density: float = 0.3) -> None:
    """Set all but a share of each theta to zero, in another place in each."""
    for number, theta in enumerate(theta_of(module).values()):
        kept = stream(0, "kept", number).random(tuple(theta.shape)) < density
        theta.mul_(torch.from_numpy(kept))


def pair(build: Callable[[], nn.Module], density: float = 1.0) -> tuple[nn.Module, nn.Module]:
    """Return a changed module, and a plain one whose weights are its w."""
    module = build()
    plain = copy.deepcopy(module)
    reparameterise(module, beta=BETA, prune_activations=True)
    sparsify(module, density)
    plain.load_state_dict(module.state_dict())
    with torch.no_grad():
        for theta in set(theta_of(plain).values()):  # a shared one once
            theta.copy_(by_hand(theta))
    return module, plain


def close(one: Any, other: Any, scale: float = 1.0) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6 * scale)


def kept_of(x: torch.Tensor, k: int) -> torch.Tensor:
    """Return the k largest magnitudes by a sort that keeps the order of ties."""
    order = np.argsort(-np.abs(x.detach().numpy().ravel()), kind="stable")[:k]
    out = np.zeros(x.numel(), dtype=np.float32)
    out[order] = x.detach().numpy().ravel()[order]
    return torch.from_numpy(out).view(x.shape)


def share_of(x: torch.Tensor, theta: torch.Tensor) -> int:
    """Return ceil((1 - s) * numel) of an input, s the share of zeros in theta."""
    return math.ceil(int(theta.count_nonzero()) * x.numel() / theta.numel() - 1e-9)


# ---------------------------------------------------------------- the power


@pytest.mark.parametrize("beta", [1.25, 1.0001, 2.0, 3.5])
def test_power_and_its_gradient(beta: float) -> None:
    """The weight is sign(theta) |theta|^beta, its slope beta |theta|^(beta - 1)."""
    theta = torch.linspace(-2, 2, 41).requires_grad_()
    w = power(theta, beta)
    (w * torch.arange(41.0)).sum().backward()  # type: ignore[no-untyped-call]
    close(w.detach(), by_hand(theta, beta))
    close(theta.grad, torch.arange(41.0) * beta * theta.detach().abs() ** (beta - 1), 100)


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("beta", [1.25, 1 + 2**-52, 2.0])
def test_zero_has_no_slope(zero: float, beta: float) -> None:
    """At 0 and at -0 value and gradient are exactly 0, however close beta is to 1."""
    theta = torch.tensor([zero, 1.0], requires_grad=True)
    w = power(theta, beta)
    w.backward(torch.tensor([1e30, 1.0]))  # type: ignore[no-untyped-call]
    assert w.tolist() == [0, 1]
    assert theta.grad is not None
    assert theta.grad.tolist() == pytest.approx([0, beta], rel=1e-6, abs=0)


def test_tiny_values_have_a_slope() -> None:
    """Where w is too small for a float the slope is still beta |theta|^(beta - 1)."""
    theta = torch.tensor([1e-37, -1e-37, 1e-44], requires_grad=True)
    w = power(theta, BETA)
    w.sum().backward()  # type: ignore[no-untyped-call]
    assert w.isfinite().all()
    assert theta.grad is not None
    expected = [BETA * float(t) ** 0.25 for t in theta.detach().abs()]
    assert theta.grad.tolist() == pytest.approx(expected, rel=1e-4)


def test_power_of_one_is_the_weight_itself() -> None:
    """With beta = 1 nothing is computed."""
    theta = nn.Parameter(torch.randn(3))
    assert power(theta, 1) is theta


# ---------------------------------------------------------------- the largest


@pytest.mark.parametrize(
    ("values", "k", "kept"),
    [
        ([3, -4, 1, 2], 2, [3, -4, 0, 0]),
        ([3, -4, 1, 2], 4, [3, -4, 1, 2]),
        ([3, -4, 1, 2], 0, [0, 0, 0, 0]),
        ([1, -1, 1, -1], 1, [1, 0, 0, 0]),
        ([1, 2, -1, 1], 3, [1, 2, -1, 0]),
        ([0, 5, 0, -0.0], 3, [0, 5, 0, 0]),
        ([1, float("nan"), 2, 3], 2, [0, float("nan"), 0, 3]),
        ([float("inf"), float("-inf"), 2, 3], 1, [float("inf"), 0, 0, 0]),
    ],
)
def test_keep_k_largest_by_hand(values: list[float], k: int, kept: list[float]) -> None:
    """The largest magnitudes stay, the first of equals before the others."""
    found = keep_k_largest(torch.tensor(values, dtype=torch.float32), k)
    expected = torch.tensor(kept, dtype=torch.float32)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@given(
    values=hnp.arrays(np.int8, hnp.array_shapes(max_dims=3), elements=st.integers(-3, 3)),
    share=st.floats(0, 1),
)
@settings(max_examples=100, deadline=None)
def test_keep_k_largest_is_a_stable_sort(values: Any, share: float) -> None:
    """Among few different magnitudes it keeps what a stable sort puts first, values unchanged."""
    x, k = torch.from_numpy(values.astype(np.float32)), round(share * values.size)
    before = x.clone()
    found = keep_k_largest(x, k)
    assert torch.equal(found, kept_of(x, k))
    assert found.count_nonzero() == min(k, x.count_nonzero())
    assert torch.equal(x, before)


def test_keep_k_largest_of_a_transposed_view() -> None:
    """The flat index is that of the view's shape, not of its memory."""
    x = torch.ones(2, 3).t()
    assert keep_k_largest(x, 2).tolist() == [[1, 1], [0, 0], [0, 0]]


# ---------------------------------------------------------------- gradients by hand


def trained_once(
    layer: nn.Module, *inputs: torch.Tensor, **settings: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output and what its gradient was, the same for the same shape."""
    out = layer(*inputs, **settings)
    out = out[0] if isinstance(out, tuple) else out
    grad = torch.from_numpy(stream(0, "grad").standard_normal(out.shape)).float()
    out.backward(grad)
    return out.detach(), grad


def pruned_linear(x: torch.Tensor, w: torch.Tensor, bias: Any, kept: int) -> torch.Tensor:
    """Return ``x @ w.T + bias`` by plain means: w's gradient comes by a sum that is zero."""
    few = kept_of(x, kept)
    whole = functional.linear(x, w.detach(), bias if bias is None else bias.detach())
    return whole + functional.linear(few, w) - functional.linear(few, w.detach())


def slope(theta: torch.Tensor) -> torch.Tensor:
    return BETA * theta.detach().abs() ** (BETA - 1)


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5), (5,)])
def test_gradients_of_a_linear_layer(shape: tuple[int, ...]) -> None:
    """The weight learns from the pruned input; output, bias and input are those of the whole."""
    layer = nn.Linear(5, 4)
    reparameterise(layer, beta=BETA, prune_activations=True)
    sparsify(layer)
    theta = theta_of(layer)[".weight"]
    x = torch.randn(shape, requires_grad=True)
    kept = share_of(x, theta)
    assert 0 < kept < x.numel()
    out, grad = trained_once(layer, x)
    w, rows, grads = by_hand(theta), kept_of(x, kept).view(-1, 5), grad.view(-1, 4)
    close(out, functional.linear(x.detach(), w, layer.bias.detach()))
    close(x.grad, grad @ w)
    close(layer.bias.grad, grads.sum(0))
    close(theta.grad, (grads.T @ rows) * slope(theta))
    assert not torch.allclose(grads.T @ rows, grads.T @ x.detach().view(-1, 5), atol=0.1)


def test_a_gradient_in_numbers() -> None:
    """With theta (4, 0), beta 1.5 and x (3, -5), w is (8, 0) and y 24; half of x stays."""
    layer = nn.Linear(2, 1, bias=False)
    reparameterise(layer, beta=1.5, prune_activations=True)
    theta = theta_of(layer)[".weight"]
    with torch.no_grad():
        theta.copy_(torch.tensor([[4.0, 0.0]]))
    x = torch.tensor([[3.0, -5.0]], requires_grad=True)
    y = layer(x)
    y.backward()
    assert y.item() == 24
    assert x.grad is not None
    assert x.grad.tolist() == [[8, 0]]
    assert theta.grad is not None
    assert theta.grad.tolist() == [[0, 0]]  # of x only -5 stayed, at the weight that is 0
    theta.grad = None
    layer(-x.flip(1)).backward()  # of (5, -3) 5 stays: 5 x 1.5 x 4 ** 0.5
    assert theta.grad is not None
    assert theta.grad.tolist() == [[15, 0]]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"padding": 1, "stride": 2},
        {"padding": 2, "dilation": 2, "bias": False},
        {"groups": 2, "padding": "same"},
    ],
    ids=str,
)
def test_gradients_of_a_convolution(settings: dict[str, Any]) -> None:
    """The kernel learns from the pruned images, torch's own formula says; the rest is exact."""
    layer = nn.Conv2d(4, 6, 3, **settings)
    reparameterise(layer, beta=BETA, prune_activations=True)
    sparsify(layer)
    theta = theta_of(layer)[".weight"]
    x = torch.randn(3, 4, 8, 8, requires_grad=True)
    out, grad = trained_once(layer, x)
    w, form = by_hand(theta), {k: v for k, v in settings.items() if k != "bias"}
    bias = None if layer.bias is None else layer.bias.detach()
    close(out, functional.conv2d(x.detach(), w, bias, **form))
    form["padding"] = 1 if form.get("padding") == "same" else form.get("padding", 0)
    close(x.grad, torch.nn.grad.conv2d_input(x.shape, w, grad, **form), 10)
    pruned = kept_of(x, share_of(x, theta))
    expected = torch.nn.grad.conv2d_weight(pruned, list(w.shape), grad, **form)
    close(theta.grad, expected * slope(theta), 10)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.Conv1d(4, 6, 3), (2, 4, 9)),
        (lambda: nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
        (lambda: nn.ConvTranspose1d(4, 6, 3), (2, 4, 9)),
        (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 5, 5)),
        (lambda: nn.ConvTranspose3d(2, 3, 2), (2, 2, 3, 3, 3)),
        (lambda: nn.Conv2d(3, 4, 3), (3, 6, 6)),
    ],
    ids=["1d", "3d", "transposed 1d", "transposed 2d", "transposed 3d", "unbatched"],
)
def test_every_convolution(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    """Outputs and input gradients are the plain layer's; the weight's are at its pruned input."""
    module, plain = pair(build, density=0.3)
    x = torch.randn(shape, requires_grad=True)
    out, _ = trained_once(module, x)
    x_plain = x.detach().clone().requires_grad_()
    close(out, trained_once(plain, x_plain)[0])
    close(x.grad, x_plain.grad)
    plain.zero_grad()
    theta = theta_of(module)[".weight"]
    trained_once(plain, kept_of(x, share_of(x, theta)))
    w_grad = theta_of(plain)[".weight"].grad
    assert w_grad is not None
    close(theta.grad, w_grad * slope(theta), 10)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_is_input_where_torch_pads_first(mode: Any) -> None:
    """With a padding mode of its own the padded images are what is pruned."""
    module, plain = pair(lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode), 0.3)
    x = torch.randn(2, 2, 6, 6, requires_grad=True)
    out, grad = trained_once(module, x)
    close(out, plain(x).detach())
    padded = functional.pad(x.detach(), (1, 1, 1, 1), mode=mode)
    theta = theta_of(module)[".weight"]
    pruned = kept_of(padded, share_of(padded, theta))
    expected = torch.nn.grad.conv2d_weight(pruned, list(theta.shape), grad)
    close(theta.grad, expected * slope(theta), 10)


@pytest.mark.parametrize("case", ["dense", "evaluation", "switched off"])
def test_nothing_is_pruned(case: str) -> None:
    """A dense layer, evaluation and the switch leave the weight's gradient whole."""
    module, plain = pair(lambda: nn.Linear(6, 5), 1.0 if case == "dense" else 0.3)
    module.train(case != "evaluation")
    if case == "switched off":
        vars(module)["_prunes"] = False
    x = torch.randn(8, 6)
    trained_once(module, x)
    trained_once(plain, x)
    theta, w = theta_of(module)[".weight"], theta_of(plain)[".weight"]
    assert w.grad is not None
    close(theta.grad, w.grad * slope(theta))


def test_every_layer_by_its_own_density() -> None:
    """Of 350 inputs a quarter is 88, rounded up; of the next layer's 280 a tenth is 28."""
    net = nn.Sequential(nn.Linear(50, 40), nn.Tanh(), nn.Linear(40, 30))
    reparameterise(net, beta=BETA, prune_activations=True)
    first, second = theta_of(net).values()
    with torch.no_grad():
        first.view(-1)[:1500] = 0  # 500 of 2000 stay
        second.view(-1)[:1080] = 0  # 120 of 1200
    x = torch.randn(7, 50)
    w1, w2 = by_hand(first).requires_grad_(), by_hand(second).requires_grad_()
    inner = pruned_linear(x, w1, net[0].bias, 88).tanh()
    out, grad = trained_once(net, x)
    expected = pruned_linear(inner, w2, net[2].bias, 28)
    close(out, expected.detach())
    expected.backward(grad)
    for theta, w in ((first, w1), (second, w2)):
        assert w.grad is not None
        close(theta.grad, w.grad * slope(theta), 10)


# ---------------------------------------------------------------- the start


@pytest.mark.parametrize(
    ("build", "fan_in"),
    [
        (lambda: nn.Linear(400, 300), 400),
        (lambda: nn.Conv2d(32, 64, 5), 800),
        (lambda: nn.Conv2d(64, 64, 5, groups=4), 400),
        (lambda: nn.ConvTranspose2d(64, 32, 5), 1600),
        (lambda: nn.MultiheadAttention(200, 4), 200),
        (lambda: nn.MultiheadAttention(200, 4, kdim=100, vdim=100), None),
    ],
    ids=["linear", "convolution", "groups", "transposed", "attention", "cross attention"],
)
def test_start(build: Callable[[], nn.Module], fan_in: int | None) -> None:
    """The weight is a normal cut at two deviations, of mean 0 and std 1 / sqrt(fan_in)."""
    module = build()
    reparameterise(module, beta=BETA, prune_activations=True)
    for theta in theta_of(module).values():
        inputs = fan_in or theta.shape[1]
        w, std = by_hand(theta), inputs**-0.5
        assert float(w.mean()) == pytest.approx(0, abs=5 * std / math.sqrt(w.numel()))
        assert float(w.std()) == pytest.approx(std, rel=0.02)
        assert 0.995 * 2 / 0.8796 * std < float(w.abs().max()) <= 2.00001 / 0.8796 * std
        inside = float((w.abs() < std / 0.8796).float().mean())
        assert inside == pytest.approx(0.6827 / 0.9545, abs=0.01)


def test_start_is_the_drawn_value() -> None:
    """The weight is u and theta its root, u what torch's generator gives a truncated normal."""
    layer, u = nn.Linear(30, 20), torch.empty(20, 30)
    std = 30**-0.5 / 0.8796
    torch.manual_seed(9)
    nn.init.trunc_normal_(u, std=std, a=-2 * std, b=2 * std)
    torch.manual_seed(9)
    reparameterise(layer, beta=BETA, prune_activations=True)
    close(layer.weight, u)
    close(theta_of(layer)[".weight"].detach(), u.sign() * u.abs() ** 0.8)


def test_other_parameters_keep_their_values() -> None:
    """Biases, norms, embeddings and frozen weights stay as drawn, and names stay."""

    def build() -> nn.Module:
        torch.manual_seed(1)
        frozen = nn.Linear(4, 4).requires_grad_(False)
        return nn.Sequential(nn.Embedding(3, 4), frozen, nn.Linear(4, 4), nn.LayerNorm(4))

    module, plain = build(), build()
    reparameterise(module, beta=BETA, prune_activations=True)
    assert list(module.state_dict()) == list(plain.state_dict())
    different = {
        name
        for name, value in module.state_dict().items()
        if not torch.equal(value, plain.state_dict()[name])
    }
    assert different == {"2.weight"}
    assert type(module[1]) is nn.Linear


def test_same_seed_same_start() -> None:
    """Two copies made with the same seed are the same, with another one are not."""
    starts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = transformer()
        SparsyFed().prepare(model)
        starts.append(FlatModel(model).params)
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


# ---------------------------------------------------------------- attention


class Reader(nn.Module):
    """Tokens, two transformer layers and a linear head over the first token."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **settings)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not settings)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, **settings: Any) -> torch.Tensor:
        read = self.encoder(self.embed(x), **settings)
        return self.head(read[:, 0])  # type: ignore[no-any-return]


def transformer(**settings: Any) -> Reader:
    return Reader(**settings)


PADDING = torch.tensor([[False] * 5, [False, False, True, True, True], [False] * 4 + [True]])
CAUSAL = nn.Transformer.generate_square_subsequent_mask(5)
MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "padding": {"src_key_padding_mask": PADDING},
    "causal": {"mask": CAUSAL, "is_causal": True},
    "both": {"mask": CAUSAL.isinf(), "src_key_padding_mask": PADDING},
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")  # torch's own
@pytest.mark.parametrize("mode", ["train", "eval", "eval without gradients"])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("norm_first", [False, True])
def test_a_transformer(mode: str, masks: str, norm_first: bool) -> None:
    """Outputs are those of a plain one with weights w, on torch's fast paths too."""
    settings: dict[str, Any] = {"norm_first": True} if norm_first else {}
    module, plain = pair(lambda: transformer(**settings), density=0.5)
    module.train(mode == "train")
    plain.train(mode == "train")
    with torch.set_grad_enabled(mode != "eval without gradients"):
        x = torch.randn(3, 5, 4)
        close(module(x, **MASKS[masks]), plain(x, **MASKS[masks]))
        plain.load_state_dict(module.state_dict())  # theta taken for w is something else
        assert not torch.allclose(module(x, **MASKS[masks]), plain(x, **MASKS[masks]), atol=1e-3)


def attend(attention: nn.Module, case: str, *, batch_first: bool) -> tuple[Any, ...]:
    """Return what attention makes of inputs and masks in one of their many forms."""
    draw = torch.Generator().manual_seed(3)
    query = torch.randn(3, 5, 8, generator=draw)
    other = torch.randn(3, 7, 8, generator=draw)
    key, value = (query, query) if "self" in case else (other, other)
    if "three" in case:
        value = torch.randn(3, 7, 8, generator=draw)
    if "alone" in case:
        query, key, value = query[0], key[0], value[0]
    elif not batch_first:
        query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        key, value = (query, query) if "self" in case else (key, value)
    else:
        key, value = (query, query) if "self" in case else (key, value)
    keys = 5 if "self" in case else 7
    forms: dict[str, Any] = {"need_weights": "shares" in case}
    if "heads" in case:
        forms["average_attn_weights"] = False
    if "mask2" in case:
        forms["attn_mask"] = torch.randn(5, keys, generator=draw)
    if "mask3" in case:
        forms["attn_mask"] = torch.randn(6, 5, keys, generator=draw) > 1
    if "padding" in case:
        padding = torch.zeros(3, keys, dtype=torch.bool)
        padding[1, 2:] = True
        padding = padding[0] if "alone" in case else padding
        floats = torch.zeros(padding.shape).masked_fill(padding, -torch.inf)
        forms["key_padding_mask"] = floats if "mask2" in case else padding
    return attention(query, key, value, **forms)  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        "self",
        "self shares",
        "self shares heads mask2",
        "self mask2 padding",
        "self mask3",
        "self padding shares",
        "self alone shares padding",
        "self alone",
        "two mask3 padding shares",
        "two padding",
        "three mask2",
    ],
)
def test_attention(case: str, training: bool, batch_first: bool) -> None:
    """Outputs and shares are those of torch's own attention with weights w."""
    module, plain = pair(lambda: nn.MultiheadAttention(8, 2, batch_first=batch_first), 0.5)
    module.train(training)
    plain.train(training)
    for ours, theirs in zip(
        attend(module, case, batch_first=batch_first),
        attend(plain, case, batch_first=batch_first),
        strict=True,
    ):
        close(ours, theirs)


def test_attention_over_other_widths() -> None:
    """Keys and values of other widths have projections, and so densities, of their own."""
    module, plain = pair(lambda: nn.MultiheadAttention(8, 2, kdim=3, vdim=6, bias=False), 0.5)
    query, key, value = torch.randn(5, 3, 8), torch.randn(7, 3, 3), torch.randn(7, 3, 6)
    for training in (True, False):
        module.train(training)
        close(module(query, key, value), plain.train(training)(query, key, value))


@pytest.mark.parametrize("one_input", [True, False])
def test_gradients_of_attention(one_input: bool) -> None:
    """Both projections learn from pruned inputs, each by its density; the inputs' stay exact."""
    module, plain = pair(lambda: nn.MultiheadAttention(8, 2, batch_first=True), density=0.4)
    into, onto = theta_of(module).values()
    x = torch.randn(3, 5, 8, requires_grad=True)
    out, grad = trained_once(module, x, *(x if one_input else x * 1 for _ in "kv"))
    close(x.grad, exact_input_gradient(plain, x, grad), 10)

    w_in, w_out = by_hand(into).requires_grad_(), by_hand(onto).requires_grad_()
    kept = share_of(x, into)
    q, k, v = (
        pruned_linear(x.detach(), w, None, kept).unflatten(-1, (2, 4)).transpose(1, 2)
        for w in w_in.chunk(3)
    )
    mixed = ((q @ k.transpose(-2, -1) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2)
    expected = pruned_linear(mixed, w_out, None, share_of(mixed, onto))
    close(out, expected.detach())
    expected.backward(grad)
    for theta, w in ((into, w_in), (onto, w_out)):
        assert w.grad is not None
        close(theta.grad, w.grad * slope(theta), 10)


def test_gradients_of_attention_over_other_widths() -> None:
    """Queries, keys and values are pruned by the density of their own projection."""
    module, _ = pair(lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True))
    thetas = list(theta_of(module).values())
    with torch.no_grad():
        for theta, zeros in zip(thetas, (16, 24, 8, 0), strict=True):
            theta.view(-1)[:zeros] = 0
    inputs = torch.randn(3, 5, 8), torch.randn(3, 7, 6), torch.randn(3, 7, 4)
    out, grad = trained_once(module, *inputs)
    ws = [by_hand(theta).requires_grad_() for theta in thetas]
    q, k, v = (
        pruned_linear(x, w, None, kept).unflatten(-1, (2, 4)).transpose(1, 2)
        for x, w, kept in zip(inputs, ws, (90, 63, 63), strict=False)  # 3/4, 1/2 and 3/4 of them
    )
    mixed = ((q @ k.transpose(-2, -1) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2)
    expected = functional.linear(mixed, ws[3])
    close(out, expected.detach())
    expected.backward(grad)
    for theta, w in zip(thetas, ws, strict=True):
        assert w.grad is not None
        close(theta.grad, w.grad * slope(theta), 10)


def exact_input_gradient(plain: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    x = x.detach().clone().requires_grad_()
    plain(x, x, x)[0].backward(grad)
    assert x.grad is not None
    return x.grad


def test_dropout_in_attention() -> None:
    """Of the shares a fifth is dropped and the rest grows by a quarter."""
    attention = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)
    reparameterise(attention, beta=BETA, prune_activations=True)
    x = torch.randn(2, 64, 8)
    shares = attention(x, x, x, average_attn_weights=False)[1]
    whole = attention.eval()(x, x, x, average_attn_weights=False)[1]
    assert float((shares == 0).float().mean()) == pytest.approx(0.2, abs=0.02)
    close(shares, torch.where(shares == 0, 0, whole / 0.8))
    attention.train()
    outs = [attention(x, x, x, need_weights=False)[0] for _ in range(2)]
    assert not torch.equal(*outs)


def test_causal_without_a_mask_is_torchs_mistake() -> None:
    """The hint alone is refused as torch refuses it, in training too."""
    attention = nn.MultiheadAttention(8, 2)
    reparameterise(attention, beta=BETA, prune_activations=True)
    x = torch.randn(2, 5, 8)
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        attention(x, x, x, is_causal=True, need_weights=False)


# ---------------------------------------------------------------- absorbing zeros


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 3),
    )


FORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), (6,)),
    "convolution": (images, (1, 6, 6)),
    "transformer": (transformer, (5, 4)),
}


def data(shape: tuple[int, ...], n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    rng = stream(0, "data")
    x = torch.from_numpy(rng.standard_normal((n, *shape), dtype=np.float32))
    return x, torch.from_numpy(rng.integers(3, size=n))


def prepared(policy: SparsyFed, build: Callable[[], nn.Module]) -> FlatModel:
    torch.manual_seed(1)
    module = build()
    policy.prepare(module)
    return FlatModel(module)


@pytest.mark.parametrize("form", FORMS)
def test_zeros_absorb(form: str) -> None:
    """Decay, momentum, the proximal pull of nothing and pruning leave zeros; all others move."""
    build, shape = FORMS[form]
    policy = SparsyFed(lr=0.1, momentum=0.9, weight_decay=0.01, epochs=4, batch_size=5)
    model = prepared(policy, build)
    prunable = torch.from_numpy(model.schema.prunable)
    sparsify(model.module, density=0.5)
    zeros = prunable & (model.params == 0)
    before = model.params.clone()
    policy.train(model, *data(shape), Task(stream(0, "b")))
    assert 0.4 < zeros.sum() / prunable.sum() < 0.6
    assert model.params[zeros].count_nonzero() == 0
    assert model.params.isfinite().all()
    assert (model.params != before)[prunable & ~zeros].float().mean() > 0.95


def test_a_layer_of_zeros_trains_on() -> None:
    """Where nothing is left of a weight, nothing is left of its input, and nothing breaks."""
    policy = SparsyFed(epochs=2, momentum=0.5)
    model = prepared(policy, FORMS["linear"][0])
    with torch.no_grad():
        theta_of(model.module)["0.weight"].zero_()
    policy.train(model, *data((6,)), Task(stream(0, "b")))
    assert theta_of(model.module)["0.weight"].count_nonzero() == 0
    assert model.params.isfinite().all()


def test_pruning_changes_training() -> None:
    """At half density the switch matters; in a dense round it does not."""
    ends = {}
    for density in (1.0, 0.5):
        for prune in (True, False):
            policy = SparsyFed(prune_activations=prune, batch_size=4)
            model = prepared(policy, images)
            sparsify(model.module, density)
            policy.train(model, *data((1, 6, 6)), Task(stream(0, "b")))
            ends[density, prune] = model.params.clone()
    assert torch.equal(ends[1.0, True], ends[1.0, False])
    assert not torch.equal(ends[0.5, True], ends[0.5, False])


# ---------------------------------------------------------------- whole training


@pytest.mark.parametrize("form", FORMS)
def test_same_seed_same_bits(form: str) -> None:
    """Trained twice from the same start it ends at the same bits, on the flat vector."""
    build, shape = FORMS[form]
    policy, ends = SparsyFed(batch_size=5, epochs=2, momentum=0.5), []
    for name in ("a", "a", "b"):
        model = prepared(policy, build)
        sparsify(model.module, 0.5)
        policy.train(model, *data(shape), Task(stream(0, name)))
        ends.append(model.params.clone())
        stored = torch.cat([p.detach().flatten() for p in model.module.parameters()])
        assert torch.equal(stored, model.params)
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("form", FORMS)
def test_power_of_one_is_sgd(form: str) -> None:
    """With beta = 1 and nothing pruned the bits are those of the plain method."""
    build, shape = FORMS[form]
    settings: dict[str, Any] = {"momentum": 0.9, "weight_decay": 0.1, "batch_size": 5, "epochs": 2}
    ours = prepared(SparsyFed(beta=1, prune_activations=False, **settings), build)
    plain = FlatModel(build())
    assert ours.schema == plain.schema
    plain.load(ours.params.numpy(), ours.buffers.numpy())
    SparsyFed(beta=1, prune_activations=False, **settings).train(
        ours, *data(shape), Task(stream(0, "b"))
    )
    Sgd(**settings).train(plain, *data(shape), Task(stream(0, "b")))
    assert torch.equal(ours.params, plain.params)


def test_schema_is_the_plain_models() -> None:
    """Names, shapes and prunable flags are those of the module before the change."""
    plain = FlatModel(transformer()).schema
    assert prepared(SparsyFed(), transformer).schema == plain
    assert sum(t.prunable for t in plain.tensors) == 10


def test_computing_with_given_parameters() -> None:
    """A call with other parameters takes them for theta; a copy of the module is one by itself."""
    module, plain = pair(transformer, density=0.5)
    other = copy.deepcopy(module)
    x = torch.randn(3, 5, 4)
    before = module(x)
    with torch.no_grad():
        for theta in theta_of(other).values():
            theta.mul_(2)
    close(torch.func.functional_call(module, dict(other.named_parameters()), (x,)), other(x))
    assert not torch.allclose(before, other(x), atol=1e-3)
    close(module(x), plain(x))


# ---------------------------------------------------------------- shared and unknown layers


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    return net


def test_shared_weights() -> None:
    """Two layers with one weight store one theta, which learns from both."""
    module, plain = pair(tied)
    assert [name for name, _ in module.named_parameters()] == ["0.weight", "0.bias", "2.bias"]
    x = torch.randn(5, 4)
    close(trained_once(module, x)[0], trained_once(plain, x)[0])
    theta, w = theta_of(module)["0.weight"], theta_of(plain)["0.weight"]
    assert w.grad is not None
    close(theta.grad, w.grad * slope(theta))
    model = FlatModel(module)
    assert model.schema.parameters == 24


def test_a_layer_used_twice() -> None:
    """One layer at two places is changed once."""
    layer = nn.Linear(4, 4)
    module = nn.Sequential(layer, nn.Tanh(), layer)
    reparameterise(module, beta=BETA, prune_activations=True)
    w, x = by_hand(theta_of(layer)[".weight"]), torch.randn(5, 4)
    bias = layer.bias
    close(module(x), functional.linear(functional.linear(x, w, bias).tanh(), w, bias))


def test_prepared_twice_is_prepared_once() -> None:
    """A second time changes nothing."""
    module = nn.Linear(4, 4)
    for _ in range(2):
        reparameterise(module, beta=BETA, prune_activations=True)
        kind, theta = type(module), theta_of(module)[".weight"].clone()
    assert type(module) is kind
    assert torch.equal(theta_of(module)[".weight"], theta)


class Standardised(nn.Conv2d):
    """A user's convolution that computes with something else than its weight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Inner(nn.Conv2d):
    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
        return super()._conv_forward(x, weight * 2, bias)


class Named(nn.Linear):
    """A user's layer that computes as torch's own does."""

    def __init__(self) -> None:
        super().__init__(4, 4)


def embedding() -> nn.Module:
    net = nn.ModuleDict({"words": nn.Embedding(5, 4), "head": nn.Linear(4, 5)})
    net["head"].weight = net["words"].weight
    return net


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (
            lambda: nn.Sequential(nn.ReLU(), Standardised(1, 1, 3)),
            r"1 is a Standardised with a forward of its own\. Build it from torch's own layers",
        ),
        (lambda: Inner(1, 1, 3), "the model is a Inner with a forward"),
        (
            lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))),
            "0, but a ParametrizedLinear computes its weight from other parameters",
        ),
        (lambda: nn.MultiheadAttention(8, 2, add_zero_attn=True), "adds others .*add_zero_attn"),
        (lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True), "adds others .*add_bias_kv"),
        (embedding, r"words\.weight of a Embedding is the same parameter .* of its own"),
    ],
    ids=["own forward", "own _conv_forward", "parametrised", "zero", "bias", "embedding"],
)
def test_unknown_layers_are_refused(build: Callable[[], nn.Module], complaint: str) -> None:
    """A layer that is not torch's own is a mistake that names the layer and the way out."""
    module = build()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ExperimentError, match=complaint):
        SparsyFed().prepare(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_frozen_unknown_layers_may_stay() -> None:
    """A frozen layer is left alone, whatever it computes."""
    module = nn.Sequential(Standardised(1, 1, 3).requires_grad_(False), nn.Conv2d(1, 1, 3))
    SparsyFed().prepare(module)
    assert type(module[0]) is Standardised
    assert type(module[1]) is not nn.Conv2d


def test_partly_frozen_attention() -> None:
    """A frozen projection keeps its value and computes with it; the others are changed."""
    module = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)
    module.q_proj_weight.requires_grad_(False)
    frozen = module.q_proj_weight.clone()
    plain = copy.deepcopy(module)
    SparsyFed().prepare(module)
    stored = theta_of(module)
    assert torch.equal(stored[".q_proj_weight"], frozen)
    with torch.no_grad():
        for name, theta in theta_of(plain).items():
            theta.copy_(frozen if "q_proj" in name else by_hand(stored[name]))
    inputs = torch.randn(3, 5, 8), torch.randn(3, 7, 6), torch.randn(3, 7, 4)
    for training in (True, False):
        close(module.train(training)(*inputs), plain.train(training)(*inputs))


def test_an_own_class_without_a_forward_is_known() -> None:
    """A user's class that computes as torch's does is changed, and stays of its class."""
    module, plain = pair(Named, density=0.5)
    assert isinstance(module, Named)
    assert repr(module).startswith("PowerNamed(in_features=4")
    x = torch.randn(3, 4)
    close(module(x), plain(x))
    assert not torch.equal(theta_of(module)[".weight"], theta_of(plain)[".weight"])
