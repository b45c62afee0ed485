"""How long models stay loaded after their last answer, as people write it and as seconds. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from llmrun.errors import UsageError

FOREVER = math.inf
_OTHERS = 300.0  # seconds for a model that a request named: Ollama's (envconfig, OLLAMA_KEEP_ALIVE)
_AGES = 1e9  # seconds, 30 years: no clock need count further
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FORMS = "write it as 5m, 1h30m, 90s or 300; 0 is not at all, -1 or forever until the memory is needed"


def parse_keep_alive(text: str) -> float:
    """Return a time as Ollama's clients write it (5m, 1h30m, 300, 0, -1) in seconds; raises UsageError.

    All that is below 0 is forever, as there.
    """
    wanted = text.strip().lower()
    if wanted in ("forever", "inf"):
        return FOREVER
    negative, rest = wanted.startswith("-"), wanted.removeprefix("-")
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", rest):
        seconds = float(rest)
    else:
        parts = _PART.findall(rest)
        if not parts or "".join(number + unit for number, unit in parts) != rest:
            raise UsageError(f"{text[:40]!r} is no time", _FORMS)
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    return FOREVER if negative and seconds > 0 else seconds


@dataclass(frozen=True, slots=True)
class Keeping:
    """What the server's operator wants kept.

    keep_alive: seconds that a model stays after its last answer; None is forever for those given at the start, and
    5 minutes for the others. pinned: keys (see names.Meant) of models that are never ended for the sake of others.
    queue: requests that may wait for each, None is admission.default_queue.
    """

    keep_alive: float | None = None
    pinned: frozenset[str] = field(default_factory=frozenset)
    queue: int | None = None

    def seconds(self, key: str, wished: float | None, *, given: bool) -> float:
        """Return how long a model stays after an answer. wished: by the request, below 0 is forever."""
        if key in self.pinned:
            return FOREVER
        if wished is not None:
            return FOREVER if wished < 0 or wished > _AGES else wished
        if self.keep_alive is not None:
            return self.keep_alive
        return FOREVER if given else _OTHERS
