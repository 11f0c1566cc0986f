"""What does the encoder compute for clients that wait?

One pass over what they have sent: it takes a step along the mean of the gradients that they answer
with, and computes what they ask for, many clients' batches in one. Weights go in and come out, and
nothing is kept between two passes, so that a pass can be repeated anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash

from actors.buffers import ALIGNMENT, NOTHING, laid, piece
from actors.identity import Identity, identify, join_paths
from actors.learning.examples import DataShape
from actors.stopwatch import Stopwatch, Usage
from actors.work import At, Work, packed, unpacked
from policies.splitting import Ends, Exchange, Split
from policies.splitting.gradients import Differences
from policies.splitting.halves_torch import back_through, directions, estimate, moved
from policies.types import (
    ACCEPTED,
    Address,
    Buffer,
    Reason,
    Verdict,
    Version,
    rejected,
    stream_seed,
)
from policies.wire import Header, Message, WireError, check_finite, decode, encode


class Question(NamedTuple):
    """One client's question.

    Attributes:
        address: Whose.
        base: The version that its client trains from.
        exchange: What it asks.
        step: Which of the client's batches it brings; for answers alone, the one that they are of.
        cut: Blocks that the client computes.
        at: Where the question lies.
        before: Where the question lies whose batch its gradients are of; None if it has none.
        brought: What that question was.
        weights_at: Which of the buffers holds the weights that computed that batch.
        counts: Whether the encoder learns from it.
    """

    address: Address
    base: Version
    exchange: Exchange
    step: int
    cut: int
    at: At
    before: At | None = None
    brought: Exchange = Exchange()
    weights_at: int = 0
    counts: bool = True


class Pass(NamedTuple):
    """One pass of the encoder.

    Attributes:
        number: Counts passes.
        questions: What clients ask, in the order of their arrival.
        weights_at: Which of the buffers holds the newest weights.
        version: The newest version when it began, by whose number the learning rate falls.
    """

    number: int
    questions: tuple[Question, ...]
    weights_at: int = 0
    version: int = 0


class PassReceipt(NamedTuple):
    """What came of a pass.

    Attributes:
        places: From where to where each reply lies; empty where there is none.
        verdicts: What was found wrong with each question.
        learnt: Clients whose gradients made a step; with none the weights are as before.
        hash: XXH3-128 of the new weights; empty if they are as before.
        rate: Of that step.
    """

    places: tuple[tuple[int, int], ...]
    verdicts: tuple[Verdict, ...]
    learnt: int
    hash: str
    rate: float


class Encoder:
    """Computes passes.

    Args:
        work: What actors are told.
        shape: What the data looks like.

    Attributes:
        watch: Where its time goes.
    """

    def __init__(self, work: Work, shape: DataShape) -> None:
        torch.set_num_threads(1)  # another number of threads gives other sums
        if work.split is None:
            raise TypeError("only a split model has an encoder of its own")
        self._split: Split = work.split
        self._seed = work.seed
        self._work = work
        self._shape = shape
        _, self._body = work.build_halves(shape)
        self._first = self._body.params.numpy().copy()
        on_gpu = self._split.num_gpus > 0 and torch.cuda.is_available()
        self._device = torch.device("cuda" if on_gpu else "cpu")
        if on_gpu:
            self._body.to(self._device)
        self._trained = bool(self._first.size)
        self._cuts: dict[int, Ends] = {}
        self.watch = Stopwatch(on=work.timed)

    def first_weights(self) -> Buffer:
        """Return the weights that a run begins with, and the velocity of their momentum."""
        velocity = np.zeros(self._first.size if self._split.momentum else 0, dtype=np.float32)
        return np.concatenate([self._first, velocity]).view(np.uint8)

    def compute(self, asked: Pass, buffers: Sequence[Buffer]) -> tuple[Buffer, Buffer, PassReceipt]:
        """Compute a pass.

        Args:
            asked: What clients ask.
            buffers: Weights and questions.

        Returns:
            All replies, the new weights, and the receipt. The same arguments give the same bytes.
        """
        with self.watch("read questions"):
            read = [self._read(question, buffers) for question in asked.questions]
            messages = {at: found for at, (found, _) in enumerate(read) if found is not None}
        gradients: dict[int, torch.Tensor] = {}
        with self.watch("learn"):
            weights, learnt = self._learn(asked, messages, buffers, gradients)
        self._load(weights)
        with self.watch("compute features"):
            features = self._features(asked, messages, weights)
        with self.watch("write replies"):
            replies, places = self._written(asked, messages, features, gradients)
        digest = xxhash.xxh3_128_hexdigest(weights.data) if learnt else ""
        verdicts = tuple(verdict for _, verdict in read)
        rate = self._split.rate_at(asked.version) if learnt else 0.0
        return replies, weights, PassReceipt(places, verdicts, learnt, digest, rate)

    # ------------------------------------------------------------ reading

    def _ends(self, cut: int) -> Ends:
        if cut not in self._cuts:
            self._cuts[cut] = self._work.model.ends(self._shape, cut)
        return self._cuts[cut]

    def _read(
        self, question: Question, buffers: Sequence[Buffer]
    ) -> tuple[Message | None, Verdict]:
        """Read a question without trusting it."""
        schema = question.exchange.question(self._ends(question.cut))
        try:
            message = decode(piece(buffers, question.at), schema)
            check_finite(message)
        except WireError as error:
            return None, rejected(error.reason, str(error))
        header = message.header
        if header.kind != "activations":
            return None, rejected(Reason.WRONG_KIND, f"{header.kind}, not activations")
        if header.address != question.address:
            return None, rejected(Reason.WRONG_ADDRESS, f"{tuple(header.address)}")
        if header.base != question.base:
            return None, rejected(Reason.WRONG_VERSION, f"{tuple(header.base)}")
        return message, ACCEPTED

    def _tensors(self, question: Question, message: Message) -> tuple[torch.Tensor, torch.Tensor]:
        ends = self._ends(question.cut)
        return _tensors(message, ends, question.exchange)

    def _load(self, weights: Buffer) -> None:
        size = self._body.schema.parameters
        values = np.array(weights[: 4 * size].view(np.float32))
        self._body.params.copy_(torch.from_numpy(values))

    # ------------------------------------------------------------ learning

    def _learn(
        self,
        asked: Pass,
        messages: Mapping[int, Message],
        buffers: Sequence[Buffer],
        gradients: dict[int, torch.Tensor],
    ) -> tuple[Buffer, int]:
        """Take a step along the mean of clients' gradients; note what they ask back.

        Returns:
            The new weights and how many clients they have learnt from; without any, those as they
            were.
        """
        body, before = self._body, buffers[asked.weights_at]
        body.grads.zero_()
        learnt = self._back_propagate(asked, messages, buffers, gradients)
        learnt += self._compare(asked, messages)
        if not learnt or not self._trained:
            return before, 0
        size = body.schema.parameters
        after = before.copy()
        values, velocity = after[: 4 * size].view(np.float32), after[4 * size :].view(np.float32)
        step = torch.div(body.grads, learnt).cpu()
        if velocity.size:
            step = torch.from_numpy(velocity).mul_(self._split.momentum).add_(step)
        torch.from_numpy(values).add_(step, alpha=-self._split.rate_at(asked.version))
        return after, learnt

    def _back_propagate(
        self,
        asked: Pass,
        messages: Mapping[int, Message],
        buffers: Sequence[Buffer],
        gradients: dict[int, torch.Tensor],
    ) -> int:
        """Add up exact gradients, each by the weights that have computed its batch."""
        groups: dict[tuple[int, int, bool, bool], list[int]] = {}
        for place in messages:
            question = asked.questions[place]
            if question.exchange.answered:
                wanted = question.exchange.returns == "gradient"
                key = (question.weights_at, question.cut, wanted, question.counts)
                groups.setdefault(key, []).append(place)
        learnt = 0
        for (weights_at, cut, wanted, counts), places in groups.items():
            self._load(buffers[weights_at])
            kept = self._body.grads.clone() if not counts else None
            members = [asked.questions[place] for place in places]
            earlier = [self._earlier(question, buffers) for question in members]
            told = [self._tensors(asked.questions[place], messages[place])[1] for place in places]
            sizes = [len(part) for part in told]
            found = back_through(
                self._body,
                self._there(torch.cat(earlier)),
                cut,
                self._there(torch.cat(told)),
                wanted=wanted,
            )
            if found is not None:
                gradients.update(zip(places, torch.split(found.cpu(), sizes), strict=True))
            if kept is not None:
                self._body.grads.copy_(kept)
            else:
                learnt += len(places)
        return learnt

    def _compare(self, asked: Pass, messages: Mapping[int, Message]) -> int:
        """Add up estimates from differences."""
        gradient, learnt = self._split.gradient, 0
        if not isinstance(gradient, Differences):
            return 0
        size = self._body.schema.parameters
        for place, message in messages.items():
            question = asked.questions[place]
            if not question.exchange.scalars or not question.counts:
                continue
            answered = question.step - bool(question.exchange.rows)
            seed = self._seed_of(question, answered)
            found = estimate(message.buffers, seed, gradient.step, gradient.sides, size)
            self._body.grads += self._there(found)
            learnt += 1
        return learnt

    def _seed_of(self, question: Question, step: int) -> int:
        return stream_seed(self._seed, f"encoder/{step}", *question.address)

    def _earlier(self, question: Question, buffers: Sequence[Buffer]) -> torch.Tensor:
        """Return the activations of the batch that a question answers for."""
        if question.before is None:
            raise ValueError(f"{question.address} answers for a batch that is not there")
        ends = self._ends(question.cut)
        schema = question.brought.question(ends)
        message = decode(piece(buffers, question.before), schema, own=True)
        smashed, _ = _tensors(message, ends, question.brought)
        return smashed

    # ------------------------------------------------------------ features

    def _features(
        self, asked: Pass, messages: Mapping[int, Message], weights: Buffer
    ) -> dict[int, list[torch.Tensor]]:
        """Return each question's features: of what it brings, then by moved weights."""
        brought: dict[int, list[tuple[int, torch.Tensor]]] = {}
        for place, message in messages.items():
            question = asked.questions[place]
            if question.exchange.rows:
                smashed, _ = self._tensors(question, message)
                brought.setdefault(question.cut, []).append((place, smashed))
        found: dict[int, list[torch.Tensor]] = {}
        for cut, members in brought.items():
            rows = self._forward(torch.cat([smashed for _, smashed in members]), cut)
            parts = torch.split(rows, [len(smashed) for _, smashed in members])
            found |= {place: [part] for (place, _), part in zip(members, parts, strict=True)}
        for cut, members in brought.items():
            for place, smashed in members:
                question = asked.questions[place]
                if question.exchange.moves:
                    found[place] += self._by_moved(question, smashed, cut, weights)
        return found

    def _forward(self, smashed: torch.Tensor, cut: int) -> torch.Tensor:
        """Return features, computed so many examples at a time as fit a pass."""
        with torch.no_grad():
            parts = [
                self._body.module(self._there(part), cut).cpu()
                for part in torch.split(smashed, self._split.batch)
            ]
        return torch.cat(parts)

    def _there(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor where the encoder computes; over pinned memory, if that is a GPU."""
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _by_moved(
        self, question: Question, smashed: torch.Tensor, cut: int, weights: Buffer
    ) -> Iterator[torch.Tensor]:
        """Yield a batch's features by weights moved along each direction; then restore them."""
        gradient, params = self._split.gradient, self._body.params
        if not isinstance(gradient, Differences):
            return
        batch = smashed[: question.exchange.rows]
        seed, kept = self._seed_of(question, question.step), params.clone()
        for u in directions(seed, gradient.directions, params.numel()):
            for by in moved(gradient.step, gradient.sides):
                params.copy_(kept).add_(self._there(u), alpha=by)
                yield self._forward(batch, cut)
        self._load(weights)

    # ------------------------------------------------------------ replies

    def _written(
        self,
        asked: Pass,
        messages: Mapping[int, Message],
        features: dict[int, list[torch.Tensor]],
        gradients: dict[int, torch.Tensor],
    ) -> tuple[Buffer, tuple[tuple[int, int], ...]]:
        """Return all replies end to end, and where each lies."""
        pieces: list[Buffer] = []
        for place, question in enumerate(asked.questions):
            reply = NOTHING
            if place in messages and question.exchange.returns:
                parts = features.get(place) or [gradients[place]]
                reply = self._reply(question, torch.cat(parts))
            pieces.append(reply)
        return laid(pieces, ALIGNMENT)

    def _reply(self, question: Question, tensor: torch.Tensor) -> Buffer:
        schema = question.exchange.reply(self._ends(question.cut))
        content = self._split.activations.write(tensor.reshape(-1).numpy(), schema)
        header = Header("activations", question.address, question.base, len(tensor), 0.0)
        return encode(header, content, np.empty(0, dtype=np.float32), schema)


def _tensors(message: Message, ends: Ends, exchange: Exchange) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the activations and the gradients of a question, shapes (n, ...) and (m, features)."""
    size = exchange.question(ends).parameters
    values = torch.from_numpy(np.array(message.content.densify(size)))
    smashed, gradient = values.tensor_split([size - exchange.answered * ends.features])
    return smashed.reshape(-1, *ends.smashed), gradient.reshape(-1, ends.features)


class EncoderActor:
    """The remote shell of `Encoder`."""

    def __init__(self, work: dict[str, Any], paths: Sequence[str], shape: DataShape) -> None:
        join_paths(paths)
        self._encoder = Encoder(Work.model_validate(work), shape)

    def identity(self) -> Identity:
        """Say who and where this process is."""
        return identify()

    def usage(self) -> Usage:
        """Say what this process's time went into."""
        return self._encoder.watch.usage()

    def first_weights(self) -> Buffer:
        """Return the weights that a run begins with; see `Encoder.first_weights`."""
        return self._encoder.first_weights()

    def compute(self, asked: bytes, *buffers: Buffer) -> tuple[Buffer, Buffer, bytes]:
        """Compute a packed `Pass`; see `Encoder.compute`."""
        replies, weights, receipt = self._encoder.compute(unpacked(asked), buffers)
        return replies, weights, packed(receipt)
