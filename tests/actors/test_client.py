"""Does the same assignment give the same bytes, wherever and whenever it is trained?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash

from actors import client as client_module
from actors.buffers import ALIGNMENT
from actors.client import Client
from actors.corrector import Corrector
from actors.faults import PlannedError
from actors.first_version import first_version
from actors.intake import Delivery
from actors.learning.data import DataSet
from actors.learning.holdings import Dealt
from actors.learning.sources.packaged import Digits
from actors.server import Server
from actors.work import Assignment, Order, Shards, Work
from policies.types import Address, Buffer, Reason, Version, stream, stream_seed
from policies.update import Base, Mask, Sparse
from policies.wire import WireError, check_finite, decode, least_bytes

V0 = Version(0, 0)
NONE = np.empty(0, dtype=np.uint8)
SHARDS = Shards.of([np.arange(25 * c, 25 * c + 25 - c) for c in range(4)])
OWN = """
import torch
from torch import nn

def dropping(shape):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(8, shape.classes),
    )

def partly_frozen(shape):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, shape.classes))
    module[1].weight.requires_grad = False
    return module
"""


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    """Put back the number of threads, which a client sets to one."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module `own_nets` where it can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    (tmp_path / "own_nets.py").write_text(OWN)


@pytest.fixture(scope="module")
def data() -> DataSet:
    """Return a hundred digits to train on."""
    return Digits(train_examples=100).load()


MLPS: dict[str, dict[str, Any]] = {
    "mlp": {"kind": "mlp", "hidden": [8]},
    "wide": {"kind": "mlp", "hidden": [256]},  # steps in the span of the examples
}


def work(model: str = "mlp", seed: int = 1, **training: Any) -> Work:
    return Work.model_validate(
        {
            "seed": seed,
            "data": {"source": "digits", "train_examples": 100},
            "model": MLPS.get(model, {"kind": model}),
            "method": {
                "uplink": {"kind": "top-k", "density": 0.1},
                "training": {"kind": "sgd", "epochs": 2, "batch_size": 10, **training},
            },
        }
    )


MODELS = pytest.mark.parametrize("model", ["mlp", "wide", "own_nets:dropping"])


def ask(client: int, number: int = 0, fault: str = "") -> Assignment:
    return Assignment(Address(client, number), V0, fault)


def initial(of: Work, data: DataSet) -> Buffer:
    return first_version(of, Dealt(data, SHARDS).shape).message


def both(pair: tuple[Buffer, Buffer]) -> tuple[bytes, bytes]:
    return pair[0].tobytes(), pair[1].tobytes()


def same_body(one: Buffer, other: Buffer, client: Client) -> bool:
    """Compare two payloads' numbers, whatever their headers say."""
    contents = [decode(payload, client.schema).content for payload in (one, other)]
    return contents[0].values.tobytes() == contents[1].values.tobytes()


# ---------------------------------------------------------------- repeatability


@MODELS
def test_the_same_assignment_twice(data: DataSet, model: str) -> None:
    """The bytes are the same again, with others in between, and from another object."""
    settings = work(model)
    torch.manual_seed(5)
    base, first = initial(settings, data), Client(settings, Dealt(data, SHARDS))
    payload, state = first.train(ask(1), base, NONE)
    assert both(first.train(ask(1), base, NONE)) == both((payload, state))
    first.train(ask(2), base, NONE)
    first.train(ask(1, 1), base, state)
    torch.manual_seed(99)
    assert both(first.train(ask(1), base, NONE)) == both((payload, state))
    other = Client(settings, Dealt(data, SHARDS))
    other.train(ask(0), base, NONE)
    assert both(other.train(ask(1), base, NONE)) == both((payload, state))


@MODELS
def test_other_names_give_other_numbers(data: DataSet, model: str) -> None:
    """Another number or another seed orders the same examples otherwise."""
    settings = work(model)
    base, here = initial(settings, data), Client(settings, Dealt(data, SHARDS))
    there = Client(work(model, seed=2), Dealt(data, SHARDS))
    payload, _ = here.train(ask(1), base, NONE)
    assert not same_body(payload, here.train(ask(1, 1), base, NONE)[0], here)
    assert not same_body(payload, there.train(ask(1), base, NONE)[0], here)


