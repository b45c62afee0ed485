"""One conversation in one context: read what is new of the prompt, write the answer, keep what can be reused."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmrun.engine.protocol import (
    Chunk,
    Event,
    FinishReason,
    Generate,
    Phase,
    PrefillProgress,
    StateRestored,
    StateSaved,
    TokenCounts,
    Usage,
)
from llmrun.errors import ContextOverflowError, EngineError, InsufficientMemoryError
from llmrun.message import Message
from llmrun.settings import MAX_N_CTX
from llmrun.thinking import Variables
from llmrun.worker import state
from llmrun.worker.grammar import AnswerGrammar
from llmrun.worker.llama import CancelFlag, Context
from llmrun.worker.overlap import common_prefix, find_moves, least_stretch
from llmrun.worker.prompt import Prompt, PromptEncoder
from llmrun.worker.reasoning import Span
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
    """An answer while it is being written.

    is_json: whether it is JSON as soon as a grammar holds it. n_positions: of the context, images' extra cells aside.
    """

    text: StreamingText
    max_tokens: int | None
    is_json: bool
    n_positions: int
    tokens: list[int] = field(default_factory=list)
    thought_tokens: int = 0
    begun: bool = False
    pending: list[str] = field(default_factory=list)
    pending_thought: bool = False
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
        prompt = self._encode(request.messages, request.variables, emit)
        if not self._cancel.is_set():
            self._check_room(prompt, request.room)
        started = time.perf_counter()
        grammar = None if request.grammar is None else AnswerGrammar(request.grammar, self._vocabulary)
        text_tokens = [token for token in prompt.tokens if token >= 0]
        sampler = Sampler(request.sampling, self._vocabulary.n_tokens, text_tokens, grammar, request.penalties)
        answer = self._begun(request, prompt)
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
            thought_tokens=answer.thought_tokens,
        )
        self._show(answer, answer.text.finish(), emit)
        emit(Chunk("".join(answer.pending), reason, usage, answer.pending_thought))

    def _begun(self, request: Generate, prompt: Prompt) -> _Answer:
        text = StreamingText(request.stop, self._encoder.splitter(prompt))
        is_json = request.grammar is not None and request.grammar.kind == "json_schema"
        return _Answer(text, request.max_tokens, is_json, self._context.n_ctx - prompt.extra_cells)

    def count(self, messages: Sequence[Message], emit: Emit) -> TokenCounts:
        """Count a conversation's tokens; nothing of it is read."""
        whole = self._encode(messages, {}, emit)
        contents = [self._vocabulary.tokenize(message.content, parse_special=False) for message in messages]
        return TokenCounts(len(whole.tokens), tuple(map(len, contents)))

    def save(self, path: Path, offset: int, limit: int) -> StateSaved:
        """Write the context's state into a file, see `worker.state`.

        Nothing is written where there is none, it is too large, or images are in it.

        Raises EngineError where it cannot be written.
        """
        known = self._encoder.remembered
        has_images = any(token < 0 for token in (*self._past, *known.tokens))  # which are numbered anew in each process
        if not self._past or self._context.move_pending or has_images:
            return StateSaved(0, "", 0)
        record = state.Record(tuple(self._past), known.text, known.tokens, known.written)
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

    def _encode(self, conversation: Sequence[Message], variables: Variables, emit: Emit) -> Prompt:
        """Make the prompt; only the template itself runs in the phase of that name, which must not take long."""
        emit(Phase("prefill"))
        messages = self._encoder.neutralize(conversation)
        emit(Phase("template"))
        text = self._encoder.render(messages, variables)
        emit(Phase("prefill"))
        return self._encoder.tokenize(text)

    def _check_room(self, prompt: Prompt, room: int) -> None:
        n_prompt, n_ctx = len(prompt.tokens) + prompt.extra_cells, self._context.n_ctx
        if n_prompt == 0:  # there would be no logits to draw the first token from
            raise EngineError("the conversation is empty once the model's chat template has rendered it")
        if n_prompt + room > n_ctx:
            left = n_ctx - n_prompt
            holds = f"which leaves {left:,} of {n_ctx:,} for" if left > 0 else f"and the context holds {n_ctx:,} with"
            raise ContextOverflowError(
                f"the conversation has {n_prompt:,} tokens, {holds} the answer", self._what_helps(n_prompt + room)
            )

    def _what_helps(self, n_tokens: int) -> str:
        n_ctx_train = self._context.model.n_ctx_train
        if 0 < n_ctx_train < n_tokens:
            return f"shorten it, or take a model with a longer context: this one was trained on {n_ctx_train:,} tokens"
        return f"a larger context may help: --ctx {min(n_ctx_train or MAX_N_CTX, _next_power_of_two(n_tokens + 512))}"

    def _reuse(self, prompt: Sequence[int], *, shift: bool) -> int:
        """Keep the longest common prefix in memory; the last token is always read again, for its logits.

        shift: where something was dropped from the prompt, what came after it is kept too and moved up; not where there
        are images, of which only whole ones can be kept.
        """
        if self._context.move_pending:  # the request that moved was cancelled before its keys were rotated
            self._forget()
        start = common_prefix(self._past, prompt[:-1])
        movable = shift and self._context.can_move and all(token >= 0 for token in (*self._past, *prompt))
        least = least_stretch(self._context.n_ctx)
        moves = find_moves(self._past, prompt[:-1], start, least) if movable else []
        for move in moves:
            self._context.move(move.old, move.new, move.n_tokens)
        n_kept = moves[-1].new + moves[-1].n_tokens if moves else start
        kept = self._context.keep(before_image(prompt, n_kept))
        if (start := before_image(prompt, kept)) < kept:  # less was kept than was asked for
            kept = self._context.keep(start)
        self._past = list(prompt[:kept])
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
            self._n_step = next_step(len(step), now - before, self._context.n_step)
            if now - told >= _PROGRESS_INTERVAL:
                told = now
                emit(PrefillProgress(done, len(prompt), cached, now - started))
        return True

    def _read(self, tokens: Sequence[int], position: int, *, last: bool) -> bool:
        """Put tokens into memory; returns False when it was cancelled."""
        status = self._context.decode(tokens, position, want_logits=last)
        return self._took(tokens, position, status)

    def _read_image(self, token: int, position: int) -> int:
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
        closing: list[int] = []  # tokens that the model is made to write
        if answer.text.is_answering:  # and the prompt did not close the thought already
            sampler.passes = self._encoder.opening
        while True:
            if self._cancel.is_set():
                return "cancelled"
            sampler.is_constrained = not answer.text.is_thinking
            token = closing.pop(0) if closing else sampler.draw(self._context)
            if answer.is_json and sampler.is_constrained and not answer.tokens and token not in sampler.passes:
                answer.text.split_no_more()  # JSON that is written at once has no thoughts, whatever is in its texts
            sampler.passes = frozenset()
            if self._vocabulary.is_end(token) and not self._ends_thought(answer, token):
                if sampler.is_constrained or not sampler.has_grammar:
                    return "stop"
                closing = self._encoder.closing()  # an answer was asked for that is as the grammar wants
                continue
            begun = self._take(answer, token, emit)
            if begun and not sampler.is_constrained:  # the token that ends a thought went on with the answer
                sampler.take(begun)
            if answer.text.stopped:
                return "stop"
            if answer.max_tokens is not None and len(answer.tokens) >= answer.max_tokens:
                return "length"
            if len(self._past) >= answer.n_positions:
                return "context"
            if not self._read((token,), len(self._past), last=True):
                return "cancelled"

    def _ends_thought(self, answer: _Answer, token: int) -> bool:
        """Whether a token that ends a turn elsewhere is what ends a thought here, so that the answer is still to come.

        llama.cpp takes gpt-oss's <|end|> from the ends of its turns (llama-vocab.cpp), where it knows the vocabulary.
        """
        return not answer.text.is_answering and self._encoder.is_mark(token)

    def _take(self, answer: _Answer, token: int, emit: Emit) -> str:
        """Add a token to the answer and send on what is to be shown; returns what it is of the answer's own text."""
        answer.tokens.append(token)
        was_thinking = answer.text.is_thinking
        spans = answer.text.push(self._encoder.written(token))
        if not answer.text.is_answering and not answer.begun:
            answer.thought_tokens = len(answer.tokens)  # the first marks among them, which were not known for that
        elif was_thinking or not answer.text.is_answering:
            answer.thought_tokens += 1
        self._show(answer, spans, emit)
        now = time.perf_counter()
        if answer.pending and now - answer.last_emit >= _EMIT_INTERVAL:
            self._send_pending(answer, emit)
        return "".join(span.text for span in spans if not span.thought)

    def _show(self, answer: _Answer, spans: Sequence[Span], emit: Emit) -> None:
        """Put text into the next chunk; a chunk holds either thoughts or answer."""
        for span in spans:
            if answer.pending and span.thought != answer.pending_thought:
                self._send_pending(answer, emit)
            answer.pending.append(span.text)
            answer.pending_thought = span.thought
            answer.begun = answer.begun or not span.thought

    def _send_pending(self, answer: _Answer, emit: Emit) -> None:
        answer.last_emit = time.perf_counter()
        emit(Chunk("".join(answer.pending), thought=answer.pending_thought))
        answer.pending.clear()

    def _remember(self, prompt: Prompt, answer: _Answer) -> None:
        """Let the next turn take the answer's tokens over, if there is a text that stands for all of them."""
        written = b"".join(self._vocabulary.piece(t) or self._vocabulary.text(t).encode() for t in answer.tokens)
        if answer.text.stopped:
            return
        with contextlib.suppress(UnicodeDecodeError):  # it ends within a character
            self._encoder.remember(prompt, written.decode(), answer.tokens)


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
