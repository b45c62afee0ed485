"""How often and when something that failed is tried again. Knows nothing of what is tried."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from llmrun.hub.setback import SetbackError

MAX_IN_A_ROW = 5
_FIRST_WAIT = 1.0
_LONGEST_WAIT = 8.0
MAX_ASKED_WAIT = 120.0  # seconds; what a server asks for beyond is for people to decide


@dataclass(slots=True)
class Retries:
    """Setbacks in a row; changes with each. pause: waits so many seconds."""

    pause: Callable[[float], None] = time.sleep
    in_a_row: int = field(default=0, init=False)
    _has_obeyed: bool = field(default=False, init=False)

    def progressed(self) -> None:
        """Begin to count anew: something came."""
        self.in_a_row = 0
        self._has_obeyed = False

    def wait_after(self, setback: SetbackError, told: Callable[[str, float], None]) -> bool:
        """Wait before the next try, told why and for how long; return false where there should be none."""
        self.in_a_row += 1
        if self.in_a_row > MAX_IN_A_ROW or (setback.wait or 0.0) > MAX_ASKED_WAIT:
            return False
        ours = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (self.in_a_row - 1))
        seconds = ours if setback.wait is None else setback.wait
        if self._has_obeyed:  # a server that asks for less than we would wait is believed once
            seconds = max(seconds, ours)
        self._has_obeyed |= setback.wait is not None
        told(setback.reason, seconds)
        self.pause(seconds)
        return True
