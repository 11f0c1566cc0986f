"""What can be typed?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from policies.types import ExperimentError, LatecomerError

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
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, as it printed it.")]
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
    out: Annotated[Path | None, typer.Option(help="The run's folder; new by default.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Pooled actors.")] = None,
    address: Address = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
) -> None:
    """Run an experiment, or go on with one."""
    from orchestrator.experiment import read  # noqa: PLC0415  # pydantic, late

    console = Console()
    if (file is None) == (resume is None):
        raise ExperimentError("run takes an experiment file, or --resume and a run's folder.")
    if resume is not None:
        if overrides or out:
            raise ExperimentError(
                "--resume goes on with a run as it is. Leave out --set and --out."
            )
        file = resume / "experiment.yaml"
        if not file.exists():
            raise ExperimentError(f"{resume} holds no run: there is no experiment.yaml in it.")
    assert file is not None  # noqa: S101  # one of the two was given
    experiment, notes = read(file, tuple(overrides or ()))
    for note in notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    from orchestrator import run as runs  # noqa: PLC0415  # Arrow and Matplotlib, late

    folder = resume or out or runs.fresh_folder(experiment)
    _check_job(folder if resume or out else None, experiment.tracking.uri)
    request = runs.Request(
        experiment,
        folder,
        address=address,
        workers=workers,
        resume=resume is not None,
        paths=_own_paths(file, folder),
    )
    try:
        summary = runs.run(request, console)
    except runs.Killed as killed:
        raise SystemExit(killed.exit_code) from None
    from orchestrator.result import show  # noqa: PLC0415

    show(summary, folder, experiment, console)


def _own_paths(file: Path, folder: Path) -> list[str]:
    """Return where the user's own modules are; a resumed run remembers where it came from."""
    note = folder / "paths.txt"
    if note.exists():
        return note.read_text(encoding="utf-8").splitlines()
    paths = [str(file.resolve().parent)]
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text("\n".join(paths) + "\n", encoding="utf-8")
    return paths


def _check_job(folder: Path | None, uri: str | None) -> None:
    """Refuse locations that go with a Ray job's working folder."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return
    if folder is None or not folder.is_absolute():
        raise ExperimentError(
            "in a Ray job --out and --resume must be absolute: the job's working folder goes with "
            f"it. Got {folder}."
        )
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    relative = uri is None or (uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"))
    if relative:
        raise ExperimentError(
            "in a Ray job MLflow must be a server or an absolute sqlite path: the job's working "
            f"folder goes with it. Got {uri}. Give MLFLOW_TRACKING_URI in --runtime-env-json."
        )


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


def _tell(run: str, command: str, address: str) -> None:
    from orchestrator.control import call  # noqa: PLC0415  # Ray takes a second to import
    from orchestrator.progress import line  # noqa: PLC0415

    figures = call(run, command, address)
    if command != "status":
        Console().print(f"{command} is posted to {run}", highlight=False)
    if "version" in figures:
        Console().print(line(figures), highlight=False, markup=False)
    else:
        Console().print(figures.get("state", ""), highlight=False)


if __name__ == "__main__":
    main()
