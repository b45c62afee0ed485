"""An answer while it is written: tokens are drawn one by one, text goes out in chunks, and at some point it ends."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from llmrun.engine.protocol import Chunk, Drawn, FinishReason, Generate, Grammar, Usage
from llmrun.worker.grammar import AnswerGrammar
from llmrun.worker.llama import Context
from llmrun.worker.logprobs import drawn_token
from llmrun.worker.prompt import Prompt, PromptEncoder
from llmrun.worker.reasoning import Span
from llmrun.worker.sampling import Sampler
from llmrun.worker.streaming import StreamingText
from llmrun.worker.vocabulary import Vocabulary

# Text goes out at most this often, seconds: a small model writes thousands of tokens a second, and a message each
# would cost more than the token. A slower model sends every token at once.
_EMIT_INTERVAL = 0.01


class Writing:
    """One answer. `close` frees what it draws with, whether or not it was finished.

    tokens: those of the answer so far. n_drafted, n_accepted: guesses at its tokens, and those of them that were
    right. reason: why it ended, None while it goes on.
    """

    def __init__(
        self, request: Generate, prompt: Prompt, encoder: PromptEncoder, n_ctx: int, emit: Callable[[Chunk], None]
    ) -> None:
        """n_ctx: tokens that the sequence can hold. Raises UsageError for a grammar that cannot be had."""
        self._request, self._prompt, self._encoder, self._emit = request, prompt, encoder, emit
        self._vocabulary: Vocabulary = encoder.vocabulary
        is_raw = request.raw is not None  # then all of it is answer
        wanted = request.grammar if is_raw else encoder.grammar(request)
        grammar = None if wanted is None else AnswerGrammar(wanted, self._vocabulary)
        text_tokens = [token for token in prompt.tokens if token >= 0]
        self._sampler = Sampler(request.sampling, self._vocabulary.n_tokens, text_tokens, grammar, request.penalties)
        finder = None if is_raw else encoder.finder(request.tools, request.tool_choice)
        self._text = StreamingText(request.stop, None if is_raw else encoder.splitter(prompt), finder)
        with_tools = functools.partial(encoder.written, with_tools=finder is not None)
        self._written = self._vocabulary.piece if is_raw else with_tools
        self._is_json = _is_json(request.grammar)
        self._n_positions = n_ctx - prompt.extra_cells
        self._closing: list[int] = []  # tokens that the model is made to write
        self._thought_tokens = 0
        self._begun = False
        self._pending: list[str] = []
        self._pending_thought = False
        self._drawn: list[Drawn] = []  # of the answer, and those of the thoughts, not sent yet
        self._drawn_in_thought: list[Drawn] = []
        self._last_emit = 0.0
        self.tokens: list[int] = []
        self.n_drafted = self.n_accepted = 0
        self.reason: FinishReason | None = None
        if not is_raw and self._text.is_answering:  # and the prompt did not close the thought already
            self._sampler.passes = encoder.opening

    def next_token(self, context: Context, row: int, n_past: int) -> int | None:
        """Draw the next token from the logits of a row of the last batch, and send on what is to be shown.

        n_past: tokens of the sequence in memory. Returns the token, which is to be read next; None where the answer is
        at its end, and `reason` says why. Raises what Sampler.draw raises.
        """
        token = self._draw(context, row)
        if token is None:
            self.reason = "stop"
            return None
        if self._request.logprobs is not None:
            logits, piece = context.logits(row), self._vocabulary.piece
            self._drawn.append(drawn_token(logits, token, self._request.logprobs, piece))
        begun = self._take(token)
        if begun and not self._sampler.is_constrained:  # the token that ends a thought went on with the answer
            self._sampler.take(begun)
        if self._text.stopped:
            self.reason = "stop"
        elif self._request.max_tokens is not None and len(self.tokens) >= self._request.max_tokens:
            self.reason = "length"
        elif n_past >= self._n_positions:
            self.reason = "context"
        return token if self.reason is None else None

    def room(self, n_past: int) -> int:
        """Return how many tokens can still be drawn, at most, where n_past are in memory."""
        left = self._n_positions - n_past + 1
        wanted = self._request.max_tokens
        return left if wanted is None else min(left, wanted - len(self.tokens))

    def before_end(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens before the first with which the model would end its turn."""
        return tuple(itertools.takewhile(lambda token: not self._vocabulary.is_end(token), tokens))

    def finish(self, cached: int, n_read: int, prompt_seconds: float, completion_seconds: float) -> None:
        """Send the last chunk; where nothing ended the answer, it was cancelled."""
        usage = Usage(
            prompt_tokens=len(self._prompt.tokens),
            cached_tokens=cached,
            read_tokens=n_read,
            completion_tokens=len(self.tokens),
            prompt_seconds=prompt_seconds,
            completion_seconds=completion_seconds,
            seed=self._sampler.seed,
            thought_tokens=self._thought_tokens,
            drafted_tokens=self.n_drafted,
            accepted_tokens=self.n_accepted,
        )
        self._show(self._text.finish())
        text, reason, stopped_by = "".join(self._pending), self.reason or "cancelled", self._text.stopped_by
        self._send(Chunk(text, reason, usage, self._pending_thought, stopped_by=stopped_by))

    def known(self) -> Prompt | None:
        """Return the conversation with the answer, for the next turn to take its tokens over.

        None where no text stands for all of them: it was cut by a stop string, or ends within a character.
        """
        if self._text.stopped or self._request.raw is not None:
            return None
        vocabulary = self._vocabulary
        written = b"".join(vocabulary.piece(token) or vocabulary.text(token).encode() for token in self.tokens)
        try:
            return self._prompt.with_answer(written.decode(), self.tokens)
        except UnicodeDecodeError:
            return None

    def close(self) -> None:
        """Free the sampler and the grammar."""
        self._sampler.close()

    def _draw(self, context: Context, row: int) -> int | None:
        """Draw the answer's next token, None where the model ends its turn."""
        sampler = self._sampler
        while True:
            sampler.is_constrained = not self._text.is_thinking
            token = self._closing.pop(0) if self._closing else sampler.draw(context, row)
            if self._is_json and sampler.is_constrained and not self.tokens and token not in sampler.passes:
                self._text.split_no_more()  # JSON that is written at once has no thoughts, whatever is in its texts
            sampler.passes = frozenset()
            if not self._vocabulary.is_end(token) or self._ends_thought(token):
                return token
            if sampler.is_constrained or not sampler.has_grammar:
                return None
            self._closing = self._encoder.closing()  # an answer was asked for that is as the grammar wants

    def _ends_thought(self, token: int) -> bool:
        """Whether a token that ends a turn elsewhere is what ends a thought here, so that the answer is still to come.

        llama.cpp takes gpt-oss's <|end|> from the ends of its turns (llama-vocab.cpp), where it knows the vocabulary.
        """
        return not self._text.is_answering and self._encoder.is_mark(token)

    def _take(self, token: int) -> str:
        """Add a token to the answer and send on what is to be shown; returns what it is of the answer's own text."""
        self.tokens.append(token)
        was_thinking = self._text.is_thinking
        spans = self._text.push(self._written(token))
        if not self._text.is_answering and not self._begun:
            self._thought_tokens = len(self.tokens)  # the first marks among them, which were not known for that
            self._drawn_in_thought += self._drawn
            self._drawn.clear()
        elif was_thinking or not self._text.is_answering:
            self._thought_tokens += 1
            self._drawn_in_thought += self._drawn[-1:]
            del self._drawn[-1:]
        self._show(spans)
        now = time.perf_counter()
        if self._pending and now - self._last_emit >= _EMIT_INTERVAL:
            self._send_pending()
        return "".join(span.text for span in spans if not span.thought)

    def _show(self, spans: Sequence[Span]) -> None:
        """Put text into the next chunk; a chunk holds either thoughts or answer, or a call."""
        for span in spans:
            if self._pending and (span.thought != self._pending_thought or span.call):
                self._send_pending()
            if span.call:
                self._send(Chunk("", calls=(span.call,)))
                self._begun = True
                continue
            self._pending.append(span.text)
            self._pending_thought = span.thought
            self._begun = self._begun or not span.thought

    def _send_pending(self) -> None:
        self._last_emit = time.perf_counter()
        self._send(Chunk("".join(self._pending), thought=self._pending_thought))
        self._pending.clear()

    def _send(self, chunk: Chunk) -> None:
        """Send a chunk with the tokens that were drawn since the last one of its kind, thoughts or answer."""
        drawn = self._drawn_in_thought if chunk.thought else self._drawn
        self._emit(replace(chunk, drawn=tuple(drawn)))
        drawn.clear()


def _is_json(grammar: Grammar | None) -> bool:
    return grammar is not None and (grammar.is_json or grammar.kind == "json_schema")
