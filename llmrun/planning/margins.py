"""What real loads teach about a reserve: by how much plans were exceeded on this machine. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

N_SEEN = 20  # loads that count: a driver's update makes the older ones untrue
_ENOUGH = 5  # loads without any excess, after which a device's reserve is taken to be larger than it need be


@dataclass(frozen=True, slots=True)
class Margin:
    """Bytes of a pool that were planned for a load, and that it took."""

    planned: int
    actual: int

    @property
    def excess(self) -> int:
        """By how much more was taken than planned; negative for less."""
        return self.actual - self.planned


def adjusted(start: int, seen: Sequence[Margin], *, shrinks: bool) -> int:
    """Return the reserve to keep, which is `start` where nothing was seen.

    It grows by the largest excess of the last loads. It shrinks to a half where there were some and none had any
    excess, if it is there for what drivers take beside a plan (`shrinks`): the host's is for other programs, of which
    our loads tell nothing.
    """
    last = seen[-N_SEEN:]
    excess = max((margin.excess for margin in last), default=0)
    if excess > 0:
        return start + excess
    return start // 2 if shrinks and len(last) >= _ENOUGH else start
