"""How does a study of races run what is missing, and show what there is?"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from races import Race, run_all
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent / "papers"))

from cells import IMAGES, Book, Record, Table, machine

HERE: Final = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Study:
    """What a script measures.

    Attributes:
        name: Of the script.
        about: One line.
        plan: Returns the races that can be run as far as is known; called again when they are
            done, since settings are chosen by the first ones.
        tables: Makes the tables.
        pictures: Draws into a folder; returns the files.
        quick: What --quick says of itself.
        note: Stands below the tables.
    """

    name: str
    about: str
    plan: Callable[[Book, bool], list[Race]]
    tables: Callable[[Book, bool], list[Table]]
    pictures: Callable[[Book, bool, Path], list[Path]]
    quick: str
    note: str


def main(study: Study) -> None:
    """Run what is missing, and show what there is."""
    arguments = _arguments(study)
    suffix = "-quick" if arguments.quick else ""
    book = Book(arguments.results or HERE / "results" / f"{study.name}{suffix}.jsonl")
    began = time.monotonic()
    spent = 0.0 if arguments.show or arguments.list else _work_off(study, book, arguments)
    used = _asked(study, book, arguments)
    if arguments.list:
        for race in used:
            state = "done" if book.find(race.cell) else "to do"
            print(f"{race.cell.name} seed {race.cell.seed}: {state}")
        return
    if arguments.quick:
        print(f"{study.quick}\n")
    made = study.tables(book, arguments.quick)
    console = Console(width=None if sys.stdout.isatty() else 180)
    for table in made:
        if arguments.markdown:
            print(f"{table.title}\n\n{table.markdown()}\n")
        else:
            console.print(table.rich())
    found = {race.cell.key(): book.find(race.cell) for race in used}
    records = [record for record in found.values() if record is not None]
    failed = [
        f"Failed: {r['cell']} seed {r['seed']}: {r['failed']}" for r in records if r["failed"]
    ]
    hours = sum(record["cpu_s"] for record in records) / 3600
    print(
        study.note,
        *failed,
        f"{len(records)} of {len(found)} cells, {hours:.2f} CPU hours; {spent / 3600:.2f} now, "
        f"{(time.monotonic() - began) / 60:.1f} min.",
        machine(),
        sep="\n",
    )
    if arguments.json:
        arguments.json.write_text(_json(arguments.quick, made, records), encoding="utf-8")
    if arguments.pictures:
        arguments.images.mkdir(parents=True, exist_ok=True)
        for file in study.pictures(book, arguments.quick, arguments.images):
            print(f"wrote {file}")


def _arguments(study: Study) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=study.about)
    parser.add_argument("--quick", action="store_true", help="under two minutes; no result")
    parser.add_argument("--processes", type=int, default=2, help="cells at a time")
    parser.add_argument("--budget-hours", type=float, default=math.inf, help="CPU hours at most")
    parser.add_argument("--only", default="", help="only cells whose name holds this")
    parser.add_argument("--list", action="store_true", help="name the cells, run nothing")
    parser.add_argument("--show", action="store_true", help="show what there is, run nothing")
    parser.add_argument("--results", type=Path, help="another file of results")
    parser.add_argument("--root", help="folder of Fashion-MNIST, if not in its usual place")
    parser.add_argument("--json", type=Path, help="also write tables and results to this file")
    parser.add_argument("--markdown", action="store_true", help="tables as in docs/results.md")
    parser.add_argument("--pictures", action="store_true", help="also draw the pictures")
    parser.add_argument("--images", type=Path, default=IMAGES, help="where pictures go")
    return parser.parse_args()


def _asked(study: Study, book: Book, arguments: argparse.Namespace) -> list[Race]:
    return [r for r in study.plan(book, arguments.quick) if arguments.only in r.cell.name]


def _work_off(study: Study, book: Book, arguments: argparse.Namespace) -> float:
    """Run the cells that are missing, until none is left or the budget is; return CPU seconds."""
    budget_s, spent = 3600 * arguments.budget_hours, 0.0
    while spent < budget_s:
        missing = {
            race.cell.key(): race
            for race in _asked(study, book, arguments)
            if book.find(race.cell) is None
        }  # a cell may stand in two rows
        if not missing:
            return spent
        spent += run_all(
            list(missing.values()),
            book,
            processes=arguments.processes,
            root=arguments.root,
            budget_s=budget_s - spent,
        )
    print(f"the budget of {arguments.budget_hours:g} CPU hours is used up")
    return spent


def _json(quick: bool, made: Iterable[Table], records: Sequence[Record]) -> str:
    shown = [{"title": t.title, "columns": t.columns, "rows": t.rows} for t in made]
    return json.dumps({"quick": quick, "tables": shown, "records": records}, indent=2) + "\n"
