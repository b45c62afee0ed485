"""The sampler chain: llama.cpp draws the tokens, in C; with a grammar, from those that it allows."""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Iterator, Sequence
from itertools import starmap
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib

from llmrun.errors import UsageError
from llmrun.sampling import NO_PENALTIES, Penalties, Sampling
from llmrun.worker.foremost import foremost
from llmrun.worker.grammar import CANDIDATE, AnswerGrammar, no_continuation, token_array
from llmrun.worker.llama import Context

# How far back the repeat penalty looks, tokens: llama.cpp's own default (common/common.h, penalty_last_n)
_PENALTY_WINDOW = 64
LAST = -1  # the last row of a batch that has logits
# How far back the penalties look that know only the answer, tokens: no answer is longer, and the memory is 4 bytes each
_WHOLE_ANSWER = 1 << 17


class Sampler:
    """Draws tokens by the given settings. `seed` is the one in use, drawn here where none was given.

    is_constrained: whether the grammar holds now. Who lets the model think first sets it to False, and to True where
    the answer begins; tokens drawn meanwhile are none of the grammar's. passes: tokens that it lets by, such as
    the one that begins a thought. The grammar is this sampler's to close.
    """

    def __init__(
        self,
        sampling: Sampling,
        n_vocab: int,
        prompt: Sequence[int],
        grammar: AnswerGrammar | None = None,
        penalties: Penalties = NO_PENALTIES,
    ) -> None:
        unknown = [token for token, _ in penalties.logit_bias if token >= n_vocab]
        if unknown:
            if grammar is not None:
                grammar.close()
            raise UsageError(f"logit_bias names token {unknown[0]}, and this model has only {n_vocab:,}")
        self.seed = secrets.randbits(31) if sampling.seed is None else sampling.seed
        self.is_constrained = True
        self.passes: frozenset[int] = frozenset()
        self._n_vocab = n_vocab
        self._grammar = grammar
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        changes = [*_penalties(sampling, penalties, n_vocab, prompt)]
        for link in (*changes, *_links(sampling, self.seed)):
            lib.llama_sampler_chain_add(self._chain, link)
        # How many of the likeliest tokens decide: 0 where all may, because the chain changes logits or cuts none off.
        self._n_foremost = 0 if changes else 1 if sampling.temperature <= 0 else sampling.top_k

    def draw(self, context: Context, row: int = LAST) -> int:
        """Draw a token from the logits of a row of the last decoded batch.

        Raises EngineError where the grammar allows none of this model's tokens, UsageError where it grows too large.
        """
        if self._grammar is None or not self.is_constrained:
            return self._draw_any(context, row)
        token = self._draw_allowed(context, row, self._grammar)
        lib.llama_sampler_accept(self._chain, token)
        if token not in self.passes:
            self._grammar.accept(token)
        return token

    @property
    def has_grammar(self) -> bool:
        """Whether there is a grammar, even if it does not hold now."""
        return self._grammar is not None

    def take(self, text: str) -> None:
        """Count a text as the answer's first that came with a thought's last token; raises EngineError if it cannot be.

        There is nothing to do without a grammar.
        """
        if self._grammar is not None:
            self._grammar.take(text)

    def _draw_any(self, context: Context, row: int) -> int:
        foremost = self._foremost(context, row)
        if foremost is None:
            return int(lib.llama_sampler_sample(self._chain, context.pointer, row))
        token = self._apply_chain(foremost)
        lib.llama_sampler_accept(self._chain, token)
        return token

    def _foremost(self, context: Context, row: int) -> np.ndarray[Any, np.dtype[Any]] | None:
        """Return those candidates that the chain can choose from, None where that would be all or none is known."""
        logits = context.logits(row)
        ids = foremost(logits, self._n_foremost) if self._n_foremost else None
        if ids is None or len(ids) < self._n_foremost:
            return None
        candidates = np.zeros(len(ids), CANDIDATE)
        candidates["id"], candidates["logit"] = ids, logits[ids]
        return candidates

    def _draw_allowed(self, context: Context, row: int, grammar: AnswerGrammar) -> int:
        """Draw as if there were no grammar, and only where it refuses that token draw from all it allows.

        As llama.cpp does (common_sampler_sample of common/sampling.cpp): most tokens fit, and to ask the grammar about
        a whole vocabulary takes longer than to draw.
        """
        likely = self._foremost(context, row)
        token = self._apply_chain(self._candidates(context, row) if likely is None else likely)
        if token in self.passes or grammar.allows(token):
            return token
        allowed = grammar.filter(self._candidates(context, row))
        while len(allowed):
            token = self._apply_chain(allowed.copy())  # the chain sorts, cuts and scales what it is given
            if grammar.allows(token):
                return token
            allowed = allowed[allowed["id"] != token]
        raise no_continuation()

    def _candidates(self, context: Context, row: int) -> np.ndarray[Any, np.dtype[Any]]:
        candidates = np.zeros(self._n_vocab, CANDIDATE)
        candidates["id"] = np.arange(self._n_vocab, dtype=np.int32)
        candidates["logit"] = context.logits(row)
        return candidates

    def _apply_chain(self, candidates: np.ndarray[Any, np.dtype[Any]]) -> int:
        array = token_array(candidates)
        lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def close(self) -> None:
        """Free the chain and the grammar."""
        if self._grammar is not None:
            self._grammar.close()
        if self._chain:
            lib.llama_sampler_free(self._chain)
            self._chain = None


def _penalties(
    sampling: Sampling, penalties: Penalties, n_vocab: int, prompt: Sequence[int]
) -> Iterator[lib.llama_sampler_p]:
    """Make the links that change logits, in llama.cpp's own order; of the prompt only the repeat penalty knows."""
    if penalties.logit_bias:
        biases = (lib.llama_logit_bias * len(penalties.logit_bias))(
            *starmap(lib.llama_logit_bias, penalties.logit_bias)
        )
        yield lib.llama_sampler_init_logit_bias(n_vocab, len(biases), biases)
    if sampling.repeat_penalty != 1:
        link = lib.llama_sampler_init_penalties(n_vocab, _PENALTY_WINDOW, sampling.repeat_penalty, 0.0, 0.0)
        for token in prompt[-_PENALTY_WINDOW:]:
            lib.llama_sampler_accept(link, token)
        yield link
    if penalties.frequency or penalties.presence:
        yield lib.llama_sampler_init_penalties(n_vocab, _WHOLE_ANSWER, 1.0, penalties.frequency, penalties.presence)


def _links(sampling: Sampling, seed: int) -> Iterator[lib.llama_sampler_p]:
    """Make the links that draw, in llama.cpp's own order: top-k, top-p, min-p, temperature, draw."""
    if sampling.temperature <= 0:
        yield lib.llama_sampler_init_greedy()
        return
    if sampling.top_k > 0:
        yield lib.llama_sampler_init_top_k(sampling.top_k)
    if sampling.top_p < 1:
        yield lib.llama_sampler_init_top_p(sampling.top_p, 1)
    if sampling.min_p > 0:
        yield lib.llama_sampler_init_min_p(sampling.min_p, 1)
    yield lib.llama_sampler_init_temp(sampling.temperature)
    yield lib.llama_sampler_init_dist(seed)
