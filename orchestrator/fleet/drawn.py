"""Which client has which device, where does it live, and what does what cost it?

A fleet is drawn from its settings. Arrays hold what differs from client to client; the rest is a
function of the client, the number of the assignment and the time, the same in whatever order it
is asked.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from orchestrator.fleet.catalogue import OnLeave, Profile
from orchestrator.fleet.cells import Cell
from orchestrator.fleet.links import Region, Way
from orchestrator.fleet.presence import Presence
from orchestrator.fleet.resources import ActorResources
from orchestrator.fleet.settings import FleetSettings
from orchestrator.fleet.spans import Span, Windows, always, carry, through, until
from policies.counter import uniforms
from policies.types import ExperimentError, Positions, stream

TRAINING: Final = "training"
"""The purpose of work that is drawn under the numbers of dispatches themselves."""


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


def _dealt(shares: Sequence[float], clients: int, seed: int, purpose: str) -> Positions:
    """Give each client one of the shares, in an order that the seed decides."""
    counts = apportion(shares, clients)
    in_order = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return stream(seed, purpose).permutation(in_order)


def _piece(purpose: str, number: int) -> int:
    """Return the counter that names a piece of work: below 0 if its purpose is not training."""
    if purpose == TRAINING:
        return number
    name = hashlib.blake2b(f"{purpose}/{number}".encode(), digest_size=8).digest()
    return -1 - (int.from_bytes(name, "little") >> 1)


class Fleet:
    """Clients and what things cost them; arrays inside, so that 100,000 are no burden.

    Args:
        settings: The section `fleet`.
        seed: The experiment's seed.
        entries: Index into `settings.mix`, one a client, shape (clients,).
        regions: Index into `settings.regions`, one a client, shape (clients,).
        speeds: Factor of the profile's FLOP/s, one a client, shape (clients,).
    """

    def __init__(
        self,
        settings: FleetSettings,
        seed: int,
        entries: Positions,
        regions: Positions,
        speeds: npt.NDArray[np.float64],
    ) -> None:
        self.settings = settings
        self.seed = seed
        self.entries = entries
        self.regions = regions
        self.speeds = speeds
        known = settings.known_profiles()
        self._profiles = [known[entry.profile] for entry in settings.mix]
        self._flops = np.array([profile.flops for profile in self._profiles])[entries] * speeds
        self._regions = list(settings.regions.values()) or [Region()]
        self._cells = [region.cell for region in self._regions if region.cell is not None]
        self._drop_outs = settings.drop_outs()
        self._presence = Presence(seed, settings.stays(), entries)
        # The same memory: looked up one by one, that takes a quarter of the time.
        self._entry_of = entries.data
        self._region_of = regions.data

    @classmethod
    def draw(cls, settings: FleetSettings, seed: int) -> Fleet:
        """Draw a fleet; equal settings and seed give an equal one, on every machine."""
        clients = settings.clients
        entries = _dealt([entry.share for entry in settings.mix], clients, seed, "fleet")
        if settings.order == "listed":
            entries = np.sort(entries)
        shares = [region.share for region in settings.regions.values()] or [1.0]
        regions = _dealt(shares, clients, seed, "regions")
        speeds = settings.spread_of_devices().speeds(seed, clients)
        return cls(settings, seed, entries, regions, speeds)

    # ------------------------------------------------------------ who is who

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

    def memory_bytes(self) -> npt.NDArray[np.int64]:
        """Return what training may take on each client's device, bytes, shape (clients,)."""
        of_entries = np.array([p.memory_bytes for p in self._profiles], dtype=np.int64)
        return of_entries[self.entries]

    def region_of(self, client: int) -> str:
        """Return the name of the client's region, or "" if there are none."""
        self._entry(client)
        return [*self.settings.regions, ""][int(self.regions[client])]

    def resources_of(self, client: int) -> ActorResources:
        """Return what Ray reserves for the client's actor: its own, and its cell's custom ones."""
        return self._resources(self._entry(client), int(self.regions[client]))

    def resources(self) -> list[tuple[ActorResources, int]]:
        """Return what Ray reserves for clients' actors, and for how many, by entry and cell."""
        places = max(1, len(self._cells))
        kinds = self.entries * places + (self.regions if self._cells else 0)
        counts = np.bincount(kinds, minlength=places * len(self.settings.mix)).tolist()
        return [(self._resources(*divmod(at, places)), n) for at, n in enumerate(counts) if n]

    def profile_names(self) -> list[str]:
        """Return the name of each client's device."""
        return [self._profiles[entry].name for entry in self.entries.tolist()]

    def region_names(self) -> list[str]:
        """Return the name of each client's region, "" for all if there are none."""
        names = [*self.settings.regions] or [""]
        return [names[region] for region in self.regions.tolist()]

    def on_leave(self, client: int) -> OnLeave:
        """Return what becomes of work under way when the client goes."""
        return self.profile_of(client).on_leave

    def fingerprint(self) -> str:
        """Return 16 hex digits that are equal for equal fleets and differ for others."""
        digest = hashlib.blake2b(digest_size=8)
        settings = self.settings.model_dump(mode="json", serialize_as_any=True)
        for region in settings["regions"].values():
            if region["cell"] is None:  # a fleet without cells is what it was before there were any
                del region["cell"]
        profiles = [profile.model_dump(mode="json") for profile in self._profiles]
        digest.update(json.dumps([self.seed, settings, profiles], sort_keys=True).encode())
        for array in (self.entries, self.regions):
            digest.update(array.astype("<i8").tobytes())
        digest.update(self.speeds.astype("<f8").tobytes())
        for policy in (self.settings.link, *(stay.policy for stay in self.settings.stays())):
            for file in policy.files():
                digest.update(file.read_bytes())
        return digest.hexdigest()

    # ------------------------------------------------------------ cells

    @property
    def cells(self) -> list[Cell]:
        """Every region's cell, in the order of the regions; none if there are no cells."""
        return list(self._cells)

    @property
    def cell_numbers(self) -> Positions | None:
        """Index into `cells`, one a client, shape (clients,); None if there are no cells."""
        return self.regions if self._cells else None

    def cell_names(self) -> list[str]:
        """Return the name of each cell, which is its region's, in the order of `cells`."""
        return [*self.settings.regions] if self._cells else []

    def gather_s(self, cell: int, size_bytes: int) -> float:
        """Return how long `size_bytes` take from a cell to the parameter server."""
        return self._cell(cell).gather_s(size_bytes)

    def spread_s(self, cell: int, size_bytes: int) -> float:
        """Return how long `size_bytes` take from the parameter server to a cell."""
        return self._cell(cell).spread_s(size_bytes)

    # ------------------------------------------------------------ what work takes

    def download(
        self, client: int, start_s: float, size_bytes: int, *, until_s: float = math.inf
    ) -> Span:
        """Return when `size_bytes` that are sent at `start_s` have reached the client.

        Clients that are `paused` or `late` when they go receive and send nothing while they are
        away; of those that are `lost` absences are left out here: whoever asks says `until_s`.

        Args:
            client: Who receives.
            start_s: When it begins.
            size_bytes: How much.
            until_s: From this moment on nothing moves; what is not done by then never ends.
        """
        return self._transfer(client, start_s, size_bytes, until_s, "downlink")

    def upload(
        self, client: int, start_s: float, size_bytes: int, *, until_s: float = math.inf
    ) -> Span:
        """Return when `size_bytes` that the client sends at `start_s` are here; see `download`."""
        return self._transfer(client, start_s, size_bytes, until_s, "uplink")

    def compute(
        self,
        client: int,
        number: int,
        start_s: float,
        flops: float,
        density: float = 1.0,
        purpose: str = TRAINING,
        *,
        until_s: float = math.inf,
    ) -> Span:
        """Return when work that begins at `start_s` is done.

        Args:
            client: Whose work it is; one that is `paused` when it goes does nothing while it is
                away.
            number: Which of its dispatches, or which of its pieces of work for another purpose.
            start_s: When it begins; the jitter of that moment holds to the end.
            flops: Operations that a dense model would take.
            density: Share of the model's parameters that are not zero.
            purpose: What it is for; two purposes share no draws of the jitter.
            until_s: From this moment on nothing is done; what is not done by then never ends.
        """
        profile = self.profile_of(client)
        piece = _piece(purpose, number)
        factor = self.settings.jitter.factor(self.seed, client, piece, start_s)
        seconds = float(flops / self._flops[client]) * factor / profile.speedup(density)
        return through(start_s, seconds, until(self._windows(client, {"paused"}), until_s))

    def nominal_s(self, client: int, flops: float) -> float:
        """Return what a dense model's work takes a client's device without jitter or absences."""
        return float(flops / self._flops[client])

    def compute_j(self, client: int, seconds: float) -> float:
        """Return the joules of `seconds` of computing."""
        return self.profile_of(client).compute_watts * seconds

    def transfer_j(self, client: int, seconds: float) -> float:
        """Return the joules of `seconds` of sending or receiving."""
        return self.profile_of(client).radio_watts * seconds

    def drops_out_at(self, client: int, number: int) -> float | None:
        """Return the share of the work at which a client abandons a dispatch; None if it does not.

        Returns:
            In (0, 1), uniform, with the probability `drop_out`.
        """
        chance = self._drop_outs[self._entry(client)]
        if chance == 0 or uniforms(self.seed, "drop-out", client, number)[0] >= chance:
            return None
        return float(uniforms(self.seed, "drop-out-share", client, number)[0])

    # ------------------------------------------------------------ who is there

    @property
    def always_there(self) -> bool:
        """Whether all clients are there at all times."""
        return self._presence.always

    def present(self, time_s: float) -> npt.NDArray[np.bool_]:
        """Return who is there, shape (clients,); cheap if the times that are asked for grow."""
        return self._presence.look(time_s).there.copy()

    def away_from(self, client: int, time_s: float) -> float:
        """Return the first moment from `time_s` on at which the client is away, or infinity."""
        self._entry(client)
        return self._presence.away_from(client, time_s)

    def back_at(self, client: int, time_s: float) -> float:
        """Return the first moment from `time_s` on at which the client is there, or infinity."""
        self._entry(client)
        return self._presence.back_at(client, time_s)

    def stays(self, client: int, time_s: float) -> Iterator[tuple[float, float]]:
        """Yield (comes, goes) of the client from `time_s` on; it may never end."""
        self._entry(client)
        return self._presence.windows(client, time_s)

    def next_arrival(self, time_s: float, among: npt.NDArray[np.bool_] | None = None) -> float:
        """Return the earliest moment after `time_s` at which somebody comes who is away then.

        Args:
            time_s: A moment in virtual time.
            among: Who counts, shape (clients,); None is everybody.

        Returns:
            Infinity if nobody comes.
        """
        there, until_s = self._presence.look(time_s)
        away = ~there if among is None else among & ~there
        return float(until_s[away].min(initial=math.inf))

    def returning(self, time_s: float) -> npt.NDArray[np.bool_]:
        """Return who is there at `time_s` or will ever come again, shape (clients,)."""
        there, until_s = self._presence.look(time_s)
        return np.asarray(there | (until_s < math.inf))

    # ------------------------------------------------------------ inside

    def _transfer(
        self, client: int, start_s: float, size_bytes: int, until_s: float, way: Way
    ) -> Span:
        profile = self.profile_of(client)
        region = self._regions[self._region_of[client]]
        nominal = (profile.uplink if way == "uplink" else profile.downlink) * region.bandwidth
        pieces = partial(self.settings.link.pieces, self.seed, client, way=way, nominal=nominal)
        windows = until(self._windows(client, {"paused", "late"}), until_s)
        return carry(start_s, profile.latency_s + region.latency_s, 8 * size_bytes, pieces, windows)

    def _windows(self, client: int, waits: set[OnLeave]) -> Windows:
        """Return when work of a client goes on that waits if `on_leave` is one of `waits`."""
        if self.always_there or self.on_leave(client) not in waits:
            return always
        return partial(self._presence.windows, client)

    def _resources(self, entry: int, region: int) -> ActorResources:
        """Return what a client of an entry reserves in a region; its own word comes first."""
        own, cell = self.settings.mix[entry].resources, self._regions[region].cell
        if cell is None or not cell.resources.custom:
            return own
        return own.model_copy(update={"custom": cell.resources.custom | own.custom})

    def _cell(self, number: int) -> Cell:
        if not 0 <= number < len(self._cells):
            raise ExperimentError(
                f"there are {len(self._cells)} cells, counted from 0, and {number} is none of "
                "them. Give every region of fleet.regions a cell or ask for another one."
            )
        return self._cells[number]

    def _entry(self, client: int) -> int:
        if not 0 <= client < len(self._entry_of):
            raise ExperimentError(
                f"client must lie in [0, {len(self.entries) - 1}], got {client}. "
                "Raise fleet.clients or ask for another client."
            )
        return self._entry_of[client]
