"""How good is a version where each client has a tail of its own?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from actors.buffers import NOTHING
from actors.client_state import StateCodec
from actors.learning.audience import Audience
from actors.learning.evaluation_torch import Evaluation, Look, features, look
from actors.work import Work
from policies.splitting.halves_torch import EndsModule
from policies.training.flat_torch import FlatModel
from policies.types import Buffer, Vector


class Tails:
    """Tests each client's tail on the features of all examples.

    Args:
        work: What actors are told.
        model: Both ends; it holds the weights that a run begins with.
        audience: The clients.
        examples: Normalised inputs, shape (n, ...), and labels, shape (n,).
    """

    def __init__(
        self,
        work: Work,
        model: FlatModel,
        audience: Audience,
        examples: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        if not isinstance(model.module, EndsModule):
            raise TypeError("only a split model has personal tails")
        self._ends = model.module
        self._model = model
        self._division = work.division(model.schema)
        self._states = StateCodec(work, model)
        self._audience = audience
        self._x, self._y = examples

    def evaluate(self, values: Vector, buffers: Vector, states: Mapping[int, Buffer]) -> Evaluation:
        """Test a version.

        Args:
            values: What of it is shared, shape (P,).
            buffers: Likewise, shape (B,).
            states: Of the clients that have one; all others have the tail that a run begins with.

        Cost:
            One pass through head and encoder, then one through each different tail.
        """
        return self._audience.evaluation(self._looks(values, buffers, states))

    def _looks(
        self, values: Vector, buffers: Vector, states: Mapping[int, Buffer]
    ) -> Iterator[tuple[Sequence[int], Look]]:
        """Yield clients that have the same tail, and a look at it."""
        groups: list[tuple[Sequence[int], Buffer]] = [([c], states[c]) for c in sorted(states)]
        others = [client for client in range(len(self._audience)) if client not in states]
        if others:
            groups.append((others, NOTHING))
        z: torch.Tensor | None = None
        for whose, state in groups:
            _, own = self._states.read(state)
            self._model.load(*self._division.joined(values, buffers, own))
            if z is None:  # no tail is part of it
                z = features(self._ends, self._ends.features, self._x)
            yield whose, look(self._ends.tail, z, self._y, self._audience.classes)
