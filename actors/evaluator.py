"""How good is a version?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from actors.identity import Identity, identify, join_paths
from actors.learning.evaluation_torch import Evaluation, evaluate
from actors.learning.examples import Labels
from actors.learning.holdings import Dealt, Holdings
from actors.pieces import Bases, Handed
from actors.stopwatch import Stopwatch, Usage
from actors.work import Work
from policies.training.flat_torch import FlatModel
from policies.types import Buffer, stream


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
        self._bases = Bases(self._model.schema)
        self.watch = Stopwatch()
        self._classes = holdings.shape.classes
        self._owners: torch.Tensor | None = None
        if not isinstance(holdings, Dealt):
            return  # each client tests on its own
        data = holdings.data
        rows = _tested(work, len(data.y_test))
        self._x = torch.from_numpy(data.normalise(data.x_test[rows]).copy())
        self._y = torch.from_numpy(data.y_test[rows].copy())
        if data.clients_test is not None:
            self._owners = torch.from_numpy(data.clients_test[rows])

    def evaluate(self, version: Handed, encoder: Buffer | None = None) -> Evaluation:
        """Test a version.

        Args:
            version: Which.
            encoder: The encoder's weights, where it has some of its own.
        """
        with self.watch("test"):
            received = self._bases.read(version)
            parameters = received.content.densify(self._model.schema.parameters)
            self._model.load(parameters, received.buffers)
            if self._body is not None and encoder is not None:
                values = self._body.params.numpy()
                np.copyto(values, encoder[: values.nbytes].view(np.float32))
            x, y, owners = self._x, self._y, self._owners
            return evaluate(self._model.module, x, y, self._classes, owners=owners)


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

    def evaluate(self, encoder: Buffer | None, *version: Buffer) -> Evaluation:
        """Test a version, in pieces; see `Evaluator.evaluate`."""
        return self._evaluator.evaluate(version, encoder)
