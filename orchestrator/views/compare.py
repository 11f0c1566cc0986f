"""How do finished runs compare: accuracy, time, bytes and energy side by side?"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from orchestrator.views.compare_figures import (
    LEARNED,
    PEOPLE,
    SPENT,
    TIMED,
    Figure,
    Group,
    group,
    kpis_met,
    kpis_missed,
    ranked,
    reaching,
    usual_target,
    written,
)
from orchestrator.views.compare_runs import LeftOut, gather, no_runs
from orchestrator.views.sheets import Sheet, put
from policies.types import ExperimentError

_PIPE_COLUMNS: Final = 160  # where there is no terminal to be as wide as
_BY_NAME: Final = "name"
_AS_GIVEN: Final = "given"


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        groups: In the order that they are shown in.
        target: The accuracy to reach.
        left_out: Runs that are not compared.
    """

    groups: Sequence[Group]
    target: float
    left_out: Sequence[LeftOut]

    @property
    def differing(self) -> Sequence[str]:
        """Return the names of the settings that differ."""
        return list(dict.fromkeys(name for one in self.groups for name in one.differs))

    @property
    def seeded(self) -> bool:
        """Whether some group has more than one run."""
        return any(len(one.runs) > 1 for one in self.groups)

    def sheets(self) -> list[Sheet]:
        """Return the figures as tables."""
        counts = [str(len(one.runs)) for one in self.groups]
        learned = self._sheet("Accuracy", LEARNED)
        learned = learned._replace(
            columns=(learned.columns[0], "runs", *learned.columns[1:]),
            cells=[(row[0], n, *row[1:]) for row, n in zip(learned.cells, counts, strict=True)],
        )
        title = f"Until an accuracy of {self.target:.4g}"
        reached = self._sheet(title, reaching(self.target), lacking="not reached")
        return [
            learned,
            self._people(),
            self._sheet("Progress", TIMED),
            self._sheet("What it cost", SPENT),
            reached,
        ]

    def _people(self) -> Sheet:
        """Return how the clients fared, and how many KPIs were met, as a count."""
        found = self._sheet("People", PEOPLE)
        rows = zip(self.groups, found.cells, strict=True)
        return found._replace(cells=[(*row[:-1], kpis_met(one.runs)) for one, row in rows])

    def _sheet(self, title: str, figures: Sequence[Figure], lacking: str = "-") -> Sheet:
        def cell(one: Group, figure: Figure) -> str:
            return written(figure.over(one.runs), figure.units, lacking=lacking)

        cells = [(one.label, *(cell(one, figure) for figure in figures)) for one in self.groups]
        return Sheet(title, ("run", *(figure.title for figure in figures)), cells)

    def differences(self) -> Sheet:
        """Return a row a setting that differs, a column a group."""
        labels = [one.label for one in self.groups]
        cells = [
            (name, *(one.differs.get(name, "-") for one in self.groups)) for name in self.differing
        ]
        return Sheet("What differs", ("setting", *labels), cells, words=1 + len(labels))

    def notes(self) -> list[str]:
        """Return what a reader should know, a sentence each."""
        said = ["± is the 95 % interval of Student's t over the seeds."] if self.seeded else []
        said += filter(None, map(kpis_missed, self.groups))
        return [*said, *(f"Left out: {run.name} {run.reason}." for run in self.left_out)]


def compare(
    wanted: Sequence[str], *, uri: str | None, sort: str | None, target: float | None
) -> Comparison:
    """Read runs and put them side by side.

    Args:
        wanted: See `gather`.
        uri: Of the MLflow store.
        sort: Key of a figure, `name`, or `given` for the order they were named in; by default
            the tail accuracy.
        target: An accuracy in (0, 1]; by default 95 % of the best tail accuracy.

    Raises:
        ExperimentError: If there is nothing to compare, or an argument is wrong.
    """
    if target is not None and not 0 < target <= 1:
        raise ExperimentError(f"--target must lie in (0, 1], got {target:g}. It is an accuracy.")
    figure = _figure(sort or "tail")
    runs, left = gather(wanted, uri)
    if not runs:
        raise no_runs(left)
    target = usual_target(runs) if target is None else target
    figures = {one.key: one for one in _figures(target)}
    groups = group(runs)
    if figure == _BY_NAME:
        groups.sort(key=lambda one: one.label)
    elif figure != _AS_GIVEN:
        groups = ranked(groups, figures[figure])
    return Comparison(groups, target, left)


def _figures(target: float) -> Sequence[Figure]:
    """Return all figures, for an accuracy to reach."""
    return (*LEARNED, *PEOPLE, *TIMED, *SPENT, *reaching(target))


def _figure(key: str) -> str:
    """Return a key that `--sort` knows.

    Raises:
        ExperimentError: If it is none.
    """
    known = [*(one.key for one in _figures(1.0)), _BY_NAME, _AS_GIVEN]
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ExperimentError(f"--sort knows no {key}.{hint} Known are {', '.join(known)}.")
    return key


def show(found: Comparison, console: Console) -> None:
    """Print a comparison; where there is no terminal, as wide as it needs."""
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_COLUMNS)
    for sheet in found.sheets():
        put(sheet, console)
    if found.differing:
        put(found.differences(), console)
    for note in found.notes():
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def write(found: Comparison, file: Path) -> None:
    """Write a comparison as a page.

    Raises:
        ExperimentError: If the file cannot be written.
    """
    from orchestrator.views.compare_page import page  # noqa: PLC0415  # Matplotlib, late
    from orchestrator.views.pages import save  # noqa: PLC0415  # Jinja, late

    save(page(found), file)
