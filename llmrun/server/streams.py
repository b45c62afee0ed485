"""Answers that are sent while they are being written, and what becomes of them when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from llmrun.server.bodies import SSE_HEADERS

EVENTS = "text/event-stream"
LINES = "application/x-ndjson"

# nginx's word for a client that left before its answer: nobody is there to read it, only the log
_LEFT = 499


class _Stream(StreamingResponse):
    """Closes what it sends from, however it ends: what nobody reads any more is not to be written on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        assert isinstance(self.body_iterator, AsyncGenerator)
        async with aclosing(self.body_iterator):
            await super().__call__(scope, receive, send)


async def begin_stream(parts: AsyncGenerator[bytes, None], media_type: str) -> Response:
    """Return a response that sends the parts; raises what they raise before the first one, so that it has a status."""
    try:
        first = await anext(parts)
    except BaseException:
        await parts.aclose()
        raise
    return _Stream(_resumed(first, parts), headers=SSE_HEADERS, media_type=media_type)


async def _resumed(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        yield first
        async for part in rest:
            yield part


async def while_there(request: Request, answer: Coroutine[Any, Any, Response]) -> Response:
    """Return the answer to a request whose body was read; where its client goes away meanwhile, cancel it."""
    working = asyncio.create_task(answer)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else Response(status_code=_LEFT)
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
