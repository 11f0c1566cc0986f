"""What does the terminal show while a run goes on?"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from orchestrator.kpis import Verdict, short
from orchestrator.observe import Point

REFRESH_S: Final = 0.2
_BYTES = 1000
_HARD: Final = "\N{NO-BREAK SPACE}"


class Progress:
    """Live lines in a terminal; elsewhere a plain line at every evaluation.

    Each KPI is told with its threshold; only those that are known are counted.
    """

    def __init__(
        self,
        console: Console,
        *,
        versions: int | None,
        judge: Callable[[Mapping[str, Any]], Mapping[str, Verdict]] = lambda _: {},
    ) -> None:
        self._console = console
        self._versions = versions
        self._judge = judge
        self._shown = 0.0
        self._live = (
            Live(Text(""), console=console, refresh_per_second=8, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line above the live one."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def due(self) -> bool:
        """Say whether the live line should be drawn again."""
        return self._live is not None and time.monotonic() - self._shown > REFRESH_S

    def tick(self, status: dict[str, Any]) -> None:
        """Draw the live line, and the KPIs below it."""
        if self._live is not None:
            self._shown = time.monotonic()
            lines = (line(status, self._versions), *self._kpis(status))
            texts = (Text(one, no_wrap=True, overflow="ellipsis") for one in lines)
            self._live.update(Group(*texts))

    def point(self, point: Point) -> None:
        """Note an evaluation; in a pipe, print it."""
        if self._live is None:
            status = {**point.metrics, "version": point.version, "time_s": point.time_s}
            kpis = short(self._judge(status))
            self.say(" | ".join([line(status, self._versions), *kpis]))

    def _kpis(self, status: Mapping[str, Any]) -> list[str]:
        """Return the KPIs in lines as wide as the terminal; none of them is broken."""
        whole = (part.replace(" ", _HARD) for part in short(self._judge(status)))
        lines = textwrap.wrap(
            f"{_HARD}| ".join(whole),
            self._console.width,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return [one.replace(_HARD, " ") for one in lines]


def line(status: Mapping[str, Any], versions: int | None = None) -> str:
    """Return a run's figures in one line."""
    accuracy = status.get("accuracy")
    of = f"/{versions}" if versions else ""
    parts = [
        f"version {status['version']:.0f}{of}",
        seconds(status["time_s"]),
        f"accuracy {accuracy:.4f}" if accuracy is not None else "accuracy -",
        f"{status['updates']:.0f} updates",
        f"{status['in_flight']:.0f} in flight",
        f"up {size(status['uplink_bytes'])}",
        f"down {size(status['downlink_bytes'])}",
    ]
    bad = status.get("rejected_updates", 0)
    if bad:
        parts.append(f"{bad:.0f} rejected")
    if status.get("state") not in {None, "running"}:
        parts.append(str(status["state"]))
    return " | ".join(parts)


def size(count: float) -> str:
    """Return bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < _BYTES:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _BYTES
    return f"{count:.1f} TB"


def seconds(duration: float) -> str:
    """Return a duration for people."""
    if duration < 60:
        return f"{duration:.1f} s"
    if duration < 3600:
        return f"{duration / 60:.1f} min"
    return f"{duration / 3600:.1f} h"
