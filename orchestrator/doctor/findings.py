"""What does a look at an installation come to?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "trouble"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `trouble` keeps runs from working, `note` is good to know.
        topic: What was looked at, in a word or two.
        text: What was found.
        way_out: What to do about it; empty for `ok`.
    """

    level: Level
    topic: str
    text: str
    way_out: str = ""


def ok(topic: str, text: str) -> Finding:
    """Return that something is as it should be."""
    return Finding("ok", topic, text)


def note(topic: str, text: str, way_out: str = "") -> Finding:
    """Return something that is good to know."""
    return Finding("note", topic, text, way_out)


def trouble(topic: str, text: str, way_out: str) -> Finding:
    """Return what keeps runs from working."""
    return Finding("trouble", topic, text, way_out)
