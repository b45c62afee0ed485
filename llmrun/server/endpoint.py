"""One thing that clients can ask for: its path, what is sent, what comes back, and who answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llmrun.server.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Service:
    """What the answers come from. control_key: that of llmrun's own commands, see server.control; None is nobody's."""

    fleet: Fleet
    control_key: str | None = None


Handler = Callable[[Request, Service], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path and what stands behind it.

    body, answer: types that msgspec knows a schema of, None for none. streams: whether the answer may also come as
    server-sent events.
    """

    method: str
    path: str
    summary: str
    handler: Handler
    body: Any = None
    answer: Any = None
    streams: bool = False
    tags: tuple[str, ...] = field(default=())
