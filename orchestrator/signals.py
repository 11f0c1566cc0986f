"""What happens when somebody interrupts a run?"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from orchestrator.engine import Interrupted


class Signals:
    """Notes the first SIGINT or SIGTERM; a second one ends the process at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._told = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen, where this is the main thread."""
        before = self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def listen(self) -> dict[int, Any]:
        """Set the handlers; return those before."""
        if threading.current_thread() is not threading.main_thread():
            return {}  # a thread of somebody's own: signals are theirs
        return {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.number is not None:
            os._exit(128 + number)
        self.number = number

    def check(self) -> None:
        """Raise `Interrupted` if a signal came; once, for what follows must wait, too."""
        if self.number is not None and not self._told:
            self._told = True
            raise Interrupted
