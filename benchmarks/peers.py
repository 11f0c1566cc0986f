"""How many client updates a second do other frameworks make of the same work, beside latecomer?

    python benchmarks/peers.py [--quick] [--only NAME] [--model NAME] [--repeats N] [--json FILE]
                               [--environments DIR] [--scaling]

100 clients of 100 samples of 28x28, batch 20, one local epoch, SGD; an MLP and a CNN, those of
benchmarks/throughput.py; torch on one thread in each process, and latecomer besides with two
processes that train for one that does not; nothing tested. Each framework lives in an environment
of its own, which is made once and kept, and takes its documented fast path; what differs from
latecomer stands in benchmarks/peers/with_*.py. They take turns with latecomer in one run; the
tables show medians and spread, and ratios within a turn.

Updates a second are those from the first to the last update. Start-up is all before the first, from
the start of the process on. Every row checks how many updates were made, so that none wins by doing
less. Turns that are done are kept in a file and not run again, unless latecomer, a script or a
pinned version has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, Final

from actors.identity import numerics

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent
SCRIPTS: Final = HERE / "peers"
ENVIRONMENTS: Final = Path.home() / ".cache" / "latecomer" / "peers"
RESULTS: Final = HERE / "results" / "peers.jsonl"
LATECOMER: Final = "with_latecomer.py"
PINNED: Final = "pinned.json"
TIMEOUT_S: Final = 900
INSTALL_TIMEOUT_S: Final = 3600
QUICK: Final = 5
"""A quick run makes so many times fewer updates."""
SCALES: Final = (100, 1_000, 5_000)
SCALE_UPDATES, SCALE_UPDATES_OURS = 200, 1_000
IN_FLIGHT, FEW = 32, 10
UPDATES: Final = {"mlp": 10_000, "cnn": 800}
"""That latecomer makes."""
TORCH: Final = ("torch==2.13.0", "numpy==2.4.6")


class FailedError(Exception):
    """A framework could not be installed or run."""


ALONE, BESIDE, RAY = "1", "1 and 2 trainers", "2"
HOW: Final = {ALONE: (1, 1), BESIDE: (1, 2), RAY: (2, 1)}
"""Processes, and how many train: one does without Ray, alone or with others beside it."""


@dataclass(frozen=True)
class Peer:
    """A framework, and how it is run.

    Attributes:
        name: For `--only` and the file of results.
        title: In tables.
        environment: Names its environment; two peers may share one.
        script: Runs it, a file of benchmarks/peers.
        pins: What pip installs with what it asks for.
        bare: What pip installs without what it asks for: a torch of several gigabytes.
        processes: That train.
        updates: How many it makes, by model: fewer where it is slower.
        beside: How latecomer is run that it is compared to.
        goal: How many times as fast latecomer wants to be on the MLP.
    """

    name: str
    title: str
    environment: str
    script: str
    pins: tuple[str, ...]
    bare: tuple[str, ...]
    processes: int
    updates: dict[str, int]
    beside: tuple[str, ...]
    goal: float


def _pfl(processes: int) -> Peer:
    return Peer(
        f"pfl-{processes}",
        "pfl-research",
        "pfl",
        "with_pfl.py",
        ("pfl==0.6.0", *TORCH),
        (),
        processes,
        {"mlp": 2_000, "cnn": 200},
        (RAY, ALONE, BESIDE) if processes > 1 else (ALONE,),
        2.0,
    )


PEERS: Final = (
    Peer(
        "flower",
        "Flower on Ray",
        "flower",
        "with_flower.py",
        ("flwr[simulation]==1.41.0", "ray==2.55.1", *TORCH),
        (),
        2,
        {"mlp": 400, "cnn": 200},
        (RAY, ALONE, BESIDE),
        20.0,
    ),
    _pfl(1),
    _pfl(2),
    Peer(
        "flgo",
        "FLGo",
        "flgo",
        "with_flgo.py",
        (
            *TORCH,
            "matplotlib==3.11.2",
            "networkx==3.6.1",
            "prettytable==3.18.0",
            "pynvml==13.0.1",
            "pyyaml==6.0.3",
            "requests==2.34.2",
            "scipy==1.17.1",
            "toolz==1.2.0",
            "tqdm==4.70.1",
            "ujson==6.1.0",
        ),
        ("flgo==0.4.4",),
        1,
        {"mlp": 800, "cnn": 200},
        (ALONE, BESIDE, RAY),
        10.0,
    ),
    Peer(
        "appfl",
        "APPFL, vsim",
        "appfl",
        "with_appfl.py",
        (
            *TORCH,
            "blosc==1.11.4",
            "colorama==0.4.6",
            "lz4==4.4.5",
            "matplotlib==3.11.2",
            "networkx==3.6.1",
            "omegaconf==2.4.0",
            "opt-einsum==3.4.0",
            "pandas==3.1.1",
            "pyyaml==6.0.3",
            "scikit-learn==1.9.1",
            "scipy==1.17.1",
            "seaborn==0.13.2",
            "wandb==0.31.0",
            "zstd==1.5.7.2",
        ),
        ("appfl==1.12.0", "opacus==1.6.0"),
        1,
        {"mlp": 800, "cnn": 200},
        (ALONE, BESIDE, RAY),
        10.0,
    ),
)


@dataclass(frozen=True)
class Cell:
    """One comparison, of which there are as many turns as wanted.

    Attributes:
        peer: What is compared.
        model: What is trained.
        clients: How many there are.
        in_flight: How many are busy at a time, where that can be said.
        updates: That the peer makes.
        ours: Updates that latecomer makes.
        beside: How latecomer is run.
    """

    peer: Peer
    model: str
    clients: int
    in_flight: int
    updates: int
    ours: int
    beside: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name it for people."""
        return f"{self.peer.name}, {self.model}, {self.clients} clients"

    def key(self, turn: int) -> str:
        """Return 16 hex digits that name all that a turn's figures depend on."""
        scripts = [(SCRIPTS / name).read_text("utf-8") for name in (self.peer.script, "work.py")]
        found = [asdict(self), turn, scripts, _latecomer(), numerics()]
        return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _latecomer() -> str:
    """Return a hash of latecomer's source."""
    found = hashlib.sha256()
    parts = [sorted((ROOT / part).rglob("*.py")) for part in ("policies", "actors", "orchestrator")]
    for file in [*(file for part in parts for file in part), SCRIPTS / LATECOMER]:
        found.update(file.read_bytes())
    return found.hexdigest()


