"""Which data sources and pretrained encoders are there, and is what they read?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from actors.learning.encoders import Encoder
from orchestrator.annotations import Slot
from orchestrator.experiment import Experiment


@dataclass(frozen=True, slots=True)
class Source:
    """A data source, or an encoder, that has a name.

    Attributes:
        missing: What was looked for and the way out, or None: it is there, or is the user's.
        needs: Settings without which it cannot be told, such as a folder of the user's.
    """

    missing: str | None = None
    needs: tuple[str, ...] = ()


def known_sources() -> Mapping[str, Source]:
    """Return all sources by name.

    They are the members of the section `data` of an experiment, told apart by its tag.
    """
    slot = Slot.of_field(Experiment.model_fields["data"])
    return {str(name): _source(slot, str(name)) for name in slot.kinds()}


def known_encoders() -> Mapping[str, Source]:
    """Return all pretrained encoders by name."""
    slot = Slot.of(Encoder)
    return {str(name): _source(slot, str(name)) for name in slot.kinds()}


def _source(slot: Slot, name: str) -> Source:
    given: dict[str, Any] = {slot.tag: name}
    (member, *_) = slot.models(given)
    try:
        settings: Any = member(**given)
    except ValidationError as error:
        return Source(needs=tuple(".".join(map(str, one["loc"])) for one in error.errors()))
    return Source(missing=settings.missing())
