"""Does a client that catches up hold exactly what everybody else holds, for the fewest bytes?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from actors.publisher import Publisher, whole_message
from policies.aggregation import Applied, MajorityVote
from policies.sparsity import Downlink, DownlinkPolicy, Masks
from policies.types import Address, Buffer, Vector, Version
from policies.update import (
    Contribution,
    Mask,
    Masked,
    ModelSchema,
    Quantised,
    Sparse,
    TensorSpec,
    Update,
)
from policies.wire import decode, open_bundle

SCHEMA = ModelSchema(
    (
        TensorSpec("w", (20, 30), prunable=True),
        TensorSpec("b", (30,)),
        TensorSpec("mean", (4,), buffer=True),
    )
)
P = SCHEMA.parameters
ADAPTER: TypeAdapter[DownlinkPolicy] = TypeAdapter(Downlink)
POLICIES = [
    {"kind": "dense"},
    {"kind": "dense", "values": "fp16"},
    {"kind": "dense", "values": "bf16"},
    {"kind": "dense", "values": "int8"},
    {"kind": "sparse"},
    {"kind": "difference"},
    {"kind": "difference", "ring": 4_000},
    {"kind": "top-k", "density": 0.1},
    {"kind": "top-k", "density": 0.1, "values": "level", "scope": "tensor"},
    {"kind": "top-k", "density": 0.1, "values": "int8"},
    {"kind": "top-k", "density": 0.1, "values": "fp16"},
]


@dataclass
class Holding:
    """What a client holds, kept by the messages alone, as docs/wire-format.md says."""

    values: Vector
    buffers: Vector
    version: Version
    masks: dict[int, Mask]

    def mask(self, epoch: int) -> Mask:
        return self.masks[epoch]


def receive(held: Holding | None, shipment: Buffer) -> Holding:
    """Read a shipment as a client would, who knows nothing but what it was sent before."""
    messages = [shipment] if bytes(shipment[:2]) == b"LC" else open_bundle(shipment, SCHEMA)
    for message in messages:
        held = _receive_one(held, message)
    assert held is not None
    return held


def _receive_one(held: Holding | None, message: Buffer) -> Holding:
    read = decode(message, SCHEMA, held.mask if held else None)
    header, content = read.header, read.content
    masks = dict(held.masks) if held else {}
    builds_on = header.examples
    values = np.zeros(P, dtype=np.float32)
    if builds_on:
        assert held is not None
        assert held.version.number == builds_on - 1
        values = held.values.copy()
    if isinstance(content, Masked):
        masks = {content.mask.epoch: content.mask}
        values = content.densify(P)
    elif header.kind == "delta":
        content.add_to(values, 1.0)
    elif isinstance(content, Sparse):
        values[content.positions] = content.values
    else:
        values = content.values.copy()
    return Holding(values, read.buffers.copy(), header.base, masks)


class Scene:
    """A server's model that moves, a publisher, and what each version was."""

    def __init__(self, policy: dict[str, Any], *, masked: bool = False, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.policy = ADAPTER.validate_python(policy)
        self.masks = Masks.start(P) if masked else None
        self.model = self.rng.standard_normal(SCHEMA.size).astype(np.float32)
        self.version = Version(0, 0)
        parts = (self.model[:P], self.model[P:], self.masks.newest if self.masks else None)
        first = whole_message(self.policy, SCHEMA, self.version, *parts)
        self.publisher = Publisher(self.policy, SCHEMA, first)
        if self.masks is not None:
            self.publisher.reset([first], self.masks)
        self.public = {self.version: first}

    def move(self, density: float = 0.05, *, dense: bool = False) -> None:
        """Change some of the model and publish."""
        self.version = Version(self.version.number + 1, 0)
        alive = np.arange(P) if self.masks is None else self.masks.newest.positions
        count = alive.size if dense else max(1, round(density * alive.size))
        positions = np.sort(self.rng.choice(alive, count, replace=False))
        self.model[positions] += self.rng.standard_normal(count).astype(np.float32)
        self.model[P:] += 1
        self._publish(Applied({}, None if dense else [positions]))

    def vote(self) -> None:
        """Move by a majority vote and publish."""
        self.version = Version(self.version.number + 1, 0)
        batch = []
        for client in range(3):
            positions = np.sort(self.rng.choice(P, P // 10, replace=False))
            signs = self.rng.choice([-1.0, 1.0], positions.size).astype(np.float32)
            content = Sparse(positions, signs, Quantised("sign", signs.astype(np.int8)))
            address, none = Address(client, 0), np.empty(0, dtype=np.float32)
            update = Update(address, Version(0, 0), "votes", content, none, 1, 0.0)
            batch.append(Contribution(update, 0))
        policy = MajorityVote(voters=3, step=0.01, minorities=False)
        self._publish(policy.apply(self.model[:P], {}, batch, self.version.number))

    def prune(self, density: float) -> None:
        """Narrow the mask and publish."""
        assert self.masks is not None
        self.version = Version(self.version.number + 1, 0)
        alive = self.masks.newest.positions
        kept = np.sort(self.rng.choice(alive, round(density * alive.size), replace=False))
        left = np.zeros(P, dtype=np.float32)
        left[kept] = self.model[kept]
        self.model[:P] = left
        self.masks = self.masks.narrow(kept, self.version.number)
        self._publish(Applied({}))

    def _publish(self, applied: Applied) -> None:
        message = self.publisher.publish(self.version, self.model, applied, self.masks).buffer
        self.public[self.version] = message

    def values(self, version: Version) -> Vector:
        return decode(self.public[version], SCHEMA).content.densify(P)


def check(scene: Scene, held: Holding | None) -> tuple[Holding, int]:
    """Ship the newest version to a client; return what it has now, and the bytes."""
    before = None if held is None else held.version
    quoted = scene.publisher.quote(before, scene.version)
    shipment = scene.publisher.ship(before, scene.version)
    assert quoted.bytes == shipment.size
    assert quoted.entropy_bytes <= shipment.size
    now = receive(held, shipment)
    assert now.version == scene.version
    assert now.values.tobytes() == scene.values(scene.version).tobytes()
    assert now.buffers.tobytes() == scene.model[P:].tobytes()
    return now, int(shipment.size)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_a_returning_client_catches_up_exactly(
    policy: dict[str, Any], moves: list[tuple[int, bool, bool]]
) -> None:
    """Whatever it missed, a client ends with the bits that everybody has."""
    scene = Scene(policy)
    clients: list[Holding | None] = [None] * 4
    for client, dense, returns in moves:
        scene.move(dense=dense)
        if returns:
            clients[client], _ = check(scene, clients[client])
    for client in clients:
        check(scene, client)


@given(st.lists(st.sampled_from(["move", "sparse move", "prune", "a", "b"]), max_size=12))
def test_masks_are_caught_up_exactly(moves: list[str]) -> None:
    """So does one that missed prunings, with the mask that goes with them."""
    scene = Scene({"kind": "difference"}, masked=True)
    clients: dict[str, Holding | None] = {"a": None, "b": None}
    for move in moves:
        if move == "prune":
            scene.prune(0.8)
        elif move in clients:
            clients[move], _ = check(scene, clients[move])
        else:
            scene.move(dense=move == "move")
    assert scene.masks is not None
    for client in clients.values():
        now, _ = check(scene, client)
        if now.masks:
            np.testing.assert_array_equal(
                now.masks[scene.masks.epoch].positions, scene.masks.newest.positions
            )


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_votes_are_repeated_exactly(gaps: list[int]) -> None:
    """A client that repeats the steps it missed has the bits that the server has."""
    scene = Scene({"kind": "difference"})
    held: Holding | None = None
    for gap in gaps:
        for _ in range(gap):
            scene.vote()
        held, _ = check(scene, held)


def test_a_small_change_is_a_small_message() -> None:
    """5 % of 630 values: 32 values and their positions instead of all."""
    scene = Scene({"kind": "difference"})
    held, whole = check(scene, None)
    scene.move(density=0.05)
    _, partly = check(scene, held)
    assert whole > 4 * P
    assert partly < 0.12 * whole


def test_nothing_new_is_nearly_nothing() -> None:
    """A client that trains twice from one version is not sent it again, but for the buffers."""
    scene = Scene({"kind": "difference"})
    held, _ = check(scene, None)
    _, again = check(scene, held)
    assert again < 60


def test_a_step_of_votes_takes_few_bits() -> None:
    """A majority vote's step takes position and sign, not 32 bits a value."""
    scene = Scene({"kind": "difference"})
    held, whole = check(scene, None)
    scene.vote()
    moved = np.count_nonzero(scene.values(scene.version) != held.values)
    _, step = check(scene, held)
    assert step < 70 + moved
    assert step < 0.1 * whole


def test_dense_aggregation_saves_nothing() -> None:
    """Where all has changed the whole model is sent."""
    scene = Scene({"kind": "difference"})
    held, whole = check(scene, None)
    scene.move(dense=True)
    assert check(scene, held)[1] == whole


def test_the_ring_goes_on() -> None:
    """Past what the server remembers, a client is sent the whole model; others are not."""
    scene = Scene({"kind": "difference", "ring": 700})
    old, whole = check(scene, None)
    for _ in range(3):
        scene.move(density=0.05)
    recent, _ = check(scene, None)
    scene.move(density=0.05)
    assert check(scene, old)[1] == whole
    assert check(scene, recent)[1] < 0.2 * whole


def test_a_mask_costs_its_change() -> None:
    """Under a known mask values alone are sent; after a pruning also what went, not what stayed."""
    scene = Scene({"kind": "difference"}, masked=True)
    held, _ = check(scene, None)
    scene.prune(0.8)
    living = scene.masks.newest.positions.size if scene.masks else 0
    held, narrowed = check(scene, held)
    assert 4 * living < narrowed < 4 * living + 0.8 * P / 8 + 60
    scene.move(dense=True)
    _, packed = check(scene, held)
    assert 4 * living < packed < 4 * living + 60


def test_a_model_of_zeros_is_sent_without_them() -> None:
    """`sparse` leaves zeros out, `dense` does not."""
    sizes = []
    for kind in ("sparse", "dense"):
        scene = Scene({"kind": kind})
        scene.model[: P // 2] = 0
        scene.move(density=0.01)
        sizes.append(check(scene, None)[1])
    assert sizes[0] < 0.6 * sizes[1]


@pytest.mark.parametrize("values", ["fp32", "fp16", "int8", "level"])
def test_a_lossy_downlink_keeps_one_residual(values: str) -> None:
    """What is not sent yet is the difference to the server's model, and shrinks to nothing."""
    scene = Scene({"kind": "top-k", "density": 0.2, "values": values, "scope": "tensor"})
    scene.move(density=0.3)
    behind = [float(np.abs(scene.model[:P] - scene.values(scene.version)).sum())]
    for _ in range(40):
        scene.version = Version(scene.version.number + 1, 0)
        scene._publish(Applied({}, []))
        behind.append(float(np.abs(scene.model[:P] - scene.values(scene.version)).sum()))
    assert behind[0] > 1
    assert behind[-1] < 0.02 * behind[0]
    assert behind[6] < 1e-6 or values != "fp32"


@pytest.mark.parametrize("values", ["fp16", "bf16", "int8"])
def test_fewer_bits_round_what_clients_hold(values: str) -> None:
    """The public model is the rounded one, and its message has the bits that it says."""
    scene = Scene({"kind": "dense", "values": values})
    held, size = check(scene, None)
    assert size < (0.3 if values == "int8" else 0.55) * 4 * P
    np.testing.assert_allclose(held.values, scene.model[:P], atol=0.03)
    assert held.values.tobytes() != scene.model[:P].tobytes()


@pytest.mark.parametrize("masked", [False, True])
def test_a_ring_survives_a_checkpoint(*, masked: bool) -> None:
    """A publisher that is loaded quotes and ships what the dumped one would have."""
    scene = Scene({"kind": "difference"}, masked=masked)
    held, _ = check(scene, None)
    scene.move(density=0.05)
    if masked:
        scene.prune(0.9)
    else:
        scene.vote()
        scene.move(dense=True)
    scene.move(density=0.1)
    other = Publisher(scene.policy, SCHEMA, scene.public[Version(0, 0)])
    newest = [m for v, m in sorted(scene.public.items()) if v.number >= 2]
    other.load(scene.publisher.dump(), newest, scene.masks)
    for version in (held.version, *sorted(scene.public)[1:]):
        ours = scene.publisher.ship(version, scene.version)
        assert other.ship(version, scene.version).tobytes() == ours.tobytes()
        assert other.quote(version, scene.version) == scene.publisher.quote(version, scene.version)
    scene.move(density=0.05)
    other.publish(scene.version, scene.model, Applied({}, [np.arange(P)]), scene.masks)


def test_a_replaced_model_is_public_at_once() -> None:
    """A rollback is no step: a lagging downlink publishes it whole, and every client gets it."""
    scene = Scene({"kind": "top-k", "density": 0.01})
    held, _ = check(scene, None)
    scene.model[:] = 0
    scene.version = Version(1, 1)
    made = scene.publisher.publish(scene.version, scene.model, None)
    scene.public[scene.version] = made.buffer
    assert not scene.values(scene.version).any()
    check(scene, held)


def test_a_negative_zero_is_sent_as_it_is() -> None:
    """Leaving zeros out leaves out those that read as nothing, bit for bit."""
    scene = Scene({"kind": "sparse"})
    scene.model[:P] = 0
    scene.model[3:7] = -0.0
    scene.move(density=0.01)
    held, size = check(scene, None)
    assert size < P
    assert np.signbit(held.values).any()


def test_versions_that_change_all_are_not_remembered() -> None:
    """Under dense aggregation the ring stays short: nothing leads over such a version."""
    scene = Scene({"kind": "difference"})
    for _ in range(50):
        scene.move(dense=True)
        check(scene, None)
    assert len(scene.publisher._ring) <= 2


def test_another_lineage_knows_nothing() -> None:
    """After a rollback everybody is sent the whole model."""
    scene = Scene({"kind": "difference"})
    held, whole = check(scene, None)
    back = Version(1, 1)
    message = whole_message(scene.policy, SCHEMA, back, scene.model[:P], scene.model[P:])
    scene.publisher.reset([message])
    assert scene.publisher.quote(held.version, back).bytes == whole
