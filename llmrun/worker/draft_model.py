"""A smaller model that guesses for a larger one: what it has read of a conversation, and what it says comes next.

It need not have read all. Where that would take longer than it may - a document, and then a question - it reads the
first tokens and the last ones as if they stood together, as in "Efficient Streaming Language Models with Attention
Sinks" (Xiao et al., 2023), and more of it later. So images, which it does not see, and a context that is longer than
its own are no obstacle: what comes after them is what it reads. Whatever goes wrong here means fewer guesses and never
a failed answer.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib

from llmrun.errors import GGUFError, InsufficientMemoryError, LLMRunError
from llmrun.gguf.draft import MOST_APART
from llmrun.planning.drafts import draft_settings
from llmrun.settings import MAX_DRAFT, RunSettings
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.drafting import MODEL_STRENGTH, Draft
from llmrun.worker.llama import Context, Model, load_model
from llmrun.worker.overlap import common_prefix
from llmrun.worker.sampling import LAST
from llmrun.worker.slot import CANCELLED, OK, Slot
from llmrun.worker.vocabulary import Vocabulary

FEW = 8  # tokens that may be missing when it guesses: they are read with the one that is guessed after
LEAST_READ = 32  # tokens of a conversation with which it can begin
TOO_MANY = sys.maxsize
_FIRST_COMPARED = 5  # token: those before are control tokens, with other names (SPEC_VOCAB_CHECK_START_TOKEN_ID)
_N_SINK = 4  # first tokens that are kept whatever is left out: as many as the paper found to be enough
# The least probability of a token that is guessed: llama.cpp's p_min (common/common.h), which is 0 there and for the
# user to choose. Here the governor decides what pays, and this only ends what more likely than not is wrong.
LEAST_LIKELY = 0.4
# Kinds of guesses, by how sure it was of the first token: they are right about as often as it is sure
SURE = (0.6, 0.75, 0.85, 0.92, 0.97, 0.99)


def probability_of_likeliest(
    logits: np.ndarray[Any, np.dtype[np.float32]], room: np.ndarray[Any, np.dtype[np.float32]]
) -> tuple[int, float]:
    """Return the likeliest token and its probability; room: of as many numbers, which are overwritten."""
    token = int(logits.argmax())
    np.subtract(logits, logits[token], out=room)
    np.exp(room, out=room)
    return token, float(1 / room.sum())


class DraftModel:
    """The draft's context, whose first sequence is all of its memory, and what of a conversation is in that.

    n_vocab: tokens of the model that it guesses for. The memory holds the conversation's first `n_head` tokens and
    those from `start` on; all where both are 0.
    """

    def __init__(self, context: Context, n_vocab: int) -> None:
        self.context, self.slot = context, Slot(context, 0)
        self.n_known = context.model.vocabulary.n_tokens
        self.n_vocab = min(n_vocab, self.n_known)
        # beyond what it was trained on it guesses badly
        self.n_ctx = min(context.n_ctx, context.model.n_ctx_train or context.n_ctx)
        self.n_head = self.start = 0
        self._weights = np.empty(self.n_known, np.float32)

    def claim(self, owner: str | None) -> None:
        """Read for an owner from here on: nothing is left of what was another's, which the time it takes would tell."""
        if self.slot.owner != owner:
            self.n_head = self.start = 0
        self.slot.claim(owner)

    def likeliest(self) -> tuple[int, float]:
        """Return the likeliest next token, and its probability."""
        return probability_of_likeliest(self.context.logits(LAST), self._weights)

    def drafter(self, slot: Slot) -> ModelDrafter:
        """Return who guesses for an answer, whichever slot it is written in."""
        del slot
        return ModelDrafter(self)

    def close(self) -> None:
        """Free the context and the model."""
        self.context.close()
        self.context.model.close()


