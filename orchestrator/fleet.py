"""Who takes part, and how long does what take them?

Draws a fleet from its settings: which client has which device, how fast its copy of the device is,
and what a transfer or a piece of work costs it in seconds and joules.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, SerializeAsAny, ValidationError, WrapValidator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from orchestrator.devices import CATALOGUE, Profile
from policies.base import Policy, Settings, open_union
from policies.types import ExperimentError, stream
from policies.units import Bytes, Flops

_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Sigma = Annotated[float, Field(ge=0, le=5)]

INSTANT: Final = "instant"
"""A server profile that takes no virtual time."""
COPIES_IN_TRAINING: Final = 4
"""Float32 copies of the parameters in memory: model, gradient, momentum, base. Our estimate."""


# ------------------------------------------------------------------ settings


class ActorResources(Settings):
    """What Ray reserves for one client's actor; says nothing about the modelled device."""

    num_cpus: _Amount = 0.1
    num_gpus: _Amount = 0.0
    memory: Bytes | None = None
    custom: dict[str, _Amount] = Field(default_factory=dict)


class MixEntry(Settings):
    """One kind of device in the fleet.

    Attributes:
        profile: A name of the catalogue or of the file's own profiles, which come first.
        share: Weight of this entry; the shares of a mix need not add up to 1.
        resources: What Ray reserves for each of these clients.
    """

    profile: str
    share: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    resources: ActorResources = ActorResources()


class JitterPolicy(Policy):
    """How much one piece of work differs from the next on the same device."""

    @abstractmethod
    def factor(self, seed: int, client: int, number: int) -> float:
        """Return the multiplier of the compute time of dispatch `number`, with mean 1."""


class NoJitter(JitterPolicy):
    """Every piece of work takes what it takes."""

    kind: Literal["none"] = "none"

    def factor(self, seed: int, client: int, number: int) -> float:  # noqa: ARG002  # the family's
        """Return 1."""
        return 1.0


class LognormalJitter(JitterPolicy):
    """Multiply by ``exp(sigma z - sigma^2 / 2)``, z standard normal: mean 1. Our choice."""

    kind: Literal["lognormal"] = "lognormal"
    sigma: _Sigma = 0.25

    def factor(self, seed: int, client: int, number: int) -> float:
        """Return a draw that depends on the three names alone."""
        z = stream(seed, "jitter", client, number).standard_normal()
        return math.exp(self.sigma * z - self.sigma**2 / 2)


Jitter = Annotated[
    Annotated[NoJitter | LognormalJitter, Field(discriminator="kind")],
    WrapValidator(open_union(JitterPolicy)),
    SerializeAsAny(),
]


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
        profiles: Profiles of the file's own; the key is the name.
        jitter: Differences from one piece of work to the next.
        spread: Sigma of a lognormal factor, mean 1, between devices of one profile; drawn once
            a client.
    """

    clients: Annotated[int, Field(ge=1, le=10_000_000)]
    mix: Annotated[tuple[MixEntry, ...], Field(min_length=1)]
    profiles: dict[str, Profile] = Field(default_factory=dict)
    jitter: Jitter = NoJitter()
    spread: _Sigma = 0.0

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        """Refuse unknown profiles, each at its own place in the file."""
        known = self.known_profiles()
        wrong = [
            InitErrorDetails(
                type=_unknown_profile(entry.profile, known),
                loc=("mix", at, "profile"),
                input=entry.profile,
            )
            for at, entry in enumerate(self.mix)
            if entry.profile not in known
        ]
        wrong += [
            InitErrorDetails(
                type=PydanticCustomError(
                    "profile_name",
                    "must be {key}, like its key, got {name}. Leave the name out.",
                    {"key": key, "name": profile.name},
                ),
                loc=("profiles", key, "name"),
                input=profile.name,
            )
            for key, profile in self.profiles.items()
            if profile.name not in ("", key)
        ]
        if wrong:
            raise ValidationError.from_exception_data(type(self).__name__, wrong)
        return self

    def known_profiles(self) -> dict[str, Profile]:
        """Return the catalogue with the file's own profiles, which come before it."""
        own = {key: p.model_copy(update={"name": key}) for key, p in self.profiles.items()}
        return CATALOGUE | own


class ServerSettings(Settings):
    """The section `server`: the device that aggregates and corrects.

    Attributes:
        profile: A name of the catalogue, or `instant`: no virtual time at all.
        flops: The server's speed instead of the profile's, FLOP/s.
    """

    profile: str = "workstation"
    flops: Annotated[Flops, Field(gt=0)] | None = None

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
            detail = InitErrorDetails(type=error, loc=(name,), input=getattr(self, name))
            raise ValidationError.from_exception_data(type(self).__name__, [detail])
        return self

    def service_s(self, flops: float) -> float:
        """Return the seconds that `flops` operations take; 0 for `instant`."""
        if self.profile == INSTANT:
            return 0.0
        return flops / (self.flops or CATALOGUE[self.profile].flops)


# ------------------------------------------------------------------ the fleet


def apportion(shares: Sequence[float], clients: int) -> list[int]:
    """Divide `clients` by `shares` with largest remainders.

    Args:
        shares: Weights > 0; at least one.
        clients: What to divide, >= 0.

    Returns:
        Counts that add up to `clients`, each within 1 of its exact share. Of equal remainders the
        earlier one gets the client.
    """
    exact = [Fraction(share) for share in shares]
    quotas = [clients * share / sum(exact) for share in exact]
    counts = [math.floor(quota) for quota in quotas]
    order = sorted(range(len(quotas)), key=lambda at: counts[at] - quotas[at])
    for at in order[: clients - sum(counts)]:
        counts[at] += 1
    return counts


