"""Where are clients' states on disk?

A state never changes, and in a large fleet most of them are the same from one checkpoint to the
next. So each is written once, many into a file, and later checkpoints link the file. A file of
which less than half is still needed is written anew, and so are small ones beside as much that is
new: the files of a checkpoint hold at most twice what is needed, and they are few.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from orchestrator.client_states import ClientStates, Store, fetched, together
from orchestrator.runtime import Place
from policies.types import Buffer

MOST_FILE_BYTES: Final = 64 * 2**20
_INDEX: Final = "states.safetensors"

Rows = npt.NDArray[np.int64]
"""A row a state: client, number, whether it is committed, file, start, stop; shape (states, 6)."""
_FILE, _START, _STOP = 3, 4, 5


def write(states: ClientStates, store: Store, folder: Path) -> list[Place]:
    """Write states into the folder of a checkpoint that is being made.

    Args:
        states: As they are now; they know which checkpoint has most of them already.
        store: Has their bytes.
        folder: Is there, and may be renamed later.

    Returns:
        Where each state lies now, in the order of the rows.

    Cost:
        What is new since the last checkpoint, and now and then as much again; memory for one file.
    """
    entries = list(states.items())
    places = [place for *_, place in entries]
    rows = np.full((len(entries), 6), -1, dtype=np.int64)
    rows[:, :3] = np.array([entry[:3] for entry in entries], dtype=np.int64).reshape(-1, 3)
    rows[:, _START] = 0
    rows[:, _STOP] = [place.stop - place.start for place in places]
    following = 0
    if states.saved is not None:
        known = rows_of(states.saved)
        following = int(known[:, _FILE].max(initial=-1)) + 1
        _take_over(rows, known, states.saved)
        for file in np.unique(rows[rows[:, _FILE] >= 0, _FILE]).tolist():
            _link(states.saved / _name(file), folder / _name(file))
    fresh = _by_buffer(np.flatnonzero(rows[:, _FILE] < 0), places)
    for file, part in enumerate(_files(rows, fresh), following):
        content = np.concatenate([*fetched(store, [places[at] for at in part])])
        save_file({"states": content}, folder / _name(file))
        ends = np.cumsum(rows[part, _STOP])
        rows[part, _START], rows[part, _STOP] = ends - rows[part, _STOP], ends
        rows[part, _FILE] = file
    save_file({"rows": rows}, folder / _INDEX)
    return places


def read(states: ClientStates, store: Store, folder: Path) -> list[Place]:
    """Read the states of a checkpoint.

    Args:
        states: Get them.
        store: Keeps their bytes, in buffers as small as those that they were trained into.
        folder: The checkpoint's.

    Returns:
        Where each state lies, in the order of the rows.
    """
    rows = rows_of(folder)
    places: list[Place | None] = [None] * len(rows)
    for file in np.unique(rows[:, _FILE]).tolist():
        here = np.flatnonzero(rows[:, _FILE] == file)
        content: Buffer = load_file(folder / _name(file))["states"]
        parts = (content[start:stop] for start, stop in rows[here, _START:].tolist())
        for at, place in zip(here.tolist(), together(store, parts), strict=True):
            places[at] = place
    found = [place for place in places if place is not None]
    for (client, number, committed), place in zip(rows[:, :3].tolist(), found, strict=True):
        states.put(client, number, committed=bool(committed), state=place)
    states.saved = folder
    return found


def rows_of(folder: Path) -> Rows:
    """Return what a checkpoint's files hold."""
    with safe_open(folder / _INDEX, framework="np") as file:
        rows: Rows = file.get_tensor("rows")
    return rows


def _take_over(rows: Rows, known: Rows, folder: Path) -> None:
    """Fill in where those states are that need not be written again."""
    names = (_names(rows), _names(known))
    _, here, at = np.intersect1d(*names, assume_unique=True, return_indices=True)
    rows[here, _FILE:] = known[at, _FILE:]
    sizes = rows[:, _STOP] - rows[:, _START]
    live = np.bincount(rows[here, _FILE], weights=sizes[here]).astype(np.int64)
    fresh = int(sizes.sum() - live.sum())
    gone = []
    for file in np.argsort(live, kind="stable").tolist():
        if not live[file]:
            continue
        whole = folder / _name(file)
        small = live[file] <= min(fresh, MOST_FILE_BYTES // 2)
        if small or not whole.exists() or 2 * live[file] < whole.stat().st_size:
            gone.append(file)
            fresh += int(live[file])
    again = np.flatnonzero(np.isin(rows[:, _FILE], gone))
    rows[again, _FILE:] = np.stack([np.full(again.size, -1), 0 * again, sizes[again]], axis=1)


def _by_buffer(which: npt.NDArray[np.int64], places: Sequence[Place]) -> npt.NDArray[np.int64]:
    """Put next to each other what lies in one buffer: it may have to come from the disk."""
    first: dict[int, int] = {}
    buffers = [first.setdefault(id(places[at].handle), len(first)) for at in which.tolist()]
    return which[np.argsort(buffers, kind="stable")]


def _names(rows: Rows) -> npt.NDArray[np.int64]:
    """Return client and number as one integer, shape (states,)."""
    return np.asarray((rows[:, 0] << 32) | rows[:, 1])


def _files(rows: Rows, fresh: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Cut what is to be written into files: one state or more, of a bearable size."""
    ends = np.cumsum(rows[fresh, _STOP])
    begin, written = 0, 0
    while begin < fresh.size:
        end = int(np.searchsorted(ends, written + MOST_FILE_BYTES, side="right"))
        end = max(end, begin + 1)
        yield fresh[begin:end]
        begin, written = end, int(ends[end - 1])


def _name(file: int) -> str:
    return f"states-{file:06d}.safetensors"


def _link(file: Path, target: Path) -> None:
    """Link a file, or copy it where there are no links."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
