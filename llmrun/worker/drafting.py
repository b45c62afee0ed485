"""Guesses at what comes next, for the model to verify many tokens in one step. Pure.

Whoever guesses is a Drafter: what was said before, as here, or a smaller model. A wrong guess costs time and nothing
else, since every token of the answer is drawn from the model's own logits (worker.speculation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from llmrun.worker.slot import Slot

# Tokens that must be alike before a guess is worth making, and beyond which being more alike tells nothing new.
LEAST_MATCH = 2
MOST_MATCH = 16
# Strengths from here on are those of a model's guesses, which cost time, whether or not they are verified.
MODEL_STRENGTH = 32


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may come next. strength: which kind of guess it is; the same kind is right about as often.

    ends: whether there was nothing to guess after them, though more were asked for.
    """

    tokens: tuple[int, ...]
    strength: int = 0
    ends: bool = False


class Drafter(Protocol):
    """Guesses for one answer."""

    def draft(self, past: Sequence[int], token: int, n_most: int) -> Draft | None:
        """Guess at most n_most tokens that follow a token; None for no guess.

        past: all of the sequence before it, which only grows from call to call. Negative tokens stand for images.
        """


class Reader(Drafter, Protocol):
    """One that has to read what it guesses after, which takes time."""

    def n_missing(self, past: Sequence[int]) -> int:
        """Return how many tokens it would have to read first."""

    def follow(self, past: Sequence[int], n_most: int) -> int:
        """Read what is missing, at most n_most tokens of it; return how many were read."""


class Guesser(Protocol):
    """What is loaded to guess: a smaller model, or layers of the model itself."""

    def claim(self, owner: str | None) -> None:
        """Read for an owner from here on, with nothing left of what was another's."""

    def drafter(self, slot: Slot) -> Reader:
        """Return who guesses for an answer that is written in a slot."""

    def close(self) -> None:
        """Free what is loaded."""


class NgramDrafter:
    """What followed the last tokens when they came before: "prompt lookup", as in llama.cpp's examples/lookup.

    Of all earlier places the one that is like the present for longest, and of these the latest. Looked for anew each
    time, in the numbers as they lie: 21 microseconds among 4,000 tokens and 73 among 128,000, and 8 bytes a token; an
    index of all n-grams would take many times that.
    """

    def __init__(self) -> None:
        self._known = np.zeros(1024, np.int64)
        self._n = 0

    def draft(self, past: Sequence[int], token: int, n_most: int) -> Draft | None:
        """Guess as Drafter does; strength is how many tokens were alike, LEAST_MATCH to MOST_MATCH."""
        known = self._take(past, token)
        if len(known) <= LEAST_MATCH or n_most < 1:
            return None
        ends = np.flatnonzero(known[:-1] == known[-1])
        n_alike = min(1, len(ends))
        while n_alike and n_alike < MOST_MATCH:
            longer = ends[ends >= n_alike]
            longer = longer[known[longer - n_alike] == known[-1 - n_alike]]
            if not len(longer):
                break
            ends, n_alike = longer, n_alike + 1
        if n_alike < LEAST_MATCH:
            return None
        follows = _repeated(known[ends[-1] + 1 :], n_most)
        return Draft(follows, n_alike) if follows else None

    def _take(self, past: Sequence[int], token: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return all tokens; only those are copied that are new."""
        n = len(past)
        if n >= len(self._known):
            grown = np.zeros(2 * n, np.int64)
            grown[: self._n] = self._known[: self._n]
            self._known = grown
        self._known[self._n : n] = past[self._n :]
        self._known[n] = token
        self._n = n
        return self._known[: n + 1]


def _repeated(follows: np.ndarray[Any, np.dtype[np.int64]], n_most: int) -> tuple[int, ...]:
    """Return the first n_most tokens, up to an image; where there are fewer, what repeats itself goes on so."""
    found = follows[:n_most] if len(follows) >= n_most else np.resize(follows, n_most)
    images = np.flatnonzero(found < 0)
    return tuple(found[: images[0]].tolist()) if len(images) else tuple(found.tolist())
