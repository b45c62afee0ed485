"""The body of one request on its way in: counted while it comes, and given only so much time."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope

from llmrun.errors import BodyTooLargeError, OverloadedError, TooSlowError
from llmrun.server.limits import MAX_BODIES
from llmrun.units import format_bytes

# What a refused client may still send, so that it reads the refusal in the place of a broken connection.
_DRAINED = 4  # times the largest body
_DRAIN_SECONDS = 2.0


@dataclass(slots=True)
class Reading:
    """How many bytes of bodies are in memory, of all requests; changes as they come and go."""

    bytes: int = 0


class Intake:
    """Receives a request's body in the place of the server's own `receive`.

    most: bytes of the body. seconds: from now until all of it must be here.
    """

    def __init__(self, scope: Scope, receive: Receive, reading: Reading, *, most: int, seconds: float) -> None:
        self._receive = receive
        self._reading = reading
        self._most = most
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._taken = 0
        headers = dict(scope["headers"])
        self.declared = _declared(headers)
        self._is_quiet = b"expect" in headers
        self.is_finished = self.declared == 0

    async def receive(self) -> Message:
        """Return the next part; raises BodyTooLargeError, TooSlowError or OverloadedError for one too many."""
        if self.is_finished:
            return await self._receive()
        self._is_quiet = False
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self._is_quiet = True
            raise TooSlowError("the request was not sent in time", "send it at once") from None
        if message["type"] != "http.request":
            self.is_finished = True
            return message
        self.is_finished = not message.get("more_body", False)
        self._count(len(message.get("body", b"")))
        return message

    def _count(self, size: int) -> None:
        self._taken += size
        self._reading.bytes += size
        self.check(self._taken)
        if self._reading.bytes > MAX_BODIES:
            raise OverloadedError("the server reads too many large requests at once", "ask again", retry_after=1)

    def check(self, size: int) -> None:
        """Raise BodyTooLargeError for a body of that size."""
        if size > self._most:
            raise BodyTooLargeError(
                f"the body has more than {format_bytes(self._most)}", "send less, or serve with --max-body SIZE"
            )

    async def drain(self) -> None:
        """Read what is still being sent to an end, if that is not far."""
        if self._is_quiet:  # who waits to be asked for it sends nothing, nor who was too slow
            return
        left = _DRAINED * self._most
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self.is_finished and left > 0:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    self.is_finished = message["type"] != "http.request" or not message.get("more_body", False)

    def release(self) -> None:
        """Take its bytes off what is in memory: the request is over."""
        self._reading.bytes -= self._taken
        self._taken = 0


def _declared(headers: dict[bytes, bytes]) -> int | None:
    """Return how many bytes the head says that the body has; None where only its end tells."""
    if b"transfer-encoding" in headers:
        return None
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else None
