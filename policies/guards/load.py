"""When is a device worn too much?"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from policies.base import Settings


class Load(Settings):
    """Name the clients whose load is above `most` at the end of a run.

    A client's load is the share of the run in which its device or links were busy, times the share
    of its device's memory that training takes (our choice: one figure for both). The alarm changes
    nothing in a run.
    """

    most: Annotated[float, Field(gt=0, le=1)] = 0.5

    def alarms(self, load: float) -> bool:
        """Say whether that is too much."""
        return load > self.most
