"""What does a sparse update cost the server, against a dense one?

    python benchmarks/aggregation.py [--quick] [--json FILE] [--repeats N]

A model of 10 million parameters, updates of 1 % density at random places (the worst case for the
memory: every value lies in a cache line of its own). Each row is the time to apply one update,
decoding apart, in turns with the others, and the memory that an update takes while it waits in
the buffer. `of dense` is against our own dense path, which works in blocks that stay in the cache;
`of formula` against the plain `model += scale * delta` of numpy. One thread. The sparse way is
checked against the dense formula, bit for bit, before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from policies.aggregation import AggregationPolicy, FedBuff, MajorityVote
from policies.types import Address, PayloadKind, Vector, Version
from policies.update import Content, Contribution, Dense, ModelSchema, Sparse, TensorSpec, Update

BUFFER = 10


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a model of one million parameters")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    parameters = 1_000_000 if options.quick else 10_000_000
    rows = [
        row
        for density in (0.001, 0.01, 0.05)
        for row in measure(parameters, density, options.repeats)
    ]
    print(f"{platform.processor() or platform.machine()}, numpy {np.__version__}, one thread")
    print(f"{parameters:,} parameters, buffer of {BUFFER}, {options.repeats} repeats")
    print(
        f"{'method':<24}{'density':>8}{'ms an update':>26}{'of dense':>10}{'of formula':>12}"
        f"{'bytes':>12}"
    )
    for row in rows:
        spread = f"{row['ms']:.3f} ({row['least_ms']:.3f} to {row['most_ms']:.3f})"
        print(
            f"{row['method']:<24}{row['density']:>8.1%}{spread:>26}{row['of_dense']:>10.1%}"
            f"{row['of_formula']:>12.1%}{row['bytes']:>12,}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def measure(parameters: int, density: float, repeats: int) -> list[dict[str, Any]]:
    """Time dense and sparse batches in turns."""
    rng = np.random.default_rng(1)
    schema = ModelSchema((TensorSpec("w", (parameters,)),))
    count = round(density * parameters)
    sparse = [_sparse(rng, parameters, count) for _ in range(BUFFER)]
    dense = [Dense(rng.standard_normal(parameters).astype(np.float32)) for _ in range(2)]
    signs = [Sparse(c.positions, np.sign(c.values)) for c in sparse]
    vote = MajorityVote(voters=BUFFER, minorities=False)
    cases: list[tuple[str, AggregationPolicy, list[Content], PayloadKind]] = [
        ("fedbuff, dense", FedBuff(size=BUFFER), list(dense), "delta"),
        ("fedbuff, sparse", FedBuff(size=BUFFER), list(sparse), "delta"),
        ("majority-vote, sparse", vote, list(signs), "votes"),
    ]
    model = np.full(parameters, 0.5, dtype=np.float32)
    _check(cases[1][1], sparse, parameters, schema)
    formula: list[float] = []
    times: dict[str, list[float]] = {name: [] for name, *_ in cases}
    for _ in range(repeats):
        began = time.perf_counter()
        model += dense[0].values * np.float32(0.05)
        formula.append(1000 * (time.perf_counter() - began))
        for name, policy, contents, kind in cases:
            batch = [_contribution(i, content, kind) for i, content in enumerate(contents)]
            began = time.perf_counter()
            policy.apply(model, policy.start(schema), batch, 1)
            times[name].append(1000 * (time.perf_counter() - began) / len(batch))
    times["numpy formula"] = formula
    base = median(times["fedbuff, dense"])
    return [
        {
            "method": name,
            "density": density if "sparse" in name else 1.0,
            "ms": median(times[name]),
            "least_ms": min(times[name]),
            "most_ms": max(times[name]),
            "of_dense": median(times[name]) / base,
            "of_formula": median(times[name]) / median(formula),
            "bytes": _bytes(contents[0]),
        }
        for name, contents in [("numpy formula", dense), *((c[0], c[2]) for c in cases)]
    ]


def _sparse(rng: np.random.Generator, parameters: int, count: int) -> Sparse:
    positions = np.sort(rng.choice(parameters, count, replace=False))
    return Sparse(positions, rng.standard_normal(count).astype(np.float32))


def _contribution(client: int, content: Content, kind: PayloadKind) -> Contribution:
    nothing: Vector = np.empty(0, dtype=np.float32)
    update = Update(Address(client, 0), Version(0, 0), kind, content, nothing, 1, 0.0)
    return Contribution(update, 0, 0.5)


def _bytes(content: Content) -> int:
    positions = content.touches()
    return content.values.nbytes + (0 if positions is None else positions.nbytes)


def _check(
    policy: AggregationPolicy, contents: list[Sparse], parameters: int, schema: ModelSchema
) -> None:
    """Stop if the sparse way does not give what the dense formula gives, bit for bit."""
    moved, expected = (np.zeros(parameters, dtype=np.float32) for _ in range(2))
    batch = [_contribution(i, content, "delta") for i, content in enumerate(contents)]
    policy.apply(moved, policy.start(schema), batch, 1)
    for content in contents:
        expected += content.densify(parameters) * np.float32(0.5 / len(contents))
    if moved.tobytes() != expected.tobytes():
        raise SystemExit("sparse and dense aggregation differ")


if __name__ == "__main__":
    main()
