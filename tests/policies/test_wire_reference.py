"""Is docs/wire-format.md enough to read a message? Is what was written once still read the same?

`RangeCoder`, `RangeDecoder` and `Reading` follow the page and use neither numpy nor the library
that does the work elsewhere. The golden files were written once, by `write_golden`; a change of
the format needs a new number, and new files.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate, pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.types import Address, Buffer, Vector, Version
from policies.update import (
    Content,
    Dense,
    Mask,
    Masked,
    ModelSchema,
    Quantised,
    Sparse,
    TensorSpec,
)
from policies.wire import Header, decode, dequantise, encode
from policies.wire.range_coder import MEANS, RangeReader, RangeWriter, frequencies, geometric
from policies.wire.range_coder import uniform as uniform_model
from policies.wire.reader import WireError

GOLDEN = Path(__file__).parent / "golden"
WORD, STATE = 1 << 32, 1 << 64


# ---------------------------------------------------------------- the page, in plain Python


def means() -> list[int]:
    """Return the ladder as the page gives it."""
    octave = [65536, 71468, 77936, 84990, 92682, 101070, 110218, 120194]
    return [(octave[j % 8] * 2 ** (j // 8)) // 256 for j in range(120)]


@cache
def table(index: int) -> list[int]:
    """Return the frequencies of a geometric table."""
    mean, tail, found = means()[index], 2**24 - 256, []
    for _ in range(255):
        beyond = tail * mean // (mean + 65536)
        found.append(tail - beyond + 1)
        tail = beyond
    return [*found, tail + 1]


def nearest(total: int, count: int) -> int:
    """Return the table for a mean of total / count."""
    mean = total * 65536 // count
    return max([j for j, m in enumerate(means()) if m <= mean + mean // 23], default=0)


class RangeCoder:
    """Writes symbols, the carry kept in one long number."""

    def __init__(self) -> None:
        self.low, self.range, self.words = 0, STATE - 1, 0

    def put(self, frequency: Sequence[int], symbol: int) -> None:
        step = self.range >> 24
        self.low += step * sum(frequency[:symbol])
        self.range = step * frequency[symbol]
        if self.range < WORD:
            self.low, self.range, self.words = self.low << 32, self.range << 32, self.words + 1

    def finish(self) -> list[int]:
        if self.range == STATE - 1:
            return []
        point = self.low + WORD - 1 >> 32
        words = [point] if (self.low + self.range) >> 32 != point else [point << 32]
        count = self.words + (1 if words[0] == point else 2)
        return [words[0] >> 32 * (count - 1 - i) & WORD - 1 for i in range(count)]


class RangeDecoder:
    """Reads symbols."""

    def __init__(self, stream: bytes) -> None:
        self.words = iter(struct.unpack(f"<{len(stream) // 4}I", stream[: len(stream) // 4 * 4]))
        self.point = self.word() << 32 | self.word()  # counted from the low end of the interval
        self.range = STATE - 1
        self.taken: list[tuple[Sequence[int], int]] = []

    def word(self) -> int:
        return next(self.words, 0)

    def get(self, frequency: Sequence[int]) -> int:
        step = self.range >> 24
        quantile = self.point // step
        assert quantile < 2**24
        ends = list(accumulate(frequency))
        symbol = next(s for s, end in enumerate(ends) if quantile < end)
        self.point -= step * (ends[symbol] - frequency[symbol])
        self.range = step * frequency[symbol]
        if self.range < WORD:
            self.point, self.range = self.point << 32 | self.word(), self.range << 32
        self.taken.append((frequency, symbol))
        return symbol

    def get_bits(self, bits: int) -> int:
        number = 0
        while bits:
            taken = min(bits, 8)
            number = number << taken | self.get([2 ** (24 - taken)] * 2**taken)
            bits -= taken
        return number


class Reading:
    """A good message, read as the page says."""

    def __init__(
        self, message: bytes, schema: ModelSchema, masks: dict[int, Sequence[int]]
    ) -> None:
        self.message, self.at, self.masks = message, 12, masks
        assert message[:3] == b"LC\2"
        self.kind, self.layout, self.coding = message[3] & 3, message[3] >> 2 & 7, message[3] >> 5
        self.names = [self.number() for _ in range(5)]
        (self.scalar,) = struct.unpack("<f", self.take(4))
        sizes = [prod(t.shape) for t in schema.tensors if not t.buffer]
        self.offsets = [0, *accumulate(sizes)]
        self.epoch: int | None = None
        self.old: Sequence[int] = ()
        self.read_head(sizes)
        extra = sum(prod(t.shape) for t in schema.tensors if t.buffer)
        width = [32, 16, 16, 8, 1, 1][self.coding]
        tail = 4 * self.scales + (self.count * width + 7) // 8 + 4 * extra
        self.read_coded(len(message) - tail)
        scales = struct.unpack(f"<{self.scales}f", self.take(4 * self.scales))
        packed = self.take((self.count * width + 7) // 8)
        each = [self.scale_of(p, scales) for p in self.positions]
        self.values = values_of(self.coding, packed, self.count, self.levels, each)
        self.buffers = struct.unpack(f"<{extra}f", self.take(4 * extra))
        assert self.at == len(message)

    def read_head(self, sizes: list[int]) -> None:
        """Read what the layout and the coding say before the coded part."""
        if self.layout >= 2:
            self.epoch = self.number()
        if self.layout in {2, 4}:
            self.old = self.masks[self.epoch or 0]
            self.take(4)
        if self.layout == 4:
            self.epoch = (self.epoch or 0) + self.number()
            sizes = [sum(a <= p < b for p in self.old) for a, b in pairwise(self.offsets)]
        field = self.number() if self.layout in {1, 3, 4} else 0
        self.total, self.joined = field >> 1, field & 1
        self.sizes = [] if self.layout in {0, 2} else [sum(sizes)] if self.joined else sizes
        left = len(self.old)
        counts = {0: self.offsets[-1], 2: left, 4: left - self.total}
        self.count = counts.get(self.layout, self.total)
        self.block = self.number() if self.coding in {3, 4} else None
        self.level = table(self.take(1)[0]) if self.coding == 4 else None
        self.scales = 0
        if self.block is not None:
            blocks = -(-self.offsets[-1] // self.block) if self.block else 0
            self.scales = blocks or len(self.offsets) - 1

    def read_coded(self, end: int) -> None:
        """Read the range-coded words and the raw bits."""
        start, part = self.at, self.message[self.at : end]
        self.at = end
        coder = RangeDecoder(part)
        counts = [self.total] if self.joined else self.counts(coder)
        runs = list(zip(self.sizes, counts, strict=True))
        raw = (sum(raw_of(*run) for run in runs) + 7) // 8
        padding = -(start + raw) % 4 if self.coding == 0 else 0
        stream = part[: len(part) - raw - padding]
        bits = bits_of(part[len(stream) : len(stream) + raw])
        coded: list[int] = []
        offset = 0
        for size, present in runs:
            coded += [offset + p for p in read_run(coder, bits, size, present)]
            offset += size
        self.levels = [coder.get(self.level) + 1 for _ in range(self.count)] if self.level else []
        again = RangeCoder()
        for frequency, symbol in coder.taken:
            again.put(frequency, symbol)
        assert struct.pack(f"<{len(stream) // 4}I", *again.finish()) == stream
        removed = set(coded)
        self.positions = {
            0: list(range(self.count)),
            2: list(self.old),
            4: [p for i, p in enumerate(self.old) if i not in removed],
        }.get(self.layout, coded)

    def take(self, count: int) -> bytes:
        self.at += count
        return self.message[self.at - count : self.at]

    def number(self) -> int:
        byte = self.take(1)[0]
        return byte if byte < 128 else byte - 128 + 128 * self.number()

    def counts(self, coder: RangeDecoder) -> list[int]:
        entries, present, found = sum(self.sizes), self.total, []
        for size in self.sizes:
            count = min(size, present)
            if 0 < size < entries and 0 < present < entries:
                share = (2 * present * size + entries) // (2 * entries)
                symbol = coder.get(table(72 if share else 40))
                s = share.bit_length()
                near = sorted(range(2 * s + 1), key=lambda n: (abs(n - s), n > s))
                length = near[symbol] if symbol <= 2 * s else symbol
                count = 2 ** (length - 1) + coder.get_bits(length - 1) if length else 0
            entries -= size
            present -= count
            found.append(count)
        return found

    def scale_of(self, position: int, scales: Sequence[float]) -> float:
        if self.block is None:
            return 1.0
        if self.block:
            return scales[position // self.block]
        return scales[next(i for i, end in enumerate(self.offsets[1:]) if position < end)]


def bits_of(packed: bytes) -> Iterator[int]:
    return (byte >> i & 1 for byte in packed for i in range(8))


def is_bitmap(size: int, count: int) -> bool:
    return size > 0 and 7 * size <= 16 * count <= 9 * size


def low_of(size: int, gaps: int) -> int:
    return max(((size - gaps) // (gaps + 1)).bit_length() - 4, 0)


def raw_of(size: int, count: int) -> int:
    gaps = min(count, size - count)
    return size if is_bitmap(size, count) else gaps * low_of(size, gaps)


def read_run(coder: RangeDecoder, bits: Iterator[int], size: int, count: int) -> list[int]:
    """Return the positions of a run."""
    if is_bitmap(size, count):
        return [p for p in range(size) if next(bits)]
    gaps = min(count, size - count)
    low = low_of(size, gaps)
    frequency = table(nearest(size - gaps, (gaps + 1) << low))
    high = [0] * gaps
    waiting = list(range(gaps))
    while waiting:
        symbols = [coder.get(frequency) for _ in waiting]
        for which, symbol in zip(waiting, symbols, strict=True):
            high[which] += symbol
        waiting = [w for w, symbol in zip(waiting, symbols, strict=True) if symbol == 255]
    found, at = [], -1
    for number in high:
        at += 1 + (number << low) + sum(next(bits) << i for i in range(low))
        found.append(at)
    if 2 * count > size:
        return [p for p in range(size) if p not in set(found)]
    return found


def values_of(
    coding: int, packed: bytes, count: int, levels: Sequence[int], scales: Sequence[float]
) -> list[float]:
    """Return what the codes stand for."""
    if coding == 0:
        return list(struct.unpack(f"<{count}f", packed))
    if coding == 1:
        return list(struct.unpack(f"<{count}e", packed))
    if coding == 2:
        numbers = struct.unpack(f"<{count}H", packed)
        return [struct.unpack("<f", struct.pack("<I", n << 16))[0] for n in numbers]
    if coding == 3:
        codes = list(struct.unpack(f"<{count}b", packed))
    else:
        bits = bits_of(packed)
        signs = [1 - 2 * next(bits) for _ in range(count)]
        codes = [s * m for s, m in zip(signs, levels, strict=True)] if levels else signs
    return [float(np.float32(c) * np.float32(s)) for c, s in zip(codes, scales, strict=True)]


# ---------------------------------------------------------------- the coder


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 119),
            st.lists(st.integers(0, 255) | st.sampled_from([0, 1, 255]), max_size=40),
        ),
        max_size=5,
    ),
    st.integers(0, 2**20 - 1),
)
def test_the_coder_is_the_one_of_the_page(
    batches: list[tuple[int, list[int]]], number: int
) -> None:
    """Words agree to the last bit, and both sides read what the other wrote."""
    ours, plain = RangeWriter(), RangeCoder()
    for index, symbols in batches:
        ours.put(geometric(index), np.array(symbols, dtype=np.int32))
        for symbol in symbols:
            plain.put(table(index), symbol)
        ours.put_bits(number, 20)
        for bits, part in ((8, number >> 12), (8, number >> 4 & 255), (4, number & 15)):
            plain.put([2 ** (24 - bits)] * 2**bits, part)
    stream = ours.finish()
    assert stream.tobytes() == struct.pack(f"<{stream.size // 4}I", *plain.finish())
    theirs, mine = RangeDecoder(stream.tobytes()), RangeReader(stream)
    for index, symbols in batches:
        assert [theirs.get(table(index)) for _ in symbols] == symbols
        assert mine.get(geometric(index), len(symbols)).tolist() == symbols
        assert theirs.get_bits(20) == mine.get_bits(20) == number
    mine.close(stream)


@pytest.mark.parametrize("index", range(0, 120, 7))
def test_rare_symbols_carry(index: int) -> None:
    """Long rows of symbols that hardly narrow, then one that does: carries run through words."""
    ours, plain = RangeWriter(), RangeCoder()
    rng = np.random.default_rng(index)
    for _ in range(30):
        symbols = rng.choice([0, 1, 254, 255], 40)
        ours.put(geometric(index), symbols.astype(np.int32))
        for symbol in symbols.tolist():
            plain.put(table(index), symbol)
    assert ours.finish().view("<u4").tolist() == plain.finish()


def test_tables_add_up() -> None:
    """Every table is that of the page, has no empty symbol, and fills 2^24."""
    assert list(MEANS) == means()
    for index in range(120):
        found = frequencies(index)
        assert found == table(index)
        assert (len(found), sum(found), min(found) > 0) == (256, 2**24, True)


def test_nothing_is_no_word() -> None:
    """Without symbols there is no stream."""
    assert RangeWriter().finish().size == 0
    assert RangeCoder().finish() == []


def test_a_longer_stream_is_refused() -> None:
    """A word more, a word less or another last word reads the same and is refused."""
    coder = RangeWriter()
    coder.put(geometric(80), np.arange(9, dtype=np.int32))
    stream = coder.finish()
    other = stream.copy()
    other[-4] ^= 1
    for wrong in (np.concatenate([stream, np.zeros(4, np.uint8)]), stream[:-4], other):
        reader = RangeReader(wrong)
        reader.get(geometric(80), 9)
        with pytest.raises(WireError, match="not what a writer writes"):
            reader.close(wrong)


def test_numbers_of_no_bits() -> None:
    """A number of no bits takes no symbol."""
    coder = RangeWriter()
    coder.put_bits(0, 0)
    assert coder.finish().size == 0
    assert uniform_model(8) is uniform_model(8)


# ---------------------------------------------------------------- messages


NET = ModelSchema(
    (
        TensorSpec("conv", (8, 3, 3, 3), prunable=True),
        TensorSpec("norm", (8,)),
        TensorSpec("shift", (8,)),
        TensorSpec("fc", (10, 72), prunable=True),
        TensorSpec("bias", (10,)),
        TensorSpec("mean", (8,), buffer=True),
        TensorSpec("variance", (8,), buffer=True),
    )
)
CODINGS = ("fp32", "fp16", "bf16", "int8", "level", "sign")


def hexed(values: Vector) -> str:
    return values.astype("<f4").tobytes().hex()


def floats(text: str) -> Vector:
    return np.frombuffer(bytes.fromhex(text), dtype="<f4").astype(np.float32)


def a_case(layout: int, coding: int, density: float, block: int, seed: int) -> dict[str, Any]:
    """Return a content over `NET` as plain numbers."""
    rng = np.random.default_rng(seed)
    size = NET.parameters
    spread = np.repeat([5.0, 1.0, 9.0, 1.0, 3.0], NET.sizes)
    count = size if layout == 0 else round(density * size)
    chosen = np.argsort(rng.exponential(size=size) / spread)[:count]
    positions = np.sort(chosen)
    name = CODINGS[coding]
    case: dict[str, Any] = {
        "header": ["delta", 3, 130, 7, 0, 50, 0.25],
        "layout": layout,
        "coding": name,
        "positions": positions.tolist() if layout else None,
        "buffers": hexed(rng.random(NET.buffers, dtype=np.float32)),
    }
    if layout >= 2:
        case["epoch"] = 7
        case["known"] = {"2": 7, "3": None, "4": 4}[str(layout)]
        extra = rng.choice(size, size // 10, replace=False)
        case["older"] = np.union1d(positions, extra).tolist()
    if name == "fp32":
        case["values"] = hexed(rng.standard_normal(count, dtype=np.float32))
    elif name in {"fp16", "bf16"}:
        case["codes"] = rng.integers(0, 0x7C00, count).tolist()
    else:
        most = {"int8": 128, "level": 6, "sign": 2}[name]
        signs = rng.choice([-1, 1], count)
        case["codes"] = (rng.integers(name != "int8", most, count) * signs).tolist()
    if name in {"int8", "level"}:
        case["block"] = block
        number = -(-size // block) if block else len(NET.sizes)
        case["scales"] = hexed(rng.random(number, dtype=np.float32))
    return case


def built(case: dict[str, Any]) -> tuple[Header, Content, Vector, Mask | None, dict[int, Mask]]:
    """Return what `encode` and `decode` take."""
    kind, client, number, version, lineage, examples, scalar = case["header"]
    header = Header(kind, Address(client, number), Version(version, lineage), examples, scalar)
    where = np.array(case["positions"], dtype=np.int64) if case["layout"] else None
    code = None
    if "codes" in case:
        wide = case["coding"] in {"fp16", "bf16"}
        codes = np.array(case["codes"], dtype=np.uint16 if wide else np.int8)
        scales = floats(case.get("scales", ""))
        code = Quantised(case["coding"], codes, scales, case.get("block", 0))
        values = dequantise(code, where, NET)
    else:
        values = floats(case["values"])
    content: Content = Dense(values, code) if where is None else Sparse(where, values, code)
    known, masks = None, {}
    if where is not None and case["layout"] >= 2:
        mask = Mask(case["epoch"], where)
        content = Masked(mask, values, code)
        masks = {mask.epoch: mask, 4: Mask(4, np.array(case["older"], dtype=np.int64))}
        known = masks.get(case["known"])
    return header, content, floats(case["buffers"]), known, masks


def check_reading(message: Buffer, case: dict[str, Any]) -> None:
    """Read a message as the page says, and compare."""
    header, content, buffers, _, masks = built(case)
    expected = content.touches()
    known = {epoch: mask.positions.tolist() for epoch, mask in masks.items()}
    reading = Reading(message.tobytes(), NET, known)
    assert reading.names == [*header.address, *header.base, header.examples]
    assert ("delta", "weights", "votes")[reading.kind] == header.kind
    assert reading.scalar == header.scalar
    every = [*range(NET.parameters)] if expected is None else expected.tolist()
    assert reading.positions == every
    assert reading.epoch == case.get("epoch")
    assert reading.values == [float(v) for v in content.values]
    assert list(reading.buffers) == buffers.tolist()


@settings(deadline=None)
@given(
    st.integers(0, 4),
    st.integers(0, 5),
    st.sampled_from([0, 0.002, 0.03, 0.2, 0.45, 0.5, 0.7, 0.97, 1]),
    st.sampled_from([0, 8, 100]),
    st.integers(0, 2**32),
)
def test_the_page_is_enough(
    layout: int, coding: int, density: float, block: int, seed: int
) -> None:
    """A reader made from the page alone reads every layout and coding."""
    case = a_case(layout, coding, density, block, seed)
    header, content, buffers, known, _ = built(case)
    check_reading(encode(header, content, buffers, NET, known), case)


def test_the_page_is_enough_for_long_gaps() -> None:
    """Escapes too: a hundred neighbours, and one far away."""
    case = a_case(1, 5, 0.0, 0, 1)
    case["positions"] = [*range(100), 800, 900]
    case["codes"] = [1] * 102
    header, content, buffers, known, _ = built(case)
    check_reading(encode(header, content, buffers, NET, known), case)


# ---------------------------------------------------------------- golden files


CASES = {
    "dense-fp32": (0, 0, 1, 0),
    "dense-bf16": (0, 2, 1, 0),
    "dense-level-blocks": (0, 4, 1, 100),
    "sparse-fp32": (1, 0, 0.05, 0),
    "sparse-fp16-few": (1, 1, 0.01, 0),
    "sparse-sign": (1, 5, 0.1, 0),
    "sparse-sign-half": (1, 5, 0.5, 0),
    "sparse-level": (1, 4, 0.2, 0),
    "packed-int8": (2, 3, 0.3, 0),
    "masked-fp32": (3, 0, 0.8, 0),
    "narrowed-int8-blocks": (4, 3, 0.6, 64),
}


def write_golden() -> None:
    """Write the files; run by hand, once for each format."""
    for seed, (name, numbers) in enumerate(CASES.items()):
        case = a_case(*numbers, seed)
        header, content, buffers, known, _ = built(case)
        message = encode(header, content, buffers, NET, known)
        (GOLDEN / f"{name}.bin").write_bytes(message.tobytes())
        (GOLDEN / f"{name}.json").write_text(json.dumps(case) + "\n", encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    """The stored bytes are written and read as on the day they were made."""
    given_bytes = np.frombuffer((GOLDEN / f"{name}.bin").read_bytes(), dtype=np.uint8)
    case = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    header, content, buffers, known, masks = built(case)
    assert encode(header, content, buffers, NET, known).tobytes() == given_bytes.tobytes()
    read = decode(given_bytes, NET, masks.__getitem__)
    assert (read.header, type(read.content)) == (header, type(content))
    assert read.content.values.tobytes() == content.values.tobytes()
    assert read.buffers.tobytes() == buffers.tobytes()
    if not isinstance(read.content, Dense):
        assert read.content.positions.tolist() == case["positions"]
    check_reading(given_bytes, case)


def test_golden_files_are_all_read() -> None:
    """No stored message is left out."""
    assert {path.stem for path in GOLDEN.glob("*.bin")} == set(CASES)
