"""Does the server let a correction change what it may, and nothing else?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from actors.intake import Delivery
from actors.publisher import whole_message
from actors.server import Server
from actors.work import Work
from policies.correction import Lesson, Newest, Quality, Taught
from policies.method import Method
from policies.sparsity import DenseDownlink
from policies.types import Address, PayloadKind, Vector, Version
from policies.update import Content, Dense, ModelSchema, Sparse, TensorSpec
from policies.wire import Header, encode

P = 12
SCHEMA = ModelSchema((TensorSpec("w", (P,), prunable=True),))
START = np.linspace(1, 2, P, dtype=np.float32)
V0, V1 = Version(0, 0), Version(1, 0)
INITIAL = whole_message(DenseDownlink(), SCHEMA, V0, START, np.empty(0, dtype=np.float32))
CORRECTION = {"kind": "step-distillation", "stretch": 1, "rate": 0.05}


class AddsHundred:
    """Adds 100 to whatever may change, and notes what it was given."""

    def __init__(self) -> None:
        self.teachers: list[bytes] = []
        self.draws: list[int] = []

    def teach(
        self,
        students: Any,
        strengths: Sequence[float],
        newest: Newest,
        lesson: Lesson,
        rng: np.random.Generator,
        where: Any = (),
    ) -> list[Taught]:
        del lesson
        self.teachers.append(newest.model.tobytes())
        self.draws.append(int(rng.integers(2**60)))
        for student, may in zip(students, where or [None] * len(students), strict=True):
            student[slice(None) if may is None else may] += np.float32(100)
        return [Taught(1.0, 0.5, 1.0, 1.0)] * len(strengths)

    def quality(self, newest: Newest) -> Quality:
        del newest
        return Quality(1.0, 1.0)


def server(tutor: AddsHundred, **method: Any) -> Server:
    given = {"aggregation": {"kind": "fedbuff", "size": 1}, "correction": CORRECTION} | method
    told = {"seed": 3, "data": {"source": "digits"}, "model": {"kind": "mlp"}}
    work = Work.model_validate(told | {"method": Method.model_validate(given)})
    return Server(work, SCHEMA, INITIAL, tutor=tutor)


def commit(
    to: Server, client: int, content: Content, *, base: Version, kind: PayloadKind = "delta"
) -> None:
    """Let a version be made of one update."""
    address = Address(client, 0)
    header = Header(kind, address, base, 4, 0.5)
    sent = encode(header, content, np.empty(0, dtype=np.float32), SCHEMA)
    assert to.admit(Delivery(address, base, 0, sent.size), sent).verdict.accepted
    to.commit([address], to.version)


def model(of: Server) -> Vector:
    return of.snapshot().model


def dense(value: float) -> Dense:
    return Dense(np.full(P, value, dtype=np.float32))


def test_first_and_fresh_updates_are_not_corrected() -> None:
    """Version 1 has no teacher worth the name; a fresh update needs none."""
    tutor = AddsHundred()
    made = server(tutor)
    commit(made, 0, dense(1.0), base=V0)
    commit(made, 1, dense(1.0), base=V1)
    assert tutor.teachers == []
    np.testing.assert_array_equal(model(made), START + 2)


def test_the_newest_version_teaches() -> None:
    """A late one is corrected; what teaches is the version before, which stays as it was."""
    tutor = AddsHundred()
    made = server(tutor)
    commit(made, 0, dense(1.0), base=V0)
    newest = model(made)
    commit(made, 1, dense(1.0), base=V0)
    assert tutor.teachers == [newest.tobytes()]
    np.testing.assert_allclose(model(made), newest + 2**-0.5 + 100, rtol=1e-6)


def test_the_servers_own_model_is_what_a_step_starts_from() -> None:
    """Where clients are sent another model than the server's, the server's own one teaches."""
    tutor = AddsHundred()
    made = server(tutor, downlink={"kind": "dense", "values": "int8"})
    commit(made, 0, dense(0.3), base=V0)
    own = model(made)
    commit(made, 1, dense(1.0), base=V0)
    assert tutor.teachers == [own.tobytes()]
    np.testing.assert_allclose(model(made), own + 2**-0.5 + 100, rtol=1e-6)


@pytest.mark.parametrize("kind", ["delta", "weights"])
def test_sparse_methods_keep_their_support(kind: PayloadKind) -> None:
    """Only what a sparse step moved may change; of sparse weights only what is not zero."""
    tutor = AddsHundred()
    method: dict[str, Any] = {}
    if kind == "weights":
        method["uplink"] = {"kind": "sparse-weights", "density": 0.5}
        method["aggregation"] = {"kind": "fedbuff", "size": 1, "form": "weights"}
    made = server(tutor, **method)
    places = np.array([1, 4, 7])
    sparse = Sparse(places, np.ones(3, dtype=np.float32))
    commit(made, 0, dense(1.0) if kind == "delta" else sparse, base=V0, kind=kind)
    before = model(made)
    commit(made, 1, sparse, base=V0, kind=kind)
    moved = np.flatnonzero(model(made) - before > 50)
    np.testing.assert_array_equal(moved, places)
    untouched = np.setdiff1d(np.arange(P), places)
    assert model(made)[untouched].tobytes() == before[untouched].tobytes()


def test_it_goes_on_from_a_snapshot() -> None:
    """The stage and the drawn inputs are those of a server that was never stopped."""
    tutor, other = AddsHundred(), AddsHundred()
    made, again = server(tutor), server(other)
    commit(made, 0, dense(1.0), base=V0)
    snapshot = made.snapshot()
    message = whole_message(
        DenseDownlink(), SCHEMA, V1, snapshot.model[:P], np.empty(0, dtype=np.float32)
    )
    again.restore(snapshot, [message])
    for one in (made, again):
        commit(one, 1, dense(1.0), base=V0)
    assert model(again).tobytes() == model(made).tobytes()
    assert other.draws == tutor.draws
    assert len(set(tutor.draws)) == 1
