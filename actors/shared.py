"""What memory do processes of one machine share, and when may it be written again?

Memory without a name, whose file is passed on: what all have let go of is gone, however they end.
What is needed for one buffer after the other is lent, and written again when all have given it
back.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, ClassVar, Final

import numpy as np

from policies.types import Buffer

_AT_ONCE: Final = getattr(mmap, "MAP_POPULATE", 0)
_WHOLE: Final = 1 << 20
"""Of longer buffers often a part is read: they are mapped as they are looked at."""
READERS: Final = 32
"""Who may be lent a block: whoever asks, who is the first, and those that answer."""
_HEAD: Final = 2 * READERS
_LEAST: Final = 1 << 16
_MOST_POOLED: Final = 1 << 26
"""What a pool holds at the most: more is new memory each time."""
_MOST_MAPPED: Final = 64
"""Blocks of others that are kept mapped."""
_serials = itertools.count()  # of blocks, in this process


class Memory:
    """Memory that can be mapped by whoever has its file.

    Args:
        fd: The file; closed with this object.
        size: Bytes.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self._size = size
        self._pages: mmap.mmap | None = None

    @classmethod
    def new(cls, size: int) -> Memory:
        """Return memory that nobody else has yet."""
        fd = os.memfd_create("latecomer", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        return cls(fd, size)

    @property
    def pages(self) -> mmap.mmap:
        """The memory itself."""
        if self._pages is None:
            at_once = _AT_ONCE if self._size <= _WHOLE else 0
            self._pages = mmap.mmap(self.fd, self._size, flags=mmap.MAP_SHARED | at_once)
        return self._pages

    def __del__(self) -> None:
        """Let go of the file; whoever has mapped it keeps the memory."""
        os.close(self.fd)


class Block:
    """Memory that is written again when all to whom it was lent have let go of it.

    Its first bytes tell: for each of `READERS` how often it was lent to it, which one process
    alone writes, and how often it was given back, which only the reader writes. Both count to 255
    and from 0 again. A reader that ends without giving back leaves a block that nobody uses again.

    Args:
        name: Tells it from others in any process.
        memory: `_HEAD` bytes more than can be written.
        capacity: What can.
    """

    def __init__(self, name: tuple[int, int], memory: Memory, capacity: int) -> None:
        self.name = name
        self.memory = memory
        self.capacity = capacity
        self._counted: dict[int, Iterator[int]] = {}

    @property
    def free(self) -> bool:
        """Whether all to whom it was lent have given it back.

        What was given back is read first: who has it may lend it on, and only then gives it back.
        """
        pages = self.memory.pages
        given_back = pages[READERS:_HEAD]
        return given_back == pages[:READERS]

    def lend(self, reader: int) -> None:
        """Count that a reader is given it; only one process does that for a reader."""
        self._count(reader)

    def _count(self, place: int) -> None:
        pages = self.memory.pages
        if place not in self._counted:
            self._counted[place] = itertools.count(pages[place] + 1)
        pages[place] = next(self._counted[place]) & 255

    def lease(self, reader: int) -> Any:
        """Return bytes that count as given back by a reader when nobody looks at them any more."""
        lease = (ctypes.c_ubyte * self.capacity).from_buffer(self.memory.pages, _HEAD)
        weakref.finalize(lease, self._count, READERS + reader).atexit = False
        return lease


class Shared:
    """A buffer in memory that processes share; nobody changes it once it is sent.

    Args:
        memory: Where it lies, and nothing else; None for no bytes.
        size: Its length.
        block: Where it lies if that is to be written again.
        lease: Of the block.
    """

    alive: ClassVar[int] = 0
    """How many there are in this process."""
    alive_bytes: ClassVar[int] = 0
    """How long those are together that have memory of their own."""

    def __init__(
        self,
        memory: Memory | None,
        size: int,
        block: Block | None = None,
        lease: Any = None,
    ) -> None:
        self.memory = memory
        self.size = size
        self.block = block
        self._lease = lease
        Shared.alive += 1
        Shared.alive_bytes += 0 if block else size

    @classmethod
    def new(cls, size: int) -> Shared:
        """Return memory to write into."""
        return cls(Memory.new(size) if size else None, size)

    @classmethod
    def of(cls, buffer: Buffer) -> Shared:
        """Return a copy of a buffer that can be passed on."""
        shared = cls.new(buffer.size)
        shared.room[:] = buffer
        return shared

    @property
    def room(self) -> Buffer:
        """The bytes, shape (size,), to be written by who has made it, before it is sent."""
        if self.memory is None:
            return np.empty(0, dtype=np.uint8)
        if self.block is None:
            return np.frombuffer(self.memory.pages, dtype=np.uint8)
        if self._lease is None:
            return np.frombuffer(self.memory.pages, np.uint8, self.size, _HEAD)
        return np.frombuffer(self._lease, np.uint8, self.size)

    @property
    def array(self) -> Buffer:
        """The bytes, shape (size,); they stay what they are as long as somebody looks at them."""
        bytes_ = self.room
        bytes_.flags.writeable = False
        return bytes_

    def __del__(self) -> None:
        """Count it no longer."""
        Shared.alive -= 1
        Shared.alive_bytes -= 0 if self.block else self.size


class Pool:
    """Memory for one buffer after the other.

    New memory has to be cleared by the system, which takes longer than to write into it.
    """

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._last: dict[tuple[int, int], weakref.ref[Shared]] = {}
        self._bytes = 0

    def room(self, size: int) -> Shared:
        """Return memory of a length to write into."""
        for block in self._blocks:
            fits = size <= block.capacity <= max(_LEAST, 4 * size)
            if size and fits and block.free and self._written(block) is None:
                return self._given(block, size)
        capacity = max(_LEAST, 1 << max(0, size - 1).bit_length())
        if not size or self._bytes + capacity > _MOST_POOLED:
            return Shared.new(size)
        name = (os.getpid(), next(_serials))
        block = Block(name, Memory.new(_HEAD + capacity), capacity)
        self._blocks.append(block)
        self._bytes += capacity
        return self._given(block, size)

    def _written(self, block: Block) -> Shared | None:
        """Return what a block was last given out as, if it may not be sent yet."""
        return self._last[block.name]()

    def _given(self, block: Block, size: int) -> Shared:
        shared = Shared(block.memory, size, block)
        self._last[block.name] = weakref.ref(shared)
        return shared


class Blocks:
    """Blocks of others that this process has mapped, those that were used last."""

    def __init__(self) -> None:
        self._used: OrderedDict[tuple[int, int], Block] = OrderedDict()
        self._all: weakref.WeakValueDictionary[tuple[int, int], Block] = (
            weakref.WeakValueDictionary()
        )

    def known(self, name: tuple[int, int], fd: int, capacity: int) -> Block:
        """Return the block of a name, mapped from its file if it was not."""
        found = Block(name, Memory(fd, _HEAD + capacity), capacity)
        block = self._all.setdefault(name, found)
        self._used[block.name] = block
        self._used.move_to_end(block.name)
        if len(self._used) > _MOST_MAPPED:
            self._used.popitem(last=False)
        return block
