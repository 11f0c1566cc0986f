"""How do processes of one machine hand each other work for less than a call through Ray costs?

A lane is a local socket between two processes. What is asked and answered crosses it as bytes,
buffers as shared memory of which both map the same pages. Nothing has a name on a disk: what both
have let go of is gone, however they end. Only processes of the same user are let in.
"""

from __future__ import annotations

import os
import pickle
import secrets
import select
import socket
import struct
import threading
import traceback
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, NamedTuple

import numpy as np

from actors.shared import READERS, Blocks, Memory, Shared
from policies.types import Buffer


def _can() -> bool:
    """Try whether this system shares memory without a name, and has sockets without one."""
    try:
        os.close(os.memfd_create("latecomer"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.bind(f"\0latecomer-{secrets.token_hex(16)}")
    except (AttributeError, OSError):
        return False
    return True


HAS_LANES: Final = _can()
"""Whether this system has what lanes need: Linux does, unless something forbids it."""
MOST_SHARED: Final = 250
"""Buffers with a message, at the most: Linux passes 253 files on at a time."""
_MOST_BODY: Final = 1 << 15
"""A longer body crosses as shared memory: a message must fit the socket's buffer."""
_FILE: Final = struct.Struct("i")
_MOST_FILES: Final = socket.CMSG_SPACE(_FILE.size * (MOST_SHARED + 1))
_CREDENTIALS: Final = struct.Struct("3i")
_LENGTH: Final = struct.Struct("<Q")
_ASKS: Final = 0


class Broken(Exception):  # noqa: N818  # said of a lane
    """The process at the other end is gone."""


class CallError(Exception):
    """A call has failed at the other end.

    Attributes:
        cause: What it raised.
    """

    def __init__(self, cause: BaseException, trace: str) -> None:
        super().__init__(trace)
        self.cause = cause


class Said(NamedTuple):
    """What crosses a lane: a call, or its answer.

    Attributes:
        serial: Counts the calls of a lane; its answer has the same.
        what: Which call it is; of an answer, empty if it failed.
        told: Bytes that the two understand.
        shared: Buffers.
    """

    serial: int
    what: str
    told: bytes
    shared: tuple[Shared, ...]


class _Wire:
    """One end of a socket.

    Args:
        sock: Connected.
        own: Which of the readers of a block this end is; None until the other end has said it.
        other: Which the other one is.
        blocks: Where this process has mapped blocks of others.
    """

    def __init__(self, sock: socket.socket, own: int | None, other: int, blocks: Blocks) -> None:
        self.sock = sock
        self._own, self._other = own, other
        self._blocks = blocks

    def send(self, said: Said, full: Callable[[], None] | None = None) -> None:
        """Send a message.

        Args:
            said: What is sent.
            full: Called while the other end has not taken what it was sent; None waits.

        Raises:
            Broken: If nobody is there any more.
        """
        places = []
        for shared in said.shared:
            block = shared.block
            if block is not None:
                block.lend(self._other)
            places.append((shared.size, block and block.name, block and block.capacity))
        message = said.serial, said.what, said.told, places, self._other
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        files = [shared.memory.fd for shared in said.shared if shared.memory is not None]
        head = b""
        if len(body) > _MOST_BODY:
            long = Shared.of(np.frombuffer(body, dtype=np.uint8))
            assert long.memory is not None  # noqa: S101  # it has bytes
            files, head, body = [long.memory.fd, *files], _LENGTH.pack(long.size), b""
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", files))] if files else []
        flags = 0 if full is None else socket.MSG_DONTWAIT
        while True:
            try:
                self.sock.sendmsg([bytes([len(head)]) + head + body], passed, flags)
            except BlockingIOError:
                assert full is not None  # noqa: S101  # it would have waited
                full()
            except OSError as error:
                raise Broken(str(error)) from error
            else:
                return

    def receive(self, flags: int = 0) -> Said | None:
        """Receive a message; None if none is there and flags say not to wait.

        Raises:
            Broken: If nobody is there any more.
        """
        try:
            data, passed, signs, _ = self.sock.recvmsg(_MOST_BODY + 64, _MOST_FILES, flags)
        except BlockingIOError:
            return None
        except OSError as error:
            raise Broken(str(error)) from error
        if not data:
            raise Broken("the process at the other end has ended")
        if signs & socket.MSG_CTRUNC:
            raise Broken("this process may have no more files open: raise `ulimit -n`")
        files = iter([fd for _, _, fds in passed for (fd,) in _FILE.iter_unpack(fds)])
        body: bytes | memoryview = data[1:]
        if data[0]:
            (size,) = _LENGTH.unpack(data[1:])
            body = memoryview(Memory(next(files), size).pages)
        serial, what, told, places, self._own = pickle.loads(body)  # noqa: S301  # of this run
        return Said(serial, what, told, tuple(self._shared(files, *place) for place in places))

    def _shared(
        self, files: Iterator[int], size: int, name: tuple[int, int] | None, capacity: int
    ) -> Shared:
        if not size:
            return Shared(None, 0)
        if name is None:
            return Shared(Memory(next(files), size), size)
        block = self._blocks.known(name, next(files), capacity)
        assert self._own is not None  # noqa: S101  # the message has said it
        return Shared(block.memory, size, block, block.lease(self._own))


# ---------------------------------------------------------------- the end that asks


class Answer:
    """What a call gives, once it is here.

    Args:
        then: Is told when it is.
    """

    def __init__(self, then: Callable[[Answer], None] | None = None) -> None:
        self._then = then
        self._said: Said | None = None
        self._broken: Broken | None = None

    def done(self) -> bool:
        """Say whether it is here."""
        return self._said is not None or self._broken is not None

    def result(self) -> tuple[bytes, tuple[Shared, ...]]:
        """Return it.

        Raises:
            Broken: If the other end is gone.
            CallError: If the call has failed.
        """
        if self._broken is not None:
            raise Broken(*self._broken.args)
        assert self._said is not None  # noqa: S101  # asked for when it is here
        if not self._said.what:
            raise CallError(*pickle.loads(self._said.told))  # noqa: S301  # of this run
        return self._said.told, self._said.shared

    def settle(self, found: Said | Broken) -> None:
        """Learn what came of the call."""
        if isinstance(found, Broken):
            self._broken = found
        else:
            self._said = found
        if self._then is not None:
            self._then(self)
            self._then = None


class Lane:
    """The end of a lane that asks.

    Args:
        sock: Connected to one that answers.
        blocks: Where this process has mapped blocks of others, one for all its lanes.
        reader: Which reader of blocks the other end is, no other one was; None if it cannot be
            lent any.
    """

    def __init__(self, sock: socket.socket, blocks: Blocks, reader: int | None) -> None:
        self.sock = sock
        self._borrows = reader is not None
        self._wire = _Wire(sock, _ASKS, READERS if reader is None else reader, blocks)
        self._asked: dict[int, Answer] = {}
        self._serial = 0
        self._broken: Broken | None = None

    @classmethod
    def to(cls, address: str, pid: int, blocks: Blocks, reader: int | None) -> Lane | None:
        """Connect to where a process answers; None if it is not that process, or not here."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect("\0" + address)
        except OSError:
            sock.close()
            return None
        if _peer(sock) != (pid, os.getuid()):
            sock.close()
            return None
        return cls(sock, blocks, reader)

    @property
    def broken(self) -> bool:
        """Whether the other end is gone."""
        return self._broken is not None

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._asked)

    def call(
        self,
        what: str,
        told: bytes,
        shared: Sequence[Shared] = (),
        then: Callable[[Answer], None] | None = None,
    ) -> Answer:
        """Ask for something; return where its answer will be.

        Args:
            what: One of the calls that the other end takes.
            told: Bytes that it understands.
            shared: Buffers, `MOST_SHARED` at the most.
            then: Is told when the answer is here.
        """
        answer = Answer(then)
        self._serial += 1
        self._asked[self._serial] = answer
        if self._broken is None:
            try:
                lent = tuple(map(self._lent, shared))
                self._wire.send(Said(self._serial, what, told, lent), self._make_room)
            except Broken as error:
                self._break(error)
        else:
            self._break(self._broken)
        return answer

    def _make_room(self) -> None:
        """Take answers in, for the other end may wait for that before it takes anything."""
        select.select([self.sock], [self.sock], [], 1.0)
        self.take()

    def _lent(self, shared: Shared) -> Shared:
        """Return a buffer that the other end may have, copied if it cannot be lent a block."""
        return shared if self._borrows or shared.block is None else Shared.of(shared.array)

    def take(self) -> None:
        """Take in all answers that are here."""
        while self._broken is None:
            try:
                said = self._wire.receive(socket.MSG_DONTWAIT)
            except Broken as error:
                self._break(error)
                return
            if said is None:
                return
            self._asked.pop(said.serial).settle(said)

    def close(self) -> None:
        """End it."""
        if self._broken is None:
            self._break(Broken("the lane is closed"))

    def _break(self, why: Broken) -> None:
        if self._broken is None:
            self._broken = why
            self.sock.close()
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            answer.settle(why)


# ---------------------------------------------------------------- the end that answers

Call = Callable[[bytes, Sequence[Buffer]], tuple[bytes, Sequence[Shared]]]
"""Answers a call: takes bytes and buffers, gives bytes and buffers."""


class End:
    """The end of a lane that answers, on a thread of its own.

    Args:
        calls: What it answers, by name; one after the other.
        aside: Those of them that others overtake, again one after the other.
        begin: Called first on each thread.

    Attributes:
        address: Where to connect to.
    """

    def __init__(
        self,
        calls: Mapping[str, Call],
        aside: Sequence[str] = (),
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._calls = calls
        self._aside = frozenset(aside)
        self._begin = begin
        self._others = ThreadPoolExecutor(1, "lane-aside", begin) if aside else None
        self.address = f"latecomer-{secrets.token_hex(16)}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind("\0" + self.address)
        self._listener.listen(1)
        threading.Thread(target=self._accept, name="lane", daemon=True).start()

    def _accept(self) -> None:
        self._begin()
        while True:
            sock, _ = self._listener.accept()
            with sock, suppress(Broken):
                if _peer(sock)[1] == os.getuid():
                    serve(sock, self._calls, self._aside, self._others)


def serve(
    sock: socket.socket,
    calls: Mapping[str, Call],
    aside: frozenset[str] = frozenset(),
    others: ThreadPoolExecutor | None = None,
) -> None:
    """Answer until the other end is gone.

    Args:
        sock: Connected to an end that asks.
        calls: What is answered, by name.
        aside: Those of them that others overtake.
        others: Does those.

    Raises:
        Broken: When nobody is there to ask.
    """
    sending, wire = threading.Lock(), _Wire(sock, None, _ASKS, Blocks())

    def one(said: Said) -> None:
        answer = _answered(calls, said)
        with sending:
            wire.send(answer)

    while True:
        said = wire.receive()
        assert said is not None  # noqa: S101  # waits for one
        if others is not None and said.what in aside:
            others.submit(one, said)
        else:
            one(said)
        del said


def _answered(calls: Mapping[str, Call], said: Said) -> Said:
    try:
        told, shared = calls[said.what](said.told, [shared.array for shared in said.shared])
    except Exception as error:  # noqa: BLE001  # told to whoever has asked
        return Said(said.serial, "", _failure(error), ())
    return Said(said.serial, said.what, told, tuple(shared))


def _failure(error: Exception) -> bytes:
    """Return an error and its trace, packed; of one that cannot be, what it says."""
    trace = "".join(traceback.format_exception(error))
    try:
        packed = pickle.dumps((error, trace))
        pickle.loads(packed)  # noqa: S301  # our own: some errors can be written and not read
    except Exception:  # noqa: BLE001  # whatever the user's error does
        return pickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), trace))
    return packed


def _peer(sock: socket.socket) -> tuple[int, int]:
    """Return the process and the user at the other end."""
    found: Any = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, _ = _CREDENTIALS.unpack(found)
    return pid, user
