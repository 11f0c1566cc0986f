"""Do cells sum what one server would have taken, and say truly what they send?"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.cell import Cell, Gathered, read_sum
from actors.cell_aggregator import CellAggregator
from actors.intake import Committed, Delivery
from actors.publisher import whole_message
from actors.server import Receipt, Server, whole_model
from actors.work import Assignment, GroupReceipt, Order, Work, packed, unpacked
from policies.method import Method
from policies.sparsity import DenseDownlink
from policies.types import Address, Buffer, PayloadKind, Reason, RunError, Version
from policies.update import Content, Dense, ModelSchema, Sparse, TensorSpec
from policies.wire import Header, decode, dequantise, encode, quantise

P, B = 40, 3
SCHEMA = ModelSchema(
    (TensorSpec("w", (5, 6)), TensorSpec("mean", (B,), buffer=True), TensorSpec("b", (10,)))
)
V0, V1 = Version(0, 0), Version(1, 0)
START = np.linspace(-1, 1, P + B, dtype=np.float32)
INITIAL = whole_message(DenseDownlink(), SCHEMA, V0, START[:P], START[P:])
FORMS: tuple[tuple[PayloadKind, dict[str, Any]], ...] = (
    ("delta", {"kind": "fedbuff", "size": 4, "rate": 0.7}),
    ("weights", {"kind": "fedbuff", "form": "weights"}),
    ("delta", {"kind": "fedavg"}),
    ("weights", {"kind": "fedavg"}),
)


class Sent(NamedTuple):
    """An update under way."""

    address: Address
    payload: Buffer

    @property
    def delivery(self) -> Delivery:
        return Delivery(self.address, V0, 0, self.payload.size)


def work(kind: PayloadKind = "delta", aggregation: Any = None) -> Work:
    method = Method.model_validate(
        {
            "aggregation": aggregation or {"kind": "fedbuff", "size": 4},
            "uplink": {"kind": "dense", "content": kind},
        }
    )
    data = {"source": "digits"}
    return Work.model_validate(
        {"seed": 1, "data": data, "model": {"kind": "mlp"}, "method": method}
    )


def update(
    client: int,
    content: Content | float,
    *,
    kind: PayloadKind = "delta",
    buffers: float = 0.0,
    examples: int = 4,
) -> Sent:
    address = Address(client, 0)
    if isinstance(content, float):
        content = Dense(np.full(P, content, dtype=np.float32))
    header = Header(kind, address, V0, examples, 0.5)
    return Sent(address, encode(header, content, np.full(B, buffers, dtype=np.float32), SCHEMA))


def drawn(client: int, seed: int, kind: PayloadKind) -> Sent:
    """Return an update: dense, coded, or sparse, empty now and then."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(P).astype(np.float32)
    content: Content = Dense(values)
    if seed % 3 == 1:
        code = quantise(values, None, "int8", SCHEMA)
        content = Dense(dequantise(code, None, SCHEMA), code)
    elif seed % 3 == 2:
        kept = np.flatnonzero(rng.random(P) < 0.2)
        content = Sparse(kept, values[kept])
    return update(
        client, content, kind=kind, buffers=float(rng.normal()), examples=int(rng.integers(0, 9))
    )


def given_to(*updates: Sent, number: int = 0, told: Work | None = None) -> Cell:
    """Return a cell that has admitted updates."""
    cell = Cell(told or work(), SCHEMA, number)
    for sent in updates:
        assert cell.admit(sent.delivery, sent.payload).verdict.accepted
    return cell


def committed(updates: list[Sent], cells: list[int], told: Work) -> tuple[Receipt, Buffer, Server]:
    """Send updates through cells, and make a version of the sums."""
    sent = []
    for number in sorted(set(cells)):
        own = [one for one, at in zip(updates, cells, strict=True) if at == number]
        cell = given_to(*own, number=number, told=told)
        sent.append(cell.sum([one.address for one in own], V0))
    gathered, sums = zip(*sent, strict=True)
    server = Server(told, SCHEMA, INITIAL)
    return *server.commit_sums(gathered, sums, V0), server


