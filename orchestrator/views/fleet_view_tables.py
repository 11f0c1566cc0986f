"""How is a fleet told in tables and sentences?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from orchestrator.views.fleet_view import FleetView
from orchestrator.views.fleet_view_data import Data
from orchestrator.views.fleet_view_day import in_words
from orchestrator.views.fleet_view_groups import Group, Range
from orchestrator.views.fleet_view_split import Exchanges
from orchestrator.views.fleet_view_work import Work
from orchestrator.views.readable import BYTES, ENERGY, TIME, Unit, count, human, share, unit_for
from orchestrator.views.sheets import Sheet
from policies.splitting import Split

SPEED: Final[Sequence[Unit]] = (
    (1, "FLOP/s"), (1e3, "kFLOP/s"), (1e6, "MFLOP/s"), (1e9, "GFLOP/s"), (1e12, "TFLOP/s"),
)  # fmt: skip
LINK: Final[Sequence[Unit]] = (
    (1, "bit/s"), (1e3, "kbit/s"), (1e6, "Mbit/s"), (1e9, "Gbit/s"),
)  # fmt: skip
_KIND: Final = "kind of client"


def sheets(view: FleetView) -> Iterator[Sheet]:
    """Yield the figures as tables."""
    yield devices(view)
    yield links(view)
    if view.cells:
        yield cells(view)
    yield presence(view)
    yield assignment(view)
    if view.split:
        yield exchanges(view)
    yield dense(view)
    if view.corrects:
        yield late(view)
    if view.data is not None:
        yield data(view.data, view.shape.classes)


def devices(view: FleetView) -> Sheet:
    """Return what each kind of client has."""
    columns = (_KIND, "clients", "speed", "memory", "training takes", "power", "power of the link")
    cells = [
        (
            group.label,
            count(group.members.size),
            spread(group.flops, SPEED),
            human(group.profile.memory_bytes, BYTES),
            share(one.training_bytes / group.profile.memory_bytes),
            f"{count(group.profile.compute_watts)} W",
            f"{count(group.profile.radio_watts)} W",
        )
        for group, one in zip(view.groups, view.work, strict=True)
    ]
    return Sheet("Devices", columns, cells)


def links(view: FleetView) -> Sheet:
    """Return how fast each kind's links are."""
    cells = [
        (
            group.label,
            spread(group.downlink, LINK),
            spread(group.uplink, LINK),
            human(group.latency_s, TIME),
        )
        for group in view.groups
    ]
    return Sheet("Links", (_KIND, "downlink", "uplink", "latency"), cells)


def cells(view: FleetView) -> Sheet:
    """Return how far each cell is from the server."""
    columns = ("cell", "clients", "uplink", "downlink", "latency", "dense sum up", "model down")
    rows = [
        (
            one.name,
            count(one.clients),
            human(one.cell.uplink, LINK),
            human(one.cell.downlink, LINK),
            human(one.cell.latency_s, TIME),
            human(one.gather_s, TIME),
            human(one.spread_s, TIME),
        )
        for one in view.cells
    ]
    return Sheet("Cells", columns, rows)


def presence(view: FleetView) -> Sheet:
    """Return when each kind is there."""
    columns = (_KIND, "there", "when it goes, work is", "of a day", "drop-out", "joins", "leaves")
    cells = [
        _presence(view, group, part)
        for group, part in zip(view.groups, view.day.shares, strict=True)
    ]
    return Sheet("Who is there", columns, cells, words=3)


def _presence(view: FleetView, group: Group, part: float) -> tuple[str, ...]:
    entry, fleet = group.entry, view.experiment.fleet
    return (
        group.label,
        in_words(fleet, entry),
        group.profile.on_leave,
        share(part),
        share(chance) if (chance := drop_out(view, group)) else "-",
        human(entry.joins_s, TIME) if entry.joins_s else "-",
        "-" if entry.leaves_s is None else human(entry.leaves_s, TIME),
    )


