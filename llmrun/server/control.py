"""What a server does for llmrun's own commands, of the user it runs as: what is loaded, answers in full, its end."""

from __future__ import annotations

import asyncio
import hmac
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from llmrun.engine.protocol import Chunk, Phase
from llmrun.engine.shared import Ending
from llmrun.engine.wire import failure_of
from llmrun.errors import LLMRunError
from llmrun.server.bodies import read_body
from llmrun.server.endpoint import Endpoint, Handler, Service
from llmrun.server.loaded import LoadedNow
from llmrun.server.presence import respond, stream
from llmrun.servers import control
from llmrun.servers.control import (
    AnswerWish,
    CancelWish,
    CountWish,
    Done,
    Line,
    LoadedModel,
    ModelWish,
    ServedModel,
    Status,
    encode,
    encode_line,
)

PREFIX = "/llmrun/"
OWNER = "\0"  # whose prefixes these are: the user's own, never a client's; no key can have this name


def is_control(request: Request, key: str | None) -> bool:
    """Whether a request comes with the control key; takes as long for every other key. key: None lets nobody in."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.encode("latin-1", "replace"), (key or "").encode())
    return same and bool(key) and scheme.lower() == "bearer"


async def show_status(_: Request, service: Service) -> Response:
    """Tell what is loaded."""
    return _response(Status(tuple(map(_told, service.fleet.loaded()))))


def _told(model: LoadedNow) -> LoadedModel:
    return LoadedModel(
        model.name,
        model.names,
        model.quant,
        model.bytes,
        model.n_ctx,
        model.n_slots,
        model.busy,
        model.waiting,
        model.expires_in,
        model.pinned,
    )


async def show_model(request: Request, service: Service) -> Response:
    """Tell how a model runs, after it was loaded where it was not."""
    wish = await read_body(request, ModelWish)
    async with service.fleet.borrow(wish.model) as served:
        planned = served.started.planned
        return _response(ServedModel(served.engine.info, planned.summary, planned.plan))


async def count_tokens(request: Request, service: Service) -> Response:
    """Count the tokens of a conversation."""
    wish = await read_body(request, CountWish)
    async with service.fleet.borrow(wish.model) as served:
        return _response(await served.engine.count(wish.messages))


async def answer(request: Request, service: Service) -> Response:
    """Answer with every event of the engine; who goes away ends it."""
    wish = await read_body(request, AnswerWish)
    return await respond(request, stream(_lines(wish, service), "application/x-ndjson"))


async def cancel_answer(request: Request, service: Service) -> Response:
    """End an answer; who reads it gets its last word."""
    wish = await read_body(request, CancelWish)
    if (ending := service.endings.get(wish.id)) is not None:
        ending.end()
    return _response(Done())


async def release_model(request: Request, service: Service) -> Response:
    """Unload a model; the answers that are being written are written to their end."""
    wish = await read_body(request, ModelWish)
    await service.fleet.release(wish.model)
    return _response(Done())


async def stop_server(_: Request, __: Service) -> Response:
    """End the server as Ctrl-C does: no new request is taken, answers may finish."""
    signal.raise_signal(signal.SIGTERM)  # asked for twice, it ends at once
    return _response(Done())


async def _lines(wish: AnswerWish, service: Service) -> AsyncGenerator[bytes, None]:
    """Give the events as lines. They are fetched by a task of its own, whose end no client can cut short."""
    queue: asyncio.Queue[Line | None] = asyncio.Queue()
    ending = Ending()
    task = asyncio.create_task(_write(wish, service, queue, ending))
    ending.begin(task.cancel)  # before the engine is asked, there is nothing else to end
    service.endings[wish.id] = ending
    try:
        while (line := await queue.get()) is not None:
            yield encode_line(line)
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()  # raises what no client can have caused
    finally:
        service.endings.pop(wish.id, None)
        task.cancel()


async def _write(wish: AnswerWish, service: Service, queue: asyncio.Queue[Line | None], ending: Ending) -> None:
    try:
        async with (
            service.fleet.borrow(wish.model) as served,
            aclosing(served.engine.answer(wish.request, OWNER, ending)) as events,
        ):
            async for event in events:
                queue.put_nowait(event)
                if isinstance(event, Chunk) and event.usage is not None:
                    served.record(event.usage)
        queue.put_nowait(Phase("idle"))
    except LLMRunError as error:
        queue.put_nowait(failure_of(error))
    finally:
        queue.put_nowait(None)


def _response(value: object) -> Response:
    return Response(encode(value), media_type="application/json")


def _for_control(handler: Handler) -> Handler:
    """Let only who holds the control key in, and tell them of errors in full."""

    async def handle(request: Request, service: Service) -> Response:
        if not is_control(request, service.control_key):
            raise HTTPException(401, "this is for llmrun's own commands", {"WWW-Authenticate": "Bearer"})
        try:
            return await handler(request, service)
        except LLMRunError as error:
            return Response(encode_line(failure_of(error)), error.http_status, media_type="application/json")

    return handle


ENDPOINTS = (
    Endpoint("GET", control.STATUS, "What is loaded", _for_control(show_status)),
    Endpoint("POST", control.INFO, "How a model runs", _for_control(show_model)),
    Endpoint("POST", control.ANSWER, "Answer in full", _for_control(answer)),
    Endpoint("POST", control.CANCEL, "End an answer", _for_control(cancel_answer)),
    Endpoint("POST", control.COUNT, "Count tokens", _for_control(count_tokens)),
    Endpoint("POST", control.RELEASE, "Unload a model", _for_control(release_model)),
    Endpoint("POST", control.STOP, "End the server", _for_control(stop_server)),
)
