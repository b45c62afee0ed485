"""Texts turned into vectors, beside the answers: each a sequence of the same context, some tokens of it a step.

The vector of a text is the mean of its tokens' last hidden states, or the last one where the file says so
(`pooling_type`), of length one: as llama.cpp's server and Ollama give them. llama.cpp makes every row of such a batch
an output, so that a step has no more tokens than the context has outputs (RunSettings.n_outputs_max).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from llmrun.engine.protocol import Failed
from llmrun.engine.sharing import Embed, Embedded
from llmrun.engine.wire import failure_of
from llmrun.errors import ContextOverflowError, LLMRunError, UsageError
from llmrun.worker.batch import Part
from llmrun.worker.fault import contained
from llmrun.worker.llama import Context
from llmrun.worker.slot import CANCELLED, OK, Slot, failed_decode
from llmrun.worker.vocabulary import Vocabulary

if TYPE_CHECKING:
    from numpy.typing import NDArray

LAST = 3  # llama.h, LLAMA_POOLING_TYPE_LAST
_STEP_SECONDS = 0.05  # of a step of the answers: short texts come in great numbers

Say = Callable[[Embedded | Failed], None]


@dataclass(slots=True, eq=False)
class _Text:
    """A text on its way: its tokens, where it is read, and the sum of what was read."""

    id: int
    tokens: Sequence[int]
    say: Say
    slot: Slot | None = None
    n_read: int = 0
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


class Embedder:
    """Takes texts in the order they come, one at a time. free: slots that nobody uses."""

    def __init__(self, context: Context, vocabulary: Vocabulary, free: Callable[[], Sequence[Slot]]) -> None:
        self._context, self._vocabulary, self._free = context, vocabulary, free
        self._waiting: deque[_Text] = deque()

    @property
    def has_work(self) -> bool:
        """Whether there is a text without its vector."""
        return bool(self._waiting)

    @property
    def slot(self) -> Slot | None:
        """The slot that is taken, if any."""
        return self._waiting[0].slot if self._waiting else None

    def submit(self, request: Embed, say: Say) -> None:
        """Take on a text; raises UsageError or ContextOverflowError for one that cannot be had."""
        vocabulary, n_ctx = self._vocabulary, self._context.n_ctx
        tokens = list(request.tokens) or vocabulary.tokenize(request.text, parse_special=False)
        strange = [token for token in tokens if not 0 <= token < vocabulary.n_tokens]
        if strange:
            raise UsageError(f"there is no token {strange[0]}: the model's are 0 to {vocabulary.n_tokens - 1:,}")
        if not request.tokens and vocabulary.adds_bos and vocabulary.bos >= 0:
            tokens.insert(0, vocabulary.bos)
        if not tokens:
            raise UsageError("there is nothing to embed: the text is empty")
        if len(tokens) > n_ctx and request.truncate:
            del tokens[n_ctx:]
        if len(tokens) > n_ctx:
            raise ContextOverflowError(
                f"the text has {len(tokens):,} tokens, and the context holds {n_ctx:,}",
                "divide it, or serve a longer --ctx",
            )
        self._waiting.append(_Text(request.id, tokens, say))

    def withdraw(self, number: int) -> None:
        """Forget about a text that nobody waits for any more."""
        for text in [text for text in self._waiting if text.id == number]:
            self._drop(text)

    def fail_all(self, error: LLMRunError) -> None:
        """Give up all texts."""
        for text in list(self._waiting):
            self._fail(text, error)

    def begin(self) -> None:
        """Take a slot for the next text, if there is one free."""
        if not self._waiting or self._waiting[0].slot is not None:
            return
        slot = min(self._free(), key=lambda slot: (bool(slot.past), slot.used), default=None)
        if slot is not None:
            slot.claim(None)
            slot.forget()
            self._waiting[0].slot = slot
            self._waiting[0].total = np.zeros(self._context.n_embd)

    def step(self) -> None:
        """Read on for a while, if there is a slot."""
        began = time.perf_counter()
        while self._waiting and time.perf_counter() - began < _STEP_SECONDS:
            text = self._waiting[0]
            self.begin()
            if text.slot is None:
                return
            with contained(partial(self._fail, text)):
                if not self._read(text):
                    return

    def _read(self, text: _Text) -> bool:
        """Read on; False where that was broken off for a request that is gone by now, and is to be done again."""
        slot = text.slot
        assert slot is not None
        tokens = text.tokens[text.n_read : text.n_read + self._context.n_outputs]
        status = self._context.embed(Part(slot.seq, tokens, text.n_read))
        if status == CANCELLED:
            self._begin_anew(text, slot)
            return False
        if status != OK:
            raise failed_decode(status, len(tokens), text.n_read, self._context)
        rows = self._context.embeddings(len(tokens))
        text.n_read += len(tokens)
        if self._context.model.pooling == LAST:
            text.total = rows[-1].astype(np.float64)
        else:
            text.total += rows.sum(axis=0, dtype=np.float64)
        if text.n_read == len(text.tokens):
            self._drop(text)
            text.say(Embedded(_unit(text.total).tobytes(), len(text.tokens)))
        return True

    def _begin_anew(self, text: _Text, slot: Slot) -> None:
        """Read a text from its start again; half a step may be in the memory."""
        slot.forget()
        text.n_read = 0
        text.total = np.zeros(self._context.n_embd)

    def _fail(self, text: _Text, error: LLMRunError) -> None:
        self._drop(text)
        text.say(failure_of(error))

    def _drop(self, text: _Text) -> None:
        self._waiting.remove(text)
        if text.slot is not None:
            text.slot.forget()


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return a vector at length one; one of length zero stays as it is."""
    length = float(np.linalg.norm(vector))
    return (vector / length if length else vector).astype("<f4")
