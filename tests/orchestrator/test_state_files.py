"""Do the files of checkpoints hold every client's state, and write each of them but once?"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import state_files
from orchestrator.client_states import ClientStates, together
from orchestrator.runtime import Place
from policies.types import Address, Buffer

SIZE = 1000
HEADER = 100
"""What safetensors puts before the bytes, at most."""


class Shelf:
    """Keeps buffers, and counts the bytes that are asked for."""

    fetched = 0

    def put(self, buffer: Buffer) -> Any:
        return buffer.copy()

    def fetch(self, what: Any) -> Buffer:
        found: Buffer = what.handle[what.start : what.stop] if isinstance(what, Place) else what
        self.fetched += found.size
        return found


def save(states: ClientStates, shelf: Shelf, folder: Path) -> None:
    """Write as a checkpoint does: under another name first."""
    partial = folder.with_name("partial")
    partial.mkdir()
    state_files.write(states, shelf, partial)
    states.saved = partial.rename(folder)


def contents(states: ClientStates, shelf: Shelf) -> list[tuple[Any, ...]]:
    return [(*name, bytes(shelf.fetch(place))) for *name, place in states.items()]


def update(states: ClientStates, shelf: Shelf, address: Address, rng: random.Random) -> None:
    [state] = together(shelf, [np.frombuffer(rng.randbytes(SIZE), dtype=np.uint8)])
    states.accept(address, state)
    if rng.random() < 0.9:
        states.commit(address)


def sizes(folder: Path) -> list[int]:
    return [file.stat().st_size for file in folder.glob("states-*")]


def history(folder: Path, clients: int, each: int) -> Iterator[tuple[ClientStates, Shelf, Path]]:
    """Save again and again while clients take part."""
    rng, shelf, states = random.Random(5), Shelf(), ClientStates()
    numbers = [0] * clients
    for at in range(40):
        for _ in range(each):
            client = rng.randrange(clients)
            update(states, shelf, Address(client, numbers[client]), rng)
            numbers[client] += 1
        shelf.fetched = 0
        save(states, shelf, folder / f"{at:08d}")
        yield states, shelf, folder / f"{at:08d}"


@pytest.mark.parametrize("linked", [True, False], ids=["links", "copies"])
def test_what_is_read_is_what_was_written(
    linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every checkpoint has all states, provisional ones too, also where files cannot be linked."""
    if not linked:

        def refuse(source: Path, target: Path) -> None:
            raise OSError(f"{target} cannot be a link to {source}")

        monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr(state_files, "MOST_FILE_BYTES", 20 * SIZE)
    expected = [(folder, contents(s, shelf)) for s, shelf, folder in history(tmp_path, 60, 25)]
    assert any(not committed for _, found in expected for _, _, committed, _ in found)
    for folder, found in expected:
        again, shelf = ClientStates(), Shelf()
        places = state_files.read(again, shelf, folder)
        assert contents(again, shelf) == found
        assert [place for *_, place in again.items()] == places


def test_a_state_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large fleet a checkpoint writes what is new and little more, however much there is."""
    monkeypatch.setattr(state_files, "MOST_FILE_BYTES", 20 * SIZE)
    written = new = 0
    for states, shelf, folder in history(tmp_path, 5000, 50):
        written, new = written + shelf.fetched, new + 50 * SIZE
        needed = states.live_bytes
        files = sizes(folder)
        assert sum(files) <= 2 * needed + HEADER * len(files)
        assert len(files) <= 4 + needed / (5 * SIZE)
    assert needed > 1500 * SIZE
    assert new <= written <= 1.5 * new


def test_few_files_of_a_small_fleet(tmp_path: Path) -> None:
    """Small files are put together: what clients leave does not lie in ever more of them."""
    for _, _, folder in history(tmp_path, 400, 5):
        assert len(sizes(folder)) <= 7


def test_files_go_with_the_last_checkpoint_that_needs_them(tmp_path: Path) -> None:
    """Removing old checkpoints leaves the newer ones whole."""
    shelf = Shelf()
    for states, _, folder in history(tmp_path, 100, 10):
        for old in tmp_path.iterdir():
            if old.name < folder.name:
                for file in old.iterdir():
                    file.unlink()
                old.rmdir()
        again = ClientStates()
        state_files.read(again, shelf, folder)
        assert contents(again, shelf) == contents(states, shelf)


def test_buffers_that_are_read_are_small(tmp_path: Path) -> None:
    """A node that needs one state gets at most those that are laid together, not a whole file."""
    shelf, states = Shelf(), ClientStates()
    rng = random.Random(1)
    for client in range(50):
        update(states, shelf, Address(client, 0), rng)
    save(states, shelf, tmp_path / "0")
    found: list[Place] = state_files.read(ClientStates(), shelf, tmp_path / "0")
    assert sizes(tmp_path / "0")[0] > 50 * SIZE
    assert max(place.handle.size for place in found) == 16 * SIZE


def test_a_buffer_is_fetched_once(tmp_path: Path) -> None:
    """However clients are spread over buffers: one that was spilled is read from the disk once."""
    rng, shelf, states = random.Random(2), Shelf(), ClientStates()
    clients = rng.sample(range(1000), 160)
    for at in range(0, 160, 16):
        places = together(shelf, [np.full(SIZE, at, dtype=np.uint8)] * 16)
        for client, place in zip(clients[at : at + 16], places, strict=True):
            states.accept(Address(client, 0), place)
    save(states, shelf, tmp_path / "0")
    assert shelf.fetched == 160 * SIZE
    again = ClientStates()
    state_files.read(again, shelf, tmp_path / "0")
    assert contents(again, shelf) == contents(states, shelf)
