"""Does what README and docs say hold?"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import numpy as np
import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner

import latecomer
from actors import faults
from actors.identity import join_paths
from actors.learning.models import Pretrained
from orchestrator.cli import app
from orchestrator.document import Document
from orchestrator.experiment import CHECKS, Experiment
from orchestrator.log import EVENTS_SCHEMA, OPS_SCHEMA
from orchestrator.summary import Summary
from policies.types import Address, Outcome, Reason, Version, stream
from policies.update import Base, ModelSchema, Sparse, TensorSpec
from policies.wire import Header, decode, encode, entropy_bytes, most_bytes

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def first_cells(name: str) -> set[str]:
    """Return the names in backquotes in the first column of a page's tables."""
    rows = re.findall(r"^\|([^|]*)\|", text_of(name), re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row)}


def blocks(language: str) -> list[tuple[str, str]]:
    """Return (page, text) of every fenced block in a language."""
    return [
        (page.relative_to(ROOT).as_posix(), body)
        for page in PAGES
        for found, body in BLOCK.findall(page.read_text(encoding="utf-8"))
        if found == language
    ]


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield every model inside an annotation, through unions and containers."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    origin = get_origin(annotation)
    parts = get_args(annotation)
    for part in parts[:1] if origin is Annotated else parts:
        yield from models(part)


def tree(root: type[BaseModel]) -> dict[type[BaseModel], None]:
    """Return `root` and every model below it."""
    found: dict[type[BaseModel], None] = {}
    waiting = [root]
    while waiting:
        model = waiting.pop()
        if model not in found:
            found[model] = None
            for info in model.model_fields.values():
                waiting += models(info.annotation)
    return found


def kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field else ()


TREE = tree(Experiment)


# ------------------------------------------------------------------ the reference pages


def test_the_tree_is_the_whole_experiment() -> None:
    """The walk over the models reaches the leaves: guards, profiles, own policies' siblings."""
    names = {model.__name__ for model in TREE}
    assert {"NoProgress", "Profile", "ActorResources", "TopK", "FedAvg", "PlannedFault"} <= names


@pytest.mark.parametrize("model", TREE, ids=lambda model: model.__name__)
def test_every_field_of_an_experiment_is_documented(model: type[BaseModel]) -> None:
    """Each field stands in a table, or in the prose of a section that has one member."""
    cells = {
        name.rpartition(".")[2]
        for name in set(re.findall(r"`([\w.-]+)`", text_of("experiment-file.md")))
    }
    missing = set(model.model_fields) - {"kind"} - cells
    assert not missing, f"docs/experiment-file.md lacks {missing} of {model.__name__}"


def test_every_kind_is_documented() -> None:
    """A policy's kind stands in both reference pages."""
    for model in TREE:
        for kind in kinds(model):
            for page in ("experiment-file.md", "policies.md"):
                assert f"`{kind}`" in text_of(page), f"docs/{page} lacks {kind}"


def test_every_source_is_documented() -> None:
    """A source of data stands in the reference of the file and has a line of its own."""
    sources = [
        name
        for model in TREE
        if "source" in model.model_fields
        for name in get_args(model.model_fields["source"].annotation)
    ]
    assert {"mnist5k", "table", "sotu"} <= set(sources)
    for name in sources:
        for page in ("experiment-file.md", "data.md"):
            assert f"`{name}`" in text_of(page), f"docs/{page} lacks {name}"


def test_defaults_are_those_of_the_models() -> None:
    """A plain default in a table is the model's own."""
    rows = re.findall(r"^\|.*\|$", text_of("experiment-file.md"), re.MULTILINE)
    stated: dict[str, set[str]] = {}
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        for name, default in pairwise(cells):
            if re.fullmatch(r"`\w+`", name):
                stated.setdefault(name.strip("`"), set()).add(default.strip("`"))
    for model in TREE:
        for name, info in model.model_fields.items():
            told_apart_by = name in ("kind", "source")
            if not told_apart_by and isinstance(info.default, bool | int | float | str):
                if (model.__name__, name) == ("Profile", "name"):
                    continue  # the key, says the page
                value = (
                    str(info.default).lower() if isinstance(info.default, bool) else info.default
                )
                assert str(value) in stated[name], f"{model.__name__}.{name} is {value}"