class Fleet:
    """Clients and what things cost them; arrays inside, so that 100,000 are no burden.

    Args:
        settings: The section `fleet`.
        seed: The experiment's seed.
        entries: Index into `settings.mix`, one a client, shape (clients,).
        speeds: Factor of the profile's FLOP/s, one a client, shape (clients,).
    """

    def __init__(
        self,
        settings: FleetSettings,
        seed: int,
        entries: npt.NDArray[np.int64],
        speeds: npt.NDArray[np.float64],
    ) -> None:
        self.settings = settings
        self.seed = seed
        self.entries = entries
        self.speeds = speeds
        known = settings.known_profiles()
        self._profiles = [known[entry.profile] for entry in settings.mix]
        self._flops = np.array([profile.flops for profile in self._profiles])[entries] * speeds

    @classmethod
    def draw(cls, settings: FleetSettings, seed: int) -> Fleet:
        """Draw a fleet; equal settings and seed give an equal one, on every machine."""
        counts = apportion([entry.share for entry in settings.mix], settings.clients)
        in_order = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        entries = stream(seed, "fleet").permutation(in_order)
        z = stream(seed, "spread").standard_normal(settings.clients)
        speeds = np.exp(settings.spread * z - settings.spread**2 / 2)
        return cls(settings, seed, entries, speeds)

    def __len__(self) -> int:
        return len(self.entries)

    def counts(self) -> Mapping[str, int]:
        """Return how many clients have each profile, in the order of the mix."""
        found = np.bincount(self.entries, minlength=len(self._profiles))
        counts = dict.fromkeys((profile.name for profile in self._profiles), 0)
        for profile, count in zip(self._profiles, found, strict=True):
            counts[profile.name] += int(count)
        return counts

    def profile_of(self, client: int) -> Profile:
        """Return the client's device; its own copy may be faster or slower by `spread`."""
        return self._profiles[self._entry(client)]

    def resources_of(self, client: int) -> ActorResources:
        """Return what Ray reserves for the client's actor."""
        return self.settings.mix[self._entry(client)].resources

    def download_s(self, client: int, size: int) -> float:
        """Return the seconds until `size` bytes have reached the client."""
        profile = self.profile_of(client)
        return profile.latency_s + 8 * size / profile.downlink

    def upload_s(self, client: int, size: int) -> float:
        """Return the seconds until `size` bytes from the client have reached the server."""
        profile = self.profile_of(client)
        return profile.latency_s + 8 * size / profile.uplink

    def compute_s(self, client: int, number: int, flops: float) -> float:
        """Return the seconds that `flops` operations take in dispatch `number` of the client."""
        self._entry(client)
        factor = self.settings.jitter.factor(self.seed, client, number)
        return float(flops / self._flops[client]) * factor

    def compute_j(self, client: int, seconds: float) -> float:
        """Return the joules of `seconds` of computing."""
        return self.profile_of(client).compute_watts * seconds

    def transfer_j(self, client: int, seconds: float) -> float:
        """Return the joules of `seconds` of sending or receiving."""
        return self.profile_of(client).radio_watts * seconds

    def fingerprint(self) -> str:
        """Return 16 hex digits that are equal for equal fleets and differ for others."""
        digest = hashlib.blake2b(digest_size=8)
        settings = self.settings.model_dump(mode="json", serialize_as_any=True)
        profiles = [profile.model_dump(mode="json") for profile in self._profiles]
        digest.update(json.dumps([self.seed, settings, profiles], sort_keys=True).encode())
        digest.update(self.entries.astype("<i8").tobytes())
        digest.update(self.speeds.astype("<f8").tobytes())
        return digest.hexdigest()

    def _entry(self, client: int) -> int:
        if not 0 <= client < len(self.entries):
            raise ExperimentError(
                f"client must lie in [0, {len(self.entries) - 1}], got {client}. "
                "Raise fleet.clients or ask for another client."
            )
        return int(self.entries[client])


def fits(
    profile: Profile, parameters: int, activation_bytes_per_example: int, batch_size: int
) -> str | None:
    """Say why training a model needs more memory than a device has, or return None.

    Args:
        profile: The device.
        parameters: Parameters of the model, float32.
        activation_bytes_per_example: What the forward pass keeps for the backward pass.
        batch_size: Examples a step.

    Returns:
        A message with the numbers and the way out, or None if it fits.

    Source:
        Our estimate: 4 copies of the parameters (model, gradient, momentum, base) and the
        activations of one batch. Frameworks add some hundred MB.
    """
    weights = COPIES_IN_TRAINING * 4 * parameters
    activations = activation_bytes_per_example * batch_size
    if weights + activations <= profile.memory_bytes:
        return None
    if weights >= profile.memory_bytes:
        way_out = f"Take a model of at most {profile.memory_bytes // 16:,} parameters"
    else:
        most = (profile.memory_bytes - weights) // activation_bytes_per_example
        way_out = f"Lower batch_size to {most}" if most else "Take a smaller model"
    return (
        f"{profile.name} has {_size(profile.memory_bytes)} for training and needs "
        f"{_size(weights + activations)}: {_size(weights)} for {COPIES_IN_TRAINING} copies of "
        f"{parameters:,} float32 parameters, {_size(activations)} for the activations of "
        f"{batch_size} examples. {way_out}, or leave {profile.name} out of the mix."
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10**9 else f"{count / 1e6:.2f} MB"
