"""A loaded model that many ask at once, from one event loop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from llmrun.engine.client import Engine
from llmrun.engine.protocol import Chunk, CountTokens, Event, Failed, Generate, ModelInfo, PrefillProgress, TokenCounts
from llmrun.engine.sharing import Count, Embed, Embedded, Said, Shared, Submit, Withdraw
from llmrun.engine.wire import encode, error_of
from llmrun.errors import EngineError, LLMRunError, WorkerDiedError
from llmrun.message import Message, Tool

_NUMBERS = itertools.count(1)  # of requests; no two are the same, though one engine be shared by a loop after another


@dataclass(frozen=True, slots=True)
class Load:
    """How many answers are being written, how many requests wait for a slot, and how many slots there are."""

    writing: int
    waiting: int
    slots: int


class Ending:
    """A way to end an answer early and still hear its last word; for one answer."""

    def __init__(self) -> None:
        self._withdraw: Callable[[], object] | None = None

    def begin(self, withdraw: Callable[[], object]) -> None:
        """Be told how, as long as nothing else is told."""
        self._withdraw = withdraw

    def end(self) -> None:
        """Let the last chunk, "cancelled", follow within one token."""
        if self._withdraw is not None:
            self._withdraw()


class SharedEngine:
    """An engine whose model answers many at once; it owns the engine, which must have a model loaded.

    All methods are for one event loop, the one that first asks something.
    """

    def __init__(self, engine: Engine) -> None:
        if engine.info is None:
            raise EngineError("no model is loaded")
        self.info: ModelInfo = engine.info
        self._engine = engine
        # What is said of each request and was not read yet. A slow reader holds up nobody, so it is not bounded here:
        # an answer is no longer than the context, and with it what one can pile up, some hundred bytes a token.
        self._open: dict[int, asyncio.Queue[Said | LLMRunError]] = {}
        self._unfinished: set[int] = set()  # requests that the worker has not had its last word about
        self._ended: LLMRunError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # the pipe is full where a prompt is long and the worker busy: the loop must not wait for it
        self._sender = ThreadPoolExecutor(1, "llmrun-sender")
        self._worker = engine.hand_over()

    @property
    def has_ended(self) -> bool:
        """Whether its worker is gone."""
        return self._ended is not None or self._engine.has_ended

    @property
    def death(self) -> LLMRunError | None:
        """What its worker died of; None while it lives."""
        return self._worker.death

    @property
    def load(self) -> Load:
        """How busy it is; who was withdrawn counts until the worker has let go of it, which is within one token."""
        n, slots = len(self._unfinished), self.info.n_slots
        return Load(min(n, slots), max(0, n - slots), slots)

    async def answer(
        self, request: Generate, owner: str = "", ending: Ending | None = None
    ) -> AsyncGenerator[Chunk | PrefillProgress, None]:
        """Answer one request; what is not iterated to its end is to be closed (aclose), which frees its place.

        owner: what was read for one is reused for no other. ending: gets the way to end it early. Raises what
        Engine.answer raises.
        """
        number = next(_NUMBERS)
        events = self._begin(Submit(number, owner, request))
        if ending is not None:
            ending.begin(lambda: self._tell(Withdraw(number)))
        try:
            while True:
                event = _event_of(await events.get())
                if isinstance(event, Chunk | PrefillProgress):
                    yield event
                if isinstance(event, Chunk) and event.finish_reason is not None:
                    return
        finally:
            self._leave(number)

    async def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> TokenCounts:
        """Count as Engine.count does, with tools that may be asked for, while answers are written too."""
        number = next(_NUMBERS)
        events = self._begin(Count(number, CountTokens(tuple(messages), tuple(tools))))
        try:
            event = _event_of(await events.get())
            assert isinstance(event, TokenCounts)
            return event
        finally:
            self._leave(number)

    async def embed(self, text: str, tokens: Sequence[int] = (), *, truncate: bool = False) -> Embedded:
        """Turn a text into a vector, see Embed; raises ContextOverflowError, UsageError or EngineError."""
        number = next(_NUMBERS)
        events = self._begin(Embed(number, text, tuple(tokens), truncate))
        try:
            event = _event_of(await events.get())
            assert isinstance(event, Embedded)
            return event
        finally:
            self._leave(number)

    async def close(self) -> None:
        """End the worker, whatever it is doing; who still waits for it gets a WorkerDiedError."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._engine.close)
        self._sender.shutdown(wait=False)
        self._end(WorkerDiedError("the model was unloaded", "ask again"))

    def _begin(self, command: Submit | Count | Embed) -> asyncio.Queue[Said | LLMRunError]:
        if self._ended is not None:
            raise self._ended
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._worker.divert(self._hear)
        events: asyncio.Queue[Said | LLMRunError] = asyncio.Queue()
        frame = encode(command)  # here, because it may be refused
        self._open[command.id] = events
        self._unfinished.add(command.id)
        self._sender.submit(self._worker.send_frame, frame)
        return events

    def _leave(self, number: int) -> None:
        """Let go of a request; where its end was not heard the worker is told that nobody waits for it."""
        del self._open[number]
        if number in self._unfinished:
            self._tell(Withdraw(number))

    def _tell(self, command: Shared) -> None:
        if self._ended is not None:  # nobody hears it, and the sender may be gone
            return
        self._sender.submit(self._worker.send_frame, encode(command))

    def _hear(self, events: Sequence[Event | Said | LLMRunError | None]) -> None:
        """Hand over what the worker said, from its thread to the loop; a loop that is closed wants none of it."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(partial(self._deliver, events))

    def _deliver(self, events: Sequence[Event | Said | LLMRunError | None]) -> None:
        for event in events:
            if isinstance(event, Said):
                if event.is_last:
                    self._unfinished.discard(event.id)
                if (waiting := self._open.get(event.id)) is not None:
                    waiting.put_nowait(event)
            elif isinstance(event, LLMRunError):
                self._end(event)
            elif isinstance(event, Failed):  # nothing was asked that this could be the answer to
                self._end(error_of(event))

    def _end(self, error: LLMRunError) -> None:
        """Tell all who wait that there will be nothing more."""
        self._ended = self._ended or error
        self._unfinished.clear()
        for waiting in self._open.values():
            waiting.put_nowait(self._ended)


def _event_of(said: Said | LLMRunError) -> Chunk | PrefillProgress | TokenCounts | Embedded:
    if isinstance(said, LLMRunError):
        raise said
    if isinstance(said.event, Failed):
        raise error_of(said.event)
    return said.event
