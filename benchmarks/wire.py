"""How many bytes and how long does a sparse update take, against the usual ways to write one?

    python benchmarks/wire.py [--quick] [--json FILE] [--repeats N]

One tensor of ten million parameters, of which a share is sent, evenly spread, with normal values;
choosing them is not counted. `latecomer` writes and reads whole messages with header and checksum.
The others write nothing but positions and values: 32-bit positions and floats; a bitmap and
floats; the bitmap through zstd, and both through zstd; the dense array pickled; the dense array
through zstd. Reading ends with positions and values, or with the dense array for those that hold
one. Each row is checked to come back. Speeds are of dense-equivalent parameters, four bytes each,
on one core. The ratio counts 32 bits a float; zstd can go below it where it finds that the
exponents of floats of like size are alike.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import pickle
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from policies.types import Address, Positions, ValueCoding, Vector, Version
from policies.update import ModelSchema, Sparse, TensorSpec
from policies.wire import Header, decode, dequantise, encode, entropy_bytes, quantise

DENSITIES = (0.001, 0.01, 0.05, 0.1, 0.5)
HEADER = Header("delta", Address(300, 2000), Version(3000, 0), 600, 0.5)
NO_BUFFERS = np.empty(0, dtype=np.float32)


@dataclass(frozen=True)
class Update:
    """What is to be sent."""

    schema: ModelSchema
    positions: Positions
    values: Vector

    @property
    def size(self) -> int:
        """Parameters."""
        return self.schema.parameters

    def dense(self) -> Vector:
        """Return all values, zero where nothing is sent."""
        return Sparse(self.positions, self.values).densify(self.size)


@dataclass(frozen=True)
class Way:
    """One way to write it.

    Attributes:
        name: For the table.
        write: Returns the bytes.
        read: Returns what `expected` is.
        expected: Arrays that reading returns.
        entropy: The least that positions and values could take.
        value_bytes: What of the bytes are values; None if they cannot be told apart.
    """

    name: str
    write: Callable[[], Any]
    read: Callable[[Any], tuple[np.ndarray, ...]]
    expected: tuple[np.ndarray, ...]
    entropy: float
    value_bytes: float | None


def make(size: int, density: float) -> Update:
    """Draw an update."""
    rng = np.random.default_rng(0)
    positions = np.sort(rng.choice(size, round(density * size), replace=False)).astype(np.int64)
    values = rng.standard_normal(positions.size, dtype=np.float32)
    values[values == 0] = 1
    return Update(ModelSchema((TensorSpec("w", (size,)),)), positions, values)


def ours(update: Update, coding: ValueCoding) -> Way:
    """Return our own messages."""
    content = Sparse(update.positions, update.values)
    if coding != "fp32":
        code = quantise(update.values, update.positions, coding, update.schema)
        values = dequantise(code, update.positions, update.schema)
        content = Sparse(update.positions, values, code)

    def read(message: Any) -> tuple[np.ndarray, ...]:
        found = decode(message, update.schema).content
        assert isinstance(found, Sparse)  # noqa: S101  # so were they written
        return found.positions, found.values

    least = entropy_bytes(content, NO_BUFFERS, update.schema)
    bits = {"fp32": 32, "int8": 8, "sign": 1}[coding]
    return Way(
        f"latecomer, {coding}",
        lambda: encode(HEADER, content, NO_BUFFERS, update.schema),
        read,
        (content.positions, content.values),
        least,
        content.nonzeros * bits / 8,
    )


def others(update: Update) -> list[Way]:
    """Return the usual ways."""
    positions, values, size = update.positions, update.values, update.size
    dense, codec = update.dense(), pa.Codec("zstd", compression_level=3)
    count, listed = positions.size, (positions, values)
    least = entropy_bytes(Sparse(positions, values), NO_BUFFERS, update.schema)

    def write_int32() -> bytes:
        return positions.astype("<u4").tobytes() + values.tobytes()

    def read_int32(data: bytes) -> tuple[np.ndarray, ...]:
        return (
            np.frombuffer(data, dtype="<u4", count=count).astype(np.int64),
            np.frombuffer(data, dtype="<f4", offset=4 * count),
        )

    def write_bitmap() -> bytes:
        flags = np.zeros(size, dtype=np.bool_)
        flags[positions] = True
        return np.packbits(flags, bitorder="little").tobytes() + values.tobytes()

    def read_bitmap(data: bytes) -> tuple[np.ndarray, ...]:
        packed = np.frombuffer(data, dtype=np.uint8, count=-(-size // 8))
        flags = np.unpackbits(packed, count=size, bitorder="little").view(np.bool_)
        return np.flatnonzero(flags), np.frombuffer(data, dtype="<f4", offset=packed.size)

    bitmap_bytes = -(-size // 8)

    def write_bitmap_zstd() -> bytes:
        plain = write_bitmap()
        return bytes(codec.compress(plain[:bitmap_bytes], asbytes=True)) + plain[bitmap_bytes:]

    def read_bitmap_zstd(data: bytes) -> tuple[np.ndarray, ...]:
        split = len(data) - 4 * count
        return read_bitmap(
            codec.decompress(data[:split], bitmap_bytes, asbytes=True) + data[split:]
        )

    def read_both_zstd(data: bytes) -> tuple[np.ndarray, ...]:
        return read_bitmap(codec.decompress(data, bitmap_bytes + 4 * count, asbytes=True))

    def read_dense_zstd(data: bytes) -> tuple[np.ndarray, ...]:
        return (np.frombuffer(codec.decompress(data, 4 * size, asbytes=True), dtype="<f4"),)

    def way(
        name: str,
        write: Callable[[], bytes],
        read: Callable[[bytes], tuple[np.ndarray, ...]],
        *whole: np.ndarray,
    ) -> Way:
        return Way(name, write, read, whole or listed, least, None if whole else 4.0 * count)

    return [
        way("int32 positions, fp32", write_int32, read_int32),
        way("bitmap, fp32", write_bitmap, read_bitmap),
        way("zstd of bitmap, fp32", write_bitmap_zstd, read_bitmap_zstd),
        way(
            "zstd of bitmap and fp32",
            lambda: codec.compress(write_bitmap(), asbytes=True),
            read_both_zstd,
            *listed,
        ),
        way(
            "pickled dense",
            lambda: pickle.dumps(dense, protocol=5),
            lambda data: (pickle.loads(data),),  # noqa: S301  # our own bytes
            dense,
        ),
        way("zstd of dense", lambda: codec.compress(dense, asbytes=True), read_dense_zstd, dense),
    ]


def measure(way: Way, size: int, density: float, repeats: int) -> dict[str, Any]:
    """Write and read in turns; check that all came back."""
    data = way.write()
    for found, expected in zip(way.read(data), way.expected, strict=True):
        if not np.array_equal(found, expected):
            raise SystemExit(f"{way.name}: what was read is not what was written")
    writing: list[float] = []
    reading: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        data = way.write()
        middle = time.perf_counter()
        found_arrays = way.read(data)
        reading.append(4e-9 * size / (time.perf_counter() - middle))
        writing.append(4e-9 * size / (middle - began))
        del found_arrays
    total = len(data)
    return {
        "density": density,
        "way": way.name,
        "position_bytes": None if way.value_bytes is None else total - way.value_bytes,
        "bytes": total,
        "ratio": total / way.entropy,
        "write_GB_s": writing,
        "read_GB_s": reading,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one million parameters")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each; medians are shown")
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    size = 1_000_000 if arguments.quick else 10_000_000
    rows: list[dict[str, Any]] = []
    show_head(size, arguments.repeats)
    for density in DENSITIES:
        update = make(size, density)
        codings: tuple[ValueCoding, ...] = ("fp32", "int8", "sign")
        ways = [*(ours(update, coding) for coding in codings), *others(update)]
        for way in ways:
            gc.collect()
            rows.append(measure(way, size, density, arguments.repeats))
            show(rows[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def show_head(size: int, repeats: int) -> None:
    """Print the machine and the table's head."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, one used")
    print(f"numpy {np.__version__}, pyarrow {pa.__version__}, Python {platform.python_version()}")
    print(f"{size:,} parameters; medians of {repeats} turns, (lowest to highest)")
    print("Ratio: all bytes to the least that the same positions and values could take.\n")
    print("| density | way | positions, bytes | in all, bytes | ratio | write, GB/s | read, GB/s |")
    print("|---|---|---|---|---|---|---|")


def show(row: dict[str, Any]) -> None:
    """Print one row."""
    cells = [
        f"{median(v):.2f} ({min(v):.2f} to {max(v):.2f})"
        for v in (row["write_GB_s"], row["read_GB_s"])
    ]
    found = row["position_bytes"]
    positions = "" if found is None else f"{found:,.0f}"
    print(
        f"| {row['density']:.1%} | {row['way']} | {positions} | {row['bytes']:,} "
        f"| {row['ratio']:.3f} | {cells[0]} | {cells[1]} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
