"""From what a client asks to the pieces of the answers, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

from llmrun.engine.protocol import Chunk, Generate, ModelInfo, PrefillProgress
from llmrun.errors import LLMRunError, UsageError
from llmrun.message import RawPrompt
from llmrun.sampling import MAX_SEED, Sampling, choose_sampling
from llmrun.server.ask import Ask
from llmrun.server.fleet import Fleet
from llmrun.server.grammars import Grammars, calls_of
from llmrun.server.limits import check_limits, check_prompt
from llmrun.server.loaded import Served
from llmrun.server.tally import current_tally
from llmrun.thinking import Thinking, Variables

MAX_ANSWERS = 128  # of one request


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one of the answers, counted from 0; the last one of each has the finish reason.

    read: in the first one of each, what its prompt took; None where that is not known.
    """

    index: int
    chunk: Chunk
    read: PrefillProgress | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers that are on their way: what answers, and the pieces as they come, to be closed where left unread."""

    model: str
    info: ModelInfo
    pieces: AsyncGenerator[Piece, None]


@asynccontextmanager
async def answering(ask: Ask, fleet: Fleet, owner: str) -> AsyncIterator[Answers]:
    """Begin to answer; leaving the context ends whatever is still being written.

    The answers to the first prompt come first, as they are counted. owner: whose key it came with. Raises LLMRunError
    here where nothing is begun, or while the pieces are read.
    """
    check_ask(ask)
    async with fleet.borrow(ask.model, ask.keep_alive, ask.n * max(1, len(ask.raw))) as served:
        ask = await _harmless(ask, served, fleet.grammars)
        current_tally().begin(served.name, ask)
        check_prompt(ask, served.engine.info.n_ctx)
        pieces = _merged(requests_of(ask, served.engine.info), served, owner)
        async with aclosing(pieces):
            yield Answers(served.name, served.engine.info, pieces)


async def _harmless(ask: Ask, served: Served, grammars: Grammars) -> Ask:
    """Return a request whose grammar the worker can take, whatever it makes of it; raises as Grammars.checked."""
    path, calls = served.started.planned.variant.path, calls_of(ask)
    if calls is not None and served.engine.info.tools is not None:
        await grammars.check_calls(calls, path)
        return ask
    return ask if ask.grammar is None else replace(ask, grammar=await grammars.checked(ask.grammar, path))


def check_ask(ask: Ask) -> None:
    """Raise UsageError for what no model is to be loaded for."""
    check_limits(ask)
    if ask.n < 1 or ask.n * max(1, len(ask.raw)) > MAX_ANSWERS:
        raise UsageError(f"{ask.n * max(1, len(ask.raw))} answers are wanted: 1 to {MAX_ANSWERS} are given at once")
    if ask.max_tokens is not None and ask.max_tokens < 1:
        raise UsageError(f"an answer of {ask.max_tokens} tokens is none: ask for at least 1")
    names, choice = [tool.name for tool in ask.tools], ask.tool_choice
    if choice.name is not None and choice.name not in names:
        raise UsageError(f"the tool {choice.name!r} is to be called and is none of those that were given")
    if choice.required and not names:
        raise UsageError("a tool is to be called and none was given")
    if not ask.raw and not ask.messages:
        raise UsageError("there is no message to answer")


def requests_of(ask: Ask, info: ModelInfo) -> list[Generate]:
    """Return what the engine is asked, an answer each; raises UsageError for a wish that this model cannot fulfil."""
    _check_able(ask, info)
    sampling, _ = choose_sampling(ask.sampling, info.sampling)
    request = Generate(
        ask.messages,
        sampling,
        ask.max_tokens,
        ask.stop,
        grammar=ask.grammar,
        variables=thinking_variables(ask.think, info.thinking, info.name),
        tools=ask.tools,
        tool_choice=ask.tool_choice,
        logprobs=ask.logprobs,
        penalties=ask.penalties,
    )
    prompts: tuple[RawPrompt | None, ...] = ask.raw or (None,)
    return [
        replace(request, raw=prompt, sampling=_with_seed(sampling, index))
        for prompt in prompts
        for index in range(ask.n)
    ]


def thinking_variables(wish: str | None, thinking: Thinking, model: str) -> Variables:
    """Return what the template must be told for a wish, or for what comes nearest to it of all it knows.

    APIs have words for effort that are those of one model; another that only thinks or does not is told "on". Raises
    UsageError where it would do the contrary.
    """
    if wish is None or wish in thinking.choices:
        return {} if wish is None else thinking.choices[wish]
    if wish == "off" and thinking.can_think:
        raise UsageError(f"{model} always thinks before it answers: this cannot be turned off", "leave that wish out")
    if wish == "off":
        return {}
    if not thinking.can_think:
        raise UsageError(f"{model} does not think before it answers", "leave the wish for reasoning out")
    return thinking.choices.get("on", {})


def _check_able(ask: Ask, info: ModelInfo) -> None:
    if not info.vision and any(message.images for message in ask.messages):
        raise UsageError(f"{info.name} cannot be shown images here", "serve a model with a projector for them")
    if not info.infill and any(prompt.suffix is not None for prompt in ask.raw):
        raise UsageError(f"{info.name} cannot fill a gap before a suffix", "leave suffix out, or ask a model for code")


def _with_seed(sampling: Sampling, index: int) -> Sampling:
    """Let each of many answers be another one, and all of them the same when they are asked for again."""
    if sampling.seed is None or index == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + index) % (MAX_SEED + 1))


async def _merged(requests: list[Generate], served: Served, owner: str) -> AsyncGenerator[Piece, None]:
    """Give the pieces of all answers as they come; no more are asked for at once than the model has slots."""
    queue: asyncio.Queue[Piece | LLMRunError | None] = asyncio.Queue()
    places = asyncio.Semaphore(max(1, served.engine.info.n_slots))

    unwritten = len(requests)

    async def write(index: int, request: Generate) -> None:
        nonlocal unwritten
        try:
            async with places, aclosing(_pieces(index, request, served, owner)) as pieces:
                async for piece in pieces:
                    queue.put_nowait(piece)
            unwritten -= 1
            if not unwritten:  # who reads slowly keeps nobody waiting
                served.done()
        except LLMRunError as error:
            queue.put_nowait(error)
        finally:
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
        await asyncio.gather(*tasks)  # raises what went wrong otherwise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pieces(index: int, request: Generate, served: Served, owner: str) -> AsyncGenerator[Piece, None]:
    """Give the pieces of one answer."""
    read: PrefillProgress | None = None
    async with aclosing(served.engine.answer(request, owner)) as events:
        async for event in events:
            if isinstance(event, PrefillProgress):
                read = event
                continue
            yield Piece(index, event, read)
            read = None
            if event.usage is not None:
                served.record(event.usage)
