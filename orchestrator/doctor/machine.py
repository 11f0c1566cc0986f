"""What on this machine would keep a run from working?

Nothing here starts anything, writes anything or takes a lock that somebody waits for.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from importlib import import_module, util
from pathlib import Path
from typing import Any, Final

import psutil

from actors.identity import PACKAGES as OURS
from orchestrator.doctor import probe
from orchestrator.doctor.findings import Finding, note, ok, trouble
from orchestrator.progress import size
from orchestrator.tracking.mlflow_store import Shelf, without_password

MEMORY_BYTES: Final = 2**30
DISK_BYTES: Final = 2 * 2**30
RAY_FULL: Final = 0.95
"""Ray refuses to write where the disk is fuller than this."""
STORE_SHARE: Final = 0.3
"""Ray gives its object store so much of the free memory, if /dev/shm has room for it."""
FRESH_S: Final = 60.0
"""A run's folder that was written to within so long is taken to be going on."""
_INSTALL: Final = "Install the project here: pip install latecomer."


def packages() -> Iterator[Finding]:
    """Look for the packages, and for one that is there and cannot be imported."""
    found: Mapping[str, Any] = probe.look()
    versions: Mapping[str, str | None] = found["versions"]
    said = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield ok("packages", said)
    missing = [name for name, version in versions.items() if not version]
    if missing:
        yield trouble("packages", f"{', '.join(missing)} not installed", _INSTALL)
    with suppress(ModuleNotFoundError):
        try:
            import_module("constriction")  # compiled for a processor and a Python
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError):
                raise
            yield trouble(
                "packages",
                f"constriction cannot be imported: {error}",
                "Install it again for this Python: pip install --force-reinstall constriction.",
            )


def room() -> Iterator[Finding]:
    """Look at memory, shared memory and disks."""
    free = int(psutil.virtual_memory().available)
    if free < MEMORY_BYTES:
        yield note("memory", f"{size(free)} free", "Close something, or run with --workers 1.")
    else:
        yield ok("memory", f"{size(free)} free")
    yield shared_memory(Path("/dev/shm"), free)  # noqa: S108 - where Ray keeps its objects
    places = {"disk here": Path.cwd(), "disk of Ray": Path(tempfile.gettempdir())}
    for topic, place in places.items():
        yield disk(topic, place)


def shared_memory(folder: Path, free_bytes: int) -> Finding:
    """Compare shared memory with what Ray's object store would take."""
    wanted = int(STORE_SHARE * free_bytes)
    total = shutil.disk_usage(folder).total if folder.exists() else 0
    text = f"{folder} has {size(total)}, Ray's object store would take {size(wanted)}"
    if total >= wanted:
        return ok("shared memory", text)
    return note(
        "shared memory",
        f"{text}: it goes to the disk and is slow",
        f"Start the container with --shm-size={max(1, round(wanted / 2**30))}g.",
    )


def disk(topic: str, folder: Path) -> Finding:
    """Look at how much room a disk has."""
    usage = shutil.disk_usage(folder)
    text = f"{size(usage.free)} free at {folder}"
    if 1 - usage.free / usage.total > RAY_FULL:
        full = f"{text}, more than {RAY_FULL:.0%} full: Ray may refuse to write"
        return trouble(topic, full, "Make room, or set TMPDIR to another disk.")
    if usage.free < DISK_BYTES:
        return note(topic, text, "Make room before a long run.")
    return ok(topic, text)


def authentication(env: Mapping[str, str], home: Path) -> Finding:
    """Say whether Ray asks for a token, and whether there is one; never which."""
    topic = "Ray's token"
    mode = env.get("RAY_AUTH_MODE", "")
    named = env.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else home / ".ray" / "auth_token"
    there = bool(env.get("RAY_AUTH_TOKEN")) or file.is_file()
    if mode not in ("", "token", "disabled"):
        return trouble(
            topic,
            f"RAY_AUTH_MODE is {mode}, which Ray does not know",
            "Set it to token, or leave it out.",
        )
    if mode != "token":
        return note(
            topic,
            f"RAY_AUTH_MODE is {mode or 'not set'}: whoever reaches a Ray can run code on it"
            + (", though a token is there" if there else ""),
            "Export RAY_AUTH_MODE=token for `ray start` and for every client.",
        )
    if not there:
        return trouble(
            topic,
            f"RAY_AUTH_MODE is token, and there is none in RAY_AUTH_TOKEN or {file}",
            "Make one: ray get-auth-token --generate > /dev/null",
        )
    if file.is_file() and stat.S_IMODE(file.stat().st_mode) & 0o077:
        return note(topic, f"others can read {file}", f"Run: chmod 600 {file}")
    return ok(topic, "asked for, and there")


