"""How much of what training asks does each client do?"""

from __future__ import annotations

from orchestrator.fleet import Fleet
from orchestrator.plan import Plan, SplitPlan
from policies.memory import Memory
from policies.method import Method
from policies.training.workload import EqualWorkload
from policies.types import RunError


class Portions:
    """Tells how many batches clients take, and what of their memory.

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
    def of(cls, plan: Plan) -> Portions:
        """Return those of a run."""
        return cls(plan.method, plan.forward_flops, plan.memory, plan.split)

    @property
    def equal(self) -> bool:
        """Whether everybody does all of it."""
        return isinstance(self._workload, EqualWorkload)

    def batches(self, fleet: Fleet, client: int, examples: int, cut: int = 0) -> int:
        """Return how many batches a client takes; 0 for as many as training asks.

        Args:
            fleet: Devices.
            client: Whose assignment it is.
            examples: How many it has.
            cut: Blocks of an encoder that it computes.

        Raises:
            RunError: If the policy gives a number that cannot be.
        """
        if self.equal:
            return 0
        asked = self._training.batches(examples)
        flops = self._all_flops(examples, cut)
        taken = self._workload.batches(asked, fleet.nominal_s(client, flops) / max(asked, 1))
        if not 0 < taken <= asked:
            raise RunError(
                f"method.workload {self._workload.kind} must give a client between 1 and the "
                f"{asked} batches that it is asked for, got {taken}."
            )
        return 0 if taken == asked else taken

    def training_bytes(self, examples: int, cut: int = 0) -> int:
        """Return the memory that training takes on a device; arguments as of `batches`."""
        memory = self._memory
        if self._split is not None:
            memory = self._split.process(examples, cut, known=False).memory
        return memory.bytes(self._training.batch_size)

    def flops(self, examples: int, batches: int) -> float:
        """Return the work of an update of the whole model."""
        training = self._training.shortened(batches) if batches else self._training
        return training.flops(examples, self._forward_flops)

    def _all_flops(self, examples: int, cut: int) -> float:
        if self._split is None:
            return self.flops(examples, 0)
        return self._split.process(examples, cut, known=self._split.caches).all_flops
