"""Ollama's ways to ask for an answer: a conversation, and a text."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llmrun.errors import LLMRunError, UsageError
from llmrun.server.answering import answering
from llmrun.server.ask import Ask
from llmrun.server.bodies import json_response, read_body
from llmrun.server.endpoint import Endpoint, Service
from llmrun.server.families import ollama_error, problem_of
from llmrun.server.fleet import Fleet
from llmrun.server.image_folder import ImageFolder
from llmrun.server.ollama.answer import LINES, Line, Shape, Times, empty, ended, line_of, utc_now, whole_of
from llmrun.server.ollama.asking import ask_of_chat, ask_of_text, is_empty, keep_alive_of
from llmrun.server.ollama.finding import find, find_loaded
from llmrun.server.ollama.request import ChatRequest, GenerateRequest
from llmrun.server.presence import respond, stream

Body = ChatRequest | GenerateRequest


@dataclass(slots=True)
class _Stopwatch:
    """When a request came, and when its model was there; nanoseconds of a clock of no date."""

    begun: int
    loaded: int = 0

    def times(self) -> Times:
        """Return how long it took until now."""
        return Times(time.monotonic_ns() - self.begun, self.loaded - self.begun)


async def chat(request: Request, service: Service) -> Response:
    """Go on with a conversation."""
    return await _answer(request, service, await read_body(request, ChatRequest))


async def generate(request: Request, service: Service) -> Response:
    """Answer a text, or go on with it."""
    return await _answer(request, service, await read_body(request, GenerateRequest))


async def _answer(request: Request, service: Service, body: Body) -> Response:
    if is_empty(body):
        return await respond(request, _loaded(body, service))
    watch = _Stopwatch(time.monotonic_ns())
    if body.stream is False:
        return await respond(request, _whole(body, service, request.state.owner, watch))
    return await respond(request, stream(_lines(body, service, request.state.owner, watch), LINES))


async def _loaded(body: Body, service: Service) -> Response:
    """Load a model, or unload it."""
    shape, keep_alive = _shape(body), keep_alive_of(body.keep_alive)
    if keep_alive == 0:
        await _unload(body.model, service.fleet)
        return json_response(empty(shape, utc_now(), "unload"))
    async with service.fleet.borrow(body.model, keep_alive):
        return json_response(empty(shape, utc_now(), "load"))


async def _unload(name: str, fleet: Fleet) -> None:
    """Unload a model once it has answered; raises NotFoundError for a name that means nothing, UsageError for a pin."""
    loaded = find_loaded(name, fleet)
    if loaded is None:
        await find(name, fleet)
    elif loaded.pinned:
        raise UsageError(f"{loaded.name} is pinned, and stays loaded", f"`llmrun stop {loaded.name}` ends it")
    else:
        await fleet.release(name)


async def _whole(body: Body, service: Service, owner: str, watch: _Stopwatch) -> Response:
    with ImageFolder() as folder:
        async with answering(_ask(body, folder), service.fleet, owner) as answers:
            watch.loaded = time.monotonic_ns()
            chunks = [piece.chunk async for piece in answers.pieces]
    line = whole_of(_shape(body), chunks, utc_now())
    return json_response(ended(line, chunks[-1], watch.times()))


async def _lines(body: Body, service: Service, owner: str, watch: _Stopwatch) -> AsyncGenerator[bytes, None]:
    """Give the lines of an answer; what goes wrong once it was begun is the last of them."""
    shape, begun = _shape(body), False
    try:
        with ImageFolder() as folder:
            async with answering(_ask(body, folder), service.fleet, owner) as answers:
                watch.loaded = time.monotonic_ns()
                async for piece in answers.pieces:
                    line = line_of(shape, piece.chunk, utc_now())
                    if piece.chunk.finish_reason is not None:
                        line = ended(line, piece.chunk, watch.times())
                    yield _written(line)
                    begun = True
    except LLMRunError as error:
        if not begun:
            raise
        yield _written(ollama_error(problem_of(error)))


def _ask(body: Body, folder: ImageFolder) -> Ask:
    return ask_of_chat(body, folder.keep) if isinstance(body, ChatRequest) else ask_of_text(body, folder.keep)


def _shape(body: Body) -> Shape:
    return Shape(body.model, "chat" if isinstance(body, ChatRequest) else "generate")


def _written(line: Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"


ENDPOINTS = (
    Endpoint("POST", "/api/chat", "Go on with a conversation", chat, ChatRequest, streams=True, stream_kind=LINES),
    Endpoint(
        "POST",
        "/api/generate",
        "Answer a text, or go on with it",
        generate,
        GenerateRequest,
        streams=True,
        stream_kind=LINES,
    ),
)
