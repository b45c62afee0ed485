"""A session that guesses whatever can be guessed, in the tests' own process, and what it answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llmrun.engine.protocol import Chunk, Event, Generate, Usage
from llmrun.message import RawPrompt
from llmrun.sampling import Sampling
from llmrun.settings import RunSettings
from llmrun.worker.batch import Part
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.chat_format import load_chat_template
from llmrun.worker.drafting import Drafter, Guesser, NgramDrafter
from llmrun.worker.governor import Governor
from llmrun.worker.llama import Context, Model
from llmrun.worker.prompt import PromptEncoder
from llmrun.worker.session import Session
from llmrun.worker.slot import Slot
from llmrun.worker.speculation import Speculation
from tests.conftest import GREEDY, ONE_THREAD

N_MOST = 7
SETTINGS = replace(ONE_THREAD, n_ctx=1024, n_draft_max=N_MOST, n_outputs_max=N_MOST + 1)
DRAW = Sampling(temperature=1.0, top_k=4, top_p=1.0, min_p=0.0)


# Makes what guesses for a model from the model's own context.
OfContext = Callable[[Context, CancelFlag], Guesser]


class Eager(Governor):
    """One that verifies every guess there is."""

    def may_search(self) -> bool:
        return True

    def choose(self, n_there: int, strength: int) -> int:
        return min(n_there, self.n_most)

    def ask(self, n_most: int, beside: float, *, may_try: bool = True) -> int:
        del beside, may_try
        return n_most

    def n_readable(self) -> int:
        return 1 << 30


@dataclass(frozen=True)
class Answer:
    """What a session made of a request."""

    tokens: tuple[int, ...]
    text: str
    last: Chunk

    @property
    def usage(self) -> Usage:
        assert self.last.usage is not None
        return self.last.usage


class Asked:
    """A session over a model, and what it has in memory."""

    def __init__(
        self,
        model: Model,
        settings: RunSettings,
        make_drafter: Callable[[], Drafter],
        draft: Guesser | OfContext | None,
    ) -> None:
        self.cancel = cancel = CancelFlag()
        self.context = Context(model, settings, cancel)
        self.slot = Slot(self.context, 0)
        encoder = PromptEncoder(model.vocabulary, load_chat_template(model))
        self.guesser = draft(self.context, cancel) if callable(draft) else draft
        ahead = Speculation(self.context, make_drafter, Eager(self.context.n_draft_max), self.guesser)
        self._session = Session(self.context, self.slot, encoder, cancel, None, ahead)

    def answer(self, wanted: Generate) -> Answer:
        events: list[Event] = []
        self._session.answer(replace(wanted, logprobs=0), events.append)
        chunks = [event for event in events if isinstance(event, Chunk)]
        tokens = tuple(drawn.chosen.token for chunk in chunks for drawn in chunk.drawn)
        return Answer(tokens, "".join(chunk.text for chunk in chunks), chunks[-1])


@contextmanager
def asked(
    model: Model,
    make_drafter: Callable[[], Drafter] = NgramDrafter,
    settings: RunSettings = SETTINGS,
    draft: Guesser | OfContext | None = None,
) -> Iterator[Asked]:
    found = Asked(model, settings, make_drafter, draft)
    yield found
    found.context.close()


def plain(model: Model, *wanted: Generate, settings: RunSettings = SETTINGS) -> list[Answer]:
    """The answers without guesses, each of a context that has read nothing before."""
    found = []
    for one in wanted:
        with asked(model, settings=replace(settings, n_draft_max=0)) as session:
            found.append(session.answer(one))
    assert all(answer.usage.drafted_tokens == 0 for answer in found)
    return found


def raw(text: str, **options: Any) -> Generate:
    sampling = options.pop("sampling", GREEDY)
    return Generate((), sampling, raw=RawPrompt(text), **({"max_tokens": 64} | options))


def four_likeliest(context: Context, tokens: Sequence[int]) -> dict[int, float]:
    """The next token's distribution, by the logits themselves."""
    context.forget()
    assert context.decode_parts((Part(0, tokens, 0),)) == 0
    logits = context.logits(-1).astype(np.float64)
    best = np.argsort(-logits)[:4]
    weights = np.exp(logits[best] - logits[best[0]])
    return {int(token): float(weight) for token, weight in zip(best, weights / weights.sum(), strict=True)}


def chi_square(seen: Counter[int], expected: dict[int, float]) -> tuple[float, float]:
    """The statistic, and what it exceeds by chance once in 30,000 times (Wilson and Hilferty, 1931)."""
    n = sum(seen.values())
    assert set(seen) <= set(expected)
    found = sum((seen[token] - n * p) ** 2 / (n * p) for token, p in expected.items())
    free = len(expected) - 1
    return found, free * (1 - 2 / (9 * free) + 4 * math.sqrt(2 / (9 * free))) ** 3
