"""The tokens that a row of logits finds likeliest, without sorting or copying the row. Pure.

llama.cpp's sampler makes a structure of every token of the vocabulary and sorts part of them: of 151,936 tokens that
takes longer than a tenth of a step of a small model.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_Logits = np.ndarray[Any, np.dtype[np.float32]]
_GROUP = 64  # logits of which only the largest is looked at first
_FEWEST_GROUPS = 4  # for each token that is wanted: with fewer, nearly all logits would be candidates


def foremost(logits: _Logits, n: int) -> np.ndarray[Any, np.dtype[np.int32]] | None:
    """Return, in rising order, the ids of tokens among which the n likeliest are; None where a search does not pay.

    The largest logits of n groups are n logits, so the n largest of all are not smaller than the least of those. Where
    a logit is no number there may be fewer than n.
    """
    n_groups = len(logits) // _GROUP
    if n_groups < n * _FEWEST_GROUPS:
        return None
    largest = logits[: n_groups * _GROUP].reshape(_GROUP, n_groups).max(axis=0)
    least = np.partition(largest, n_groups - n)[n_groups - n]
    return np.flatnonzero(logits >= least).astype(np.int32)