@MODELS
def test_global_generators_stay(data: DataSet, model: str) -> None:
    """Making a client and training leave the generators of torch and numpy as they were."""
    base = initial(work(model), data)
    torch.manual_seed(1234)
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()  # type: ignore[union-attr]  # noqa: NPY002
    Client(work(model), Dealt(data, SHARDS)).train(ask(1), base, NONE)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]  # type: ignore[union-attr]  # noqa: NPY002


def test_frozen_parameters_are_the_same_everywhere(data: DataSet) -> None:
    """What a module does not train, and no message carries, is drawn alike in every process."""
    settings = work("own_nets:partly_frozen")
    base, payloads = initial(settings, data), []
    for seed in (5, 6):
        torch.manual_seed(seed)  # as different as two processes
        payloads.append(
            Client(settings, Dealt(data, SHARDS)).train(ask(1), base, NONE)[0].tobytes()
        )
    assert payloads[0] == payloads[1]


def test_inputs_stay(data: DataSet) -> None:
    """Neither the base nor the state buffer is changed, also when they cannot be."""
    settings = work()
    base, here = initial(settings, data), Client(settings, Dealt(data, SHARDS))
    _, state = here.train(ask(1), base, NONE)
    base.setflags(write=False)
    state.setflags(write=False)
    before = [xxhash.xxh3_128_hexdigest(memoryview(b)) for b in (base, state)]
    first = both(here.train(ask(1, 1), base, state))
    assert [xxhash.xxh3_128_hexdigest(memoryview(b)) for b in (base, state)] == before
    assert both(here.train(ask(1, 1), base, state)) == first


def test_results_stay(data: DataSet) -> None:
    """What a client returned is not changed by its next training."""
    settings = work()
    base, here = initial(settings, data), Client(settings, Dealt(data, SHARDS))
    result = here.train(ask(1), base, NONE)
    before = both(result)
    here.train(ask(2), base, NONE)
    assert both(result) == before


# ---------------------------------------------------------------- what a payload holds


def test_payload(data: DataSet) -> None:
    """It names the update, counts the examples, and holds the share of values asked for."""
    settings = work()
    base, here = initial(settings, data), Client(settings, Dealt(data, SHARDS))
    payload, state = here.train(ask(3, 7), base, NONE)
    message = decode(payload, here.schema)
    header, content = message.header, message.content
    assert (header.kind, header.address, header.base) == ("delta", (3, 7), V0)
    assert header.examples == 22 == len(SHARDS[3]) == SHARDS.examples(3)
    assert 0 < header.scalar < 4
    assert isinstance(content, Sparse)
    assert content.nonzeros == 61  # a tenth of 64 x 8 + 8 + 8 x 10 + 10 = 610
    assert payload.size >= least_bytes(61, here.schema)
    assert state.size == 4 * 610
    assert len(SHARDS) == 4


def test_state_goes_in_and_comes_out(data: DataSet) -> None:
    """Sent + residual is the whole change; the next assignment builds on the state it is given."""
    settings, dense = work(), work().model_dump(mode="json")
    dense["method"]["uplink"] = {"kind": "dense"}
    base, here = initial(settings, data), Client(settings, Dealt(data, SHARDS))
    payload, state = here.train(ask(1), base, NONE)
    whole, nothing = Client(Work.model_validate(dense), Dealt(data, SHARDS)).train(
        ask(1), base, NONE
    )
    size = here.schema.parameters
    sent = decode(payload, here.schema).content.densify(size)
    change = decode(whole, here.schema).content.densify(size)
    np.testing.assert_array_equal(sent + state.view(np.float32), change)
    assert nothing.size == 0
    assert both(here.train(ask(1, 1), base, state)) != both(here.train(ask(1, 1), base, NONE))


