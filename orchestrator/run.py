"""How is a run put together, and how does it end?

Finished, interrupted or failed, a run leaves its logs, and a checkpoint from which it goes on to
the same end.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final

import numpy as np
from rich.console import Console

from actors.learning.data import DataSet
from actors.server import whole_model
from actors.work import Shards
from orchestrator import checkpoint
from orchestrator.clock import Clock, VirtualClock, WallClock
from orchestrator.document import to_yaml
from orchestrator.engine import Control, Engine, Interrupted, Plan
from orchestrator.experiment import Experiment
from orchestrator.fleet import Fleet
from orchestrator.log import EVENTS_SCHEMA, OPS_SCHEMA, Log, digest
from orchestrator.observe import Observer
from orchestrator.progress import Progress
from orchestrator.report import write_report
from orchestrator.runtime import Runtime
from orchestrator.summary import Summary, of_ledger, worst_decile_accuracy
from orchestrator.tracking import Tracker
from policies.types import Address, ExperimentError, stream

KILLED_WAIT_S: Final = 1.5
"""How long a run that is told to end (SIGTERM) lets MLflow finish: Ray kills after 3 s."""


class Killed(Exception):  # noqa: N818  # no error: somebody asked
    """A signal ended the run; it can be resumed."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.exit_code = 128 + number


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be run, and where.

    Attributes:
        experiment: The experiment.
        out: The run's folder.
        address: Of a running Ray; None starts one.
        workers: Pooled actors; None takes one a CPU.
        resume: Go on from the folder's newest checkpoint.
        in_process: Do everything in this process, without Ray.
        paths: Folders of the user's own modules.
    """

    experiment: Experiment
    out: Path
    address: str | None = None
    workers: int | None = None
    resume: bool = False
    in_process: bool = False
    paths: Sequence[str] = ()

    @property
    def run_id(self) -> str:
        """Names the run on its Ray: the folder's name."""
        return self.out.name


def fresh_folder(experiment: Experiment, base: Path = Path("runs")) -> Path:
    """Return a new folder's path for a run, named by the experiment and the time."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    wanted = base / f"{experiment.name}-{stamp}"
    number = 1
    while wanted.exists():
        number += 1
        wanted = base / f"{experiment.name}-{stamp}-{number}"
    return wanted


def run(request: Request, console: Console | None = None) -> Summary:
    """Run an experiment to its end.

    Raises:
        ExperimentError: If it cannot run as asked.
        RunError: If it cannot go on.
        Killed: If a signal ended it; MLflow's run is closed and a checkpoint written.
    """
    prepared = _prepare(request)
    versions = request.experiment.stop.versions
    with Progress(console or Console(), versions=versions) as progress:
        return _Run(request, progress, prepared).go()


def _prepare(request: Request) -> bool:
    """Make the run's folder, or see that it can be resumed; return whether it is resumed."""
    out = request.out
    if request.resume:
        if (out / "summary.json").exists():
            raise ExperimentError(f"the run in {out} is finished; {out / 'summary.json'} has it.")
        return True
    if (out / "experiment.yaml").exists():
        raise ExperimentError(
            f"{out} holds a run already. Go on with it by --resume {out}, or name another --out."
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / "experiment.yaml").write_text(to_yaml(request.experiment), encoding="utf-8")
    return False


