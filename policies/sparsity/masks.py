"""Which mask held when?

The masks of a run are nested, so one array holds them all: the epoch in which each parameter went.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from policies.types import Arrays, Positions
from policies.update import Mask

LIVE: Final = np.iinfo(np.uint16).max
"""The epoch in which a parameter goes that has not gone; so many epochs there can be."""
KEPT_MASKS: Final = 4


@dataclass(frozen=True)
class Masks:
    """All masks so far: a value.

    Attributes:
        gone_at: The first epoch without the parameter, or `LIVE`, shape (P,).
        began: Number of the version with which each epoch began, increasing.
        first: The first epoch; those before it are not known.
    """

    gone_at: npt.NDArray[np.uint16]
    began: Sequence[int]
    first: int = 0
    _made: dict[int, Mask] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def start(cls, parameters: int) -> Masks:
        """Return epoch 0: everything lives."""
        return cls(np.full(parameters, LIVE, dtype=np.uint16), (0,))

    @classmethod
    def resume(cls, mask: Mask, parameters: int, version: int) -> Masks:
        """Return masks that begin with `mask` at a version, nothing known of before."""
        gone_at = np.zeros(parameters, dtype=np.uint16)
        gone_at[mask.positions] = LIVE
        return cls(gone_at, (version,), mask.epoch)

    @property
    def epoch(self) -> int:
        """The newest epoch."""
        return self.first + len(self.began) - 1

    @property
    def newest(self) -> Mask:
        """The newest mask."""
        return self.at(self.epoch)

    def at(self, epoch: int) -> Mask:
        """Return an epoch's mask.

        Raises:
            KeyError: If there was no such epoch.
        """
        if not self.first <= epoch <= self.epoch:
            raise KeyError(epoch)
        if epoch not in self._made:
            positions: Positions = np.flatnonzero(self.gone_at > epoch)
            self._made[epoch] = Mask(epoch, positions)
            while len(self._made) > KEPT_MASKS:
                del self._made[next(iter(self._made))]
        return self._made[epoch]

    def epoch_of(self, version: int) -> int:
        """Return the epoch that a version belongs to."""
        return self.first + int(np.searchsorted(self.began, version, side="right")) - 1

    def narrow(self, positions: Positions, version: int) -> Masks:
        """Return the masks with one epoch more, of which only `positions` are left.

        Args:
            positions: Strictly increasing, all of them alive.
            version: The version with which the epoch begins.
        """
        gone_at = np.minimum(self.gone_at, np.uint16(self.epoch + 1))
        gone_at[positions] = LIVE
        return Masks(gone_at, (*self.began, version), self.first)

    def dump(self) -> Arrays:
        """Return all of it as arrays."""
        return {
            "gone_at": self.gone_at,
            "began": np.asarray(self.began, dtype=np.int64),
            "first": np.asarray([self.first], dtype=np.int64),
        }

    @classmethod
    def load(cls, arrays: Arrays) -> Masks:
        """Read what `dump` returned."""
        return cls(
            arrays["gone_at"].copy(), tuple(arrays["began"].tolist()), int(arrays["first"][0])
        )
