"""The likeliest tokens, found without sorting: what is drawn from them is what is drawn from all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.sampling import Sampling
from llmrun.worker.foremost import foremost
from llmrun.worker.sampling import Sampler

N_VOCAB = 20_011  # no whole number of groups


class Rows:
    """What a sampler asks of a context, for one row of logits."""

    def __init__(self, logits: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        self._logits = logits

    def logits(self, _row: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The logits, whatever the row."""
        return self._logits


def a_row(seed: int, spread: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logits like a model's: many small ones, a few large."""
    drawn = np.random.default_rng(seed)
    return np.asarray(spread * drawn.standard_exponential(N_VOCAB) * drawn.choice((-1, 1), N_VOCAB), np.float32)


@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.sampled_from((0.0, 0.01, 1.0, 1e6)))
def test_the_likeliest_are_among_them(seed: int, n: int, spread: float) -> None:
    """No token that is left out is likelier than any of the n likeliest."""
    logits = a_row(seed, spread)
    found = foremost(logits, n)
    assert found is not None
    assert len(found) >= n
    left_out = np.delete(logits, found)
    assert not len(left_out) or left_out.max() <= np.sort(logits[found])[-n]
    assert list(found) == sorted(found)


def test_few_logits_are_not_searched() -> None:
    """Where nearly all would be candidates, and where most are no numbers, the caller looks at all."""
    assert foremost(a_row(0, 1.0)[:2048], 40) is None
    found = foremost(np.full(N_VOCAB, np.nan, np.float32), 40)
    assert found is not None
    assert not len(found)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0),
        Sampling(seed=3),
        Sampling(temperature=1.7, top_k=64, top_p=1, min_p=0, seed=5),
        Sampling(temperature=0.6, top_k=20, top_p=0.9, min_p=0.1, seed=7),
    ],
    ids=["greedy", "default", "hot", "cool"],
)
def test_the_same_tokens_are_drawn(sampling: Sampling) -> None:
    """As from llama.cpp's own candidates, which are all tokens, with the same seed."""
    some, every = Sampler(sampling, N_VOCAB, ()), Sampler(sampling, N_VOCAB, ())
    for seed in range(200):
        rows: Any = Rows(a_row(seed, 2.0))
        expected = every._apply_chain(every._candidates(rows, -1))
        assert some._draw_any(rows, -1) == expected
    some.close()
    every.close()
