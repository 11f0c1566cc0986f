"""Is every update taken once or not at all, and every version made of exactly what was named?"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.identity import identify
from actors.intake import Admission, Delivery
from actors.parameter_server import THREADS, ParameterServer
from actors.publisher import whole_message
from actors.server import Receipt, Server, Snapshot, whole_model
from actors.work import Assignment, GroupReceipt, Order, Work, packed, unpacked
from policies.aggregation import Applied, FedBuff
from policies.method import Method
from policies.sparsity import DenseDownlink
from policies.types import (
    ACCEPTED,
    Address,
    Arrays,
    Buffer,
    PayloadKind,
    Reason,
    RunError,
    Vector,
    Version,
)
from policies.update import (
    Content,
    Contribution,
    Dense,
    Mask,
    Masked,
    ModelSchema,
    Sparse,
    TensorSpec,
)
from policies.wire import Header, decode, encode

SCHEMA = ModelSchema(
    (TensorSpec("w", (2, 3)), TensorSpec("b", (2,)), TensorSpec("mean", (2,), buffer=True))
)
V0, V1, V2 = Version(0, 0), Version(1, 0), Version(2, 0)
A, B, C = Address(0, 0), Address(1, 0), Address(2, 0)
START = np.linspace(-1, 1, 10, dtype=np.float32)


def message_of(version: Version, model: Vector) -> Buffer:
    """Return a whole model, shape (P + B,), as clients are sent it."""
    return whole_message(DenseDownlink(), SCHEMA, version, model[:8], model[8:])


INITIAL = message_of(V0, START)


def snapshot_message(snapshot: Snapshot) -> Buffer:
    """Return the version that a snapshot was taken at."""
    return message_of(snapshot.version, snapshot.model)


class Counting(FedBuff):
    """Remembers how many updates it has seen."""

    kind: Literal["counting"] = "counting"  # type: ignore[assignment]

    def start(self, schema: ModelSchema) -> Arrays:
        return {"seen": np.zeros(schema.parameters, dtype=np.int64)}

    def apply(
        self, model: Vector, memory: Arrays, batch: Sequence[Contribution], version: int
    ) -> Applied:
        super().apply(model, memory, batch, version)
        seen = memory["seen"] + len(batch)
        model += np.float32(0.125) * seen[0]
        return Applied({"seen": seen})


class Breaking(FedBuff):
    """Raises half-way through a batch of more than one."""

    kind: Literal["breaking"] = "breaking"  # type: ignore[assignment]

    def apply(
        self, model: Vector, memory: Arrays, batch: Sequence[Contribution], version: int
    ) -> Applied:
        applied = super().apply(model, memory, batch[:1], version)
        if len(batch) > 1:
            raise ZeroDivisionError("half-way")
        return applied


def work(**method: Any) -> Work:
    return Work.model_validate(
        {
            "seed": 1,
            "data": {"source": "digits"},
            "model": {"kind": "mlp"},
            "method": Method.model_validate({"aggregation": {"kind": "fedbuff"}, **method}),
        }
    )


def server(**method: Any) -> Server:
    return Server(work(**method), SCHEMA, INITIAL)


def payload(
    address: Address,
    value: float = 1.0,
    *,
    base: Version = V0,
    kind: PayloadKind = "delta",
    content: Content | None = None,
    buffers: float = 0.0,
    loss: float = 0.5,
) -> Buffer:
    header = Header(kind, address, base, 4, loss)
    content = content or Dense(np.full(8, value, dtype=np.float32))
    return encode(header, content, np.full(2, buffers, dtype=np.float32), SCHEMA)


def admit(
    to: Server, address: Address, value: float = 1.0, *, base: Version = V0, **more: Any
) -> Admission:
    """Deliver a good payload."""
    sent = payload(address, value, base=base, **more)
    return to.admit(Delivery(address, base, 0, sent.size), sent)


def look(at: Server) -> tuple[Any, ...]:
    """Return everything that a version is, for comparison bit for bit."""
    snapshot = at.snapshot()
    memory = {name: array.tobytes() for name, array in snapshot.memory.items()}
    return snapshot.version, snapshot.model.tobytes(), memory, snapshot.last_number


# ---------------------------------------------------------------- admit


def test_admission_tells_what_was_found() -> None:
    """Length, values, the least length, examples, loss and hash of a good payload."""
    content = Sparse(np.array([1, 7]), np.ones(2, dtype=np.float32))
    sent = payload(A, content=content)
    found = server().admit(Delivery(A, V0, 0, sent.size), sent)
    assert (found.address, found.verdict) == (A, ACCEPTED)
    assert (found.uplink_bytes, found.nonzeros) == (sent.size, 2)
    assert (found.examples, found.loss) == (4, 0.5)
    bits = np.log2(6 * 2) + 32 * 4  # one of 6, one of 2, two values and two buffers
    assert found.entropy_bytes == pytest.approx(bits / 8)
    assert len(found.hash) == 32


def test_admit_again() -> None:
    """The same payload again gets the same answer and counts once."""
    once, twice = server(), server()
    first = admit(once, A)
    assert first == admit(twice, A) == admit(twice, A)
    assert look(once) == look(twice)
    assert once.commit([A], V0)[1].tobytes() == twice.commit([A], V0)[1].tobytes()
    with pytest.raises(RunError, match="not admitted"):
        twice.commit([A], V1)


def test_another_payload_for_the_same_address() -> None:
    """It is a duplicate, and the first one stays."""
    here, there = server(), server()
    admit(here, A, 1.0)
    admit(there, A, 1.0)
    verdict = admit(here, A, 2.0).verdict
    assert (verdict.accepted, verdict.reason) == (False, Reason.DUPLICATE)
    assert here.commit([A], V0)[1].tobytes() == there.commit([A], V0)[1].tobytes()


@pytest.mark.parametrize("value", [1.0, 2.0])
def test_admit_after_commit(value: float) -> None:
    """Once committed, that number and earlier ones of the client are duplicates; later are not."""
    here = server()
    admit(here, Address(0, 3))
    here.commit([Address(0, 3)], V0)
    before = look(here)
    for number in (3, 2):
        assert admit(here, Address(0, number), value).verdict.reason is Reason.DUPLICATE
    assert look(here) == before
    assert admit(here, Address(0, 4)).verdict.accepted
    assert admit(here, Address(1, 3)).verdict.accepted


def test_the_newest_number_counts() -> None:
    """Committing an older update after a newer one does not open the newer number again."""
    here = server()
    for number in (0, 1):
        admit(here, Address(0, number))
    here.commit([Address(0, 1), Address(0, 0)], V0)
    assert admit(here, Address(0, 1), 3.0).verdict.reason is Reason.DUPLICATE


BAD: dict[str, tuple[Buffer, Reason]] = {
    "nan": (payload(A, np.nan), Reason.NOT_FINITE),
    "infinity": (payload(A, np.inf), Reason.NOT_FINITE),
    "buffers": (payload(A, buffers=np.nan), Reason.NOT_FINITE),
    "loss": (payload(A, loss=np.inf), Reason.NOT_FINITE),
    "past version": (payload(A, base=Version(0, 1)), Reason.WRONG_VERSION),
    "future version": (payload(A, base=Version(7, 0)), Reason.WRONG_VERSION),
    "other client": (payload(B), Reason.WRONG_ADDRESS),
    "other number": (payload(Address(0, 1)), Reason.WRONG_ADDRESS),
    "kind": (payload(A, kind="weights"), Reason.WRONG_KIND),
    "votes": (payload(A, kind="votes"), Reason.WRONG_KIND),
    "truncated": (payload(A)[:-4], Reason.CHECKSUM),
    "stub": (payload(A)[:12], Reason.TRUNCATED),
    "empty": (payload(A)[:0], Reason.TRUNCATED),
    "votes of whole weights": (payload(A, kind="votes", value=1e30), Reason.WRONG_KIND),
    "a mask, where there are none": (
        payload(A, content=Masked(Mask(0, np.arange(8)), np.ones(8, dtype=np.float32))),
        Reason.WRONG_MASK,
    ),
    "oversized": (np.zeros(10_000, dtype=np.uint8), Reason.OVERSIZED),
    "random": (np.random.default_rng(0).integers(0, 256, 60, np.uint8), Reason.MALFORMED),
    "schema": (
        encode(
            Header("delta", A, V0, 4, 0.5),
            Dense(np.ones(8, dtype=np.float32)),
            np.zeros(2, dtype=np.float32),
            ModelSchema((TensorSpec("w", (8,)), TensorSpec("mean", (2,), buffer=True))),
        ),
        Reason.WRONG_SCHEMA,
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_payloads(name: str) -> None:
    """Each is rejected for its reason, leaves no trace, and the good one still gets in after it."""
    sent, reason = BAD[name]
    here, there = server(), server()
    before = look(here)
    found = here.admit(Delivery(A, V0, 0, sent.size), sent)
    assert (found.verdict.accepted, found.verdict.reason) == (False, reason)
    assert found.verdict.detail
    assert found.uplink_bytes == sent.size
    assert look(here) == before
    with pytest.raises(RunError, match="not admitted"):
        here.commit([A], V0)
    assert look(here) == before
    assert admit(here, A) == admit(there, A)
    assert here.commit([A], V0)[1].tobytes() == there.commit([A], V0)[1].tobytes()


@given(st.binary(max_size=90))
def test_any_bytes(sent: bytes) -> None:
    """Whatever bytes arrive, there is a verdict and the model stays."""
    here = server()
    before = look(here)
    found = here.admit(Delivery(A, V0, 0, len(sent)), np.frombuffer(sent, dtype=np.uint8))
    assert not found.verdict.accepted
    assert found.verdict.reason in {Reason.TRUNCATED, Reason.MALFORMED}
    assert look(here) == before


def test_admit_group() -> None:
    """Payloads in one buffer are judged by themselves; a bad one spoils no other."""
    pieces = [payload(A), BAD["nan"][0], payload(C, 3.0)]
    bounds = np.cumsum([0, *(piece.size for piece in pieces)]).tolist()
    places = zip((A, A, C), bounds, bounds[1:], strict=False)
    group = [Delivery(address, V0, start, stop) for address, start, stop in places]
    group[1] = Delivery(B, V0, bounds[1], bounds[2])
    here, there = server(), server()
    found = here.admit_group(group, np.concatenate(pieces))
    assert [a.verdict.reason for a in found] == [Reason.NONE, Reason.WRONG_ADDRESS, Reason.NONE]
    assert [found[0], found[2]] == [admit(there, A), admit(there, C, 3.0)]
    assert here.commit([A, C], V0)[1].tobytes() == there.commit([A, C], V0)[1].tobytes()


# ---------------------------------------------------------------- commit


def test_commit_by_hand() -> None:
    """Two deltas of 1 and 3 move parameters by 2; buffers become the mean of 4 and 6."""
    here = server()
    admit(here, A, 1.0, buffers=4.0)
    admit(here, B, 3.0, buffers=6.0)
    receipt, message = here.commit([A, B], V0)
    model = whole_model(message, SCHEMA)
    np.testing.assert_allclose(model[:8], START[:8] + 2, rtol=1e-6)
    assert model[8:].tolist() == [5, 5]
    assert receipt.version == here.version == V1
    assert receipt.whole.bytes == message.size


def test_published_is_the_model() -> None:
    """What clients are sent decodes to exactly what the server holds, and names its version."""
    here = server()
    content = Sparse(np.array([0]), -START[:1])  # takes the first parameter to zero
    admit(here, A, content=content, buffers=1.0)
    receipt, message = here.commit([A], V0)
    assert decode(message, SCHEMA).header == Header("weights", Address(0, 0), V1, 0, 0.0)
    assert whole_model(message, SCHEMA).tobytes() == here.snapshot().model.tobytes()
    assert receipt.nonzeros == 7


def test_published_does_not_change() -> None:
    """A version that was handed out stays as it is while the server goes on."""
    here = server()
    admit(here, A)
    _, message = here.commit([A], V0)
    before = message.tobytes()
    admit(here, B)
    here.commit([B], V1)
    assert message.tobytes() == before
    assert INITIAL.tobytes() == message_of(V0, START).tobytes()


def test_commit_again() -> None:
    """The same call again gives the same answer and changes nothing."""
    here = server()
    admit(here, A)
    admit(here, B)
    receipt, message = here.commit([A, B], V0)
    before = look(here)
    again, message_again = here.commit([A, B], V0)
    assert again == receipt
    assert message_again.tobytes() == message.tobytes()
    assert look(here) == before


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ([A], V0),  # the last version's number, with other updates
        ([B, A], V0),
        ([], V0),
        ([A, B], Version(0, 1)),  # of another lineage
        ([C], Version(1, 1)),
        ([C], V2),  # not made yet
        ([A, B], Version(7, 0)),
    ],
)
def test_commit_on_another_version(addresses: list[Address], expected: Version) -> None:
    """It is refused with both versions, and nothing changes."""
    here = server()
    for address in (A, B, C):
        admit(here, address)
    here.commit([A, B], V0)
    before = look(here)
    with pytest.raises(RunError, match=r"commit on Version.* but the server is at Version"):
        here.commit(addresses, expected)
    assert look(here) == before
    assert here.commit([C], V1)[0].version == V2


@pytest.mark.parametrize(
    ("addresses", "complaint"),
    [
        ([B], "not admitted"),
        ([A, B], "not admitted"),
        ([Address(0, 1)], "not admitted"),
        ([], "not admitted"),
        ([A, A], "names an update twice"),
    ],
)
def test_commit_of_what_cannot_be(addresses: list[Address], complaint: str) -> None:
    """Unknown, missing and repeated updates are refused; what was admitted still waits."""
    here = server()
    admit(here, A)
    before = look(here)
    with pytest.raises(RunError, match=complaint):
        here.commit(addresses, V0)
    assert look(here) == before
    assert here.commit([A], V0)[0].version == V1


def test_order_matters_and_is_kept() -> None:
    """Updates enter in the order named, not in that of their arrival."""
    ends = []
    for arrival in ([A, B], [B, A]):
        here = server()
        for address in arrival:
            admit(here, address, 1e8 if address == A else 0.1)
        receipt, message = here.commit([B, A], V0)
        assert [c.address for c in receipt.committed] == [B, A]
        ends.append(message.tobytes())
    assert ends[0] == ends[1]


def test_staleness_and_weight() -> None:
    """At version 3 a base of 0 is 3 stale and weighs 1/2, a base of 3 weighs 1."""
    here = server(staleness={"kind": "polynomial", "exponent": 0.5})
    for number in range(3):
        admit(here, Address(5, number))
        here.commit([Address(5, number)], Version(number, 0))
    before = here.snapshot().model
    admit(here, A, 1.0, base=V0)
    admit(here, B, 1.0, base=Version(3, 0))
    receipt, message = here.commit([A, B], Version(3, 0))
    assert [(c.address, c.staleness, c.weight) for c in receipt.committed] == [
        (A, 3, 0.5),
        (B, 0, 1.0),
    ]
    moved = whole_model(message, SCHEMA)[:8] - before[:8]
    np.testing.assert_allclose(moved, 0.75, rtol=1e-5)


def test_buffers_move_at_the_methods_rate() -> None:
    """FedAsync with rate 0.5 moves buffers half-way: from 0 to 3."""
    here = Server(
        work(aggregation={"kind": "fedasync", "rate": 0.5}),
        SCHEMA,
        message_of(V0, np.zeros(10, dtype=np.float32)),
    )
    admit(here, A, buffers=6.0)
    assert whole_model(here.commit([A], V0)[1], SCHEMA)[8:].tolist() == [3, 3]


def test_whole_weights_are_taken() -> None:
    """Where clients send weights, deltas are refused, though the aggregation could take them."""
    here = server(
        uplink={"kind": "dense", "content": "weights"},
        aggregation={"kind": "fedavg", "clients_per_round": 1},
    )
    assert admit(here, A).verdict.reason is Reason.WRONG_KIND
    assert admit(here, A, kind="weights").verdict.accepted


def test_memory_goes_on() -> None:
    """What the aggregation remembers of one commit is there at the next: 2 updates, then 3."""
    here = server(aggregation=Counting())
    for address in (A, B, C):
        admit(here, address)
    here.commit([A, B], V0)
    assert here.snapshot().memory["aggregation/seen"].tolist() == [2] * 8
    here.commit([C], V1)
    assert here.snapshot().memory["aggregation/seen"].tolist() == [3] * 8


def test_discard() -> None:
    """What is discarded cannot be committed, may come again, and may be unknown."""
    here = server()
    admit(here, A)
    here.discard([A, B])
    with pytest.raises(RunError, match="not admitted"):
        here.commit([A], V0)
    assert admit(here, A, 2.0).verdict.accepted


def test_an_aggregation_that_raises() -> None:
    """The model is again the published one, and what was admitted can still be committed."""
    here = server(aggregation=Breaking())
    admit(here, C)
    here.commit([C], V0)
    admit(here, A)
    admit(here, B)
    before = look(here)
    with pytest.raises(ZeroDivisionError, match="half-way"):
        here.commit([A, B], V1)
    assert look(here) == before
    assert here.commit([A], V1)[0].version == V2


# ---------------------------------------------------------------- rollback, snapshot, restore


def test_rollback() -> None:
    """The earlier weights appear as the next version of the next lineage; what waits is gone."""
    here = server(aggregation=Counting())
    admit(here, A)
    here.commit([A], V0)
    admit(here, B)
    receipt, message = here.rollback(INITIAL, V1)
    assert receipt.version == here.version == decode(message, SCHEMA).header.base == (2, 1)
    assert receipt.committed == ()
    assert whole_model(message, SCHEMA).tobytes() == START.tobytes()
    assert not here.snapshot().memory["aggregation/seen"].any()
    with pytest.raises(RunError, match="not admitted"):
        here.commit([B], Version(2, 1))
    assert admit(here, A, 9.0).verdict.reason is Reason.DUPLICATE  # it is still committed once
    assert admit(here, B, base=Version(2, 1)).verdict.accepted
    assert here.commit([B], Version(2, 1))[0].version == (3, 1)


def test_rollback_again() -> None:
    """The same call again gives the same answer; on another version it is refused."""
    here = server()
    admit(here, A)
    here.commit([A], V0)
    first = here.rollback(INITIAL, V1)
    before = look(here)
    assert here.rollback(INITIAL, V1)[0] == first[0]
    for wrong in (V0, V2, Version(1, 1)):
        with pytest.raises(RunError, match="but the server is at"):
            here.rollback(INITIAL, wrong)
    with pytest.raises(RunError, match="but the server is at"):
        here.commit([], V1)
    assert look(here) == before


def test_rollback_copies_its_target() -> None:
    """The version gone back to is not changed by what follows."""
    here, target = server(), INITIAL.copy()
    here.rollback(target, V0)
    admit(here, A, base=Version(1, 1))
    here.commit([A], Version(1, 1))
    assert target.tobytes() == INITIAL.tobytes()


def third_version(here: Server) -> bytes:
    """Deliver one more update and commit it on version 2."""
    admit(here, C, 0.3, base=V1, buffers=1.5)
    return here.commit([C], V2)[1].tobytes()


def after_two() -> tuple[Server, Snapshot]:
    here = server(aggregation=Counting())
    for number, base in enumerate((V0, V1)):
        admit(here, Address(0, number), 0.1 + number, base=base, buffers=0.7)
        here.commit([Address(0, number)], base)
    return here, here.snapshot()


def test_restore_goes_on_bit_for_bit() -> None:
    """A fresh server restored from a snapshot makes the very next version that was to come."""
    here, snapshot = after_two()
    there = server(aggregation=Counting())
    admit(there, B)
    there.restore(snapshot, [snapshot_message(snapshot)])
    assert look(there) == look(here)
    with pytest.raises(RunError, match="not admitted"):
        there.commit([B], V2)  # what waited before is forgotten
    assert admit(there, Address(0, 1)).verdict.reason is Reason.DUPLICATE
    assert third_version(there) == third_version(here)
    assert look(there) == look(here)


def test_snapshot_is_a_value() -> None:
    """Neither the server's way nor that of a server restored from it changes a snapshot."""
    here, snapshot = after_two()
    kept = look(here)
    third_version(here)
    there = server(aggregation=Counting())
    for _ in range(2):
        there.restore(snapshot, [snapshot_message(snapshot)])
        assert look(there) == kept
        third_version(there)


