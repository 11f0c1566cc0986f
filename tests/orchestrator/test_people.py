"""How did each client fare?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orchestrator import people
from orchestrator.log import EVENTS_SCHEMA

ABOUT = {
    "examples": np.array([10, 20, 30]),
    "memory_share": np.array([0.5, 0.1, 0.2]),
    "accuracy": np.array([0.9, 0.5, np.nan]),
}


def row(kind: str, time_s: float, client: int, number: int = 0, **more: Any) -> dict[str, Any]:
    """Return a row of the event log."""
    empty = dict.fromkeys(EVENTS_SCHEMA.names)
    return empty | {"kind": kind, "time_s": time_s, "client": client, "number": number} | more


@pytest.fixture
def events() -> pd.DataFrame:
    """Two clients of three: one update taken and one rejected, one lost."""
    spent = {"device_s": 2.0, "energy_j": 8.0, "uplink_bytes": 100}
    rows = [
        row("dispatched", 0.0, 0, downlink_bytes=1000),
        row("dispatched", 1.0, 1, downlink_bytes=1000),
        row("arrived", 4.0, 0, outcome="accepted", reason="", **spent),
        row("committed", 5.0, 0, staleness=3),
        row("dispatched", 5.0, 0, 1, downlink_bytes=500),
        row("lost", 6.0, 1, outcome="lost", reason="went_away", device_s=1.0, energy_j=4.0),
        row("arrived", 7.0, 0, 1, outcome="rejected", reason="too_stale", **spent),
        row("evaluated", 20.0, 0, accuracy=0.5),
    ]
    rows[-1] |= {"client": None, "number": None}
    return pd.DataFrame(rows, columns=EVENTS_SCHEMA.names)


def test_by_hand(events: pd.DataFrame) -> None:
    """Counts, means and shares of a run of eight events."""
    clients = people.table(events, ABOUT, span_s=20.0)
    assert list(clients["asked"]) == [2, 1, 0]
    assert list(clients["accepted"]) == [1, 0, 0]
    assert list(clients["rejected"]) == [1, 0, 0]
    assert list(clients["lost"]) == [0, 1, 0]
    assert list(clients["share"]) == [1.0, 0.0, 0.0]
    assert clients["staleness"][0] == 3
    assert clients["cycle_s"][0] == (4 + 2) / 2
    assert np.isnan(clients["cycle_s"][1])  # what is lost has no cycle
    assert list(clients["downlink_bytes"]) == [1500, 1000, 0]
    assert list(clients["uplink_bytes"]) == [200, 0, 0]
    assert list(clients["device_s"]) == [4.0, 1.0, 0.0]
    assert list(clients["busy_share"]) == [0.2, 0.05, 0.0]
    np.testing.assert_allclose(clients["load"], [0.1, 0.005, 0.0])


def test_tests_of_its_own_count(events: pd.DataFrame) -> None:
    """What a client's test of a version took is the client's; it is no update of its."""
    spent = {"device_s": 1.0, "energy_j": 2.0, "uplink_bytes": 16, "downlink_bytes": 1000}
    test = row("tested", 20.0, 2, accuracy=0.5, **spent) | {"number": None}
    more = pd.concat([events, pd.DataFrame([test], columns=EVENTS_SCHEMA.names)])
    clients = people.table(more, ABOUT, span_s=20.0)
    assert list(clients["downlink_bytes"]) == [1500, 1000, 1000]
    assert list(clients["uplink_bytes"]) == [200, 0, 16]
    assert list(clients["device_s"]) == [4.0, 1.0, 1.0]
    assert list(clients["asked"]) == [2, 1, 0]


def test_what_it_fetches_counts(events: pd.DataFrame) -> None:
    """A version that a client corrects its update by is sent to it too; it is not asked again."""
    fetched = row("fetched", 2.0, 1, downlink_bytes=300)
    more = pd.concat([events, pd.DataFrame([fetched], columns=EVENTS_SCHEMA.names)])
    clients = people.table(more, ABOUT, span_s=20.0)
    assert list(clients["downlink_bytes"]) == [1500, 1300, 0]
    assert list(clients["asked"]) == [2, 1, 0]
    assert clients["cycle_s"][0] == (4 + 2) / 2


def test_figures_by_hand(events: pd.DataFrame) -> None:
    """The worst tenth is one client at least; clients without an accuracy do not count in it."""
    found = people.figures(people.table(events, ABOUT, span_s=20.0))
    assert found["worst_decile_accuracy"] == 0.5
    assert found["accuracy_spread"] == pytest.approx(0.2)
    assert found["participation"] == pytest.approx(1 / 3)
    assert found["cycle_seconds"] == 3.0
    assert found["most_load"] == pytest.approx(0.1)


def test_a_run_without_events(events: pd.DataFrame) -> None:
    """Every client has its row of zeros."""
    clients = people.table(events.iloc[:0], ABOUT, span_s=0.0)
    assert len(clients) == 3
    assert clients["asked"].sum() == clients["load"].sum() == 0
    found = people.figures(clients)
    assert np.isnan(found["cycle_seconds"])
    assert found["participation"] == 0


def test_written_and_read(events: pd.DataFrame, tmp_path: Path) -> None:
    """The file has the client's number as a column of its own, and whole numbers stay whole."""
    clients = people.table(events, ABOUT, span_s=20.0)
    back = pd.read_parquet(people.write(clients, tmp_path))
    assert list(back["client"]) == [0, 1, 2]
    assert back["asked"].dtype == np.int64
    pd.testing.assert_frame_equal(back.set_index("client"), clients)
