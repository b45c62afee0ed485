"""One client's connection: uvicorn's HTTP/1.1, with an end for those who send or read nothing, and for too many."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from llmrun.server.limits import SECONDS_TO_READ, SECONDS_TO_SEND

_FULL = b'{"error":{"message":"too many connections","type":"server_error","param":null,"code":null}}'
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n"
    b"Retry-After: 1\r\nConnection: close\r\nContent-Length: " + str(len(_FULL)).encode() + b"\r\n\r\n" + _FULL
)


def max_connections() -> int:
    """Return how many connections there may be: half of the files that this process may open, at most 1,024."""
    try:
        import resource
    except ImportError:  # Windows
        return 512
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1024 if soft == resource.RLIM_INFINITY else max(16, min(1024, soft // 2))


class Connection(H11Protocol):
    """A client's connection.

    A request's head must be here SECONDS_TO_SEND after its first byte; a client that lets what it is sent pile up for
    SECONDS_TO_READ is cut off.
    """

    most = max_connections()
    seconds_to_send = SECONDS_TO_SEND
    seconds_to_read = SECONDS_TO_READ

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a client in, or turn it away where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(_REFUSAL)
            transport.close()
            return
        self._head_timer = self.loop.call_later(self.seconds_to_send, self._cut)

    def data_received(self, data: bytes) -> None:
        """Take bytes in; a head that is begun must come to its end in time."""
        if self._head_timer is None and self._is_between():
            self._head_timer = self.loop.call_later(self.seconds_to_send, self._cut)
        super().data_received(data)

    def handle_events(self) -> None:
        """Go on with what is here; the time of a head that is complete no longer runs."""
        super().handle_events()
        if not self._is_between():
            self._stop_head_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; where another answer is under way there is nothing to say."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of it."""
        self._stop_head_timer()
        self._stop_read_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for a client that does not read, for a while."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(self.seconds_to_read, self._cut)

    def resume_writing(self) -> None:
        """Go on: it reads."""
        self._stop_read_timer()
        super().resume_writing()

    def cut(self) -> None:
        """End it at once, whatever is under way."""
        self._cut()

    def _cut(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _is_between(self) -> bool:
        """Tell whether no request is under way: its head, if any of it is here, is not complete."""
        return self.cycle is None or self.cycle.response_complete

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None
