"""What does one page say about several runs?

It stands alone as a run's report does, in the same style, and the same runs write the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from orchestrator.views import compare_pictures as pictures
from orchestrator.views.compare import Comparison
from orchestrator.views.pages import Part, Rows, render
from orchestrator.views.pictures import style


def page(found: Comparison) -> str:
    """Return the page."""
    groups = found.groups
    around = " The band is the range of the runs, the line their median." if found.seeded else ""
    interval = ", with the 95 % interval above and below" if found.seeded else ""
    with style():
        keys = [pictures.Look(place).key() for place in range(len(groups))]
        tables = [
            Part(sheet.title, rows=Rows(sheet.columns, _keyed(keys, sheet.cells)))
            for sheet in found.sheets()
        ]
        drawn = [
            Part("Accuracy over virtual time", around, pictures.over_time(groups)),
            Part("Accuracy over bytes", around, pictures.over_bytes(groups)),
            Part("Accuracy over energy", around, pictures.over_energy(groups)),
            Part(
                "Staleness",
                "Of committed updates: nine tenths of them on the thin line, the middle half on "
                "the bar, the median at the diamond, the mean at the stroke.",
                pictures.staleness(groups),
            ),
            Part(
                "Fairness",
                "Filled: the worst tenth of the clients. Hollow: the whole test split. Both of "
                f"the final version{interval}.",
                pictures.fairness(groups),
            ),
        ]
    runs = sum(len(one.runs) for one in groups)
    what = "1 run" if runs == 1 else f"{runs} runs compared"
    return render(
        "compare.html.j2",
        title=what,
        notes=found.notes(),
        parts=[*tables, *drawn],
        matrix=_matrix(found, keys),
    )


def _keyed(keys: Sequence[Markup], cells: Sequence[Sequence[str]]) -> list[list[str]]:
    """Put the look of each group before its label."""
    return [[key + escape(row[0]), *row[1:]] for key, row in zip(keys, cells, strict=True)]


def _matrix(found: Comparison, keys: Sequence[Markup]) -> Rows | None:
    """Return the settings that differ, with the look of each group above its label."""
    if not found.differing:
        return None
    sheet = found.differences()
    first, *labels = sheet.columns
    keyed = [key + escape(label) for key, label in zip(keys, labels, strict=True)]
    return Rows((first, *keyed), sheet.cells)
