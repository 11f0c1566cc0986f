"""Is what clients share, and what is their own, the whole of what they train?"""

from __future__ import annotations

import numpy as np
from torch import nn

from policies.splitting import Division
from policies.splitting.halves_torch import EndsModule
from policies.training.flat_torch import FlatModel


def ends() -> FlatModel:
    """Return ends with running statistics in head and tail."""
    whole = nn.Module()
    whole.embedding = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    whole.blocks, whole.pool = nn.ModuleList(), nn.Identity()
    whole.tail = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 4))
    return FlatModel(EndsModule(whole))


def test_the_head_is_shared_and_the_tail_is_not() -> None:
    """Parameters and running statistics alike; joined again they are what they were."""
    model = ends()
    params = np.arange(model.schema.parameters, dtype=np.float32)
    buffers = -np.arange(model.schema.buffers, dtype=np.float32)
    division = Division(model.schema, personal=True)
    assert {tensor.name.split(".")[0] for tensor in division.shared.tensors} == {"embedding"}
    assert {tensor.name.split(".")[0] for tensor in division.own.tensors} == {"tail"}
    assert (division.shared.parameters, division.shared.buffers) == (3 * 2 + 2 + 4, 4)
    assert (division.own.parameters, division.own.buffers) == (4 + 2 * 4 + 4, 4)
    own = division.own_of(params, buffers)
    joined = division.joined(*division.shared_of(params, buffers), own)
    for found, wanted in zip(joined, (params, buffers), strict=True):
        np.testing.assert_array_equal(found, wanted)
    own[:] = 0
    assert params[-1] == params.size - 1


def test_without_personal_tails_all_is_shared() -> None:
    """Nothing is a client's own, and nothing is copied."""
    model = ends()
    division = Division(model.schema)
    params, buffers = model.params.numpy(), model.buffers.numpy()
    own = division.own_of(params, buffers)
    assert division.shared is model.schema
    assert not own.size
    assert not division.own.tensors
    assert division.joined(params, buffers, own)[0] is params
