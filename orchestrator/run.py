"""How is a run put together, and how does it end?

Finished, interrupted or failed, a run leaves its logs, and a checkpoint from which it goes on to
the same end.
"""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

from rich.console import Console

from actors.learning.holdings import Holdings, hold
from actors.stopwatch import StageTime, Stopwatch
from orchestrator import checkpoint, outcome, people
from orchestrator.clock import Clock, VirtualClock, WallClock
from orchestrator.engine import Control, Engine, Interrupted
from orchestrator.fleet import Fleet
from orchestrator.host import Host, InThisProcess
from orchestrator.kpis import Verdict, figures, judge
from orchestrator.log import EVENTS_SCHEMA, OPS_SCHEMA, Log, digest
from orchestrator.observe import Observer
from orchestrator.plan import Plan
from orchestrator.progress import Progress
from orchestrator.request import Request
from orchestrator.runtime import TRAINER, Runtime, Setback
from orchestrator.setbacks import Setbacks
from orchestrator.signals import Signals
from orchestrator.summary import Summary, of_ledger
from orchestrator.told import Told
from orchestrator.tracking import shown, trained
from orchestrator.tracking.tracker import Tracker
from orchestrator.views.report import write_report
from policies.types import RunError

SAVE_SHARE: Final = 10
"""Checkpoints take at most one part in so many of the time, however large they are."""


