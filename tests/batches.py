"""A batcher in the tests' own process, so that its steps can be counted and what is said be read between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from llmrun.engine.protocol import Chunk, Drawn, Failed, Generate, PrefillProgress, TokenCounts
from llmrun.engine.sharing import Embedded
from llmrun.settings import RunSettings
from llmrun.worker.batching import Batcher
from llmrun.worker.cancel import CancelFlag
from llmrun.worker.chat_format import load_chat_template
from llmrun.worker.job import Job
from llmrun.worker.llama import Context, Model, load_model, start_backend
from llmrun.worker.prompt import PromptEncoder
from llmrun.worker.slot import Slot
from llmrun.worker.speculation import Speculation


@dataclass
class Heard:
    """What was said of one request."""

    job: Job
    events: list[Chunk | PrefillProgress | TokenCounts | Embedded | Failed] = field(default_factory=list)

    @property
    def chunks(self) -> list[Chunk]:
        return [event for event in self.events if isinstance(event, Chunk)]

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks if not chunk.thought)

    @property
    def thoughts(self) -> str:
        return "".join(chunk.text for chunk in self.chunks if chunk.thought)

    @property
    def drawn(self) -> list[Drawn]:
        return [drawn for chunk in self.chunks for drawn in chunk.drawn]

    @property
    def last(self) -> Chunk:
        found = self.events[-1]
        assert isinstance(found, Chunk), found
        assert found.finish_reason is not None
        return found

    @property
    def cached(self) -> int:
        assert self.last.usage is not None
        return self.last.usage.cached_tokens

    @property
    def failure(self) -> Failed:
        found = self.events[-1]
        assert isinstance(found, Failed), found
        return found

    @property
    def is_over(self) -> bool:
        last = self.events[-1] if self.events else None
        return isinstance(last, Failed) or (isinstance(last, Chunk) and last.finish_reason is not None)

    @property
    def n_written(self) -> int:
        """Tokens of the answer so far."""
        return 0 if self.job.begun is None else len(self.job.begun.writing.tokens)


class Batch:
    """A batcher and those who ask it. cancel: the flag that breaks off what is computed."""

    def __init__(self, batcher: Batcher, slots: Sequence[Slot], cancel: CancelFlag) -> None:
        self.batcher, self.slots, self.cancel = batcher, slots, cancel
        self._number = 0

    def submit(self, request: Generate, owner: str = "") -> Heard:
        """Ask, without a step."""
        self._number += 1
        heard = Heard(Job(self._number, owner, request, lambda event: None))
        heard.job.say = heard.events.append
        self.batcher.submit(heard.job)
        return heard

    def finish(self) -> None:
        """Step until every request has had its last word."""
        while self.batcher.has_work:
            self.batcher.step()

    def answers(self, *requests: Generate, owner: str = "") -> list[Heard]:
        """What is said of requests that are asked all at once."""
        heard = [self.submit(request, owner) for request in requests]
        self.finish()
        return heard


@contextmanager
def loaded(path: Path, settings: RunSettings) -> Iterator[Model]:
    """A model that is freed afterwards."""
    start_backend()
    model = load_model(path, settings)
    yield model
    model.close()


@contextmanager
def batch(
    model: Model, settings: RunSettings, speculate: Callable[[Context], Speculation] = Speculation
) -> Iterator[Batch]:
    """A batcher over a context of its own, with as many slots as the settings say."""
    cancel = CancelFlag()
    context = Context(model, settings, cancel)
    slots = [Slot(context, seq) for seq in range(context.n_seq_max)]
    encoder = PromptEncoder(model.vocabulary, load_chat_template(model))
    batcher = Batcher(context, slots, encoder, cancel, None, lambda phase: None, speculate(context))
    yield Batch(batcher, slots, cancel)
    context.close()
