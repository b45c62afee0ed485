"""How often a key may ask: a token bucket for each. Pure, but for the clock that is handed in."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from llmrun.errors import RateError, UsageError

_SECONDS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "day": 86400}
_FORM = re.compile(r"([0-9]{1,9})\s*/\s*([a-z]+)")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds; all of them may come at once."""

    count: int
    seconds: int

    def __str__(self) -> str:
        units = {1: "a second", 60: "a minute", 3600: "an hour", 86400: "a day"}
        return f"{self.count:,} {units.get(self.seconds, f'in {self.seconds} seconds')}"


def parse_rate(text: str) -> Rate:
    """Return a rate that is written as 60/min or 5/s; raises UsageError for what is none."""
    found = _FORM.fullmatch(text.strip().lower())
    if found is None or found[2] not in _SECONDS or int(found[1]) < 1:
        raise UsageError(f"{text!r} is no rate", "write it as 60/min, 5/s or 1000/hour")
    return Rate(int(found[1]), _SECONDS[found[2]])


class Buckets:
    """A bucket for each name: full with `rate.count` at first, it fills evenly and every request takes one out."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> None:
        """Count a request; raises RateError with the seconds to wait where the bucket is empty."""
        wait = self.wait_of(name)
        if wait > 0:
            raise RateError(f"too many requests: at most {self._rate} are answered", retry_after=wait)
        level, now = self._level(name)
        self._levels[name] = level - 1, now

    def wait_of(self, name: str) -> float:
        """Return the seconds until a request may be taken; 0 where one may be now."""
        level, _ = self._level(name)
        return max(0.0, (1 - level) * self._rate.seconds / self._rate.count)

    def prune(self, most: int) -> None:
        """Forget the buckets that are full again where there are more than so many, and all where that does not help.

        Names that strangers choose (addresses) must not fill the memory.
        """
        if len(self._levels) > most:
            self._levels = {
                name: seen for name, seen in self._levels.items() if self._level(name)[0] < self._rate.count
            }
        if len(self._levels) > most:
            self._levels.clear()

    def _level(self, name: str) -> tuple[float, float]:
        now = self._clock()
        level, then = self._levels.get(name, (float(self._rate.count), now))
        return min(float(self._rate.count), level + (now - then) * self._rate.count / self._rate.seconds), now
