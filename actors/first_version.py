"""What does a run begin with?"""

from __future__ import annotations

from typing import NamedTuple

from actors.client_state import StateCodec
from actors.learning.examples import DataShape
from actors.publisher import Publisher, Shipment, whole_message
from actors.work import Work
from policies.sparsity import Masks
from policies.types import Buffer, Version
from policies.update import ModelSchema


class FirstVersion(NamedTuple):
    """Version 0.

    Attributes:
        schema: The model's tensors.
        message: It, as a message.
        whole: What sending it takes to a client that holds nothing.
        state_bytes: What a client keeps from one update to the next.
    """

    schema: ModelSchema
    message: Buffer
    whole: Shipment
    state_bytes: int


def first_version(work: Work, shape: DataShape) -> FirstVersion:
    """Return version 0, drawn from the experiment's seed: the same in every process."""
    model, method = work.build(shape), work.method
    division = work.division(model.schema)
    schema = division.shared
    density = method.uplink.asks(0.0, method.aggregation.pacing().size, {})
    mask = Masks.start(schema.parameters).newest if method.pruning.masks() else None
    weights, buffers = division.shared_of(model.params.numpy(), model.buffers.numpy())
    parts = (method.downlink, schema, Version(0, 0), weights, buffers, mask, density)
    message = whole_message(*parts)
    whole = Publisher(method.downlink, schema, message).whole()
    return FirstVersion(schema, message, whole, StateCodec(work, model).size)
