"""Does the arithmetic about a model agree with the module that torch builds?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import nn

from actors.learning import models_torch
from actors.learning.encoders import EfficientNetLite0
from actors.learning.examples import DataShape
from actors.learning.models import (
    Cnn,
    Logistic,
    Mlp,
    Model,
    ModelPolicy,
    Pretrained,
    ResNet,
    Tabular,
    TextBag,
    Transformer,
)
from policies.base import Settings
from policies.training.flat_torch import FlatModel
from policies.types import ExperimentError

ADAPTER: TypeAdapter[ModelPolicy] = TypeAdapter(Model)
MEMBERS = get_args(get_args(Model)[0])
SAMPLES: dict[type[ModelPolicy], list[ModelPolicy]] = {
    Logistic: [Logistic()],
    Mlp: [Mlp(), Mlp(hidden=(20, 7)), Mlp(hidden=())],
    Cnn: [
        Cnn(),
        Cnn(group_norm=True),
        Cnn(channels=(3, 12), kernel=3, hidden=5, group_norm=True),
        Cnn(channels=(1, 1), kernel=1, hidden=1),
    ],
    ResNet: [
        ResNet(),
        ResNet(norm="batch"),
        ResNet(width=5),
        ResNet(depth=18, width=4),
        ResNet(depth=18, width=3, norm="batch"),
    ],
    Tabular: [Tabular(), Tabular(embedding=2, hidden=()), Tabular(hidden=(20, 7))],
    TextBag: [TextBag(), TextBag(embedding=5, hidden=(6,))],
    Transformer: [
        Transformer(),
        Transformer(width=6, heads=3, layers=1, feedforward=5, pooling="last"),
        Transformer(width=8, heads=2, layers=3, dropout=0.3),
        Transformer(width=4, heads=1, layers=1, dropout=0.9, pooling="last"),
    ],
    Pretrained: [Pretrained(encoder=EfficientNetLite0(pixels=32), tail=(6,))],
}
SHAPES = [DataShape(10, 5, (1, 28, 28), 10), DataShape(10, 5, (3, 9, 14), 4)]
MNIST = SHAPES[0]
NUMBERS = DataShape(10, 5, (7,), 4)
TABLE = DataShape(10, 5, (5,), 3, categories=(0, 9, 3, 0, 2))
TOKENS = DataShape(10, 5, (7,), 5, vocabulary=30)
TAKES: dict[type[ModelPolicy], list[DataShape]] = {
    Logistic: [*SHAPES, NUMBERS],
    Mlp: [*SHAPES, NUMBERS],
    Tabular: [TABLE, NUMBERS, DataShape(10, 5, (1,), 2, categories=(4,))],
    TextBag: [TOKENS, DataShape(10, 5, (1,), 2, vocabulary=2)],
    Transformer: [TOKENS, DataShape(10, 5, (1,), 2, vocabulary=2)],
}
EVERY_SAMPLE = [sample for samples in SAMPLES.values() for sample in samples]
PAIRS = [(one, shape) for one in EVERY_SAMPLE for shape in TAKES.get(type(one), SHAPES)]


class Holder(Settings):
    model: Model = Cnn()


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module `own_models` where it can be imported while the test runs."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    (tmp_path / "own_models.py").write_text(
        "import math\n"
        "from torch import nn\n"
        "from actors.learning.models import Logistic, ModelPolicy\n"
        "from policies.base import Policy\n"
        "def net(shape, width=4, *, norm=False):\n"
        "    layers = [nn.Flatten(), nn.Linear(math.prod(shape.input), width)]\n"
        "    layers += [nn.BatchNorm1d(width), nn.Dropout()] * norm + [nn.ReLU()]\n"
        "    return nn.Sequential(*layers, nn.Linear(width, shape.classes))\n"
        "def wrong_classes(shape):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape.input), 3))\n"
        "def wrong_input(shape):\n"
        "    return nn.Linear(5, shape.classes)\n"
        "def no_module(shape):\n"
        "    return 5\n"
        "def raises(shape):\n"
        "    return {}['nope']\n"
        "class Broken(nn.Module):\n"
        "    def __init__(self, shape):\n"
        "        super().__init__()\n"
        "    def forward(self, x):\n"
        "        return {}['nope']\n"
        "class Half(Logistic):\n"
        "    kind: str = 'own_models:Half'\n"
        "    share: float = 0.5\n"
        "    def parameters(self, shape):\n"
        "        return int(self.share * super().parameters(shape))\n"
        "class Stranger(Policy):\n"
        "    pass\n"
    )


def zeros(shape: DataShape, examples: int) -> torch.Tensor:
    kind = torch.int64 if shape.vocabulary else torch.float32
    return torch.zeros(examples, *shape.input, dtype=kind)


def built(policy: ModelPolicy, shape: DataShape) -> nn.Module:
    """Return the module, or skip the test where a package with weights is not installed."""
    if (lost := policy.missing()) is not None:
        pytest.skip(lost)
    return policy.build(shape)


def counted_flops(policy: ModelPolicy, shape: DataShape) -> int:
    return models_torch.count_flops(lambda: policy.build(shape), shape)


def _bytes_of_norms(module: nn.Module) -> int:
    """Return the bytes an example of two that norms keep: mean and deviation, float32."""
    layers = list(module.modules())
    of_groups = sum(2 * 4 * m.num_groups for m in layers if isinstance(m, nn.GroupNorm))
    of_batch = sum(2 * 4 * m.num_features for m in layers if isinstance(m, nn.BatchNorm2d))
    return of_groups + of_batch // 2


def test_every_member_has_a_sample() -> None:
    """A new member of the union fails here until SAMPLES holds one."""
    assert set(MEMBERS) == set(SAMPLES)
    assert all(SAMPLES.values())


@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_keeps_the_contract(member: type[ModelPolicy]) -> None:
    """Its kind alone makes one, each survives its own JSON, and none can be changed."""
    for sample in SAMPLES[member]:
        assert ADAPTER.validate_json(sample.model_dump_json()) == sample
        assert ADAPTER.validate_python({"kind": sample.kind}).kind == sample.kind
        with pytest.raises(ValidationError, match="frozen"):
            sample.kind = "other"  # type: ignore[misc]


@pytest.mark.parametrize(("policy", "shape"), PAIRS, ids=repr)
def test_arithmetic_agrees_with_torch(policy: ModelPolicy, shape: DataShape) -> None:
    """Parameters, FLOPs of convolutions and matrix products, and logits of the right shape."""
    module = built(policy, shape)
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert policy.parameters(shape) == trained
    assert policy.forward_flops(shape) == counted_flops(policy, shape)
    assert module(zeros(shape, 3)).shape == (3, shape.classes)


@pytest.mark.parametrize(("policy", "shape"), PAIRS, ids=repr)
def test_activations_are_what_autograd_keeps(policy: ModelPolicy, shape: DataShape) -> None:
    """The estimate leaves out a norm's two numbers a group or channel, and nothing else."""
    left_out = _bytes_of_norms(built(policy, shape))
    measured = models_torch.count_activation_bytes(lambda: policy.build(shape), shape)
    assert policy.activation_bytes(shape) == measured - left_out
    assert left_out <= 0.05 * measured


