"""Does every second count once, for the stage that it was spent in?"""

from __future__ import annotations

import threading
import time

import pytest

from actors.stopwatch import StageTime, Stopwatch


def burn(seconds: float) -> None:
    """Use a CPU for so long."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def by_name(watch: Stopwatch) -> dict[str, StageTime]:
    return {stage.stage: stage for stage in watch.usage().stages}


def test_counts_and_adds_up() -> None:
    """Times of a stage are added, CPU apart from the wall."""
    watch = Stopwatch()
    for _ in range(3):
        with watch("work"):
            burn(0.01)
            time.sleep(0.01)
    (found,) = watch.usage().stages
    assert (found.stage, found.times) == ("work", 3)
    assert 0.03 <= found.cpu_s < found.wall_s
    assert found.wall_s >= 0.06


def test_a_stage_inside_another_counts_for_itself() -> None:
    """Also if it is another stopwatch's, and at any depth."""
    outer, inner = Stopwatch(), Stopwatch()
    with outer("outer"):
        burn(0.02)
        with inner("inner"):
            burn(0.05)
            with outer("innermost"):
                burn(0.1)
    times = by_name(outer) | by_name(inner)
    assert times["outer"].cpu_s == pytest.approx(0.02, abs=0.015)
    assert times["inner"].cpu_s == pytest.approx(0.05, abs=0.015)
    assert times["innermost"].cpu_s == pytest.approx(0.1, abs=0.02)


def test_threads_do_not_nest() -> None:
    """A stage of another thread takes nothing from the one that waits for it."""
    watch = Stopwatch()

    def work() -> None:
        with watch("thread"):
            burn(0.05)

    with watch("main"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    times = by_name(watch)
    assert times["main"].wall_s >= times["thread"].wall_s >= 0.05
    assert times["thread"].cpu_s >= 0.05 > times["main"].cpu_s


def test_an_error_ends_a_stage() -> None:
    """What is timed afterwards does not stand inside it."""
    watch = Stopwatch()
    with pytest.raises(ZeroDivisionError), watch("broken"):
        raise ZeroDivisionError
    with watch("next"):
        burn(0.02)
    assert by_name(watch)["broken"].times == 1
    assert by_name(watch)["next"].cpu_s >= 0.02


def test_one_that_is_off() -> None:
    """Stages are gone through, nested ones and those that fail, and nothing is said of them."""
    watch = Stopwatch(on=False)
    with pytest.raises(ZeroDivisionError), watch("outer"), watch("inner"):
        raise ZeroDivisionError
    assert watch.usage().stages == ()


def test_restart() -> None:
    """What was before is forgotten; the process's CPU time begins anew."""
    watch = Stopwatch()
    with watch("before"):
        burn(0.05)
    watch.restart()
    assert watch.usage().stages == ()
    assert watch.usage().cpu_s < 0.05
