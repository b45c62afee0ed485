"""One conversation in one context: read what is new of the prompt, write the answer, keep what can be reused."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmrun.engine.protocol import (
    Chunk,
    Event,
    FinishReason,
    Generate,
    Phase,
    PrefillProgress,
    StateRestored,
    StateSaved,
    Usage,
)
from llmrun.errors import ContextOverflowError, EngineError, InsufficientMemoryError
from llmrun.settings import MAX_N_CTX
from llmrun.worker import state
from llmrun.worker.llama import CancelFlag, Context
from llmrun.worker.overlap import common_prefix, find_moves, least_stretch
from llmrun.worker.prompt import Prompt, PromptEncoder
from llmrun.worker.sampling import Sampler
from llmrun.worker.streaming import StreamingText
from llmrun.worker.vocabulary import Vocabulary

Emit = Callable[[Event], None]

# Text goes out at most this often, seconds: a small model writes thousands of tokens a second, and a message each
# would cost more than the token. A slower model sends every token at once.
_EMIT_INTERVAL = 0.01
_PROGRESS_INTERVAL = 0.2

# A step of reading should not take longer than this, seconds, so that progress is seen. A large model begins with a few
# tokens, because nothing is known of its speed; a small one reads a whole step in no time.
_STEP_SECONDS = 1.0
_FIRST_STEP = 32
_LARGE = 1 << 30

# llama_decode's status (llama.h)
_OK, _CANCELLED, _ALLOCATION_FAILED = 0, 2, -2


@dataclass(slots=True)
class _Answer:
    """An answer while it is being written."""

    text: StreamingText
    max_tokens: int | None
    tokens: list[int] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    last_emit: float = 0.0


class Session:
    """Answers conversations one after another; what the context already holds of the next one is not read again."""

    def __init__(self, context: Context, vocabulary: Vocabulary, encoder: PromptEncoder, cancel: CancelFlag) -> None:
        self._context = context
        self._vocabulary = vocabulary
        self._encoder = encoder
        self._cancel = cancel
        self._past: list[int] = []  # the tokens in the context's memory
        self._n_read = 0  # tokens of the last prompt that were read
        large = context.model.size >= _LARGE
        self._n_step = min(_FIRST_STEP, context.n_step) if large else context.n_step

    def answer(self, request: Generate, emit: Emit) -> None:
        """Answer one request; `emit` gets progress, chunks, and a last chunk with the finish reason and usage.

        Raises ContextOverflowError before anything is read if the prompt leaves no room for an answer.
        """
        prompt = self._encode(request, emit)
        if not self._cancel.is_set():
            self._check_room(prompt, request.room)
        started = time.perf_counter()
        sampler = Sampler(request.sampling, self._vocabulary.n_tokens, prompt.tokens)
        answer = _Answer(StreamingText(request.stop), request.max_tokens)
        reason: FinishReason = "cancelled"
        try:
            cached = self._reuse(prompt.tokens, shift=request.shift)
            whole = self._prefill(prompt.tokens, cached, emit)
            read = time.perf_counter()
            if whole:
                emit(Phase("decode"))
                reason = self._decode(answer, sampler, emit)
                self._remember(prompt, answer)
        finally:
            sampler.close()
        usage = Usage(
            prompt_tokens=len(prompt.tokens),
            cached_tokens=cached,
            read_tokens=self._n_read,
            completion_tokens=len(answer.tokens),
            prompt_seconds=read - started,
            completion_seconds=time.perf_counter() - read,
            seed=sampler.seed,
        )
        emit(Chunk("".join(answer.pending) + answer.text.finish(), reason, usage))

    def save(self, path: Path, offset: int, limit: int) -> StateSaved:
        """Write the context's state into a file, see `worker.state`; nothing where there is none, or it is too large.

        Raises EngineError where it cannot be written.
        """
        if not self._past or self._context.move_pending:
            return StateSaved(0, "", 0)
        known = self._encoder.remembered
        record = state.Record(tuple(self._past), known.text, known.tokens)
        saved = state.save(path, offset, limit, record, self._context)
        return StateSaved(0, "", 0) if saved is None else StateSaved(*saved, len(self._past))

    def restore(self, path: Path, offset: int, size: int, sha256: str) -> StateRestored:
        """Take back a state; where it is not what it should be, the session is as new."""
        self._forget()
        self._encoder.recall(Prompt("", ()))
        record = state.restore(path, offset, size, sha256, self._context)
        if record is None or self._context.n_past() != len(record.past) or len(record.past) > self._context.n_ctx:
            self._context.forget(data=True)
            return StateRestored(0)
        self._past = list(record.past)
        self._encoder.recall(record.prompt)
        return StateRestored(len(self._past))

    def _encode(self, request: Generate, emit: Emit) -> Prompt:
        """Make the prompt; only the template itself runs in the phase of that name, which must not take long."""
        emit(Phase("prefill"))
        messages = self._encoder.neutralize(request.messages)
        emit(Phase("template"))
        text = self._encoder.render(messages)
        emit(Phase("prefill"))
        return self._encoder.tokenize(text)

    def _check_room(self, prompt: Prompt, room: int) -> None:
        n_prompt, n_ctx = len(prompt.tokens), self._context.n_ctx
        if n_prompt == 0:  # there would be no logits to draw the first token from
            raise EngineError("the conversation is empty once the model's chat template has rendered it")
        if n_prompt + room > n_ctx:
            raise ContextOverflowError(
                f"the conversation has {n_prompt:,} tokens, and the context holds {n_ctx:,} with the answer",
                self._what_helps(n_prompt + room),
            )

    def _what_helps(self, n_tokens: int) -> str:
        n_ctx_train = self._context.model.n_ctx_train
        if 0 < n_ctx_train < n_tokens:
            return f"shorten it, or take a model with a longer context: this one was trained on {n_ctx_train:,} tokens"
        return f"a larger context may help: --ctx {min(n_ctx_train or MAX_N_CTX, _next_power_of_two(n_tokens + 512))}"

    def _reuse(self, prompt: Sequence[int], *, shift: bool) -> int:
        """Keep the longest common prefix in memory; the last token is always read again, for its logits.

        shift: where something was dropped from the prompt, what came after it is kept too and moved up.
        """
        if self._context.move_pending:  # the request that moved was cancelled before its keys were rotated
            self._forget()
        start = common_prefix(self._past, prompt[:-1])
        least = least_stretch(self._context.n_ctx)
        moves = find_moves(self._past, prompt[:-1], start, least) if shift and self._context.can_move else []
        for move in moves:
            self._context.move(move.old, move.new, move.n_tokens)
        n_kept = moves[-1].new + moves[-1].n_tokens if moves else start
        kept = self._context.keep(n_kept)
        self._past = list(prompt[:kept])
        return kept

    def _prefill(self, prompt: Sequence[int], done: int, emit: Emit) -> bool:
        """Read the rest of the prompt step by step; returns False when it was cancelled."""
        cached, started = done, time.perf_counter()
        told, self._n_read = started, 0
        while done < len(prompt):
            step = prompt[done : done + self._n_step]
            before = time.perf_counter()
            if self._cancel.is_set() or not self._read(step, done, last=done + len(step) == len(prompt)):
                return False
            done += len(step)
            self._n_read += len(step)
            now = time.perf_counter()
            self._n_step = next_step(len(step), now - before, self._context.n_step)
            if now - told >= _PROGRESS_INTERVAL:
                told = now
                emit(PrefillProgress(done, len(prompt), cached, now - started))
        return True

    def _read(self, tokens: Sequence[int], position: int, *, last: bool) -> bool:
        """Put tokens into memory; returns False when it was cancelled."""
        status = self._context.decode(tokens, position, want_logits=last)
        if status == _OK:
            self._past.extend(tokens)
            return True
        self._resynchronize()
        if status == _CANCELLED:
            return False
        if status == _ALLOCATION_FAILED:
            message = "there was no memory to compute the next tokens"
            raise InsufficientMemoryError(message, "try a smaller --ctx", self._context.last_refusal())
        raise EngineError(f"llama.cpp could not read {len(tokens)} tokens at position {position} (status {status})")

    def _resynchronize(self) -> None:
        """After a decode that did not finish, believe the memory about what it holds."""
        # half a step may be in a recurrent state, half a rotation in keys that were moved
        if self._context.model.is_recurrent or self._context.move_pending:
            self._forget()
            return
        kept = self._context.keep(min(len(self._past), self._context.n_past()))
        del self._past[kept:]

    def _forget(self) -> None:
        self._context.forget()
        self._past.clear()

    def _decode(self, answer: _Answer, sampler: Sampler, emit: Emit) -> FinishReason:
        while True:
            if self._cancel.is_set():
                return "cancelled"
            token = sampler.draw(self._context)
            if self._vocabulary.is_end(token):
                return "stop"
            self._take(answer, token, emit)
            if answer.text.stopped:
                return "stop"
            if answer.max_tokens is not None and len(answer.tokens) >= answer.max_tokens:
                return "length"
            if len(self._past) >= self._context.n_ctx:
                return "context"
            if not self._read((token,), len(self._past), last=True):
                return "cancelled"

    def _take(self, answer: _Answer, token: int, emit: Emit) -> None:
        answer.tokens.append(token)
        text = answer.text.push(self._vocabulary.piece(token))
        if not text:
            return
        answer.shown.append(text)
        answer.pending.append(text)
        now = time.perf_counter()
        if now - answer.last_emit >= _EMIT_INTERVAL:
            answer.last_emit = now
            emit(Chunk("".join(answer.pending)))
            answer.pending.clear()

    def _remember(self, prompt: Prompt, answer: _Answer) -> None:
        """Let the next turn take the answer's tokens over, if its text stands for all of them."""
        text = "".join(answer.shown)
        if b"".join(map(self._vocabulary.piece, answer.tokens)) == text.encode() and all(
            self._vocabulary.piece(token) for token in answer.tokens
        ):
            self._encoder.remember(prompt, text, answer.tokens)


def _next_power_of_two(number: int) -> int:
    return 1 << max(9, (number - 1).bit_length())


def next_step(n_tokens: int, seconds: float, n_most: int) -> int:
    """Return how many tokens to read next, after n_tokens took so long: n_most, halved until it takes a second.

    Halved, because kernels work in blocks of 32 or 64 tokens: a step of 106 reads slower than one of 128 or of 64.
    """
    step = n_most
    while step > _FIRST_STEP and step * seconds > n_tokens * _STEP_SECONDS:
        step //= 2
    return step
