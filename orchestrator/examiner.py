"""Who tests a version, when is the result known, and what does that take?

Centrally one modelled evaluator tests on the test split, one version after the other. Federated,
clients test on examples of their own: each takes the version over its link and computes on its
device beside whatever it trains, and only counts come back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from actors.learning.evaluation_torch import Evaluation, Score, together
from actors.publisher import Shipment
from orchestrator.books import Published, Resources, VersionStore
from orchestrator.fleet import Fleet
from orchestrator.runtime import Handle, Pending, Place, Runtime, States
from orchestrator.sections import Evaluate
from orchestrator.stages import Download
from orchestrator.timetable import Timetable
from policies.types import Address, Version, stream

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
        downlink_bytes: Of the version, each time that it was sent.
        downlink_entropy_bytes: The least that those could have taken.
        uplink_bytes: Of its counts.
        trouble: Why the result does not count; empty if it does.
    """

    client: int
    end_s: float
    device_s: float
    energy_j: float
    downlink_bytes: int
    downlink_entropy_bytes: float
    uplink_bytes: int
    trouble: str = ""


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
        tail_flops: Of one example through a client's own tail; 0 where all have the same.
    """

    settings: Evaluate
    seed: int
    forward_flops: float
    test_examples: int
    own_examples: np.ndarray[Any, np.dtype[np.int64]]
    classes: int
    tail_flops: float = 0.0

    def central_flops(self, states: States) -> float:
        """Return what a test takes, given who has a tail of its own.

        All examples go through the encoder once, and through each different tail; of those the
        first one is part of the model.
        """
        return (self.forward_flops + self.tail_flops * len(states)) * self.test_examples


@dataclass(slots=True)
class _Exam:
    pending: Pending[Any]
    tests: tuple[Test, ...] = field(default=())
    states: States = ()


class Examiner:
    """Has versions tested."""

    def __init__(self, task: Task, fleet: Fleet, timetable: Timetable, runtime: Runtime) -> None:
        self._task = task
        self._fleet = fleet
        self._timetable = timetable
        self._runtime = runtime
        self._joules = (fleet.transfer_j, fleet.compute_j, fleet.transfer_j)  # down, at work, up
        self._exams: dict[Version, _Exam] = {}
        self._known_s = 0.0  # when all that was begun is known

    @property
    def next(self) -> Version:
        """The version whose result is known first: results are known in the order of versions."""
        return next(iter(self._exams))

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
        published: Published,
        *,
        askable: npt.NDArray[np.bool_],
        now_s: float,
        resources: Resources,
        service_s: float,
        states: States = (),
    ) -> tuple[float | None, tuple[Test, ...]]:
        """Have a version tested.

        Args:
            version: Which.
            handle: Its message.
            published: What is known of it.
            askable: Which clients are in the run, shape (clients,).
            now_s: The run's own time.
            resources: Has the modelled evaluator.
            service_s: What the modelled evaluator takes.
            states: Of clients whose tails are their own.

        Returns:
            When the result is known, and nothing else; or None, if no client can test and nothing
            is begun, and what was tried in vain.
        """
        if self._task.settings.kind == "central":
            pending = self._runtime.evaluate(handle, _weights(published), states)
            self._exams[version] = _Exam(pending, states=states)
            return resources.serve("evaluator", now_s, service_s), ()
        tests = self._tests(version, published.whole, askable, now_s)
        counted = [test.end_s for test in tests if not test.trouble]
        if not counted:
            return None, tuple(test for test in tests if test.downlink_bytes)
        self._exams[version] = self._ask(handle, tests)
        self._known_s = max(self._known_s, *counted)
        return self._known_s, ()

    def _ask(self, handle: Handle, tests: tuple[Test, ...]) -> _Exam:
        clients = [test.client for test in tests if not test.trouble]
        return _Exam(self._runtime.evaluate_at(handle, clients), tests)

    def _tests(
        self, version: Version, whole: Shipment, askable: npt.NDArray[np.bool_], now_s: float
    ) -> tuple[Test, ...]:
        """Return who tests, in the order of clients; whose result does not count, too."""
        settings = self._task.settings
        able = np.flatnonzero(askable & (self._task.own_examples > 0))
        if settings.share < 1 and able.size:
            rng = stream(self._task.seed, "testers", version.lineage, version.number)
            count = max(1, round(settings.share * able.size))
            able = np.sort(rng.choice(able, count, replace=False))
        tests = [self._test(int(client), version, whole, now_s) for client in able]
        if settings.deadline is None or not tests:
            return tuple(tests)
        first = min(test.end_s for test in tests)
        limit = max(now_s + settings.deadline, first)  # the earliest one counts in any case
        late = "after the deadline"
        return tuple(
            test._replace(trouble=test.trouble or late * (test.end_s > limit)) for test in tests
        )

    def _test(self, client: int, version: Version, whole: Shipment, now_s: float) -> Test:
        """Return when a client has tested; one that is lost begins again when it is back."""
        flops = self._task.forward_flops * int(self._task.own_examples[client])
        uplink = NUMBER_BYTES * (2 * self._task.classes + 2)
        address, purpose = Address(client, version.number), f"test/{version.lineage}"
        device_s = energy_j = 0.0
        tries = 0
        while tries < MOST_TRIES:
            if not self._fleet.always_there:
                now_s = self._fleet.back_at(client, now_s)
            if now_s == math.inf:
                break
            tries += 1
            legs = [self._timetable.leg(address, Download(whole.bytes), now_s, 1.0)]
            if not legs[-1].lost:
                legs.append(self._timetable.work(address, legs[-1].end_s, flops, purpose=purpose))
            if len(legs) > 1 and not legs[-1].lost:
                legs.append(self._timetable.upload(address, legs[-1].end_s, uplink))
            for leg, joules in zip(legs, self._joules, strict=False):
                device_s += leg.busy_s
                energy_j += joules(client, leg.busy_s)
            now_s = legs[-1].end_s
            if not legs[-1].lost:
                break
        sent, least = tries * whole.bytes, tries * whole.entropy_bytes
        if tries and not legs[-1].lost:
            return Test(client, now_s, device_s, energy_j, sent, least, uplink)
        return Test(client, math.inf, device_s, energy_j, sent, least, 0, "it went away")

    def finish(self, version: Version) -> tuple[Evaluation, list[tuple[Test, Score | None]]]:
        """Return what was found, and each client's part in it; None if its part does not count."""
        exam = self._exams[version]
        found = exam.pending.result()
        del self._exams[version]
        if isinstance(found, Evaluation):
            return found, []
        scores = iter(found)
        return together(found), [(t, None if t.trouble else next(scores)) for t in exam.tests]

    def dump(self, keep: Callable[[str, Place], Any]) -> dict[str, Any]:
        """Return what is being tested, for a checkpoint.

        Args:
            keep: Keeps a client's state, under a name if it has none yet; returns how to find it.
        """
        exams = [
            (
                version,
                exam.tests,
                [
                    (client, keep(f"tested/{version.number}/{client}", state))
                    for client, state in exam.states
                ],
            )
            for version, exam in self._exams.items()
        ]
        return {"known_s": self._known_s, "exams": exams}

    def load(
        self, data: Mapping[str, Any], versions: VersionStore, find: Callable[[Any], Place]
    ) -> None:
        """Read what `dump` wrote, and ask again.

        Args:
            data: That.
            versions: Those that are being tested are among them.
            find: Returns where a state lies that was kept.
        """
        self._known_s = data["known_s"]
        for row, tests, kept in data["exams"]:
            version = Version(*row)
            handle, weights = versions.handle(version), _weights(versions.published(version))
            states = tuple((client, find(state)) for client, state in kept)
            self._exams[version] = (
                self._ask(handle, tuple(Test(*test) for test in tests))
                if tests
                else _Exam(self._runtime.evaluate(handle, weights, states), states=states)
            )


def _weights(published: Published) -> Handle | None:
    """Return the encoder's weights that go with a version; None if it has none of its own."""
    return None if published.encoder is None else published.encoder.handle
