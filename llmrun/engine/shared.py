"""A loaded model that many ask at once, from one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeVar

from llmrun.engine.client import Answer, Engine
from llmrun.engine.protocol import Chunk, Generate, ModelInfo, PrefillProgress, TokenCounts
from llmrun.errors import EngineError
from llmrun.message import Message

_T = TypeVar("_T")


class SharedEngine:
    """An engine whose model answers many at once; it owns the engine, which must have a model loaded.

    All methods are for one event loop.
    """

    def __init__(self, engine: Engine) -> None:
        if engine.info is None:
            raise EngineError("no model is loaded")
        self.info: ModelInfo = engine.info
        self._engine = engine
        self._turn = asyncio.Lock()

    @property
    def has_ended(self) -> bool:
        """Whether its worker is gone."""
        return self._engine.has_ended

    async def answer(self, request: Generate, owner: str = "") -> AsyncGenerator[Chunk | PrefillProgress, None]:
        """Answer one request; what is not iterated to its end is to be closed (aclose), which frees its place.

        owner: what was read for one is reused for no other. Raises what Engine.answer raises.
        """
        async with self._turn:
            del owner  # one at a time shares nothing
            answer = self._engine.answer(request)
            try:
                while (event := await self._call(lambda: next(answer, None))) is not None:
                    yield event
            finally:
                await asyncio.shield(self._call(lambda: _end(answer)))

    async def count(self, messages: Sequence[Message]) -> TokenCounts:
        """Count as Engine.count does."""
        async with self._turn:
            return await self._call(lambda: self._engine.count(messages))

    async def close(self) -> None:
        """End the worker, whatever it is doing."""
        await self._call(self._engine.close)

    async def _call(self, what: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(None, what)


def _end(answer: Answer) -> None:
    answer.abandon()