def mlflow(uri: str | None) -> Finding:
    """Say whether MLflow takes figures; nothing is written there."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///"):
        return _database(Path(uri.removeprefix("sqlite:///")).absolute())
    refusal = Shelf(uri).refusal()
    said = without_password(uri)
    if refusal:
        return trouble(
            "MLflow",
            f"{said} takes no figures: {refusal}",
            "Start it, or name another by MLFLOW_TRACKING_URI. Runs go on without, and keep what "
            "it missed.",
        )
    return ok("MLflow", f"{said} answers and takes figures")


def _database(file: Path) -> Finding:
    """See that a database can be written to, by a transaction that is taken back."""
    way_out = "Name another by MLFLOW_TRACKING_URI=sqlite:////FOLDER/mlflow.db."
    if not file.exists():
        above = next(folder for folder in file.parents if folder.exists())
        if os.access(above, os.W_OK):
            return ok("MLflow", f"{file} is made by the first run")
        return trouble("MLflow", f"{file} cannot be made: {above} is not writable", way_out)
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=rw", uri=True, timeout=0.5)) as database:
            database.execute("BEGIN IMMEDIATE")
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
            database.rollback()
    except sqlite3.Error as error:
        return trouble("MLflow", f"{file} cannot be written to: {error}", way_out)
    if tables and "alembic_version" not in tables:
        return trouble("MLflow", f"{file} is a database, but none of MLflow's", way_out)
    return ok("MLflow", f"{file} can be written to")


def shadows(folder: Path) -> Iterator[Finding]:
    """Find modules of the user's own that are called like our packages."""
    for name in OURS:
        spec = util.find_spec(name)
        ours = Path(spec.origin).resolve().parent if spec and spec.origin else None
        for path in (folder / name, folder / f"{name}.py"):
            if path.exists() and path.resolve() != ours:
                yield trouble(
                    "names",
                    f"{path} has the name of a package of latecomer: one hides the other",
                    f"Rename it, to my_{name} for example.",
                )


def rays() -> Iterator[Finding]:
    """Find the heads and nodes of Ray that run on this machine."""
    for process in psutil.process_iter(["pid", "name", "username", "create_time"]):
        if process.info["name"] == "raylet":
            since = datetime.fromtimestamp(process.info["create_time"], UTC).astimezone()
            yield note(
                "Ray",
                f"a node of Ray runs here, process {process.info['pid']} of "
                f"{process.info['username']}, since {since:%Y-%m-%d %H:%M}",
                "Runs leave it alone but with --address. If nobody needs it: ray stop.",
            )


def unfinished(runs: Path, now_s: float) -> Iterator[Finding]:
    """Find runs that have not ended, and figures that MLflow has not got."""
    for folder in sorted(runs.iterdir()) if runs.is_dir() else ():
        if not (folder / "experiment.yaml").exists():
            continue
        if (folder / "mlflow-undelivered.json").exists():
            text = f"{folder} keeps figures that MLflow has not got"
            yield note("runs", text, "They go first when the run goes on.")
        if (folder / "summary.json").exists():
            continue
        newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
        if now_s - newest < FRESH_S:
            yield ok("runs", f"{folder} is going on")
        else:
            way_out = f"Go on with it: latecomer run --resume {folder}. Or remove the folder."
            yield note("runs", f"{folder} is unfinished", way_out)


def locks() -> Iterator[Finding]:
    """Find locks of ours that this user could never take."""
    for path in sorted(Path(tempfile.gettempdir()).glob("latecomer-*.lock")):
        if not os.access(path, os.R_OK | os.W_OK):
            text = f"{path} belongs to somebody else and cannot be taken"
            yield trouble("locks", text, "Have it removed, or set TMPDIR to a folder of your own.")