def test_every_key_of_the_summary_is_documented() -> None:
    """docs/summary.md has a row for each key, and none for keys that are gone."""
    assert first_cells("summary.md") == {field.name for field in fields(Summary)}


@pytest.mark.parametrize("schema", [EVENTS_SCHEMA, OPS_SCHEMA], ids=["events", "ops"])
def test_every_column_of_the_logs_is_documented(schema: Any) -> None:
    """docs/logs.md has a row for each column."""
    assert set(schema.names) <= first_cells("logs.md")


def test_every_event_kind_is_documented() -> None:
    """What the engine writes into the logs stands in docs/logs.md."""
    folder = ROOT / "orchestrator"
    engine = (folder / "engine").glob("*.py")
    files = [*engine, *(folder / name for name in ("journal.py", "run.py", "on_ray/crew.py"))]
    sources = "".join(file.read_text(encoding="utf-8") for file in files)
    pattern = r"(?:self\._write|_ops\.append|self\._note)\(\s*\"(\w+)\""
    written = set(re.findall(pattern, sources))
    assert {"dispatched", "committed", "control", "checkpoint", "resent"} <= written
    assert written <= first_cells("logs.md")


@pytest.mark.parametrize("word", [*Reason, *Outcome])
def test_every_reason_and_outcome_is_documented(word: str) -> None:
    """docs/logs.md names all that a verdict can say."""
    assert not word or f"`{word}`" in text_of("logs.md")


@pytest.mark.parametrize("fault", get_args(faults.Fault))
def test_every_fault_is_documented(fault: str) -> None:
    """docs/experiment-file.md names all faults of a drill."""
    assert f"`{fault}`" in text_of("experiment-file.md")


# ------------------------------------------------------------------ the worked example


def test_the_worked_example_of_the_wire_format() -> None:
    """The bytes on the page are the bytes of that update, both ways."""
    ((_, block),) = blocks("hex")
    given = bytes.fromhex("".join(line.partition("#")[0] for line in block.splitlines()))
    schema = ModelSchema(
        (TensorSpec("w", (3, 4)), TensorSpec("b", (4,)), TensorSpec("mean", (2,), buffer=True))
    )
    header = Header("delta", Address(3, 130), Version(7, 0), 50, 0.25)
    values = np.array([1, -2, 0.5, 0.5, -0.5, 4], dtype=np.float32)
    content = Sparse(np.array([2, 9, 12, 13, 14, 15]), values)
    buffers = np.array([0, 1], dtype=np.float32)

    assert encode(header, content, buffers, schema).tobytes() == given
    read = decode(np.frombuffer(given, dtype=np.uint8), schema)
    assert read.header == header
    assert read.content.densify(16).tolist() == content.densify(16).tolist()
    assert read.buffers.tolist() == [0, 1]

    bound = entropy_bytes(content, buffers, schema)
    said = f"{len(given)} bytes, where the limit is {most_bytes(schema)} and the entropy bound"
    assert f"{said} {bound:.1f}" in text_of("wire-format.md")


def test_the_limit_on_the_page_is_the_limit_of_the_reader() -> None:
    """The formula of docs/wire-format.md gives `most_bytes`."""
    schema = ModelSchema((TensorSpec("a", (100, 7)), TensorSpec("m", (9,), buffer=True)))
    tensors, parameters, buffers = 1, 700, 9
    formula = "128 + 16 T + floor(P / 4) + 4 (P + B) bytes"
    assert formula in text_of("wire-format.md")
    limit = 128 + 16 * tensors + parameters // 4 + 4 * (parameters + buffers)
    assert most_bytes(schema) == limit


# ------------------------------------------------------------------ what can be copied


@pytest.fixture(scope="module")
def own_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the pages' Python under the names that their dotted paths use."""
    folder = tmp_path_factory.mktemp("own")
    for page, body in blocks("python"):
        if "latecomer import" in body:
            continue  # no module: it is run below
        module = re.search(r'Literal\["(\w+):', body) or re.search(
            r"^# (\w+)\.py$", body, re.MULTILINE
        )
        assert module is not None, f"{page} has no dotted path in:\n{body}"
        (folder / f"{module[1]}.py").write_text(body, encoding="utf-8")
    join_paths([str(folder)])
    return folder