def test_examples_are_the_clients_own(data: DataSet) -> None:
    """A client trains on its shard: with the shards of two exchanged, so are their changes."""
    told = work(batch_size=64, epochs=1).model_dump(mode="json")
    told["method"]["uplink"] = {"kind": "dense"}  # rows are summed in another order: no ties
    settings = Work.model_validate(told)
    base = initial(settings, data)
    halves = [np.arange(25), np.arange(50, 75)]
    here = Client(settings, Dealt(data, Shards.of(halves)))
    there = Client(settings, Dealt(data, Shards.of(halves[::-1])))
    ours, theirs = here.train(ask(0), base, NONE)[0], there.train(ask(1), base, NONE)[0]
    ours_full, theirs_full = (
        decode(p, here.schema).content.densify(here.schema.parameters) for p in (ours, theirs)
    )
    np.testing.assert_allclose(ours_full, theirs_full, atol=1e-6)
    assert not np.allclose(ours_full, 0)


def test_buffers_travel_as_values(data: DataSet) -> None:
    """Running statistics after training are in the payload, and no residual of them is kept."""
    settings = work("own_nets:dropping")
    base, here = initial(settings, data), Client(settings, Dealt(data, SHARDS))
    payload, state = here.train(ask(1), base, NONE)
    message = decode(payload, here.schema)
    assert message.buffers.size == here.schema.buffers == 16
    assert (message.buffers[8:] > 0).all()  # variances
    assert not np.array_equal(message.buffers, decode(base, here.schema).buffers)
    assert state.size == 4 * here.schema.parameters


# ---------------------------------------------------------------- groups


def correcting(model: str) -> Work:
    """A client's work where it corrects its own updates."""
    settings = work(model).model_dump()
    settings["method"]["uplink"] = {"kind": "dense"}
    settings["method"]["correction"] = {"kind": "distillation", "proxy": "client", "batch": 4}
    return Work.model_validate(settings)


@MODELS
def test_an_update_is_corrected_by_a_newer_version(data: DataSet, model: str) -> None:
    """On the client's own examples; who trains beside it, and what came before, changes nothing."""
    settings = correcting(model)
    base, teacher = initial(settings, data), initial(work(model, seed=2), data)
    late = ask(1)._replace(strength=0.5)
    here, there = (Client(settings, Dealt(data, SHARDS)) for _ in range(2))
    alone = here.train(late, base, NONE, teacher)
    plain = here.train(ask(1), base, NONE)
    assert not same_body(alone[0], plain[0], here)
    read = [decode(payload, here.schema) for payload in (alone[0], plain[0])]
    np.testing.assert_array_equal(read[0].buffers, read[1].buffers)
    assert read[0].header == read[1].header
    payloads, _, receipt = there.train_group(
        Order([ask(0), late, ask(2)], [(0,)] * 3, [None] * 3, [(), (1,), ()]), [base, teacher]
    )
    start, stop = receipt.places[1]
    assert payloads[start:stop].tobytes() == alone[0].tobytes()
    assert (receipt.figures[0], receipt.figures[2]) == ((), ())
    found = dict(receipt.figures[1])
    assert found["correction_strength"] == 0.5
    assert found["correction_kl_after"] < found["correction_kl_before"]
    stronger = late._replace(strength=0.9)
    assert not same_body(here.train(stronger, base, NONE, teacher)[0], alone[0], here)


@pytest.mark.parametrize("masked", [True, False])
def test_what_is_pruned_stays(masked: bool, data: DataSet) -> None:
    """Outside the newest mask, and where sparse weights are zero, a lesson changes nothing."""
    settings = correcting("mlp").model_dump()
    settings["method"]["uplink"] = {"kind": "packed" if masked else "sparse-weights"}
    of, held = Work.model_validate(settings), Dealt(data, SHARDS)
    here = Client(of, held)
    weights, newest = (
        decode(initial(work(seed=seed), data), here.schema).content.values.copy() for seed in (1, 2)
    )
    living = np.flatnonzero(np.arange(weights.size) % 3)
    mask = Mask(1, living) if masked else None
    if not masked:
        weights[::3] = 0
    no_buffers = np.empty(0, dtype=np.float32)
    corrected, figures = Corrector(of, held.shape).correct(
        ask(1)._replace(strength=0.5),
        weights,
        Base(newest, here.schema),
        (Base(newest, here.schema, mask=mask), no_buffers),
        held.train(1, 0),
    )
    assert dict(figures)["correction_kept"] == 1
    changed = np.flatnonzero(corrected != weights)
    assert changed.size > 0
    assert set(changed.tolist()) <= set(living.tolist())


