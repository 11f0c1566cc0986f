"""How fast is FLGo, with its asynchronous server and its virtual clock?

Its FedBuff with 32 clients busy and a buffer of ten, in one process. Fast path: no evaluation, no
progress bar, no log on the console; the benchmark made from a file, as its documentation says.
Latencies are few of its clock's units, since each unit costs a look at all clients.

Differs from latecomer: all that arrives in one unit of its clock goes into one version, so that a
version has ten updates or a few more; a copy of the whole model for each client; batches by torch's
DataLoader, one example at a time. Its ways to train in several processes make a pool of new
processes at every moment of the clock, and are slower for models as small as these.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import flgo
from flgo.algorithm import fedbuff
from flgo.benchmark.toolkits.cv.classification import FromDatasetPipe
from flgo.benchmark.toolkits.partition import IIDPartitioner
from flgo.experiment.logger.simple_logger import SimpleLogger
from work import BATCH, COHORT, LR, SAMPLES, Marks, Task, asked

NEVER = -1
FEDERATION = """
from torch.utils.data import TensorDataset
from work import examples, network

x, y = examples()
train_data = TensorDataset(x.flatten(0, 1), y.flatten())
val_data = None
test_data = TensorDataset(x[0], y[0])

def get_model():
    return network("{model}")
"""


class Server(fedbuff.Server):  # type: ignore[misc]
    """Notes the updates that arrive."""

    marks = Marks()

    def package_handler(self, received_packages: dict[str, Any]) -> Any:
        """Count, then go on as ever."""
        came = len(received_packages["__cid"])
        updated = super().package_handler(received_packages)
        if came:
            self.marks.made(came)
        return updated


class Client(fedbuff.Client):  # type: ignore[misc]
    """Trains as FLGo's client does; FLGo wraps its methods, so it needs a class of its own."""


class Algorithm:
    """What FLGo calls an algorithm."""

    __name__ = "fedbuff"
    Server = Server
    Client = Client


def main() -> None:
    """Run in a folder of its own: FLGo writes its tasks and records where it stands."""
    task = asked()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.path.insert(0, folder)
        run(task)


def run(task: Task) -> None:
    """Make the benchmark and the task, and train."""
    # Newer torch asks this of every Subset with a __getitem__ of its own.
    FromDatasetPipe.TaskDataset.__getitems__ = lambda data, rows: [data[row] for row in rows]
    Path("config.py").write_text(FEDERATION.format(model=task.model), encoding="utf-8")
    benchmark = flgo.gen_benchmark_from_file("random_images", "config.py")
    made: Any = importlib.import_module(benchmark)
    made.visualize = lambda *_: None  # no picture of who has what
    flgo.gen_task(
        {
            "benchmark": {"name": benchmark},
            "partitioner": {"name": IIDPartitioner, "para": {"num_clients": task.clients}},
        },
        task_path="task",
    )
    server = flgo.init(
        "task",
        Algorithm(),
        option={
            "num_rounds": 10**9,
            "proportion": task.in_flight / task.clients,
            "algo_para": [COHORT / task.clients, 1.0],
            "num_epochs": 1,
            "batch_size": BATCH,
            "learning_rate": LR,
            "learning_rate_decay": 1.0,
            "train_holdout": 0.0,
            "responsiveness": "UNI-1-10",
            "eval_interval": NEVER,
            "no_tqdm": True,
            "no_log_console": True,
            "log_level": "ERROR",
            "torch_num_threads": 1,
        },
        Logger=SimpleLogger,
    )
    steps = {client.num_steps for client in server.clients}
    if steps != {SAMPLES // BATCH}:
        raise SystemExit(f"clients take {steps} steps an epoch")
    server.register_exit_condition(lambda _: Server.marks.count >= task.updates)
    server.run()
    Server.marks.report(processes=1)


if __name__ == "__main__":
    main()
