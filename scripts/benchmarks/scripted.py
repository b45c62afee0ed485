"""A drafter that knows the answer, and spoils it by a coin: guesses that are right as often as one likes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from llmrun.worker.drafting import Draft


class ScriptedDrafter:
    """Guesses at an answer that is known, each token right with a chance; a wrong one is the token beside it.

    answer: all its tokens, which follow n_prompt others.
    """

    def __init__(self, answer: Sequence[int], n_prompt: int, chance: float, seed: int = 0) -> None:
        self._answer, self._n_prompt, self._chance = answer, n_prompt, chance
        self._coin = random.Random(seed)

    def draft(self, past: Sequence[int], token: int, n_most: int) -> Draft | None:
        """Guess as a Drafter does."""
        del token
        start = len(past) - self._n_prompt + 1
        known = self._answer[start : start + n_most]
        guess = tuple(token if self._coin.random() < self._chance else token ^ 1 for token in known)
        return Draft(guess) if guess else None
