"""How are answers waited for, and what is said of those that do not come?"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

import ray
from ray import exceptions as ray_errors

from actors.lane import Answer, Broken, CallError
from orchestrator.runtime import Setback
from policies.types import ExperimentError, RunError

T = TypeVar("T")
SLICE_S: Final = 0.2
"""Longest wait before the driver looks whether somebody wants the run to end."""
RETURN_S: Final = 0.5
"""An actor that is lost again within this time was not back yet: torch alone takes longer."""
LOST_ACTOR: Final = (
    ray_errors.RayActorError,
    ray_errors.WorkerCrashedError,
    ray_errors.OutOfMemoryError,
    ray_errors.NodeDiedError,
    Broken,
)
"""A process of the run is gone; Ray starts those again that keep nothing."""
FAILED: Final = (ray_errors.RayTaskError, CallError)
"""What was called has raised something."""
LOST_BUFFER: Final = ray_errors.ObjectLostError
"""What lay on a node is gone with it."""


class Wheel(Protocol):
    """Keeps a run going while something is waited for."""

    def turn(self, wanted: Any = None, timeout_s: float = SLICE_S) -> None:
        """Wait for `wanted`, or for something else to happen.

        Raises:
            Interrupted: If somebody wants the run to end.
        """


def is_here(awaited: Any) -> bool:
    """Say whether what a call gives is here, be it Ray's reference or a lane's answer."""
    if isinstance(awaited, Answer):
        return awaited.done()
    ready, _ = ray.wait([awaited], timeout=0, fetch_local=False)
    return bool(ready)


def taken(awaited: Any) -> Any:
    """Return what a call gives; of a lane's answer the bytes."""
    return awaited.result()[0] if isinstance(awaited, Answer) else ray.get(awaited)


class PendingCall(Generic[T]):
    """The result of a call that may still be on its way; a lost actor is asked again.

    Args:
        wheel: Turns while somebody waits.
        call: Makes the call, through Ray or a lane; returns None while it cannot be made yet.
        deadline_s: For an answer.
        what: Is waited for, in words.
        tries: How often it is made.
        read: Makes of the answer what is wanted.
    """

    def __init__(
        self,
        wheel: Wheel,
        call: Callable[[], Any],
        deadline_s: float,
        what: str,
        *,
        tries: int = 1,
        read: Callable[[Any], T] = lambda answer: answer,
    ) -> None:
        self._wheel = wheel
        self._call = call
        self._what = what
        self._tries = tries
        self._again = tries > 1
        self._deadline_s = deadline_s
        self._read = read
        self._value: tuple[T] | None = None
        self._lost = ""
        self._end = float("inf")
        self._ask()

    def _ask(self) -> None:
        self._asked = time.monotonic()
        self._reference = self._call()
        if self._end == float("inf") and self._reference is not None:
            self._end = self._asked + self._deadline_s

    def done(self) -> bool:
        """Say whether the result is here.

        Raises:
            RunError: If it failed, or has not come within its deadline.
            Setback: If what it was to be made of, or by, is gone.
        """
        if self._value is not None:
            return True
        if self._reference is None and time.monotonic() > self._asked:
            self._ask()
        if self._reference is None:
            return self._in_time()
        return self._take() if is_here(self._reference) else self._in_time()

    def result(self) -> T:
        """Wait for it; raises as `done` does."""
        while not self.done():
            self._wheel.turn(self._reference)
        if self._value is None:
            raise RunError(f"{self._what} has no result")
        return self._value[0]

    def _in_time(self) -> bool:
        if time.monotonic() > self._end:
            what = f"waited {self._deadline_s:g} s for {self._what}, in vain"
            raise Setback(f"{what}: {self._lost}") if self._lost else RunError(what)
        return False

    def _take(self) -> bool:
        """Take the answer; say whether it was one."""
        try:
            self._value = (self._read(taken(self._reference)),)
        except LOST_BUFFER as error:
            raise Setback(f"lost {self._what}: {first_line(error)}") from error
        except LOST_ACTOR as error:
            self._note_loss(error)
            return self._in_time()
        except FAILED as error:
            if isinstance(error.cause, ExperimentError):  # as it would be said without Ray
                raise ExperimentError(str(error.cause)) from error
            raise RunError(f"{self._what} failed: {cause(error)}") from error
        return True

    def _note_loss(self, error: Exception) -> None:
        """The actor is lost: ask again in a moment, if that can help."""
        if in_constructor(error):
            raise RunError(f"lost {self._what}: {first_line(error)}") from error
        made_of = isinstance(error, ray_errors.RayTaskError)  # an argument's maker is gone
        unheard = isinstance(error, ray_errors.ActorUnavailableError)
        if not unheard and time.monotonic() - self._asked > RETURN_S:
            self._tries -= 1  # else it had not come back from its last end
            self._end = time.monotonic() + self._deadline_s
        if made_of or self._tries <= 0 or not self._again:
            raise Setback(f"lost {self._what}: {first_line(error)}") from error
        self._lost = first_line(error)
        self._reference, self._asked = None, time.monotonic() + SLICE_S


class PendingParts(Generic[T]):
    """Lists from several actors, put together in the order that was asked for."""

    def __init__(self, calls: Sequence[tuple[Sequence[int], PendingCall[list[T]]]]) -> None:
        self._calls = calls

    def done(self) -> bool:
        """Say whether all parts are here."""
        return all(call.done() for _, call in self._calls)

    def result(self) -> list[T]:
        """Wait for all parts."""
        found: dict[int, T] = {}
        for places, call in self._calls:
            found |= zip(places, call.result(), strict=True)
        return [found[place] for place in sorted(found)]


def in_constructor(error: BaseException) -> bool:
    """Say whether an actor died because it could not even be made: asking again is in vain."""
    return "creation task" in str(error)


def _lines(error: BaseException) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return [line.strip() for line in plain.splitlines() if line.strip()]


def first_line(error: BaseException) -> str:
    """Return what an error says first, or, of an actor that could not be made, why."""
    lines = _lines(error) or [type(error).__name__]
    return lines[-1] if in_constructor(error) else lines[0]


def cause(error: BaseException) -> str:
    """Return what really went wrong in an actor, with where."""
    found = getattr(error, "cause", None) or error
    if isinstance(found, ExperimentError):
        return str(found)
    where = [line for line in _lines(error) if line.startswith("File ")]
    place = f" ({where[-1]})" if where else ""
    text = _lines(error)[-1] if found is error else first_line(found)
    return f"{type(found).__name__}: {text}{place}"
