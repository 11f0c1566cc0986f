"""What crosses a lane comes whole, stays what it is while somebody looks, and is then let go."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from actors.lane import HAS_LANES, Answer, Broken, CallError, End, Lane
from actors.shared import READERS, Blocks, Pool, Shared
from policies.types import Buffer

pytestmark = pytest.mark.skipif(not HAS_LANES, reason="lanes need Linux")


class UnpicklableError(RuntimeError):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Other:
    """What the other end does, in a thread of this process."""

    def __init__(self) -> None:
        self.pool = Pool()
        self.kept: list[Buffer] = []
        self.go_on = threading.Event()

    def calls(self) -> dict[str, Callable[[bytes, Sequence[Buffer]], tuple[bytes, list[Shared]]]]:
        return {
            "double": self.double,
            "keep": self.keep,
            "fail": self.fail,
            "wait": self.wait,
        }

    def double(self, told: bytes, buffers: Sequence[Buffer]) -> tuple[bytes, list[Shared]]:
        found = []
        for buffer in buffers:
            found.append(self.pool.room(buffer.size))
            found[-1].room[:] = 2 * buffer
        return told[::-1], found

    def keep(self, told: bytes, buffers: Sequence[Buffer]) -> tuple[bytes, list[Shared]]:
        self.kept += buffers
        return told, []

    def fail(self, told: bytes, _: Sequence[Buffer]) -> tuple[bytes, list[Shared]]:
        raise UnpicklableError(1, 2) if told == b"own" else ValueError("no such thing")

    def wait(self, told: bytes, _: Sequence[Buffer]) -> tuple[bytes, list[Shared]]:
        self.go_on.wait(10)
        return told, []


@pytest.fixture
def other() -> Other:
    return Other()


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


@pytest.fixture
def lane(other: Other, blocks: Blocks) -> Iterator[Lane]:
    end = End(other.calls(), aside=["wait"])
    found = Lane.to(end.address, os.getpid(), blocks, 1)
    assert found is not None
    yield found
    found.close()


def result(lane: Lane, answer: Answer) -> tuple[bytes, tuple[Shared, ...]]:
    end = time.monotonic() + 10
    while not answer.done() and time.monotonic() < end:
        lane.take()
    return answer.result()


def numbers(size: int, seed: int = 0) -> Buffer:
    return np.random.default_rng(seed).integers(0, 100, size, dtype=np.uint8)


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000, 5_000_000])
def test_buffers_cross_both_ways(lane: Lane, size: int) -> None:
    given = [numbers(size), numbers(3, 1)]
    told, shared = result(lane, lane.call("double", b"abc", list(map(Shared.of, given))))
    assert told == b"cba"
    for before, after in zip(given, shared, strict=True):
        np.testing.assert_array_equal(after.array, 2 * before)
        assert not after.array.flags.writeable


@pytest.mark.parametrize("size", [10, 1 << 15, 1 << 22])
def test_what_is_told_may_be_long(lane: Lane, size: int) -> None:
    told = bytes(range(256)) * (size // 256 + 1)
    assert result(lane, lane.call("double", told))[0] == told[::-1]


def test_memory_is_not_written_while_somebody_looks(lane: Lane) -> None:
    held = []
    for seed in range(5):
        given = Shared.of(numbers(100_000, seed))
        _, (shared,) = result(lane, lane.call("double", b"", [given]))
        held.append(shared.array[10:])  # a part of it is enough
        del shared
    for seed, array in enumerate(held):
        np.testing.assert_array_equal(array, 2 * numbers(100_000, seed)[10:])


def test_memory_is_written_again_when_nobody_looks(lane: Lane) -> None:
    names = set()
    for seed in range(5):
        _, (shared,) = result(lane, lane.call("double", b"", [Shared.of(numbers(100_000, seed))]))
        assert shared.block is not None
        names.add(shared.block.name)
        del shared
        gc.collect()
    assert len(names) == 1


def test_memory_lent_on_is_kept_until_all_have_given_it_back(
    lane: Lane, other: Other, blocks: Blocks
) -> None:
    third = Other()
    beside = Lane.to(End(third.calls()).address, os.getpid(), blocks, 2)
    assert beside is not None
    _, (shared,) = result(lane, lane.call("double", b"", [Shared.of(numbers(1000))]))
    result(beside, beside.call("keep", b"", [shared]))
    result(beside, beside.call("keep", b"", [shared]))  # twice to the same one
    assert shared.block is not None
    name = shared.block.name
    del shared

    def next_name() -> tuple[int, int]:
        _, (shared,) = result(lane, lane.call("double", b"", [Shared.of(numbers(1000, 1))]))
        assert shared.block is not None
        return shared.block.name

    assert next_name() != name
    np.testing.assert_array_equal(third.kept[0], 2 * numbers(1000))
    third.kept.pop()
    gc.collect()
    assert next_name() != name
    np.testing.assert_array_equal(third.kept[0], 2 * numbers(1000))
    third.kept.pop()
    beside.close()
    gc.collect()
    assert name in {next_name() for _ in range(3)}
    assert other.pool.room(1000).block is not None


def test_counts_go_round(lane: Lane) -> None:
    names = set()
    for seed in range(300):  # the counts of a block are bytes
        _, (shared,) = result(lane, lane.call("double", b"", [Shared.of(numbers(100, seed))]))
        np.testing.assert_array_equal(shared.array, 2 * numbers(100, seed))
        assert shared.block is not None
        names.add(shared.block.name)
        del shared
    assert len(names) <= 2


def test_a_pool_has_its_limit() -> None:
    pool = Pool()
    held = []
    for _ in range(6):
        held.append(pool.room(1 << 24))
        if held[-1].block is not None:
            held[-1].block.lend(READERS - 1)
    assert [shared.block is not None for shared in held] == [True] * 4 + [False] * 2


def test_errors_cross_with_where_they_happened(lane: Lane) -> None:
    with pytest.raises(CallError, match=r"test_lane\.py") as found:
        result(lane, lane.call("fail", b""))
    assert isinstance(found.value.cause, ValueError)
    with pytest.raises(CallError, match="1 and 2") as found:
        result(lane, lane.call("fail", b"own"))
    assert "UnpicklableError: 1 and 2" in str(found.value.cause)
    with pytest.raises(CallError, match="KeyError"):
        result(lane, lane.call("nobody knows this", b""))
    assert result(lane, lane.call("double", b"ab"))[0] == b"ba"  # it goes on


def test_calls_overtake_those_that_are_taken_aside(lane: Lane, other: Other) -> None:
    slow = lane.call("wait", b"slow")
    assert result(lane, lane.call("double", b"ab"))[0] == b"ba"
    assert not slow.done()
    assert lane.busy
    other.go_on.set()
    assert result(lane, slow)[0] == b"slow"
    assert not lane.busy


def test_more_may_be_asked_than_a_socket_holds(lane: Lane) -> None:
    """Neither end waits for the other to read first."""
    told = bytes(20_000)
    answers = [lane.call("double", told) for _ in range(200)]
    assert all(result(lane, answer)[0] == told for answer in answers)


def test_who_asks_is_told_when_the_answer_is_here(lane: Lane) -> None:
    told: list[Answer] = []
    answer = lane.call("double", b"", then=told.append)
    result(lane, answer)
    assert told == [answer]


CHILD = """
import os, signal, time
from actors.lane import End
from actors.shared import Shared

