"""How many processors others leave us, from one moment to the next: nothing is waited for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from llmrun.hardware.cores import read_allowed
from llmrun.hardware.load import CpuTimes, busy_processors, read_cpu_times, read_niceness

# Linux counts in steps of 10 ms: what a look shows after so many seconds is right to a twelfth of a processor
LEAST_SECONDS = 0.12
# A look costs 60 µs beside 2 processors, and more beside many: it may take this part of the time (measured 2026-11)
_COST_SHARE = 0.002


class Spare:
    """What others took since the last look. own work: that of this process. root: where Linux's file systems begin."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._read: Callable[[], CpuTimes] = lambda: read_cpu_times(root=root)
        self._allowed = read_allowed()
        self._with_niced = read_niceness() > 0
        self._seen = self._read()
        self._interval = LEAST_SECONDS

    @property
    def is_due(self) -> bool:
        """Whether enough time has gone by since the last look for the next one to show something."""
        return time.monotonic() - self._seen.at >= self._interval

    @property
    def age(self) -> float:
        """Seconds since the last look."""
        return time.monotonic() - self._seen.at

    def look(self) -> float | None:
        """Return how many processors others left on average since the last look; None where that cannot be seen."""
        began = time.perf_counter()
        before, self._seen = self._seen, self._read()
        self._interval = max(LEAST_SECONDS, (time.perf_counter() - began) / _COST_SHARE)
        if not self._seen.busy:
            return None
        busy = busy_processors(before, self._seen, self._allowed, with_niced=self._with_niced)
        return max(0.0, self._count() - busy)

    def _count(self) -> int:
        """Processors that the times are of."""
        if -1 in self._seen.busy:
            return os.cpu_count() or 1
        return sum(self._allowed is None or number in self._allowed for number in self._seen.busy)
