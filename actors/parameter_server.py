"""How does the server stay free while threads compute?

The remote shell of `Server`. Calls come in on the threads of `THREADS`: payloads are read on one
while another makes a version. They may overtake each other; what makes a version takes its turn by
the version that it expects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Condition
from typing import Any, Final, TypeVar

from actors.allocation import keep_freed
from actors.cell import Gathered
from actors.identity import Identity, join_paths
from actors.lane import HAS_LANES, End
from actors.parts import admitted, sealed, serving
from actors.pieces import join
from actors.publisher import Shipment
from actors.reader import Reader
from actors.server import Receipt, Snapshot
from actors.shared import Pool, Shared
from actors.stopwatch import Stopwatch
from actors.tutor import Public, tutor_for
from actors.work import Work, packed, unpacked
from policies.types import Address, Buffer, RunError, Version
from policies.update import ModelSchema

T = TypeVar("T")
THREADS: Final = {"admit": 1, "write": 4, "merge": 1}
"""Threads by what they do; calls that overtook others wait on those that write."""


class ParameterServer(Reader):
    """The remote shell of `Server`.

    Args:
        work: What actors are told.
        paths: Folders of the user's own modules.
        schema: The model's tensors.
        initial: Version 0 as a message.
        deadline_s: For a version that a call waits for.
        place: Which part of the model it holds, where several servers do.
        public: Examples that are no client's, where the correction asks for them.
    """

    def __init__(
        self,
        work: dict[str, Any],
        paths: Sequence[str],
        schema: ModelSchema,
        initial: Buffer,
        deadline_s: float,
        place: int = 0,
        public: Public | None = None,
    ) -> None:
        join_paths(paths)
        keep_freed()
        told = Work.model_validate(work)
        watch = Stopwatch(on=told.timed)
        self._server = serving(told, schema, initial, place, tutor_for(told, public, watch))
        super().__init__(self._server, watch)
        self._schema = schema
        self._turn = Condition()
        self._deadline_s = deadline_s
        calls = {"admit": self._admit_through_lane, "commit": self._commit_through_lane}
        self._pool = Pool()
        self._end = End(calls, aside=["commit"]) if HAS_LANES else None

    def identity(self) -> Identity:
        """Say who and where this process is."""
        lane = "" if self._end is None else self._end.address
        return replace(super().identity(), lane=lane)

    def admitted(self, *parts: bytes) -> bytes:
        """Put together what each part has said of a group; see `parts.admitted`."""
        said = [unpacked(part) for part in parts]
        return packed((admitted([admissions for admissions, _ in said]), said[0][1]))

    def sealed(self, *made: Any) -> bytes:
        """Put receipts, packed, and their parts of a version together; see `parts.sealed`."""
        half = len(made) // 2
        return packed(sealed([unpacked(r) for r in made[:half]], made[half:], self._schema))

    def commit(self, order: bytes) -> tuple[bytes, Buffer]:
        """Make the next version when its turn has come; see `Server.commit`.

        Args:
            order: The addresses and the expected version, packed.

        Returns:
            The receipt, packed, and the version, whole or what has changed.
        """
        addresses, expected = unpacked(order)
        receipt, message = self._in_turn(expected, lambda: self._commit(addresses, expected))
        return packed(receipt), message

    def _admit_through_lane(
        self, told: bytes, buffers: Sequence[Buffer]
    ) -> tuple[bytes, Sequence[Shared]]:
        """Admit a group as `admit` does, given the order and the receipt, packed together."""
        return self.admit(*unpacked(told), *buffers), ()

    def _commit_through_lane(
        self, order: bytes, _: Sequence[Buffer]
    ) -> tuple[bytes, Sequence[Shared]]:
        """Make the next version as `commit` does, in memory that is shared."""
        receipt, message = self.commit(order)
        shared = self._pool.room(message.size)
        shared.room[:] = message
        return receipt, [shared]

    def _commit(self, addresses: Sequence[Address], expected: Version) -> tuple[Receipt, Buffer]:
        with self._watch("make versions"):
            return self._server.commit(addresses, expected)

    def commit_sums(self, expected: Version, *told: Any) -> tuple[bytes, Buffer]:
        """Make the next version of what cells have summed; see `Server.commit_sums`.

        Args:
            expected: The version that they are committed on top of.
            told: What each cell says of its sum, packed; then their messages.

        Returns:
            As `commit`.
        """
        half = len(told) // 2
        gathered, sums = [unpacked(said) for said in told[:half]], told[half:]
        receipt, message = self._in_turn(
            expected, lambda: self._commit_sums(gathered, sums, expected)
        )
        return packed(receipt), message

    def _commit_sums(
        self, gathered: Sequence[Gathered], sums: Sequence[Buffer], expected: Version
    ) -> tuple[Receipt, Buffer]:
        with self._watch("make versions"):
            return self._server.commit_sums(gathered, sums, expected)

    def rollback(self, expected: Version, *target: Buffer) -> tuple[bytes, Buffer]:
        """Go back when its turn has come, and answer as `commit` does; see `Server.rollback`."""
        whole = join(target, self._schema)
        receipt, message = self._in_turn(expected, lambda: self._server.rollback(whole, expected))
        return packed(receipt), message

    def snapshot(self, expected: Version) -> Snapshot:
        """Return the state at a version; see `Server.snapshot`."""
        return self._in_turn(expected, self._server.snapshot)

    def quote(self, held: Sequence[Version | None], to: Version) -> list[Shipment]:
        """Say what clients' messages take; see `Server.quote`."""
        with self._turn, self._watch("count downloads"):
            return self._server.quote(held, to)

    def restore(self, snapshot: Snapshot, *versions: Buffer) -> None:
        """Go on from a snapshot; see `Server.restore`."""
        with self._turn:
            self._server.restore(snapshot, versions)
            self._turn.notify_all()

    def _in_turn(self, expected: Version, act: Callable[[], T]) -> T:
        with self._turn:
            come = self._turn.wait_for(
                lambda: self._server.version.number >= expected.number, self._deadline_s
            )
            if not come:
                raise RunError(
                    f"a commit waited {self._deadline_s:g} s for version {expected.number}; the "
                    f"server is at {self._server.version.number}"
                )
            result = act()
            self._turn.notify_all()
            return result