EXPERIMENTS = [
    (page, body) for page, body in blocks("yaml") if re.search(r"^name:", body, re.MULTILINE)
]


@pytest.mark.parametrize(("page", "body"), EXPERIMENTS)
def test_every_experiment_is_valid(page: str, body: str, own_code: Path) -> None:
    """An experiment on a page passes all checks as it stands."""
    del own_code
    document = Document.parse(body, page)
    skip_what_lacks(document)
    experiment = document.validate(Experiment, CHECKS)
    assert experiment.model.parameters(experiment.data.shape()) > 0


def skip_what_lacks(document: Document) -> None:
    """Skip an experiment whose encoder's package is not installed here."""
    model = document.data.get("model", {})
    if model.get("kind") == "pretrained":
        lost = Pretrained.model_validate(model).missing()
        if lost is not None:
            pytest.skip(lost)


PARTS = [
    (page, body) for page, body in blocks("yaml") if not re.search(r"^name:", body, re.MULTILINE)
]


def run_shortly(document: Document, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Summary:
    """Run two versions of an experiment, in this process, from `folder`."""
    skip_what_lacks(document)
    monkeypatch.chdir(folder)
    document.override(("stop={versions: 2}", "tracking.enabled=false", "kpis={}"), Experiment)
    experiment = document.validate(Experiment, CHECKS)
    return latecomer.run(experiment, out=folder / "run", in_process=True).summary


@pytest.mark.parametrize(("page", "body"), EXPERIMENTS)
def test_every_experiment_runs(
    page: str, body: str, own_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two versions of every experiment on a page come out."""
    del own_code
    assert run_shortly(Document.parse(body, page), tmp_path, monkeypatch).versions == 2


@pytest.mark.parametrize(("page", "body"), PARTS)
def test_every_part_of_an_experiment_runs(
    page: str, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A section on a page does in place of another experiment's; CSV on the page is its file."""
    _, whole = EXPERIMENTS[[name for name, _ in EXPERIMENTS].index("README.md")]
    document = Document.parse(body, page)
    base = Document.parse(whole, page).data
    document.data = base | {n: base.get(n, {}) | part for n, part in document.data.items()}
    files = re.findall(r"path: (\w+\.csv)", (ROOT / page).read_text(encoding="utf-8"))
    for name, (_, rows) in zip(files, [b for b in blocks("csv") if b[0] == page], strict=True):
        (tmp_path / name).write_text(rows, encoding="utf-8")
    assert run_shortly(document, tmp_path, monkeypatch).versions == 2


def test_the_python_on_the_pages_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page does with `latecomer` in Python works as it stands, from the project's folder."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    found = [(page, body) for page, body in blocks("python") if "latecomer import" in body]
    found.sort(key=lambda block: block[0] != "docs/python.md")  # what it makes others look at
    assert len(found) >= 3
    for page, body in found:
        exec(compile(body, page, "exec"), {"__name__": page})  # noqa: S102  # our own pages
    assert (tmp_path / "runs" / "notebook" / "summary.json").exists()


def test_there_are_experiments_to_copy() -> None:
    """The README holds one to begin with and one for each thing of one's own."""
    assert sum(page == "README.md" for page, _ in EXPERIMENTS) >= 4


def test_the_policy_to_copy_does_what_it_says(own_code: Path) -> None:
    """The page's own uplink sends half, and is unbiased over its two choices."""
    del own_code
    uplink = import_module("half").RandomHalf()
    schema = ModelSchema((TensorSpec("w", (8,)),))
    weights, base = np.arange(8, dtype=np.float32), np.ones(8, dtype=np.float32)
    state = uplink.start(schema)
    seen = {}
    for number in range(20):
        rng = stream(0, "compress", 0, number)
        sent, state = uplink.compress(weights, Base(base, schema), state, rng)
        assert 32 * sent.nonzeros >= uplink.least_bits(schema)
        assert sent.values.dtype == np.float32
        seen[int(sent.positions[0])] = sent.densify(8)
    assert (sum(seen.values()) / 2).tolist() == (weights - base).tolist()


def test_the_mistakes_on_the_readme_are_those_of_the_command() -> None:
    """The first experiment with its two typos gives the messages that the README shows."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, body = EXPERIMENTS[[page for page, _ in EXPERIMENTS].index("README.md")]
    wrong = body.replace("budget-phone", "budget-fone").replace("concurrency", "concurency")
    with pytest.raises(Exception, match="budget-fone") as caught:
        Document.parse(wrong, "first.yaml").validate(Experiment, CHECKS)
    shown = [line.strip() for line in readme.splitlines() if line.strip().startswith("first.yaml:")]
    assert len(shown) == 2
    assert str(caught.value).splitlines() == shown


# ------------------------------------------------------------------ links and commands


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """Files exist, and so do the headings that links name."""
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in map(anchor, headings), f"{page.name}: {target}"


def commands() -> list[tuple[str, str]]:
    """Return (page, command) of every call of latecomer, in blocks and between backquotes."""
    found: dict[tuple[str, str], None] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        indented = re.findall(r"^ {4,}(.*)$", text, re.MULTILINE)
        inline = re.findall(r"`([^`\n]+)`", text)
        for line in [*indented, *inline]:
            call = re.search(
                r"(?:^|[\s/])(?:latecomer|-m orchestrator) +(\w.*|--\w.*)$", line.strip()
            )
            if call and not line.startswith("interrupted"):
                found[page.relative_to(ROOT).as_posix(), call[1].partition("  #")[0]] = None
    return list(found)


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_parses(page: str, command: str) -> None:
    """The subcommand exists, and so do the options; nothing is run."""
    words = shlex.split(command.partition(" > ")[0], comments=True)
    result = CliRunner().invoke(app, [words[0], "--help"])
    assert result.exit_code == 0, f"{page}: latecomer {command}"
    parser = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    parser.make_context(words[0], words[1:], resilient_parsing=False)


LIVE = {"status", "pause", "resume", "stop", "rollback", "leave", "join", "fetch"}
"""Commands that need a run under way, or the network; tests of their own call them."""


def callable_here(command: str) -> bool:
    """Say whether a command needs nothing but files of its page: no Ray, server, run to resume."""
    words = command.split()
    elsewhere = ("--address", "--resume", "http", "...", "first-1", "RUN")
    named_alone = words[0] == "run" and (len(words) == 1 or words[1].startswith("--"))
    in_vain = named_alone or words[0] in LIVE
    return not in_vain and not any(word in command for word in elsewhere)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files and runs that the pages' commands name."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "experiments").symlink_to(ROOT / "experiments")
    for page, body in EXPERIMENTS:
        name = re.search(r"^name: (\S+)$", body, re.MULTILINE)
        assert name is not None, page
        quiet = body if "tracking:" in body else f"{body}tracking: {{enabled: false}}\n"
        (folder / f"{name[1]}.yaml").write_text(quiet, encoding="utf-8")
    (folder / "FILE").write_text((folder / "first.yaml").read_text(encoding="utf-8"))
    experiment, _ = latecomer.read(folder / "first.yaml", ("stop.versions=4",))
    for name in ("a-20260101-120000", "b-20260101-121500"):
        latecomer.run(experiment, out=folder / "runs" / name, in_process=True)
    return folder


@pytest.mark.parametrize(("page", "command"), [c for c in commands() if callable_here(c[1])])
def test_every_command_runs(
    page: str, command: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends well where its page's files are; a run makes two versions, in this process."""
    monkeypatch.chdir(place)
    words = shlex.split(command.partition(" > ")[0], comments=True)
    if words[0] == "run":
        words = [w for w in words if w != "--check-kpis"]
        words += ["--set", "stop={versions: 2}", "--set", "tracking.enabled=false", "--in-process"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, f"{page}: latecomer {command}\n{result.output}"
    assert result.output.strip()


def test_commands_are_found() -> None:
    """The search sees the pages' commands, so that the tests above mean something."""
    names = {command.split()[0] for _, command in commands()}
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert names == known
    run = {command.split()[0] for _, command in commands() if callable_here(command)}
    assert run == known - LIVE
