"""Is a mistake in the data told once, where it was made, and nothing that only follows from it?"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from orchestrator.document import Document
from orchestrator.experiment import CHECKS, Experiment
from policies.types import ExperimentError

FILE = """\
name: x
data: {data}
model: {model}
fleet: {{mix: [{{profile: budget-phone}}]}}
method: {{}}
stop: {{versions: 1}}
"""
OWN = """
import numpy as np


def raises():
    return {}["nope"]


def nobody():
    x, y = np.zeros((4, 2)), [0, 1, 0, 1]
    return {"x_train": x, "y_train": y, "x_test": x, "y_test": y}


def model(shape):
    raise RuntimeError("no")
"""
NATURAL = "partition: {kind: natural}"
TABLE = "source: table, path: {path}, target: y"


def mistakes(data: str, model: str = "{kind: logistic}") -> list[str]:
    """Return the lines of the error."""
    with pytest.raises(ExperimentError) as caught:
        Document.parse(FILE.format(data=data, model=model), "x.yaml").validate(Experiment, CHECKS)
    return str(caught.value).splitlines()


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put tables and a module `own_mistakes` where the tests find them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_mistakes", raising=False)
    (tmp_path / "own_mistakes.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "empty.csv").write_text("a,y,c\n", encoding="utf-8")
    (tmp_path / "gap.csv").write_text("a,y,c\n1,p,k\n2,,l\n", encoding="utf-8")
    (tmp_path / "good.csv").write_text("a,y,c\n" + "1,p,k\n2,q,l\n" * 20, encoding="utf-8")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (f"{TABLE.format(path='gone.csv')}, client: c, {NATURAL}", "data.path gone.csv was looked"),
        (f"{TABLE.format(path='empty.csv')}, client: c, {NATURAL}", "data.path: .*empty.csv has a"),
        (f"{TABLE.format(path='gap.csv')}, client: c, {NATURAL}", "data.path: 1 of 2 rows have no"),
        (f"{TABLE.format(path='good.csv')}, {NATURAL}", "data.partition natural .*data.client"),
        (f"source: table, target: y, client: c, {NATURAL}", "data.path is missing. Add it."),
        (f"source: digits, train_examples: 5000, {NATURAL}", "data.train_examples must not exceed"),
        (f"source: 'own_mistakes:nobody', {NATURAL}", "data.partition natural .*clients_train"),
        (
            f"source: 'own_mistakes:raises', {NATURAL}",
            "data.source: own_mistakes:raises raised Key",
        ),
        (
            "source: silos, call: 'gone:f', clients: [a], input: [2], classes: 2",
            "data.call: gone:f",
        ),
    ],
)
def test_nobody_asks_for_the_number_of_clients_that_the_data_knows(data: str, words: str) -> None:
    """It follows from the mistake in the data, which is the only one told."""
    (line,) = mistakes(f"{{{data}}}")
    assert line.startswith("x.yaml:2: ")
    assert re.search(words, line), line


def test_who_does_not_say_how_many_clients_there_are_is_asked() -> None:
    """For data that anybody may share."""
    assert mistakes("{source: digits}") == ["x.yaml:4: fleet.clients is missing. Add it."]


def test_a_default_that_depends_on_a_mistake_is_no_mistake() -> None:
    """A wrong depth is told, and no width that would follow from it."""
    found = mistakes("{source: digits}", "{kind: resnet, depth: 34}")
    assert found[0] == "x.yaml:3: model.depth has no choice 34. Choose one of 8, 18."
    assert not [line for line in found if "width" in line]


def test_a_model_of_the_users_own_that_raises_is_one_clear_error() -> None:
    """With the line of the file and the line of the module."""
    text = FILE.replace("fleet: {{", "fleet: {{clients: 4, ")
    text = text.format(data="{source: digits}", model="{kind: 'own_mistakes:model'}")
    with pytest.raises(ExperimentError, match=r"x\.yaml:3: model: own_mistakes:model raised Runti"):
        Document.parse(text, "x.yaml").validate(Experiment, CHECKS)


def test_a_cut_file_is_blamed_on_the_folder(tmp_path: Path) -> None:
    """Not on the number of examples that are asked for."""
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        (tmp_path / name).write_bytes(bytes(3073 * 3))
    text = FILE.replace("fleet: {{", "fleet: {{clients: 4, ")
    text = text.format(
        data=f"{{source: cifar10, root: {tmp_path}, train_examples: 9}}", model="{kind: logistic}"
    )
    with pytest.raises(ExperimentError, match=r"^x\.yaml:2: data\.root: .*is damaged") as caught:
        Document.parse(text, "x.yaml").validate(Experiment, CHECKS)
    assert len(str(caught.value).splitlines()) == 1
