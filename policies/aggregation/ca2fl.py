"""What clients last sent steadies what a buffer says (Wang et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import PositiveFloat, PositiveInt

from policies.adding import add_dense
from policies.aggregation.base import AggregationPolicy, Applied, Pacing, touched
from policies.passes import BLOCK
from policies.types import Arrays, PayloadKind, Vector
from policies.units import Bytes
from policies.update import Content, Contribution, Dense, ModelSchema, Sparse


class CA2FL(AggregationPolicy):
    """Add the mean of all clients' last updates, corrected by what the buffer's differ from theirs.

        w += rate * (h + 1/M sum s(d_i) (D_i - h_i))

    h_i is the last update of client i (0 before its first), h the mean of h_i over *all* clients.
    The h_i are those from before the version; only then does D_i become the new h_i. Since every
    client has its part in h, however slow it is, fast ones do not lead the model away. With
    clients that all come for the first time this is FedBuff with constant weights.

    A client that is twice in a buffer is compared both times with its h_i from before, and its
    latest update is kept (our choice). Theirs weigh all the same, s(d) = 1, which is the default;
    that another `method.staleness` can be set is our choice.

    What came is kept as it came: sparse updates at 8 bytes a value, dense ones at 4 (below 2^32
    parameters), besides 8 bytes a parameter for the sum of all h_i. Beyond `cache` bytes, the
    clients whose update is the oldest are forgotten (our choice): their h_i is 0 again, as if
    they had not come yet. The correction stays unbiased; the measure `cached_share` says how much
    of each buffer had an h_i. 0 bytes make this FedBuff.

    Attributes:
        size: Their M.
        rate: Their eta.
        cache: The most bytes that clients' updates take.
        clients: Their N; by default the clients of the fleet, or as many as have come where
            nothing says how many there are.

    Source:
        Wang et al., ICLR 2024, "Tackling the Data Heterogeneity in Asynchronous Federated
        Learning with Cached Update Calibration", for M 10. The bound is our choice.

    Cost:
        A version takes one pass over the model and one over 8 bytes a parameter; a checkpoint
        writes the cache.
    """

    kind: Literal["ca2fl"] = "ca2fl"
    size: PositiveInt = 10
    rate: PositiveFloat = 1.0
    cache: Bytes = 512_000_000
    clients: PositiveInt | None = None

    def takes(self) -> frozenset[PayloadKind]:
        """Deltas."""
        return frozenset({"delta"})

    def pacing(self) -> Pacing:
        """A full buffer is a version."""
        return Pacing(size=self.size)

    def judges_lateness(self) -> bool:
        """Say yes: late updates are corrected, and weigh the same unless `staleness` is set."""
        return True

    def echoes(self) -> bool:
        """Say yes: what other clients sent before."""
        return True

    def among(self, clients: int) -> Self:
        """Take the fleet's clients for N, unless it is set."""
        return self if self.clients else self.model_copy(update={"clients": clients})

    def start(self, schema: ModelSchema) -> Arrays:
        """Remember nobody's update.

        `sum` is that of all h_i, `order` the clients, the one with the oldest update first, and
        `bytes` what the updates take. Of client 7, `values/7` are the values, and `positions/7`
        where they are; without positions they are of all parameters. One array a client, since
        a version then copies none but those that change.
        """
        return {
            "sum": np.zeros(schema.parameters, dtype=np.float64),
            "order": np.zeros(0, dtype=np.int64),
            "bytes": np.zeros(1, dtype=np.int64),
        }

    def apply(
        self, model: Vector, memory: Arrays, batch: Sequence[Contribution], version: int
    ) -> Applied:
        """Step by the old h_i, then remember the new ones."""
        del version
        share = self.rate / len(batch)
        known = memory["order"].size
        if known:
            _add_sum(model, memory["sum"], self.rate / max(known, self.clients or 0))
        cached = 0
        for contribution in batch:
            weighed = share * contribution.weight
            contribution.content.add_to(model, weighed)
            old = _kept(memory, contribution.update.address.client)
            if old is not None:
                cached += 1
                old.add_to(model, -weighed)
        after = _Cache(memory)
        for client, content in _latest(batch).items():
            after.forget(client)
            after.keep(client, content)
        after.shrink(self.cache)
        measures = {
            "cached_clients": float(after.memory["order"].size),
            "cached_share": cached / len(batch),
        }
        return Applied(after.memory, None if known else touched(batch), measures=measures)

    def flops(self, nonzeros: int) -> float:
        """Return 8 a value: the step, the old update, and both in the sum."""
        return 8.0 * nonzeros


def _latest(batch: Sequence[Contribution]) -> dict[int, Content]:
    """Return each client's newest update, in the order of arrival of these."""
    newest: dict[int, int] = {}
    found: dict[int, Content] = {}
    for contribution in batch:
        client, number = contribution.update.address
        if number >= newest.get(client, 0):
            newest[client] = number
            found.pop(client, None)
            found[client] = contribution.update.content
    return found


def _add_sum(model: Vector, total: npt.NDArray[np.float64], scale: float) -> None:
    """Add `scale * total` to `model`, both shape (P,), in place."""
    for start in range(0, model.size, BLOCK):
        piece = slice(start, start + BLOCK)
        add_dense(model[piece], (total[piece] * scale).astype(np.float32), 1.0)


def _kept(memory: Arrays, client: int) -> Content | None:
    """Return h_i of a client; None for 0."""
    values = memory.get(f"values/{client}")
    if values is None:
        return None
    positions = memory.get(f"positions/{client}")
    return Dense(values) if positions is None else Sparse(positions.astype(np.int64), values)


class _Cache:
    """A memory that is about to become another one; arrays of the old one do not change."""

    def __init__(self, memory: Arrays) -> None:
        self.memory = {**memory, "sum": memory["sum"].copy(), "bytes": memory["bytes"].copy()}

    def forget(self, client: int) -> None:
        """Let h_i of a client be 0 again."""
        old = _kept(self.memory, client)
        if old is None:
            return
        self._add(old, -1.0)
        for name in (f"values/{client}", f"positions/{client}"):
            if name in self.memory:
                self.memory["bytes"] -= self.memory.pop(name).nbytes
        order = self.memory["order"]
        self.memory["order"] = order[order != client]

    def keep(self, client: int, content: Content) -> None:
        """Let h_i of a client whose h_i is 0 be an update; the payload it views may go."""
        memory, places = self.memory, content.touches()
        kept = {f"values/{client}": content.values.copy()}
        if places is not None:
            narrow = memory["sum"].size <= 1 << 32
            kept[f"positions/{client}"] = places.astype(np.uint32 if narrow else np.int64)
        memory |= kept
        memory["bytes"] += sum(array.nbytes for array in kept.values())
        memory["order"] = np.append(memory["order"], client)
        self._add(content, 1.0)

    def shrink(self, most_bytes: int) -> None:
        """Forget the oldest until the others take no more than that."""
        while self.memory["bytes"][0] > most_bytes:
            self.forget(int(self.memory["order"][0]))
        if not self.memory["order"].size:
            self.memory["sum"][:] = 0  # and no rounding is left of those that are gone

    def _add(self, content: Content, sign: float) -> None:
        places = content.touches()
        at = slice(None) if places is None else places
        self.memory["sum"][at] += sign * content.values
