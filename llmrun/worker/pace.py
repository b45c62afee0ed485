"""How many tokens of prompts a step may read, by how long that took before, so that it is never long. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from llmrun.worker.share import LONG, TILE, next_step

# Those who write should not be held up for longer than this, seconds, by prompts that are read in the same step: the
# text still flows. Where the step takes as long without them, they may double it. What is so slow that this is not
# enough for 8 tokens reads 8. Where more wait for short prompts than write, these wait in proportion, because steps of
# 16 tokens read half as fast as of 128: eight who ask at once, of whom one began a little sooner, all have their answer
# sooner (24.3 against 28 s for 64 tokens each; 0.6B, Q4_K_M, AVX2). A long prompt never does that to others.
_STALL_SECONDS = 0.25
_SOON_STEPS = 2  # a prompt is short that so many full steps read
_LEAST_STEP = 8
# A large model begins with a few tokens, because nothing is known of its speed.
_FIRST_STEP = 32


class Pace:
    """What steps took so far. n_rows: tokens that a step can have. is_unified: all conversations in one cache."""

    def __init__(self, n_rows: int, *, is_large: bool, is_unified: bool = False) -> None:
        self._n_rows = n_rows
        self._is_unified = is_unified
        self._writing = 0.0  # seconds of a step that only wrote
        self._read = (_FIRST_STEP, LONG) if is_large else (1, 0.0)  # tokens, and the seconds for them
        self._known = dict[int, float]()  # by size, what the last full step took
        self._size, self._room = 0, 0  # of the next step, and the tokens it may read

    def took(self, n_writing: int, n_read: int, seconds: float) -> None:
        """Learn what a step took that wrote so many tokens and read so many.

        The end of a prompt, which fills no step, takes nearly as long as a full one, and says nothing of it.
        """
        if n_read == 0:
            self._writing = seconds
            return
        reading = max(0.0, seconds - (self._writing if n_writing else 0.0))
        is_full = n_read >= self._room
        if n_read >= _LEAST_STEP and (is_full or reading > LONG):
            self._read = n_read, reading
            if is_full:
                self._known[self._size] = reading

    def room(self, n_writing: int, lefts: Sequence[int] = ()) -> int:
        """Return how many tokens of prompts the next step may read beside the tokens that are written.

        lefts: what is left of each prompt that waits.
        """
        size = self._size = self._choose(n_writing, lefts)
        if n_writing and size == TILE:
            # in one cache what is written is of a tile, too; apart, llama.cpp first takes a token of each conversation
            size += -(n_writing % TILE) if self._is_unified else 1
        self._room = min(size, self._n_rows - n_writing)
        return self._room

    def _choose(self, n_writing: int, lefts: Sequence[int]) -> int:
        n, seconds = self._read
        if n_writing == 0:
            return next_step(n, seconds, self._n_rows, limit=LONG)
        n_soon = sum(left <= _SOON_STEPS * self._n_rows for left in lefts)
        patience = min(_STALL_SECONDS * max(1.0, n_soon / n_writing), LONG)
        limit = max(patience, self._writing)
        most = next_step(n, seconds, self._n_rows, limit=limit, least=_LEAST_STEP)
        return TILE if self._is_worse_than_a_tile(most) else most

    def _is_worse_than_a_tile(self, n: int) -> bool:
        """Tell whether a step of n tokens loses more speed against one of a tile than it is shorter.

        Far into a prompt fewer tokens than a tile may even take longer (see llmrun.worker.share).
        """
        fewer, tile = self._known.get(n), self._known.get(TILE)
        if fewer is None or tile is None or n >= TILE:
            return False
        return (tile / fewer) ** 2 < TILE / n
