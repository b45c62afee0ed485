"""Many tokens in one step: guessed, read all at once, and drawn one by one until a guess was wrong.

Each token is drawn from the model's own logits after the tokens before it, with the request's own sampler, and a guess
is only kept where it is what was drawn: so the answer has the distribution that it has without guesses, and the sampler
draws as often. Only the logits differ, by the rounding that another batch size makes as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmrun.worker.drafting import Draft, Drafter, NgramDrafter
from llmrun.worker.governor import Governor
from llmrun.worker.llama import Context
from llmrun.worker.slot import Slot
from llmrun.worker.writing import Writing


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of a step: how many guesses were right, and the token after them; None where the answer is over."""

    n_right: int
    token: int | None


class Speculation:
    """Guesses for the answer that is being written, in one context.

    make_drafter: makes who guesses, anew for each answer. governor: says how many; None is one that learns from here
    on.
    """

    def __init__(
        self,
        context: Context,
        make_drafter: Callable[[], Drafter] = NgramDrafter,
        governor: Governor | None = None,
    ) -> None:
        self._context = context
        self._make_drafter = make_drafter
        self._governor = Governor(context.n_draft_max) if governor is None else governor
        self._writing: Writing | None = None
        self._drafter = make_drafter()
        self._draft: Draft | None = None  # that the next step verifies
        self._watched: Draft | None = None  # that is only held against what is written
        self._n_seen = 0  # tokens of the one that is watched which were written

    def guess(self, writing: Writing, past: Sequence[int], token: int) -> tuple[int, ...]:
        """Return what to verify in the step that reads a token of an answer; () for a plain step.

        past: what is in memory before it.
        """
        if writing is not self._writing:
            self._writing, self._drafter, self._watched = writing, self._make_drafter(), None
        self._draft = None
        n_most = min(self._governor.n_most, writing.room(len(past) + 1) - 1)
        if n_most < 1 or not self._governor.may_search():
            return ()
        started = time.perf_counter()
        found = self._drafter.draft(past, token, n_most)
        if found is not None and (tokens := writing.before_end(found.tokens)):
            n = self._governor.choose(len(tokens), found.strength)
            if n:
                self._draft, self._watched = Draft(tokens[:n], found.strength), None
            elif self._watched is None:
                self._watched, self._n_seen = Draft(tokens, found.strength), 0
        self._governor.spent(time.perf_counter() - started)
        return () if self._draft is None else self._draft.tokens

    def verify(
        self,
        writing: Writing,
        slot: Slot,
        guess: Sequence[int],
        *,
        row: int,
        seconds: float | None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Verified:
        """Draw on after a step that read a token and a guess after it, and forget what of that was wrong.

        row: that of the token. seconds: what the step took, None where it was no step of an answer alone. Raises what
        Writing.next_token raises, and EngineError as Slot.drop does.
        """
        n_past, n_right, token = len(slot.past) - len(guess), 0, None
        while not is_cancelled():
            token = writing.next_token(self._context, row + n_right, n_past + n_right)
            if n_right == len(guess) or token != guess[n_right]:
                break
            n_right += 1
        else:
            token = None
        if seconds is not None:
            self._governor.took(len(guess), n_right, seconds)
        if guess:
            self._forget(writing, slot, len(guess), n_right, is_over=token is None)
        self._watch(*guess[:n_right], token)
        return Verified(n_right, token)

    def _forget(self, writing: Writing, slot: Slot, n_guessed: int, n_right: int, *, is_over: bool) -> None:
        writing.n_drafted += n_guessed
        writing.n_accepted += n_right
        if self._draft is not None:
            self._governor.saw(self._draft.strength, n_right, wrong=n_right < n_guessed and not is_over)
        if n_right < n_guessed:
            started = time.perf_counter()
            slot.drop(len(slot.past) - n_guessed + n_right)
            self._governor.spent(time.perf_counter() - started)

    def _watch(self, *tokens: int | None) -> None:
        """Hold what was written against the guess that was not verified."""
        for token in tokens:
            if self._watched is None or token is None:
                return
            if is_right := token == self._watched.tokens[self._n_seen]:
                self._n_seen += 1
            if not is_right or self._n_seen == len(self._watched.tokens):
                self._governor.saw(self._watched.strength, self._n_seen, wrong=not is_right)
                self._watched = None
