"""What became of one request: noted where it is answered, read where it ends."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from llmrun.engine.protocol import Chunk
from llmrun.server.ask import Ask


@dataclass(slots=True)
class Tally:
    """Counts of a request that change while it is answered; seconds are of time.perf_counter.

    completion_seconds: of decoding, summed over its answers. first_after: until the first text, None before it.
    """

    started: float = field(default_factory=time.perf_counter)
    model: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    completion_seconds: float = 0.0
    first_after: float | None = None
    ask: Ask | None = None

    def begin(self, model: str, ask: Ask) -> None:
        """Note what is asked, and of which model."""
        self.model, self.ask = model, ask

    def add(self, chunk: Chunk) -> None:
        """Note a part of an answer that came."""
        if self.first_after is None and (chunk.text or chunk.calls):
            self.first_after = time.perf_counter() - self.started
        if chunk.usage is not None:
            self.prompt_tokens += chunk.usage.prompt_tokens
            self.cached_tokens += chunk.usage.cached_tokens
            self.completion_tokens += chunk.usage.completion_tokens
            self.completion_seconds += chunk.usage.completion_seconds

    @property
    def seconds(self) -> float:
        """How long the request has taken by now."""
        return time.perf_counter() - self.started


_current: ContextVar[Tally | None] = ContextVar("tally", default=None)


def begin_tally() -> Tally:
    """Return a new tally, which is the one of this task and of those that it starts from here on."""
    tally = Tally()
    _current.set(tally)
    return tally


def current_tally() -> Tally:
    """Return the tally of the request that is answered here; one that nobody reads where there is none."""
    return _current.get() or Tally()
