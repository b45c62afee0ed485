"""A model's own layers for multi-token prediction (MTP): what they have read of a conversation, and what they guess.

Such a layer makes of a token and of the hidden state that the model ended the token before with what comes after it
(DeepSeek-V3, arXiv 2412.19437, 2.2), in a context of its own; here the first of them guesses, and goes on with its own
hidden states, as in llama.cpp's common/speculative.cpp. It attends to what it was given: where hidden states are no
longer there, it begins with those that are. Whatever goes wrong here means fewer guesses and never a failed answer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from llama_cpp import llama_cpp as lib

from llmrun.errors import LLMRunError
from llmrun.planning.drafts import draft_settings
from llmrun.settings import MAX_DRAFT, RunSettings
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.draft_model import FEW, LEAST_LIKELY, LEAST_READ, SURE, TOO_MANY, probability_of_likeliest
from llmrun.worker.drafting import MODEL_STRENGTH, Draft
from llmrun.worker.hidden import HiddenRows, KeptRows, Rows, extension
from llmrun.worker.llama import Context, Model
from llmrun.worker.overlap import common_prefix
from llmrun.worker.sampling import LAST
from llmrun.worker.slot import CANCELLED, OK, Slot


class LayersContext(Context):
    """The context of a model's MTP layers: each token is read with a hidden state."""

    is_mtp = True

    def __init__(self, model: Model, settings: RunSettings, cancel: CancelFlag) -> None:
        """Raises as Context does, and EngineError as `extension` does."""
        given = extension()
        super().__init__(model, settings, cancel)
        self._get = given.llama_get_embeddings_nextn_ith
        # of all rows: these graphs give them all, of which llama.cpp would take the first where it is to leave some out
        given.llama_set_embeddings_nextn(self.pointer, True, False)
        self._n_read = 0

    def read(self, tokens: Sequence[int], position: int, hidden: Rows, *, want_logits: bool) -> int:
        """Read tokens, each with the hidden state of the token before it; returns the status as `decode` does."""
        self._n_read = len(tokens)
        self._batch.hidden[: self._n_read] = hidden
        return self.decode(tokens, position, want_logits=want_logits)

    def last_hidden(self) -> Rows:
        """Return the hidden state that the layers ended the last token with."""
        return np.ctypeslib.as_array(self._get(self.pointer, self._n_read - 1), (1, self.n_embd)).copy()


class MtpLayers:
    """The layers' context, what of which conversation is in it, and the model's hidden states. Who makes drafters.

    start: the position of the first token in memory.
    """

    def __init__(self, context: LayersContext, hidden: HiddenRows) -> None:
        self.context, self.hidden = context, hidden
        self.memory: list[int] = []
        self.start = 0
        self._owner: str | None = None
        self._weights = np.empty(context.model.vocabulary.n_tokens, np.float32)

    def claim(self, owner: str | None) -> None:
        """Read for an owner from here on: nothing is left of what was another's, which the time it takes would tell."""
        if self._owner != owner:
            self.begin(0)
        self._owner = owner

    def drafter(self, slot: Slot) -> MtpDrafter:
        """Return who guesses for an answer that is written in a slot."""
        return MtpDrafter(self, self.hidden.of[slot.seq])

    def begin(self, start: int) -> None:
        """Forget everything, and go on at a position."""
        self.context.clear()
        self.memory, self.start = [], start

    def keep(self, n_tokens: int) -> None:
        """Forget all but the first tokens in memory."""
        if n_tokens < len(self.memory):
            kept = self.context.keep(self.start + n_tokens)
            del self.memory[max(0, kept - self.start) :]

    def likeliest(self) -> tuple[int, float]:
        """Return the likeliest next token, and its probability."""
        return probability_of_likeliest(self.context.logits(LAST), self._weights)

    def close(self) -> None:
        """Free the context; the model is not its own."""
        self.context.close()


