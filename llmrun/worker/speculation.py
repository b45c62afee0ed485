"""Many tokens in one step: guessed, read all at once, and drawn one by one until a guess was wrong.

Each token is drawn from the model's own logits after the tokens before it, with the request's own sampler, and a guess
is only kept where it is what was drawn: so the answer has the distribution that it has without guesses, and the sampler
draws as often. Only the logits differ, by the rounding that another batch size makes as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llmrun.worker.draft_model import FEW
from llmrun.worker.drafting import MODEL_STRENGTH, Draft, Drafter, Guesser, NgramDrafter, Reader
from llmrun.worker.governor import Governor
from llmrun.worker.llama import Context
from llmrun.worker.slot import Slot
from llmrun.worker.writing import Writing


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of a step: how many guesses were right, and the token after them; None where the answer is over."""

    n_right: int
    token: int | None


@dataclass(slots=True)
class _Watch:
    """A guess that is only held against what is written; n_seen tokens of it were."""

    draft: Draft
    n_seen: int = 0


class Speculation:
    """Guesses for the answer that is being written, in one context.

    make_drafter: makes who guesses for nothing, anew for each answer. governor: says how many; None is one that learns
    from here on. model: guesses too, where that promises more than its time and than what is guessed for nothing.
    """

    def __init__(
        self,
        context: Context,
        make_drafter: Callable[[], Drafter] = NgramDrafter,
        governor: Governor | None = None,
        model: Guesser | None = None,
    ) -> None:
        self._context = context
        self._make_drafter = make_drafter
        self._governor = Governor(context.n_draft_max) if governor is None else governor
        self._model = model
        self._writing: Writing | None = None
        self._drafter = make_drafter()
        self._asked: Reader | None = None
        self._draft: Draft | None = None  # that the next step verifies
        self._watched: dict[bool, _Watch] = {}  # by whether a model guessed

    def guess(self, writing: Writing, slot: Slot, token: int) -> tuple[int, ...]:
        """Return what to verify in the step that reads a token of an answer; () for a plain step.

        slot: whose memory has all that is before it.
        """
        if writing is not self._writing:
            self._begin(writing, slot)
        self._draft, past = None, slot.past
        n_most = min(self._governor.n_most, writing.room(len(past) + 1) - 1)
        if n_most < 1 or not self._governor.may_search():
            return ()
        started = time.perf_counter()
        self._draft = self._chosen(writing, self._drafter.draft(past, token, n_most))
        self._governor.spent(time.perf_counter() - started)
        if self._asked is not None:
            self._draft = self._ask(self._asked, writing, past, token, n_most) or self._draft
        return () if self._draft is None else self._draft.tokens

    def _begin(self, writing: Writing, slot: Slot) -> None:
        self._writing, self._drafter = writing, self._make_drafter()
        self._watched.clear()
        if self._model is not None:
            self._model.claim(slot.owner)
            self._asked = self._model.drafter(slot)

    def _chosen(self, writing: Writing, found: Draft | None) -> Draft | None:
        """Return what of a guess is worth a step; where that is nothing it is watched."""
        if found is None or not (tokens := writing.before_end(found.tokens)):
            return None
        is_asked, found = found.strength >= MODEL_STRENGTH, replace(found, tokens=tokens)
        n = self._governor.choose(len(tokens), found.strength)
        if n:
            self._watched.pop(is_asked, None)
            return replace(found, tokens=tokens[:n], ends=found.ends and n == len(tokens))
        self._watched.setdefault(is_asked, _Watch(found))
        return None

    def _ask(self, drafter: Reader, writing: Writing, past: Sequence[int], token: int, n_most: int) -> Draft | None:
        """Let the model guess, if that promises more than what was found without it."""
        governor, free = self._governor, self._draft
        beside = 1.0 if free is None else governor.gain(len(free.tokens), free.strength)
        n = governor.ask(n_most, beside, may_try=free is None and True not in self._watched)
        if n < 1:
            return None
        started = time.perf_counter()
        n_read = drafter.follow(past, governor.n_readable())
        if n_read:
            governor.read(n_read, time.perf_counter() - started)
        if drafter.n_missing(past) > FEW:
            return None
        started = time.perf_counter()
        found = drafter.draft(past, token, n)
        n_guesses = 1 if found is None else len(found.tokens) + found.ends
        governor.paid(n_guesses, time.perf_counter() - started)
        if found is not None and not found.tokens:
            governor.saw(found.strength, 0, wrong=False, ends=True)
        return self._chosen(writing, found)

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
            is_right = n_right == n_guessed
            wrong, ends = not is_right and not is_over, is_right and self._draft.ends
            self._governor.saw(self._draft.strength, n_right, wrong=wrong, ends=ends)
        if n_right < n_guessed:
            started = time.perf_counter()
            slot.drop(len(slot.past) - n_guessed + n_right)
            self._governor.spent(time.perf_counter() - started)

    def _watch(self, *tokens: int | None) -> None:
        """Hold what was written against the guesses that were not verified."""
        for is_asked, watch in list(self._watched.items()):
            draft = watch.draft
            for token in tokens:
                if token is None:
                    break
                if is_right := token == draft.tokens[watch.n_seen]:
                    watch.n_seen += 1
                if not is_right or watch.n_seen == len(draft.tokens):
                    ends = is_right and draft.ends
                    self._governor.saw(draft.strength, watch.n_seen, wrong=not is_right, ends=ends)
                    del self._watched[is_asked]
                    break
