"""Are accuracy, loss and recall what they are by hand?"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from actors.learning.evaluation_torch import Evaluation, evaluate
from policies.types import ExperimentError

LOGITS = torch.tensor([[2.0, 0, 0], [0, 1, 0], [3, 0, 1], [0, 0.5, 0]])
LABELS = torch.tensor([0, 1, 1, 1])


def test_figures_by_hand() -> None:
    """Three of four are right; class 1 is found twice in three; class 2 has no example."""
    found = evaluate(nn.Identity(), LOGITS, LABELS, classes=3)
    assert found.accuracy == 0.75
    assert found.support == (1, 3, 0)
    assert found.recall[:2] == (1.0, 2 / 3)
    assert math.isnan(found.recall[2])
    assert found.loss == pytest.approx(float(functional.cross_entropy(LOGITS, LABELS)))


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_change_nothing_but_rounding(batch_size: int) -> None:
    """The last batch may be short; every example counts once."""
    whole = evaluate(nn.Identity(), LOGITS, LABELS, classes=3)
    found = evaluate(nn.Identity(), LOGITS, LABELS, classes=3, batch_size=batch_size)
    assert (found.accuracy, found.support) == (whole.accuracy, whole.support)
    assert found.loss == pytest.approx(whole.loss, rel=1e-12)


def test_the_loss_is_summed_in_float64() -> None:
    """A float32 sum of many equal terms drifts; this one does not."""
    n = 50_000
    found = evaluate(nn.Identity(), torch.zeros(n, 3), torch.zeros(n, dtype=torch.int64), 3, 7)
    assert found.loss == pytest.approx(math.log(3), rel=1e-13)


def a_net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def test_the_module_comes_back_as_it_was() -> None:
    """Modes part by part, buffers and gradients: an evaluation leaves no trace."""
    module = a_net().train()
    module[1].eval()  # a frozen norm stays frozen
    before = {name: value.clone() for name, value in module.state_dict().items()}
    evaluate(module, LOGITS, LABELS, classes=3)
    assert [part.training for part in module.modules()] == [True, True, False, True, True]
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_dropout_is_off_and_equal_calls_give_equal_bits() -> None:
    """An evaluation is repeatable and draws no random number."""
    module = a_net().train()
    state = torch.random.get_rng_state()
    first, second = (evaluate(module, LOGITS, LABELS, classes=3).loss for _ in range(2))
    assert first == second
    assert torch.equal(state, torch.random.get_rng_state())


class Breaks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError(f"no {tuple(x.shape)}")


def test_modes_are_restored_after_a_failure() -> None:
    """A model that fails is left as it was."""
    module = nn.Sequential(Breaks()).train()
    with pytest.raises(RuntimeError, match=r"no \(4, 3\)"):
        evaluate(module, LOGITS, LABELS, classes=3)
    assert all(part.training for part in module.modules())


def test_no_graph_is_kept() -> None:
    """Gradients are off while the model runs."""
    seen: list[bool] = []
    module = nn.Identity()
    module.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    evaluate(module, LOGITS, LABELS, classes=3, batch_size=2)
    assert seen == [False, False]


def test_a_diverged_model_is_a_figure_and_no_error() -> None:
    """NaN comes out as the loss, for a guard to see."""
    found = evaluate(nn.Identity(), LOGITS * math.nan, LABELS, classes=3)
    assert isinstance(found, Evaluation)
    assert math.isnan(found.loss)


@pytest.mark.parametrize(
    ("x", "y", "classes", "message"),
    [
        (LOGITS[:0], LABELS[:0], 3, "one or more examples, got 0"),
        (LOGITS, LABELS[:2], 3, r"got 4 examples and labels of shape \(2,\)"),
        (LOGITS, LABELS, 1, r"labels must lie in \[0, 1\), got 0 to 1"),
        (LOGITS, LABELS - 1, 3, "got -1 to 0"),
        (LOGITS, LABELS, 4, r"logits of shape \(4, 4\), got \(4, 3\)\. Build it for 4"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    x: Tensor, y: Tensor, classes: int, message: str
) -> None:
    """The error names the shapes."""
    with pytest.raises(ExperimentError, match=message):
        evaluate(nn.Identity(), x, y, classes)
