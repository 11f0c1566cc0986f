"""What is missing for a run to work, here and on a cluster, and how is it got?"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from orchestrator.doctor import machine
from orchestrator.doctor.data import known_encoders, known_sources
from orchestrator.doctor.findings import Finding, Level, note, ok, trouble
from orchestrator.doctor.fit import fit, this_machine
from orchestrator.experiment import Experiment, read
from policies.types import ExperimentError

_STYLES: Final[dict[Level, str]] = {"ok": "green", "note": "yellow", "trouble": "red"}
_LEVEL_COLUMNS: Final = 9


def examine(file: Path | None, *, address: str | None, uri: str | None) -> list[Finding]:
    """Look at everything.

    Args:
        file: An experiment file, which is validated and whose fleet is fitted.
        address: Of a Ray whose nodes are asked; without it no Ray is touched.
        uri: Of the MLflow store.

    Cost:
        About a second, and seconds more for an MLflow server and for a Ray.
    """
    return list(_all(file, address, uri))


def _all(file: Path | None, address: str | None, uri: str | None) -> Iterator[Finding]:
    yield from machine.packages()
    yield from machine.room()
    yield machine.authentication(os.environ, Path.home())
    folders = [Path.cwd(), *([file.resolve().parent] if file else [])]
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        yield from machine.shadows(folder)
    yield from machine.rays()
    yield from machine.unfinished(Path("runs"), time.time())
    yield from machine.locks()
    yield from data()
    yield from encoders()
    experiment: Experiment | None = None
    if file is not None:
        try:
            experiment, _ = read(file)
            yield ok("file", f"{file} is valid")
        except ExperimentError as error:
            yield trouble(
                "file", str(error), f"Mend {file}; docs/experiment-file.md has all names."
            )
    if experiment is not None and experiment.tracking.enabled:
        uri = uri or experiment.tracking.uri
    if experiment is None or experiment.tracking.enabled:
        yield machine.mlflow(uri)
    if address is not None:
        from orchestrator.doctor.nodes import nodes  # noqa: PLC0415  # Ray takes a second to import

        yield from nodes(address, experiment)
    elif experiment is not None:
        yield fit(experiment, *this_machine())


def data() -> Iterator[Finding]:
    """Say which data sets are there, and how to get the others; none is a must."""
    known = known_sources()
    yours = {name: ", ".join(one.needs) for name, one in known.items() if one.needs}
    there = [name for name, one in known.items() if name not in yours and one.missing is None]
    yield ok("data", f"there: {', '.join(there) or 'none'}")
    if yours:
        said = ", ".join(f"{name} ({needs})" for name, needs in yours.items())
        yield ok("data", f"read from files of yours: {said}")
    for name, one in known.items():
        if one.missing is not None:
            yield note("data", one.missing, f"Or: latecomer fetch {name}")


def encoders() -> Iterator[Finding]:
    """Say which pretrained encoders are there, and how to get the others; none is a must."""
    known = known_encoders()
    yours = {name: ", ".join(one.needs) for name, one in known.items() if one.needs}
    there = [name for name, one in known.items() if name not in yours and one.missing is None]
    yield ok("encoders", f"there: {', '.join(there) or 'none'}")
    said = ", ".join(f"{name} ({needs})" for name, needs in yours.items())
    yield ok("encoders", f"with weights of yours: {said}")
    for one in known.values():
        if one.missing is not None:
            yield note("encoders", one.missing, "See docs/encoders.md.")


def show(findings: Sequence[Finding], console: Console, *, as_json: bool) -> None:
    """Print what was found: a line each and the way out below, or JSON."""
    troubles = sum(finding.level == "trouble" for finding in findings)
    if as_json:
        found = {"troubles": troubles, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(found, indent=2))  # noqa: T201  # for programs
        return
    for finding in findings:
        line = Text(f"{finding.level:{_LEVEL_COLUMNS}}", style=_STYLES[finding.level])
        line.append(f"{finding.topic}: {finding.text}", style="default")
        console.print(line, soft_wrap=True)
        if finding.way_out:
            console.print(Text(" " * _LEVEL_COLUMNS + finding.way_out, "dim"), soft_wrap=True)
    said = "no trouble" if not troubles else f"{troubles} in trouble"
    console.print(Text(said), soft_wrap=True)