# ---------------------------------------------------------------- the numbers


def test_a_step_by_hand() -> None:
    """Two cells, updates 1 and 2 here, 3 there, a buffer of three: the step is 6 / 3."""
    told = work(aggregation={"kind": "fedbuff", "size": 3})
    updates = [
        update(0, 1.0, buffers=3.0, examples=1),
        update(1, 2.0, buffers=6.0, examples=2),
        update(2, 3.0, buffers=9.0, examples=3),
    ]
    receipt, message, _ = committed(updates, [0, 0, 1], told)
    model = whole_model(message, SCHEMA)
    np.testing.assert_allclose(model[:P], START[:P] + 2, rtol=1e-6)
    np.testing.assert_allclose(model[P:], (3 * 1 + 6 * 2 + 9 * 3) / 6, rtol=1e-6)
    assert [cell.cell for cell in receipt.gathered] == [0, 1]
    assert receipt.committed == tuple(Committed(sent.address, 0, 1.0) for sent in updates)


@given(
    st.sampled_from(FORMS),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 10_000)), min_size=1, max_size=7),
)
def test_sums_make_the_version_of_one_server(
    form: tuple[PayloadKind, dict[str, Any]], drawing: list[tuple[int, int]]
) -> None:
    """Whatever the form, the contents, the cells: but for rounding the model is the same."""
    kind, aggregation = form
    told = work(kind, aggregation)
    updates = [drawn(client, seed, kind) for client, (_, seed) in enumerate(drawing)]
    alone = Server(told, SCHEMA, INITIAL)
    for sent in updates:
        assert alone.admit(sent.delivery, sent.payload).verdict.accepted
    if not any(decode(sent.payload, SCHEMA).header.examples for sent in updates):
        return  # the plain mean, which cells do not take: see below
    receipt, message = alone.commit([sent.address for sent in updates], V0)
    found, summed, _ = committed(updates, [cell for cell, _ in drawing], told)
    np.testing.assert_allclose(
        whole_model(summed, SCHEMA), whole_model(message, SCHEMA), rtol=1e-5, atol=1e-6
    )
    assert sorted(found.committed) == sorted(receipt.committed)


def test_updates_without_examples_change_nothing() -> None:
    """Where examples weigh and there are none, the model stays where it is."""
    for kind, aggregation in FORMS[1:]:
        updates = [update(0, 9.0, kind=kind, examples=0, buffers=5.0)]
        _, message, _ = committed(updates, [0], work(kind, aggregation))
        np.testing.assert_array_equal(whole_model(message, SCHEMA), START)


def test_lateness_counts_in_a_cell() -> None:
    """An update on version 0 that enters version 3 has the weight of two versions."""
    cell = given_to(update(0, 4.0))
    gathered, message = cell.sum([Address(0, 0)], Version(2, 0))
    (entry,) = gathered.committed
    assert (entry.staleness, entry.weight) == (2, pytest.approx(3**-0.5))
    np.testing.assert_allclose(decode(message, SCHEMA).content.densify(P), 4 * 3**-0.5, rtol=1e-6)


def test_sparse_updates_stay_sparse() -> None:
    """A sum has the positions of its updates together, and is as long as they are."""
    one = Sparse(np.array([1, 5]), np.array([1, 2], dtype=np.float32))
    two = Sparse(np.array([5, 33]), np.array([3, 4], dtype=np.float32))
    gathered, message = given_to(update(0, one), update(1, two)).sum(
        [Address(0, 0), Address(1, 0)], V0
    )
    content = decode(message, SCHEMA).content
    assert isinstance(content, Sparse)
    np.testing.assert_array_equal(content.positions, [1, 5, 33])
    np.testing.assert_array_equal(content.values, [1, 5, 4])
    assert gathered.nonzeros == 3
    assert gathered.bytes == message.size < 4 * P
    assert gathered.entropy_bytes < gathered.bytes


