"""How do whole numbers with a known spread become few bits, the same in every language?

Frequencies are integers from a recurrence, and add up to 2^24. The coder itself is that of the
`constriction` library: 64 bits of state, 32-bit words, the carry resolved by the writer. All of it
is written down in docs/wire-format.md.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from typing import Any, Final

import constriction
import numpy as np
import numpy.typing as npt

from policies.types import Buffer, Reason
from policies.wire.reader import WireError

Symbols = npt.NDArray[np.int32]
"""Numbers to be coded, shape (n,)."""

TOTAL: Final = 1 << 24
ESCAPE: Final = 255
"""The last symbol of a geometric table: 255 or more."""
_OCTAVE: Final = (65536, 71468, 77936, 84990, 92682, 101070, 110218, 120194)  # 2^16 x 2^(i/8)
MEANS: Final = tuple((_OCTAVE[j % 8] << j // 8) >> 8 for j in range(120))
"""The mean of each geometric table times 2^16: from 2^-8 on, eight to the octave."""


def nearest_table(total: int, count: int) -> int:
    """Return the geometric table whose mean is nearest to total / count."""
    mean = (total << 16) // count
    return max(bisect_right(MEANS, mean + mean // 23) - 1, 0)


def frequencies(index: int) -> list[int]:
    """Return the 256 frequencies of a geometric table, each at least 1."""
    mean, tail = MEANS[index], TOTAL - 256
    found: list[int] = []
    for _ in range(ESCAPE):
        beyond = tail * mean // (mean + 65536)
        found.append(tail - beyond + 1)
        tail = beyond
    return [*found, tail + 1]


@cache
def geometric(index: int) -> Any:
    """Return the model of a geometric table."""
    return _model(frequencies(index))


@cache
def uniform(bits: int) -> Any:
    """Return the model in which all numbers of so many bits, 1 to 8, are alike."""
    return _model([TOTAL >> bits] * (1 << bits))


def _model(table: list[int]) -> Any:
    """Return a model that has exactly these frequencies.

    constriction gives every symbol 1 and shares out the rest by weight. With weights of one less,
    the factor of that share is exactly 1.
    """
    weights = np.array(table, dtype=np.float64) - 1
    return constriction.stream.model.Categorical(weights, perfect=False)


class RangeWriter:
    """Codes symbols into 32-bit words."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def put(self, model: Any, symbols: Symbols) -> None:
        """Append symbols."""
        if symbols.size:
            self._coder.encode(np.ascontiguousarray(symbols, dtype=np.int32), model)

    def put_bits(self, number: int, bits: int) -> None:
        """Append a number of so many bits, the highest eight first."""
        while bits:
            taken = min(bits, 8)
            bits -= taken
            self._coder.encode(number >> bits & (1 << taken) - 1, uniform(taken))

    def finish(self) -> Buffer:
        """Return the words, little-endian."""
        words: Buffer = self._coder.get_compressed().astype("<u4").view(np.uint8)
        return words


_UNWRITTEN: Final = RangeWriter().finish()


class RangeReader:
    """Reads symbols back, and writes them again to see that nothing else was there.

    Whatever the bytes, it returns as many symbols as it is asked for, or refuses. Until it is asked
    for one it does not look at them: most payloads are nothing but floats.
    """

    def __init__(self, stream: Buffer) -> None:
        self._stream = stream
        self._coder: Any = None
        self._echo: RangeWriter | None = None

    def get(self, model: Any, count: int) -> Symbols:
        """Return the next symbols, shape (count,)."""
        if not count:
            return np.empty(0, dtype=np.int32)
        if self._echo is None:
            whole = self._stream[: self._stream.size // 4 * 4].copy().view("<u4").astype(np.uint32)
            self._coder = constriction.stream.queue.RangeDecoder(whole)
            self._echo = RangeWriter()
        try:
            symbols: Symbols = self._coder.decode(model, count)
        except AssertionError as error:
            raise WireError(Reason.MALFORMED, "the range-coded stream leaves its range") from error
        self._echo.put(model, symbols)
        return symbols

    def get_bits(self, bits: int) -> int:
        """Return the next number of so many bits."""
        number = 0
        while bits:
            taken = min(bits, 8)
            bits -= taken
            number = number << taken | int(self.get(uniform(taken), 1)[0])
        return number

    def close(self, stream: Buffer) -> None:
        """Check that `stream` is what a writer of these symbols writes, to the last byte."""
        written = _UNWRITTEN if self._echo is None else self._echo.finish()
        if not np.array_equal(written, stream):
            raise WireError(Reason.MALFORMED, "the range-coded stream is not what a writer writes")
