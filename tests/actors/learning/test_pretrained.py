"""Is a classifier behind an encoder trained where it says, at the cost that it says?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from actors.learning import models_torch
from actors.learning.encoders import EfficientNetLite0, EncoderPolicy, MiniLmL6, Onnx, VitS14
from actors.learning.examples import DataShape
from actors.learning.models import Model, ModelPolicy, Pretrained
from actors.learning.subspaces import (
    All,
    LastBlocks,
    LayerNorms,
    Lora,
    NoSubspace,
    Prompt,
    Subspace,
    SubspacePolicy,
)
from policies.training.flat_torch import FlatModel
from policies.types import ExperimentError

MODELS: TypeAdapter[ModelPolicy] = TypeAdapter(Model)
SUBSPACES: TypeAdapter[SubspacePolicy] = TypeAdapter(Subspace)
MEMBERS = get_args(get_args(Subspace)[0])
SAMPLES: dict[type[SubspacePolicy], list[SubspacePolicy]] = {
    NoSubspace: [NoSubspace()],
    LayerNorms: [LayerNorms()],
    LastBlocks: [LastBlocks()],
    Lora: [Lora(), Lora(rank=2, scale=0.5)],
    Prompt: [Prompt(), Prompt(tokens=3)],
    All: [All()],
}
EVERY = [sample for samples in SAMPLES.values() for sample in samples]
IMAGES = DataShape(1, 1, (1, 28, 28), 10)
PIECES = DataShape(1, 1, (12,), 5, vocabulary=30_522)
VIT, CONV, TEXT = VitS14(blocks=2), EfficientNetLite0(pixels=32), MiniLmL6()
ENCODERS: list[tuple[EncoderPolicy, DataShape]] = [(VIT, IMAGES), (CONV, IMAGES), (TEXT, PIECES)]
TRANSFORMERS = (LayerNorms, Lora, Prompt)
TWICE = (Lora(), Prompt(), LastBlocks())
TRIPLES = [
    (encoder, trains, shape)
    for encoder, shape in ENCODERS
    for trains in EVERY
    if not (encoder is CONV and isinstance(trains, TRANSFORMERS))
    and not (encoder is TEXT and trains in TWICE)
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Let small products not wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def usable(encoder: EncoderPolicy) -> EncoderPolicy:
    """Return it, or skip the test where its package is not installed."""
    if (lost := encoder.missing()) is not None:
        pytest.skip(lost)
    return encoder


def built(model: ModelPolicy, shape: DataShape, seed: int = 5) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return model.build(shape)


def some(shape: DataShape, examples: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    if shape.vocabulary:
        return torch.randint(1, 999, (examples, *shape.input), generator=generator)
    return torch.randn(examples, *shape.input, generator=generator)


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def test_every_member_has_a_sample() -> None:
    """A new member of the union fails here until SAMPLES holds one."""
    assert set(MEMBERS) == set(SAMPLES)
    for sample in EVERY:
        assert SUBSPACES.validate_json(sample.model_dump_json()) == sample
        assert SUBSPACES.validate_python({"kind": sample.kind}).kind == sample.kind


@pytest.mark.parametrize("head", ["frozen", "trained"])
@pytest.mark.parametrize(("encoder", "trains", "shape"), TRIPLES, ids=repr)
def test_arithmetic_agrees_with_torch(
    encoder: EncoderPolicy, trains: SubspacePolicy, shape: DataShape, head: Any
) -> None:
    """Trained and frozen numbers and FLOPs are the module's; bytes are at least what is kept."""
    model = Pretrained(encoder=usable(encoder), trains=trains, head=head, tail=(6,))
    module = built(model, shape)
    assert model.parameters(shape) == sum(p.numel() for p in trained(module).values())
    frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    assert model.frozen_parameters(shape) == frozen
    x = some(shape)
    with torch.no_grad(), models_torch.counted() as counter:
        logits = module(x)
    assert logits.shape == (2, shape.classes)
    assert 2 * model.forward_flops(shape) == counter.get_total_flops()
    kept = models_torch.kept_bytes(lambda: module(x), module) // 2
    whole = isinstance(trains, NoSubspace | All | LastBlocks)
    exact = whole if head == "frozen" else isinstance(trains, All)
    assert (
        (kept == model.activation_bytes(shape))
        if exact
        else (kept <= model.activation_bytes(shape))
    )


