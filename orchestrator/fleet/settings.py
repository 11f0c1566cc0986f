"""What do the sections `fleet` and `server` of an experiment file hold?"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from orchestrator.fleet.availability import Always, Availability
from orchestrator.fleet.catalogue import CATALOGUE, Profile
from orchestrator.fleet.files import merged_profiles
from orchestrator.fleet.jitter import Jitter, LognormalSpread, NoJitter, ParetoSpread, Spread
from orchestrator.fleet.links import Link, Region, SteadyLink
from orchestrator.fleet.presence import Stay
from orchestrator.fleet.resources import ActorResources
from policies.base import Settings
from policies.units import Flops, Seconds

_Chance = Annotated[float, Field(ge=0, lt=1)]

INSTANT: Final = "instant"
"""A server profile that takes no virtual time."""
_LATEST_S: Final = 1e10
"""Until then the shortest periods that can be set can be told apart."""


class MixEntry(Settings):
    """One kind of device in the fleet.

    Attributes:
        profile: A name of the catalogue or of the file's own profiles, which come first.
        share: Weight of this entry; the shares of a mix need not add up to 1.
        resources: What Ray reserves for each of these clients.
        availability: When these clients are there, instead of the fleet's.
        joins_s: Before this moment none of them is there.
        leaves_s: From this moment on none of them is there.
        drop_out: Probability that one of them abandons an assignment, instead of the fleet's.
    """

    profile: str
    share: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    resources: ActorResources = ActorResources()
    availability: Availability | None = None
    joins_s: Seconds = 0.0
    leaves_s: Seconds | None = None
    drop_out: _Chance | None = None

    @model_validator(mode="after")
    def _joins_in_time(self) -> Self:
        if self.joins_s > _LATEST_S:
            error = PydanticCustomError(
                "joins",
                "must be at most {most} s, some 300 years, got {joins} s.",
                {"most": f"{_LATEST_S:g}", "joins": f"{self.joins_s:g}"},
            )
            raise _refused(self, [(error, ("joins_s",), self.joins_s)])
        return self

    @model_validator(mode="after")
    def _joins_before_it_leaves(self) -> Self:
        if self.leaves_s is not None and self.leaves_s <= self.joins_s:
            error = PydanticCustomError(
                "leaves",
                "must be after joins_s = {joins} s, got {leaves} s.",
                {"joins": f"{self.joins_s:g}", "leaves": f"{self.leaves_s:g}"},
            )
            raise _refused(self, [(error, ("leaves_s",), self.leaves_s)])
        return self


def _refused(
    model: object, wrong: Iterable[tuple[PydanticCustomError, tuple[str | int, ...], Any]]
) -> ValidationError:
    """Return an error that has each mistake at its own place in the file."""
    details = [InitErrorDetails(type=error, loc=at, input=given) for error, at, given in wrong]
    name = model.__name__ if isinstance(model, type) else type(model).__name__
    return ValidationError.from_exception_data(name, details)


def _unknown_profile(name: str, known: Iterable[str]) -> PydanticCustomError:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(names)}."
    return PydanticCustomError(
        "unknown_profile",
        "is no known profile: {name}. {hint}",
        {"name": name, "hint": hint},
    )


class FleetSettings(Settings):
    """The section `fleet` of an experiment file.

    Attributes:
        clients: How many there are.
        mix: The kinds of device; counts are the shares by largest remainder, exact in sum.
        order: `shuffled` draws which client has which device; `listed` gives the first clients
            the first device of the mix, and so on.
        profiles: Profiles of the file's own; the key is the name.
        profile_files: YAML files with more of them. What they hold moves to `profiles`, so that
            a run needs them only once.
        jitter: Differences from one piece of work to the next.
        spread: A factor, mean 1, between devices of one profile, drawn once a client; a number is
            the sigma of a lognormal one.
        link: How bandwidth changes over time.
        regions: Where clients live; the key is the name. None: all in one place.
        availability: When clients are there.
        drop_out: Probability that a client abandons an assignment in the midst of its work.
    """

    clients: Annotated[int, Field(ge=1, le=10_000_000)]
    mix: Annotated[tuple[MixEntry, ...], Field(min_length=1)]
    order: Literal["shuffled", "listed"] = "shuffled"
    profiles: dict[str, Profile] = Field(default_factory=dict)
    profile_files: tuple[str, ...] = ()
    jitter: Jitter = NoJitter()
    spread: Spread = 0.0
    link: Link = SteadyLink()
    regions: dict[str, Region] = Field(default_factory=dict)
    availability: Availability = Always()
    drop_out: _Chance = 0.0

    @model_validator(mode="before")
    @classmethod
    def _take_in_files(cls, data: Any) -> Any:
        """Put the profiles of the files among those of the section, which come first."""
        if not isinstance(data, dict):
            return data
        paths, own = data.get("profile_files"), data.get("profiles", {})
        if not (paths and isinstance(paths, list | tuple) and isinstance(own, dict)):
            return data
        if not all(isinstance(path, str) for path in paths):
            return data
        profiles, wrong = merged_profiles(paths)
        if wrong:
            raise _refused(
                cls,
                [
                    (
                        PydanticCustomError("profile_file", "{text}", {"text": text}),
                        ("profile_files", at),
                        paths[at],
                    )
                    for at, text in wrong.items()
                ],
            )
        return {**data, "profiles": profiles | own, "profile_files": ()}

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        """Refuse unknown profiles, each at its own place in the file."""
        known = self.known_profiles()
        wrong: list[tuple[PydanticCustomError, tuple[str | int, ...], Any]] = [
            (_unknown_profile(entry.profile, known), ("mix", at, "profile"), entry.profile)
            for at, entry in enumerate(self.mix)
            if entry.profile not in known
        ]
        wrong += [
            (
                PydanticCustomError(
                    "profile_name",
                    "must be {key}, like its key, got {name}. Leave the name out.",
                    {"key": key, "name": profile.name},
                ),
                ("profiles", key, "name"),
                profile.name,
            )
            for key, profile in self.profiles.items()
            if profile.name not in ("", key)
        ]
        if wrong:
            raise _refused(self, wrong)
        return self

    @model_validator(mode="after")
    def _cells_everywhere(self) -> Self:
        """Refuse clients with a cell beside clients without one."""
        without = [name for name, region in self.regions.items() if region.cell is None]
        if without and len(without) < len(self.regions):
            error = PydanticCustomError(
                "some_cells",
                "must all have a cell or none of them, and {names} {verb} none. Give each one "
                "(cell: {empty} takes the defaults), or remove those of the others.",
                {
                    "names": ", ".join(without),
                    "verb": "has" if len(without) == 1 else "have",
                    "empty": "{}",
                },
            )
            raise _refused(self, [(error, ("regions",), without)])
        return self

    def has_cells(self) -> bool:
        """Return whether clients have a cell; all of them have, or none has."""
        return any(region.cell is not None for region in self.regions.values())

    def known_profiles(self) -> dict[str, Profile]:
        """Return the catalogue with the file's own profiles, which come before it."""
        own = {key: p.model_copy(update={"name": key}) for key, p in self.profiles.items()}
        return CATALOGUE | own

    def spread_of_devices(self) -> LognormalSpread | ParetoSpread:
        """Return `spread`, a plain number as the lognormal that it stands for."""
        spread = self.spread
        return LognormalSpread(sigma=spread) if isinstance(spread, int | float) else spread

    def stays(self) -> list[Stay]:
        """Return when the clients of each entry of the mix are there."""
        return [
            Stay(
                entry.availability or self.availability,
                entry.joins_s,
                math.inf if entry.leaves_s is None else entry.leaves_s,
            )
            for entry in self.mix
        ]

    def drop_outs(self) -> list[float]:
        """Return the probability of dropping out for each entry of the mix."""
        return [self.drop_out if e.drop_out is None else e.drop_out for e in self.mix]