def drop_out(view: FleetView, group: Group) -> float:
    """Return the probability that a client of a kind abandons an assignment."""
    own = group.entry.drop_out
    return view.experiment.fleet.drop_out if own is None else own


def assignment(view: FleetView) -> Sheet:
    """Return what an assignment takes each kind, with the least payload."""
    split = view.split
    columns = (
        _KIND, *["batches", "of"] * view.uneven, "download", "compute", *["exchanges"] * split,
        "upload", "in all", "95 %", *["a later one"] * split, "updates an hour", "energy",
    )  # fmt: skip
    cells = [
        (group.label, *(_batches(one) if view.uneven else ()), *_assignment(one))
        for group, one in zip(view.groups, view.work, strict=True)
    ]
    return Sheet("One assignment", columns, cells)


def _batches(one: Work) -> tuple[str, str]:
    """Write how many batches an assignment has, and of how many examples."""
    least, _, most = one.batch_size
    sizes = count(most) if least == most else f"{count(least)} to {count(most)}"
    return count(one.batches.median), sizes


def _assignment(one: Work) -> tuple[str, ...]:
    found = one.exchanges
    return (
        human(one.download_s.median, TIME),
        human(one.compute_s.median, TIME),
        *([] if found is None else [human(found.exchange_s.median, TIME)]),
        human(one.upload_s.median, TIME),
        human(one.total_s.median, TIME),
        human(one.total_s.high, TIME),
        *([] if found is None else [human(found.later_s.median, TIME)]),
        _often(one.an_hour),
        human(one.energy_j.median, ENERGY),
    )


def exchanges(view: FleetView) -> Sheet:
    """Return what each kind exchanges with the encoder for its first assignment."""
    columns = (
        _KIND, "blocks on the device", "sent once", "takes", "questions", "asked", "replied",
        "asking", "encoder works", "replying", "bytes up", "bytes down",
    )  # fmt: skip
    cells = [
        (group.label, *_exchanges(one.exchanges))
        for group, one in zip(view.groups, view.work, strict=True)
        if one.exchanges is not None
    ]
    return Sheet("Exchanges with the encoder", columns, cells)


def _exchanges(one: Exchanges) -> tuple[str, ...]:
    sent = one.once_bytes.median
    return (
        _blocks(one.blocks),
        human(sent, BYTES) if sent else "-",
        human(one.once_s.median, TIME) if sent else "-",
        count(one.questions.median),
        human(one.asked_bytes.median, BYTES),
        human(one.replied_bytes.median, BYTES),
        human(one.asks_s.median, TIME),
        human(one.encoder_s.median, TIME),
        human(one.replies_s.median, TIME),
        human(one.up_bytes.median, BYTES),
        human(one.down_bytes.median, BYTES),
    )


def _blocks(shares: Mapping[str, float]) -> str:
    """Write the number of blocks that most assignments have, and both ends where they differ."""
    usual, (fewest, *_, most) = max(shares, key=lambda cut: shares[cut]), (*shares, *shares)
    return usual if len(shares) == 1 else f"{usual} ({fewest} to {most})"


def dense(view: FleetView) -> Sheet:
    """Return what an assignment takes each kind if every parameter is sent."""
    cells = [
        (
            group.label,
            human(one.dense_upload_s.median, TIME),
            human(one.dense_total_s.median, TIME),
            _often(one.dense_an_hour),
            human(one.dense_energy_j.median, ENERGY),
        )
        for group, one in zip(view.groups, view.work, strict=True)
    ]
    columns = (_KIND, "upload", "in all", "updates an hour", "energy")
    return Sheet("One assignment with a dense update", columns, cells)


