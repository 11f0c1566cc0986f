"""How does a classifier begin with what an encoder has learnt elsewhere?

It is the encoder, of which nothing or little is trained, and linear layers behind its features. It
trains whole on a client like any other model, or is cut in two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from actors.learning.encoders import EfficientNetLite0, Encoder, Origin
from actors.learning.examples import DataShape
from actors.learning.modelling import ModelPolicy, linear_flops, linear_parameters
from actors.learning.subspaces import NoSubspace, Subspace
from policies.memory import FLOAT_BYTES
from policies.splitting import Ends
from policies.types import ExperimentError

if TYPE_CHECKING:
    from actors.learning.pretrained_torch import PretrainedModule


class Pretrained(ModelPolicy):
    """An encoder that was learnt elsewhere, and linear layers behind its features.

    Attributes:
        encoder: Which one; its `cuts` say where the model can be cut in two.
        head: Whether the encoder's embedding is trained.
        trains: What else of the encoder is trained.
        tail: Width of each hidden layer behind the features; ReLU between layers.
    """

    kind: Literal["pretrained"] = "pretrained"
    encoder: Encoder = EfficientNetLite0()
    head: Literal["frozen", "trained"] = "frozen"
    trains: Subspace = NoSubspace()
    tail: tuple[PositiveInt, ...] = ()

    def parameters(self, shape: DataShape) -> int:
        """Return how many numbers are trained; frozen ones are neither sent nor counted."""
        trained = self.trains.parameters(self.encoder, shape)
        if self.head == "trained":
            trained += self.encoder.cuts(shape)[0].parameters
        return trained + linear_parameters(self.layers(shape))

    def frozen_parameters(self, shape: DataShape) -> int:
        """Return how many numbers of the encoder are only read."""
        cuts = self.encoder.cuts(shape)
        held = cuts[-1].parameters + self.encoder.pooling(shape).parameters
        head = cuts[0].parameters * (self.head == "trained")
        inserted = self.trains.cuts(self.encoder, shape)[-1].parameters - cuts[-1].parameters
        return held - head - self.trains.parameters(self.encoder, shape) + inserted

    def forward_flops(self, shape: DataShape) -> int:
        """Return those of the encoder, what is put into it included, and of the linear layers."""
        encoder = self.trains.cuts(self.encoder, shape)[-1].forward_flops
        pooling = self.encoder.pooling(shape).forward_flops
        return encoder + pooling + linear_flops(self.layers(shape))

    def activation_bytes(self, shape: DataShape) -> int:
        """Return the bytes of what lies behind the first place that is trained.

        As if all of that were trained: exact for `all`, `last-blocks` and a trained head with
        `all`, more than there is for the others, where inputs of frozen layers are not kept.
        """
        tail = FLOAT_BYTES * sum(self.layers(shape)[:-1])
        cuts = self.trains.cuts(self.encoder, shape)
        first = self.trains.first_block(len(cuts) - 1)
        if self.head == "trained":
            before = 0
        elif first == len(cuts) - 1:
            return tail
        else:
            before = cuts[first].activation_bytes
        pooling = self.encoder.pooling(shape).activation_bytes
        return cuts[-1].activation_bytes - before + pooling + tail

    def learns_through(self, shape: DataShape) -> bool:
        """Say whether the head is frozen, or gradients come to it through the encoder."""
        return self.head == "frozen" or self.encoder.differentiable(shape)

    def ends(self, shape: DataShape, blocks: int = 0) -> Ends:
        """Return how it is cut in three behind some of the encoder's blocks.

        Raises:
            ExperimentError: If there are fewer blocks, or one of them is trained: what is trained
                of the encoder cannot run on a device.
        """
        cuts = self.trains.cuts(self.encoder, shape)
        most = self.trains.first_block(len(cuts) - 1)
        frozen = not self.trains.parameters(self.encoder, shape)
        if frozen and blocks == len(cuts):
            return self._undivided(shape)
        if blocks > most:
            raise ExperimentError(
                f"topology.cut must be {'all, or ' * frozen}at most {most}, got {blocks}: "
                f"model.encoder {self.encoder.kind} has {len(cuts) - 1} blocks, and model.trains "
                f"{self.trains.kind} keeps those at the encoder that it trains. Lower it."
            )
        here, pooling = self.encoder.cuts(shape)[blocks], self.encoder.pooling(shape)
        layers, trained = self.layers(shape), self.head == "trained"
        head = cuts[0].parameters if trained else 0
        kept = here.activation_bytes if trained else 0
        return Ends(
            smashed=here.smashed,
            features=layers[0],
            head_flops=here.forward_flops,
            body_flops=cuts[-1].forward_flops - here.forward_flops + pooling.forward_flops,
            tail_flops=linear_flops(layers),
            head_trained=trained,
            encoder_trained=self.trains.parameters(self.encoder, shape) > 0,
            blocks=blocks,
            equipment_bytes=FLOAT_BYTES * (here.parameters - head),
            parameters=head + linear_parameters(layers),
            activation_bytes=kept + FLOAT_BYTES * sum(layers[:-1]),
            tail_parameters=linear_parameters(layers),
        )

    def _undivided(self, shape: DataShape) -> Ends:
        """Return how it is where all of a frozen encoder runs before the cut."""
        last, pooling = self.encoder.cuts(shape)[-1], self.encoder.pooling(shape)
        behind = self.ends(shape, len(self.encoder.cuts(shape)) - 1)
        kept = last.activation_bytes + pooling.activation_bytes if behind.head_trained else 0
        layers = self.layers(shape)
        return behind._replace(
            smashed=(behind.features,),
            head_flops=last.forward_flops + pooling.forward_flops,
            body_flops=0.0,
            blocks=behind.blocks + 1,
            whole=True,
            equipment_bytes=behind.equipment_bytes + FLOAT_BYTES * pooling.parameters,
            activation_bytes=kept + FLOAT_BYTES * sum(layers[:-1]),
        )

    def build(self, shape: DataShape) -> PretrainedModule:
        """Return the module; only what is trained asks for gradients."""
        from actors.learning import pretrained_torch  # noqa: PLC0415  validating needs no torch

        self.parameters(shape)  # refuses what cannot be
        return pretrained_torch.pretrained(
            self.encoder.build(shape), self.trains, self.layers(shape), head=self.head == "trained"
        )

    def learnt(self) -> tuple[str, ...]:
        """Return head and subspace where these train layers of the encoder."""
        head = ("model.head trained",) * (self.head == "trained")
        return head + (f"model.trains {self.trains.kind}",) * self.trains.learnt()

    def missing(self) -> str | None:
        """Return what the encoder lacks."""
        return self.encoder.missing()

    def origin(self) -> Origin:
        """Return where the encoder's weights come from."""
        return self.encoder.origin()

    def layers(self, shape: DataShape) -> tuple[int, ...]:
        """Return the widths before, between and after the linear layers of the tail."""
        return (self.encoder.features(shape), *self.tail, shape.classes)
