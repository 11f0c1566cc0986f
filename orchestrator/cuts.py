"""How much of the encoder does a client compute itself?"""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.fleet import Fleet
from orchestrator.plan import SplitPlan
from orchestrator.portions import Portions
from policies.splitting import Ends, Process
from policies.training import Portion


class Job(NamedTuple):
    """An assignment that is about to begin.

    Attributes:
        client: Whose it is.
        examples: How many it trains on.
        now_s: When it begins.
    """

    client: int
    examples: int
    now_s: float


def shortest(split: SplitPlan, portions: Portions, fleet: Fleet, job: Job) -> int:
    """Return the number of blocks with which a client's work takes least.

    Where features never change that is its first update, with the way of what the device must be
    sent before it can compute a block: one is as much done once as the other. Elsewhere it is an
    example in the exchanges of one batch, and what is sent once does not count. The link is looked
    at as it is now, and the encoder's queue is left out (our choice). With a cut come the batches
    that the device would take there; whose memory they do not fit is not chosen.

    Args:
        split: How the model may be cut.
        portions: How much each client does.
        fleet: Devices and links.
        job: The assignment.
    """
    if len(split.ends) == 1:
        return next(iter(split.ends))
    has, times = fleet.profile_of(job.client).memory_bytes, {}
    for cut, ends in split.ends.items():
        size = portions.batch_size(fleet, job.client, job.examples, cut)
        if portions.memory(job.examples, cut).bytes(size) <= has:
            times[cut] = _seconds(split, fleet, job, ends, size)
    return min(times, key=lambda cut: (times[cut], cut), default=min(split.ends))


def _seconds(split: SplitPlan, fleet: Fleet, job: Job, ends: Ends, batch_size: int) -> float:
    """Return what one example takes in a batch, or all of them where all is done once.

    Counted are the device, both ways, and the encoder by itself.
    """
    client, now_s = job.client, job.now_s
    rows = job.examples if split.caches else min(batch_size, job.examples)
    training = split.training.portion(Portion(batch_size=batch_size))
    process = Process(split.settings, ends, training, rows)
    count = 1 if split.caches else len(process.batches)
    seconds = fleet.compute(client, 0, now_s, process.all_flops / count).end_s - now_s
    if split.caches and ends.equipment_bytes:
        seconds += fleet.download(client, now_s, ends.equipment_bytes).end_s - now_s
    for exchange in process.exchanges:
        seconds += split.seconds_of(exchange.flops(ends)) / count
        up = process.entropy_bytes(exchange) / count
        down = process.entropy_bytes(exchange, reply=True) / count
        seconds += fleet.upload(client, now_s, int(up)).end_s - now_s
        seconds += fleet.download(client, now_s, int(down)).end_s - now_s
    return seconds if split.caches else seconds / rows
