"""The sampler chain: llama.cpp draws the tokens, in C."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from llama_cpp import llama_cpp as lib

from llmrun.sampling import Sampling
from llmrun.worker.llama import Context

# How far back the repeat penalty looks, tokens: llama.cpp's own default (common/common.h, penalty_last_n)
_PENALTY_WINDOW = 64


class Sampler:
    """Draws tokens by the given settings. `seed` is the one in use, drawn here where none was given."""

    def __init__(self, sampling: Sampling, n_vocab: int, prompt: Sequence[int]) -> None:
        self.seed = secrets.randbits(31) if sampling.seed is None else sampling.seed
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for link in _links(sampling, n_vocab, self.seed):
            lib.llama_sampler_chain_add(self._chain, link)
        if sampling.repeat_penalty != 1:
            for token in prompt[-_PENALTY_WINDOW:]:
                lib.llama_sampler_accept(self._chain, token)

    def draw(self, context: Context) -> int:
        """Draw a token from the logits of the last decoded batch."""
        return int(lib.llama_sampler_sample(self._chain, context.pointer, -1))

    def close(self) -> None:
        """Free the chain."""
        if self._chain:
            lib.llama_sampler_free(self._chain)
            self._chain = None


def _links(sampling: Sampling, n_vocab: int, seed: int) -> list[object]:
    """Make the links in llama.cpp's own order: penalties, top-k, top-p, min-p, temperature, draw."""
    links: list[object] = []
    if sampling.repeat_penalty != 1:
        links.append(lib.llama_sampler_init_penalties(n_vocab, _PENALTY_WINDOW, sampling.repeat_penalty, 0.0, 0.0))
    if sampling.temperature <= 0:
        return [*links, lib.llama_sampler_init_greedy()]
    if sampling.top_k > 0:
        links.append(lib.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1:
        links.append(lib.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        links.append(lib.llama_sampler_init_min_p(sampling.min_p, 1))
    links.append(lib.llama_sampler_init_temp(sampling.temperature))
    links.append(lib.llama_sampler_init_dist(seed))
    return links
