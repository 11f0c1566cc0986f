"""How fast is Flower, in its simulation on Ray?

The message API with strategies (`flwr.serverapp`), one virtual client a message. Fast path: one CPU
a client, so that every CPU has an actor (the default of two halves them); examples and the network
stay in the actor from one message to the next; no evaluation; Ray without a dashboard. Called by
`run_simulation`, which spares the building and installing of an app that `flwr run` does.

Differs from latecomer: rounds of ten clients that wait for the last, so ten in flight; no clock, no
log of what happened.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn
from work import BATCH, COHORT, LR, SAMPLES, SHARDS, Marks, Task, asked, examples, network

client = ClientApp()


@cache
def held(model: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return what an actor keeps."""
    torch.set_num_threads(1)
    return network(model), *examples()


@client.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:
    """Train one epoch."""
    model, x, y = held(str(message.content["config"]["model"]))
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    shard = int(context.node_config["partition-id"]) % SHARDS
    optimiser = torch.optim.SGD(model.parameters(), lr=LR)
    loss_of = nn.CrossEntropyLoss()
    order = torch.randperm(SAMPLES)
    for start in range(0, SAMPLES, BATCH):
        rows = order[start : start + BATCH]
        optimiser.zero_grad()
        loss_of(model(x[shard][rows]), y[shard][rows]).backward()
        optimiser.step()
    content = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord({"num-examples": SAMPLES}),
    }
    return Message(content=RecordDict(content), reply_to=message)


class Counted(FedAvg):  # type: ignore[misc]
    """FedAvg that notes the replies that came without an error."""

    marks = Marks()

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Count, then average as ever."""
        came = list(replies)
        self.marks.made(sum(not reply.has_error() for reply in came))
        return super().aggregate_train(server_round, came)


def serve(task: Task) -> ServerApp:
    """Return the server's side."""
    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, _: Context) -> None:
        Counted(
            fraction_train=COHORT / task.clients,
            fraction_evaluate=0.0,
            min_train_nodes=COHORT,
            min_available_nodes=task.clients,
        ).start(
            grid=grid,
            initial_arrays=ArrayRecord(network(task.model).state_dict()),
            train_config=ConfigRecord({"model": task.model}),
            num_rounds=task.updates // COHORT,
        )

    return app


def main() -> None:
    """Run, on a Ray of its own."""
    task = asked()
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="fl", dir="/tmp") as folder:
        run_simulation(
            serve(task),
            client,
            num_supernodes=task.clients,
            backend_config={
                "init_args": {
                    "address": "local",
                    "num_cpus": task.processes,
                    "_temp_dir": folder,
                    "log_to_driver": False,
                },
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            },
        )
    Counted.marks.report(task.processes)


if __name__ == "__main__":
    import with_flower  # by its name, under which the actors find it, too

    with_flower.main()