class Killed(Exception):  # noqa: N818  # no error: somebody asked
    """A signal ended the run; it can be resumed."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.exit_code = 128 + number


def run(request: Request, console: Console | None = None) -> Summary:
    """Run an experiment to its end.

    Raises:
        ExperimentError: If it cannot run as asked.
        RunError: If it cannot go on.
        Killed: If a signal ended it; MLflow's run is closed and a checkpoint written.
    """
    request.prepare()
    experiment = request.experiment

    def judged(status: Mapping[str, Any]) -> Mapping[str, Verdict]:
        known = figures(status, experiment.fleet.clients)
        return judge(experiment.kpis, known)

    versions = experiment.stop.versions
    with Progress(console or Console(), versions=versions, judge=judged) as progress:
        try:
            return _Run(request, progress).go()
        finally:
            # an engine's parts know each other; what its clients keep can be gigabytes
            gc.collect()


class _Run:
    """One run from start to end."""

    def __init__(self, request: Request, progress: Progress) -> None:
        self._request = request
        self._experiment = request.experiment
        self._progress = progress
        self._began = time.monotonic()
        self._earlier_s = 0.0  # on the wall, before a resume
        self._earlier_startup_s = 0.0
        self._startup_s = 0.0
        self._earlier_worked_s = 0.0
        self._worked_s = 0.0
        self._working_since = 0.0
        self._due_at = 0.0
        self._commanded = False  # since the last checkpoint: a setback must not forget it
        self._save_s = 0.0  # what the last checkpoint took
        self._peak_pss = 0
        self._hosting = ("in-process", 1)
        self._told: Told | None = None
        self._saved: checkpoint.Saved | None = None  # to begin with
        self._engine: Engine | None = None  # once there is something to be saved
        self._setbacks = Setbacks(self._experiment.limits.attempts)
        self._signals = Signals()
        self._watch = Stopwatch(on=request.profile)
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
        saved = checkpoint.load(self._folder) if self._request.resume else None
        if self._request.resume:
            self._events.truncate(saved.state["events_rows"] if saved else 0)
        if saved:
            self._earlier_s = saved.state["wall_s"]
            self._earlier_startup_s = saved.state["startup_s"]
            self._earlier_worked_s = self._earlier_s - self._earlier_startup_s
        self._tracker.start(
            self._experiment.model_dump(mode="json"),
            self._tags(),
            first_serial=saved.state["points"] if saved else 0,
        )
        self._progress.say(f"run {self._request.run_id} in {self._request.where}")
        experiment = self._experiment
        with ExitStack() as stack:
            stack.enter_context(self._signals.listening())
            try:
                holdings = hold(experiment.data, experiment.fleet.clients, experiment.seed)
                fleet = Fleet.draw(experiment.fleet, experiment.seed)
                self._tracker.tag("fleet", shown.fleet(fleet))
                host = self._host(holdings, fleet, stack)
                self._saved, saved = saved, None
                found = self._attempt(host, holdings, fleet, stack)
                while isinstance(found, Setback):
                    self._set_back(found)
                    found = self._attempt(host, holdings, fleet, stack)
            except (Interrupted, SystemExit) as asked:
                # Ray exits by itself on a signal that comes while it starts
                number = self._signals.number or signal.SIGTERM
                if isinstance(asked, SystemExit) and self._engine is not None:
                    raise
                self._interrupted()
                raise Killed(number) from None
            except BaseException:
                self._tracker.finish("FAILED")
                raise
            finally:
                self._ops.flush()
        return found

    def _attempt(
        self,
        host: Host,
        holdings: Holdings,
        fleet: Fleet,
        stack: ExitStack,
    ) -> Summary | Setback:
        """Go on from a checkpoint, or the beginning; return why that has failed, if it has.

        What it held in the store is free when it returns.
        """
        runtime = host.relaunch() if self._setbacks.count else host.launch()
        ending = stack.enter_context(ExitStack())
        ending.callback(runtime.close)
        try:
            if self._told is None:
                self._told = self._tell(holdings, runtime)
                self._tracker.data(shown.data(self._experiment, self._told.shape))
            engine = self._made(self._told, fleet, runtime, host.control)
            engine.run()
            return self._finish(engine, runtime, holdings, self._told)
        except Setback as lost:
            found = Setback(str(lost))  # without what its traceback holds on to
        ending.close()
        return found

    # ------------------------------------------------------------ beginning

    def _host(self, holdings: Holdings, fleet: Fleet, stack: ExitStack) -> Host:
        """Return what starts the run's runtimes."""
        request, experiment = self._request, self._experiment
        if request.in_process:
            if holdings.local():
                self._progress.say("without actors this process reads the examples of all silos")
            return InThisProcess(
                experiment.work(timed=request.profile),
                holdings,
                fleet,
                request.workers or 1,
                self._note_hosting,
            )
        from orchestrator.on_ray.start import OnRay  # noqa: PLC0415  # Ray takes a second to import

        return OnRay(
            request,
            holdings,
            fleet,
            note=self._note,
            watch=self._watch,
            signals=self._signals,
            stack=stack,
            chosen=self._note_hosting,
            say=self._progress.say,
        )

    def _note_hosting(self, kind: str, actors: int, why: str) -> None:
        self._hosting = (kind, actors)
        what = "trainers" if kind == "in-process" else "client actors"
        self._progress.say(
            f"hosting: {kind}, {actors} {what[:-1] if actors == 1 else what} ({why})"
        )
        self._tracker.tag("hosting", kind)

    def _tell(self, holdings: Holdings, runtime: Runtime) -> Told:
        """Return what is known of the clients' examples; silos are asked."""
        if not holdings.local():
            return Told(holdings)
        descriptions = runtime.describe(range(len(holdings)))
        for client, found in enumerate(descriptions):
            self._note(
                "joined",
                client=client,
                duration_s=found.seconds,
                bytes=found.bytes,
                detail=f"{holdings.name_of(client)}: {found.train} and {found.test} examples",
            )
        return Told(holdings, descriptions)

    def _made(
        self,
        told: Told,
        fleet: Fleet,
        runtime: Runtime,
        control: Control | None,
    ) -> Engine:
        """Return the engine, at the beginning or where it was saved, ready to run."""
        experiment, saved = self._experiment, self._saved
        plan = Plan.of(experiment, told.shape, told.sizes)
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
            note=self._note,
        )
        if self._request.profile:
            engine.time(self._watch)
        if saved:
            checkpoint.restore(engine, saved)
        else:
            engine.begin()
        self._saved = None  # its arrays are in the store by now
        runtime.begin()
        self._engine = engine
        if not self._working_since:
            self._started(engine, found=saved is not None)
        if self._setbacks.count:
            self._gone_on(engine)
        return engine

    def _set_back(self, lost: Setback) -> None:
        """Go back to the last checkpoint, or to the beginning if there is none yet.

        Raises:
            RunError: If that has been in vain too often.
        """
        head = self._engine.state.head.number if self._engine else 0
        self._setbacks.meet(lost, head)
        self._note("set_back", number=head, detail=str(lost))
        self._progress.say(f"set back at version {head}: {lost}")
        self._engine = None
        saved = self._saved = checkpoint.load(self._folder)
        self._events.truncate(saved.state["events_rows"] if saved else 0)
        self._tracker.rewind(saved.state["points"] if saved else 0)

    def _gone_on(self, engine: Engine) -> None:
        """Say that the run is under way again."""
        head, took_s = engine.state.head.number, self._setbacks.overcome()
        self._note("gone_on", number=head, duration_s=took_s)
        self._progress.say(f"goes on from version {head} after {took_s:.1f} s")

    def _clock(self, begin_s: float) -> Clock:
        if self._experiment.clock == "virtual":
            return VirtualClock(begin_s)
        return WallClock(self._experiment.wall.time_scale, begin_s)

    def _tags(self) -> dict[str, str]:
        return {"run": self._request.run_id, **shown.tags(self._experiment)}

    def _started(self, engine: Engine, *, found: bool) -> None:
        """Note that the run has begun."""
        self._working_since = time.monotonic()
        self._startup_s = self._earlier_startup_s + self._working_since - self._began
        self._watch.restart()
        size = engine.schema.parameters
        self._progress.say(
            f"{len(engine.fleet)} clients, {size:,} parameters, started in {self._startup_s:.1f} s"
        )
        if self._request.resume:
            where = f"version {engine.state.head.number}" if found else "the beginning"
            self._progress.say(f"resumed from {where}")

    # ------------------------------------------------------------ under way

    def _between_events(self, engine: Engine) -> None:
        """Look round between two events: signals, progress, a checkpoint that is due."""
        self._signals.check()
        if self._progress.due():
            self._progress.tick(engine.status())
        if self._commanded or time.monotonic() > self._due_at:
            if self._due_at:
                self._save(engine)
            every_s = max(self._experiment.checkpoint.every_s, SAVE_SHARE * self._save_s)
            self._due_at = time.monotonic() + every_s
            self._commanded = False

    def _save(self, engine: Engine) -> None:
        began = time.monotonic()
        wall = self._earlier_s + began - self._began
        target = checkpoint.save(
            engine,
            self._folder,
            keep=self._experiment.checkpoint.keep,
            extra={"wall_s": wall, "startup_s": self._startup_s},
        )
        size = sum(file.stat().st_size for file in target.iterdir())
        self._keep_elsewhere()
        self._save_s = time.monotonic() - began
        self._note("checkpoint", duration_s=self._save_s, bytes=size)
        self._look_at_memory(engine.runtime)
        self._ops.flush()

    def _keep_elsewhere(self) -> None:
        """Copy the run's folder; where that fails, the next checkpoint is another try."""
        elsewhere = self._request.elsewhere
        if elsewhere is None:
            return
        self._ops.flush()
        began = time.monotonic()
        try:
            sent = elsewhere.keep(self._request.out)
        except Exception as error:  # noqa: BLE001  # each protocol has its own
            text = f"{elsewhere.url} cannot be written: {type(error).__name__}: {error}"
            self._progress.say(f"{text}. The run goes on, and tries again at the next checkpoint.")
            self._note("not_kept", detail=text)
        else:
            self._note("kept", duration_s=time.monotonic() - began, bytes=sent)

    def _look_at_memory(self, runtime: Runtime) -> None:
        """Note what each process takes."""
        found = runtime.memory()
        for name, size in found.items():
            self._note("memory", actor=name, bytes=size)
        self._peak_pss = max(self._peak_pss, sum(found.values()))

    def _note_usage(self, runtime: Runtime) -> None:
        """Note what the time of each process went into, by stage."""
        others = runtime.usage()
        engine = self._watch.usage()
        if self._request.in_process:  # they are all this process, but those that train beside it
            here = (usage for name, usage in others.items() if not name.startswith(TRAINER))
            spent = sum(usage.cpu_s for usage in here)
            engine = engine._replace(cpu_s=engine.cpu_s - spent)
        for name, usage in {"engine": engine, **others}.items():
            rest = max(usage.cpu_s - sum(stage.cpu_s for stage in usage.stages), 0.0)
            for stage in (*usage.stages, StageTime("the rest", 1, rest, rest)):
                self._note(
                    "used",
                    actor=name,
                    number=stage.times,
                    duration_s=stage.wall_s,
                    cpu_s=stage.cpu_s,
                    detail=stage.stage,
                )

    def _note(self, kind: str, **values: Any) -> None:
        """Note what something took, at the run's wall time."""
        wall = self._earlier_s + time.monotonic() - self._began
        self._ops.append(kind, wall_s=wall, **values)
        self._commanded |= kind == "control"

    # ------------------------------------------------------------ ending

    def _interrupted(self) -> None:
        """Leave a closed MLflow run and a checkpoint, both at once: there may be little time."""
        engine = self._engine
        ending = threading.Thread(target=self._tracker.finish, args=("KILLED",))
        ending.start()
        try:
            if engine is not None:
                self._progress.say("saving; a second signal ends without")
                self._save(engine)
        except Setback as lost:
            self._progress.say(f"the last checkpoint is what is left, for meanwhile: {lost}")
        finally:
            ending.join()
        if engine is not None:
            self._keep_elsewhere()  # with what MLflow's thread has left
        start = "while it started again" if self._setbacks.count else "before it began"
        where = f"at version {engine.state.head.number}" if engine else start
        self._progress.say(
            f"interrupted {where}; go on with: latecomer run --resume {self._request.where}"
        )

    def _finish(self, engine: Engine, runtime: Runtime, holdings: Holdings, told: Told) -> Summary:
        """Write what came out of it."""
        self._worked_s = self._earlier_worked_s + time.monotonic() - self._working_since
        out, state = self._request.out, engine.state
        newest, last = state.versions.newest, state.last_evaluation
        if last is None or state.ended_s is None:
            raise RunError("the run has not ended, or no version was evaluated")
        if last[0] != newest:
            self._progress.say(
                f"nobody could test version {newest.number}, the last one: the final accuracy is "
                f"that of version {last[0].number}"
            )
        final = outcome.keep_models(out, self._experiment, engine, runtime, holdings)
        if self._request.profile:
            self._note_usage(runtime)
        events = self._events.merge()  # from here on nothing is asked of actors
        self._look_at_memory(runtime)
        ops = self._ops.merge()
        clients = outcome.clients(self._experiment, engine, told, events, ops)
        people.write(clients, out)
        of_clients: dict[str, Any] = people.figures(clients)
        alarm = outcome.load_alarm(self._experiment.guards.load, clients)
        if alarm:
            self._progress.say(f"load alarm: {alarm}")
            self._tracker.tag("load_alarm", alarm)
        status = engine.status() | outcome.unmodelled(self._experiment, clients)
        verdicts = judge(self._experiment.kpis, figures(status, len(told)) | of_clients)
        wall = self._earlier_s + time.monotonic() - self._began
        kind, actors = self._hosting
        summary = Summary(
            name=self._experiment.name,
            digest=digest(events, final),
            numerics=runtime.numerics,
            stopped_by=state.stopped.guard if state.stopped else "",
            versions=newest.number,
            virtual_seconds=state.ended_s,
            wall_seconds=wall,
            startup_seconds=self._startup_s,
            working_seconds=self._worked_s,
            updates_per_second=state.ledger.committed / max(self._worked_s, 1e-9),
            peak_pss_bytes=self._peak_pss,
            hosting=kind,
            client_actors=actors,
            kpis={name: verdict._asdict() for name, verdict in verdicts.items()},
            mlflow_run_id=self._tracker.run_id,
            weights=str(self._experiment.model.origin() or ""),
            setbacks=self._setbacks.count,
            **of_clients,
            **of_ledger(state.ledger) | outcome.unmodelled(self._experiment, clients),
        )
        summary.write(out)
        report = write_report(out)
        for name, value in {
            "digest": summary.digest,
            "numerics": summary.numerics,
            "lineage": newest.lineage,
            **{f"kpi.{name}": verdict.text(name) for name, verdict in verdicts.items()},
        }.items():
            self._tracker.tag(name, value)
        self._tracker.finals(
            shown.final_figures(summary, self._experiment), summary.virtual_seconds
        )
        files = ("summary.json", "experiment.yaml", "events.parquet", people.FILE)
        self._tracker.artifacts([report, *(out / name for name in files)])
        self._tracker.table(out / people.FILE)
        self._tracker.models(trained.WHICH)
        delivery = self._tracker.finish("FINISHED")
        if delivery.note:
            self._progress.say(f"MLflow: {delivery.note}")
        if summary.mlflow_run_id != delivery.run_id:  # a short run ends before MLflow answers
            summary = replace(summary, mlflow_run_id=delivery.run_id)
            summary.write(out)
        self._deliver()
        return summary

    def _deliver(self) -> None:
        """Copy the finished run to where it is kept."""
        elsewhere, out = self._request.elsewhere, self._request.out
        if elsewhere is None:
            return
        try:
            elsewhere.deliver(out)
        except Exception as error:
            raise RunError(
                f"the run is finished, but {elsewhere.url} cannot be written: {error}. All of it "
                f"is in {out}: copy that folder, or set up the location and copy it then."
            ) from error