def test_what_is_kept_is_of_the_corrected_update(data: DataSet) -> None:
    """Sent and kept back together are the corrected difference: top-k chooses from that."""
    settings = correcting("mlp").model_dump()
    dense = Work.model_validate(settings)
    settings["method"]["uplink"] = {"kind": "top-k", "density": 0.1}
    sparse = Work.model_validate(settings)
    base, teacher = initial(dense, data), initial(work(seed=2), data)
    late = ask(1)._replace(strength=0.5)
    here, there = (Client(of, Dealt(data, SHARDS)) for of in (dense, sparse))
    whole = decode(here.train(late, base, NONE, teacher)[0], here.schema).content
    payload, state = there.train(late, base, NONE, teacher)
    sent = decode(payload, there.schema).content.densify(there.schema.parameters)
    np.testing.assert_allclose(sent + state.view(np.float32), whole.values, atol=1e-6)


@MODELS
def test_a_group_is_one_by_one(data: DataSet, model: str) -> None:
    """Trained together or alone, each member gives the same bytes, aligned in the buffer."""
    settings = work(model)
    base, here = initial(settings, data), Client(settings, Dealt(data, SHARDS))
    _, state = here.train(ask(1), base, NONE)
    held = np.concatenate([np.zeros(8, dtype=np.uint8), state])
    group = [ask(0), ask(1, 1), ask(3)]
    places = [None, (1, 8, 8 + state.size), None]
    payloads, states, receipt = Client(settings, Dealt(data, SHARDS)).train_group(
        Order(group, [(0,)] * 3, places, [()] * 3), [base, held]
    )
    alone = [here.train(a, base, s) for a, s in zip(group, (NONE, state, NONE), strict=True)]
    for index, (payload, after) in enumerate(alone):
        start, stop = receipt.places[index]
        assert payloads[start:stop].tobytes() == payload.tobytes()
        assert start % ALIGNMENT == 0
        size = states.size // 3
        assert states[index * size : (index + 1) * size].tobytes() == after.tobytes()
    assert len(receipt.durations_s) == 3
    assert min(receipt.durations_s) > 0
    assert receipt.cpu_s > 0


def test_a_group_on_two_bases(data: DataSet) -> None:
    """Each member trains from the base that it names."""
    settings = work()
    here = Client(settings, Dealt(data, SHARDS))
    bases = [initial(settings, data), initial(work(seed=3), data)]
    payloads, _, receipt = here.train_group(
        Order([ask(0), ask(0)], [(1,), (0,)], [None, None], [(), ()]), bases
    )
    for base, (start, stop) in zip(reversed(bases), receipt.places, strict=True):
        assert payloads[start:stop].tobytes() == here.train(ask(0), base, NONE)[0].tobytes()


# ---------------------------------------------------------------- faults


def test_not_finite(data: DataSet) -> None:
    """The drill's payload is well-formed but holds a NaN, and the server says so."""
    settings = work()
    schema, base, *_ = first_version(settings, Dealt(data, SHARDS).shape)
    here = Client(settings, Dealt(data, SHARDS))
    payload, _ = here.train(ask(1, fault="not-finite"), base, NONE)
    verdict = Server(settings, schema, base).admit(Delivery(Address(1, 0), V0, 0, 0), payload)
    assert verdict.verdict.reason is Reason.NOT_FINITE
    with pytest.raises(WireError, match="1 of 61 values are not finite"):
        check_finite(decode(payload, schema))


def test_garbage(data: DataSet) -> None:
    """The drill's payload is as long as the real one, the same each time, and cannot be read."""
    settings = work()
    base, here = initial(settings, data), Client(settings, Dealt(data, SHARDS))
    real, _ = here.train(ask(1), base, NONE)
    sent, _ = here.train(ask(1, fault="garbage"), base, NONE)
    assert sent.size == real.size
    assert sent.dtype == np.uint8
    assert sent.tobytes() == here.train(ask(1, fault="garbage"), base, NONE)[0].tobytes()
    with pytest.raises(WireError, match="magic"):
        decode(sent, here.schema)