@dataclass(frozen=True)
class Figures:
    """What one run came to."""

    updates: int
    per_s: float
    startup_s: float
    processes: int


# ------------------------------------------------------------------ environments


def interpreter(peer: Peer, folder: Path) -> Path:
    """Return the Python of a peer's environment."""
    return folder / peer.environment / "bin" / "python"


def ready(peer: Peer, folder: Path) -> bool:
    """Say whether its environment is there, with the versions that are pinned now."""
    noted = folder / peer.environment / PINNED
    return noted.exists() and noted.read_text("utf-8") == _pinned(peer)


def _pinned(peer: Peer) -> str:
    return json.dumps([platform.python_version(), peer.pins, peer.bare])


def install(peer: Peer, folder: Path) -> None:
    """Make a peer's environment, unless it is there.

    Raises:
        FailedError: If pip could not.
    """
    if ready(peer, folder):
        return
    target = folder / peer.environment
    shutil.rmtree(target, ignore_errors=True)
    print(f"making {target}", file=sys.stderr)
    pip = [str(interpreter(peer, folder)), "-m", "pip", "install", "--quiet"]
    commands = [
        [sys.executable, "-m", "venv", str(target)],
        [*pip, "--disable-pip-version-check", *peer.pins],
    ]
    if peer.bare:
        commands.append([*pip, "--disable-pip-version-check", "--no-deps", *peer.bare])
    for command in commands:
        _install(command)
    (target / PINNED).write_text(_pinned(peer), encoding="utf-8")


def _install(command: Sequence[str]) -> None:
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S
        )
    except subprocess.CalledProcessError as error:
        raise FailedError(f"cannot be installed: {_last(error.stderr)}") from error
    except (subprocess.TimeoutExpired, OSError) as error:
        raise FailedError(f"cannot be installed: {error}") from error


def _last(text: str) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


# ------------------------------------------------------------------ one run


def theirs(cell: Cell, environments: Path) -> Figures:
    """Run the peer."""
    peer = cell.peer
    command = [str(interpreter(peer, environments))]
    if peer.script == "with_pfl.py" and peer.processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        command += [*launcher, str(peer.processes)]
    task = _task(cell, cell.updates, peer.processes)
    return timed([*command, str(SCRIPTS / peer.script), json.dumps(task)], task, path=None)


def ours(cell: Cell, how: str) -> Figures:
    """Run latecomer beside it."""
    processes, trainers = HOW[how]
    task = _task(cell, cell.ours, processes) | {"trainers": trainers}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    try:
        return timed([sys.executable, str(SCRIPTS / LATECOMER), json.dumps(task)], task, path=path)
    except FailedError as error:
        raise FailedError(f"latecomer, beside it, {error}") from error