@pytest.mark.parametrize(("encoder", "trains", "shape"), TRIPLES, ids=repr)
def test_a_subspace_touches_what_it_says_and_nothing_before_it(
    encoder: EncoderPolicy, trains: SubspacePolicy, shape: DataShape
) -> None:
    """After a step with gradients only trained numbers differ; none lies before the first block."""
    module = built(Pretrained(encoder=usable(encoder), trains=trains), shape)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for _ in range(2):  # LoRA's first matrix moves once its second is no longer zero
        module(some(shape)).square().sum().backward()
        with torch.no_grad():
            for p in trained(module).values():
                p.sub_(0.01 * p.grad)  # type: ignore[operator]
    after = dict(module.named_parameters())
    changed = {name for name, p in after.items() if not torch.equal(p, before[name])}
    assert changed == set(trained(module))
    blocks = len(module.get_submodule("blocks"))  # type: ignore[arg-type]
    numbers = {int(name.split(".")[1]) for name in changed if name.startswith("blocks.")}
    assert min(numbers, default=blocks) == trains.first_block(blocks)
    assert not [name for name in changed if name.startswith("embedding")]
    fresh = dict(built(Pretrained(encoder=encoder), shape).named_parameters())
    shared = set(fresh) & set(before) - {name for name in fresh if name.startswith("tail")}
    assert all(torch.equal(fresh[name], before[name]) for name in shared), "values were shared"


@pytest.mark.parametrize(
    ("trains", "pattern"),
    [
        (LayerNorms(), {"norm1", "norm2", "norm"}),
        (Lora(), {"down", "up"}),
        (Prompt(), {"prompt"}),
    ],
)
def test_what_is_trained_by_name(trains: SubspacePolicy, pattern: set[str]) -> None:
    """Names are part of a checkpoint, and say what it is."""
    module = built(Pretrained(encoder=usable(VIT), trains=trains), IMAGES)
    names = [name for name in trained(module) if not name.startswith("tail.")]
    last = {part for name in names for part in name.split(".")[-2:]} - {"weight", "bias", "0"}
    assert last == pattern
    assert [name for name in trained(module) if name.startswith("tail.")] == [
        "tail.linear1.weight",
        "tail.linear1.bias",
    ]


@pytest.mark.parametrize(("encoder", "shape"), [(VIT, IMAGES), (TEXT, PIECES)], ids=repr)
def test_lora_changes_nothing_at_first(encoder: EncoderPolicy, shape: DataShape) -> None:
    """Its second matrix is zero, so that features are the encoder's, bit for bit."""
    module = built(Pretrained(encoder=usable(encoder), trains=Lora(rank=3, scale=2)), shape)
    plain = encoder.build(shape)
    x = some(shape)
    with torch.no_grad():
        s = module.get_submodule("embedding")(x)
        for block in module.get_submodule("blocks"):  # type: ignore[attr-defined]
            s = block(s)
        assert torch.equal(module.get_submodule("pool")(s), plain(x))


