"""Logs: parts, truncation, one digest however they were cut."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from orchestrator.log import EVENTS_SCHEMA, Log, digest

WEIGHTS = np.arange(5, dtype=np.float32)


def filled(folder: Path, flush_after: set[int], rows: int = 20) -> Log:
    """Write rows, flushing after some of them."""
    log = Log(folder, "events", EVENTS_SCHEMA)
    for row in range(rows):
        log.append("dispatched", time_s=row / 3, client=row % 4, number=row, reason=None)
        if row in flush_after:
            log.flush()
    return log


def test_parts_do_not_matter(tmp_path: Path) -> None:
    """The digest is that of the rows, not of the part files."""
    one = digest(filled(tmp_path / "a", set()).merge(), WEIGHTS)
    many = digest(filled(tmp_path / "b", {0, 3, 4, 11, 19}).merge(), WEIGHTS)
    assert one == many


def test_every_change_shows(tmp_path: Path) -> None:
    """Another row, an absent value, another order or another weight gives another digest."""
    seen = {digest(filled(tmp_path / "a", set()).merge(), WEIGHTS)}
    seen.add(digest(filled(tmp_path / "b", set(), rows=19).merge(), WEIGHTS))
    seen.add(digest(filled(tmp_path / "c", set()).merge(), WEIGHTS + np.float32(1e-6)))
    for name, value in (("staleness", 0), ("client", None), ("reason", ""), ("hash", "x")):
        log = filled(tmp_path / name, set(), rows=19)
        row = {"time_s": 19 / 3, "client": 3, "number": 19, "reason": None, name: value}
        log.append("dispatched", **row)
        seen.add(digest(log.merge(), WEIGHTS))
    assert len(seen) == 7


def test_truncate(tmp_path: Path) -> None:
    """A resumed run keeps the checkpoint's rows and writes on as if nothing had been."""
    reference = digest(filled(tmp_path / "a", {7}).merge(), WEIGHTS)
    log = filled(tmp_path / "b", {4, 9, 19})
    log.truncate(12)
    assert len(log) == 12
    for row in range(12, 20):
        log.append("dispatched", time_s=row / 3, client=row % 4, number=row, reason=None)
    assert digest(log.merge(), WEIGHTS) == reference


def test_truncate_to_nothing_and_beyond(tmp_path: Path) -> None:
    """A run without a checkpoint starts over; rows that are gone are noticed."""
    log = filled(tmp_path, {19})
    with pytest.raises(ValueError, match="20 rows, the checkpoint says 21"):
        log.truncate(21)
    log.truncate(0)
    assert len(log) == 0
    assert log.merge().num_rows == 0


def test_a_killed_writer_loses_only_what_was_not_flushed(tmp_path: Path) -> None:
    """Another process reads all parts that were finished, and no half-written one."""
    filled(tmp_path, {4, 9})
    (tmp_path / "events.parts" / "000000000010.tmp").write_bytes(b"half")
    again = Log(tmp_path, "events", EVENTS_SCHEMA)
    assert again.table().num_rows == 10


def test_merged_logs_are_read_again(tmp_path: Path) -> None:
    """After merging there is one file, and it can still be cut and continued."""
    filled(tmp_path, {4}).merge()
    assert not (tmp_path / "events.parts").exists()
    again = Log(tmp_path, "events", EVENTS_SCHEMA)
    assert again.table().num_rows == 20
    again.truncate(5)
    assert again.table().num_rows == 5


def test_unknown_columns_are_a_mistake(tmp_path: Path) -> None:
    """A value that the schema has no column for is not dropped in silence."""
    log = Log(tmp_path, "events", EVENTS_SCHEMA)
    with pytest.raises(ValueError, match="colour"):
        log.append("dispatched", time_s=0.0, colour="red")


def test_a_kill_while_truncating_leaves_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far a truncation comes before the process is killed, the kept rows are there."""
    reference = filled(tmp_path / "a", set(), rows=12).merge().to_pylist()
    for killed_after in range(4):
        log = filled(tmp_path / f"b{killed_after}", {4, 9, 14, 19})
        unlink, seen = Path.unlink, iter(range(100))

        def dying(path: Path, *args: bool, stop: int = killed_after, go: object = seen) -> None:
            if next(go) >= stop:  # type: ignore[call-overload]
                raise KeyboardInterrupt
            unlink(path, *args)  # noqa: B023

        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", dying)
            with suppress(KeyboardInterrupt):
                log.truncate(12)
        again = Log(tmp_path / f"b{killed_after}", "events", EVENTS_SCHEMA)
        again.truncate(12)
        assert again.merge().to_pylist() == reference


def test_parts_left_by_a_kill_while_merging_do_not_count(tmp_path: Path) -> None:
    """A merged file is the whole log, whatever parts are still there."""
    filled(tmp_path / "a", {9}).merge()
    filled(tmp_path / "b", {4, 19})
    (tmp_path / "a" / "events.parts").mkdir()
    for part in (tmp_path / "b" / "events.parts").iterdir():
        part.rename(tmp_path / "a" / "events.parts" / part.name)
    assert len(Log(tmp_path / "a", "events", EVENTS_SCHEMA)) == 20
