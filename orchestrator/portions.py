"""How much of what training asks does each client do, and what does it take of its memory?"""

from __future__ import annotations

from typing import Final

from orchestrator.fleet import Fleet
from orchestrator.plan import Plan, SplitPlan
from policies.memory import Memory
from policies.method import Method
from policies.training import Portion
from policies.training.workload import EqualWorkload
from policies.types import RunError

_ALL: Final = Portion()


class Portions:
    """Tells how many batches clients take, and of how many examples.

    Args:
        method: Says what is asked.
        forward_flops: Of one example, where clients compute the whole model.
        memory: What training takes there.
        split: How the model is split; None if it is not.
    """

    def __init__(
        self, method: Method, forward_flops: float, memory: Memory, split: SplitPlan | None
    ) -> None:
        self._workload = method.workload
        self._training = method.training
        self._forward_flops = forward_flops
        self._memory = memory
        self._split = split

    @classmethod
    def asked_by(cls, plan: Plan) -> Portions:
        """Return those of a run."""
        return cls(plan.method, plan.forward_flops, plan.memory, plan.split)

    @property
    def equal(self) -> bool:
        """Whether everybody does all of it."""
        return isinstance(self._workload, EqualWorkload) and self._workload.least_batch is None

    def of(self, fleet: Fleet, client: int, examples: int, cut: int = 0) -> Portion:
        """Return how much a client does.

        Args:
            fleet: Devices.
            client: Whose assignment it is.
            examples: How many it has.
            cut: Blocks of an encoder that it computes.

        Raises:
            RunError: If the policy gives a number that cannot be.
        """
        if self.equal:
            return _ALL
        size = self.batch_size(fleet, client, examples, cut)
        whole = Portion(batch_size=0 if size == self._training.batch_size else size)
        asked = self._training.portion(whole).batches(examples)
        took_s = fleet.nominal_s(client, self._all_flops(examples, cut, whole))
        taken = self._workload.batches(asked, took_s / max(asked, 1))
        self._check(taken, asked, "batches")
        return whole if taken == asked else whole._replace(batches=taken)

    def batch_size(self, fleet: Fleet, client: int, examples: int, cut: int = 0) -> int:
        """Return how many examples a client's batches have; arguments and errors as of `of`."""
        asked = self._training.batch_size
        if self.equal:
            return asked
        fitting = self.memory(examples, cut).most(fleet.profile_of(client).memory_bytes, asked)
        took_s = fleet.nominal_s(client, self._all_flops(examples, cut, _ALL))
        seen = max(self._training.examples_seen(examples), 1)
        taken = self._workload.batch_size(asked, fitting, took_s / seen)
        self._check(taken, asked, "examples of a batch")
        return taken

    def _check(self, taken: int, asked: int, what: str) -> None:
        if not 0 < taken <= asked:
            raise RunError(
                f"method.workload {self._workload.kind} must give a client between 1 and the "
                f"{asked} {what} that it is asked for, got {taken}."
            )

    def memory(self, examples: int, cut: int = 0) -> Memory:
        """Return what training takes a client that has so many examples and computes that much."""
        if self._split is None:
            return self._memory
        return self._split.process(examples, cut, known=False).memory

    def training_bytes(self, fleet: Fleet, client: int, examples: int, cut: int = 0) -> int:
        """Return the memory that training takes a client; arguments and errors as of `of`."""
        size = self.batch_size(fleet, client, examples, cut)
        return self.memory(examples, cut).bytes(size)

    def flops(self, examples: int, portion: Portion) -> float:
        """Return the work of an update of the whole model."""
        return self._training.portion(portion).flops(examples, self._forward_flops)

    def _all_flops(self, examples: int, cut: int, portion: Portion) -> float:
        if self._split is None:
            return self.flops(examples, portion)
        known = self._split.caches
        return self._split.process(examples, cut, known=known, portion=portion).all_flops