@pytest.mark.parametrize("colours", [1, 3])
def test_a_cnn_computes_what_it_says(colours: int) -> None:
    """ReLU before the maxima, and images in torch's usual order, give the same, gradients too."""
    torch.manual_seed(0)
    module = models_torch.cnn((colours, 4, 6), (6 * 4, 5, 3), kernel=3, group_norm=False)
    parts = dict(module.named_children())
    plain = nn.Sequential(
        parts["conv1"], nn.ReLU(), parts["pool1"], parts["conv2"], nn.ReLU(), parts["pool2"],
        nn.Flatten(), parts["linear1"], nn.ReLU(), parts["linear2"],
    )  # fmt: skip
    x = torch.randn(7, colours, 8, 8).round(decimals=1)
    x[:, :, :4] = 0.5  # many maxima are the same
    found = []
    for one in (module, plain):
        logits = one(x)
        gradients = torch.autograd.grad(logits.square().sum(), list(one.parameters()))
        found.append((logits, *gradients))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("colours", [1, 3])
def test_maxima_are_taken_with_channels_side_by_side(colours: int) -> None:
    """Their order in memory is what makes them fast, and nothing on the way may lose it."""
    shape = DataShape(train=10, test=5, input=(colours, 8, 8), classes=3)
    seen = list[torch.Tensor]()
    for policy in (Cnn(), Cnn(group_norm=True), ResNet(norm="batch")):
        module = policy.build(shape)
        for layer in module.modules():
            if isinstance(layer, nn.MaxPool2d | nn.BatchNorm2d):
                layer.register_forward_pre_hook(lambda _, given: seen.extend(given))
        module(zeros(shape, 3))
    assert len(seen) > 4
    assert all(x.stride(1) == 1 for x in seen)


