"""Answers only for clients that are still there: whoever goes away ends what is done for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from llmrun.server.bodies import SSE_HEADERS

_T = TypeVar("_T")
_GONE = 499  # nginx's status for a client that closed its connection; nobody reads it


async def respond(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Return the response that `work` makes; it is cancelled, to its end, where the client goes away before that.

    The request's body must have been read. Raises what the work raises.
    """
    making = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({making, watching}, return_when=asyncio.FIRST_COMPLETED)
        return making.result() if making.done() else Response(status_code=_GONE)
    finally:
        await _ended(watching)
        await _ended(making)


async def stream(parts: AsyncGenerator[bytes, None], media_type: str = "text/event-stream") -> Response:
    """Return a response of parts as they come, begun once the first is there: until then an error has its own status.

    The parts are closed when the client has all of them or is gone. Raises what the first part raises.
    """
    try:
        first = await anext(parts)
    except BaseException:
        await parts.aclose()
        raise
    return _Stream(first, parts, media_type)


class _Stream(StreamingResponse):
    """A streamed response that closes what it streams, also where the client went away between two parts."""

    def __init__(self, first: bytes, parts: AsyncGenerator[bytes, None], media_type: str) -> None:
        super().__init__(_chained(first, parts), headers=SSE_HEADERS, media_type=media_type)
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._parts.aclose()


async def _chained(first: bytes, parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async for part in parts:
        yield part


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _ended(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has cleaned up."""
    if task.done():
        return
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
