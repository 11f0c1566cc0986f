"""Steps on roots of the weights, where zero is a resting place, with pruned activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from policies.training.sgd import LocalSteps

if TYPE_CHECKING:
    from torch import nn


class SparsyFed(LocalSteps):
    """Train theta, of which every layer computes with ``w = sign(theta) * |theta|**beta``.

    What is stored, trained, pruned and sent is theta. For beta > 1 a theta of zero has a gradient
    of zero, and neither weight decay nor the local momentum, which starts at zero, moves it: what
    was pruned stays pruned, and the clients' masks agree without being sent. An uplink that sends
    the largest theta does the pruning.

    Every trained weight of a linear, convolution or attention layer is one of these, the first
    and the last layer's included; biases, norms, embeddings and frozen weights are plain. These
    weights are drawn anew, so that a model that brings trained ones loses them.

    Activations are pruned as far as the layer's weight is: with a share s of zeros in w, the
    gradient of w is computed from the ``ceil((1 - s) * n)`` largest magnitudes of the layer's n
    inputs in the batch. Outputs and the gradients of inputs stay exact; a dense layer, and
    evaluation, prune nothing. The clock counts this as dense work: the source's gain is on
    devices that compute sparsely.

    Attributes:
        beta: Power, at least 1; 1 stores the weights themselves, and zeros may then grow back.
        prune_activations: Whether to prune what is saved for the gradients of weights.

    Source:
        Guastella et al., ICLR 2025, arXiv:2504.05153, and the authors' code. Attention as layers
        (the projection of queries, keys and values is one, the output's another), transposed
        convolutions, the order of ties, and padding as a part of the input where torch pads
        before it convolves (modes other than zeros) are our choice.
    """

    kind: Literal["sparsyfed"] = "sparsyfed"
    beta: float = Field(default=1.25, ge=1, allow_inf_nan=False)
    prune_activations: bool = True

    @property
    def zeros_absorb(self) -> bool:
        """Whether a parameter of zero stays zero."""
        return self.beta > 1

    def redraws(self) -> bool:
        """Say yes: layers begin with weights of its own."""
        return True

    def prepare(self, module: nn.Module) -> None:
        """Let the layers store theta, and draw it.

        Raises:
            ExperimentError: If a layer computes in a way of its own, or shares its weight with
                one that would take theta for w.
        """
        from policies.training.sparsyfed_torch import reparameterise  # noqa: PLC0415  # torch, late

        reparameterise(module, beta=self.beta, prune_activations=self.prune_activations)
