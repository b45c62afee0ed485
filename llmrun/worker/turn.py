"""What one request reads in one step of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmrun.worker.batch import Part
from llmrun.worker.job import Begun, Job
from llmrun.worker.slot import text_before_image


@dataclass(frozen=True, slots=True)
class Turn:
    """The tokens that a request reads in a step, the first at `start`, and whether the next one is drawn after them.

    guess: what may follow them, read in the same step.
    """

    job: Job
    begun: Begun
    start: int
    tokens: Sequence[int]
    guess: tuple[int, ...] = ()

    @property
    def draws(self) -> bool:
        """Whether the last of them gives the logits that the next one is drawn from."""
        return self.start + len(self.tokens) == len(self.begun.tokens)

    @property
    def part(self) -> Part:
        """They as rows of a batch."""
        tokens = (*self.tokens, *self.guess) if self.guess else self.tokens
        return Part(self.begun.slot.seq, tokens, self.start, self.draws, every_row=bool(self.guess))

    @property
    def is_due(self) -> bool:
        """Whether the memory is still as it was when this was planned."""
        return len(self.begun.slot.past) == self.start


def wanted_tokens(begun: Begun, n_most: int) -> int:
    """Return how many tokens a request could read in a step of at most n_most, before its next image."""
    n_past = len(begun.slot.past)
    return len(text_before_image(begun.tokens[n_past : n_past + n_most]))
