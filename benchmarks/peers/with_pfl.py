"""How fast is pfl-research, with its simulated backend on torch?

`FederatedAveraging` over a `SimulatedBackend`. Fast path: one model in each process that every
client overwrites, users' tensors in memory, no central evaluation. More than one process by
`torchrun`, as its documentation says, with gloo; each trains its part of the cohort and the sums
are reduced.

Differs from latecomer: rounds of ten clients; no clock, no log, no server process, no message; the
users' batches come in the same order each time. Its first round measures the loss before and after
training, which no evaluation frequency turns off.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn
from work import BATCH, COHORT, LR, Marks, asked, examples, network

NEVER = 10**9


class Network(nn.Module):
    """The network with the two methods that pfl asks for."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self._net = network(model)
        self._loss_of = nn.CrossEntropyLoss()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        out: torch.Tensor = self._net(x)
        return out

    def loss(self, x: torch.Tensor, y: torch.Tensor, **_: Any) -> torch.Tensor:
        """Return the loss of a batch."""
        out: torch.Tensor = self._loss_of(self(x), y)
        return out

    @torch.no_grad()
    def metrics(self, x: torch.Tensor, y: torch.Tensor, **_: Any) -> dict[str, Weighted]:
        """Return what the first round wants to know."""
        return {"loss": Weighted(self.loss(x, y).item() * len(x), len(x))}


class Counted(TrainingProcessCallback):  # type: ignore[misc]
    """Notes how many users pfl says that a round had."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Note a round."""
        del model, central_iteration
        users = {
            str(name): value
            for name, value in aggregate_metrics
            if "number of devices" in str(name)
        }
        trained = next(value for name, value in users.items() if "train" in name.lower())
        self._marks.made(int(getattr(trained, "overall_value", trained)))
        return False, Metrics()


def main() -> None:
    """Run."""
    task = asked()
    np.random.seed(0)  # noqa: NPY002  # pfl draws users with it, in all processes alike
    x, y = examples()
    users = [Dataset(raw_data=[x[user], y[user]], user_id=user) for user in range(task.clients)]
    data = FederatedDataset(users.__getitem__, get_user_sampler("random", range(task.clients)))
    net = Network(task.model)
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    marks = Marks()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=task.updates // COHORT,
            evaluation_frequency=NEVER,
            train_cohort_size=COHORT,
            val_cohort_size=0,
        ),
        SimulatedBackend(data, data),
        model,
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=LR, local_batch_size=BATCH),
        callbacks=[Counted(marks)],
        send_metrics_to_platform=False,
    )
    if os.environ.get("RANK", "0") == "0":
        marks.report(int(os.environ.get("WORLD_SIZE", "1")))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        sys.stdout.flush()
        os._exit(0)  # at an ordinary end threads of gloo abort the process now and then


if __name__ == "__main__":
    main()