@pytest.mark.parametrize("fault", ["not-finite", "garbage", "error"])
def test_after_a_fault(data: DataSet, fault: str) -> None:
    """The next attempt at the same address gives what it would have given anyway."""
    settings = work()
    base, here = initial(settings, data), Client(settings, Dealt(data, SHARDS))
    real = both(here.train(ask(1), base, NONE))
    if fault == "error":
        with pytest.raises(PlannedError, match="the drill asked for an error in training"):
            here.train(ask(1, fault=fault), base, NONE)
    else:
        assert both(here.train(ask(1, fault=fault), base, NONE)) != real
    assert both(here.train(ask(1), base, NONE)) == real


# ---------------------------------------------------------------- examples kept ready


def test_kept_examples_are_bounded(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used go first; the results do not depend on what is kept."""
    settings = work(epochs=1)
    base, here = initial(settings, data), Client(settings, Dealt(data, SHARDS))
    expected = [both(here.train(ask(c), base, NONE)) for c in range(4)]
    assert list(here._examples.clients) == [0, 1, 2, 3]
    a_client = 25 * (64 * 4 + 8)
    monkeypatch.setattr(client_module, "CACHE_BYTES", 2 * a_client)
    small = Client(settings, Dealt(data, SHARDS))
    for client, kept in ((0, [0]), (1, [0, 1]), (0, [1, 0]), (2, [0, 2]), (3, [2, 3])):
        assert both(small.train(ask(client), base, NONE)) == expected[client]
        assert list(small._examples.clients) == kept
        held = sum(x.nbytes + y.nbytes for x, y in small._examples.clients.values())
        assert small._examples.size == held <= 2 * a_client


def test_products_of_examples_are_kept(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all clients' fit, whoever is here; then the numbers differ by rounding alone."""
    settings = work("wide", epochs=1)
    base, here = initial(settings, data), Client(settings, Dealt(data, SHARDS))
    payload, _ = here.train(ask(0), base, NONE)
    ((gram,),) = here._grams.clients.values()
    assert gram.shape == (25, 25)
    monkeypatch.setattr(client_module, "CACHE_BYTES", 4 * 64 * SHARDS.sizes().sum() - 1)
    without = Client(settings, Dealt(data, SHARDS))
    plain, _ = without.train(ask(0), base, NONE)
    assert not without._grams.clients
    values = [decode(message, here.schema).content.values for message in (payload, plain)]
    assert values[0].tobytes() != values[1].tobytes()
    np.testing.assert_allclose(*values, rtol=1e-3, atol=1e-6)


def test_a_client_larger_than_the_cache(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains all the same; only the newest is then kept."""
    monkeypatch.setattr(client_module, "CACHE_BYTES", 10)
    settings = work(epochs=1)
    base, here = initial(settings, data), Client(settings, Dealt(data, SHARDS))
    for client in (0, 1):
        here.train(ask(client), base, NONE)
        assert list(here._examples.clients) == [client]


def test_shards() -> None:
    """Any number of clients in two arrays, also none, and clients without examples."""
    parts = [np.array([3, 1]), np.array([], dtype=np.int64), np.array([2])]
    shards = Shards.of(parts)
    assert [shards[c].tolist() for c in range(len(shards))] == [[3, 1], [], [2]]
    assert [shards.examples(c) for c in range(3)] == [2, 0, 1]
    assert len(Shards.of([])) == 0


@pytest.mark.parametrize(("seed", "client", "number"), [(1, 2, 5), (1, 2, 6), (1, 3, 5), (4, 2, 5)])
def test_streams_by_name(data: DataSet, seed: int, client: int, number: int) -> None:
    """Batches and dropout draw from streams of their own, by seed, client and number."""
    settings, seen = work(seed=seed), []
    base, here = initial(settings, data), Client(settings, Dealt(data, SHARDS))
    real = type(settings.method.training).train

    def spy(self: Any, model: Any, x: Any, y: Any, task: Any) -> Any:
        key = task.rng.bit_generator.state["state"]["key"].tolist()
        seen.append((key, torch.initial_seed()))
        return real(self, model, x, y, task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(settings.method.training), "train", spy)
        here.train(ask(client, number), base, NONE)
    batches = stream(seed, "batches", client, number).bit_generator.state
    assert seen == [(batches["state"]["key"].tolist(), stream_seed(seed, "train", client, number))]
