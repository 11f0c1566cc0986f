"""What does one page say about several runs?

It stands alone as a run's report does, in the same style, and the same runs write the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jinja2
from markupsafe import Markup, escape

from orchestrator import compare_pictures as pictures
from orchestrator.compare import Comparison
from orchestrator.pictures import style

_REPORT: Final = "report.html.j2"
_PAGE: Final = """\
{% from "parts" import section, table %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }} · latecomer</title>
{{ css }}
<style>
:root {
  --s1: #0067a8; --s2: #d1490c; --s3: #00805f; --s4: #b04f95; --s5: #a97700; --s6: #1d2329;
}
@media (prefers-color-scheme: dark) {
  :root {
    --s1: #63b3ea; --s2: #f58a5a; --s3: #4cc3a0; --s4: #dd94c8; --s5: #dfb347; --s6: #e7ebee;
  }
}
svg.key {
  display: inline-block; width: 2.4rem; height: 0.9rem; margin-right: 0.5rem;
  vertical-align: -0.1rem;
}
.matrix svg.key { display: block; margin: 0 0 0.2rem auto; }
.matrix th, .matrix td { white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
.matrix th { vertical-align: bottom; }
.matrix th { min-width: 6rem; }
.matrix .word { min-width: 12rem; }
</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
{% for note in notes %}
<p class="note">{{ note }}</p>
{% endfor %}
</header>
<main>
{% for part in parts %}
{{ section(part) }}
{% endfor %}
{% if matrix %}
<section>
<h2>What differs</h2>
<p class="lead">Settings that the runs do not all have alike.</p>
<div class="matrix">{{ table(matrix) }}</div>
</section>
{% endif %}
</main>
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class _Rows:
    """A table as the template draws it."""

    columns: Sequence[str]
    cells: Sequence[Sequence[str]]
    words: int = 1


@dataclass(frozen=True, slots=True)
class _Part:
    """A section as the template draws it."""

    title: str
    lead: str = ""
    picture: Markup | None = None
    rows: _Rows | None = None
    folded: str = ""
    note: str = ""


def page(found: Comparison) -> str:
    """Return the page."""
    groups = found.groups
    around = " The band is the range of the runs, the line their median." if found.seeded else ""
    interval = ", with the 95 % interval above and below" if found.seeded else ""
    with style():
        keys = [pictures.Look(place).key() for place in range(len(groups))]
        tables = [
            _Part(sheet.title, rows=_Rows(sheet.columns, _keyed(keys, sheet.cells)))
            for sheet in found.sheets()
        ]
        drawn = [
            _Part("Accuracy over virtual time", around, pictures.over_time(groups)),
            _Part("Accuracy over bytes", around, pictures.over_bytes(groups)),
            _Part("Accuracy over energy", around, pictures.over_energy(groups)),
            _Part(
                "Staleness",
                "Of committed updates: nine tenths of them on the thin line, the middle half on "
                "the bar, the median at the diamond, the mean at the stroke.",
                pictures.staleness(groups),
            ),
            _Part(
                "Fairness",
                "Filled: the worst tenth of the clients. Hollow: the whole test split. Both of "
                f"the final version{interval}.",
                pictures.fairness(groups),
            ),
        ]
    runs = sum(len(one.runs) for one in groups)
    what = "1 run" if runs == 1 else f"{runs} runs compared"
    text = _template().render(
        title=what,
        notes=found.notes(),
        css=_css(),
        parts=[*tables, *drawn],
        matrix=_matrix(found, keys),
    )
    return text.lstrip()


def _keyed(keys: Sequence[Markup], cells: Sequence[Sequence[str]]) -> list[list[str]]:
    """Put the look of each group before its label."""
    return [[key + escape(row[0]), *row[1:]] for key, row in zip(keys, cells, strict=True)]


def _matrix(found: Comparison, keys: Sequence[Markup]) -> _Rows | None:
    """Return a row a setting that differs, a column a group."""
    if not found.differing:
        return None
    labels = [key + escape(one.label) for key, one in zip(keys, found.groups, strict=True)]
    groups = found.groups
    cells = [[name, *(one.differs.get(name, "-") for one in groups)] for name in found.differing]
    return _Rows(("setting", *labels), cells)


# The report's own parts and style, so that both pages look alike.


def _report() -> str:
    return (Path(__file__).parent / _REPORT).read_text(encoding="utf-8")


def _css() -> Markup:
    found = re.search(r"<style>.*?</style>", _report(), re.DOTALL)
    return Markup(found.group(0) if found else "")  # noqa: S704 - our own file


def _template() -> jinja2.Template:
    parts = _report().partition("<!doctype")[0]  # the macros
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({"parts": parts, "page": _PAGE}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page")
