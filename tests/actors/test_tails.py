"""Does each client keep a tail of its own, and is a version tested with all of them?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from split_nets import Parts

import actors.tails
from actors.client import Client
from actors.client_state import StateCodec
from actors.evaluator import Evaluator, Exam
from actors.first_version import first_version
from actors.learning.examples import DataSet
from actors.learning.holdings import Dealt
from actors.learning.shards import Shards
from actors.work import Assignment, Order, Work
from policies.splitting.halves_torch import EndsModule
from policies.types import Address, Buffer, Version
from policies.wire import decode

V0 = Version(0, 0)
NOTHING = np.empty(0, dtype=np.uint8)
CLASSES = 4
ROWS = [np.arange(0, 20), np.arange(20, 30), np.arange(30, 60)]


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    """Put back the number of threads, which actors set to one."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def work(model: Parts | None = None, uplink: dict[str, Any] | None = None) -> Work:
    training = {"kind": "sgd", "lr": 0.5, "batch_size": 5}
    return Work.model_validate(
        {
            "seed": 5,
            "data": {"source": "digits"},
            "model": model or Parts(body="frozen"),
            "method": {"training": training, "uplink": uplink or {"kind": "top-k"}},
            "topology": {"kind": "split", "tail": "personal"},
        }
    )


def holdings(*, owned: bool = False) -> Dealt:
    """Return three clients; with `owned` the first and last are named, the middle one is mixed."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((60, 6)).astype(np.float32)
    y = rng.integers(0, CLASSES, 60)
    test = rng.standard_normal((30, 6)).astype(np.float32)
    named: dict[str, Any] = {}
    if owned:
        whose = np.repeat([0, 1, 2, 3], [20, 5, 5, 30])
        tested = np.repeat([0, 1, 3], 10)
        named = {
            "clients_train": whose, "clients_test": tested, "client_names": ("a", "b", "c", "d"),
        }  # fmt: skip
    data = DataSet(x, y, test, rng.integers(0, CLASSES, 30), CLASSES, **named)
    return Dealt(data, Shards.of(ROWS))


def state_with(codec: StateCodec, own: np.ndarray) -> Buffer:
    """Return a state that has nothing left to send, and a tail."""
    uplink, _ = codec.read(NOTHING)
    return codec.write(uplink, own.astype(np.float32))


def some_tail() -> np.ndarray:
    """Return weights that do not say the same of everything, and no bias."""
    weights = 9 * np.random.default_rng(6).standard_normal(12)
    return np.concatenate([weights, np.zeros(4)]).astype(np.float32)


def test_the_state_holds_the_tail() -> None:
    """Before the first update it is the one that a run begins with; the uplink does not see it."""
    settings, held = work(), holdings()
    model = settings.build(held.shape)
    codec = StateCodec(settings, model)
    first = model.params.numpy()[6 * 5 + 5 :].copy()
    model.params.zero_()
    uplink, own = codec.read(NOTHING)
    np.testing.assert_array_equal(own, first)
    assert [array.size for array in uplink.values()] == [6 * 5 + 5]
    again = codec.read(codec.write(uplink, own + 1))[1]
    np.testing.assert_array_equal(again, first + 1)
    assert codec.size == first_version(settings, held.shape).state_bytes == 4 * (35 + first.size)


def test_training_goes_on_from_the_clients_own_tail() -> None:
    """A part begins with the version's head and the state's tail; the version has no tail."""
    settings, held = work(), holdings()
    first, here = first_version(settings, held.shape), Client(settings, held)
    names = [tensor.name for tensor in first.schema.tensors]
    assert names == ["embedding.1.weight", "embedding.1.bias"]
    codec = StateCodec(settings, settings.build(held.shape))
    own = np.arange(16, dtype=np.float32)
    state = state_with(codec, own)
    order = Order(
        [Assignment(Address(0, number), V0, asks=True) for number in (0, 1)],
        [(0,), (0,)],
        [None, (1, 0, state.size)],
        [(), ()],
    )
    _, carries, receipt = here.train_group(order, [first.message, state])
    head = decode(first.message, first.schema).content.densify(35)
    for place, tail in zip(receipt.states, (codec.read(NOTHING)[1], own), strict=True):
        weights = carries[slice(*place)][:-8].view(np.float32)  # the sum of losses comes last
        np.testing.assert_array_equal(weights, np.concatenate([head, tail]))


def evaluated(
    held: Dealt, states: dict[int, Buffer], settings: Work | None = None
) -> tuple[Any, Evaluator]:
    settings = settings or work()
    evaluator = Evaluator(settings, held)
    message = first_version(settings, held.shape).message
    buffers = [message, *states.values()]
    places = tuple((c, (at, 0, s.size)) for at, (c, s) in enumerate(states.items(), start=1))
    return evaluator.examine(Exam((0,), None, places), buffers), evaluator


def logits(settings: Work, held: Dealt, own: np.ndarray | None) -> torch.Tensor:
    """Return what the whole model says of the test split, with a tail."""
    model, _ = settings.build_halves(held.shape)
    assert isinstance(model.module, EndsModule)
    if own is not None:
        model.params[35:] = torch.from_numpy(own)
    with torch.no_grad():
        return model.module(torch.from_numpy(held.data.x_test))


def test_accuracy_is_the_mean_over_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its own tail; those that have none are looked at once, all together.

    All of them are looked at on the same features, which are computed once.
    """
    settings, held = work(), holdings()
    codec = StateCodec(settings, settings.build(held.shape))
    own = some_tail()
    called = []
    for name, real in (("look", actors.tails.look), ("features", actors.tails.features)):
        monkeypatch.setattr(
            actors.tails, name, lambda *a, name=name, real=real: called.append(name) or real(*a)
        )
    found, _ = evaluated(held, {1: state_with(codec, own)})
    assert called == ["features", "look", "look"]
    y = torch.from_numpy(held.data.y_test)
    said = [logits(settings, held, tail) for tail in (None, own, None)]
    right = [(each.argmax(dim=1) == y).numpy() for each in said]
    losses = [float(torch.nn.functional.cross_entropy(each, y)) for each in said]
    assert right[0].mean() != right[1].mean()
    assert found.accuracy == pytest.approx(np.mean([hits.mean() for hits in right]))
    assert found.loss == pytest.approx(np.mean(losses))
    classes = held.data.y_test
    recalls = [[hits[classes == c].mean() for c in range(CLASSES)] for hits in right]
    np.testing.assert_allclose(found.recall, np.mean(recalls, axis=0))
    for client, (rows, recall) in enumerate(zip(ROWS, recalls, strict=True)):
        labels = np.bincount(held.data.y_train[rows], minlength=CLASSES)
        assert found.by_client[client] == pytest.approx((labels * recall).sum() / labels.sum())
    assert found.client_accuracy == pytest.approx(np.mean(found.by_client))


def test_clients_with_tests_of_their_own() -> None:
    """Where the source says whose a test example is, a client's are its own; others have none."""
    settings, held = work(), holdings(owned=True)
    codec = StateCodec(settings, settings.build(held.shape))
    own = some_tail()
    found, _ = evaluated(held, {2: state_with(codec, own)})
    y = torch.from_numpy(held.data.y_test)
    first, last = (
        float((logits(settings, held, tail).argmax(dim=1) == y)[rows].double().mean())
        for tail, rows in ((None, slice(0, 10)), (own, slice(20, 30)))
    )
    assert math.isnan(found.by_client[1])
    assert (found.by_client[0], found.by_client[2]) == (first, last)
    assert found.client_accuracy == pytest.approx((first + last) / 2)


def test_a_test_leaves_nothing_behind() -> None:
    """The same tails give the same figures after others were tested."""
    settings, held = work(), holdings()
    codec = StateCodec(settings, settings.build(held.shape))
    none, evaluator = evaluated(held, {})
    message = first_version(settings, held.shape).message
    evaluator.evaluate(message, None, {c: state_with(codec, np.full(16, c)) for c in range(3)})
    assert evaluator.evaluate(message) == none
