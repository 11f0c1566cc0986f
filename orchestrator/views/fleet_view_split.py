"""What does one assignment of a split model exchange with the encoder?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from orchestrator.cuts import Job, shortest
from orchestrator.fleet import Fleet
from orchestrator.plan import SplitPlan
from orchestrator.portions import Portions
from orchestrator.stages import Stage, split_training
from orchestrator.views.fleet_view_groups import Typical
from orchestrator.views.fleet_view_walk import Doing, Hop, Sizes, Start, Walk
from policies.splitting import Ends, Exchange, Process
from policies.types import Address, Positions, Version, stream
from policies.wire import Header, encode, least_bytes

_MOST_WRITTEN: Final = 2**20
"""Numbers of a message that is still written to see how long it is."""


class Course(NamedTuple):
    """An assignment of a client.

    Attributes:
        cut: Blocks of the encoder that run on its device.
        stages: What it goes through.
        hops: Its questions, in order.
        once_bytes: What it is sent of the encoder before its first assignment.
    """

    cut: int
    stages: tuple[Stage, ...]
    hops: tuple[Hop, ...]
    once_bytes: int


@dataclass(frozen=True, slots=True)
class Exchanges:
    """What a kind of client exchanges with the encoder for its first assignment.

    Attributes:
        blocks: Share of the assignments in which so many blocks run on the device, by that number,
            from the fewest on; `all` if the whole encoder does.
        once_bytes: What it is sent of the encoder, and never again.
        once_s: Until that is there; part of the download.
        questions: To the encoder.
        asked_bytes: Of all questions.
        replied_bytes: Of all replies.
        up_bytes: Of all questions and the least payload.
        down_bytes: Of all replies, the model, and what is sent once.
        asks_s: Until questions are at the encoder.
        encoder_s: What the encoder takes, and the client waits for; without a queue.
        replies_s: Until replies are at the client.
        exchange_s: The three together.
        works_s: What the encoder takes for a later assignment, waited for or not.
        later_s: A later assignment in all, with the least payload: nothing is sent once, and
            features that are kept are not asked for.
        dense_later_s: The same with a dense one.
    """

    blocks: Mapping[str, float]
    once_bytes: Typical
    once_s: Typical
    questions: Typical
    asked_bytes: Typical
    replied_bytes: Typical
    up_bytes: Typical
    down_bytes: Typical
    asks_s: Typical
    encoder_s: Typical
    replies_s: Typical
    exchange_s: Typical
    works_s: Typical
    later_s: Typical
    dense_later_s: Typical


FIGURES: Final = tuple(field.name for field in fields(Exchanges) if field.name != "blocks")
"""Those that differ from assignment to assignment."""


class Courses:
    """Tells assignments of a split model.

    Args:
        split: How the model may be cut.
        examples: Of each client, shape (clients,).
        carried: What crosses a link besides questions and replies.
        seed: The experiment's.
        portions: How much of what is asked each does.
    """

    def __init__(
        self,
        split: SplitPlan,
        examples: Positions,
        carried: Sizes,
        seed: int,
        portions: Portions,
    ) -> None:
        self._portions = portions
        self._split = split
        self._examples = examples
        self._carried = carried
        self._seed = seed
        self._bytes = lru_cache(maxsize=None)(self._message_bytes)

    def of(self, fleet: Fleet, start: Start) -> tuple[Course, Course]:
        """Return a client's first assignment, if it began now, and a later one."""
        split, examples = self._split, int(self._examples[start.client])
        job = Job(start.client, examples, start.at_s)
        cut = shortest(split, self._portions, fleet, job)
        portion = self._portions.of(fleet, start.client, examples, cut)
        first = split.process(examples, cut, known=False, portion=portion)
        later = split.process(examples, cut, known=split.caches, portion=portion)
        once_bytes = split.ends[cut].equipment_bytes
        return self._course(cut, first, once_bytes), self._course(cut, later, 0)

    def _course(self, cut: int, process: Process, once_bytes: int) -> Course:
        down, least, _ = self._carried
        stages = split_training(down, once_bytes, process, least)
        return Course(cut, stages, self._hops(process), once_bytes)

    def _hops(self, process: Process) -> tuple[Hop, ...]:
        ends, seconds_of = process.ends, self._split.seconds_of
        return tuple(
            Hop(
                self._bytes(exchange, ends, reply=False),
                seconds_of(exchange.flops(ends)),
                self._bytes(exchange, ends, reply=True) if exchange.returns else 0,
            )
            for exchange in process.exchanges
        )

    def _message_bytes(self, exchange: Exchange, ends: Ends, *, reply: bool) -> int:
        """Return the length of a question, or of its reply, up to some bytes of names.

        A message is written with numbers drawn at random. Of one that is huge the bound of its
        numbers is taken, which is the greater part by far.
        """
        schema = exchange.reply(ends) if reply else exchange.question(ends)
        activations = self._split.settings.activations
        if schema.size > _MOST_WRITTEN:
            return least_bytes(activations.entropy_bits(schema), schema)
        rng = stream(self._seed, "fleet-view")
        values = rng.standard_normal(schema.parameters, dtype=np.float32)
        rows = exchange.rows or exchange.answered
        header = Header("activations", Address(0, 0), Version(0, 0), rows, 0.0)
        buffers = np.zeros(schema.buffers, dtype=np.float32)
        return int(encode(header, activations.write(values, schema), buffers, schema).size)

    def taken(self, fleet: Fleet, start: Start, first: Course, later: Course) -> dict[str, float]:
        """Return what an assignment takes a client: the first one, and of a later one the whole."""
        walk, again = Walk(fleet, start), Walk(fleet, start)
        walk.through(first.stages, first.hops)
        again.through(later.stages, later.hops)
        once_end_s = start.at_s
        if first.once_bytes:
            once_end_s = fleet.download(start.client, start.at_s, first.once_bytes).end_s
        whole = again.figures(self._carried)
        return {
            **walk.figures(self._carried),
            "once_bytes": first.once_bytes,
            "once_s": once_end_s - start.at_s,
            **self._exchanged(first, later, walk.seconds),
            "later_s": whole["total_s"],
            "dense_later_s": whole["dense_total_s"],
        }

    def _exchanged(
        self, first: Course, later: Course, seconds: Mapping[Doing, float]
    ) -> dict[str, float]:
        down, least, _ = self._carried
        asked, replied = sum(hop.up for hop in first.hops), sum(hop.down for hop in first.hops)
        asks, encoder, replies = (seconds[doing] for doing in ("ask", "encoder", "reply"))
        return {
            "questions": len(first.hops),
            "asked_bytes": asked,
            "replied_bytes": replied,
            "up_bytes": asked + least,
            "down_bytes": first.once_bytes + down + replied,
            "asks_s": asks,
            "encoder_s": encoder,
            "replies_s": replies,
            "exchange_s": asks + encoder + replies,
            "works_s": sum(hop.works_s for hop in later.hops),
        }

    def exchanges(self, cuts: Sequence[int], figures: Mapping[str, Typical]) -> Exchanges:
        """Return what assignments have in common.

        Args:
            cuts: Blocks on the device, of each.
            figures: Those named by `FIGURES`.
        """
        ends = self._split.ends
        counted = sorted(Counter(cuts).items())
        return Exchanges(
            blocks={ends[cut].runs: often / len(cuts) for cut, often in counted},
            **figures,
        )