@settings(max_examples=25, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.sampled_from([1, 3, 5, 7]),
    image=st.tuples(st.integers(1, 3), st.integers(4, 11), st.integers(4, 11)),
    norm=st.booleans(),
)
def test_arithmetic_of_a_cnn_holds_for_any_image(
    channels: tuple[int, int], kernel: int, image: tuple[int, int, int], *, norm: bool
) -> None:
    """Odd sizes, thin channels and kernels wider than the image change nothing."""
    policy = Cnn(channels=channels, kernel=kernel, hidden=3, group_norm=norm)
    shape = DataShape(1, 1, image, 2)
    module = policy.build(shape)
    assert policy.parameters(shape) == sum(p.numel() for p in module.parameters())
    assert policy.forward_flops(shape) == counted_flops(policy, shape)


@settings(max_examples=20, deadline=None)
@given(
    depth=st.sampled_from([8, 18]),
    width=st.integers(1, 9),
    image=st.tuples(st.integers(1, 3), st.integers(9, 13), st.integers(9, 13)),
    norm=st.sampled_from(["group", "batch"]),
)
def test_arithmetic_of_a_resnet_holds_for_any_image(
    depth: Literal[8, 18],
    width: int,
    image: tuple[int, int, int],
    norm: Literal["group", "batch"],
) -> None:
    """Odd sizes, which are halved upwards, and thin stages change nothing."""
    policy = ResNet(depth=depth, width=width, norm=norm)
    shape = DataShape(1, 1, image, 2)
    module = policy.build(shape)
    assert policy.parameters(shape) == sum(p.numel() for p in module.parameters())
    assert policy.forward_flops(shape) == counted_flops(policy, shape)


def test_sizes_by_hand() -> None:
    """The published sizes: 7,850 for MNIST's regression, 1,663,370 for McMahan's CNN."""
    assert Logistic().parameters(MNIST) == 784 * 10 + 10
    assert Logistic().forward_flops(MNIST) == 2 * 784 * 10
    assert Mlp(hidden=(200, 200)).parameters(MNIST) == 199_210
    assert Cnn(channels=(32, 64), hidden=512).parameters(MNIST) == 1_663_370
    assert Mlp(hidden=(200,)).activation_bytes(MNIST) == 4 * (784 + 200)
    cifar10 = DataShape(1, 1, (3, 32, 32), 10)
    assert ResNet(depth=18).parameters(cifar10) == 11_173_962
    stage1, stage2, stage3 = 2 * 9 * 16 * 16, 9 * 16 * 32 + 9 * 32 * 32, 9 * 32 * 64 + 9 * 64 * 64
    shortcuts, norms = 16 * 32 + 32 * 64, 2 * (3 * 16 + 3 * 32 + 3 * 64)
    weights = 9 * 16 + stage1 + stage2 + stage3 + shortcuts + norms
    assert ResNet().parameters(MNIST) == weights + 65 * 10


def test_a_resnet_is_as_wide_as_its_depth_asks() -> None:
    """The published widths are defaults, and are written back."""
    assert ResNet().model_dump() == {"kind": "resnet", "depth": 8, "width": 16, "norm": "group"}
    assert ResNet(depth=18).width == 64
    assert ResNet(depth=18, width=8).width == 8


def test_a_resnet_counts_its_layers() -> None:
    """Its depth is the number of layers with weights that are not in a shortcut."""
    for depth in (8, 18):
        module = ResNet(depth=depth, width=2).build(MNIST)
        layers = [
            name
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear) and "shortcut" not in name
        ]
        assert len(layers) == depth


def test_a_resnet_block_by_hand() -> None:
    """With convolutions of zeros a block is the ReLU of its shortcut."""
    block = ResNet(width=4).build(MNIST).get_submodule("stage1_block1")
    x = torch.randn(2, 4, 5, 5)
    for name in ("conv1", "conv2"):
        nn.init.zeros_(block.get_submodule(name).weight)
    assert torch.equal(block(x), x.relu())