class MtpDrafter:
    """Guesses for one answer; a Drafter. kept: the hidden states of its sequence."""

    def __init__(self, layers: MtpLayers, kept: KeptRows) -> None:
        self._layers, self._kept = layers, kept
        self._n_sure = 0  # tokens in memory that are this conversation's
        self._is_off = False

    def draft(self, past: Sequence[int], token: int, n_most: int) -> Draft | None:
        """Guess as Drafter does, after reading what is missing; None where that is much.

        strength and where it ends are as of ModelDrafter.
        """
        if self._is_off or self.n_missing(past) > FEW:
            return None
        layers, n = self._layers, len(past)
        first = layers.start + len(layers.memory)
        hidden, reading = self._hidden(first, n + 1), [*past[first:], token]
        found: list[int] = []
        strength, ends = MODEL_STRENGTH, False
        while self._read(reading, hidden, want_logits=True):
            likeliest, probability = layers.likeliest()
            if not probability >= LEAST_LIKELY or layers.context.model.vocabulary.is_end(likeliest):
                ends = True
                break
            if not found:
                strength += bisect_right(SURE, probability)
            found.append(likeliest)
            if len(found) >= n_most:
                break
            reading, hidden = [likeliest], layers.context.last_hidden()
        layers.keep(n + 1 - layers.start)  # what was read after that was read with guessed states
        return Draft(tuple(found), strength, ends=ends) if found or ends else None

    def n_missing(self, past: Sequence[int]) -> int:
        """Return how many tokens would have to be read first, TOO_MANY where it has to begin anew.

        What it read and was wrong is forgotten.
        """
        layers = self._layers
        sure = self._n_sure
        sure += common_prefix(layers.memory[sure:], past[layers.start + sure :])
        layers.keep(sure)
        self._n_sure = len(layers.memory)
        end = layers.start + self._n_sure
        is_full = len(past) + 1 + MAX_DRAFT - layers.start > layers.context.n_ctx
        if not self._n_sure or is_full or self._kept.begin(past) >= end:
            return TOO_MANY
        return len(past) - end

    def follow(self, past: Sequence[int], n_most: int) -> int:
        """Read what is missing, if that is more than FEW tokens and at most n_most; return how many were read.

        Where it would be more it begins anew with the last ones whose hidden states are there, if they are at least
        LEAST_READ or all there are; and where twice as many as it has can be read, with those.
        """
        if self._is_off:
            return 0
        missing, n, first = self.n_missing(past), len(past), self._kept.begin(past)
        start = max(n - n_most, first + (first > 0))
        if missing > n_most or n - start >= 2 * (n - self._layers.start):
            if n - start < min(LEAST_READ, n):
                return 0
            self._layers.begin(start)
            self._n_sure = 0
        elif missing <= FEW:
            return 0
        return self._catch_up(past)

    def _catch_up(self, past: Sequence[int]) -> int:
        layers, n_read = self._layers, 0
        first = layers.start + len(layers.memory)
        for start in range(first, len(past), layers.context.n_step):
            portion = past[start : start + layers.context.n_step]
            if not self._read(portion, self._hidden(start, start + len(portion)), want_logits=False):
                break
            n_read += len(portion)
        return n_read

    def _hidden(self, start: int, end: int) -> Rows:
        """Return the hidden states before the tokens from start to end; before the first of all there is none."""
        if start:
            return self._kept.between(start - 1, end - 1)
        rows = self._kept.between(0, end - 1)
        return np.concatenate([np.zeros((1, rows.shape[1]), np.float32), rows])

    def _read(self, tokens: Sequence[int], hidden: Rows, *, want_logits: bool) -> bool:
        """Put tokens into memory; where that fails for another reason than a cancel, nothing is tried any more."""
        layers = self._layers
        status = layers.context.read(tokens, layers.start + len(layers.memory), hidden, want_logits=want_logits)
        if status == OK:
            layers.context.wait()  # so that its time is not the next step's
            layers.memory += tokens
            return True
        layers.begin(0)
        self._n_sure = 0
        self._is_off = status != CANCELLED
        return False


def load_layers(base: Context, settings: RunSettings, cancel: CancelFlag) -> MtpLayers:
    """Make the context of a model's MTP layers, beside the model's own, which keeps its hidden states from here on.

    settings: the model's. Raises what Context does, and EngineError where this build of llama.cpp cannot do it.
    """
    context = LayersContext(base.model, draft_settings(settings), cancel)
    try:
        base.hidden = HiddenRows(base.pointer, base.n_seq_max, int(lib.llama_model_n_embd_out(base.model.pointer)))
    except LLMRunError:
        context.close()
        raise
    return MtpLayers(context, base.hidden)