def test_what_is_sent_says_whose_it_is() -> None:
    """Kind, cell, version, examples and what they weigh are in the message itself."""
    cell = given_to(update(3, 1.0, examples=4), update(4, 1.0, examples=6), number=2)
    _, message = cell.sum([Address(3, 0), Address(4, 0)], V0)
    assert decode(message, SCHEMA).header == Header("delta", Address(2, 0), V0, 10, 10.0)
    read = read_sum(message, SCHEMA, 2)
    assert (read.kind, read.weight, read.updates) == ("delta", 10.0, 2)


# ---------------------------------------------------------------- once, or not at all


def test_asked_again_it_answers_the_same() -> None:
    """A repeated sum, and a repeated commit, give what they gave; another order is refused."""
    cell = given_to(update(0, 1.0), update(1, 2.0))
    addresses = [Address(0, 0), Address(1, 0)]
    gathered, message = cell.sum(addresses, V0)
    again, same = cell.sum(addresses, V0)
    assert again == gathered
    assert same is message
    server = Server(work(), SCHEMA, INITIAL)
    first = server.commit_sums([gathered], [message], V0)
    assert server.commit_sums([gathered], [message], V0) == first
    with pytest.raises(RunError, match="were not admitted"):
        cell.sum(addresses[:1], V0)
    with pytest.raises(RunError, match="the server is at"):
        server.commit_sums([gathered._replace(committed=())], [message], V0)


def test_what_was_summed_is_a_duplicate() -> None:
    """Delivered again, to the cell or after a checkpoint, it does not count again."""
    sent = update(0, 1.0)
    cell = given_to(sent)
    cell.sum([sent.address], V0)
    assert cell.admit(sent.delivery, sent.payload).verdict.reason is Reason.DUPLICATE
    other = Cell(work(), SCHEMA, 0)
    other.restore({0: 0})
    assert other.admit(sent.delivery, sent.payload).verdict.reason is Reason.DUPLICATE


def test_what_is_discarded_is_forgotten() -> None:
    """A discarded update cannot be summed, and may come again."""
    sent = update(0, 1.0)
    cell = given_to(sent)
    cell.discard([sent.address])
    with pytest.raises(RunError, match="were not admitted"):
        cell.sum([sent.address], V0)
    assert cell.admit(sent.delivery, sent.payload).verdict.accepted


def test_bad_payloads_are_refused_at_the_cell() -> None:
    """A cell judges as a server does."""
    cell, sent = Cell(work(), SCHEMA, 0), update(0, 1.0)
    assert cell.admit(sent.delivery._replace(base=V1), sent.payload).verdict.reason is (
        Reason.WRONG_VERSION
    )
    bad = update(0, float("nan"))
    assert cell.admit(bad.delivery, bad.payload).verdict.reason is Reason.NOT_FINITE
    torn = sent.payload[:-1]
    assert not cell.admit(sent.delivery, torn).verdict.accepted


def test_the_shell_says_what_the_cell_says() -> None:
    """Groups come in packed, sums go out packed."""
    told = work().model_copy(update={"timed": True})
    shell = CellAggregator(told.model_dump(mode="json"), [], SCHEMA, 1)
    one, two = update(0, 1.0), update(1, 2.0)
    group = [Assignment(one.address, V0), Assignment(two.address, V0)]
    cut = one.payload.size
    took = GroupReceipt(((0, cut), (cut, cut + two.payload.size)), ((0, 0),) * 2, (0.0, 0.0), 0.0)
    payloads = np.concatenate([one.payload, two.payload])
    admissions, receipt = unpacked(
        shell.admit(packed(Order(group, [], [], [])), packed(took), payloads)
    )
    assert [a.verdict.accepted for a in admissions] == [True, True]
    assert receipt == took
    told, message = shell.sum(packed(([one.address, two.address], V0)))
    gathered: Gathered = unpacked(told)
    assert gathered.cell == 1
    np.testing.assert_allclose(decode(message, SCHEMA).content.densify(P), 3, rtol=1e-6)
    assert {stage.stage for stage in shell.usage().stages} == {"read payloads", "sum updates"}
