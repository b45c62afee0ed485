"""One thing that clients can ask for: its path, what is sent, what comes back, and who answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llmrun.engine.shared import Ending
from llmrun.server.fleet import Fleet
from llmrun.server.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Service:
    """What the answers come from, and where it is counted what became of them.

    control_key: that of llmrun's own commands, see server.control; None is nobody's. endings: of their answers, by id.
    """

    fleet: Fleet
    metrics: Metrics = field(default_factory=Metrics)
    control_key: str | None = None
    endings: dict[str, Ending] = field(default_factory=dict)


Handler = Callable[[Request, Service], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path and what stands behind it.

    body, answer: types that msgspec knows a schema of, None for none. streams: whether the answer may also come as
    a stream, of stream_kind. kind: the media type of an answer that is not JSON; also: others that it may have. query:
    names of parameters that may follow the path. statuses: of its own, beside those that every endpoint may answer
    with. is_free: whether it needs no key.
    """

    method: str
    path: str
    summary: str
    handler: Handler
    body: Any = None
    answer: Any = None
    streams: bool = False
    tags: tuple[str, ...] = field(default=())
    kind: str = "application/json"
    also: tuple[str, ...] = ()
    stream_kind: str = "text/event-stream"
    query: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    is_free: bool = False
