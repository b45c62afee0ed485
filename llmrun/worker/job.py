"""A request in the works: what is to be in its sequence's memory, and the answer that grows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from llmrun.engine.protocol import Chunk, Failed, Generate, PrefillProgress, TokenCounts, Usage
from llmrun.engine.sharing import Embedded
from llmrun.worker.prompt import Prompt
from llmrun.worker.slot import Slot
from llmrun.worker.writing import Writing

Say = Callable[[Chunk | PrefillProgress | TokenCounts | Embedded | Failed], None]

_PROGRESS_INTERVAL = 0.2  # seconds


@dataclass(slots=True)
class Begun:
    """What a request has once it has a slot.

    tokens: all that is to be in the slot's memory, the prompt and what was written; of them what is not there yet is to
    be read, so that a memory that was lost is only a longer way. cached: tokens that were there from the start; n_read:
    tokens of the prompt that were read. turn: the step in which some were read last, or might have been. leader: a job
    whose slot will hold the first `follows` tokens soon.
    """

    prompt: Prompt
    slot: Slot
    writing: Writing
    tokens: list[int]
    started: float
    turn: int = 0
    cached: int = 0
    leader: Job | None = None
    follows: int = 0
    n_read: int = 0
    read_at: float | None = None
    told_at: float = field(default_factory=time.perf_counter)

    @property
    def n_left(self) -> int:
        """How many tokens are to be read before the next one can be drawn."""
        return len(self.tokens) - len(self.slot.past)

    @property
    def is_writing(self) -> bool:
        """Whether the next step draws a token of the answer after reading only the last one."""
        return self.read_at is not None and self.n_left == 1


@dataclass(slots=True, eq=False)
class Job:
    """A request as it was submitted; `begun` where it has a slot."""

    id: int
    owner: str
    request: Generate
    say: Say
    begun: Begun | None = None

    def tell_progress(self) -> None:
        """Say how much of the prompt is read, now and then."""
        begun, now = self.begun, time.perf_counter()
        if begun is None or begun.read_at is not None or now - begun.told_at < _PROGRESS_INTERVAL:
            return
        begun.told_at = now
        self._tell(begun, len(begun.slot.past), now)

    def tell_read(self, now: float) -> None:
        """Note that all of the prompt is read, and say so, once: from here on it is known what it took."""
        begun = self.begun
        if begun is not None and begun.read_at is None:
            begun.read_at = now
            self._tell(begun, len(begun.prompt.tokens), now)

    def _tell(self, begun: Begun, done: int, now: float) -> None:
        self.say(PrefillProgress(done, len(begun.prompt.tokens), begun.cached, now - begun.started))

    def finish(self) -> None:
        """Say the last word: the end of the answer, or that it was cancelled."""
        begun, now = self.begun, time.perf_counter()
        if begun is None:
            usage = Usage(0, 0, 0, 0, 0.0, 0.0, self.request.sampling.seed or 0)
            self.say(Chunk("", "cancelled", usage))
            return
        read_at = now if begun.read_at is None else begun.read_at
        begun.writing.finish(begun.cached, begun.n_read, read_at - begun.started, now - read_at)
