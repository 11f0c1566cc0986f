"""How is a mistake in an experiment file told?

One line a mistake: where it was made, the rule that it breaks, the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from policies.types import ExperimentError

Key = str | int
KeyPath = tuple[Key, ...]
"""A path in the file: ("fleet", "mix", 0, "share")."""
Place = int | str
"""Where something was said: a line of the file, or the `--set` that said it."""

_VERBS: Final = ("must ", "cannot ", "contains ", "may ", "needs ", "has ", "is ", "lacks ")


class ExperimentFileError(ExperimentError):
    """An experiment file has mistakes; the message lists them all, in the order of the file."""


@dataclass(frozen=True)
class Mistake:
    """One mistake: where it was made and what to do about it."""

    place: Place
    text: str

    def order(self) -> tuple[bool, int]:
        """Return a sorting key: the file's lines first, then the assignments as they came."""
        return isinstance(self.place, str), self.place if isinstance(self.place, int) else 0

    def render(self, name: str) -> str:
        """Return the mistake as one line for the user of the file called `name`; "" is no file."""
        where = self.place if isinstance(self.place, str) else f"{name}:{self.place}"
        text = " ".join(self.text.splitlines())
        line = f"{where}: {text}" if name or isinstance(self.place, str) else text
        return line.encode("utf-8", "backslashreplace").decode()


def raise_all(name: str, mistakes: Iterable[Mistake]) -> None:
    """Raise one error that lists `mistakes` in order, if there are any."""
    lines = dict.fromkeys(m.render(name) for m in sorted(mistakes, key=Mistake.order))
    if lines:
        raise ExperimentFileError("\n".join(lines))


def dotted(path: Sequence[Key]) -> str:
    """Return a path as the user writes it: `fleet.mix.0.share`."""
    return ".".join(map(str, path))


def shown(value: Any) -> str:
    """Return a value as short text for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a group of settings"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    try:
        text = repr(value)
    except ValueError:  # an integer too long to print
        text = "a very long number"
    return text if len(text) <= 60 else text[:57] + "..."


def plain(value: Any) -> str:
    """Return a limit or a choice as the user would write it."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value.value) if isinstance(value, Enum) else str(value)


def nearest(name: Any, known: Sequence[Any], otherwise: str) -> str:
    """Return the known name nearest to `name`, as a question, or the list of all."""
    by_text = {plain(one).lower(): plain(one) for one in known}
    near = difflib.get_close_matches(str(name).lower()[:80], by_text, n=1)
    if near:
        return f"Did you mean {by_text[near[0]]}?"
    return f"{otherwise} {', '.join(map(plain, known)) or 'none'}."


def no_choice(path: KeyPath, given: Any, known: Sequence[Any]) -> str:
    """Return the message for a value that is none of the `known`."""
    hint = nearest(given, known, "Choose one of")
    return sentence(path, f"has no choice {shown(given)}. {hint}")


def sentence(path: Sequence[Key], text: str) -> str:
    """Put the path before a message that lacks it; a colon follows unless a verb does."""
    name = dotted(path)
    if not name or text.startswith(f"{name} "):
        return text
    return f"{name} {text}" if text.startswith(_VERBS) else f"{name}: {text}"