@pytest.mark.parametrize(("encoder", "shape"), [(VIT, IMAGES), (TEXT, PIECES)], ids=repr)
def test_a_prompt_is_seen_and_left_out_of_the_mean(
    encoder: EncoderPolicy, shape: DataShape
) -> None:
    """The first block gets the tokens behind its own; the pooling drops what they give."""
    module = built(Pretrained(encoder=usable(encoder), trains=Prompt(tokens=2)), shape)
    plain, x = encoder.build(shape), some(shape)
    prompted, pool = module.get_submodule("blocks.0"), module.get_submodule("pool")
    with torch.no_grad():
        s = plain.embedding(x)
        prompt = prompted.get_parameter("prompt")
        columns = torch.ones(2, s.shape[-1] - prompt.shape[1])
        more = torch.cat([prompt, columns], dim=1).expand(len(x), -1, -1)
        longer = prompted(s)
        assert torch.equal(longer, plain.blocks[0](torch.cat([s, more], dim=1)))
        tokens = s.shape[1]
        spoilt = torch.cat([longer[:, :tokens], 100 + longer[:, tokens:]], dim=1)
        assert torch.equal(pool(spoilt), pool(longer))
        assert not torch.equal(longer[:, :tokens], plain.blocks[0](s))


@pytest.mark.parametrize(("encoder", "trains", "shape"), TRIPLES, ids=repr)
def test_only_what_is_trained_is_in_the_flat_model(
    encoder: EncoderPolicy, trains: SubspacePolicy, shape: DataShape
) -> None:
    """Frozen weights and statistics are no part of an update."""
    model = Pretrained(encoder=usable(encoder), trains=trains)
    module = built(model, shape)
    names = set(trained(module))
    flat = FlatModel(module)
    assert flat.schema.parameters == model.parameters(shape)
    assert flat.schema.buffers == 0
    assert {tensor.name for tensor in flat.schema.tensors} == names
    assert flat.chain is None


@pytest.mark.parametrize(("encoder", "shape"), ENCODERS, ids=repr)
def test_equal_seeds_give_equal_models(encoder: EncoderPolicy, shape: DataShape) -> None:
    """The tail is drawn; the encoder is not."""
    model = Pretrained(encoder=usable(encoder), tail=(4,))
    one, same, other = (dict(built(model, shape, seed).named_parameters()) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    differ = {name for name in one if not torch.equal(one[name], other[name])}
    assert {name.split(".")[0] for name in differ} == {"tail"}


def test_the_encoder_stays_in_eval_mode() -> None:
    """Only the tail is told that it is trained."""
    module = built(Pretrained(encoder=usable(CONV)), IMAGES).train()
    assert {name.split(".")[0] for name, one in module.named_modules() if one.training} == {
        "",
        "tail",
    }


# ------------------------------------------------------------------ a network of one's own


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module `own_bodies` where it can be imported while the test runs."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_bodies", raising=False)
    (tmp_path / "own_bodies.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def net(shape):\n"
        "    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]\n"
        "    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "def black_box(shape):\n"
        "    return lambda x: torch.from_numpy(x.detach().numpy().mean(axis=(2, 3)))\n"
    )


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("trains", [NoSubspace(), LastBlocks(), All()], ids=repr)
@pytest.mark.parametrize("head", ["frozen", "trained"])
def test_an_opaque_encoder_does_as_well(trains: SubspacePolicy, head: str) -> None:
    """Adapter, network and tail; the network's statistics travel with no update."""
    given = {"kind": "pretrained", "encoder": {"kind": "own_bodies:net"}, "head": head}
    model = MODELS.validate_python({**given, "trains": trains.model_dump()})
    module = built(model, IMAGES)
    assert model.parameters(IMAGES) == sum(p.numel() for p in trained(module).values())
    assert model.activation_bytes(IMAGES) > 0
    statistics = module.get_submodule("blocks.0.network.1")
    kept = statistics.running_mean.clone()  # type: ignore[operator]
    flat = FlatModel(module)
    flat.module.train()(some(IMAGES)).sum().backward()
    assert flat.schema.buffers == 0
    assert torch.equal(statistics.running_mean, kept)  # type: ignore[arg-type]
    assert MODELS.validate_json(model.model_dump_json()) == model


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trains": {"kind": "all"}}, "trains all needs parameters, .* shows none. Take none"),
        ({"trains": {"kind": "lora"}}, "lora needs the attention of a transformer.*last-blocks"),
        ({"trains": {"kind": "layer-norms"}}, "layer-norms needs layer norms.*Take last-blocks"),
        ({"trains": {"kind": "last-blocks", "count": 2}}, "at most the 1 blocks .* got 2. Lower"),
    ],
)
def test_what_an_encoder_lacks_is_refused(fields: dict[str, Any], message: str) -> None:
    """The error says what is needed and what to take, before anything is built."""
    given = {"kind": "pretrained", "encoder": {"kind": "own_bodies:black_box"}, **fields}
    model = MODELS.validate_python(given)
    for method in (model.parameters, model.build):
        with pytest.raises(ExperimentError, match=message):
            method(IMAGES)


