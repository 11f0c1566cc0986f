"""How fast is APPFL's virtual-time simulator, vsim?

`AsyncSimDriver` with its FedBuff of ten and 32 clients in flight; it trains one client after the
other in one process. Fast path: `optimize_memory` off wherever it can be, which otherwise calls the
garbage collector several times an update; no validation, no log on the console.

Differs from latecomer: a model and a trainer for each client; batches by torch's DataLoader, one
example at a time; weights travel whole.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

from work import BATCH, COHORT, LR, SHARDS, Marks, Task, asked, examples

# Its readiness reports judge images with piq, which wants a torchvision; nothing here asks for one.
sys.modules["piq"] = types.SimpleNamespace(  # type: ignore[assignment]
    brisque=None, total_variation=None
)

from appfl.agent import SimClientAgent, SimServerAgent  # noqa: E402
from appfl.vsim import AsyncSimDriver, ClientProfile  # noqa: E402
from torch.utils.data import TensorDataset  # noqa: E402

MODEL = """
from work import network

def build(model):
    return network(model)
"""
METRIC = """
def accuracy(true, predicted):
    return (predicted.argmax(axis=1) == true).mean()
"""


class Server(SimServerAgent):  # type: ignore[misc]
    """Notes the updates that arrive."""

    marks = Marks()

    def global_update(self, *arguments: Any, **named: Any) -> Any:
        """Aggregate as ever, and count."""
        out = super().global_update(*arguments, **named)
        self.marks.made()
        return out


def settings(task: Task, *, collect: bool) -> dict[str, Any]:
    """Return what server and clients are told.

    Args:
        task: What is asked.
        collect: Leave garbage to be collected at every step, as it comes.
    """
    memory = {"optimize_memory": collect}
    return {
        "client_configs": {
            "train_configs": {
                "trainer": "VanillaTrainer",
                "mode": "epoch",
                "num_local_epochs": 1,
                "optim": "SGD",
                "optim_args": {"lr": LR},
                "loss_fn": "CrossEntropyLoss",
                "metric_path": "metric.py",
                "metric_name": "accuracy",
                "train_batch_size": BATCH,
                "train_data_shuffle": True,
                "do_validation": False,
                "device": "cpu",
                **memory,
            },
            "model_configs": {
                "model_path": "model.py",
                "model_kwargs": {"model": task.model},
            },
            **memory,
        },
        "server_configs": {
            "device": "cpu",
            "num_clients": task.clients,
            "num_global_epochs": task.updates,
            "scheduler": "AsyncScheduler",
            "scheduler_kwargs": {"num_clients": task.clients, **memory},
            "aggregator": "FedBuffAggregator",
            "aggregator_kwargs": {
                "K": COHORT,
                "num_clients": task.clients,
                "client_weights_mode": "equal",
                "staleness_fn": "polynomial",
                "staleness_fn_kwargs": {"a": 0.5},
                "alpha": 1.0,
                **memory,
            },
            **memory,
        },
    }


def run(task: Task, *, collect: bool) -> None:
    """Make server and clients, and train."""
    Path("model.py").write_text(MODEL, encoding="utf-8")
    Path("metric.py").write_text(METRIC, encoding="utf-8")
    asked_for = settings(task, collect=collect)
    x, y = examples()
    server = Server(asked_for, num_clients=task.clients)
    clients = [
        SimClientAgent(
            asked_for["client_configs"],
            client_id=str(client),
            client_dataset=TensorDataset(x[client % SHARDS], y[client % SHARDS]),
        )
        for client in range(task.clients)
    ]
    draw = random.Random(0)
    profiles = {client.get_id(): ClientProfile(draw.uniform(0.5, 2.0)) for client in clients}
    driver = AsyncSimDriver(
        server, clients, profiles, task.in_flight, logging.getLogger("vsim"), base_step_time=1.0
    )
    driver.run()
    if not all(driver.verify(task.updates).values()):
        raise SystemExit(f"vsim finds fault with itself: {driver.verify(task.updates)}")
    Server.marks.report(processes=1)


def main() -> None:
    """Run in a folder of its own: APPFL writes logs where it stands."""
    task = asked()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run(task, collect="--collect" in sys.argv)


if __name__ == "__main__":
    main()
