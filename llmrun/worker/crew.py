"""The threads that compute a context's steps: as many as the moment allows, set before each step and judged after it.

More threads or fewer give the same numbers to the last bit, but for one operation: where one token reads a cache of 512
cells and more of f16 or f32, flash attention divides it among the threads and adds up what they found (ggml's ops.cpp,
use_split_kv_path), so that logits depend on their number: of guide by 0.15, enough to decide between two words that
are as likely. An answer that is to be the same whenever it is asked for - greedy, or with a seed of the user's -
therefore keeps one number from there on. Only where its steps collapse, to a third of their speed and less, threads are
given up once: nobody waits ten minutes for the sake of a word. Between two answers the number may change, as it always
did; `--threads` fixes it for good. Requests that are computed together have no such answers: who writes beside whom
changes the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from llmrun.sampling import Sampling
from llmrun.settings import RunSettings
from llmrun.worker.headcount import Headcount

_FEW = 16  # tokens: up to so many each number of them is a kind of steps of its own
_LEAST_READ = 32  # tokens: shorter steps tell little of what a token costs when a prompt is read
_PAUSE = 1.0  # seconds in which nothing was computed: what was known of the moment is over
_GLANCE = 0.05  # seconds: Linux counts in steps of a hundredth, which tell a busy processor from an idle one by then
# llama.cpp rounds the cells that are read up to 256s: from here on they are 512
SPLIT_FROM = 256


class Watch(Protocol):
    """Who sees what others do: hardware.spare.Spare."""

    @property
    def is_due(self) -> bool:
        """Whether the next look would show something."""

    @property
    def age(self) -> float:
        """Seconds since the last look."""

    def look(self) -> float | None:
        """Processors that others left since the last look, None where that cannot be seen."""


def is_divided(settings: RunSettings) -> bool:
    """Whether attention over a long cache depends on the number of threads in its last bits."""
    same = settings.type_k == settings.type_v and settings.type_k in ("f16", "f32")
    return same and settings.flash_attn is not False


def is_repeatable(sampling: Sampling) -> bool:
    """Whether the same answer is expected whenever the same is asked."""
    return sampling.temperature == 0 or sampling.seed is not None


class Crew:
    """Chooses threads for steps. start, most: for one token, and for several. set_threads: tells llama.cpp of both.

    clock: seconds, from any beginning. sleep: waits for so many.
    """

    def __init__(
        self,
        start: tuple[int, int],
        most: tuple[int, int],
        set_threads: Callable[[int, int], None],
        watch: Watch,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._most, self._set_threads, self._watch = most, set_threads, watch
        self._clock, self._sleep = clock, sleep
        self._now = start
        self._headcounts: dict[int, Headcount] = {}
        self._room: float | None = None
        self._ended = clock()

    def compute(self, n_tokens: int, step: Callable[[], int], *, still: bool = False) -> int:
        """Compute a step of so many tokens with the threads that are best now; returns its status, 0 is well.

        still: whether steps of single tokens are to keep their number from here on.
        """
        self._choose(n_tokens, still)
        began = self._clock()
        status = step()
        self._ended = self._clock()
        if status == 0:
            self._learn(n_tokens, self._ended - began)
        return status

    def _choose(self, n_tokens: int, still: bool) -> None:
        self._observe()
        decode, batch = self._now
        if n_tokens == 1:
            self._headcount(1).hold(still=still)
            decode = self._headcount(1).n_threads
        else:
            batch = self._headcount(n_tokens).n_threads
        if (decode, batch) != self._now:
            self._now = decode, batch
            self._set_threads(decode, batch)

    def _learn(self, n_tokens: int, seconds: float) -> None:
        if n_tokens <= _FEW:
            self._headcount(n_tokens).took(seconds)
        elif n_tokens >= _LEAST_READ:
            self._headcount(n_tokens).took(seconds / n_tokens)

    def begin(self) -> None:
        """Hear that an answer begins, between which the number may change."""
        if 1 in self._headcounts:
            self._headcounts[1].hold(still=False)

    def _observe(self) -> None:
        if self._clock() - self._ended > _PAUSE:
            is_recent = self._watch.age < 2 * _PAUSE
            room = self._watch.look()
            was_crowded = room is not None and room < self._most[0] - 0.5
            if must_glance := was_crowded or (room is not None and self._is_short):
                # an average over a pause: who was busy then may have ended, and a prompt would be read with one thread
                self._sleep(_GLANCE)
                room = self._watch.look()
            if is_recent or must_glance:
                self._room = room
                for headcount in self._headcounts.values():
                    headcount.resume(room)
        elif self._watch.is_due:
            self._room = self._watch.look()
            for headcount in self._headcounts.values():
                headcount.see(self._room)

    @property
    def _is_short(self) -> bool:
        """Whether there could be more threads for steps of some kind."""
        return any(headcount.n_threads < self._most[kind != 1] for kind, headcount in self._headcounts.items())

    def _headcount(self, n_tokens: int) -> Headcount:
        kind = n_tokens if n_tokens <= _FEW else 0
        if kind not in self._headcounts:
            is_one = n_tokens == 1
            headcount = Headcount(self._most[not is_one], self._now[not is_one])
            headcount.see(self._room)
            self._headcounts[kind] = headcount
        return self._headcounts[kind]