@pytest.mark.parametrize("trains", [Lora(), Prompt(), LayerNorms()], ids=repr)
def test_a_convolutional_network_has_no_attention_and_no_layer_norms(
    trains: SubspacePolicy,
) -> None:
    """The way out names encoders that have."""
    with pytest.raises(ExperimentError, match=r"efficientnet-lite0 have none .* vit-s14"):
        Pretrained(encoder=CONV, trains=trains).parameters(IMAGES)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": {}}, "kind"),
        ({"encoder": {"kind": "vit-s14"}, "head": "thawed"}, "'frozen' or 'trained'"),
        ({"encoder": {"kind": "vit-s14"}, "tail": [0]}, "tail"),
        ({"encoder": {"kind": "vit-s14"}, "trains": {"kind": "lora", "rank": 0}}, "rank"),
        ({"encoder": {"kind": "vit-s14"}, "trains": {"kind": "prompt", "tokens": 0}}, "tokens"),
    ],
)
def test_wrong_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    """Each is a validation error."""
    with pytest.raises(ValidationError, match=message):
        MODELS.validate_python({"kind": "pretrained", **fields})


def test_what_is_missing_is_told_by_the_model() -> None:
    """The model asks its encoder; a model that draws all its weights lacks nothing."""
    model = Pretrained(encoder=Onnx(path=Path("nowhere.onnx")))
    assert model.missing() == model.encoder.missing()
    plain = MODELS.validate_python({"kind": "logistic"})
    assert plain.missing() is None
    assert plain.origin() is None
    assert plain.frozen_parameters(IMAGES) == 0


@pytest.mark.parametrize("head", ["frozen", "trained"])
@pytest.mark.parametrize(("encoder", "shape"), ENCODERS, ids=lambda case: getattr(case, "kind", ""))
def test_wherever_it_is_cut_the_parts_make_the_whole(
    encoder: EncoderPolicy, shape: DataShape, head: Any
) -> None:
    """The work of three parts is that of the model; all of the encoder is all that is frozen."""
    model = Pretrained(encoder=encoder, head=head)
    blocks = len(encoder.cuts(shape)) - 1
    cuts = [model.ends(shape, cut) for cut in range(blocks + 2)]
    for ends in cuts:
        parts = ends.head_flops + ends.body_flops + ends.tail_flops
        assert parts == model.forward_flops(shape)
        assert ends.parameters == model.parameters(shape)
    sent = [ends.equipment_bytes for ends in cuts]
    assert sent == sorted(sent)
    assert sent[-1] == 4 * model.frozen_parameters(shape)
    assert [ends.whole for ends in cuts] == [False] * (blocks + 1) + [True]
    assert cuts[-1].body_flops == 0
    assert cuts[-1].smashed == (encoder.features(shape),)
    assert cuts[-1].activation_bytes == model.activation_bytes(shape)
    with pytest.raises(ExperimentError, match=f"must be all, or at most {blocks}, got"):
        model.ends(shape, blocks + 2)
    with pytest.raises(ExperimentError, match=f"must be at most 0, got {blocks + 1}"):
        Pretrained(encoder=encoder, head=head, trains=All()).ends(shape, blocks + 1)
