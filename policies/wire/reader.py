"""How is a message taken apart without trust in its lengths?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policies.types import Buffer, Reason, Vector


class WireError(ValueError):
    """A message that cannot be taken, with the typed reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Reader:
    """Takes pieces from the front of a message, checking that they are there."""

    def __init__(self, message: Buffer, start: int = 0) -> None:
        self._message = message
        self._bytes = message.data  # one of them is read faster than of an array
        self._at = start

    @property
    def at(self) -> int:
        """Bytes before the next one."""
        return self._at

    @property
    def left(self) -> int:
        """Bytes not yet taken."""
        return self._message.size - self._at

    def take(self, count: int) -> Buffer:
        """Take the next `count` bytes as a view."""
        if count > self.left:
            raise WireError(Reason.TRUNCATED, f"{count} bytes wanted, {self.left} left")
        piece = self._message[self._at : self._at + count]
        self._at += count
        return piece

    def take_all_but(self, count: int) -> Buffer:
        """Take what stands before the last `count` bytes."""
        if count > self.left:
            raise WireError(Reason.TRUNCATED, f"{count} bytes wanted, {self.left} left")
        return self.take(self.left - count)

    def byte(self) -> int:
        """Take one byte."""
        if self.left < 1:
            raise WireError(Reason.TRUNCATED, "1 bytes wanted, 0 left")
        byte: int = self._bytes[self._at]
        self._at += 1
        return byte

    def floats(self, count: int) -> Vector:
        """Take `count` 32-bit floats, in place if they stand on a multiple of four."""
        return np.require(self.take(4 * count).view("<f4"), requirements="A")

    def number(self) -> int:
        """Take an unsigned LEB128 number below 2^63, at most nine bytes, in its shortest form."""
        number = shift = 0
        while True:
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 56:
                raise WireError(Reason.MALFORMED, "a number is too long")
        if shift and not byte:
            raise WireError(Reason.MALFORMED, "a number is not in its shortest form")
        return number


def leb128(numbers: Sequence[int]) -> bytes:
    """Write unsigned numbers below 2^63, each in its shortest form."""
    out = bytearray()
    for value in numbers:
        rest = value
        while rest > 0x7F:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        out.append(rest)
    return bytes(out)


def pack_bits(bits: Buffer) -> Buffer:
    """Fill bytes from the lowest bit, with zeros behind the last."""
    return np.packbits(bits, bitorder="little")


def unpack_bits(packed: Buffer, count: int) -> Buffer:
    """Return `count` bits, each a byte of 0 or 1; no other may be set."""
    bits = np.unpackbits(packed, bitorder="little")
    if bits[count:].any():
        raise WireError(Reason.MALFORMED, "a bit is set behind the last")
    return bits[:count]
