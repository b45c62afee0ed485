"""The log probabilities of a drawn token and of those that were likeliest in its place, before any sampling. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llmrun.engine.protocol import Drawn, TokenProb


def drawn_token(
    logits: np.ndarray[Any, np.dtype[np.float32]], token: int, n_top: int, piece: Callable[[int], bytes]
) -> Drawn:
    """Return a token's log probability and those of the n_top likeliest, the best first; of equals the lower id."""
    exact = logits.astype(np.float64)
    highest = exact.max()
    total = highest + np.log(np.exp(exact - highest).sum())

    def probability(of: int) -> TokenProb:
        return TokenProb(of, piece(of), float(exact[of] - total))

    return Drawn(probability(token), tuple(probability(int(of)) for of in _likeliest(exact, n_top)))


def _likeliest(logits: np.ndarray[Any, np.dtype[np.float64]], n: int) -> np.ndarray[Any, np.dtype[Any]]:
    n = min(n, len(logits))
    if n <= 0:
        return np.zeros(0, np.int64)
    lowest = np.partition(logits, len(logits) - n)[len(logits) - n]
    among = np.flatnonzero(logits >= lowest)
    return among[np.argsort(-logits[among], kind="stable")][:n]
