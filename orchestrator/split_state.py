"""How are exchanges with an encoder written into a checkpoint, and read back?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from orchestrator.engine.state import EncoderState, Waiting
from orchestrator.plan import SplitPlan, Talk
from orchestrator.runtime import Handle, Place, Weights
from policies.splitting import Exchange
from policies.training import Portion
from policies.types import Address, RunError, Version

T = TypeVar("T")


class Keeper(Protocol):
    """Keeps buffers under names."""

    def save(self, name: str, what: Handle | Place) -> str:
        """Keep a buffer; return the name that it has."""

    def weights(self, weights: Weights | None) -> tuple[int, str] | None:
        """Keep weights of the encoder; return their version and name."""


class Finder(Protocol):
    """Finds what was kept."""

    def weights(self, row: Sequence[Any] | None) -> Weights | None:
        """Return weights of the encoder."""

    def place(self, name: str | None) -> Place | None:
        """Return where bytes lie."""


def dump(encoder: EncoderState, keeper: Keeper) -> dict[str, Any]:
    """Return what an encoder has come to as plain data."""
    return {
        "weights": keeper.weights(encoder.weights),
        "queue": [_dump_waiting(waiting, keeper) for waiting in encoder.queue],
        "passes": [
            (
                number,
                [_dump_waiting(waiting, keeper) for waiting in under_way.members],
                keeper.weights(under_way.weights),
                under_way.replica,
                under_way.head,
            )
            for number, under_way in encoder.passes.items()
        ],
        "begun": encoder.begun,
        "features": [
            (client, keeper.save(f"features/{client}", place))
            for client, place in sorted(encoder.features.items())
        ],
        "embedded": sorted(encoder.embedded),
        "equipped": sorted(encoder.equipped.items()),
    }


def load(data: Mapping[str, Any], split: SplitPlan, finder: Finder) -> EncoderState:
    """Read what `dump` wrote; passes are begun again by who reads it."""
    return EncoderState(
        weights=_there(finder.weights(data["weights"])),
        queue=[waiting(row, split, finder) for row in data["queue"]],
        begun=data["begun"],
        features={client: _there(finder.place(name)) for client, name in data["features"]},
        embedded=set(data["embedded"]),
        equipped=dict(map(tuple, data["equipped"])),
    )


def _dump_waiting(asked: Waiting, keeper: Keeper) -> list[Any]:
    client, number = asked.address
    before = asked.before
    return [
        asked.address,
        asked.base,
        asked.exchange,
        asked.ends.blocks,
        asked.step,
        keeper.save(f"question/{client}/{number}/{asked.step}", asked.question),
        None if before is None else keeper.save(f"before/{client}/{number}", before),
        asked.brought,
        keeper.weights(asked.weights),
        asked.rows,
    ]


def waiting(row: Sequence[Any], split: SplitPlan, finder: Finder) -> Waiting:
    """Read a question back."""
    address, base, exchange, blocks, step, question, before, brought, weights, rows = row
    return Waiting(
        Address(*address),
        Version(*base),
        Exchange(*exchange),
        split.ends[blocks],
        step,
        _there(finder.place(question)),
        finder.place(before),
        Exchange(*brought),
        finder.weights(weights),
        rows,
    )


def dump_talk(talk: Talk, name: str, keeper: Keeper) -> dict[str, Any]:
    """Return an assignment's exchanges as plain data."""
    process = talk.process
    kept = {"carry": talk.carry, "reply": talk.reply, "question": talk.question}
    return {
        "process": (process.examples, process.ends.blocks, process.known),
        **{
            what: None if place is None else keeper.save(f"{what}-of/{name}", place)
            for what, place in kept.items()
        },
        "part": talk.part,
        "brought": talk.brought,
        "weights": keeper.weights(talk.weights),
        "until_s": talk.until_s,
        "held": talk.held,
        "waits": talk.waits,
        "forgotten": talk.forgotten,
    }


def talk(row: Mapping[str, Any], portion: Portion, split: SplitPlan, finder: Finder) -> Talk:
    """Read what `dump_talk` wrote."""
    examples, cut, known = row["process"]
    return Talk(
        split.process(examples, cut, known=known, portion=portion),
        part=row["part"],
        carry=finder.place(row["carry"]),
        reply=finder.place(row["reply"]),
        question=finder.place(row["question"]),
        brought=Exchange(*row["brought"]),
        weights=finder.weights(row["weights"]),
        until_s=row["until_s"],
        held=row["held"],
        waits=row["waits"],
        forgotten=row["forgotten"],
    )


def _there(found: T | None) -> T:
    if found is None:
        raise RunError("the checkpoint lacks a part of the encoder's state")
    return found
