"""What can be typed?"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from policies.types import ExperimentError, LatecomerError

if TYPE_CHECKING:
    from orchestrator.request import Request

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Asynchronous federated learning on Ray.",
)

File = Annotated[Path, typer.Argument(help="An experiment file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override; repeatable.")
]
Address = Annotated[
    str | None, typer.Option(help="A running Ray: auto, or host:port. Without it one is started.")
]
MlflowUri = Annotated[
    str | None, typer.Option(help="MLflow server or database; MLFLOW_TRACKING_URI by default.")
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, as it printed it.")]
Client = Annotated[int, typer.Argument(min=0, metavar="CLIENT", help="A client's number.")]
RunAddress = Annotated[str, typer.Option("--address", help="The Ray that the run is on.")]


def main() -> None:
    """Run the command; what a user did wrong is said without a traceback."""
    try:
        app()
    except LatecomerError as error:
        _fail(str(error), 2 if isinstance(error, ExperimentError) else 1)


def _fail(text: str, code: int) -> NoReturn:
    Console(stderr=True).print(text, style="red", highlight=False, markup=False, soft_wrap=True)
    raise SystemExit(code)


@app.command()
def run(
    file: Annotated[Path | None, typer.Argument(help="An experiment file.")] = None,
    overrides: Overrides = None,
    out: Annotated[
        str | None, typer.Option(help="The run's folder, or its URL; new by default.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Pooled actors; with --in-process, processes that train."),
    ] = None,
    address: Address = None,
    resume: Annotated[
        str | None, typer.Option(help="Go on with the run in this folder, or at this URL.")
    ] = None,
    check_kpis: Annotated[
        bool, typer.Option("--check-kpis", help="Exit with 3 if a KPI is not met.")
    ] = False,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Without Ray, all in this process.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show in the report where the time went.")
    ] = False,
) -> None:
    """Run an experiment, or go on with one."""
    from orchestrator import request as requests  # noqa: PLC0415  # pydantic, late

    console = Console()
    if in_process and address:
        raise ExperimentError(
            "--in-process does without Ray, which --address is about. Leave one out."
        )
    if (file is None) == (resume is None):
        raise ExperimentError("run takes an experiment file, or --resume and a run's folder.")
    if file is not None:
        wanted, notes = requests.new(file, overrides or [], out)
        for note in notes:
            console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    elif overrides or out:
        raise ExperimentError("--resume goes on with a run as it is. Leave out --set and --out.")
    else:
        wanted = requests.again(resume or "")
    wanted = replace(
        wanted, address=address, workers=workers, in_process=in_process, profile=profile
    )
    if check_kpis and not wanted.experiment.kpis:
        raise ExperimentError(
            "--check-kpis finds no kpis in the experiment. Name some, such as "
            "kpis: {accuracy: '>= 85 %'}, or leave --check-kpis out."
        )
    from orchestrator import run as runs  # noqa: PLC0415  # Arrow and Matplotlib, late
    from orchestrator.result import show  # noqa: PLC0415

    try:
        summary = runs.run(wanted, console)
    except runs.Killed as killed:
        _clear(wanted)
        raise SystemExit(killed.exit_code) from None
    show(summary, wanted.where, wanted.experiment, console)
    _clear(wanted)
    if check_kpis and not all(kpi["met"] for kpi in summary.kpis.values()):
        raise SystemExit(3)


def _clear(wanted: Request) -> None:
    """Remove a folder of this machine if all of it is kept elsewhere."""
    if wanted.elsewhere is not None and wanted.elsewhere.whole:
        shutil.rmtree(wanted.out.parent)


@app.command()
def validate(
    file: File,
    overrides: Overrides = None,
) -> None:
    """Print the resolved experiment, or every mistake with its line."""
    from orchestrator.document import to_yaml  # noqa: PLC0415
    from orchestrator.experiment import read  # noqa: PLC0415

    experiment, notes = read(file, tuple(overrides or ()))
    for note in notes:
        print(f"# {note}")  # noqa: T201  # YAML, for pipes
    shape = experiment.data.shape()
    parameters = experiment.model.parameters(shape)
    print(f"# {file.name} is valid: {parameters:,} parameters, {shape.train:,} examples")  # noqa: T201
    sys.stdout.write(to_yaml(experiment))


@app.command()
def schema() -> None:
    """Print the JSON schema of experiment files, for editors."""
    from orchestrator.experiment import json_schema  # noqa: PLC0415

    sys.stdout.write(json_schema())


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN ...",
            help="Runs' folders, folders of such, MLflow run ids or names, experiment:NAME.",
        ),
    ],
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures, too.")] = None,
    mlflow_uri: MlflowUri = None,
    sort: Annotated[str | None, typer.Option(metavar="KEY", help="What comes first.")] = None,
    target: Annotated[
        float | None, typer.Option(help="Accuracy to reach; 95 % of the best by default.")
    ] = None,
) -> None:
    """Put runs side by side: accuracy, time, bytes and energy; seeds are averaged over."""
    from orchestrator.views import compare as comparing  # noqa: PLC0415  # Arrow, late

    console = Console()
    found = comparing.compare(runs, uri=mlflow_uri, sort=sort, target=target)
    if html is not None:
        comparing.write(found, html)
    comparing.show(found, console)
    if html is not None:
        console.print(f"page     {html}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def fleet(
    file: File,
    overrides: Overrides = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the clients before anything runs: devices, absences, data, and what work takes."""
    from orchestrator.experiment import read  # noqa: PLC0415  # pydantic, late

    experiment, notes = read(file, tuple(overrides or ()))
    from orchestrator.views import fleet_view, fleet_view_show  # noqa: PLC0415  # torch, late

    view = fleet_view.look(experiment)
    if html is not None:
        fleet_view_show.write(view, html)
    if as_json:
        sys.stdout.write(fleet_view_show.as_json(view))
        return
    console = Console()
    fleet_view_show.show(view, console)
    for note in notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    if html is not None:
        console.print(f"page     {html}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def doctor(
    file: Annotated[
        Path | None, typer.Argument(help="An experiment file that is to fit here.")
    ] = None,
    address: Address = None,
    mlflow_uri: MlflowUri = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look for what would keep a run from working, and say the way out."""
    from orchestrator.doctor import examination as doctors  # noqa: PLC0415  # numpy, late

    findings = doctors.examine(file, address=address, uri=mlflow_uri)
    doctors.show(findings, Console(), as_json=as_json)
    if any(finding.level == "trouble" for finding in findings):
        raise SystemExit(1)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A data source.")],
    to: Annotated[Path | None, typer.Option(help="Folder; a cache by default.")] = None,
) -> None:
    """Get a data set, or say how."""
    from orchestrator.doctor import fetch as fetching  # noqa: PLC0415  # pydantic, late

    print(fetching.fetch(name, to))  # noqa: T201  # a line for the file, also in a pipe


@app.command()
def status(run: RunId, address: RunAddress = "auto") -> None:
    """Show what a run is doing."""
    _tell(run, "status", address)


@app.command()
def pause(run: RunId, address: RunAddress = "auto") -> None:
    """Let a run wait before its next event."""
    _tell(run, "pause", address)


@app.command()
def resume(run: RunId, address: RunAddress = "auto") -> None:
    """Let a paused run go on."""
    _tell(run, "resume", address)


@app.command()
def stop(run: RunId, address: RunAddress = "auto") -> None:
    """End a run as if it had done enough: its results are written."""
    _tell(run, "stop", address)


@app.command()
def rollback(run: RunId, address: RunAddress = "auto") -> None:
    """Publish a run's best version again; what is under way from others is superseded."""
    _tell(run, "rollback", address)


@app.command()
def leave(run: RunId, client: Client, address: RunAddress = "auto") -> None:
    """Take a client out of a run: it is not asked any more; what it has under way goes on."""
    _tell(run, f"leave {client}", address)


@app.command()
def join(run: RunId, client: Client, address: RunAddress = "auto") -> None:
    """Take a client that left into the run again."""
    _tell(run, f"join {client}", address)


def _tell(run: str, command: str, address: str) -> None:
    from orchestrator.on_ray.control import call  # noqa: PLC0415  # Ray takes a second to import
    from orchestrator.progress import line  # noqa: PLC0415

    figures = call(run, command, address)
    if command != "status":
        print(f"{command} is posted to {run}")  # noqa: T201  # one line, also in a pipe
    print(line(figures) if "version" in figures else figures["state"])  # noqa: T201


if __name__ == "__main__":
    main()
