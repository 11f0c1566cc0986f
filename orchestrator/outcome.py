"""What has a run left, besides its logs: models, a row a client, figures, an alarm?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from actors.client_state import StateCodec
from actors.learning.holdings import Holdings
from actors.server import whole_model
from orchestrator import people
from orchestrator.client_states import fetched
from orchestrator.engine import Engine
from orchestrator.experiment import Experiment
from orchestrator.portions import Portions
from orchestrator.runtime import Runtime
from orchestrator.told import Told, tested
from orchestrator.tracking import trained
from policies.guards import Load
from policies.types import RunError, Vector, Version

_MOST_NAMED = 10
_Integers = npt.NDArray[np.int64]


def keep_models(
    out: Path, experiment: Experiment, engine: Engine, runtime: Runtime, holdings: Holdings
) -> Vector:
    """Write the final and the best version; return all that the final one has learnt.

    Where tails are personal, the tails of all clients are part of both.
    """
    versions, last, best = engine.state.versions, engine.state.last_evaluation, engine.state.best
    if last is None or best is None:
        raise RunError("no version was evaluated")

    def made(version: Version, accuracy: float) -> trained.Made:
        message = runtime.fetch(versions.handle(version))
        weights, encoder = versions.published(version).encoder, None
        if weights is not None:
            kept = runtime.fetch(weights.handle).view(np.float32)
            split = engine.plan.split
            encoder = kept[: kept.size // 2] if split and split.settings.momentum else kept
        return trained.Made(version, accuracy, whole_model(message, engine.schema), encoder)

    final = made(versions.newest, last[1].accuracy)
    models: dict[trained.Which, trained.Made] = {
        "final": final,
        "best": made(best[1], best[0]),
    }
    own = _own_tails(experiment, engine, runtime, holdings)
    trained.write(out, experiment, holdings, engine.schema, models, own)
    encoder = () if final.encoder is None else (final.encoder,)
    return np.concatenate([final.vector, *encoder, *(() if own is None else own.values())])


def _own_tails(
    experiment: Experiment, engine: Engine, runtime: Runtime, holdings: Holdings
) -> dict[int, Vector] | None:
    """Return the tail of each client that has trained one; None if all have the same."""
    split = engine.plan.split
    if split is None or not split.settings.personal:
        return None
    work = experiment.work()
    codec = StateCodec(work, work.build(holdings.shape))
    kept = engine.state.client_states.committed()
    states = fetched(runtime, [place for _, place in kept])
    return {
        client: codec.read(state)[1].copy() for (client, _), state in zip(kept, states, strict=True)
    }


def clients(
    experiment: Experiment, engine: Engine, told: Told, events: pa.Table, ops: pa.Table
) -> pd.DataFrame:
    """Return a row a client; see `people.table`.

    Args:
        experiment: Says whether modelled times pass.
        engine: Has ended.
        told: What is known of the clients' examples.
        events: The event log.
        ops: The log of what it took.
    """
    rows = events.to_pandas()
    fleet, last, ended_s = engine.fleet, engine.state.last_evaluation, engine.state.ended_s
    if last is None or ended_s is None:
        raise RunError("the run has not ended, or no version was evaluated")
    if experiment.evaluate.kind == "federated":
        accuracy = pd.Series(tested(rows)).reindex(range(len(told))).to_numpy(dtype=float)
    else:
        accuracy = told.accuracies(last[1])
    batch_size, training_bytes = _batches(engine)
    about = {
        "name": told.names,
        "profile": fleet.profile_names(),
        "region": fleet.region_names(),
        "examples": told.sizes.train,
        "batch_size": batch_size,
        "memory_share": training_bytes / fleet.memory_bytes(),
        "accuracy": accuracy,
    }
    found = people.table(rows, about, span_s=ended_s)
    if engine.plan.delays:
        return found
    return people.measured(found, _measured(ops), experiment.wall.time_scale, ended_s)


def _batches(engine: Engine) -> tuple[_Integers, _Integers]:
    """Return each client's examples a batch and the memory that it trains in, shape (clients,).

    Of a split model with the blocks that a client has; one that was never asked would begin with
    the fewest.
    """
    plan, fleet, encoder = engine.plan, engine.fleet, engine.state.encoder
    portions, asked = Portions.asked_by(plan), plan.method.training.batch_size
    if portions.equal and plan.split is None:
        count = plan.examples.size
        return np.full(count, asked), np.full(count, plan.memory.bytes(asked))
    fewest = 0 if plan.split is None else min(plan.split.ends)
    held = {} if encoder is None else encoder.equipped
    jobs = [(client, int(n), held.get(client, fewest)) for client, n in enumerate(plan.examples)]
    sizes = [portions.batch_size(fleet, *job) for job in jobs]
    return np.array(sizes), np.array([portions.training_bytes(fleet, *job) for job in jobs])


def _measured(ops: pa.Table) -> pd.Series[float]:
    """Return how long each client's updates really trained, in seconds on the wall."""
    rows = ops.to_pandas()
    rows = rows[rows["kind"] == "trained"]
    found: pd.Series[float] = rows.groupby(rows["client"].astype("int64"))["duration_s"].sum()
    return found


def unmodelled(experiment: Experiment, clients: pd.DataFrame) -> dict[str, float]:
    """Return figures of devices that are not those of the model: of a wall clock without delays."""
    if experiment.clock == "virtual" or experiment.wall.delays:
        return {}
    seconds = float(clients["device_s"].sum())
    return {
        "energy_joules": np.nan, "device_seconds": seconds, "wasted_device_seconds": np.nan,
    }  # fmt: skip


def load_alarm(guard: Load, clients: pd.DataFrame) -> str:
    """Name the clients whose devices are worn too much; "" if there are none."""
    worn = clients[clients["load"].map(guard.alarms)].sort_values("load", ascending=False)
    if worn.empty:
        return ""
    shown = ", ".join(
        f"{_called(client, row['name'])} ({row['load']:.2g})"
        for client, row in worn.head(_MOST_NAMED).iterrows()
    )
    more = f" and {len(worn) - _MOST_NAMED} more" if len(worn) > _MOST_NAMED else ""
    count = "1 client is" if len(worn) == 1 else f"{len(worn)} clients are"
    return f"{count} above guards.load.most = {guard.most:g}: {shown}{more}"


def _called(client: object, name: str) -> str:
    """Return a client's name, or its number as such if it has no other."""
    return f"client {client}" if name == str(client) else name