class ModelDrafter:
    """Guesses for one answer; a Drafter. What it read for the answers before is not read again."""

    def __init__(self, model: DraftModel) -> None:
        self._model, self._slot = model, model.slot
        self._n_sure = 0  # tokens in its memory that are this conversation's
        self._n_looked = self._readable_from = 0  # behind the last token that it does not know: an image
        self._is_off = False

    def draft(self, past: Sequence[int], token: int, n_most: int) -> Draft | None:
        """Guess as Drafter does, after reading what is missing; None where that could not be read.

        strength is how sure it was of the first token. Ends before a token that it is not sure of, and then has none at
        all where that was the first.
        """
        if self.n_missing(past) > FEW:
            self.follow(past, len(past) + _N_SINK)
        if self._is_off or not self._knows(token) or self.n_missing(past) > FEW:
            return None
        reading = [*self._missing(past), token]
        found: list[int] = []
        strength = MODEL_STRENGTH
        while self._read(reading, want_logits=True):
            likeliest, probability = self._model.likeliest()
            if not probability >= LEAST_LIKELY or likeliest >= self._model.n_vocab or self._is_end(likeliest):
                return Draft(tuple(found), strength, ends=True)
            if not found:
                strength += bisect_right(SURE, probability)
            found.append(likeliest)
            if len(found) >= n_most:
                break
            reading = [likeliest]
        return Draft(tuple(found), strength) if found else None

    def n_missing(self, past: Sequence[int]) -> int:
        """Return how many tokens it would have to read first, TOO_MANY where it has to begin anew.

        What it read and was wrong is forgotten.
        """
        self._look(past)
        kept = self._agreeing(past)
        if kept < len(self._slot.past):
            kept = self._model.context.keep(kept)
            del self._slot.past[kept:]
            self._n_sure = kept
        n_all = len(past) - self._model.start
        if not self._readable_from <= self._model.start <= len(past) or not self._fits(self._model.n_head + n_all):
            return TOO_MANY
        return self._model.n_head + n_all - kept

    def follow(self, past: Sequence[int], n_most: int) -> int:
        """Read what is missing, if that is more than FEW tokens and at most n_most; return how many were read.

        Where it would be more it begins anew with the last ones, if they are at least LEAST_READ; and where twice as
        many as it has can be read, with those.
        """
        if self._is_off:
            return 0
        missing, window = self.n_missing(past), self._window(past, n_most)
        there = len(past) - self._model.start
        if missing > n_most or window >= 2 * there:
            if window < min(LEAST_READ, len(past) - self._readable_from) or window < 1:
                return 0
            self._begin(past, window)
        elif missing <= FEW:
            return 0
        return self._catch_up(past)

    def _window(self, past: Sequence[int], n_most: int) -> int:
        """Return how many of the last tokens it can begin with, where it may read n_most."""
        n, n_all = self._model.n_ctx, len(past) - self._readable_from
        if n_all <= n_most and self._fits(n_all):
            return n_all
        return min(n_all, n_most - _N_SINK, n // 2)

    def _begin(self, past: Sequence[int], window: int) -> None:
        """Hold the first tokens and the last of the conversation: what of that is in memory stays."""
        model, start = self._model, len(past) - window
        n_head = next((index for index, token in enumerate(past[:_N_SINK]) if not self._knows(token)), _N_SINK)
        model.start, model.n_head = (0, 0) if start <= n_head else (start, n_head)
        self._n_sure = 0
        self.n_missing(past)

    def _catch_up(self, past: Sequence[int]) -> int:
        missing, n_step, n_read = self._missing(past), self._model.context.n_step, 0
        for start in range(0, len(missing), n_step):
            portion = missing[start : start + n_step]
            if not self._read(portion, want_logits=False):
                break
            n_read += len(portion)
        return n_read

    def _missing(self, past: Sequence[int]) -> list[int]:
        """Return the tokens of the conversation that come after those in memory, of those that it is to have."""
        n = len(self._slot.past)
        return [*past[n : self._model.n_head], *past[self._place(n) :]]

    def _read(self, tokens: Sequence[int], *, want_logits: bool) -> bool:
        """Put tokens into memory; where that fails for another reason than a cancel, nothing is tried any more."""
        context, slot = self._model.context, self._slot
        status = context.decode(tokens, len(slot.past), want_logits=want_logits)
        if status == OK:
            context.wait()  # so that its time is not the next step's
            slot.past.extend(tokens)
            return True
        slot.resynchronize()
        self._n_sure = min(self._n_sure, len(slot.past))
        self._is_off = status != CANCELLED
        return False

    def _look(self, past: Sequence[int]) -> None:
        """Find what it cannot read among the tokens that are new."""
        for index in range(self._n_looked, len(past)):
            if not self._knows(past[index]):
                self._readable_from = index + 1
        self._n_looked = len(past)

    def _agreeing(self, past: Sequence[int]) -> int:
        """Return how many first tokens of its memory are the conversation's."""
        memory, sure = self._slot.past, self._n_sure
        if sure < max(1, self._model.n_head):
            sure = common_prefix(memory, [*past[: self._model.n_head], *past[self._model.start :]])
        else:
            sure += common_prefix(memory[sure:], past[self._place(sure) :])
        self._n_sure = sure
        return sure

    def _place(self, index: int) -> int:
        """Return where in the conversation a token of its memory stands, that is behind the head."""
        return self._model.start + max(0, index - self._model.n_head)

    def _fits(self, n_tokens: int) -> bool:
        """Whether so many tokens leave room for guesses."""
        return n_tokens + 1 + MAX_DRAFT <= self._model.n_ctx

    def _knows(self, token: int) -> bool:
        return 0 <= token < self._model.n_known

    def _is_end(self, token: int) -> bool:
        return self._model.context.model.vocabulary.is_end(token)


def load_draft(
    path: Path, settings: RunSettings, base: Model, cancel: CancelFlag, on_progress: Callable[[float], bool]
) -> DraftModel:
    """Load the draft of a model that is loaded with these settings.

    Raises GGUFError for one that cannot guess for it, and what load_model and Context do, each naming the draft.
    """
    own = draft_settings(settings)
    model: Model | None = None
    try:
        model = load_model(path, own, on_progress)
        _check(base, model)
        return DraftModel(Context(model, own, cancel), base.vocabulary.n_tokens)
    except LLMRunError as error:
        if model is not None:
            model.close()
        raise _naming(error, path) from error


def _naming(error: LLMRunError, path: Path) -> LLMRunError:
    """Return the error of a draft, so that nobody takes it for the model's."""
    message, hint = f"the draft {path.name} cannot be used: {error.message}", "leave --draft away, or take another"
    if isinstance(error, InsufficientMemoryError):
        return InsufficientMemoryError(message, hint, error.refusal)
    return type(error)(message, hint)


def _check(base: Model, draft: Model) -> None:
    """Raise GGUFError where tokens differ, as common_speculative_are_compatible finds it (common/speculative.cpp)."""
    if not draft.can_drop:
        raise GGUFError("its memory cannot forget a wrong guess alone")
    wanted, found = base.vocabulary, draft.vocabulary
    if lib.llama_vocab_type(wanted.pointer) != lib.llama_vocab_type(found.pointer):
        raise GGUFError("its tokenizer is of another type than the model's")
    if _ends(wanted) != _ends(found):
        raise GGUFError("it puts other tokens at the ends of a text than the model does")
    if abs(wanted.n_tokens - found.n_tokens) > MOST_APART:
        raise GGUFError(f"it knows {found.n_tokens:,} tokens, and the model {wanted.n_tokens:,}")
    text = lib.llama_vocab_get_text
    for token in range(_FIRST_COMPARED, min(wanted.n_tokens, found.n_tokens)):
        if text(wanted.pointer, token) != text(found.pointer, token):
            raise GGUFError(f"token {token:,} is {found.text(token)!r} to it, and {wanted.text(token)!r} to the model")


def _ends(vocabulary: Vocabulary) -> tuple[int | None, int | None]:
    """Return the tokens that are put before and after each text."""
    return (vocabulary.bos if vocabulary.adds_bos else None), (vocabulary.eos if vocabulary.adds_eos else None)
