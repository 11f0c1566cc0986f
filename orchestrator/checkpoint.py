"""How does a run go on after anything?

A checkpoint holds the engine between two events and every buffer that it still needs: versions in
use, clients' states, payloads that wait for their version, and the server's own state. What was
being trained is trained again from there, to the same bytes. Nothing in it is pickled: a JSON file
and safetensors files in a folder that appears under its name only when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import load_file, save_file

from actors.cell import Gathered
from actors.intake import Committed, Delivery
from actors.learning.evaluation_torch import Evaluation
from actors.publisher import Shipment
from actors.server import Receipt, Snapshot
from actors.work import Figures
from orchestrator import split_state, state_files
from orchestrator.books import (
    Ledger,
    Published,
    Resources,
    Roster,
    VersionStore,
)
from orchestrator.client_states import ClientStates
from orchestrator.engine import Engine
from orchestrator.engine.state import Gathering
from orchestrator.plan import Flight, Round, Talk
from orchestrator.runtime import Finished, Handle, Place, Ready, Runtime, Weights
from orchestrator.stages import Ask, Compute, Download, Stage, Upload
from orchestrator.timetable import Leg
from policies.correction import Signals
from policies.guards import Look, StopReason
from policies.selection import Past
from policies.training import Portion
from policies.types import Address, Buffer, ExperimentError, Reason, Version

FORMAT: Final = 9
_STAGES: Final[dict[str, Callable[..., Stage]]] = {
    "Download": Download,
    "Compute": Compute,
    "Ask": Ask,
    "Upload": Upload,
}
_OF_ROSTER: Final = ("next_number", "strikes")
_BY_CLIENT: Final = "by-client/"
"""Before the names of arrays with a row for each client that took part."""
_SHARES: Final = ("by_owner", "by_client")
"""Fields of an evaluation with a number for each client."""
_NO_SHARES: Final[dict[str, Any]] = dict.fromkeys(_SHARES, ())
_SELECTION: Final = "selection/"
_PAST: Final = "past/"
_PLAIN: Final = (
    "at", "trained_s", "device_s", "energy_j", "payload_bytes", "uplink_bytes", "accepted",
    "strength",
)  # fmt: skip
"""Fields of a flight that are plain values."""
_COUNTS: Final = ("flying", "selections", "points", "in_vain", "ended_s")
"""Fields of the engine's state that are plain numbers."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint as read: plain data, and arrays by name; clients' states stay in its folder."""

    folder: Path
    state: dict[str, Any]
    arrays: Mapping[str, np.ndarray[Any, Any]]


@dataclass(slots=True)
class _Blobs:
    """Collects buffers under names; the same bytes of the same buffer get one name."""

    runtime: Runtime
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    names: dict[tuple[int, int, int], str] = field(default_factory=dict)

    def save(self, name: str, what: Handle | Place) -> str:
        place = what if isinstance(what, Place) else Place(what, 0, 0)
        key = _key(place)
        if key not in self.names:
            self.names[key] = name
            self.arrays[name] = np.array(self.runtime.fetch(what))
        return self.names[key]

    def weights(self, weights: Weights | None) -> tuple[int, str] | None:
        """Keep weights of the encoder; return their version and name."""
        if weights is None:
            return None
        return weights.version, self.save(f"encoder/{weights.version}", weights.handle)


def save(
    engine: Engine, folder: Path, *, keep: int = 2, extra: Mapping[str, Any] | None = None
) -> Path:
    """Write a checkpoint and drop all but the newest `keep`.

    The events so far are flushed first, so that log and checkpoint agree.

    Args:
        engine: Stands between two events.
        folder: Where a run's checkpoints are.
        keep: How many stay, >= 1.
        extra: More names for `Saved.state`.

    Returns:
        The checkpoint's folder.
    """
    rows = engine.events.flush()
    folder.mkdir(parents=True, exist_ok=True)
    number = max((int(p.name) for p in _complete(folder)), default=-1) + 1
    partial = folder / f"partial-{number}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    blobs = _Blobs(engine.runtime)
    places = state_files.write(engine.state.client_states, engine.runtime, partial)
    state = _dump(engine, blobs, places) | {"format": FORMAT, "events_rows": rows, **(extra or {})}
    save_file(blobs.arrays, partial / "arrays.safetensors")
    (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
    for file in partial.iterdir():
        _sync(file)
    target = folder / f"{number:08d}"
    partial.rename(target)
    _sync(folder)
    engine.state.client_states.saved = target
    for old in _complete(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def load(folder: Path) -> Saved | None:
    """Read the newest checkpoint; None if there is none.

    Raises:
        ExperimentError: If it was written in a format that this version does not read.
    """
    complete = _complete(folder)
    if not complete:
        return None
    state = json.loads((complete[-1] / "state.json").read_text(encoding="utf-8"))
    if state.get("format") != FORMAT:
        raise ExperimentError(
            f"{complete[-1]} has checkpoint format {state.get('format')}, and this version reads "
            f"{FORMAT}. Resume it with the version that wrote it."
        )
    return Saved(complete[-1], state, load_file(complete[-1] / "arrays.safetensors"))


def restore(engine: Engine, saved: Saved) -> None:
    """Put a fresh engine where the checkpoint was taken, and start again what was under way.

    The clock must stand at the checkpoint's time already, and the log be cut to its rows.
    """
    _Reader(engine, saved).read()


def _complete(folder: Path) -> list[Path]:
    if not folder.exists():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and p.name.isdigit())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _dump(engine: Engine, blobs: _Blobs, places: Sequence[Place]) -> dict[str, Any]:
    state = engine.state
    server = engine.runtime.snapshot(state.head)
    blobs.arrays["server/model"] = server.model
    for name, array in server.memory.items():
        blobs.arrays[f"server/memory/{name}"] = array
    roster = state.roster.dump()
    held = [(client, *version) for client, version in sorted(state.held.items())]
    by_client = {
        "held": held,
        "last_number": sorted(server.last_number.items()),
        **{name: roster.pop(name) for name in _OF_ROSTER},
    }
    for name, table in by_client.items():
        blobs.arrays[f"{_BY_CLIENT}{name}"] = np.array(table, dtype=np.int64)
    for name, array in state.selection.items():
        blobs.arrays[f"{_SELECTION}{name}"] = array
    past = {} if state.past is None else asdict(state.past)
    past.pop("examples", None)  # the data's own
    for name, array in past.items():
        blobs.arrays[f"{_PAST}{name}"] = array
    newest = state.versions.newest
    last = state.last_evaluation
    if last is not None:
        for name in _SHARES:
            found = getattr(last[1], name)
            blobs.arrays[f"{_BY_CLIENT}{name}"] = np.array(found, dtype=np.float64)
    rows = {_key(place): at for at, place in enumerate(places)}

    def keep(name: str, place: Place) -> int | str:
        """Return the row of a client's state, or an array's name if it is none any more."""
        row = rows.get(_key(place))
        return blobs.save(name, place) if row is None else row

    return {
        "time_s": engine.clock.now_s(),
        "turns": engine.turns.dump(),
        "resources": state.resources.dump(engine.clock.now_s()),
        "roster": roster,
        "ledger": state.ledger.dump(),
        "round": asdict(state.round),
        "head": state.head,
        "buffer": state.buffer,
        **{name: getattr(state, name) for name in _COUNTS},
        "selection": sorted(state.selection),
        "past": sorted(past),
        "looks": state.looks,
        "kls": state.kls,
        "measures": sorted(state.measures.items()),
        "stopped": asdict(state.stopped) if state.stopped else None,
        "best": state.best,
        "last_evaluation": [last[0], asdict(replace(last[1], **_NO_SHARES))] if last else None,
        "exams": engine.examiner.dump(keep),
        "gathering": [astuple(gathering) for gathering in state.gathering.values()],
        "receipts": [(v, asdict(p.result())) for v, p in state.receipts.items()],
        "versions": [
            (
                v,
                users,
                published
                and (published.whole, published.nonzeros, blobs.weights(published.encoder)),
                v == newest,
                blobs.save(f"version/{v.number}", handle),
            )
            for v, users, published, handle in state.versions.items()
        ],
        "encoder": state.encoder and split_state.dump(state.encoder, blobs),
        "flights": [
            _flight(f, f.address in state.buffer, blobs, keep) for f in state.flights.values()
        ],
    }


def _key(place: Place) -> tuple[int, int, int]:
    return id(place.handle), place.start, place.stop


def _flight(
    flight: Flight, in_buffer: bool, blobs: _Blobs, keep: Callable[[str, Place], int | str]
) -> dict[str, Any]:
    """Return a flight; `keep` has its state."""
    client, number = flight.address
    payload = flight.finished.payload if in_buffer and flight.finished else None
    return {
        "address": flight.address,
        "base": flight.base,
        "state": None if flight.state is None else keep(f"from/{client}/{number}", flight.state),
        "stages": [[type(s).__name__, asdict(s)] for s in flight.stages],
        "held": flight.held,
        "teacher": flight.teacher,
        "corrected": flight.corrected,
        "density": flight.density,
        "portion": flight.portion,
        "legs": flight.legs,
        **{name: getattr(flight, name) for name in _PLAIN},
        "payload": blobs.save(f"payload/{client}/{number}", payload) if payload else None,
        "talk": flight.talk and split_state.dump_talk(flight.talk, f"{client}/{number}", blobs),
    }


class _Reader:
    """Puts a checkpoint's parts back where they belong."""

    def __init__(self, engine: Engine, saved: Saved) -> None:
        self._engine = engine
        self._folder = saved.folder
        self._saved = saved.state
        self._arrays = saved.arrays
        self._places: list[Place] = []
        self._handles: dict[str, Handle] = {}

    def read(self) -> None:
        engine, state, saved = self._engine, self._engine.state, self._saved
        self._server()
        engine.turns.load(saved["turns"])
        state.resources = Resources(saved["resources"])
        roster = saved["roster"] | {name: self._by_client(name) for name in _OF_ROSTER}
        state.roster = Roster.load(roster)
        state.ledger = Ledger(**saved["ledger"])
        state.round = Round(**saved["round"])
        state.head = Version(*saved["head"])
        state.buffer = [Address(*a) for a in saved["buffer"]]
        for name in _COUNTS:
            setattr(state, name, saved[name])
        state.held = {c: Version(*v) for c, *v in self._by_client("held")}
        state.measures = {Version(*v): figures for v, figures in saved["measures"]}
        state.selection = {n: self._own(f"{_SELECTION}{n}") for n in saved["selection"]}
        if saved["past"]:
            past = {name: self._own(f"{_PAST}{name}") for name in saved["past"]}
            state.past = Past(examples=engine.plan.examples, **past)
        state.looks = [Look(*look) for look in saved["looks"]]
        state.kls = saved["kls"]
        state.stopped = StopReason(**saved["stopped"]) if saved["stopped"] else None
        state.versions = self._versions()
        state.client_states = self._states()
        state.last_evaluation = self._last_evaluation()
        best = saved["best"]
        state.best = (best[0], Version(*best[1])) if best else None
        state.gathering = {
            number: Gathering(Version(number, lineage), coming, arrived_s)
            for (number, lineage), coming, arrived_s in saved["gathering"]
        }
        state.receipts = {Version(*v): Ready(_read_receipt(r)) for v, r in saved["receipts"]}
        engine.examiner.load(saved["exams"], state.versions, self._kept)
        self._flights()
        split = engine.plan.split
        if split is not None and saved["encoder"]:
            state.encoder = split_state.load(saved["encoder"], split, self)
            for number, members, weights, replica, head in saved["encoder"]["passes"]:
                asked = [split_state.waiting(row, split, self) for row in members]
                found = self.weights(weights)
                assert found is not None  # noqa: S101  # a pass always has some
                engine.serving.begin(number, asked, found, replica, Version(*head))

    def _handle(self, name: str) -> Handle:
        if name not in self._handles:
            self._handles[name] = self._engine.runtime.put(self._arrays[name])
        return self._handles[name]

    def _own(self, name: str) -> np.ndarray[Any, Any]:
        """Return an array that may be changed."""
        return np.array(self._arrays[name])

    def _by_client(self, name: str) -> list[Any]:
        found: list[Any] = self._arrays[f"{_BY_CLIENT}{name}"].tolist()
        return found

    def _place(self, name: str) -> Place:
        return Place(self._handle(name), 0, int(self._arrays[name].size))

    def _server(self) -> None:
        prefix = "server/memory/"
        memory = {
            name.removeprefix(prefix): array
            for name, array in self._arrays.items()
            if name.startswith(prefix)
        }
        last = {row[0]: row[1] for row in self._by_client("last_number")}
        head = Version(*self._saved["head"])
        snapshot = Snapshot(head, self._arrays["server/model"], memory, last)
        rows = self._saved["versions"]  # in their order; `newest` is what clients are sent now
        since = next(index for index, (*_, newest, _) in enumerate(rows) if newest)
        versions = [self._handle(name) for *_, name in rows[since:]]
        self._engine.runtime.restore(snapshot, versions)

    def _versions(self) -> VersionStore:
        versions = VersionStore()
        for version, users, published, newest, name in self._saved["versions"]:
            known = None if published is None else self._published(*published)
            versions.put(Version(*version), users, known, self._handle(name), newest=newest)
        return versions

    def _published(self, whole: list[Any], nonzeros: int, encoder: list[Any] | None) -> Published:
        return Published(Shipment(*whole), nonzeros, self.weights(encoder))

    def weights(self, row: Sequence[Any] | None) -> Weights | None:
        """Return weights of the encoder from a version and an array's name."""
        return None if row is None else Weights(row[0], self._handle(row[1]))

    def place(self, name: str | None) -> Place | None:
        """Return where the bytes of an array lie; None if it is none."""
        return None if name is None else self._place(name)

    def _states(self) -> ClientStates:
        states = ClientStates()
        self._places = state_files.read(states, self._engine.runtime, self._folder)
        return states

    def _last_evaluation(self) -> tuple[Version, Evaluation] | None:
        if not self._saved["last_evaluation"]:
            return None
        version, found = self._saved["last_evaluation"]
        found |= {name: self._by_client(name) for name in _SHARES}
        found |= {name: tuple(found[name]) for name in ("recall", "support", *_SHARES)}
        return Version(*version), Evaluation(**found)

    def _talk(self, row: Mapping[str, Any] | None, portion: Portion) -> Talk | None:
        split = self._engine.plan.split
        return split_state.talk(row, portion, split, self) if row and split else None

    def _kept(self, state: int | str) -> Place:
        """Return where a client's state lies, from its row or an array's name."""
        return self._places[state] if isinstance(state, int) else self._place(state)

    def _state_of(self, flight: Mapping[str, Any]) -> Place | None:
        state = flight["state"]
        return None if state is None else self._kept(state)

    def _flights(self) -> None:
        """Deliver again what waits for its version, and train again what was under way."""
        engine = self._engine
        engine.state.flights = {}
        for row in self._saved["flights"]:
            portion = Portion(*row["portion"])
            flight = Flight(
                Address(*row["address"]),
                Version(*row["base"]),
                self._state_of(row),
                _version(row["held"]),
                row["density"],
                tuple(_STAGES[name](**values) for name, values in row["stages"]),
                tuple(_leg(*leg) for leg in row["legs"]),
                teacher=_version(row["teacher"]),
                corrected=_figures(row["corrected"]),
                talk=self._talk(row["talk"], portion),
                portion=portion,
                **{name: row[name] for name in _PLAIN},
            )
            engine.state.flights[flight.address] = flight
            if row["payload"]:
                self._deliver(flight, row["payload"])
            elif not flight.accepted:
                engine.restart(flight)

    def _deliver(self, flight: Flight, name: str) -> None:
        payload: Buffer = self._arrays[name]
        delivery = Delivery(flight.address, flight.base, 0, int(payload.size))
        self._engine.runtime.deliver([delivery], payload)
        flight.finished = Finished(None, self._place(name))


