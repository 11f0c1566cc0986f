"""How do commands reach a run?

The mailbox is a named actor in a namespace that is the run's id. The driver looks into it a few
times a second, with one call under way at a time, so that a run never waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import ray

from actors.mailbox import COMMANDS, Mailbox
from orchestrator.on_ray.cluster import beside_the_driver, reachable
from policies.types import ExperimentError

NAME: Final = "latecomer-mailbox"
EVERY_S: Final = 0.25
ANSWER_S: Final = 15.0


class MailboxControl:
    """The run's end of the mailbox."""

    def __init__(self, run: str) -> None:
        shell = ray.remote(Mailbox).options(
            name=NAME, num_cpus=0, max_restarts=-1, scheduling_strategy=beside_the_driver()
        )
        try:
            self._mailbox = shell.remote()
        except ValueError as error:
            raise ExperimentError(
                f"a run called {run} is going on on this Ray already. Name another --out: the "
                "folder's name is the run's."
            ) from error
        self._asked = 0.0
        self._answer: Any = None

    def poll(self, status: Callable[[], dict[str, Any]]) -> list[str]:
        """Return new commands, if the last look brought any; look again if it is time."""
        commands: list[str] = []
        now = time.monotonic()
        if now - self._asked < EVERY_S:
            return commands
        if self._answer is not None:
            ready, _ = ray.wait([self._answer], timeout=0)
            if not ready:
                return commands
            try:
                commands = ray.get(self._answer)
            except ray.exceptions.RayActorError:
                commands = []  # it restarts, empty
        self._asked = now
        self._answer = self._mailbox.exchange.remote(status())
        return commands

    def wait(self) -> None:
        """Let a little time pass."""
        time.sleep(EVERY_S)

    def close(self) -> None:
        """End the mailbox."""
        ray.kill(self._mailbox)


def call(run: str, command: str, address: str) -> dict[str, Any]:
    """Give a command to a run from another process, or ask for its status.

    Args:
        run: The run's id, as its first line prints it.
        command: status, pause, resume, stop or rollback; leave or join and a client's number.
        address: Of the Ray that the run is on; `auto` finds the one on this machine.

    Returns:
        The run's newest figures.

    Raises:
        ExperimentError: If there is no such run, or it does not answer.
    """
    if command.split(maxsplit=1)[0] not in ("status", *COMMANDS):
        raise ExperimentError(f"{command} is no command. Known: status, {', '.join(COMMANDS)}.")
    reachable(address)
    try:
        ray.init(address=address, namespace=run, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ExperimentError(
            f"no Ray is found at {address}: {error}. Is the run still going? Name its Ray with "
            "--address."
        ) from error
    try:
        mailbox = ray.get_actor(NAME, namespace=run)
        if command != "status":
            ray.get(mailbox.post.remote(command), timeout=ANSWER_S)
        status: dict[str, Any] = ray.get(mailbox.status.remote(), timeout=ANSWER_S)
    except ValueError as error:
        raise ExperimentError(
            f"no run {run} is going on this Ray. Its id is in the first line that it printed."
        ) from error
    except ray.exceptions.GetTimeoutError as error:
        raise ExperimentError(f"run {run} does not answer within {ANSWER_S:g} s.") from error
    finally:
        ray.shutdown()
    return status
