"""What does a run begin with?"""

from __future__ import annotations

from typing import NamedTuple

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
    """

    schema: ModelSchema
    message: Buffer
    whole: Shipment


def first_version(work: Work, shape: DataShape) -> FirstVersion:
    """Return version 0, drawn from the experiment's seed: the same in every process."""
    model, method = work.build(shape), work.method
    schema = model.schema
    density = method.uplink.asks(0.0, method.aggregation.pacing().size, {})
    mask = Masks.start(schema.parameters).newest if method.pruning.masks() else None
    weights, buffers = model.params.numpy(), model.buffers.numpy()
    parts = (method.downlink, schema, Version(0, 0), weights, buffers, mask, density)
    message = whole_message(*parts)
    return FirstVersion(schema, message, Publisher(method.downlink, schema, message).whole())
