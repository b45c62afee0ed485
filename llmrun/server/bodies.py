"""Bodies of requests and answers: bytes to checked values and back; the owner of their JSON."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from llmrun.errors import UsageError
from llmrun.server.limits import check_depth

_T = TypeVar("_T")
SSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def read_body(request: Request, kind: type[_T]) -> _T:
    """Return the body of a request as a checked value; raises UsageError that says where it is not one."""
    body = await request.body()
    if not body.strip():
        raise UsageError("the body is empty", "send an object of JSON")
    check_depth(body)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"the body is not as it should be: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the body is no JSON: {error}") from error


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a response with a value as JSON."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def sse(value: Any, event: str | None = None) -> bytes:
    """Return one server-sent event with a value as JSON."""
    head = b"" if event is None else b"event: " + event.encode() + b"\n"
    return head + b"data: " + msgspec.json.encode(value) + b"\n\n"
