"""How much of the encoder does a client compute itself?"""

from __future__ import annotations

from orchestrator.engine.context import Context
from orchestrator.plan import SplitPlan
from policies.splitting import Ends, Process


class Cuts:
    """Chooses, for each assignment, how many of the encoder's blocks run on the device."""

    def __init__(self, context: Context) -> None:
        self._split = context.plan.split
        self._fleet = context.fleet

    def choose(self, client: int, examples: int, now_s: float) -> int:
        """Return the number of blocks with which the exchanges of one batch take least.

        The link is looked at as it is now. What a device must be sent before it can compute a
        block, once, does not count, nor does the encoder's queue (our choice).
        """
        split = self._split
        if split is None or len(split.ends) == 1:
            return next(iter(split.ends)) if split is not None else 0
        times = {
            cut: self._batch_s(split, client, ends, examples, now_s)
            for cut, ends in split.ends.items()
            if self._fits(split, client, ends)
        }
        return min(times, key=lambda cut: (times[cut], cut), default=min(split.ends))

    def _batch_s(
        self, split: SplitPlan, client: int, ends: Ends, examples: int, now_s: float
    ) -> float:
        """Return what one batch takes: the device, both ways, and the encoder by itself."""
        rows = min(split.training.batch_size, examples)
        process = Process(split.settings, ends, split.training, rows)
        fleet = self._fleet
        device = process.all_flops / len(process.batches)
        seconds = fleet.compute(client, 0, now_s, device).end_s - now_s
        for exchange in process.exchanges:
            seconds += split.seconds_of(exchange.flops(ends)) / len(process.batches)
            up = process.entropy_bytes(exchange) / len(process.batches)
            down = process.entropy_bytes(exchange, reply=True) / len(process.batches)
            seconds += fleet.upload(client, now_s, int(up)).end_s - now_s
            seconds += fleet.download(client, now_s, int(down)).end_s - now_s
        return seconds

    def _fits(self, split: SplitPlan, client: int, ends: Ends) -> bool:
        """Say whether a device has the memory for its part."""
        needed = ends.device_bytes(split.training.batch_size)
        return needed <= int(self._fleet.memory_bytes()[client])
