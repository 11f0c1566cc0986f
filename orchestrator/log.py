"""What happened, and what did it take?

Two logs. `events` is the experiment in its own time: it is digested, and the same experiment with
the same seed writes the same rows on any machine of the same numerics. `ops` is the machine's side
(actors, restarts, durations, checkpoints) and is never digested. Both are kept as Parquet part
files, so that a killed run loses nothing before its last part, and are merged at the end.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

EVENTS_SCHEMA: Final = pa.schema(
    [
        ("time_s", pa.float64()),  # virtual (or scaled wall) seconds since the start
        ("kind", pa.string()),  # dispatched, arrived, committed, published, evaluated, ...
        ("client", pa.int64()),
        ("number", pa.int64()),  # the client's dispatch counter
        ("version", pa.int64()),  # published: the new one; committed: the one it became part of
        ("lineage", pa.int64()),
        ("base_version", pa.int64()),  # what the client trained from
        ("staleness", pa.int64()),  # versions published since, when the update was taken
        ("weight", pa.float64()),  # the staleness weight that was applied
        ("outcome", pa.string()),  # accepted, rejected, superseded, lost
        ("reason", pa.string()),
        ("held_version", pa.int64()),  # what a client held when it was sent the base
        ("downlink_bytes", pa.int64()),
        ("downlink_entropy_bytes", pa.float64()),  # the least that this message could take
        ("uplink_bytes", pa.int64()),
        ("uplink_entropy_bytes", pa.float64()),  # the least that this payload could take
        ("nonzeros", pa.int64()),
        ("examples", pa.int64()),
        ("loss", pa.float64()),  # arrived: mean training loss; evaluated: test loss
        ("accuracy", pa.float64()),
        ("device_s", pa.float64()),  # device seconds that the work took
        ("energy_j", pa.float64()),
        ("hash", pa.string()),  # of the model or payload, xxh3-128
        ("measure", pa.string()),  # name of a figure of the method
        ("value", pa.float64()),
        ("detail", pa.string()),
    ]
)

ON_BACKHAULS: Final = ("gathered", "spread")
"""Kinds of events whose bytes go between cells and the server, and are no client's."""

OPS_SCHEMA: Final = pa.schema(
    [
        ("wall_s", pa.float64()),  # seconds since the process began
        ("kind", pa.string()),  # actor_started, actor_lost, resent, deadline, checkpoint, ...
        ("actor", pa.string()),
        ("node", pa.string()),
        ("client", pa.int64()),
        ("number", pa.int64()),
        ("attempt", pa.int64()),
        ("duration_s", pa.float64()),
        ("cpu_s", pa.float64()),
        ("bytes", pa.int64()),
        ("detail", pa.string()),
    ]
)

Row = dict[str, Any]


class Log:
    """Appends rows and writes them out in part files; goes on with what a folder holds."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self.name = name
        self._schema = schema
        self._columns = frozenset(schema.names)
        self._final = folder / f"{name}.parquet"
        self._parts = folder / f"{name}.parts"
        self._parts.mkdir(parents=True, exist_ok=True)
        self._rows: list[Row] = []
        if self._final.exists():  # merged already: it goes on from there, whatever parts are left
            for part in self._part_files():
                part.unlink()
            self._final.replace(self._parts / f"{0:012d}.parquet")
        self._written: int = sum(pq.read_metadata(part).num_rows for part in self._part_files())

    def __len__(self) -> int:
        """Rows so far, written or not."""
        return self._written + len(self._rows)

    def append(self, kind: str, **values: Any) -> None:
        """Add a row.

        Raises:
            ValueError: If the schema has no such column.
        """
        if not self._columns.issuperset(values):
            unknown = values.keys() - self._columns
            raise ValueError(f"{self.name} has no column {', '.join(sorted(unknown))}")
        values["kind"] = kind
        self._rows.append(values)

    def flush(self) -> int:
        """Write what is new as a part file; return how many rows are on disk in all."""
        if self._rows:
            table = self._columns_of(self._rows)
            target = self._parts / f"{self._written:012d}.parquet"
            partial = target.with_suffix(".tmp")
            pq.write_table(table, partial)
            partial.replace(target)
            self._written += len(self._rows)
            self._rows.clear()
        return self._written

    def _columns_of(self, rows: Sequence[Row]) -> pa.Table:
        """Return rows as a table; most rows have few of the columns."""
        columns: dict[str, list[Any]] = {name: [None] * len(rows) for name in self._columns}
        for place, row in enumerate(rows):
            for name, value in row.items():
                columns[name][place] = value
        arrays = [pa.array(columns[field.name], field.type) for field in self._schema]
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def truncate(self, rows: int) -> None:
        """Keep the first `rows` rows on disk: what a resumed run had not checkpointed goes."""
        kept = self.table().slice(0, rows)
        if kept.num_rows < rows:
            raise ValueError(f"{self.name} has {kept.num_rows} rows, the checkpoint says {rows}")
        parts = self._part_files()
        first = self._parts / f"{0:012d}.parquet"
        partial = first.with_suffix(".tmp")
        pq.write_table(kept, partial)
        partial.replace(first)  # killed from here on, the first rows are still these
        for part in parts:
            if part != first:
                part.unlink()
        self._rows.clear()
        self._written = rows

    def table(self) -> pa.Table:
        """Read what is on disk."""
        tables = [pq.read_table(part, schema=self._schema) for part in self._part_files()]
        return pa.concat_tables(tables) if tables else self._schema.empty_table()

    def _part_files(self) -> list[Path]:
        return sorted(self._parts.glob("*.parquet"))

    def merge(self) -> pa.Table:
        """Write one file in place of the parts and return its table."""
        self.flush()
        table = self.table()
        partial = self._final.with_suffix(".tmp")
        pq.write_table(table, partial)
        partial.replace(self._final)
        shutil.rmtree(self._parts, ignore_errors=True)
        return table


def digest(events: pa.Table, weights: np.ndarray[Any, Any]) -> str:
    """Digest a run: every column of its events, and the final weights.

    Args:
        events: Table with `EVENTS_SCHEMA`; how it is cut into chunks does not matter.
        weights: Final model with its buffers, shape (P + B,), float32.

    Returns:
        64 hexadecimal digits of SHA-256.
    """
    total = hashlib.sha256()
    for name, piece in _canonical(events):
        total.update(name.encode())
        total.update(piece)
    total.update(np.ascontiguousarray(weights, dtype="<f4").tobytes())
    return total.hexdigest()


def _canonical(events: pa.Table) -> Iterator[tuple[str, bytes]]:
    """Yield each column as bytes that do not depend on Arrow's chunks or padding."""
    for field in EVENTS_SCHEMA:
        column = events.column(field.name).combine_chunks()
        yield field.name, np.asarray(column.is_valid()).tobytes()
        if pa.types.is_string(field.type):
            yield field.name, "\0".join(column.fill_null("").to_pylist()).encode()
        else:
            filled = column.fill_null(0).to_numpy(zero_copy_only=False)
            yield field.name, np.ascontiguousarray(filled).tobytes()
