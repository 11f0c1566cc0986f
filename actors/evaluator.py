"""How good is a version?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from actors.buffers import piece
from actors.identity import Identity, identify, join_paths
from actors.learning.audience import Audience
from actors.learning.evaluation_torch import Evaluation, evaluate
from actors.learning.examples import Labels
from actors.learning.holdings import Dealt, Holdings
from actors.pieces import Bases, Handed
from actors.stopwatch import Stopwatch, Usage
from actors.tails import Tails
from actors.work import At, Work, unpacked
from policies.training.flat_torch import FlatModel
from policies.types import Buffer, stream


class Exam(NamedTuple):
    """What a test is of: where it lies in the buffers that come with it.

    Attributes:
        version: Which of them make up the version, in order.
        encoder: Which one holds the encoder's weights; None where it has none of its own.
        states: Clients whose tails are their own, and where their states lie.
    """

    version: tuple[int, ...]
    encoder: int | None = None
    states: tuple[tuple[int, At], ...] = ()


class Evaluator:
    """Tests versions on the test split, which no client ever sees.

    Attributes:
        watch: Where its time goes.
    """

    def __init__(self, work: Work, holdings: Holdings) -> None:
        torch.set_num_threads(1)  # another number of threads gives other sums
        self._body: FlatModel | None = None
        if work.split is None:
            self._model = work.build(holdings.shape)
        else:
            self._model, self._body = work.build_halves(holdings.shape)
        self._division = work.division(self._model.schema)
        self._bases = Bases(self._division.shared)
        self.watch = Stopwatch(on=work.timed)
        self._classes = holdings.shape.classes
        self._owners: torch.Tensor | None = None
        self._tails: Tails | None = None
        if not isinstance(holdings, Dealt):
            return  # each client tests on its own
        data = holdings.data
        rows = _tested(work, len(data.y_test))
        self._x = torch.from_numpy(data.normalise(data.x_test[rows]).copy())
        self._y = torch.from_numpy(data.y_test[rows].copy())
        if data.clients_test is not None:
            self._owners = torch.from_numpy(data.clients_test[rows])
        if self._division.personal:
            audience = Audience(holdings, self._y, self._owners)
            self._tails = Tails(work, self._model, audience, (self._x, self._y))

    def evaluate(
        self,
        version: Handed,
        encoder: Buffer | None = None,
        states: Mapping[int, Buffer] | None = None,
    ) -> Evaluation:
        """Test a version; where tails are personal, with each client's own.

        Args:
            version: Which.
            encoder: The encoder's weights, where it has some of its own.
            states: Of the clients that have one, where tails are personal: their tails are in it.

        Cost:
            One pass over the examples; where tails are personal, one through the encoder and one
            through each tail.
        """
        with self.watch("test"):
            received = self._bases.read(version)
            values = received.content.densify(self._division.shared.parameters)
            if self._body is not None and encoder is not None:
                body = self._body.params.numpy()
                np.copyto(body, encoder[: body.nbytes].view(np.float32))
            if self._tails is not None:
                return self._tails.evaluate(values, received.buffers, states or {})
            self._model.load(values, received.buffers)
            x, y, owners = self._x, self._y, self._owners
            return evaluate(self._model.module, x, y, self._classes, owners=owners)

    def examine(self, exam: Exam, buffers: Sequence[Buffer]) -> Evaluation:
        """Test what an exam names; see `evaluate`."""
        return self.evaluate(
            [buffers[at] for at in exam.version],
            None if exam.encoder is None else buffers[exam.encoder],
            {client: piece(buffers, at) for client, at in exam.states},
        )


def _tested(work: Work, count: int) -> slice | Labels:
    """Return which examples of the test split versions are tested on."""
    if work.tests is None or work.tests >= count:
        return slice(None)
    return np.sort(stream(work.seed, "tests").permutation(count)[: work.tests])


class EvaluatorActor:
    """The remote shell of `Evaluator`."""

    def __init__(
        self, work: dict[str, Any], paths: Sequence[str], fetch: Callable[[], Holdings]
    ) -> None:
        join_paths(paths)
        self._evaluator = Evaluator(Work.model_validate(work), fetch())

    def identity(self) -> Identity:
        """Say who and where this process is."""
        return identify()

    def usage(self) -> Usage:
        """Say what this process's time went into."""
        return self._evaluator.watch.usage()

    def evaluate(self, exam: bytes, *buffers: Buffer) -> Evaluation:
        """Test what a packed `Exam` names; see `Evaluator.examine`."""
        return self._evaluator.examine(unpacked(exam), buffers)
