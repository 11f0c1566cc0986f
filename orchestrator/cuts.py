"""How much of the encoder does a client compute itself?"""

from __future__ import annotations

from orchestrator.fleet import Fleet
from orchestrator.plan import SplitPlan
from policies.splitting import Ends, Process


def shortest(split: SplitPlan, fleet: Fleet, client: int, examples: int, now_s: float) -> int:
    """Return the number of blocks with which the exchanges of one batch take least.

    The link is looked at as it is now. What a device must be sent before it can compute a block,
    once, does not count, nor does the encoder's queue (our choice).

    Args:
        split: How the model may be cut.
        fleet: Devices and links.
        client: Whose assignment it is.
        examples: How many it trains on.
        now_s: When the assignment begins.
    """
    if len(split.ends) == 1:
        return next(iter(split.ends))
    memory, most = fleet.profile_of(client).memory_bytes, split.training.batch_size
    times = {
        cut: _batch_s(split, fleet, client, ends, examples, now_s)
        for cut, ends in split.ends.items()
        if ends.device_bytes(most) <= memory
    }
    return min(times, key=lambda cut: (times[cut], cut), default=min(split.ends))


def _batch_s(
    split: SplitPlan, fleet: Fleet, client: int, ends: Ends, examples: int, now_s: float
) -> float:
    """Return what one batch takes: the device, both ways, and the encoder by itself."""
    rows = min(split.training.batch_size, examples)
    process = Process(split.settings, ends, split.training, rows)
    device = process.all_flops / len(process.batches)
    seconds = fleet.compute(client, 0, now_s, device).end_s - now_s
    for exchange in process.exchanges:
        seconds += split.seconds_of(exchange.flops(ends)) / len(process.batches)
        up = process.entropy_bytes(exchange) / len(process.batches)
        down = process.entropy_bytes(exchange, reply=True) / len(process.batches)
        seconds += fleet.upload(client, now_s, int(up)).end_s - now_s
        seconds += fleet.download(client, now_s, int(down)).end_s - now_s
    return seconds