def test_raising_on_a_restored_server() -> None:
    """After a restore, too, an aggregation that raises leaves the model as it was."""
    source, there = server(aggregation=Breaking()), server(aggregation=Breaking())
    admit(source, A)
    source.commit([A], V0)
    there.restore(source.snapshot(), [snapshot_message(source.snapshot())])
    admit(there, B)
    admit(there, C)
    before = look(there)
    with pytest.raises(ZeroDivisionError, match="half-way"):
        there.commit([B, C], V1)
    assert look(there) == before == look(source)


# ---------------------------------------------------------------- the remote shell


def shell(deadline_s: float = 30.0) -> ParameterServer:
    return ParameterServer(work().model_dump(mode="json"), [], SCHEMA, INITIAL, deadline_s)


def deliver(to: ParameterServer, *addresses: Address) -> None:
    for address in addresses:
        sent = payload(address)
        (found,) = to.deliver([Delivery(address, V0, 0, sent.size)], sent)
        assert found.verdict.accepted


def commit(to: ParameterServer, address: Address, expected: Version) -> tuple[Receipt, Buffer]:
    receipt, message = to.commit(packed(([address], expected)))
    return unpacked(receipt), message


def test_commits_take_their_turn() -> None:
    """Called in the wrong order they are done in the right one, and so is a snapshot."""
    remote, plain = shell(), server()
    deliver(remote, A, B, C)
    for address in (A, B, C):
        admit(plain, address)
    with ThreadPoolExecutor(THREADS["write"]) as threads:
        third = threads.submit(commit, remote, C, V2)
        second = threads.submit(commit, remote, B, V1)
        snapshot = threads.submit(remote.snapshot, V2)
        assert not wait([third, second, snapshot], timeout=0.2).done
        first = threads.submit(commit, remote, A, V0)
        for base, found in zip((V0, V1, V2), (first, second, third), strict=True):
            receipt, message = found.result(60)
            expected = plain.commit([(A, B, C)[base.number]], base)
            assert receipt == expected[0]
            assert message.tobytes() == expected[1].tobytes()
        assert snapshot.result(60).version.number >= 2


