"""The server's life: a socket bound, the application run on it, an end in which answers may finish."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette

from llmrun.errors import UsageError


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens; port 0 is any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def bind(address: Address) -> socket.socket:
    """Return a socket that listens there; raises UsageError where that cannot be."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        hint = "another server may be there: `llmrun ps` shows ours, `--port 0` takes any that is free"
        raise UsageError(f"{address} cannot be listened at: {reason}", hint) from error
    return listener


def address_of(listener: socket.socket) -> Address:
    """Return where a socket really listens."""
    host, port = listener.getsockname()[:2]
    return Address(host, port)


class _Server(uvicorn.Server):
    """Ends in order at a signal; uvicorn's own raises the signal once more afterwards, as if it had been in vain."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Be asked to end by signals, for as long as the server runs."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


async def serve(app: Starlette, listener: socket.socket, on_ready: Callable[[], None], patience: float) -> None:
    """Serve until SIGINT or SIGTERM. patience: seconds that answers then have to finish."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        http="h11",
        loop="asyncio",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=int(patience),
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not running.done():
        await asyncio.sleep(0.01)
    if server.started:
        on_ready()
    await running