def _version(row: Sequence[int] | None) -> Version | None:
    return Version(*row) if row else None


def _figures(rows: Iterable[Sequence[Any]]) -> Figures:
    return tuple((name, value) for name, value in rows)


def _leg(begin_s: float, end_s: float, busy_s: float, done: float, lost: str) -> Leg:
    return Leg(begin_s, end_s, busy_s, done, Reason(lost))


def _read_receipt(data: dict[str, Any]) -> Receipt:
    committed = _read_committed(data["committed"])
    typed = {
        "version": Version(*data["version"]),
        "committed": committed,
        "whole": Shipment(*data["whole"]),
        "measures": _figures(data["measures"]),
        "spread": data["spread"] and Shipment(*data["spread"]),
        "gathered": tuple(_read_gathered(*row) for row in data["gathered"]),
    }
    return Receipt(**data | typed)


def _read_committed(rows: Sequence[Sequence[Any]]) -> tuple[Committed, ...]:
    return tuple(
        Committed(Address(*address), late, weight, _figures(corrected))
        for address, late, weight, corrected in rows
    )


def _read_gathered(*row: Any) -> Gathered:
    *sent, committed, signals = row
    said = None if signals is None else Signals(*signals)
    return Gathered._make((*sent, _read_committed(committed), said))
