"""What are our HTML pages made of?

A page stands alone: it loads nothing, its pictures are inline SVG, and it follows light and dark.
`page.html.j2` holds the style and the macros that all of them share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from policies.types import ExperimentError


@dataclass(frozen=True, slots=True)
class Rows:
    """A table, its cells written out.

    Attributes:
        words: So many columns in front hold words, the others numbers.
    """

    columns: Sequence[str]
    cells: Sequence[Sequence[str]]
    words: int = 1


@dataclass(frozen=True, slots=True)
class Part:
    """A section of a page.

    Attributes:
        folded: The table hides behind these words.
        caption: What the second picture shows.
        second: A picture below the first.
    """

    title: str
    lead: str = ""
    picture: Markup | None = None
    caption: str = ""
    second: Markup | None = None
    rows: Rows | None = None
    folded: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """A headline figure."""

    name: str
    value: str
    note: str = ""


def coloured(text: str, paint: str) -> Markup:
    """Return words in one of the page's colours."""
    return Markup('<strong style="color: var(--{})">{}</strong>').format(paint, escape(text))


def render(template: str, **content: Any) -> str:
    """Return a page.

    Args:
        template: A file beside this one that extends `page.html.j2`.
        content: What it names.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)


def save(text: str, file: Path) -> None:
    """Write a page, whole or not at all.

    Raises:
        ExperimentError: If the file cannot be written.
    """
    partial = file.with_name(f"{file.name}.tmp")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        raise ExperimentError(
            f"--html {file} cannot be written: {error.strerror}. Name a file in a folder that "
            "there is."
        ) from error