def _task(cell: Cell, updates: int, processes: int) -> dict[str, Any]:
    return {
        "model": cell.model,
        "updates": updates,
        "clients": cell.clients,
        "in_flight": cell.in_flight,
        "processes": processes,
    }


def timed(command: Sequence[str], task: dict[str, Any], *, path: str | None) -> Figures:
    """Run a script in a process group of its own, and read what it reports.

    Raises:
        FailedError: If it ended with an error or too late, or made too few updates.
    """
    with tempfile.TemporaryDirectory(prefix="peers") as folder:
        environment = _environment(Path(folder), path)
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, complaints = process.communicate(timeout=TIMEOUT_S)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise FailedError(f"was not done after {TIMEOUT_S} s") from error
            raise
    if process.returncode:
        raise FailedError(f"ended with {process.returncode}: {_last(complaints)}")
    return figures(json.loads(_last(out)), began, task)


def figures(report: dict[str, Any], began: float, task: dict[str, Any]) -> Figures:
    """Make figures of a report.

    Raises:
        FailedError: If it did less than was asked for.
    """
    if report["updates"] < task["updates"] or report["processes"] != task["processes"]:
        raise FailedError(f"did something else: {report} of {task}")
    return Figures(
        updates=report["updates"],
        per_s=(report["updates"] - report["at_first"]) / (report["last"] - report["first"]),
        startup_s=report["first"] - began,
        processes=report["processes"],
    )


