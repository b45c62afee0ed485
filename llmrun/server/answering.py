"""From what a client asks to the pieces of the answers, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

from llmrun.engine.protocol import Chunk, Generate, ModelInfo
from llmrun.errors import LLMRunError
from llmrun.sampling import Sampling, choose_sampling
from llmrun.server.ask import Ask
from llmrun.server.fleet import Fleet, Served
from llmrun.server.limits import check_ask, check_prompt
from llmrun.server.tally import current_tally
from llmrun.thinking import choose_thinking


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one of the answers, counted from 0; the last one of each has the finish reason."""

    index: int
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers that are on their way: what answers, and the pieces as they come, to be closed where left unread."""

    model: str
    info: ModelInfo
    pieces: AsyncGenerator[Piece, None]


@asynccontextmanager
async def answering(ask: Ask, fleet: Fleet, owner: str) -> AsyncIterator[Answers]:
    """Begin to answer; leaving the context ends whatever is still being written.

    owner: whose key it came with. Raises LLMRunError here where nothing is begun, or while the pieces are read.
    """
    check_ask(ask)
    async with fleet.borrow(ask.model, ask.keep_alive) as served:
        if ask.grammar is not None:
            ask = replace(ask, grammar=await fleet.grammars.checked(ask.grammar, served.started.planned.variant.path))
        current_tally().begin(served.name, ask)
        request = request_of(ask, served)
        pieces = _merged([_seeded(request, index) for index in range(ask.n)], served, owner)
        async with aclosing(pieces):
            yield Answers(served.name, served.engine.info, pieces)


def request_of(ask: Ask, served: Served) -> Generate:
    """Return what the engine is asked; raises UsageError for a wish that this model cannot fulfil."""
    info = served.engine.info
    check_prompt(ask, info.n_ctx)
    sampling, _ = choose_sampling(ask.sampling, info.sampling)
    thinking = choose_thinking(ask.think, info.thinking, info.name, None)
    return Generate(
        ask.messages,
        sampling,
        ask.max_tokens,
        ask.stop,
        grammar=ask.grammar,
        variables=thinking.variables,
        raw=ask.raw,
        tools=ask.tools,
        logprobs=ask.logprobs,
    )


def _seeded(request: Generate, index: int) -> Generate:
    """Let each of many answers be another one, and all of them the same when they are asked for again."""
    if request.sampling.seed is None or index == 0:
        return request
    return replace(request, sampling=_with_seed(request.sampling, index))


def _with_seed(sampling: Sampling, index: int) -> Sampling:
    assert sampling.seed is not None
    return replace(sampling, seed=(sampling.seed + index) % (1 << 32))


async def _merged(requests: list[Generate], served: Served, owner: str) -> AsyncGenerator[Piece, None]:
    """Give the pieces of all answers in the order they come."""
    queue: asyncio.Queue[Piece | LLMRunError | None] = asyncio.Queue()

    async def write(index: int, request: Generate) -> None:
        try:
            async with aclosing(served.engine.answer(request, owner)) as events:
                async for event in events:
                    if isinstance(event, Chunk):
                        queue.put_nowait(Piece(index, event))
        except LLMRunError as error:
            queue.put_nowait(error)
        queue.put_nowait(None)

    tasks = [asyncio.create_task(write(index, request)) for index, request in enumerate(requests)]
    try:
        left = len(tasks)
        while left:
            match await queue.get():
                case None:
                    left -= 1
                case LLMRunError() as error:
                    raise error
                case Piece() as piece:
                    current_tally().add(piece.chunk)
                    yield piece
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
