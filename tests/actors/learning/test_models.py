"""Does the arithmetic about a model agree with the module that torch builds?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import nn

from actors.learning import models_torch
from actors.learning.data import DataShape
from actors.learning.models import Cnn, Logistic, Mlp, Model, ModelPolicy
from policies.base import Settings
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
}
EVERY_SAMPLE = [sample for samples in SAMPLES.values() for sample in samples]
SHAPES = [DataShape(10, 5, (1, 28, 28), 10), DataShape(10, 5, (3, 9, 14), 4)]
MNIST = SHAPES[0]


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
        "class Half(Logistic):\n"
        "    kind: str = 'own_models:Half'\n"
        "    share: float = 0.5\n"
        "    def parameters(self, shape):\n"
        "        return int(self.share * super().parameters(shape))\n"
        "class Stranger(Policy):\n"
        "    pass\n"
    )


def counted_flops(policy: ModelPolicy, shape: DataShape) -> int:
    return models_torch.count_flops(lambda: policy.build(shape), shape)


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


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_arithmetic_agrees_with_torch(policy: ModelPolicy, shape: DataShape) -> None:
    """Parameters, FLOPs of convolutions and matrix products, and logits of the right shape."""
    module = policy.build(shape)
    assert policy.parameters(shape) == sum(p.numel() for p in module.parameters())
    assert policy.forward_flops(shape) == counted_flops(policy, shape)
    assert module(torch.zeros(3, *shape.input)).shape == (3, shape.classes)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_activations_are_what_autograd_keeps(policy: ModelPolicy, shape: DataShape) -> None:
    """The estimate leaves out a norm's two numbers a group, and nothing else."""
    measured = models_torch.count_activation_bytes(lambda: policy.build(shape), shape)
    assert policy.activation_bytes(shape) == pytest.approx(measured, rel=0.02)
    if not getattr(policy, "group_norm", False):
        assert policy.activation_bytes(shape) == measured


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


def test_sizes_by_hand() -> None:
    """The published sizes: 7,850 for MNIST's regression, 1,663,370 for McMahan's CNN."""
    assert Logistic().parameters(MNIST) == 784 * 10 + 10
    assert Logistic().forward_flops(MNIST) == 2 * 784 * 10
    assert Mlp(hidden=(200, 200)).parameters(MNIST) == 199_210
    assert Cnn(channels=(32, 64), hidden=512).parameters(MNIST) == 1_663_370
    assert Mlp(hidden=(200,)).activation_bytes(MNIST) == 4 * (784 + 200)


@pytest.mark.parametrize("policy", EVERY_SAMPLE, ids=repr)
def test_equal_seeds_give_equal_weights(policy: ModelPolicy) -> None:
    """First weights come from torch's generator, and differ when it does."""

    def weights(seed: int) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.utils.parameters_to_vector(policy.build(MNIST).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_layers_have_names_that_say_where_they_are() -> None:
    """Parameter names are part of a checkpoint: changing them is a breaking change."""
    names = [name for name, _ in Cnn(group_norm=True).build(MNIST).named_parameters()]
    assert names == [
        f"{layer}.{part}"
        for layer in ("conv1", "norm1", "conv2", "norm2", "linear1", "linear2")
        for part in ("weight", "bias")
    ]


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


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"kind": "cnn", "kernel": 4}, "kernel must be odd.* got 4. Take 3 or 5"),
        ({"kind": "cnn", "channels": [16]}, "channels"),
        ({"kind": "mlp", "hidden": [0]}, "hidden"),
        ({"kind": "mlp", "widths": [3]}, "widths"),
        ({"kind": "resnet"}, "'logistic', 'mlp', 'cnn'"),
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
        ({"kind": "own_models:Stranger"}, "derived from actors.learning.models.ModelPolicy"),
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
    ],
)
def test_an_own_module_that_does_not_fit_the_data_is_refused(name: str, message: str) -> None:
    """The error names what came out and what should have."""
    model: Callable[[DataShape], int] = ADAPTER.validate_python(
        {"kind": f"own_models:{name}"}
    ).forward_flops
    with pytest.raises(ExperimentError, match=message):
        model(MNIST)
