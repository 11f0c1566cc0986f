"""A model of linear layers that can be cut in three, for tests."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from actors.learning.examples import DataShape
from actors.learning.modelling import ModelPolicy, linear_flops, linear_parameters
from policies.splitting import Ends
from policies.training import Task, Trained, TrainingPolicy
from policies.types import ExperimentError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from policies.training.flat_torch import FlatModel


class Parts(ModelPolicy):
    """An embedding, two blocks, a pool and a tail, each one linear layer."""

    kind: str = "split_nets:Parts"
    head: Literal["frozen", "trained"] = "trained"
    body: Literal["frozen", "trained", "second"] = "trained"
    width: int = 7

    def widths(self, shape: DataShape) -> tuple[int, ...]:
        """Return the width before, between and after the layers."""
        inside = (self.width - 2, self.width, self.width, 3)
        return (math.prod(shape.input), *inside, shape.classes)

    def parameters(self, shape: DataShape) -> int:
        """Return weights and biases of all layers."""
        return linear_parameters(self.widths(shape))

    def forward_flops(self, shape: DataShape) -> int:
        """Return those of all layers."""
        return linear_flops(self.widths(shape))

    def activation_bytes(self, shape: DataShape) -> int:
        """Return the bytes of every layer's input."""
        return 4 * sum(self.widths(shape))

    def ends(self, shape: DataShape, blocks: int = 0) -> Ends:
        """Return how it is cut behind some blocks; a trained one cannot be before the cut."""
        if blocks > {"trained": 0, "second": 1, "frozen": 3}[self.body]:
            raise ExperimentError(f"block {blocks} is trained, or there is none")
        widths = self.widths(shape)
        head, tail = linear_parameters(widths[:2]), linear_parameters(widths[4:])
        equipment = linear_parameters(widths[1 : 2 + blocks])
        trained = self.head == "trained"
        return Ends(
            smashed=(widths[1 + blocks],),
            features=widths[4],
            head_flops=linear_flops(widths[: 2 + blocks]),
            body_flops=linear_flops(widths[1 + blocks : 5]),
            tail_flops=linear_flops(widths[4:]),
            head_trained=trained,
            encoder_trained=self.body != "frozen",
            blocks=blocks,
            whole=blocks == 3,
            equipment_bytes=4 * (equipment + (0 if trained else head)),
            parameters=tail + trained * head,
            activation_bytes=4 * sum(pair[0] for pair in pairwise(widths[: 3 + blocks])),
            tail_parameters=tail,
        )

    def build(self, shape: DataShape) -> nn.Module:
        """Return the module."""
        from torch import nn

        a, b, c, d, e, f = self.widths(shape)

        class Whole(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                s = self.embedding(x)
                for block in self.blocks:
                    s = block(s)
                logits: Tensor = self.tail(self.pool(s))
                return logits

        whole = Whole()
        whole.embedding = nn.Sequential(nn.Flatten(), nn.Linear(a, b), nn.Tanh())
        whole.blocks = nn.ModuleList([nn.Sequential(nn.Linear(b, c), nn.Tanh()), nn.Linear(c, d)])
        whole.pool = nn.Linear(d, e)
        whole.tail = nn.Sequential(nn.Linear(e, f))
        whole.embedding.requires_grad_(self.head == "trained")
        whole.blocks.requires_grad_(self.body == "trained")
        whole.pool.requires_grad_(self.body == "trained")
        if self.body == "second":
            whole.blocks[1].requires_grad_(True)
        return whole


class OwnTraining(TrainingPolicy):
    """Trains in a way of its own."""

    kind: str = "split_nets:OwnTraining"

    def train(self, model: FlatModel, x: Tensor, y: Tensor, task: Task) -> Trained:
        """Train nothing."""
        del model, x, task
        return Trained(0.0, len(y))
