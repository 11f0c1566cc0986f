"""Where does a process's time go?"""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Final, NamedTuple, Self


class StageTime(NamedTuple):
    """What one stage took.

    Attributes:
        stage: In words.
        times: How often it was gone through.
        wall_s: Seconds on the wall.
        cpu_s: CPU seconds of the threads that went through it.
    """

    stage: str
    times: int
    wall_s: float
    cpu_s: float


class Usage(NamedTuple):
    """What a process's time went into.

    Attributes:
        stages: In the order of their first time.
        cpu_s: CPU seconds of the whole process since it could work: above the sum of the stages
            by what calls, threads and everything else took.
    """

    stages: tuple[StageTime, ...]
    cpu_s: float


class _Inside(threading.local):
    timing: _Timing | None = None


_inside = _Inside()
_UNTIMED: Final = nullcontext()


class Stopwatch:
    """Adds up times by stage; a stage inside another one counts for itself alone.

    Stages of different threads go on side by side, each stage on one thread at a time.

    Args:
        on: Whether anybody wants to know; if not, nothing is timed.
    """

    def __init__(self, *, on: bool = True) -> None:
        self._on = on
        self.restart()

    def restart(self) -> None:
        """Forget what was timed so far."""
        self._stages: dict[str, StageTime] = {}
        self._began_cpu_s = time.process_time()

    def __call__(self, stage: str) -> AbstractContextManager[object]:
        """Time a `with` block."""
        return _Timing(self, stage) if self._on else _UNTIMED

    def add(self, stage: str, wall_s: float, cpu_s: float) -> None:
        """Count one time more."""
        _, times, wall, cpu = self._stages.get(stage, (stage, 0, 0.0, 0.0))
        self._stages[stage] = StageTime(stage, times + 1, wall + wall_s, cpu + cpu_s)

    def usage(self) -> Usage:
        """Return what this process's time went into."""
        return Usage(tuple(self._stages.values()), time.process_time() - self._began_cpu_s)


class _Timing:
    __slots__ = ("_cpu", "_outer", "_stage", "_wall", "_watch", "inner_cpu", "inner_wall")

    def __init__(self, watch: Stopwatch, stage: str) -> None:
        self._watch = watch
        self._stage = stage

    def __enter__(self) -> Self:
        self._outer, _inside.timing = _inside.timing, self
        self.inner_wall = self.inner_cpu = 0.0
        self._wall, self._cpu = time.perf_counter(), time.thread_time()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        wall, cpu = time.perf_counter() - self._wall, time.thread_time() - self._cpu
        _inside.timing = self._outer
        if self._outer is not None:
            self._outer.inner_wall += wall
            self._outer.inner_cpu += cpu
        self._watch.add(self._stage, wall - self.inner_wall, cpu - self.inner_cpu)
