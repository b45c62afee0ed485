"""One conversation in one context: read what is new of the prompt, write the answer, keep what can be reused."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmrun.engine.protocol import Chunk, Event, FinishReason, Generate, Phase, PrefillProgress, Usage
from llmrun.errors import ContextOverflowError, EngineError, InsufficientMemoryError
from llmrun.settings import MAX_N_CTX
from llmrun.worker.llama import CancelFlag, Context
from llmrun.worker.prompt import Prompt, PromptEncoder
from llmrun.worker.sampling import Sampler
from llmrun.worker.streaming import StreamingText
from llmrun.worker.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llmrun.worker.vision import Vision

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

    def __init__(
        self,
        context: Context,
        vocabulary: Vocabulary,
        encoder: PromptEncoder,
        cancel: CancelFlag,
        vision: Vision | None = None,
    ) -> None:
        self._context = context
        self._vision = vision
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
        sampler = Sampler(request.sampling, self._vocabulary.n_tokens, [token for token in prompt.tokens if token >= 0])
        answer = _Answer(StreamingText(request.stop), request.max_tokens)
        reason: FinishReason = "cancelled"
        try:
            cached = self._reuse(prompt.tokens)
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

    def _encode(self, request: Generate, emit: Emit) -> Prompt:
        """Make the prompt; only the template itself runs in the phase of that name, which must not take long."""
        emit(Phase("prefill"))
        messages = self._encoder.neutralize(request.messages)
        emit(Phase("template"))
        text = self._encoder.render(messages)
        emit(Phase("prefill"))
        return self._encoder.tokenize(text)

    def _check_room(self, prompt: Prompt, room: int) -> None:
        n_prompt, n_ctx = len(prompt.tokens) + prompt.extra_cells, self._context.n_ctx
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

    def _reuse(self, prompt: Sequence[int]) -> int:
        """Keep the longest common prefix in memory; the last token is always read again, for its logits."""
        common = 0
        for ours, theirs in zip(self._past, prompt[:-1], strict=False):
            if ours != theirs:
                break
            common += 1
        kept = self._context.keep(before_image(prompt, common))
        if (start := before_image(prompt, kept)) < kept:  # less was kept than was asked for
            kept = self._context.keep(start)
        del self._past[kept:]
        return kept

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
                n_pos = self._show(prompt[done], done)
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
            self._n_step = next_step(len(step), now - before, self._context.n_step)
            if now - told >= _PROGRESS_INTERVAL:
                told = now
                emit(PrefillProgress(done, len(prompt), cached, now - started))
        return True

    def _read(self, tokens: Sequence[int], position: int, *, last: bool) -> bool:
        """Put tokens into memory; returns False when it was cancelled."""
        status = self._context.decode(tokens, position, want_logits=last)
        return self._took(tokens, position, status)

    def _show(self, token: int, position: int) -> int:
        """Put the image that a token stands for into memory; returns its positions, 0 when it was cancelled."""
        assert self._vision is not None
        span = self._vision.span(token)
        status = self._vision.read(span, self._context.pointer, position, self._context.n_step)
        return span.n_pos if self._took([token] * span.n_pos, position, status) else 0

    def _took(self, tokens: Sequence[int], position: int, status: int) -> bool:
        """Remember what a decode put into memory; returns False when it was cancelled."""
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
        kept = self._context.keep(min(len(self._past), self._context.n_past()))
        if self._context.model.is_recurrent:  # half a step may be in its state
            self._context.forget()
            kept = 0
        del self._past[kept:]

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


def text_before_image(tokens: Sequence[int]) -> Sequence[int]:
    """Return the tokens before the first that stands for an image."""
    return tokens[: next((index for index, token in enumerate(tokens) if token < 0), len(tokens))]


def before_image(tokens: Sequence[int], end: int) -> int:
    """Return where an image begins that `end` is inside of, which is read only whole; else `end`."""
    while 0 < end < len(tokens) and tokens[end] < 0 and tokens[end - 1] == tokens[end]:
        end -= 1
    return end


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
