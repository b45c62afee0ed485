"""One sequence of a context: the tokens in its memory, and what of them can be kept for the next prompt."""

from __future__ import annotations

from collections.abc import Sequence

from llmrun.errors import EngineError, InsufficientMemoryError, LLMRunError
from llmrun.worker.llama import Context
from llmrun.worker.overlap import common_prefix, find_moves, least_stretch
from llmrun.worker.prompt import Prompt

# llama_decode's status (llama.h)
OK, NO_ROOM, CANCELLED, ALLOCATION_FAILED = 0, 1, 2, -2


class Slot:
    """A sequence's memory. past: the tokens in it, which are this object's to know.

    owner: whose they are, None is nobody's. used: when it was taken last, counted. remembered: the conversation whose
    tokens are taken over by one that goes on with it.
    """

    def __init__(self, context: Context, seq: int) -> None:
        self._context = context
        self.seq = seq
        self.past: list[int] = []
        self.owner: str | None = None
        self.used = 0
        self.remembered = Prompt("", ())

    def claim(self, owner: str | None) -> None:
        """Belong to an owner from here on; nothing is left of what was another's."""
        if self.owner != owner:
            self.forget()
            self.owner = owner
            self.remembered = Prompt("", ())

    def reuse(self, prompt: Sequence[int], *, shift: bool = False) -> int:
        """Keep the longest common prefix in memory; the last token is always read again, for its logits.

        shift: where something was dropped from the prompt, what came after it is kept too and moved up; not where there
        are images, of which only whole ones can be kept.
        """
        context, seq = self._context, self.seq
        if context.move_pending:  # the request that moved was cancelled before its keys were rotated
            self.forget()
        start = common_prefix(self.past, prompt[:-1])
        movable = shift and context.can_move and all(token >= 0 for token in (*self.past, *prompt))
        least = least_stretch(context.n_ctx)
        moves = find_moves(self.past, prompt[:-1], start, least) if movable else []
        for move in moves:
            context.move(move.old, move.new, move.n_tokens, seq)
        n_kept = moves[-1].new + moves[-1].n_tokens if moves else start
        kept = context.keep(before_image(prompt, n_kept), seq)
        if (start := before_image(prompt, kept)) < kept:  # less was kept than was asked for
            kept = context.keep(start, seq)
        self.past = list(prompt[:kept])
        return kept

    def cut(self, tokens: Sequence[int]) -> bool:
        """Hold only these first tokens; False, and all is as it was, where it has others or cannot be cut so."""
        n_tokens = len(tokens)
        if self.past[:n_tokens] != list(tokens) or not self._context.can_keep(n_tokens, self.seq):
            return False
        del self.past[self._context.keep(n_tokens, self.seq) :]
        return len(self.past) == n_tokens

    def take_from(self, other: Slot, n_tokens: int) -> None:
        """Hold the first n_tokens that another slot does, which must be able to give them, in the place of our own."""
        self._context.copy(other.seq, self.seq)
        self.past = other.past[: self._context.keep(n_tokens, self.seq)]

    def can_give(self, n_tokens: int) -> bool:
        """Tell whether a copy of this memory could be cut to its first n_tokens."""
        return self._context.can_keep(n_tokens, self.seq)

    def drop(self, n_tokens: int) -> None:
        """Forget all but the first n_tokens, of which at most the last step's are dropped; only where `can_drop`.

        Raises EngineError where the memory could not do that; nothing is left in it then.
        """
        if n_tokens >= len(self.past):
            return
        if not self._context.drop(n_tokens, self.seq):
            self.forget()
            raise EngineError("the model's memory could not forget a wrong guess", "try --speculate off")
        del self.past[n_tokens:]

    def resynchronize(self) -> None:
        """After a decode that did not finish, believe the memory about what it holds."""
        # half a step may be in a recurrent state, half a rotation in keys that were moved
        if self._context.model.is_recurrent or self._context.move_pending:
            self.forget()
            return
        kept = self._context.keep(min(len(self.past), self._context.n_past(self.seq)), self.seq)
        del self.past[kept:]

    def forget(self) -> None:
        """Empty the memory."""
        self._context.forget(self.seq)
        self.past.clear()


def failed_decode(status: int, n_tokens: int, position: int, context: Context) -> LLMRunError:
    """Return the error for a status of llama_decode that is none of OK and CANCELLED."""
    if status == ALLOCATION_FAILED:
        message = "there was no memory to compute the next tokens"
        return InsufficientMemoryError(message, "try a smaller --ctx", context.last_refusal())
    return EngineError(f"llama.cpp could not read {n_tokens} tokens at position {position} (status {status})")


def text_before_image(tokens: Sequence[int]) -> Sequence[int]:
    """Return the tokens before the first that stands for an image."""
    return tokens[: next((index for index, token in enumerate(tokens) if token < 0), len(tokens))]


def before_image(tokens: Sequence[int], end: int) -> int:
    """Return where an image begins that `end` is inside of, which is read only whole; else `end`."""
    while 0 < end < len(tokens) and tokens[end] < 0 and tokens[end - 1] == tokens[end]:
        end -= 1
    return end