class _Signals:
    """Notes the first SIGINT or SIGTERM; a second one ends the process at once."""

    def __init__(self) -> None:
        self.number: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen, where this is the main thread."""
        try:
            before = {
                number: signal.signal(number, self._note)
                for number in (signal.SIGINT, signal.SIGTERM)
            }
        except ValueError:  # a thread of somebody's own: signals are theirs
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.number is not None:
            os._exit(128 + number)
        self.number = number

    def check(self) -> None:
        """Raise `Interrupted` if a signal came."""
        if self.number is not None:
            raise Interrupted


class _Run:
    """One run from start to end."""

    def __init__(self, request: Request, progress: Progress, resumed: bool) -> None:
        self._request = request
        self._experiment = request.experiment
        self._progress = progress
        self._resumed = resumed
        self._began = time.monotonic()
        self._earlier_s = 0.0  # on the wall, before a resume
        self._startup_s = 0.0
        self._saved_at = 0.0
        self._peak_pss = 0
        self._hosting = ("in-process", 1)
        self._signals = _Signals()
        self._folder = request.out / "checkpoint"
        self._events = Log(request.out, "events", EVENTS_SCHEMA)
        self._ops = Log(request.out, "ops", OPS_SCHEMA)
        self._tracker = Tracker(
            self._experiment.tracking,
            out=request.out,
            run_name=request.run_id,
            started_ms=int(time.time() * 1000),
        )

    def go(self) -> Summary:
        """Run; see `run`."""
        saved = checkpoint.load(self._folder) if self._resumed else None
        if self._resumed:
            self._events.truncate(saved.state["events_rows"] if saved else 0)
        if saved:
            self._earlier_s = saved.state["wall_s"]
        self._tracker.start(
            self._experiment.model_dump(mode="json"),
            self._tags(),
            first_serial=saved.state["points"] if saved else 0,
        )
        engine: Engine | None = None
        with ExitStack() as stack:
            try:
                data, shards, fleet = self._world()
                runtime, control = self._start_runtime(data, shards, fleet, stack)
                stack.enter_context(self._signals.listening())
                engine = self._engine(data, shards, fleet, runtime, control, saved)
                self._startup_s = time.monotonic() - self._began
                self._say_start(engine, saved)
                engine.run()
                return self._finish(engine, runtime, data, shards)
            except Interrupted:
                number = self._signals.number or signal.SIGINT
                self._interrupted(engine, number)
                raise Killed(number) from None
            except BaseException:
                self._tracker.finish("FAILED")
                raise
            finally:
                self._ops.flush()

    # ------------------------------------------------------------ beginning

    def _world(self) -> tuple[DataSet, Shards, Fleet]:
        """Load the data, deal it out, and draw the fleet."""
        experiment = self._experiment
        data = experiment.data.load()
        parts = experiment.data.partition.split(
            data.y_train, experiment.fleet.clients, stream(experiment.seed, "partition")
        )
        return data, Shards.of(parts), Fleet.draw(experiment.fleet, experiment.seed)

    def _start_runtime(
        self, data: DataSet, shards: Shards, fleet: Fleet, stack: ExitStack
    ) -> tuple[Runtime, Control | None]:
        request, experiment = self._request, self._experiment
        if request.in_process:
            from orchestrator.in_process import InProcessRuntime  # noqa: PLC0415  # torch, late

            return InProcessRuntime(experiment.work(), data, shards), None
        from orchestrator import ray_run  # noqa: PLC0415  # Ray takes a second to import

        return ray_run.start(
            request,
            data,
            shards,
            fleet,
            ops=self._ops,
            check=self._signals.check,
            stack=stack,
            chosen=self._note_hosting,
        )

    def _note_hosting(self, kind: str, actors: int, why: str) -> None:
        self._hosting = (kind, actors)
        self._progress.say(f"hosting: {kind}, {actors} client actors ({why})")
        self._tracker.tag("hosting", kind)

    def _engine(
        self,
        data: DataSet,
        shards: Shards,
        fleet: Fleet,
        runtime: Runtime,
        control: Control | None,
        saved: checkpoint.Saved | None,
    ) -> Engine:
        experiment = self._experiment
        shape = data.shape
        plan = Plan(
            seed=experiment.seed,
            method=experiment.method,
            stop=experiment.stop,
            quarantine=experiment.guards.quarantine,
            server=experiment.server,
            every_versions=experiment.evaluate.every_versions,
            examples=np.diff(shards.bounds),
            forward_flops=float(experiment.model.forward_flops(shape)),
            test_examples=shape.test,
            delays=experiment.clock == "virtual" or experiment.wall.delays,
            faults={Address(f.client, f.number): f.fault for f in experiment.faults},
        )
        observers: tuple[Observer, ...] = (self._tracker, self._progress)
        engine = Engine(
            plan,
            fleet,
            runtime,
            self._clock(saved.state["time_s"] if saved else 0.0),
            self._events,
            control=control,
            observers=observers,
            between_events=self._between_events,
        )
        if saved:
            checkpoint.restore(engine, saved)
        else:
            engine.begin()
        return engine

    def _clock(self, begin_s: float) -> Clock:
        if self._experiment.clock == "virtual":
            return VirtualClock(begin_s)
        return WallClock(self._experiment.wall.time_scale, begin_s)

    def _tags(self) -> dict[str, str]:
        method = self._experiment.method
        return {
            "run": self._request.run_id,
            "method": f"{method.aggregation.kind}+{method.uplink.kind}+{method.correction.kind}",
            "data": self._experiment.data.source,
            "model": self._experiment.model.kind,
            "clients": str(self._experiment.fleet.clients),
            "clock": self._experiment.clock,
        }

    def _say_start(self, engine: Engine, saved: checkpoint.Saved | None) -> None:
        size = engine.schema.parameters
        self._progress.say(
            f"run {self._request.run_id}: {len(engine.fleet)} clients, {size:,} parameters, "
            f"started in {self._startup_s:.1f} s"
        )
        if self._resumed:
            where = f"version {engine.head.number}" if saved else "the beginning"
            self._progress.say(f"resumed from {where}")

    # ------------------------------------------------------------ under way

    def _between_events(self, engine: Engine) -> None:
        """Look round between two events: signals, progress, a checkpoint that is due."""
        self._signals.check()
        if self._progress.due():
            self._progress.tick(engine.status())
        if time.monotonic() - self._saved_at > self._experiment.checkpoint.every_s:
            if self._saved_at:
                self._save(engine)
            self._saved_at = time.monotonic()

    def _save(self, engine: Engine) -> None:
        began = time.monotonic()
        wall = self._earlier_s + began - self._began
        checkpoint.save(
            engine, self._folder, keep=self._experiment.checkpoint.keep, extra={"wall_s": wall}
        )
        self._peak_pss = max(self._peak_pss, engine.runtime.pss_bytes())
        self._ops.append(
            "checkpoint", wall_s=wall, duration_s=time.monotonic() - began, bytes=self._peak_pss
        )
        self._ops.flush()

    # ------------------------------------------------------------ ending

    def _interrupted(self, engine: Engine | None, number: int) -> None:
        """Leave a checkpoint and a closed MLflow run; after SIGTERM there is little time."""
        self._signals.number = None  # what follows waits for actors, too
        if number == signal.SIGTERM:
            self._tracker.finish("KILLED", wait_s=KILLED_WAIT_S)
        if engine is not None:
            self._save(engine)
        if number != signal.SIGTERM:
            self._tracker.finish("KILLED")
        where = f"at version {engine.head.number}" if engine else "before it began"
        self._progress.say(
            f"interrupted {where}; go on with: latecomer run --resume {self._request.out}"
        )

    def _finish(self, engine: Engine, runtime: Runtime, data: DataSet, shards: Shards) -> Summary:
        """Write what came out of it."""
        out = self._request.out
        newest = engine.versions.newest
        message = runtime.fetch(engine.versions.handle(newest))
        events = self._events.merge()
        wall = self._earlier_s + time.monotonic() - self._began
        working = max(wall - self._startup_s, 1e-9)
        peak = max(self._peak_pss, runtime.pss_bytes())
        self._ops.merge()
        kind, actors = self._hosting
        summary = Summary(
            name=self._experiment.name,
            digest=digest(events, whole_model(message, engine.schema)),
            numerics=runtime.numerics,
            stopped_by=engine.stopped.guard if engine.stopped else "",
            worst_decile_accuracy=worst_decile_accuracy(
                engine.evaluated[newest], shards, data.y_train
            ),
            versions=newest.number,
            virtual_seconds=engine.clock.now_s(),
            wall_seconds=wall,
            startup_seconds=self._startup_s,
            updates_per_second=engine.ledger.committed / working,
            peak_pss_bytes=peak,
            hosting=kind,
            client_actors=actors,
            kpis={},
            mlflow_run_id=self._tracker.run_id,
            **of_ledger(engine.ledger),
        )
        summary.write(out)
        report = write_report(out)
        self._tracker.tag("digest", summary.digest)
        self._tracker.tag("numerics", summary.numerics)
        self._tracker.artifacts(
            [report, out / "summary.json", out / "experiment.yaml", out / "events.parquet"]
        )
        delivery = self._tracker.finish("FINISHED")
        if delivery.note:
            self._progress.say(f"MLflow: {delivery.note}")
        return summary
