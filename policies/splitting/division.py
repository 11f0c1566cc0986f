"""Which numbers of a client's model are shared, and which are its own?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from policies.types import Vector
from policies.update import ModelSchema, TensorSpec


@dataclass(frozen=True)
class Division:
    """What a client trains, divided into what it exchanges and what stays with it.

    Of parameters and of buffers those that are shared come first: the head is before the tail.

    Attributes:
        schema: The tensors of what a client trains.
        personal: Whether the tail is the client's own; if not, all is shared.

    Source:
        Personalisation layers: Arivazhagan et al. 2019, FedPer, arXiv:1912.00818.
    """

    schema: ModelSchema
    personal: bool = False

    @cached_property
    def shared(self) -> ModelSchema:
        """The tensors that are exchanged; none if nothing but the tail is trained at clients."""
        if not self.personal:
            return self.schema
        return ModelSchema(tuple(t for t in self.schema.tensors if not _in_tail(t)))

    @cached_property
    def own(self) -> ModelSchema:
        """The tensors that are a client's own."""
        return ModelSchema(tuple(t for t in self.schema.tensors if self.personal and _in_tail(t)))

    def shared_of(self, params: Vector, buffers: Vector) -> tuple[Vector, Vector]:
        """Return views of what is exchanged, shapes (P,) and (B,) of `shared`."""
        return params[: self.shared.parameters], buffers[: self.shared.buffers]

    def own_of(self, params: Vector, buffers: Vector) -> Vector:
        """Return a copy of what is a client's own, parameters first."""
        kept = params[self.shared.parameters :], buffers[self.shared.buffers :]
        return np.concatenate(kept)

    def joined(self, params: Vector, buffers: Vector, own: Vector) -> tuple[Vector, Vector]:
        """Return what a client trains, shapes (P,) and (B,) of `schema`.

        Args:
            params: That are exchanged.
            buffers: Likewise.
            own: What `own_of` has returned.
        """
        if not own.size:
            return params, buffers
        values, statistics = np.split(own, [self.own.parameters])
        return np.concatenate([params, values]), np.concatenate([buffers, statistics])


def _in_tail(tensor: TensorSpec) -> bool:
    return tensor.name.startswith("tail.")
