"""Who tests a version, when is the result known, and what does that take?

Centrally one modelled evaluator tests on the test split, one version after the other. Federated,
clients test on examples of their own: each takes the version over its link and computes on its
device beside whatever it trains, and only counts come back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from actors.learning.evaluation_torch import Evaluation, Score, together
from orchestrator.books import Resources
from orchestrator.experiment import Evaluate
from orchestrator.fleet import Fleet
from orchestrator.runtime import Handle, Pending, Runtime
from orchestrator.stages import Download
from orchestrator.timetable import Timetable
from policies.types import Address, RunError, Version, stream

NUMBER_BYTES: Final = 8
"""What each count of a score is taken to need on the uplink."""
MOST_TRIES: Final = 100
"""Times that a client which keeps going away begins a test."""


class Test(NamedTuple):
    """A client's part in testing a version.

    Attributes:
        client: Who.
        end_s: When its counts are there.
        device_s: Seconds of its device and links.
        energy_j: Joules of them.
        downlink_bytes: Of the version.
        uplink_bytes: Of its counts.
    """

    client: int
    end_s: float
    device_s: float
    energy_j: float
    downlink_bytes: int
    uplink_bytes: int


@dataclass(frozen=True, slots=True)
class Task:
    """What an examiner must know of the experiment.

    Attributes:
        settings: The section `evaluate`.
        seed: Names the draws of clients.
        forward_flops: Of one example.
        test_examples: Of the test split.
        own_examples: Test examples of each client, shape (clients,).
        classes: How many classes there are.
    """

    settings: Evaluate
    seed: int
    forward_flops: float
    test_examples: int
    own_examples: np.ndarray[Any, np.dtype[np.int64]]
    classes: int


@dataclass(slots=True)
class _Exam:
    pending: Pending[Any]
    tests: tuple[Test, ...] = field(default=())


class Examiner:
    """Has versions tested."""

    def __init__(self, task: Task, fleet: Fleet, timetable: Timetable, runtime: Runtime) -> None:
        self._task = task
        self._fleet = fleet
        self._timetable = timetable
        self._runtime = runtime
        self._joules = (fleet.transfer_j, fleet.compute_j, fleet.transfer_j)  # down, at work, up
        self._exams: dict[Version, _Exam] = {}

    def __contains__(self, version: Version) -> bool:
        """Whether a version is being tested."""
        return version in self._exams

    def pending(self, version: Version) -> Pending[Any]:
        """Return what the result waits for."""
        return self._exams[version].pending

    def begin(
        self,
        version: Version,
        handle: Handle,
        *,
        size: int,
        now_s: float,
        resources: Resources,
        service_s: float,
    ) -> float:
        """Have a version tested.

        Args:
            version: Which.
            handle: Its message.
            size: Bytes that sending it takes.
            now_s: The run's own time.
            resources: Has the modelled evaluator.
            service_s: What the modelled evaluator takes.

        Returns:
            When the result is known.
        """
        if self._task.settings.kind == "central":
            self._exams[version] = _Exam(self._runtime.evaluate(handle))
            return resources.serve("evaluator", now_s, service_s)
        tests = self._tests(version, size, now_s)
        self._exams[version] = self._ask(handle, tests)
        return max(test.end_s for test in tests)

    def _ask(self, handle: Handle, tests: tuple[Test, ...]) -> _Exam:
        clients = [test.client for test in tests]
        return _Exam(self._runtime.evaluate_at(handle, clients), tests)

    def _tests(self, version: Version, size: int, now_s: float) -> tuple[Test, ...]:
        """Return who tests, in the order of clients."""
        settings = self._task.settings
        able = np.flatnonzero(self._task.own_examples)
        if settings.share < 1:
            rng = stream(self._task.seed, "testers", version.lineage, version.number)
            count = max(1, round(settings.share * able.size))
            able = np.sort(rng.choice(able, count, replace=False))
        tests = [self._test(int(client), version, size, now_s) for client in able]
        limit = math.inf if settings.deadline is None else now_s + settings.deadline
        coming = [test for test in tests if test.end_s < math.inf]
        if not coming:
            raise RunError(
                f"no client can test version {version.number}: of those with test examples none "
                "is there again for long enough. Change fleet.availability, or raise "
                "evaluate.share."
            )
        in_time = [test for test in coming if test.end_s <= limit]
        return tuple(in_time or [min(coming, key=lambda test: (test.end_s, test.client))])

    def _test(self, client: int, version: Version, size: int, now_s: float) -> Test:
        """Return when a client has tested; one that is lost begins again when it is back."""
        flops = self._task.forward_flops * int(self._task.own_examples[client])
        uplink = NUMBER_BYTES * (2 * self._task.classes + 2)
        address = Address(client, version.number)
        device_s = energy_j = 0.0
        sent = 0
        for _ in range(MOST_TRIES):
            if not self._fleet.always_there:
                now_s = self._fleet.back_at(client, now_s)
            if now_s == math.inf:
                break
            sent += size
            legs = [self._timetable.leg(address, Download(size), now_s, 1.0)]
            if not legs[-1].lost:
                legs.append(self._timetable.work(address, legs[-1].end_s, flops))
            if len(legs) > 1 and not legs[-1].lost:
                legs.append(self._timetable.upload(address, legs[-1].end_s, uplink))
            for leg, joules in zip(legs, self._joules, strict=False):
                device_s += leg.busy_s
                energy_j += joules(client, leg.busy_s)
            now_s = legs[-1].end_s
            if not legs[-1].lost:
                return Test(client, now_s, device_s, energy_j, sent, uplink)
        return Test(client, math.inf, device_s, energy_j, sent, 0)

    def finish(self, version: Version) -> tuple[Evaluation, list[tuple[Test, Score]]]:
        """Return what was found, and each client's part in it."""
        exam = self._exams[version]
        found = exam.pending.result()
        del self._exams[version]
        if isinstance(found, Evaluation):
            return found, []
        return together(found), list(zip(exam.tests, found, strict=True))

    def dump(self) -> list[Any]:
        """Return what is being tested, for a checkpoint."""
        return [(version, exam.tests) for version, exam in self._exams.items()]

    def load(self, rows: Sequence[Any], handle_of: Callable[[Version], Handle]) -> None:
        """Read what `dump` wrote, and ask again."""
        for row, tests in rows:
            version = Version(*row)
            handle = handle_of(version)
            self._exams[version] = (
                self._ask(handle, tuple(Test(*test) for test in tests))
                if tests
                else _Exam(self._runtime.evaluate(handle))
            )
