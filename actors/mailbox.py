"""How do people reach a run that is going on?"""

from __future__ import annotations

from typing import Any, Final

COMMANDS: Final = ("pause", "resume", "stop", "rollback", "leave", "join")
"""`leave` and `join` are followed by a client's number."""


class Mailbox:
    """Keeps commands until the run fetches them, and the run's newest figures for whoever asks.

    It is an actor by itself, since the driver can only be called by its own actors.
    """

    def __init__(self) -> None:
        self._commands: list[str] = []
        self._status: dict[str, Any] = {"state": "starting"}

    def post(self, command: str) -> None:
        """Leave a command."""
        self._commands.append(command)

    def exchange(self, status: dict[str, Any]) -> list[str]:
        """Leave the newest figures; take the commands."""
        self._status = status
        commands, self._commands = self._commands, []
        return commands

    def status(self) -> dict[str, Any]:
        """Return the newest figures."""
        return self._status
