"""How far above the least that they could take are messages?

The limit: 2 % of the entropy bound and 48 bytes, for 100,000 parameters and more, from 0.1 % to
50 %. Of the five varints in the header, four take two bytes, as in a long run with many clients.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.types import Address, Positions, ValueCoding, Version
from policies.update import Content, Mask, Masked, ModelSchema, Quantised, Sparse, TensorSpec
from policies.wire import Header, decode, dequantise, encode, entropy_bytes, quantise
from policies.wire.positions import Run

HEADER = Header("delta", Address(300, 2000), Version(3000, 1), 600, 0.5)
NO_BUFFERS = np.empty(0, dtype=np.float32)
DENSITIES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.42, 0.44, 0.5)


def schema_of(sizes: list[int]) -> ModelSchema:
    return ModelSchema(tuple(TensorSpec(f"t{i}", (n,)) for i, n in enumerate(sizes)))


def resnet(stages: list[int], width: int, *, shortcuts: bool) -> list[int]:
    """Return the sizes of a residual network's tensors: convolutions, norms, the last layer."""
    sizes, channels = [27 * width, width, width], width
    for stage, blocks in enumerate(stages):
        wide = width << stage
        for block in range(blocks):
            sizes += [9 * channels * wide, wide, wide, 9 * wide * wide, wide, wide]
            if shortcuts and stage and not block:
                sizes += [channels * wide, wide, wide]
            channels = wide
    return [*sizes, 10 * channels, 10]


NETS = {
    "one": schema_of([100_000]),
    "mlp": schema_of([784 * 128, 128, 1280, 10]),
    "resnet-18, narrow": schema_of(resnet([2, 2, 2, 2], 6, shortcuts=True)),
    "resnet-20": schema_of(resnet([3, 3, 3], 16, shortcuts=False)),
}


def excess(content: Content, schema: ModelSchema, known: Mask | None = None) -> float:
    """Return the bytes beyond 1.02 times the bound."""
    message = encode(HEADER, content, NO_BUFFERS, schema, known)
    masks = {known.epoch: known}.__getitem__ if known else None
    read = decode(message, schema, masks).content
    assert read.values.tobytes() == content.values.tobytes()
    return message.size - 1.02 * entropy_bytes(content, NO_BUFFERS, schema, known)


def written(positions: Positions, coding: ValueCoding, schema: ModelSchema) -> Sparse:
    """Return values at positions in a coding."""
    values = np.random.default_rng(0).standard_normal(positions.size, dtype=np.float32)
    values[values == 0] = 1
    if coding == "fp32":
        return Sparse(positions, values)
    code = quantise(values, positions, coding, schema)
    return Sparse(positions, dequantise(code, positions, schema), code)


def drawn(schema: ModelSchema, density: float, spread: float, seed: int) -> Positions:
    """Return a support whose density differs between tensors, by a factor e^spread as a rule."""
    rng = np.random.default_rng(seed)
    weights = np.repeat(np.exp(spread * rng.standard_normal(len(schema.sizes))), schema.sizes)
    keys = rng.standard_exponential(schema.parameters) / weights
    count = round(density * schema.parameters)
    return np.sort(np.argpartition(keys, count)[:count]).astype(np.int64)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("name", NETS)
def test_within_the_limit(name: str, density: float) -> None:
    """One bit a value, even or uneven over the tensors, alone or in the others' company."""
    schema = NETS[name]
    for seed, spread in enumerate((0.0, 0.5, 1.0)):
        content = written(drawn(schema, density, spread, seed), "sign", schema)
        assert excess(content, schema) <= 48


@pytest.mark.parametrize("coding", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("density", [0.001, 0.01, 0.5])
def test_other_codings(coding: ValueCoding, density: float) -> None:
    """Longer values leave more room; scales count on both sides."""
    for name in ("mlp", "resnet-20"):
        schema = NETS[name]
        assert excess(written(drawn(schema, density, 1.0, 3), coding, schema), schema) <= 48


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["one", "mlp", "resnet-20"]),
    st.sampled_from(DENSITIES),
    st.lists(st.floats(0, 1), min_size=1, max_size=6),
    st.booleans(),
)
def test_clusters(name: str, density: float, centres: list[float], regular: bool) -> None:
    """Blocks of neighbours, or every nth entry of a stretch, stay within the limit too."""
    schema = NETS[name]
    size, count = schema.parameters, round(density * schema.parameters)
    step = 2 if regular else 1
    each = -(-count // len(centres))
    kept = np.zeros(size, dtype=np.bool_)
    for centre in centres:
        first = int(centre * (size - step * each))
        kept[first : first + step * each : step] = True
    content = written(np.flatnonzero(kept), "sign", schema)
    assert excess(content, schema) <= 48


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("where", ["first", "last", "ends", "regular", "but the last"])
def test_extremes(where: str, density: float) -> None:
    """The cost of a support hardly depends on where it lies."""
    size, count = 100_000, round(density * 100_000)
    positions = {
        "first": np.arange(count),
        "last": np.arange(size - count, size),
        "ends": np.append(np.arange(count - 1), size - 1),
        "regular": np.arange(count) * (size // count),
        "but the last": np.append(0, np.arange(size - count + 1, size)),
    }[where]
    schema = NETS["one"]
    assert excess(written(positions.astype(np.int64), "sign", schema), schema) <= 48


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
def test_masks(share: float) -> None:
    """A mask costs what its choices do, whole or as a change."""
    schema = NETS["resnet-20"]
    old = Mask(3, drawn(schema, 0.5, 1.0, 0))
    rng = np.random.default_rng(1)
    new = Mask(4, old.positions[rng.random(old.positions.size) > share])
    code = Quantised("sign", np.ones(new.positions.size, dtype=np.int8))
    content = Masked(new, np.ones(new.positions.size, dtype=np.float32), code)
    for known in (None, old, new):
        assert excess(content, schema, known) <= 48


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 1000, 999_983])
def test_runs_by_rule(size: int) -> None:
    """What follows from size and count stays in range for every count."""
    counts = range(size + 1) if size < 1001 else (0, 1, 2, 5, 437_492, 437_493, 562_491, size)
    for count in counts:
        run = Run(size, count)
        bitmap = 7 / 16 <= count / size <= 9 / 16
        assert (run.bitmap, run.gaps) == (bitmap, 0 if bitmap else min(count, size - count))
        if run.gaps:
            mean = (size - run.gaps) / (run.gaps + 1) / 2**run.low
            assert mean < 16
            assert run.low == 0 or mean >= 8
            assert 2 ** ((run.table - 64.7) / 8) <= mean < 2 ** ((run.table - 63.3) / 8)


def test_the_networks() -> None:
    """The networks are what their names say: 100,000 parameters and more, up to 62 tensors."""
    found = {name: (schema.parameters, len(schema.sizes)) for name, schema in NETS.items()}
    assert found == {
        "one": (100_000, 1),
        "mlp": (101_770, 4),
        "resnet-18, narrow": (99_616, 62),
        "resnet-20": (269_722, 59),
    }
    assert all(list(accumulate(s.sizes))[-1] == s.parameters for s in NETS.values())