def _environment(folder: Path, path: str | None) -> dict[str, str]:
    """Return variables that keep a child to itself: no other Ray, no telemetry, one thread."""
    ours_alone = {"PYTHONPATH", "RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "VIRTUAL_ENV"}
    kept = {name: value for name, value in os.environ.items() if name not in ours_alone}
    said = {
        "OMP_NUM_THREADS": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_HOME": str(folder / "flwr"),
        "WANDB_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return kept | said | ({"PYTHONPATH": path} if path else {})


# ------------------------------------------------------------------ turns


class Kept:
    """The turns that are done, a line each."""

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        self._found = {line["key"]: line for line in map(json.loads, lines)}

    def turn(self, cell: Cell, turn: int, environments: Path) -> dict[str, Any]:
        """Return a turn's figures: those kept, or new ones.

        Raises:
            FailedError: If the peer or latecomer could not run.
        """
        key = cell.key(turn)
        if key not in self._found:
            load = os.getloadavg()[0]
            first, *rest = cell.beside
            mine = {first: asdict(ours(cell, first))}
            other = asdict(theirs(cell, environments))  # between ours, where there are two
            mine |= {how: asdict(ours(cell, how)) for how in rest}
            record = {
                "key": key,
                "peer": cell.peer.name,
                "model": cell.model,
                "clients": cell.clients,
                "turn": turn,
                "load": load,
                "latecomer": mine,
                "theirs": other,
            }
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(record) + "\n")
            self._found[key] = record
        found: dict[str, Any] = self._found[key]
        return found


def measure(
    cells: Sequence[Cell], repeats: int, environments: Path, kept: Kept
) -> list[dict[str, Any]]:
    """Take turns: all comparisons once, then all again. What fails once is not tried again."""
    turns: dict[int, list[dict[str, Any]]] = {number: [] for number in range(len(cells))}
    failed: dict[int, str] = {}
    for turn in range(repeats):
        for number, cell in enumerate(cells):
            if number in failed:
                continue
            try:
                install(cell.peer, environments)
                turns[number].append(kept.turn(cell, turn, environments))
            except FailedError as error:
                failed[number] = str(error)
            print(f"turn {turn + 1}, {cell.name}: {failed.get(number, 'done')}", file=sys.stderr)
    return [
        row
        for number, cell in enumerate(cells)
        for row in rows(cell, turns[number], failed.get(number))
    ]


def rows(cell: Cell, turns: Sequence[dict[str, Any]], failed: str | None) -> list[dict[str, Any]]:
    """Return a row for each way to run latecomer, or one that says what failed."""
    told = {
        "peer": cell.peer.title,
        "name": cell.peer.name,
        "processes": cell.peer.processes,
        "model": cell.model,
        "clients": cell.clients,
        "in_flight": cell.in_flight,
        "goal": cell.peer.goal if cell.model == "mlp" else 1.0,
    }
    if failed is not None:
        return [told | {"failed": failed}]
    found = []
    for how in cell.beside:
        mine = [turn["latecomer"][how] for turn in turns]
        other = [turn["theirs"] for turn in turns]
        each = [a["per_s"] / b["per_s"] for a, b in zip(mine, other, strict=True)]
        found.append(
            told
            | {
                "beside": how,
                "load": [turn["load"] for turn in turns],
                "theirs": [run["per_s"] for run in other],
                "latecomer": [run["per_s"] for run in mine],
                "theirs_startup_s": [run["startup_s"] for run in other],
                "latecomer_startup_s": [run["startup_s"] for run in mine],
                "ratio": median(each),
                "ratios": each,
            }
        )
    return found


# ------------------------------------------------------------------ tables

HEAD: Final = (
    "framework", "processes", "model", "clients", "updates/s",
    "latecomer, processes", "latecomer, updates/s", "ratio",
)  # fmt: skip
GOAL: Final = "goal"
STARTS: Final = ("start-up, s", "latecomer, start-up, s")


def show(found: Iterable[dict[str, Any]], repeats: int, *, goals: bool) -> None:
    """Print the table, with the machine and the spread."""
    found = list(found)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {numerics()}")
    print(f"Python {platform.python_version()}; medians of {repeats} turns, (lowest to highest)")
    loads = [load for row in found for load in row.get("load", ())]
    if loads:
        print(f"load average of the machine before each turn: {min(loads):.1f} to {max(loads):.1f}")
    names = {row["name"] for row in found}
    versions = {p.title: ", ".join((*p.bare, *p.pins)) for p in PEERS if p.name in names}
    for title, pinned in versions.items():
        print(f"{title}: {pinned}")
    columns = [*HEAD, *([GOAL] if goals else []), *STARTS]
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in found:
        print("| " + " | ".join(_cells(row, goals=goals)) + " |")


def _cells(row: dict[str, Any], *, goals: bool) -> list[str]:
    head = [row["peer"], str(row["processes"]), row["model"], f"{row['clients']:,}"]
    if "failed" in row:
        empty = len(HEAD) + len(STARTS) + goals - len(head) - 1
        return [*head, row["failed"].replace("|", "/"), *[""] * empty]
    met = "met" if row["ratio"] >= row["goal"] else "missed"
    return [
        *head,
        _spread(row["theirs"], ".0f"),
        row["beside"],
        _spread(row["latecomer"], ".0f"),
        _spread(row["ratios"], ".2f"),
        *([f"{row['goal']:g}: {met}"] if goals else []),
        _spread(row["theirs_startup_s"], ".1f"),
        _spread(row["latecomer_startup_s"], ".1f"),
    ]


def _spread(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return f"{median(values):{form}} ({low} to {high})" if len(values) > 1 else low


# ------------------------------------------------------------------ the command


def cells_of(arguments: argparse.Namespace) -> list[Cell]:
    """Return what is compared."""
    if arguments.scaling:
        flower, *_ = PEERS
        return [
            Cell(flower, "mlp", clients, FEW, SCALE_UPDATES, SCALE_UPDATES_OURS, (RAY,))
            for clients in SCALES
        ]
    peers = [peer for peer in PEERS if arguments.only in {None, peer.name, peer.environment}]
    if arguments.quick:
        there = [peer for peer in peers if ready(peer, arguments.environments)]
        return [_cell(peer, "mlp", QUICK, peer.beside[:1]) for peer in there]
    models = [model for model in UPDATES if arguments.model in {None, model}]
    return [_cell(peer, model, 1, peer.beside) for model in models for peer in peers]


def _cell(peer: Peer, model: str, less: int, beside: tuple[str, ...]) -> Cell:
    made, ours_made = peer.updates[model] // less, UPDATES[model] // less
    return Cell(peer, model, 100, IN_FLIGHT, made, ours_made, beside)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="MLP, one turn, what is installed")
    parser.add_argument("--only", help="one framework", choices=_names())
    parser.add_argument("--model", help="one model", choices=list(UPDATES))
    parser.add_argument("--repeats", type=int, default=5, help="turns of each; medians are shown")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="made once, kept")
    parser.add_argument("--scaling", action="store_true", help="instead: Flower, more clients")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # children end, too
    cells = cells_of(arguments)
    if not cells:
        raise SystemExit(f"no environment in {arguments.environments} yet: run without --quick")
    repeats = 1 if arguments.quick else arguments.repeats
    kept = Kept(arguments.json.with_suffix(".jsonl") if arguments.json else RESULTS)
    found = measure(cells, repeats, arguments.environments, kept)
    show(found, repeats, goals=not arguments.scaling)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _names() -> list[str]:
    return sorted({name for peer in PEERS for name in (peer.name, peer.environment)})


if __name__ == "__main__":
    main()