def late(view: FleetView) -> Sheet:
    """Return what an assignment takes each kind whose client corrects its late update."""
    columns = (
        _KIND, "second download", "correcting", "in all", "95 %", "energy", "in all, dense",
        "energy, dense",
    )  # fmt: skip
    cells = [
        (
            group.label,
            human(one.late.fetch_s.median, TIME),
            human(one.late.correct_s.median, TIME),
            human(one.late.late_total_s.median, TIME),
            human(one.late.late_total_s.high, TIME),
            human(one.late.late_energy_j.median, ENERGY),
            human(one.late.late_dense_total_s.median, TIME),
            human(one.late.late_dense_energy_j.median, ENERGY),
        )
        for group, one in zip(view.groups, view.work, strict=True)
        if one.late is not None
    ]
    return Sheet("One assignment if it is late", columns, cells)


def _often(an_hour: float) -> str:
    return "any number" if math.isinf(an_hour) else count(an_hour)


def data(found: Data, classes: int) -> Sheet:
    """Return how many examples and classes clients have."""
    rows = (
        ("examples of an update", found.examples),
        (f"different classes, of {classes:,}", found.classes),
    )
    cells = [(name, count(low), count(mid), count(high)) for name, (low, mid, high) in rows]
    return Sheet("Data of a client", ("", "least", "median", "most"), cells)


def spread(values: Range, units: Sequence[Unit]) -> str:
    """Write the median, and both ends in its unit where they differ from it."""
    scale, unit = unit_for(abs(values.median), units)
    low, median, high = (count(value / scale) for value in values)
    around = "" if low == median == high else f" ({low} to {high})"
    return f"{median} {unit}{around}"


def sentences(view: FleetView) -> Iterator[str]:
    """Yield what no table says."""
    carried, day = view.carried, view.day
    yield (
        f"A client that holds no model is sent {human(carried.down, BYTES)} for "
        f"{view.parameters:,} parameters; an update takes {human(carried.least, BYTES)} at the "
        f"least and {human(carried.dense, BYTES)} dense."
    )
    yield from _of_encoder(view)
    if not day.whole:
        yield (
            f"Of {view.clients:,} clients {day.least:,} to {day.most:,} are there at the same "
            "time, over the first day."
        )
    yield from _of_data(view)


def _of_encoder(view: FleetView) -> Iterator[str]:
    """Say how busy the encoder is, which no client waits for in line here."""
    topology, method = view.experiment.topology, view.experiment.method
    if not isinstance(topology, Split):
        return
    cohort = method.aggregation.pacing().cohort
    busy = min(view.clients, method.concurrency if cohort is None else cohort)
    sizes = [group.members.size for group in view.groups]
    works_s, took_s = (
        float(np.average(seconds, weights=sizes))
        for seconds in (
            [one.exchanges.works_s.median for one in view.work if one.exchanges is not None],
            [one.again_s.median for one in view.work],
        )
    )
    if works_s > 0 and took_s > 0:
        asked = share(busy * works_s / took_s / topology.replicas)
        of = "an encoder" if topology.replicas == 1 else f"{topology.replicas} encoders"
        yield (
            f"No client waits in line for the encoder here. At this pace {busy:,} clients at work "
            f"ask for {asked} of what {of} can compute; near 100 % and above a run is slower."
        )


def _of_data(view: FleetView) -> Iterator[str]:
    found, source = view.data, view.experiment.data.source
    if found is None:
        yield (
            f"What data the {view.clients:,} {source} have they tell when they join; until then "
            "nobody knows how long their training takes."
        )
        return
    dealt = view.experiment.data.partition.kind
    yield f"{view.shape.train:,} training examples of {source}, dealt out by {dealt}."
    if found.named and found.whole:
        least, most = int(np.argmin(found.sizes)), int(np.argmax(found.sizes))
        ends = (f"{found.names[at]} ({found.sizes[at]:,} examples)" for at in (most, least))
        yield f"The source names its clients, from {' to '.join(ends)}."
    if not found.whole:
        yield (
            f"Classes were counted of {found.sampled.size:,} of {found.sizes.size:,} clients, "
            "evenly taken."
        )
    if found.moving:
        yield "An update sees a window of a client's examples; classes are those of all of them."
    if found.untested is not None:
        yield (
            f"{found.untested:,} of {found.sizes.size:,} clients have no test examples of their "
            "own and take no part in evaluation."
        )