def test_rollback_takes_its_turn() -> None:
    """It waits for the version it goes back from; what follows it waits for the new lineage."""
    remote = shell()
    deliver(remote, A)
    with ThreadPoolExecutor(2) as threads:
        back = threads.submit(remote.rollback, V1, INITIAL)
        assert not wait([back], timeout=0.2).done
        commit(remote, A, V0)
        assert unpacked(back.result(60)[0]).version == (2, 1)


def test_a_version_that_never_comes() -> None:
    """A commit on it fails within the deadline and says what it waited for; others go on."""
    remote = shell(deadline_s=0.01)
    deliver(remote, A)
    with pytest.raises(RunError, match=r"waited 0.01 s for version 5; the server is at 0"):
        commit(remote, A, Version(5, 0))
    assert commit(remote, A, V0)[0].version == V1


def test_a_refused_commit_does_not_block() -> None:
    """A mistake in one call reaches its caller, and the next call is served."""
    remote = shell()
    deliver(remote, A)
    with pytest.raises(RunError, match="not admitted"):
        commit(remote, B, V0)
    assert commit(remote, A, V0)[0].version == V1


def test_payloads_are_read_while_a_version_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long commit keeps neither an admission nor the question who this is waiting."""
    remote, go_on, begun = shell(), threading.Event(), threading.Event()
    real = remote._server
    act = real.commit

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return act(*arguments)

    deliver(remote, A)
    monkeypatch.setattr(real, "commit", slow)
    with ThreadPoolExecutor(1) as threads:
        making = threads.submit(commit, remote, A, V0)
        try:
            assert begun.wait(30)
            deliver(remote, B)
            assert replace(remote.identity(), lane="") == identify()
            assert not making.done()
        finally:
            go_on.set()
        making.result(60)
    assert remote.snapshot(V1).version == V1


def test_shell_admits_what_an_actor_returned() -> None:
    """Assignments and places become deliveries; the receipt is handed on as it is."""
    remote, pieces = shell(), [payload(A), payload(B)]
    order = Order([Assignment(A, V0), Assignment(B, V0)], [(0,), (0,)], [None, None], [(), ()])
    cut = pieces[0].size
    receipt = GroupReceipt(((0, cut), (cut, cut + pieces[1].size)), ((0, 0),) * 2, (0.1, 0.2), 0.3)
    answer = remote.admit(packed(order), packed(receipt), np.concatenate(pieces))
    found, same = unpacked(answer)
    assert [a.verdict for a in found] == [ACCEPTED, ACCEPTED]
    assert [a.address for a in found] == [A, B]
    assert same == receipt
    remote.discard([A])
    with pytest.raises(RunError, match="not admitted"):
        commit(remote, A, V0)


def test_shell_restores() -> None:
    """A restored shell commits on the snapshot's version."""
    remote, source = shell(), server()
    admit(source, A)
    source.commit([A], V0)
    remote.restore(source.snapshot(), snapshot_message(source.snapshot()))
    deliver(remote, B)
    admit(source, B)
    assert commit(remote, B, V1)[0] == source.commit([B], V1)[0]


def test_one_message_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version is let go before the next one is written: a large model is there once."""
    here = server()
    admit(here, A)
    newest = weakref.ref(here.commit([A], V0)[1])
    assert newest() is not None  # the answer to the same commit
    gone: list[bool] = []

    def watched(*parts: Any) -> Buffer:
        gone.append(newest() is None)
        return whole_message(*parts)

    monkeypatch.setattr("actors.publisher.whole_message", watched)
    admit(here, B, base=V1)
    here.commit([B], V1)
    assert gone == [True]
