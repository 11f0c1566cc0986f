"""How much of the encoder does a client compute itself?"""

from __future__ import annotations

from orchestrator.fleet import Fleet
from orchestrator.plan import SplitPlan
from policies.splitting import Ends, Process


def shortest(split: SplitPlan, fleet: Fleet, client: int, examples: int, now_s: float) -> int:
    """Return the number of blocks with which a client's work takes least.

    Where features never change that is its first update, with the way of what the device must be
    sent before it can compute a block: one is as much done once as the other. Elsewhere it is the
    exchanges of one batch, and what is sent once does not count. The link is looked at as it is
    now, and the encoder's queue is left out (our choice).

    Args:
        split: How the model may be cut.
        fleet: Devices and links.
        client: Whose assignment it is.
        examples: How many it trains on.
        now_s: When the assignment begins.
    """
    if len(split.ends) == 1:
        return next(iter(split.ends))
    has, most = fleet.profile_of(client).memory_bytes, split.training.batch_size
    times = {
        cut: _seconds(split, fleet, client, ends, examples, now_s)
        for cut, ends in split.ends.items()
        if split.process(examples, cut, known=False).memory.bytes(most) <= has
    }
    return min(times, key=lambda cut: (times[cut], cut), default=min(split.ends))


def _seconds(
    split: SplitPlan, fleet: Fleet, client: int, ends: Ends, examples: int, now_s: float
) -> float:
    """Return what one batch takes, or all of it where all is done once.

    Counted are the device, both ways, and the encoder by itself.
    """
    rows = examples if split.caches else min(split.training.batch_size, examples)
    process = Process(split.settings, ends, split.training, rows)
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
    return seconds
