"""The status endpoint beside llama.cpp's own port: what is free, and bytes to measure the link with."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from llmrun.errors import (
    BodyTooLargeError,
    EngineError,
    LLMRunError,
    MisdirectedError,
    OverloadedError,
    TooSlowError,
    UsageError,
)
from llmrun.lending.status import BYTES, MOST_BYTES, STATUS, Status, check_signature, encode_status
from llmrun.server.origins import Doors, check_host
from llmrun.units import format_bytes

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

_CHUNK = 1 << 20
_NOISE = 1 << 22  # bytes that repeat: far more than a link's compression looks back
_SECONDS = 60.0  # for one measurement
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Desk:
    """What the endpoint works with. names: by which it may be asked, besides addresses of this machine.

    key: that requests must be signed with; None asks for nothing.
    """

    status: Callable[[], Status]
    names: frozenset[str] = frozenset()
    key: bytes | None = None


class _Link:
    """One measurement of the link at a time: two would halve each other."""

    def __init__(self) -> None:
        self._busy = False
        self.noise = os.urandom(_NOISE)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        if self._busy:
            raise OverloadedError("the link is being measured by another machine", retry_after=1)
        self._busy = True
        try:
            yield
        finally:
            self._busy = False


def make_endpoint(desk: Desk) -> Starlette:
    """Return the application."""
    link = _Link()

    async def status(_: Request) -> Response:
        try:
            found = await asyncio.to_thread(desk.status)
        except EngineError as error:  # it has died, and is being started again
            raise OverloadedError(error.message, "ask again in some seconds", retry_after=2) from error
        return Response(encode_status(found), media_type=_JSON, headers={"Cache-Control": "no-store"})

    async def send_bytes(request: Request) -> Response:
        return _Noise(link, _wanted(request.query_params.get("n")))

    async def take_bytes(request: Request) -> Response:
        with link.measuring():
            return _json({"received": await _swallow(request)})

    def guarded(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def ask(request: Request) -> Response:
            _check(desk, request)
            return await answer(request)

        return ask

    routes = [
        Route(STATUS, guarded(status), methods=["GET"]),
        Route(BYTES, guarded(send_bytes), methods=["GET"]),
        Route(BYTES, guarded(take_bytes), methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={LLMRunError: _explain, HTTPException: _explain_http})


class _Noise(Response):
    """So many random bytes, as fast as they are taken."""

    def __init__(self, link: _Link, n: int) -> None:
        super().__init__(media_type="application/octet-stream")
        self._link, self._n = link, n
        self.headers["Content-Length"] = str(n)
        self.headers["Cache-Control"] = "no-store"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        del scope, receive
        with self._link.measuring():
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            noise = memoryview(self._link.noise)
            for begin in range(0, self._n, _CHUNK):
                at = begin % _NOISE
                body = bytes(noise[at : at + min(_CHUNK, self._n - begin)])
                await send({"type": "http.response.body", "body": body, "more_body": begin + _CHUNK < self._n})


def _wanted(text: str | None) -> int:
    if text is None or not text.isascii() or not text.isdecimal() or not 1 <= int(text[:12]) <= MOST_BYTES:
        raise UsageError(f"n must be a number of bytes from 1 to {MOST_BYTES}", f"GET {BYTES}?n=1048576")
    return int(text)


async def _swallow(request: Request) -> int:
    received = 0
    try:
        async with asyncio.timeout(_SECONDS):
            async for chunk in request.stream():
                received += len(chunk)
                if received > MOST_BYTES:
                    raise BodyTooLargeError(f"more than {format_bytes(MOST_BYTES)} are not taken")
    except TimeoutError as error:
        raise TooSlowError(f"the bytes did not come within {_SECONDS:g} seconds", "send fewer") from error
    return received


def _check(desk: Desk, request: Request) -> None:
    """Raise RefusedError for a page in a browser that was given our address by another name, and for a wrong key."""
    local = request.scope.get("server")
    try:
        check_host(request.headers.get("host"), Doors(desk.names), local[0] if local else None)
    except MisdirectedError as error:
        raise MisdirectedError(error.message, "ask it by its address") from error
    if desk.key is not None:
        query = request.scope["query_string"].decode("ascii", "replace")
        target = request.scope["path"] + (f"?{query}" if query else "")
        check_signature(desk.key, request.method, target, request.headers.get("authorization"), time.time())


def _explain(_: Request, error: Exception) -> Response:
    assert isinstance(error, LLMRunError)
    headers = {} if error.retry_after is None else {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    return _json({"error": {"message": error.message, "hint": error.hint}}, error.http_status, headers)


def _explain_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"there is GET {STATUS}, GET {BYTES}?n=N and POST {BYTES}"
    return _json({"error": {"message": message, "hint": None}}, error.status_code, dict(error.headers or {}))


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, _JSON)