def test_batch_norm_fails_on_one_example_of_one_pixel_and_group_norm_does_not() -> None:
    """The known weakness: a shard's last batch may hold a single example."""
    shape = DataShape(9, 1, (1, 8, 8), 2)  # halved three times, one pixel is left
    x = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ResNet(depth=18, width=2, norm="batch").build(shape)(x)
    assert ResNet(depth=18, width=2).build(shape)(x).shape == (1, 2)


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_equal_seeds_give_equal_weights(policy: ModelPolicy) -> None:
    """First weights come from torch's generator, and differ when it does."""
    shape = TAKES.get(type(policy), SHAPES)[0]

    def weights(seed: int) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.utils.parameters_to_vector(built(policy, shape).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


METHODS = ["parameters", "forward_flops", "activation_bytes", "build"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("policy", "shape", "message"),
    [
        (
            Logistic(),
            TOKENS,
            "model logistic takes images or numbers; .* has tokens.*kind text-bag",
        ),
        (Mlp(), TABLE, "model mlp takes .* has a table with categories.*kind tabular"),
        (Cnn(), TOKENS, "model cnn takes images; the data has tokens.* Take model.kind text-bag"),
        (ResNet(), TABLE, "model resnet takes images; .* Take model.kind tabular"),
        (
            Tabular(),
            MNIST,
            "model tabular takes a table with categories; the data has images.* cnn",
        ),
        (Tabular(), TOKENS, "model tabular takes a table with categories or numbers; .* text-bag"),
        (
            Tabular(),
            DataShape(1, 1, (4, 4), 2),
            "has numbers, inputs of shape .*Take model.kind mlp",
        ),
        (TextBag(), MNIST, r"takes tokens; the data has images, inputs of shape \(1, 28.*kind cnn"),
        (Transformer(), NUMBERS, "model transformer takes tokens; .* Take model.kind mlp"),
    ],
)
def test_inputs_of_another_sort_are_refused(
    policy: ModelPolicy, shape: DataShape, message: str, method: str
) -> None:
    """The error says what the model takes, what there is, and which model to take."""
    with pytest.raises(ExperimentError, match=message):
        getattr(policy, method)(shape)


def test_a_table_by_hand() -> None:
    """Numbers first, then each column's embedding; the codes choose the rows."""
    module = Tabular(embedding=2, hidden=()).build(DataShape(1, 1, (3,), 2, categories=(3, 0, 4)))
    columns = module.get_submodule("columns")
    first, second = columns.get_submodule("embeddings").children()
    x = torch.tensor([[2.0, 7.5, 1.0]])
    expected = torch.cat([torch.tensor([7.5]), first.weight[2], second.weight[1]])  # type: ignore[index]
    assert torch.equal(columns(x)[0], expected)


def test_a_bag_leaves_padding_out_and_knows_no_order() -> None:
    """The mean is over the words alone; a text of nothing but padding is zero."""
    bag = TextBag(embedding=3).build(TOKENS).get_submodule("bag")
    weight = bag.get_submodule("embedding").weight
    x = torch.tensor([[0, 0, 0, 0, 4, 9, 4], [9, 4, 4, 0, 0, 0, 0], [0] * 7])
    found = bag(x)
    assert torch.allclose(found[0], (2 * weight[4] + weight[9]) / 3)  # type: ignore[index]
    assert torch.allclose(found[0], found[1])
    assert found[2].tolist() == [0, 0, 0]


def test_a_transformer_knows_the_order() -> None:
    """Positions make two orders of the same words two texts."""
    module = Transformer(width=8, heads=2).build(TOKENS).eval()
    x = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    assert not torch.allclose(module(x), module(x.flip(1)))


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_transformer_is_the_same_in_training_and_evaluation(
    pooling: Literal["mean", "last"],
) -> None:
    """Without dropout the fused kernels of evaluation give what training computes."""
    module = Transformer(width=8, heads=2, pooling=pooling).build(TOKENS)
    x = torch.randint(0, 30, (5, 7))
    trained = module.train()(x)
    with torch.no_grad():
        assert torch.allclose(module.eval()(x), trained, atol=1e-5)


def test_embeddings_and_positions_are_never_pruned() -> None:
    """The weights of linear and attention layers are prunable, and nothing else."""
    names = {
        tensor.name: tensor.prunable
        for tensor in FlatModel(Transformer(layers=1).build(TOKENS)).schema.tensors
    }
    assert {name for name, prunable in names.items() if prunable} == {
        "blocks.0.self_attn.in_proj_weight",
        "blocks.0.self_attn.out_proj.weight",
        "blocks.0.linear1.weight",
        "blocks.0.linear2.weight",
        "linear.weight",
    }
    assert {"embedding.weight", "positions"} < set(names)
    for policy, shape in ((Tabular(), TABLE), (TextBag(), TOKENS)):
        tensors = FlatModel(policy.build(shape)).schema.tensors
        assert {t.name for t in tensors if t.prunable} <= {"linear1.weight", "linear2.weight"}


def test_counting_sees_into_attention() -> None:
    """A module of the user's own with attention is counted by its products, not by its kernel."""
    length, width = 6, 4
    shape = DataShape(1, 1, (length, width), 3)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
            self.linear = nn.Linear(width, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mixed, _ = self.attention(x, x, x, need_weights=False)
            return self.linear(mixed[:, 0])  # type: ignore[no-any-return]

    products = 2 * length * width * (3 * width + width) + 2 * 2 * length**2 * width
    assert models_torch.count_flops(Own, shape) == products + 2 * width * 3
    assert torch.backends.mha.get_fastpath_enabled()


def test_layers_have_names_that_say_where_they_are() -> None:
    """Parameter names are part of a checkpoint: changing them is a breaking change."""
    names = [name for name, _ in Cnn(group_norm=True).build(MNIST).named_parameters()]
    assert names == [
        f"{layer}.{part}"
        for layer in ("conv1", "norm1", "conv2", "norm2", "linear1", "linear2")
        for part in ("weight", "bias")
    ]


def test_layers_of_a_resnet_have_names_that_say_where_they_are() -> None:
    """The same, for stages and blocks."""
    names = [name for name, _ in ResNet().build(MNIST).named_parameters()]
    inside = ("conv1.weight", "norm1.weight", "norm1.bias")
    inside += ("conv2.weight", "norm2.weight", "norm2.bias")
    shortcut = ("shortcut.0.weight", "shortcut.1.weight", "shortcut.1.bias")
    assert names == [
        *("conv.weight", "norm.weight", "norm.bias"),
        *(f"stage1_block1.{part}" for part in inside),
        *(f"stage{s}_block1.{part}" for s in (2, 3) for part in (*inside, *shortcut)),
        *("linear.weight", "linear.bias"),
    ]
    batch = ResNet(norm="batch").build(MNIST)
    assert [name for name, _ in batch.named_parameters()] == names


def test_a_relu_stands_between_linear_layers_and_not_after() -> None:
    """Logits may be negative."""
    layers = [type(layer).__name__ for layer in Mlp(hidden=(4, 5)).build(MNIST).children()]
    assert layers == ["Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize("image", [(1, 3, 28), (1, 28, 3), (64,), (28, 28)])
@pytest.mark.parametrize("method", ["parameters", "forward_flops", "activation_bytes", "build"])
def test_an_image_too_small_for_a_cnn_is_refused(image: tuple[int, ...], method: str) -> None:
    """The error names the shape, the rule and other models."""
    with pytest.raises(ExperimentError, match=r"at least 4, got \(.*\)\. Take model.kind mlp"):
        getattr(Cnn(), method)(DataShape(1, 1, image, 2))


@pytest.mark.parametrize(("depth", "least"), [(8, 4), (18, 8)])
def test_an_image_too_small_for_a_resnet_is_refused(depth: Literal[8, 18], least: int) -> None:
    """Each stage after the first halves it; the smallest image that can be is taken."""
    policy = ResNet(depth=depth, width=1)
    match = rf"model resnet .* at least {least}, got \(1, {least - 1}, 28\)"
    for method in (policy.parameters, policy.forward_flops, policy.activation_bytes, policy.build):
        with pytest.raises(ExperimentError, match=match):
            method(DataShape(1, 1, (1, least - 1, 28), 2))
    assert policy.parameters(DataShape(1, 1, (1, least, least), 2)) > 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"kind": "cnn", "kernel": 4}, "kernel must be odd.* got 4. Take 3 or 5"),
        ({"kind": "cnn", "channels": [16]}, "channels"),
        ({"kind": "mlp", "hidden": [0]}, "hidden"),
        ({"kind": "mlp", "widths": [3]}, "widths"),
        ({"kind": "vgg"}, "'logistic', 'mlp', 'cnn', 'resnet'"),
        ({"kind": "transformer", "heads": 5}, "multiple of heads = 5, got 64. Take 65"),
        ({"kind": "transformer", "dropout": 1}, "dropout"),
        ({"kind": "tabular", "embedding": 0}, "embedding"),
        ({"kind": "text-bag", "hidden": [0]}, "hidden"),
        ({"kind": "resnet", "depth": 9}, "8 or 18"),
        ({"kind": "resnet", "norm": "layer"}, "'group' or 'batch'"),
        ({"kind": "resnet", "width": 0}, "width"),
        ({"kind": "nowhere:net"}, "nowhere:net cannot be imported"),
    ],
)
def test_wrong_settings_are_refused(model: dict[str, object], message: str) -> None:
    """Each is a validation error that says what to write."""
    with pytest.raises(ValidationError, match=message):
        Holder.model_validate({"model": model})


