"""How good is a version, who is told, and has the run done enough?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from actors.learning.evaluation_torch import Evaluation, Score
from orchestrator.books import Event, Kind
from orchestrator.engine.context import Context
from orchestrator.engine.figures import CLIENT_ACCURACY, METRICS, OF_CELLS, OF_SPLITS, status
from orchestrator.examiner import Examiner, Test
from orchestrator.observe import Observer, Point
from orchestrator.runtime import States
from policies.guards import Figures, StopReason
from policies.types import RunError, Version


class Looking:
    """Has versions tested, tells observers, and ends the run when a guard says so."""

    def __init__(
        self, context: Context, examiner: Examiner, observers: tuple[Observer, ...]
    ) -> None:
        self._state = context.state
        self._examiner = examiner
        self._observers = observers
        self._plan = context.plan
        self._clock = context.clock
        self._tracked = METRICS + OF_CELLS * bool(context.fleet.cells)
        self._tracked += OF_SPLITS * (context.plan.split is not None)
        self._turns = context.turns
        self._journal = context.journal
        self._note = context.note

    # ------------------------------------------------------------ tests

    def published(self, version: Version, measures: Iterable[tuple[str, float]]) -> None:
        """Have a version tested if it is its turn, and see whether the run has done enough.

        Args:
            version: Is handed out from now on.
            measures: The method's own figures of it, which are told with its accuracy.
        """
        if version.number % self._plan.examination.settings.every_versions == 0:
            self.evaluate(version)
        if self._state.stopped is None:
            self._guard()
        elif not self._state.receipts:
            self.evaluate(version)
        if version in self._examiner:
            self._state.measures[version] = dict(measures)

    def evaluate(self, version: Version, duration_s: float | None = None) -> None:
        """Have a version tested; the result is known when the modelled evaluator is done."""
        state = self._state
        last = state.last_evaluation
        if version in self._examiner or (last is not None and version <= last[0]):
            return
        now = self._clock.now_s()
        states = self._own_tails()
        if duration_s is None:
            flops = self._plan.examination.central_flops(states)
            duration_s = self._plan.server.service_s(flops)
        end, vain = self._examiner.begin(
            version,
            state.versions.hold(version),
            state.versions.published(version),
            askable=state.roster.in_run(),
            now_s=now,
            resources=state.resources,
            service_s=duration_s,
            states=states,
        )
        if end is None:
            self._untested(version, vain)
            return
        if self._clock.kind == "wall":
            end = now
        self._turns.push(Event(end, Kind.EVALUATE, version.lineage, version.number))

    def _own_tails(self) -> States:
        """Return the states of clients whose tails are their own, as they go with this moment."""
        split = self._plan.split
        personal = split is not None and split.settings.personal
        return self._state.client_states.committed() if personal else ()

    def _untested(self, version: Version, vain: Sequence[Test]) -> None:
        """Go on without knowing how good a version is; of the first one that must be known."""
        self._count_tests(version, [(test, None) for test in vain])
        text = (
            f"no client can test version {version.number}: of those with test examples none is "
            "there again for long enough. Change fleet.availability, or raise evaluate.share."
        )
        if version.number == 0:
            raise RunError(text)
        self._state.versions.release(version)
        self._note("untested", detail=text)

    def _count_tests(self, version: Version, tests: Sequence[tuple[Test, Score | None]]) -> None:
        for test, score in tests:
            self._state.ledger.tested(test)
            self._journal.tested(version, test, score)

    def on_evaluate(self, event: Event) -> None:
        """Learn how good a version is."""
        state, version = self._state, event.version
        result, tests = self._examiner.finish(version)
        self._count_tests(version, tests)
        state.last_evaluation = (version, result)
        state.ledger.accuracies.append(result.accuracy)
        self._journal.evaluated(version, result)
        if result.by_client:
            self._journal.measured(version, CLIENT_ACCURACY, result.client_accuracy)
        self._keep_the_best(version, result)
        self._tell(version, result)
        figures = self._figures(tuple(state.ledger.accuracies), result.loss)
        self._stop_if(self._plan.stop.after_evaluation(figures))

    def _keep_the_best(self, version: Version, result: Evaluation) -> None:
        """Hold the best version tested so far, and let the other one go."""
        state = self._state
        if state.best is None or result.accuracy > state.best[0]:
            if state.best is not None:
                state.versions.release(state.best[1])
            state.best = (result.accuracy, version)
        else:
            state.versions.release(version)

    def _tell(self, version: Version, result: Evaluation) -> None:
        """Tell observers the run's figures, and those of the version that was tested."""
        now = self._clock.now_s()
        found = status(self._state, now)
        metrics = {name: float(found[name]) for name in self._tracked}
        metrics |= {"accuracy": result.accuracy, "loss": result.loss}
        if result.by_client:
            metrics[CLIENT_ACCURACY] = result.client_accuracy
        measures = self._state.measures.pop(version, {})
        point = Point(version.number, now, measures | metrics)
        self._state.points += 1
        for observer in self._observers:
            observer.point(point)

    # ------------------------------------------------------------ ending

    def on_guard(self, event: Event) -> None:
        """See whether the run has done enough by now."""
        del event
        self._guard()

    def _guard(self) -> None:
        self._stop_if(self._plan.stop.after_publish(self._figures()))

    def _figures(self, accuracies: tuple[float, ...] = (), loss: float = 0.0) -> Figures:
        state, now = self._state, self._clock.now_s()
        return Figures(state.versions.newest.number, now, state.ledger.bytes, accuracies, loss)

    def _stop_if(self, reason: StopReason | None) -> None:
        if reason is not None:
            self.stop(reason)

    def stop(self, reason: StopReason) -> None:
        """End the run: no more clients; what is committed is still published and evaluated."""
        state = self._state
        if state.stopped is not None:
            return
        state.stopped = reason
        state.ended_s = self._clock.now_s()
        self._journal.guard(reason)
        self._turns.keep(frozenset({Kind.GATHER, Kind.PUBLISH, Kind.EVALUATE}))
        if not state.receipts:
            self.evaluate(state.versions.newest)