def end(told, buffers):
    os.kill(os.getpid(), signal.SIGKILL)

served = End({"end": end, "echo": lambda told, buffers: (told, [Shared.of(b) for b in buffers])})
print(served.address, flush=True)
time.sleep(60)
"""


@pytest.fixture
def child() -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process, process.stdout.readline().strip()
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_end_of_the_other_process_is_noticed(
    child: tuple[subprocess.Popen[str], str], blocks: Blocks
) -> None:
    process, address = child
    lane = Lane.to(address, process.pid, blocks, 1)
    assert lane is not None
    given = numbers(1_000_000)
    _, (shared,) = result(lane, lane.call("echo", b"", [Shared.of(given)]))
    with pytest.raises(Broken):
        result(lane, lane.call("end", b""))
    np.testing.assert_array_equal(shared.array, given)  # what it gave stays
    assert lane.broken
    assert not lane.busy
    with pytest.raises(Broken):
        result(lane, lane.call("echo", b""))


def test_another_process_than_the_one_that_is_meant_is_refused(
    child: tuple[subprocess.Popen[str], str], blocks: Blocks
) -> None:
    process, address = child
    assert Lane.to(address, os.getpid(), blocks, 1) is None
    assert Lane.to("latecomer-nobody", process.pid, blocks, 1) is None


def test_files_are_closed(lane: Lane) -> None:
    def files() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    result(lane, lane.call("double", b"", [Shared.of(numbers(100_000))]))
    before, alive = files(), Shared.alive
    for seed in range(20):
        _, (shared,) = result(lane, lane.call("double", b"", [Shared.of(numbers(100_000, seed))]))
        assert shared.array.size == 100_000
        del shared
    assert files() <= before + 3  # a block more, and its map
    assert Shared.alive <= alive + 1


def test_a_call_that_nobody_waits_for_any_more_harms_nobody(
    child: tuple[subprocess.Popen[str], str], blocks: Blocks
) -> None:
    process, address = child
    lane = Lane.to(address, process.pid, blocks, 1)
    assert lane is not None
    os.kill(process.pid, signal.SIGSTOP)
    answer = lane.call("echo", b"a")
    lane.close()
    with pytest.raises(Broken):
        answer.result()