@pytest.mark.usefixtures("own_module")
def test_an_own_function_is_a_model() -> None:
    """Other fields become keyword arguments; sizes are measured; it is written back whole."""
    given = {"model": {"kind": "own_models:net", "width": 6}}
    holder = Holder.model_validate(given)
    assert type(holder.model).__name__ == "OwnModel"
    assert holder.model.parameters(MNIST) == Mlp(hidden=(6,)).parameters(MNIST)
    assert holder.model.forward_flops(MNIST) == Mlp(hidden=(6,)).forward_flops(MNIST)
    assert holder.model.activation_bytes(MNIST) == Mlp(hidden=(6,)).activation_bytes(MNIST)
    assert isinstance(holder.model.build(MNIST), nn.Sequential)
    assert holder.model_dump() == given
    assert Holder.model_validate_json(holder.model_dump_json()) == holder


@pytest.mark.usefixtures("own_module")
def test_measuring_leaves_the_generator_alone_and_takes_batch_norm() -> None:
    """Batch norm, which refuses to train on one example, and dropout's mask are measured."""
    model = ADAPTER.validate_python({"kind": "own_models:net", "norm": True})
    before = torch.random.get_rng_state()
    assert model.parameters(MNIST) == Mlp(hidden=(4,)).parameters(MNIST) + 8
    assert model.forward_flops(MNIST) > 0
    floats_of_norm, least_mask = 4 * 4, 4
    plain = Mlp(hidden=(4,)).activation_bytes(MNIST)
    assert model.activation_bytes(MNIST) >= plain + floats_of_norm + least_mask
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.usefixtures("own_module")
def test_an_own_class_is_a_model() -> None:
    """A class of the family keeps its own fields and methods."""
    model = ADAPTER.validate_python({"kind": "own_models:Half", "share": 0.1})
    assert model.parameters(MNIST) == 785
    assert ADAPTER.validate_json(ADAPTER.dump_json(model)) == model


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "own_models:net", "depth": 2}, "unexpected keyword argument 'depth'"),
        ({"kind": "own_models:gone"}, "own_models:gone cannot be imported"),
        ({"kind": "own_models:Half", "depth": 2}, "depth"),
        ({"kind": "own_models:Stranger"}, "derived from actors.learning.modelling.ModelPolicy"),
        ({"kind": "math:pi"}, "must be a function"),
    ],
)
def test_an_own_model_that_does_not_fit_is_refused_when_read(
    fields: dict[str, object], message: str
) -> None:
    """A wrong name or argument is a validation error, not a failure in an actor."""
    with pytest.raises(ValidationError, match=message):
        ADAPTER.validate_python(fields)


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong_classes", r"here \(1, 10\), but it returns \(1, 3\)"),
        ("wrong_input", r"inputs \(1, 1, 28, 28\) .* but it fails"),
        ("no_module", r"must return a torch\.nn\.Module, got int"),
        (
            "raises",
            r"own_models:raises raised KeyError: 'nope' \(own_models\.py, line \d+\)\. Mend",
        ),
        ("Broken", r"but it fails: KeyError: 'nope'\. Build it from the shape"),
    ],
)
def test_an_own_module_that_does_not_fit_the_data_is_refused(name: str, message: str) -> None:
    """The error names what came out and what should have."""
    model: Callable[[DataShape], int] = ADAPTER.validate_python(
        {"kind": f"own_models:{name}"}
    ).forward_flops
    with pytest.raises(ExperimentError, match=message):
        model(MNIST)