class ServerSettings(Settings):
    """The section `server`: the device that aggregates and corrects.

    Attributes:
        profile: A name of the catalogue, or `instant`: no virtual time at all.
        flops: The server's speed instead of the profile's, FLOP/s.
        shards: Parameter-server actors, each with a part of the model; they change no number.
    """

    profile: str = "workstation"
    flops: Annotated[Flops, Field(gt=0)] | None = None
    shards: Annotated[int, Field(ge=1, le=1024)] = 1

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        known = [*CATALOGUE, INSTANT]
        error: PydanticCustomError | None = None
        name = "profile"
        if self.profile not in known:
            error = _unknown_profile(self.profile, known)
        elif self.profile == INSTANT and self.flops is not None:
            name = "flops"
            error = PydanticCustomError(
                "instant_flops", "must be left out for the profile instant. Choose one of the two."
            )
        if error is not None:
            raise _refused(self, [(error, (name,), getattr(self, name))])
        return self

    def service_s(self, flops: float) -> float:
        """Return the seconds that `flops` operations take; 0 for `instant`."""
        if self.profile == INSTANT:
            return 0.0
        return flops / (self.flops or CATALOGUE[self.profile].flops)

    def seconds_at(self, speed: float | None) -> Callable[[float], float]:
        """Return what tells the seconds of FLOPs at another speed, FLOP/s; its own if None."""
        return self.service_s if speed is None else lambda flops: flops / speed
