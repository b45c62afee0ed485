"""One conversation in one context: read what is new of the prompt, write the answer, keep what can be reused."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.engine.protocol import (
    CountTokens,
    Event,
    Generate,
    Phase,
    PrefillProgress,
    TokenCounts,
)
from llmrun.engine.states import PromptTokens, StateRestored, StateSaved
from llmrun.worker import state
from llmrun.worker.batch import Part
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.crew import is_repeatable
from llmrun.worker.encoding import check_room, count, encode
from llmrun.worker.llama import Context
from llmrun.worker.prompt import Prompt, PromptEncoder
from llmrun.worker.sampling import LAST
from llmrun.worker.share import LONG, next_step
from llmrun.worker.slot import CANCELLED, OK, Slot, failed_decode, text_before_image
from llmrun.worker.speculation import Speculation
from llmrun.worker.writing import Writing

if TYPE_CHECKING:
    from llmrun.worker.vision import Vision

Emit = Callable[[Event], None]

_PROGRESS_INTERVAL = 0.2

# A step of reading should not take longer than a second, so that progress is seen. A large model begins with a few
# tokens, because nothing is known of its speed; a small one reads a whole step in no time.
FIRST_STEP = 32
LARGE = 1 << 30


class Session:
    """Answers conversations one after another; what the context already holds of the next one is not read again."""

    def __init__(
        self,
        context: Context,
        slot: Slot,
        encoder: PromptEncoder,
        cancel: CancelFlag,
        vision: Vision | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        self._context = context
        self._speculation = Speculation(context) if speculation is None else speculation
        self._vision = vision
        self._encoder = encoder
        self._cancel = cancel
        self._slot = slot
        self._n_read = 0  # tokens of the last prompt that were read
        large = context.model.size >= LARGE
        self._n_step = min(FIRST_STEP, context.n_step) if large else context.n_step

    def answer(self, request: Generate, emit: Emit) -> None:
        """Answer one request; `emit` gets progress, chunks, and a last chunk with the finish reason and usage.

        Raises ContextOverflowError before anything is read if the prompt leaves no room for an answer.
        """
        prompt = encode(request, self._encoder, emit)
        if not self._cancel.is_set():
            check_room(prompt, request.room, self._context)
        self._context.begin_answer(keeps_threads=is_repeatable(request.sampling))
        started = time.perf_counter()
        writing = Writing(request, prompt, self._encoder, self._context.n_ctx, emit)
        try:
            self._slot.claim(None)
            cached = self._slot.reuse(prompt.tokens, shift=request.shift)
            whole = self._prefill(prompt.tokens, cached, emit)
            read = time.perf_counter()
            if whole:
                emit(Phase("decode"))
                self._write(writing)
                if (known := writing.known()) is not None:
                    self._encoder.recall(known)
        finally:
            writing.close()
        writing.finish(cached, self._n_read, read - started, time.perf_counter() - read)

    def count(self, question: CountTokens, emit: Emit) -> TokenCounts:
        """Count a conversation's tokens; nothing of it is read."""
        return count(question, self._encoder, emit)

    def tokenize(self, request: Generate, emit: Emit) -> PromptTokens:
        """Tell the tokens of a request's prompt, as `answer` would read them."""
        tokens = encode(request, self._encoder, emit).tokens
        return PromptTokens(tokens, self._context.can_cut, self._context.is_stretched)

    def save(self, path: Path, offset: int, limit: int, tokens: Sequence[int] | None = None) -> StateSaved:
        """Write the context's state into a file, see `worker.state`. tokens: as of SaveState.

        Nothing is written where there is none, it is too large, or images are in it.

        Raises EngineError where it cannot be written.
        """
        if tokens is not None:
            if not self._slot.cut(tokens):
                return StateSaved(0, "", 0)
            self._encoder.recall(Prompt("", ()))
        known = self._encoder.remembered
        past = self._slot.past
        has_images = any(token < 0 for token in (*past, *known.tokens))  # which are numbered anew in each process
        if not past or self._context.move_pending or has_images:
            return StateSaved(0, "", 0)
        record = state.Record(tuple(past), known.text, known.tokens, known.written)
        saved = state.save(path, offset, limit, record, self._context)
        return StateSaved(0, "", 0) if saved is None else StateSaved(*saved, len(past))

    def restore(self, path: Path, offset: int, size: int, sha256: str) -> StateRestored:
        """Take back a state; where it is not what it should be, the session is as new."""
        self._slot.claim(None)
        self._slot.forget()
        self._encoder.recall(Prompt("", ()))
        record = state.restore(path, offset, size, sha256, self._context)
        n_past = self._context.n_past(self._slot.seq)
        if record is None or n_past != len(record.past) or n_past > self._context.n_ctx:
            self._context.clear(data=True)
            return StateRestored(0)
        self._slot.past = list(record.past)
        self._encoder.recall(record.prompt)
        return StateRestored(len(self._slot.past))

    def _prefill(self, prompt: Sequence[int], done: int, emit: Emit) -> bool:
        """Read the rest of the prompt step by step; returns False when it was cancelled."""
        cached, started = done, time.perf_counter()
        told, self._n_read = started, 0
        while done < len(prompt):
            step = text_before_image(prompt[done : done + self._n_step])
            before = time.perf_counter()
            if self._cancel.is_set():
                return False
            if not step:
                n_pos = self._read_image(prompt[done], done)
                if not n_pos:
                    return False
                done += n_pos
                self._n_read += n_pos
                continue
            if not self._read(step, done, last=done + len(step) == len(prompt)):
                return False
            done += len(step)
            self._n_read += len(step)
            now = time.perf_counter()
            if len(step) >= self._n_step or now - before > LONG:  # the end of a prompt says nothing of a full step
                self._n_step = next_step(len(step), now - before, self._context.n_step)
            if now - told >= _PROGRESS_INTERVAL:
                told = now
                emit(PrefillProgress(done, len(prompt), cached, now - started))
        return True

    def _read_with(self, token: int, guess: Sequence[int]) -> float | None:
        """Put a token and a guess at the next ones into memory; returns the seconds, None when it was cancelled."""
        started, n_past = time.perf_counter(), len(self._slot.past)
        part = Part(self._slot.seq, (token, *guess), n_past, every_row=bool(guess))
        status = self._context.decode_parts((part,))
        self._context.wait()
        return time.perf_counter() - started if self._took(part.tokens, n_past, status) else None

    def _read(self, tokens: Sequence[int], position: int, *, last: bool) -> bool:
        """Put tokens into memory; returns False when it was cancelled."""
        status = self._context.decode(tokens, position, want_logits=last, seq=self._slot.seq)
        return self._took(tokens, position, status)

    def _read_image(self, token: int, position: int) -> int:
        """Put the image that a token stands for into memory; returns its positions, 0 when it was cancelled."""
        assert self._vision is not None
        span = self._vision.span(token)
        status = self._vision.read(span, self._context, (self._slot.seq, position))
        return span.n_pos if self._took([token] * span.n_pos, position, status) else 0

    def _took(self, tokens: Sequence[int], position: int, status: int) -> bool:
        """Remember what a decode put into memory; returns False when it was cancelled."""
        if status == OK:
            self._slot.past.extend(tokens)
            return True
        self._slot.resynchronize()
        if status == CANCELLED:
            return False
        raise failed_decode(status, len(tokens), position, self._context)

    def _write(self, writing: Writing) -> None:
        """Write the answer to its end, or until it is cancelled."""
        guess: tuple[int, ...] = ()
        seconds = None
        while True:
            row, is_cancelled = (0 if guess else LAST), self._cancel.is_set
            found = self._speculation.verify(
                writing, self._slot, guess, row=row, seconds=seconds, is_cancelled=is_cancelled
            )
            if found.token is None:
                return
            guess = self._speculation.guess(writing, self._slot, found.token)
            seconds = self._read_with(found.token, guess)
            if seconds is None:
                return
